"""Who follows a projection, on whatever machine: asked in the log's table of projections, and answered there.

Engines note nowhere what they follow, so that nothing is left by those that die. But each of them sees within a moment
that somebody else has committed. So whoever wants to know writes a question, and each engine that follows the
projection writes over it who it is. Silence for `ANSWER_SECONDS` means that nobody who runs follows it.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable
from functools import partial

from wfes.subscription import registry
from wfes.subscription.registry import Entry
from wfes.subscription.stores import Store, Target
from wfes.subscription.table import ASKED

ANSWER_SECONDS = 2.0
"""How long an answer is waited for; engines see a commit of others within 250 ms at most."""
_LOOK_SECONDS = 0.05
_OPEN = "asked"
_ANSWERED = "answered"


def asked(entries: Iterable[Entry]) -> list[str]:
    """The projections that somebody asks about."""
    return [
        entry.name.removesuffix(ASKED)
        for entry in entries
        if entry.status == _OPEN and entry.name.endswith(ASKED)
    ]


def answer(target: Target, name: str, who: str) -> None:
    """Says in an open transaction who follows a projection, if that is still asked."""
    found = registry.find(target.query, name + ASKED)
    if found is not None and found.status == _OPEN:
        registry.put(target.query, dataclasses.replace(found, status=_ANSWERED, error=who))


def followed_by(store: Store, name: str, now: int, stopping: threading.Event) -> str | None:
    """Asks other engines who follows a projection, and waits; None: nobody says so. Blocks.

    Args:
        store: the log's own database.
        name: the projection's.
        now: microseconds since the Unix epoch.
        stopping: set when the engine that asks closes.

    Raises:
        LogUnavailable: the database is away.
    """
    question = Entry(name + ASKED, 0, None, _OPEN, updated_at=now)
    store.write(partial(_ask, question=question))
    limit = time.monotonic() + ANSWER_SECONDS
    try:
        while True:
            with store.snapshot() as view:
                found = registry.find(view.query, question.name)
            if found is not None and found.status == _ANSWERED:
                return found.error
            if time.monotonic() > limit or stopping.wait(_LOOK_SECONDS):
                return None
    finally:
        store.write(partial(_withdraw, name=question.name))


def _ask(target: Target, question: Entry) -> None:
    registry.put(target.query, question)


def _withdraw(target: Target, name: str) -> None:
    registry.remove(target.query, name)
