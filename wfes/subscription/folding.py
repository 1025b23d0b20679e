"""Rows of state projections from the log: every instance's state, folded stream by stream.

Reading in the order of streams needs one state in memory at a time, however many instances there are. What is read is
cut off at one position of the log, so it is a picture of one moment though it takes many reads; `catch_up` then leads
that picture on: the streams with newer events are folded anew, up to the old position and up to the new one, and the
difference is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from eventsourcing.persistence import Notification

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.errors import ArchiveUnavailable
from wfes.log import blocks
from wfes.log.application import decode
from wfes.log.archived import tombstone, whole_history
from wfes.log.port import Log
from wfes.log.rows import OWN, InlineRows, Rows, Target
from wfes.subscription.state import StateProjection

PAGE = 5_000
"""Events read at once."""
CHUNK = 1_000
"""Instances whose rows one transaction writes."""

Write = Callable[[Callable[[Target], None]], None]
"""Runs work in a transaction of its own."""
History = Callable[[str], Sequence[Notification]]
"""Reads the stored events of a stream."""


class Beside:
    """A state projection whose table has another name. Everything else is the projection's own.

    Args:
        projection: the projection.
        suffix: of the table's name.
        label: of its indexes' names, which stay when the table is renamed.
    """

    def __init__(self, projection: StateProjection, suffix: str, label: str) -> None:
        self._projection = projection
        name = re.compile(rf"\b{re.escape(projection.name)}\b")

        def moved(sql: str) -> str:
            return name.sub(projection.name + suffix, sql)

        self.name = projection.name
        self.version = projection.version
        self.upsert = moved(projection.upsert)
        self.delete = moved(projection.delete)
        self.create = [
            re.sub(r"(INDEX\s+IF\s+NOT\s+EXISTS\s+)(\w+)", rf"\g<1>\g<2>{label}", moved(sql))
            for sql in projection.create
        ]
        forget: str | None = getattr(projection, "forget", None)
        if forget is not None:
            self.forget = moved(forget)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._projection, name)


class Folding:
    """Computes the rows of state projections over a log.

    Args:
        log: the open log.
        projections: the projections; their statements say where rows go.
    """

    def __init__(self, log: Log, projections: Sequence[Any]) -> None:
        self._log = log
        self._inline = InlineRows(projections)

    def fill(self, upto: int, write: Write, progress: Callable[[int, int], object] | None = None) -> None:
        """Writes the rows of every instance as of a position into empty tables.

        Args:
            upto: the position.
            write: runs a piece of it in a transaction.
            progress: told how many events are done, and of about how many.
        """
        changes: list[tuple[Rows, Rows]] = []
        defined: list[e.WorkflowDefined] = []

        def put(target: Target) -> None:
            for event in defined:
                self._inline.define(target, event)
            self._inline.write(target, changes)

        for found, done in self._everything(upto):
            if isinstance(found, InstanceState):
                changes.append((self._inline.nothing, self._inline.rows(found)))
            elif found is not None:
                defined.append(found)
            if len(changes) + len(defined) >= CHUNK or (found is None and (changes or defined)):
                write(put)
                changes.clear()
                defined.clear()
            if found is None and progress is not None:
                progress(min(done, upto), upto)

    def _everything(self, upto: int) -> Iterator[tuple[InstanceState | e.WorkflowDefined | None, int]]:
        """States and definitions in the order of streams, each with how many events were read; None after a page."""
        stream, version, done = "", 0, 0
        state: InstanceState | None = None
        while page := self._log.select_by_stream(stream, version, PAGE):
            archived = self._archived(page, upto)
            for stored in page:
                found = str(stored.originator_id)
                if found != stream:
                    if state is not None and state.version:
                        yield state, done
                    stream = found
                    state = None if found.startswith(OWN) else archived.get(found) or InstanceState(found)
                if stored.id > upto:
                    continue
                if state is not None:
                    evolve(state, decode(stored).event, stored.originator_version)
                elif stored.topic == e.WorkflowDefined.topic:
                    event = decode(stored).event
                    assert isinstance(event, e.WorkflowDefined)
                    yield event, done
            version = page[-1].originator_version
            done += len(page)
            yield None, done
        if state is not None and state.version:
            yield state, done
        yield None, done

    def _archived(self, page: Sequence[Notification], upto: int) -> dict[str, InstanceState]:
        """The states of archived histories that the page names, read block by block."""
        groups: dict[tuple[str, int], dict[str, e.HistoryArchived]] = {}
        for stored in page:
            stone = tombstone(stored)
            if stone is not None:
                groups.setdefault((stone.file, stone.offset), {})[str(stored.originator_id)] = stone
        states: dict[str, InstanceState] = {}
        for stones in groups.values():
            some: dict[str, InstanceState] = {}
            try:
                for stored in blocks.histories(self._log.archive, stones):
                    if stored.id <= upto:
                        stream = str(stored.originator_id)
                        state = some.setdefault(stream, InstanceState(stream))
                        evolve(state, decode(stored).event, stored.originator_version)
            except ArchiveUnavailable:
                continue  # what the log itself says is then all that is known
            states.update(some)
        return states

    def catch_up(
        self, target: Target, events: Iterable[e.Recorded], after: int, upto: int, history: History
    ) -> None:
        """Leads rows from one position on to another.

        Args:
            target: an open transaction.
            events: all events between them.
            after: the position that the rows are of.
            upto: the one they are to be of.
            history: reads a stream, up to the second position at least.
        """
        streams: dict[str, None] = {}
        for recorded in events:
            if isinstance(recorded.event, e.WorkflowDefined):
                self._inline.define(target, recorded.event)
            if not recorded.originator_id.startswith(OWN):
                streams[recorded.originator_id] = None
        self._inline.write(target, [self._difference(stream, after, upto, history) for stream in streams])

    def _difference(self, stream: str, after: int, upto: int, history: History) -> tuple[Rows, Rows]:
        state = InstanceState(stream)
        before: Rows | None = None
        for stored in whole_history(history(stream), stream, self._log.archive):
            if stored.id > upto:
                break
            if before is None and stored.id > after:
                before = self._rows(state)
            evolve(state, decode(stored).event, stored.originator_version)
        now = self._rows(state)
        return (now if before is None else before), now

    def _rows(self, state: InstanceState) -> Rows:
        return self._inline.rows(state) if state.version else self._inline.nothing
