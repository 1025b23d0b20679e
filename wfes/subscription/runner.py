"""A projection's handlers over the log, from the checkpoint of its rows on.

Reads a page, runs the handlers into a buffer, and writes the buffer with the new checkpoint in one transaction: live
rows that are followed, rows that are built beside them, and rows made only to be compared are all made by this.

Invariants: what a runner has written is exactly what the handlers make of every event up to the checkpoint; a handler
that raises leaves what the events before it made, and says where it stands.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from wfes.core.events import Recorded
from wfes.errors import ArchiveUnavailable, LogUnavailable
from wfes.log.port import Log
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent, Surroundings
from wfes.subscription.feed import PAGE, Feed
from wfes.subscription.projection import Projection
from wfes.subscription.registry import BUILDING, LIVE, STOPPED, Entry
from wfes.subscription.stores import Change, Overtaken, Store, View, apply
from wfes.subscription.table import Stored, Table

CHANGES_MAX = 20_000
"""Rows in the buffer from which on it is written."""
_ERROR_CHARS = 2_000


class Around(Surroundings, Protocol):
    """What is known around the events of a page."""

    def expect(self, events: Iterable[Recorded]) -> None:
        """These events are shown next."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A handler raised.

    Attributes:
        position: of the event.
        event: the event, for people.
        error: what was raised, for people.
        raised: what was raised.
    """

    position: int
    event: str
    error: str
    raised: BaseException


class _Fetch:
    """Reads rows of the store, all of a page in one snapshot."""

    def __init__(self, store: Store, suffix: str) -> None:
        self._store = store
        self._suffix = suffix
        self._snapshot: AbstractContextManager[View] | None = None
        self._view: View | None = None

    def get(self, table: Table, key: Stored) -> Stored | None:
        found = self._opened().query(table.get(self._suffix), key)
        return found[0] if found else None

    def find(self, table: Table, equal: Mapping[str, Any]) -> list[Stored]:
        where = " AND ".join(
            f"{name} IS NULL" if value is None else f"{name} = ?" for name, value in equal.items()
        )
        values = [value for value in equal.values() if value is not None]
        return self._opened().query(table.select(where, self._suffix), values)

    def _opened(self) -> View:
        if self._view is None:
            self._snapshot = self._store.snapshot()
            self._view = self._snapshot.__enter__()
        return self._view

    def release(self) -> None:
        """Leaves the snapshot; the next read sees what was written since."""
        snapshot, self._snapshot, self._view = self._snapshot, None, None
        if snapshot is not None:
            snapshot.__exit__(None, None, None)


class Runner:
    """Runs one projection on. Used by one thread.

    Args:
        projection: what to run.
        store: where its rows are.
        log: the open log.
        around: shows events.
        entry: what its rows are of.
        suffix: of its tables' names.
        empty: its tables are known to be empty.
        now: the clock, microseconds since the Unix epoch.

    Attributes:
        entry: what the rows in the store are of.
        position: up to where events are in the buffer.
        failure: the handler that raised, after which nothing goes on.
    """

    def __init__(
        self,
        projection: Projection,
        store: Store,
        log: Log,
        around: Around,
        entry: Entry,
        *,
        suffix: str = "",
        empty: bool = False,
        now: Callable[[], int],
    ) -> None:
        self.projection = projection
        self.store = store
        self.entry = entry
        self.position = entry.position or 0
        self.failure: Failure | None = None
        self._suffix = suffix
        self._around = around
        self._now = now
        self._fetch = _Fetch(store, suffix)
        self._rows = Rows(projection.tables, self._fetch, empty=empty)
        self._feed = Feed(log, projection.topics, PAGE)
        self._one = Feed(log, projection.topics, 1)
        self._single_upto = -1
        self._last: ProjectionEvent | None = None
        self._handled = 0

    @property
    def pending(self) -> bool:
        """Whether there are rows to be written."""
        return self._rows.changes > 0

    @property
    def full(self) -> bool:
        """Whether so many rows are to be written that it should be now."""
        return self._rows.changes >= CHANGES_MAX or self.position <= self._single_upto

    def read(self, head: int) -> bool:
        """Handles the next page, and returns whether there is more up to the head.

        Raises:
            LogUnavailable, ArchiveUnavailable: something cannot be read; nothing is lost, it is to be tried again.
            UnknownEvent: a newer release wrote an event.
        """
        feed = self._one if self.position < self._single_upto else self._feed
        events, upto = feed.read(self.position, head)
        self._around.expect(events)
        try:
            self._handle(events, upto)
        finally:
            self._fetch.release()
        return self.failure is None and upto < head

    def _handle(self, events: list[Recorded], upto: int) -> None:
        rows, around, handle = self._rows, self._around, self.projection.handle
        for recorded in events:
            rows.begin()
            event = ProjectionEvent(recorded, around)
            try:
                handle(event, rows)
            except (LogUnavailable, ArchiveUnavailable):
                rows.undo()
                self.position = recorded.position - 1
                raise
            except BaseException as error:  # whatever a handler raises is its own affair
                rows.undo()
                self._fail(event, error)
                return
            self._handled += 1
            self._last = event
        self.position = upto

    def _fail(self, event: ProjectionEvent, error: BaseException) -> None:
        self.failure = Failure(event.position, repr(event), _told(error), error)
        self.position = event.position - 1

    def changes(self) -> list[Change]:
        """What is to be written."""
        changes: list[Change] = []
        for table, gone, new in self._rows.pending():
            if gone:
                changes.append((table.delete(self._suffix), gone))
            if new:
                changes.append((table.upsert(self._suffix), new))
        return changes

    def target(self) -> Entry:
        """What the rows are of when the changes are written."""
        failure = self.failure
        status = BUILDING if self.entry.status == BUILDING else LIVE
        return dataclasses.replace(
            self.entry,
            position=self.position,
            status=status if failure is None else STOPPED,
            error=None if failure is None else failure.error,
            error_position=None if failure is None else failure.position,
            updated_at=self._now(),
        )

    def write(self, status: str | None = None) -> None:
        """Writes rows and checkpoint.

        Args:
            status: the new status; None: as it is.

        Raises:
            Overtaken: somebody else moved or replaced the rows.
            LogUnavailable: the database is away; to be tried again.
        """
        to = self.target()
        if status is not None and self.failure is None:
            to = dataclasses.replace(to, status=status)
        try:
            found = apply(self.store, self.entry, to, self.changes())
        except (LogUnavailable, Overtaken):
            raise
        except Exception as error:
            self._cannot_write(error)
            return
        if found is to:
            self.written(to)
        elif found.updated_at == to.updated_at:
            self._found(found)
        else:
            raise Overtaken(found)

    def written(self, to: Entry) -> None:
        """The changes are in the store."""
        self._rows.applied()
        self.entry = to
        self._handled = 0

    def _found(self, entry: Entry) -> None:
        """The rows are there already, perhaps by somebody else, who may have written them before they were read here:
        then what was made of them counts events twice, and must not be built on."""
        self._rows.discard()
        self.failure = None
        self.entry = entry
        self.position = entry.position or 0
        self._handled = 0

    def _cannot_write(self, error: Exception) -> None:
        """The database refuses a row. Which event's it is shows when they are written one by one."""
        self._rows.discard()
        last, handled = self._last, self._handled
        self._handled = 0
        if self.failure is not None and not handled:
            raise error  # not even that it is stopped can be written
        self.failure = None
        if last is not None and handled == 1:
            self._fail(last, error)
            self.write()
            return
        self._single_upto = self.position
        self.position = self.entry.position or 0


def _told(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return text[:_ERROR_CHARS] + place
