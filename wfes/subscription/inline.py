"""Projections by event type inside the writer's transactions: their rows are there with the events, or neither is.

A projection takes part (is *active*) while its rows in the database are live, of this version, and not far behind the
log. What other processes appended without it is made up for at the beginning of the next transaction. What is new,
stopped, of another version or far behind is somebody else's to bring there; it takes part again by itself as soon as it
can, or at once by `InlineProjections.join`.

Invariants: every event that a projection handles is in its rows exactly once, up to the checkpoint that is committed
with them; a projection that fails is stopped with what the events before made, and neither the append nor any other
projection notices; rows remembered from earlier transactions are dropped whenever anybody else may have changed them.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

from eventsourcing.persistence import Notification

from wfes.core.events import CATALOGUE, Event, Recorded, WorkflowStarted
from wfes.errors import LogUnavailable, NewerRelease
from wfes.log.application import decode
from wfes.log.archived import MISSED, missed, whole_log
from wfes.log.event_rows import Ground
from wfes.log.port import Log, Tx
from wfes.log.rows import OWN
from wfes.subscription import registry, tables
from wfes.subscription.asking import asked
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection
from wfes.subscription.registry import Entry
from wfes.subscription.tables import Tables

logger = logging.getLogger("wfes.projections")

GetBlob = Callable[[str], bytes | None]
Show = Callable[[Event], dict[str, Any]]

JOIN_EVENTS_MAX = 1_000
"""Events that are made up for inside a transaction."""
JOIN_POSITIONS_MAX = 20_000
"""How much of the log is looked through for them inside a transaction."""
UNNOTED_MAX = 500
"""Positions the log may move on, with nothing for a projection, before its checkpoint is noted again."""
ENGINES_OWN = "wfes_"
"""What the names of the engine's own projections begin with: they are always brought up, however far behind."""
_ERROR_CHARS = 2_000
_SAVEPOINT = "wfes_inline"


class _Active:
    """A projection that takes part.

    Attributes:
        done: every event up to this position is in the rows.
        noted: the registry's row as it was read or last written.
        moved: it handled something in the open transaction.
        batch: events handed to it, not run yet.
    """

    __slots__ = ("batch", "done", "moved", "noted", "projection", "rows", "tables")

    def __init__(self, projection: Projection, entry: Entry) -> None:
        self.projection = projection
        self.tables = Tables()
        self.rows = Rows(projection.tables, self.tables)
        self.noted = entry
        self.done = entry.position or 0
        self.moved = False
        self.batch: list[Recorded] = []


class _Around:
    """What handlers see around an event, inside the transaction."""

    def __init__(self, show: Callable[[GetBlob], Show]) -> None:
        self.ground: Ground | None = None
        self._show = show(self._get_blob)

    def _get_blob(self, sha256: str) -> bytes | None:
        assert self.ground is not None
        return self.ground.write.get_blob(sha256)

    def data(self, event: Event) -> dict[str, Any]:
        return self._show(event)

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        assert self.ground is not None
        if instance.startswith(OWN):
            return None, None
        state = self.ground.peek(instance)
        if state is not None and state.version:
            return state.workflow, state.key
        first = self.ground.write.history(instance, limit=1)
        event = decode(first[0]).event if first else None
        # What is archived begins with an event that says whose it was.
        if isinstance(event, WorkflowStarted):
            return event.workflow, event.key
        return getattr(event, "workflow", None), getattr(event, "key", None)


