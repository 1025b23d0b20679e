"""The relay: appends what callers have committed in the outbox, each command once, in the order of its rows.

A command's row is deleted in the transaction that appends its events, and its ids were given when it was handed over:
so it happens once, whoever relays it and whatever dies meanwhile. What is refused by then (a request that was answered
meanwhile, an instance that has ended) is kept in its row, with the reason, and stops nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from wfes.errors import LogUnavailable, NewerRelease, UnknownEvent, WfesError
from wfes.handler import refusal
from wfes.log.port import Handed, Log, Member, Tx
from wfes.runtime.outbox import command_of

BATCH_MAX = 100
"""How many commands are appended in one transaction."""
AGAIN_SECONDS = 1.0
"""How long after a failure it is tried again."""

WAITING = (
    "SELECT number, kind, id, at, command, content IS NOT NULL FROM wfes_outbox WHERE refused IS NULL "
    "ORDER BY number LIMIT ?"
)
CONTENT = "SELECT content FROM wfes_outbox WHERE number = ?"
RELAYED = "DELETE FROM wfes_outbox WHERE number = ?"
REFUSED = "UPDATE wfes_outbox SET refused = ? WHERE number = ?"

_log = logging.getLogger("wfes")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that was refused."""

    number: int
    kind: str
    id: str
    error: Exception


class Relay:
    """Looks for what was handed over."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes it.

        Args:
            log: an open log.
            clock: tells seconds.
        """
        self._log = log
        self._clock = clock
        self._not_before = 0.0
        self._busy = False
        self._poison: dict[int, Exception] = {}

    def __call__(self) -> Member | None:
        """A member that appends what was handed over, if anything was. From the writer's thread.

        Raises:
            LogUnavailable: the log cannot be read at the moment.
        """
        if self._busy or self._clock() < self._not_before or not self._log.handed_over():
            return None
        self._busy = True
        return _Relaying(self, self._poison)

    def done(self) -> None:
        """A member is done."""
        self._busy = False

    def failed(self, number: int | None, error: Exception) -> None:
        """A member could not be run, because of this row, if it is known which."""
        if number is not None and not isinstance(error, LogUnavailable):
            self._poison[number] = error
        else:
            self._not_before = self._clock() + AGAIN_SECONDS
        self._busy = False


class _Relaying:
    """A member of the writer's queue: the next commands of the outbox."""

    def __init__(self, relay: Relay, poison: dict[int, Exception]) -> None:
        self._relay = relay
        self._poison = poison
        self._current: int | None = None

    def run(self, tx: Tx) -> list[Refusal]:
        done: list[tuple[int]] = []
        refused: list[Refusal] = []
        for number, kind, id, at, command, has_content in tx.query(WAITING, (BATCH_MAX,), shows=()):
            self._current = number
            content = tx.query(CONTENT, (number,), shows=())[0][0] if has_content else None
            error = self._perform(tx, number, Handed(kind, id, at, command, content))
            if error is None:
                done.append((number,))
            else:
                refused.append(Refusal(number, kind, id, error))
        self._current = None
        if done:
            tx.executemany(RELAYED, done)
        if refused:
            tx.executemany(REFUSED, [(as_json(each.error), each.number) for each in refused])
        return refused

    def _perform(self, tx: Tx, number: int, row: Handed) -> Exception | None:
        """Runs a command; what it is refused for, or None."""
        if number in self._poison:
            return self._poison[number]
        try:
            command = command_of(row, tx.now)
        except (ValueError, TypeError, KeyError) as error:
            return error
        try:
            command.run(tx)
        except (LogUnavailable, UnknownEvent, NewerRelease):
            raise
        except WfesError as error:  # before it has appended anything
            return error
        return None

    def done(self, result: list[Refusal]) -> None:
        for each in result:
            self._poison.pop(each.number, None)
            _log.warning(
                "a %s for %r that was committed with a caller's own rows is refused: %s (number %d in the outbox)",
                each.kind,
                each.id,
                each.error,
                each.number,
            )
        self._relay.done()

    def failed(self, error: Exception) -> None:
        if not isinstance(error, LogUnavailable):
            _log.error("what callers handed over could not be appended: %s", error, exc_info=error)
        self._relay.failed(self._current, error)


def as_json(error: Exception) -> str:
    """A refusal as it is kept."""
    return orjson.dumps(refusal.to_tree(error)).decode()


def from_json(text: str) -> Exception:
    """The refusal that is kept."""
    return refusal.from_tree(orjson.loads(text))
