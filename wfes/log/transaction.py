"""What a member of the writer's queue sees: the Tx of the port, on an open write transaction.

Appends are buffered: they change the cached states at once and become rows of the log all together, in one
``executemany``, before the commit or before something has to be read that must show them. An append of one event
costs a JSON dump, a digest, an applier and one tuple; that is the path of every step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence

from eventsourcing.persistence import Notification

from wfes.core.chain import digest
from wfes.core.events import Copied, Event, Recorded, WorkflowDefined, WorkflowStarted
from wfes.core.evolve import evolve
from wfes.core.ids import flaw
from wfes.core.state import InstanceState
from wfes.log.application import body_bytes, copy_bytes, decode, decode_row
from wfes.log.cache import ALL, CLEAN, OWNER, Cache, Entry
from wfes.log.event_rows import EventRows
from wfes.log.port import Row, StoredRow, Tx, WriteTransaction
from wfes.log.rows import OWNERSHIP, QUIET, InlineRows, Rows
from wfes.log.weight import LARGE

FORESEEN_MIN = 2
"""From how many unknown instances on it pays to look for all of them together."""
FORESEEN_EVENTS_MAX = 1_000
"""How many events are read for that at most: nearly always there is none."""

Reaction = Callable[[Tx, str, Event, InstanceState], None]
"""Called right after an event of its type was appended, in the same transaction."""


class Transaction:
    """The port's Tx. Used by the writer's thread, for one transaction."""

    def __init__(
        self,
        write: WriteTransaction,
        cache: Cache,
        inline: InlineRows,
        reactions: Mapping[type[Event], Reaction],
        now: int,
        event_rows: EventRows | None = None,
    ) -> None:
        self.now = now
        self.write = write
        self.appended = 0
        """How much was changed so far: a member that raises with this unchanged has done nothing."""
        self.notable: list[Recorded] = []
        """What was appended here and concerns others than the execution that appended it, in log order."""
        self.last_row: StoredRow | None = None
        self._write = write
        self._cache = cache
        self._inline = inline
        self._reactions = reactions
        self._position = write.head
        self._rows: list[StoredRow] = []
        self._touched: list[Entry] = []
        self._dirty: list[Entry] = []
        self._defined: list[WorkflowDefined] = []
        self._asked: dict[str, list[Row]] = {}
        """Answers to queries that no append since has changed."""
        self._unshown: set[type[Event]] = set()
        """Kinds of the events appended since the rows were last brought up to date."""
        self._event_rows = event_rows
        self._handled: Container[type[Event]] = () if event_rows is None else event_rows.handled
        self._happened: list[Recorded] = []
        """What was appended and is to be handed to event projections."""

    # ---------------------------------------------------------------------------------------- Tx

    def state(self, stream: str) -> InstanceState | None:
        if flaw(stream) is not None:  # whoever asks may have it from anywhere
            return None
        entry = self._cache.get(stream, self._write)
        return entry.state if entry.version else None

    def version(self, stream: str) -> int:
        return self._cache.get(stream, self._write).version

    def append(self, stream: str, events: Sequence[Event]) -> int:
        entry = self._touch(stream)
        for event in events:
            self._append(entry, event)
        return entry.version

    def append_copies(self, stream: str, copies: Sequence[tuple[Event, Copied]]) -> int:
        entry = self._touch(stream)
        for event, copied in copies:
            self._append(entry, event, copied)
        return entry.version

    def _touch(self, stream: str) -> Entry:
        entry = self._cache.get(stream, self._write)
        if not entry.touched:
            entry.touched = True
            self._touched.append(entry)
        return entry

    def _append(self, entry: Entry, event: Event, copied: Copied | None = None) -> None:
        cls = type(event)
        stream = entry.stream
        state = entry.state
        version = entry.version + 1
        if state is not None and (version == 1) is not (cls is WorkflowStarted):
            raise ValueError(f"{cls.topic} cannot be version {version} of instance {stream!r}")
        stored = entry.digest + (body_bytes(event) if copied is None else copy_bytes(event, copied))
        position = self._position + 1
        row = (position, stream, version, cls.topic, stored)
        self._position = position
        self._rows.append(row)
        self._unshown.add(cls)
        self.appended += 1
        entry.digest = digest(stream, version, cls.topic, stored)
        entry.version = version
        if state is not None:
            quiet = cls in QUIET
            if entry.rows is None and (not quiet or state.waits or state.timers):
                entry.rows = self._inline.nothing if version == 1 else self._inline.rows(state)
            status = state.status
            evolve(state, event, version)
            if state.status is not status:
                self._soil(entry, ALL)
            elif not quiet:
                self._soil(entry, OWNER if cls in OWNERSHIP else ALL)
            if len(stored) > LARGE or entry.weight.total:
                self._cache.weigh(entry, event, len(stored))
        elif cls is WorkflowDefined:
            self._defined.append(event)  # type: ignore[arg-type]
        if cls in self._handled:
            self._happened.append(Recorded(stream, version, event, position, copied))
        if copied is not None:
            return  # what it led to, and whom it concerned, it did in the origin
        if not cls.owner or cls.terminal:
            self.notable.append(Recorded(stream, version, event, position))
        reaction = self._reactions.get(cls)
        if reaction is not None and state is not None:
            reaction(self, stream, event, state)

    def _soil(self, entry: Entry, dirt: int) -> None:
        """Notes which of an entry's rows have to be computed again."""
        if dirt > entry.dirty:
            if not entry.dirty:
                self._dirty.append(entry)
            entry.dirty = dirt

    def history(self, stream: str, after: int = 0) -> list[Recorded]:
        self.flush_events()
        return [decode(stored) for stored in self._write.history(stream, after)]

    def delete_history(self, stream: str, upto: int) -> None:
        self.flush_events()
        self.appended += 1
        self._write.delete_history(stream, upto)

    def histories(self, streams: Sequence[str], events_max: int) -> dict[str, list[Recorded]]:
        self.flush_events()
        found: dict[str, list[Recorded]] = {}
        for stream, rows in self._write.histories(streams, events_max).items():
            history = found[stream] = [decode_row(row) for row in rows]
            self._cache.take_in(rows, history)
        return found

    @property
    def position(self) -> int:
        return self._position

    def query(
        self,
        sql: str,
        params: Sequence[object] | Mapping[str, object] = (),
        *,
        shows: Collection[type[Event]] | None = None,
    ) -> list[Row]:
        if shows is None or not self._unshown.isdisjoint(shows):
            self.flush()
        elif not params:
            found = self._asked.get(sql)
            if found is None:
                found = self._asked[sql] = self._write.query(sql)
            return found
        self.appended += not _reads(sql)
        return self._write.query(sql, params)

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        self.flush()
        self.appended += 1
        self._write.executemany(sql, params)

    def put_blob(self, sha256: str, content: bytes) -> None:
        self.appended += 1
        self._write.put_blob(sha256, content)

    def peek(self, stream: str) -> InstanceState | None:
        """The state of an instance, if it is in memory."""
        entry = self._cache.peek(stream)
        return None if entry is None else entry.state

    # -------------------------------------------------------------------------------- the writer's

    def begin(self, seen: int, news: Sequence[Notification]) -> None:
        """Brings event projections up to the log; before anything is appended.

        Args:
            seen: the position behind which ``news`` are all events.
            news: what others committed.
        """
        if self._event_rows is not None:
            self.appended += self._event_rows.begin(self, seen, news)

    def foresee(self, streams: Sequence[str]) -> None:
        """Looks with one read which of these instances do not exist: members are about to ask for each of them."""
        unknown = [stream for stream in streams if stream not in self._cache]
        if len(unknown) < FORESEEN_MIN:
            return
        found = self._write.histories(unknown, FORESEEN_EVENTS_MAX)
        if sum(map(len, found.values())) < FORESEEN_EVENTS_MAX:
            self._cache.take_absent(stream for stream in unknown if stream not in found)

    def flush_events(self) -> None:
        """Makes the buffered events rows of the log."""
        if self._rows:
            rows, self._rows = self._rows, []
            self.last_row = rows[-1]
            self._write.insert(rows)

    def flush(self) -> None:
        """Makes everything buffered rows, the projections' included."""
        if self._dirty and not self._defined:
            with self._write.together():
                self._flush_rows()
        else:
            self._flush_rows()
        if self._happened:
            happened, self._happened = self._happened, []
            assert self._event_rows is not None
            self._event_rows.run(self, happened)

    def _flush_rows(self) -> None:
        self.flush_events()
        self._unshown.clear()
        self._asked.clear()
        for event in self._defined:
            self._inline.define(self._write, event)
        self._defined.clear()
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            changes: list[tuple[Rows, Rows]] = []
            for entry in dirty:
                assert entry.state is not None
                before = entry.rows
                if entry.dirty == OWNER and before is not None:
                    entry.rows = self._inline.owned(entry.state, before)
                else:
                    entry.rows = self._inline.rows(entry.state)
                entry.dirty = CLEAN
                changes.append((before or self._inline.nothing, entry.rows))
            self._inline.write(self._write, changes)

    def finish(self) -> None:
        """As ``flush``, and notes how far event projections are: the last thing before a commit, and before a member
        looks at that."""
        if self._happened or self._defined or not self._dirty:
            self._finish()
            return
        with self._write.together():
            self._finish()

    def _finish(self) -> None:
        self.flush()
        if self._event_rows is not None and self.appended:
            self._event_rows.finish(self)

    def committed(self) -> None:
        """Settles the entries after the commit."""
        for entry in self._touched:
            entry.touched = False
            if entry.state is not None and entry.state.ended is not None:
                self._cache.over(entry.stream)
        if self._event_rows is not None:
            self._event_rows.committed()

    def undone(self) -> None:
        """Drops what is known of the streams appended to: none of it happened."""
        for entry in self._touched:
            self._cache.forget(entry.stream)
        if self._event_rows is not None:
            self._event_rows.undone()


def _reads(sql: str) -> bool:
    return sql.lstrip()[:6].upper() == "SELECT" or sql.lstrip()[:4].upper() == "WITH"
