"""The projections of an open engine: which there are, where their rows are, who keeps them, and asking them.

Owns the thread that follows (`wfes.subscription.following`), the stores, and whoever waits for a projection to get
somewhere. What the engine was given is followed from the start; the bundled models only once somebody asks them.

Everything here belongs to the engine's event loop, but what is named otherwise.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from wfes.builds import Builds
from wfes.errors import (
    LogUnavailable,
    ProjectionInUse,
    ProjectionNotReady,
    ProjectionStopped,
    UnknownProjection,
)
from wfes.lag import Known, statuses
from wfes.log.port import Log, Member
from wfes.registration import bundled, own_inline, state_projections
from wfes.runtime.values import Values
from wfes.subscription import registry
from wfes.subscription.asking import answer, followed_by
from wfes.subscription.building import Built, Cancelled, Progress
from wfes.subscription.check import CannotCheck, CheckReport, check, check_states
from wfes.subscription.following import BROKEN, FOLLOWING, NEW, SUPERSEDED, Follow, Following
from wfes.subscription.inline import InlineProjections, reflected
from wfes.subscription.own_database import own_store
from wfes.subscription.projection import Projection, Query
from wfes.subscription.reader import Reader
from wfes.subscription.rebuild import StateBuild
from wfes.subscription.registry import BUILDING, LIVE, STOPPED, Entry
from wfes.subscription.state import StateProjection
from wfes.subscription.stores import LogStore, Store, Target, View
from wfes.subscription.swap import forget
from wfes.subscription.table import NEXT
from wfes.surroundings import EventSurroundings
from wfes.views import Answer, ProjectionStatus

T = TypeVar("T")

WAIT_SECONDS = 30.0
"""How long a query waits for the position it was asked to reflect, by default."""
POLL_SECONDS = 0.02
"""How often somebody else's progress is looked at while a query waits for it."""