class InlineProjections:
    """The inline event projections of one writer; see `wfes.log.event_rows.EventRows` for how it is used.

    Args:
        projections: those to run.
        show: given how large values are read, gives what shows an event's data.
        versions: name to version of the engine's own state projections, to see when another release takes over.
        url: what errors call the log.

    Attributes:
        names: of those that take part at the moment; may be read by any thread.
        asked: told of projections about which somebody asks who follows them; called from the writer's thread.
    """

    def __init__(
        self,
        projections: Sequence[Projection],
        *,
        show: Callable[[GetBlob], Show],
        versions: dict[str, int] | None = None,
        url: str = "",
    ) -> None:
        self.handled: dict[type[Event], list[_Active]] = {}
        self.doubtful = True
        self.names: frozenset[str] = frozenset()
        self.asked: Callable[[Sequence[str]], object] = len
        self._projections = tuple(projections)
        self._versions = dict(versions or {})
        self._versions.update(
            (given.name, given.version) for given in projections if given.name.startswith(ENGINES_OWN)
        )
        self._url = url
        self._around = _Around(show)
        self._active: dict[str, _Active] = {}
        self._read: dict[str, Entry] = {}
        self._far: dict[str, Entry] = {}
        """The rows of projections that were too far behind; not looked at again before they change."""

    # -- For the writer ----------------------------------------------------------------------------------------------

    def begin(self, ground: Ground, seen: int, news: Sequence[Notification]) -> bool:
        """See `EventRows.begin`."""
        if not self.doubtful and not news and not ground.write.others:
            return False
        wrote = self._look_up(ground, seen, news)
        self.doubtful = False
        return wrote

    def run(self, ground: Ground, happened: Sequence[Recorded]) -> None:
        """See `EventRows.run`."""
        handled = self.handled
        for recorded in happened:
            for active in handled.get(type(recorded.event), ()):
                active.batch.append(recorded)
        for active in list(self._active.values()):
            if active.batch:
                batch, active.batch = active.batch, []
                self._apply(ground, active, batch)

    def finish(self, ground: Ground) -> None:
        """See `EventRows.finish`."""
        head = ground.write.head
        notes: list[tuple[int, int, str]] = []
        for name, active in self._active.items():
            active.done = head
            if active.moved or head - (active.noted.position or 0) >= UNNOTED_MAX:
                notes.append((head, ground.now, name))
                active.noted = self._read[name] = registry.moved(active.noted, head, ground.now)
        if notes:
            registry.note(ground.write.executemany, notes)

    def committed(self) -> None:
        """See `EventRows.committed`."""
        for active in self._active.values():
            active.moved = False
        self._around.ground = None

    def undone(self) -> None:
        """See `EventRows.undone`."""
        # What took part, what failed and what was remembered may all have been undone: the database says.
        self._active.clear()
        self._changed()
        self.doubtful = True
        self._around.ground = None

    def behind(self, log: Log) -> bool:
        """See `EventRows.behind`."""
        head = log.max_notification_id()
        found = self._entries(log.read)
        if names := asked(found.values()):
            self.asked(names)
        if found != self._read:
            self.doubtful = True
        for projection in self._projections:
            entry = found.get(projection.name)
            if entry is None or not _usable(projection, entry) or self._far.get(projection.name) == entry:
                continue
            active = self._active.get(projection.name)
            known = active if active is not None and active.noted == entry else None
            done = (entry.position or 0) if known is None else known.done
            if log.select_notifications(
                done, 1, topics=projection.topics, inclusive_of_start=False
            ) or missed(log, done):
                # The news are no news to the transaction that is made now, which has to look all the same.
                self.doubtful = True
                return True
            if known is not None:
                known.done = max(done, head)
        return False

    # -- For whoever brings projections up ---------------------------------------------------------------------------

    def join(self, tx: Tx, name: str) -> bool:
        """Looks anew whether a projection can take part, inside a member's transaction; whether it does now.

        Whatever was remembered of its rows is dropped.
        """
        ground = cast(Ground, tx)
        # What is appended before this stands in the log and in the rows; if it is in those of this very projection, its
        # checkpoint has to say so before it is read, or the same events would be handled again.
        ground.finish()
        for active in self._active.values():
            active.done = ground.write.head
        self._far.pop(name, None)
        if self._active.pop(name, None) is not None:
            self._changed()
        if self._look_up(ground, ground.write.head, ()):
            cast(Any, tx).appended += 1
        return name in self._active

    # -- Inside ------------------------------------------------------------------------------------------------------

    def _entries(self, query: registry.Query) -> dict[str, Entry]:
        found = {entry.name: entry for entry in registry.entries(query)}
        for name, version in self._versions.items():
            entry = found.get(name)
            if entry is not None and entry.version != version:
                raise NewerRelease(self._url, name, entry.version, version)
        return found

    def _look_up(self, ground: Ground, seen: int, news: Sequence[Notification]) -> bool:
        """Compares what takes part with what the database says, and makes up for what is missing."""
        self._read = found = self._entries(ground.write.query)
        wrote = False
        for projection in self._projections:
            entry = found.get(projection.name)
            active = self._active.get(projection.name)
            if entry is None or not _usable(projection, entry):
                if active is not None:
                    self._leave(active, "its rows are no longer live ones of this version")
                continue
            if active is None or active.noted != entry:
                if self._far.get(projection.name) == entry:
                    continue
                active = _Active(projection, entry)
                self._active[projection.name] = active
                self._changed()
            missing = self._missing(ground, active, seen, news)
            if missing is None:
                self._far[projection.name] = entry
                self._leave(active, "it is too far behind the log")
            elif missing:
                wrote = True
                self._apply(ground, active, [decode(stored) for stored in missing])
        for active in self._active.values():
            active.done = ground.write.head
        return wrote

    def _missing(
        self, ground: Ground, active: _Active, seen: int, news: Sequence[Notification]
    ) -> Sequence[Notification] | None:
        """Events that are not in the rows though they should be; None: too many to make up for here."""
        write, projection, done = ground.write, active.projection, active.done
        if write.head <= done:
            return ()
        own = projection.name.startswith(ENGINES_OWN)
        if not own and write.query(MISSED, (done,)):
            return None  # what has left the log for the archives is read by a follower
        if done >= seen:
            missing = [each for each in news if each.id > done and projection.handles(each.topic)]
        elif own:
            return write.news(done, projection.topics)
        elif write.head - done > JOIN_POSITIONS_MAX:
            return None
        else:
            missing = list(write.news(done, projection.topics, JOIN_EVENTS_MAX + 1))
        return missing if own or len(missing) <= JOIN_EVENTS_MAX else None

    def _leave(self, active: _Active, reason: str) -> None:
        del self._active[active.projection.name]
        self._changed()
        logger.info("inline projection %r does not take part: %s", active.projection.name, reason)

    def _changed(self) -> None:
        """Which projections take part has changed."""
        self.handled.clear()
        for active in self._active.values():
            for topic in active.projection.topics or CATALOGUE:
                self.handled.setdefault(CATALOGUE[topic], []).append(active)
        self.names = frozenset(self._active)

    def _apply(self, ground: Ground, active: _Active, events: Sequence[Recorded]) -> None:
        """Runs the handlers of events and writes the rows, or stops the projection at the one that fails."""
        active.moved = True
        self._around.ground = ground
        active.tables.query = ground.write.query
        failed = self._handle(active, events)
        write = ground.write
        if active.rows.changes:
            write.query(f"SAVEPOINT {_SAVEPOINT}")
            try:
                tables.write(active.rows, write.executemany)
            except LogUnavailable:
                raise
            except Exception as error:
                write.query(f"ROLLBACK TO {_SAVEPOINT}")
                write.query(f"RELEASE {_SAVEPOINT}")
                active.rows.discard()
                self._one_by_one(ground, active, events, error)
                return
            write.query(f"RELEASE {_SAVEPOINT}")
            active.rows.applied()
        if failed is not None:
            self._stop(ground, active, *failed)

    def _handle(self, active: _Active, events: Sequence[Recorded]) -> tuple[Recorded, BaseException] | None:
        """Runs the handlers into the buffer; what raised, and at which event."""
        rows, around, handle = active.rows, self._around, active.projection.handle
        for recorded in events:
            rows.begin()
            try:
                handle(ProjectionEvent(recorded, around), rows)
            except BaseException as error:  # the writer's thread must outlive whatever a handler raises
                if active.tables.trouble is None:
                    rows.undo()
                    return recorded, error
            if active.tables.trouble is not None:
                raise active.tables.trouble
        return None

    def _one_by_one(
        self, ground: Ground, active: _Active, events: Sequence[Recorded], error: Exception
    ) -> None:
        """Finds the event whose rows the database refuses."""
        if len(events) == 1:
            self._stop(ground, active, events[0], error)
            return
        for recorded in events:
            self._apply(ground, active, [recorded])
            if self._active.get(active.projection.name) is not active:
                return

    def _stop(self, ground: Ground, active: _Active, recorded: Recorded, error: BaseException) -> None:
        projection = active.projection
        del self._active[projection.name]
        self._changed()
        entry = registry.stopped(active.noted, recorded.position, _told(error), ground.now)
        registry.put(ground.write.query, entry)
        self._read[projection.name] = entry
        logger.error(
            "projection %r is stopped at position %d (%s, version %d of %r): %s",
            projection.name,
            recorded.position,
            recorded.event.topic,
            recorded.originator_version,
            recorded.originator_id,
            entry.error,
        )


def reflected(log: Log, projection: Projection, entry: Entry, head: int) -> int:
    """Up to which position the rows of an inline projection reflect the log.

    Its checkpoint is noted only with what concerns it, so it is often further than that: as far as nothing does.

    Args:
        log: the open log.
        projection: the projection.
        entry: what its rows are of.
        head: a position of the log, as far as it is known to the caller.
    """
    position = entry.position or 0
    if head <= position or not _usable(projection, entry):
        return position
    found = log.select_notifications(position, 1, head, projection.topics, inclusive_of_start=False)
    if missed(log, position):
        found = list(islice(whole_log(log, position, projection.topics, upto=head), 1))
    return found[0].id - 1 if found else head


def _usable(projection: Projection, entry: Entry) -> bool:
    return entry.status == registry.LIVE and entry.version == projection.version


def _told(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be told)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    # No database takes half of a surrogate pair.
    text = text.encode("utf-8", "replace").decode()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return text[:_ERROR_CHARS] + place
