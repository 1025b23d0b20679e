"""What a fork's history shows of the copies that it begins with: which count, and what became of the void ones."""

from __future__ import annotations

from collections.abc import Sequence

from wfes.core import events as e

KEPT, CHANGED, VOID, DROPPED, REUSED, UNUSED = "kept", "changed", "void", "dropped", "reused", "unused"


def copied(recorded: e.Recorded) -> str | None:
    """What one event is, as far as it tells by itself: ``RecordedEvent.copied``."""
    if recorded.copied is None:
        return None
    event = recorded.event
    if isinstance(event, e.EventVoided):
        return DROPPED if event.dropped else VOID
    return CHANGED if recorded.copied.changed else KEPT


def uses(history: Sequence[e.Recorded]) -> dict[int, str]:
    """Versions of void results, to whether they were given to the fork or never will be.

    Args:
        history: a history, or its beginning.
    """
    given: set[int] = set()
    results: set[int] = set()
    over = False
    for recorded in history:
        event = recorded.event
        if isinstance(event, e.HistoryForked):
            results = set(event.results.values())
            over = False
        elif isinstance(event, e.ResultReused):
            given.add(event.version)
        elif isinstance(event, e.WorkflowRetried):
            over = False
        over = over or event.terminal
    found = dict.fromkeys(results & given, REUSED)
    if over:
        found.update(dict.fromkeys(results - given, UNUSED))
    return found
