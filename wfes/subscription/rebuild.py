"""Bringing the engine's own state projections up: making their tables, and making them anew.

A short log is folded inside one transaction. Over a longer one the new rows are built beside the live ones, so that
neither other processes wait for it nor a million states lie in memory; the last few events are handled, and the tables
swapped, in one transaction with the write lock held.

Invariants: readers see the old rows or the new ones; of several processes that build the same rows one gets through,
the others take what it made; what a process leaves half done when it dies is begun again.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from eventsourcing.persistence import Notification

from wfes.core import events as e
from wfes.core.events import CATALOGUE
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.errors import LogUnavailable, UnknownEvent
from wfes.log.application import decode
from wfes.log.archived import whole_log
from wfes.log.port import Log, WriteTransaction
from wfes.log.rows import OWN, InlineRows, Target
from wfes.subscription import registry
from wfes.subscription.building import Cancelled, Progress
from wfes.subscription.dependents import InTheWay, check_replaceable, has_any
from wfes.subscription.feed import Feed
from wfes.subscription.folding import Beside, Folding
from wfes.subscription.projection import Projection
from wfes.subscription.registry import BUILDING, Entry
from wfes.subscription.state import StateProjection
from wfes.subscription.stores import Overtaken
from wfes.subscription.swap import exchange, key_of, sweep_tables
from wfes.subscription.table import DIALECTS, NEXT

T = TypeVar("T")

SHORT_MAX = 2_000
"""Events of a log that is folded inside one transaction."""
REST_MAX = 500
"""Events that are left for the last transaction at most."""
STANDBY_SECONDS = 3.0
"""How long another process's build has to stand still until it is taken over."""
ABANDONED_MICROS = 60_000_000
"""How long a build has to stand still until what it has made is removed by whoever opens the log."""
_LOOK_SECONDS = 0.1


class Writing(Protocol):
    """Where state projections' rows are written."""

    def write(self, work: Callable[[Any], T]) -> T:
        """Runs work on a transaction of its own."""
        ...

    def ground(self, target: Any) -> WriteTransaction:
        """The log's transaction that a target belongs to, everything appended in it written out."""
        ...