class Models:
    """See the module's text.

    Args:
        log: the log; opened before `start`.
        values: where user values are opened.
        projections: what the engine was given.
    """

    def __init__(self, log: Log, values: Values, projections: Mapping[str, Projection]) -> None:
        self.given = projections
        self.log = log
        self._values = values
        self._follows: dict[str, Follow] = {}
        self._learned: dict[str, Projection] = {}
        self._stores: dict[str, Store] = {}
        self._log_store: LogStore | None = None
        self._following: Following | None = None
        self._builds: Builds | None = None
        self._inline: InlineProjections | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], int] = lambda: 0
        self._waiting = 0
        self._pulse = asyncio.Event()
        self._closed = False
        self._stopping = threading.Event()

    # -- Opening and closing -----------------------------------------------------------------------------------------

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        submit: Callable[[Member], None],
        now: Callable[[], int],
        inline: InlineProjections,
    ) -> None:
        """Begins to follow what the engine was given.

        Args:
            loop: the engine's.
            submit: puts a member into the writer's queue.
            now: the engine's clock, microseconds since the Unix epoch.
            inline: the projections that the writer keeps.
        """
        self._loop = loop
        self._now = now
        self._inline = inline
        self._log_store = LogStore(self.log, submit)
        self._builds = Builds(self.log, lambda: EventSurroundings(self.log, self._values), now, self._told)
        self._following = Following(
            self.log,
            EventSurroundings(self.log, self._values),
            now,
            told=self._told,
            outdated=self._outdated,
            join=self._join,
            joined=self._joined,
            answer=self._answer_who,
        )
        inline.asked = self._asked
        for projection in self.given.values():
            self._follow(projection)

    def _follow(self, projection: Projection) -> Follow:
        assert self._following is not None
        follow = Follow(projection, self._store(projection))
        self._follows[projection.name] = follow
        self._following.add(follow)
        return follow

    def _store(self, projection: Projection) -> Store:
        assert self._log_store is not None
        if projection.url is None or projection.url == self.log.url:
            return self._log_store
        key, store = own_store(projection.url, self.log)
        return self._log_store if store is None else self._stores.setdefault(key, store)

    async def stop(self) -> None:
        """Ends following; what is not written yet is read again by whoever opens the log next."""
        self._closed = True
        self._stopping.set()
        self._pulse.set()
        if self._log_store is not None:
            self._log_store.close()
        if self._builds is not None:
            await self._builds.stop()
        if self._following is not None:
            await asyncio.to_thread(self._following.stop)
        for store in self._stores.values():
            await asyncio.to_thread(store.close)

    def tell(self, head: int) -> None:
        """The log has got to this position."""
        if self._following is not None:
            self._following.tell(head)

    @property
    def quiet(self) -> bool:
        """Whether every projection this engine follows is as far as the log."""
        if self._following is None or self._builds is None:
            return True
        return self._builds.quiet and self._following.quiet

    # -- Called from the following thread ------------------------------------------------------------------------------

    def _told(self) -> None:
        if self._waiting and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tell_waiting)

    def _tell_waiting(self) -> None:
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    def _outdated(self, follow: Follow) -> None:
        """Its rows are of an older version: they serve until new ones are built."""
        self.build(follow, anew=False)

    def _join(self, follow: Follow) -> bool:
        name = follow.projection.name
        return self._joined(follow) or follow.store.write(lambda target: self._join_in(target, name))

    def _join_in(self, target: Target, name: str) -> bool:
        assert self._inline is not None
        return target.tx is not None and self._inline.join(target.tx, name)

    def _joined(self, follow: Follow) -> bool:
        return self._inline is not None and follow.projection.name in self._inline.names

    def _asked(self, names: Sequence[str]) -> None:
        """Somebody asks who follows these. From the writer's thread."""
        assert self._following is not None
        for follow in [self._follows[name] for name in names if name in self._follows]:
            self._following.ask(follow)

    def _answer_who(self, follow: Follow) -> None:
        assert self._log_store is not None
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self._log_store.write(lambda target: answer(target, follow.projection.name, who))

    def _built(self, follow: Follow) -> None:
        assert self._following is not None
        self._following.look(follow)

    # -- Building ----------------------------------------------------------------------------------------------------

    def build(self, follow: Follow, *, anew: bool, progress: Progress | None = None) -> Future[Built]:
        """Begins to build a projection's rows beside the live ones. From any thread.

        Args:
            follow: the projection.
            anew: even if the rows are of its version.
            progress: called from another thread with positions: how many are done, and of how many.
        """
        assert self._builds is not None
        name = follow.projection.name
        join = partial(self._join_in, name=name) if follow.projection.inline else None
        return self._builds.start(follow, anew=anew, done=self._built, join=join, progress=progress)

    async def rebuild(self, name: str, progress: Progress | None) -> None:
        """Builds a projection's rows anew and swaps them; see `Engine.rebuild_projection`."""
        until = Deadline(WAIT_SECONDS)
        follow = self.find(name)
        if follow is None:
            await self._rebuild_states(name, progress)
            return
        if await asyncio.to_thread(self.current, follow) is None:
            # There is nothing beside which it could be built.
            follow = self._follows.get(name) or self._follow(follow.projection)
            await self._ready(follow, until)
        try:
            built = await asyncio.wrap_future(self.build(follow, anew=True, progress=self._carried(progress)))
        except Cancelled:
            raise LogUnavailable(
                self.log.url,
                f"this engine was closed; the next one that follows {name!r} goes on with its rebuild",
            ) from None
        if built.failure is not None:
            raise ProjectionStopped(name, built.failure.position, built.failure.error)
        if name in self._follows:
            await self._ready(follow, until)

    async def check(self, name: str) -> CheckReport:
        """Compares a projection's rows with what the log makes of it; see `Engine.check_projection`."""
        follow = self.find(name)
        if follow is None:
            return await self._check_states(name)
        around = EventSurroundings(self.log, self._values)
        reflects = partial(self._reflected, follow)
        try:
            return await asyncio.to_thread(check, follow.projection, follow.store, self.log, around, reflects)
        except CannotCheck as error:
            failure = error.failure
            raise ProjectionStopped(name, failure.position, failure.error) from failure.raised
        except LookupError as error:
            raise ProjectionNotReady(name, str(error)) from None

    async def _rebuild_states(self, name: str, progress: Progress | None) -> None:
        assert self._log_store is not None
        store, told = self._log_store, self._carried(progress)
        build = StateBuild(
            self.log, _states(name), store, self._now, anew=True, progress=told, stopping=self._stopping
        )
        try:
            await asyncio.to_thread(build.run)
        except Cancelled:
            raise LogUnavailable(
                self.log.url,
                f"this engine was closed; the rebuild of {name!r} was given up, its rows are as they were",
            ) from None

    async def _check_states(self, name: str) -> CheckReport:
        (projection,) = _states(name)
        return await asyncio.to_thread(check_states, self.log, projection)

    @staticmethod
    def _carried(progress: Progress | None) -> Progress | None:
        """What may be called from any thread and calls `progress` on the event loop."""
        if progress is None:
            return None
        loop = asyncio.get_running_loop()

        def told(done: int, total: int) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(progress, done, total)

        return told

    def learn(self, projections: Mapping[str, Projection]) -> None:
        """Makes projections known that are not followed."""
        self._learned.update(projections)

    def find(self, name: str) -> Follow | None:
        """A projection by event type that this engine follows or knows; None: it is one of the engine's states.

        Raises:
            UnknownProjection: it knows none of that name.
        """
        follow = self._follows.get(name)
        if follow is not None:
            return follow
        projection = self._learned.get(name) or next((own for own in own_inline() if own.name == name), None)
        if projection is None and name in bundled():
            projection = bundled()[name]()
        if projection is not None:
            return Follow(projection, self._store(projection))
        if name in {state.name for state in state_projections()}:
            return None
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownProjection:
        states = {projection.name for projection in state_projections()}
        inline = {projection.name for projection in own_inline()}
        return UnknownProjection(name, {*self._follows, *self._learned, *bundled(), *states, *inline})

    async def drop(self, name: str) -> None:
        """Removes a projection that no engine follows; see `Engine.drop_projection`."""
        if name in {
            *bundled(),
            *(own.name for own in own_inline()),
            *(own.name for own in state_projections()),
        }:
            raise ProjectionInUse(name, "it comes with wfes, which makes it again")
        if name in self._follows:
            raise ProjectionInUse(name, "this very engine follows it; open one without it")
        await asyncio.to_thread(self._drop, name)

    def _drop(self, name: str) -> None:
        log_store = self._log_store
        assert log_store is not None
        learned = self._learned.get(name)
        store = log_store if learned is None else self._store(learned)
        if not store.exists():
            raise self._unknown(name)
        with store.snapshot() as view:
            there = registry.find(view.query, name), registry.find(view.query, name + NEXT)
        if there == (None, None):
            raise self._unknown(name)
        who = followed_by(log_store, name, self._now(), self._stopping)
        if self._closed:
            raise LogUnavailable(self.log.url, "this engine was closed")
        if who is not None:
            raise ProjectionInUse(
                name, f"an engine follows it: {who}; close that, or open it without the projection"
            )
        store.write(lambda target: forget(target, store.url, store.dialect, name))

    async def retry(self, name: str) -> None:
        """Lets a stopped projection try again; see `Engine.retry_projection`."""
        assert self._following is not None
        assert self._log_store is not None
        follow = self._follows.get(name)
        learned = self._learned.get(name)
        store = follow.store if follow is not None else self._log_store
        if follow is None and learned is not None:
            store = self._store(learned)
        found = await asyncio.to_thread(store.write, partial(_started_again, name=name, now=self._now()))
        if not found and follow is None:
            raise self._unknown(name)
        if follow is not None:
            self._following.look(follow)

    async def statuses(self) -> list[ProjectionStatus]:
        """How projections are; see `Engine.projections`."""
        own = self._log_store
        assert own is not None
        known = [
            Known(follow.projection, follow.store, follow.store is not own)
            for follow in self._follows.values()
        ]
        for projection in self._learned.values():
            if projection.name not in self._follows:
                store = self._store(projection)
                known.append(Known(projection, store, store is not own, followed=False))
        return await asyncio.to_thread(statuses, self.log, known, own, self._now())

    # -- Asking ------------------------------------------------------------------------------------------------------

    async def ask(self, question: Query[T], at_least: int | None, seconds: float | None) -> Answer[T]:
        """The answer to a question; see `Engine.query`."""
        until = Deadline(WAIT_SECONDS if seconds is None else seconds)
        follow = self._follows.get(question.projection.name)
        if follow is None or not isinstance(follow.projection, question.projection):
            follow = self._demanded(question.projection)
            # Whoever asks first gets what is in the log by now.
            at_least = max(at_least or 0, await asyncio.to_thread(self.log.max_notification_id))
        await self._ready(follow, until)
        if at_least is not None:
            await self.reflect(follow, at_least, until)
        return await asyncio.to_thread(self._answer, follow, question)

    def _demanded(self, wanted: type[Projection]) -> Follow:
        if wanted.name in self._follows or bundled().get(wanted.name) is not wanted:
            raise UnknownProjection(wanted.name, self._follows)
        return self._follow(wanted())

    def _answer(self, follow: Follow, question: Query[T]) -> Answer[T]:
        """From any thread but the loop's."""
        projection = follow.projection
        with follow.store.snapshot() as view:
            entry = registry.find(view.query, projection.name)
            if entry is None:
                raise ProjectionNotReady(projection.name, "its tables are not made yet")
            try:
                value = question.run(projection, Reader(projection.tables, view.query))
            except LogUnavailable:
                raise
            except Exception as error:
                if entry.version >= projection.version:
                    raise
                # A snapshot of its own: after a failed statement some databases answer nothing more in the first.
                with follow.store.snapshot() as later:
                    raise self._not_ready(later, entry, projection) from error
        return Answer(value, self._reflected(follow, entry))

    def _not_ready(
        self, view: View, entry: Entry, projection: Projection
    ) -> ProjectionNotReady | ProjectionStopped:
        """Why rows of an older version do not answer, and when others will."""
        building = registry.find(view.query, projection.name + NEXT)
        if building is not None and building.status == STOPPED:
            return ProjectionStopped(projection.name, building.error_position, building.error)
        done = 0 if building is None else building.position or 0
        head = max(1, self.log.max_notification_id())
        return ProjectionNotReady(
            projection.name,
            f"its rows are of version {entry.version}, and those of version {projection.version} are being built: "
            f"{done:,} of {head:,} positions done ({done / head:.0%})",
        )

    async def _ready(self, follow: Follow, until: Deadline) -> None:
        """Returns once it is known what the rows are of."""
        with self._listening():
            while follow.mode == NEW:
                pulse = self._pulse
                if isinstance(follow.trouble, LogUnavailable) and not follow.trouble.retryable:
                    reason = f"its tables cannot be made: {follow.trouble}"
                    raise ProjectionNotReady(follow.projection.name, reason)
                if follow.mode == NEW and not await self._changed(follow, pulse, until):
                    reason = f"its tables are being made: {follow.trouble or 'not yet'}"
                    raise ProjectionNotReady(follow.projection.name, reason)
        if follow.mode == BROKEN and follow.trouble is not None:
            raise follow.trouble

    async def reflect(self, follow: Follow, position: int, until: Deadline) -> None:
        """Returns once the rows reflect a position of the log.

        Raises:
            ProjectionStopped: a handler raised; they will not.
            ProjectionNotReady: they are of a newer version than this program's, and do not yet.
            TimeoutError: they do not in time.
        """
        assert self._following is not None
        with self._listening():
            while True:
                pulse = self._pulse
                entry = follow.entry
                if follow.mode != FOLLOWING:
                    entry = await asyncio.to_thread(self.current, follow)
                if entry is not None and (entry.position or 0) >= position:
                    return
                if follow.mode == SUPERSEDED and entry is not None:
                    raise _superseded(follow, entry, position)
                if follow.mode not in (NEW, FOLLOWING):
                    await asyncio.to_thread(self._raise_stopped, follow, entry)
                self._following.want(follow, position)
                if not await self._changed(follow, pulse, until):
                    raise self._too_late(follow, entry, position, until)

    def _too_late(self, follow: Follow, entry: Entry | None, position: int, until: Deadline) -> TimeoutError:
        assert self._following is not None
        state = follow.mode if entry is None else entry.status
        version = follow.projection.version
        if entry is not None and entry.version != version:
            state += f" with rows of version {entry.version}, where this program has version {version}"
        return TimeoutError(
            f"projection {follow.projection.name!r} did not reach position {position} within {until.seconds:g}s; it is "
            f"{state}, at {0 if entry is None else entry.position}, and the log is at {self._following.head}"
            + (f": {follow.trouble}" if follow.trouble else "")
        )

    def _raise_stopped(self, follow: Follow, entry: Entry | None) -> None:
        """Raises if a handler stopped these rows, or those that are to replace them. From a thread."""
        name = follow.projection.name
        if entry is not None and entry.version < follow.projection.version:
            with follow.store.snapshot() as view:
                entry = registry.find(view.query, name + NEXT)
        if entry is not None and entry.status == STOPPED:
            raise ProjectionStopped(name, entry.error_position, entry.error)

    def current(self, follow: Follow) -> Entry | None:
        """What the rows are of by now. From any thread but the loop's."""
        with follow.store.snapshot() as view:
            entry = registry.find(view.query, follow.projection.name)
        return None if entry is None else dataclasses.replace(entry, position=self._reflected(follow, entry))

    def _reflected(self, follow: Follow, entry: Entry) -> int:
        """Up to where rows reflect the log that a moment ago were those of this entry."""
        if not follow.projection.inline:
            return entry.position or 0
        return reflected(self.log, follow.projection, entry, self.log.max_notification_id())

    @contextmanager
    def _listening(self) -> Generator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                for follow in self._follows.values():
                    follow.wanted = 0  # nobody needs a checkpoint sooner than it comes by itself

    async def _changed(self, follow: Follow, pulse: asyncio.Event, until: Deadline) -> bool:
        """Waits for something to have changed; False: the time is over."""
        if self._closed:
            raise LogUnavailable(self.log.url, "this engine was closed")
        left = until.left
        if left <= 0:
            return False
        # What another process does is not told of here: it is looked at.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, left if follow.mode == FOLLOWING else POLL_SECONDS)):
                await pulse.wait()
        return True


def _started_again(target: Target, name: str, now: int) -> bool:
    """Clears what stopped a projection's rows, and those being built; whether there are any."""
    found = [registry.find(target.query, each) for each in (name, name + NEXT)]
    for entry in found:
        if entry is not None and entry.status == STOPPED:
            status = BUILDING if entry.name != name else LIVE
            cleared = dataclasses.replace(
                entry, status=status, error=None, error_position=None, updated_at=now
            )
            registry.put(target.query, cleared)
    return found[0] is not None


def _superseded(follow: Follow, entry: Entry, position: int) -> ProjectionNotReady:
    name, version = entry.name, follow.projection.version
    return ProjectionNotReady(
        name,
        f"its rows are of version {entry.version} and at position {entry.position}, not yet at {position}; this "
        f"program has version {version} and cannot bring them there: run the one that has version {entry.version}",
    )


def _states(name: str) -> list[StateProjection]:
    return [projection for projection in state_projections() if projection.name == name]


class Deadline:
    """A moment to wait until.

    Attributes:
        seconds: how long that was from the beginning.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; negative: it is past."""
        return self._end - time.monotonic()