class _Direct:
    """Writing without a writer: before it starts, or where there is none."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def write(self, work: Callable[[Any], T]) -> T:
        target = self._log.begin()
        try:
            result = work(target)
            target.commit()
            return result
        finally:
            target.rollback()

    def ground(self, target: Any) -> WriteTransaction:
        found: WriteTransaction = target
        return found


def bring_up(
    log: Log, projections: Sequence[StateProjection], now: Callable[[], int] = lambda: 0
) -> list[str]:
    """Creates the tables of state projections in an open log, and makes stale ones anew.

    Stale is what another version of its projection made. To be called after ``Log.open`` and before the writer starts.

    Args:
        log: the open log.
        projections: all of them.
        now: the clock, microseconds since the Unix epoch.

    Returns:
        The names of what was made or made anew.

    Raises:
        UnknownEvent: the log holds an event that is not in the catalogue: a newer release wrote it. Nothing is done.
    """
    for topic in sorted(log.topics() - CATALOGUE.keys()):
        raise UnknownEvent(topic)
    writing = _Direct(log)
    stale, short = writing.write(lambda target: _looked_over(log, target, projections, now()))
    if not short:
        StateBuild(log, stale, writing, now).run()
    return [projection.name for projection in stale]


def check_up(log: Log, projections: Sequence[StateProjection | Projection]) -> None:
    """Makes sure that the rows of the engine's own projections are there and are this release's; writes nothing.

    For a log that this process may not write.

    Raises:
        UnknownEvent: the log holds an event that is not in the catalogue: a newer release wrote it.
        LogUnavailable: they are not.
    """
    for topic in sorted(log.topics() - CATALOGUE.keys()):
        raise UnknownEvent(topic)
    versions = {entry.name: entry.version for entry in registry.entries(log.read)}
    stale = [each.name for each in projections if versions.get(each.name) != each.version]
    if stale:
        raise LogUnavailable(
            log.url,
            f"its rows of {', '.join(stale)} are another release's: let one who may write to it open it once with this "
            "release",
        )


def _looked_over(
    log: Log, target: WriteTransaction, projections: Sequence[StateProjection], now: int
) -> tuple[list[StateProjection], bool]:
    """What is stale, and whether it has been made anew here and now: where it is little and nobody builds on it."""
    target.query(registry.CREATE)
    target.query(registry.CREATE_TABLES)
    found = {entry.name: entry for entry in registry.entries(target.query)}
    stale = [given for given in projections if _version(found.get(given.name)) != given.version]
    for given in projections:
        begun = found.get(given.name + NEXT)
        if begun is not None and given not in stale and now - begun.updated_at > ABANDONED_MICROS:
            _give_up(target, given)
    new = [given for given in stale if given.name not in found]
    # What users have built on a table keeps it from being dropped: there the new rows are made beside it.
    dialect = DIALECTS[log.dialect]
    is_long = target.head > SHORT_MAX or any(has_any(target.query, dialect, given.name) for given in stale)
    if not stale or is_long:
        for projection in new:  # there must be something to swap with
            for sql in projection.create:
                target.query(sql)
            registry.put(target.query, Entry(projection.name, 0))
        return stale, not stale
    for projection in stale:
        target.query(f"DROP TABLE IF EXISTS {projection.name}")
        for sql in projection.create:
            target.query(sql)
        entry = found.get(projection.name) or Entry(projection.name, 0)
        registry.put(target.query, dataclasses.replace(entry, version=projection.version))
    # Nobody else can append while the write lock is held, so what readers see is everything.
    fill(target, stale, whole_log(log, lenient=True))
    return stale, True


def _version(entry: Entry | None) -> int:
    return 0 if entry is None else entry.version


def _give_up(target: Target, projection: StateProjection) -> None:
    """Removes what was made beside the live rows."""
    target.query(f"DROP TABLE IF EXISTS {projection.name}{NEXT}")
    registry.remove(target.query, projection.name + NEXT)


def fill(
    target: Target,
    projections: Sequence[StateProjection],
    stored: Iterable[Notification],
    decoded: Callable[[Notification], e.Recorded] = decode,
) -> None:
    """Writes the rows of every instance of a short log into empty tables."""
    inline = InlineRows(projections)
    states: dict[str, InstanceState] = {}
    for recorded in map(decoded, stored):
        stream = recorded.originator_id
        if not stream.startswith(OWN):
            state = states.get(stream)
            if state is None:
                state = states[stream] = InstanceState(stream)
            evolve(state, recorded.event, recorded.originator_version)
        elif isinstance(recorded.event, e.WorkflowDefined):
            inline.define(target, recorded.event)
    inline.write(target, ((inline.nothing, inline.rows(state)) for state in states.values()))


class StateBuild:
    """Builds state projections' rows beside the live ones, and swaps them. Used by one thread.

    Args:
        log: the open log.
        projections: what is to be built.
        writing: how rows are written.
        now: the clock, microseconds since the Unix epoch.
        anew: build also what is of its version.
        progress: told how far it is.
        stopping: set when the engine closes.
    """

    def __init__(
        self,
        log: Log,
        projections: Sequence[StateProjection],
        writing: Writing,
        now: Callable[[], int],
        *,
        anew: bool = False,
        progress: Progress | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._log = log
        self._projections = list(projections)
        self._writing = writing
        self._now = now
        self._anew = anew
        self._progress = progress
        self._stopping = stopping or threading.Event()
        self._entries: list[Entry] = []
        self._first: dict[str, int] | None = None

    def run(self) -> None:
        """Builds and swaps; blocks.

        Raises:
            Cancelled: the engine is being closed; what was made so far is removed.
            InTheWay: something of a user's leads to a live table and could not be led to the new one; so is it then.
        """
        try:
            self._run()
        except (Cancelled, InTheWay):
            with suppress(LogUnavailable):  # whoever opens the log later sees to it then
                self._writing.write(self._abandon)
            raise

    def _abandon(self, target: Target) -> None:
        for projection, entry in zip(self._projections, self._entries, strict=False):
            found = registry.find(target.query, entry.name)
            if found is not None and found.generation == entry.generation:
                _give_up(target, projection)

    def _run(self) -> None:
        while True:
            self._sweep()
            try:
                self._writing.write(self._begin)
                if self._projections:
                    self._build()
            except Overtaken:
                pass
            else:
                self._sweep()
                return
            self._stand_by()

    def _begin(self, target: Target) -> None:
        """Makes the tables of what is still to be built; refused where somebody else is at it."""
        if self._first is None:
            found = {entry.name: entry for entry in registry.entries(target.query)}
            self._first = {each.name: found[each.name].generation for each in self._projections}
            others = [found[each.name + NEXT] for each in self._projections if each.name + NEXT in found]
            if others:
                raise Overtaken(others[0])
        self._projections = [each for each in self._projections if self._is_due(target, each)]
        self._entries = []
        names = [projection.name for projection in self._projections]
        check_replaceable(target.query, self._log.url, DIALECTS[self._log.dialect], names)
        for projection in self._projections:
            live = registry.find(target.query, projection.name)
            begun = registry.find(target.query, projection.name + NEXT)
            generation = 1 + max(entry.generation for entry in (live, begun) if entry is not None)
            target.query(f"DROP TABLE IF EXISTS {projection.name}{NEXT}")
            for sql in Beside(projection, NEXT, f"_{generation}").create:
                target.query(sql)
            entry = Entry(
                projection.name + NEXT, projection.version, 0, BUILDING, None, None, self._now(), generation
            )
            registry.put(target.query, entry)
            self._entries.append(entry)

    def _is_due(self, target: Target, projection: StateProjection) -> bool:
        live = registry.find(target.query, projection.name)
        assert self._first is not None
        if live is None:
            return True
        return live.version != projection.version or (
            self._anew and live.generation == self._first[projection.name]
        )

    def _build(self) -> None:
        generation = {entry.name: entry.generation for entry in self._entries}
        folding = Folding(
            self._log,
            [
                Beside(projection, NEXT, f"_{generation[projection.name + NEXT]}")
                for projection in self._projections
            ],
        )
        position = self._log.max_notification_id()
        folding.fill(position, self._write, self._further)
        feed = Feed(self._log)
        while True:
            self._check_stopping()
            head = self._log.max_notification_id()
            if head - position > REST_MAX:
                events, upto = feed.read(position, head)
                after = position
                self._write(
                    lambda target, events=events, after=after, upto=upto: folding.catch_up(  # type: ignore[misc]
                        target, events, after, upto, self._log.select_events
                    )
                )
                position = upto
            elif self._writing.write(lambda target, after=position: self._finish(target, folding, after)):  # type: ignore[misc]
                return

    def _write(self, work: Callable[[Target], None]) -> None:
        """Writes a piece, if this process is still the one that builds."""

        def run(target: Target) -> None:
            self._check_mine(target)
            work(target)

        self._writing.write(run)

    def _check_mine(self, target: Target) -> None:
        now = self._now()
        for number, entry in enumerate(self._entries):
            found = registry.find(target.query, entry.name)
            if found is None or found.generation != entry.generation:
                raise Overtaken(found)
            # Tells others that somebody is at it.
            self._entries[number] = dataclasses.replace(
                entry, position=(entry.position or 0) + 1, updated_at=now
            )
            registry.put(target.query, self._entries[number])

    def _finish(self, target: Target, folding: Folding, after: int) -> bool:
        """Inside the last transaction: the rest, and the swap. False: there is too much left for it."""
        self._check_mine(target)
        ground = self._writing.ground(target)
        news = ground.news(after)
        if len(news) > REST_MAX + SHORT_MAX:
            return False
        folding.catch_up(target, map(decode, news), after, ground.head, ground.history)
        names = [projection.name for projection in self._projections]
        exchange(target, self._log.url, names, DIALECTS[self._log.dialect])
        for projection, entry in zip(self._projections, self._entries, strict=True):
            registry.remove(target.query, entry.name)
            registry.put(
                target.query,
                Entry(
                    projection.name, projection.version, updated_at=self._now(), generation=entry.generation
                ),
            )
        return True

    def _stand_by(self) -> None:
        """Another process builds: waits until it is done, or does not move any more."""
        seen: object = None
        since = time.monotonic()
        while True:
            self._check_stopping()
            found = {entry.name: entry for entry in registry.entries(self._log.read)}
            begun = [found.get(each.name + NEXT) for each in self._projections]
            if not any(begun):
                return
            if begun != seen:
                seen, since = begun, time.monotonic()
            elif time.monotonic() - since > STANDBY_SECONDS:
                return
            self._stopping.wait(_LOOK_SECONDS)

    def _further(self, done: int, total: int) -> None:
        self._check_stopping()
        if self._progress is not None:
            self._progress(done, total)

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Cancelled

    def _sweep(self) -> None:
        dialect = DIALECTS[self._log.dialect]
        with self._log.snapshot() as view:
            keys = {each.name: key_of(view.query, dialect, each.name) for each in self._projections}
        sweep_tables(self._log.read, self._writing.write, dialect, keys)
