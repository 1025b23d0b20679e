"""The projections of an open engine: which there are, where their rows are, who keeps them, and asking them.

Owns the thread that follows (`wfes.subscription.following`), the stores, and whoever waits for a projection to get
somewhere. What the engine was given is followed from the start; the bundled models only once somebody asks them.

Everything here belongs to the engine's event loop, but what is named otherwise.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from wfes.errors import (
    DuplicateProjection,
    LogUnavailable,
    ProjectionNotReady,
    ProjectionStopped,
    UnknownProjection,
)
from wfes.log.port import Log, Member
from wfes.runtime.values import Values
from wfes.subscription import registry
from wfes.subscription.following import BROKEN, FOLLOWING, NEW, Follow, Following
from wfes.subscription.projection import Projection, Query
from wfes.subscription.reader import Reader
from wfes.subscription.registry import STOPPED, Entry
from wfes.subscription.runner import Runner
from wfes.subscription.stores import LogStore, OwnStore, Store, View, path_of
from wfes.subscription.table import NEXT, OLD
from wfes.surroundings import EventSurroundings
from wfes.validation import shown
from wfes.views import Answer

T = TypeVar("T")

WAIT_SECONDS = 30.0
"""How long a query waits for the position it was asked to reflect, by default."""
POLL_SECONDS = 0.02
"""How often somebody else's progress is looked at while a query waits for it."""
RESERVED = "wfes_"
"""What only the engine's own projections and tables are named by."""


def checked_projections(given: object) -> dict[str, Projection]:
    """Projections by name, given as classes or as made ones.

    Raises:
        TypeError: one is no projection.
        ValueError: a name is the engine's own.
        DuplicateProjection: two have the same name, or tables of the same name.
    """
    if isinstance(given, (str, bytes, Projection)) or not isinstance(given, Iterable):
        raise TypeError(
            f"projections is {shown(given)}; it must be several projections, such as [OrdersByDay]"
        )
    found: dict[str, Projection] = {}
    tables: dict[str, Projection] = {}
    for each in cast("Iterable[object]", given):
        projection = _projection(each)
        check_name(projection)
        known = found.setdefault(projection.name, projection)
        if known is not projection:
            raise DuplicateProjection(projection.name, _place(known), _place(projection))
        for row in projection.tables:
            other = tables.setdefault(row.table.name, projection)
            if other is not projection:
                raise DuplicateProjection(row.table.name, _place(other), _place(projection), what="table")
    return found


def _projection(given: object) -> Projection:
    if inspect.isclass(given) and issubclass(given, Projection):
        return given()
    if not isinstance(given, Projection):
        raise TypeError(
            f"projections holds {shown(given)}, which is no projection; it must be a class such as "
            "`class OrdersByDay(Projection)`, or one made of it"
        )
    if given.url is not None:
        path_of(given.url)
    return given


def check_name(projection: Projection) -> None:
    """Refuses names that are the engine's own.

    Raises:
        ValueError: its name or a table's is.
    """
    if type(projection).__module__.startswith("wfes_projections"):
        return
    names = [("", projection.name), *(("table ", row.table.name) for row in projection.tables)]
    for what, name in names:
        if name.startswith(RESERVED) or name.endswith((NEXT, OLD)):
            raise ValueError(
                f"{what}{name!r} of projection {projection.name!r} is a name of the engine's own: names must not begin "
                f"with {RESERVED!r} nor end in {NEXT!r} or {OLD!r}"
            )


def _place(projection: Projection) -> str:
    return f"{type(projection).__module__}.{type(projection).__qualname__}"


def _bundled() -> Mapping[str, type[Projection]]:
    # Inside a function: the projections import the packages below this one.
    import wfes_projections

    following: Callable[[], Iterable[type[Projection]]] = getattr(wfes_projections, "following", tuple)
    return {projection.name: projection for projection in following()}


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
        self._stores: dict[str, Store] = {}
        self._log_store: LogStore | None = None
        self._following: Following | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = 0
        self._pulse = asyncio.Event()
        self._closed = False

    # -- Opening and closing -----------------------------------------------------------------------------------------

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        submit: Callable[[Member], None],
        now: Callable[[], int],
    ) -> None:
        """Begins to follow what the engine was given.

        Args:
            loop: the engine's.
            submit: puts a member into the writer's queue.
            now: the engine's clock, microseconds since the Unix epoch.
        """
        self._loop = loop
        self._log_store = LogStore(self.log, submit)
        self._following = Following(
            self.log,
            EventSurroundings(self.log, self._values),
            now,
            told=self._told,
            outdated=self._outdated,
            join=self._join,
            joined=self._joined,
        )
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
        path = path_of(projection.url)
        key = str(path.absolute())
        if key == str(getattr(self.log, "path", None)):
            return self._log_store
        return self._stores.setdefault(key, OwnStore(path, projection.url))

    async def stop(self) -> None:
        """Ends following; what is not written yet is read again by whoever opens the log next."""
        self._closed = True
        self._pulse.set()
        if self._log_store is not None:
            self._log_store.close()
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
        return self._following is None or self._following.quiet

    # -- Called from the following thread ------------------------------------------------------------------------------

    def _told(self) -> None:
        if self._waiting and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tell_waiting)

    def _tell_waiting(self) -> None:
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    def _outdated(self, follow: Follow) -> None:
        """Its rows are of an older version."""

    def _join(self, follow: Follow, runner: Runner) -> bool:
        return False

    def _joined(self, follow: Follow) -> bool:
        return False

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
        if wanted.name in self._follows or _bundled().get(wanted.name) is not wanted:
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
                raise ProjectionNotReady(projection.name, self._progress(view, entry, projection)) from error
        return Answer(value, entry.position or 0)

    def _progress(self, view: View, entry: Entry, projection: Projection) -> str:
        building = registry.find(view.query, projection.name + NEXT)
        done = 0 if building is None else building.position or 0
        head = max(1, self.log.max_notification_id())
        return (
            f"its rows are of version {entry.version}, and those of version {projection.version} are being built: "
            f"{done:,} of {head:,} positions done ({done / head:.0%})"
        )

    async def _ready(self, follow: Follow, until: Deadline) -> None:
        """Returns once it is known what the rows are of."""
        with self._listening():
            while follow.mode == NEW:
                pulse = self._pulse
                if follow.mode == NEW and not await self._changed(follow, pulse, until):
                    reason = f"its tables are being made: {follow.trouble or 'not yet'}"
                    raise ProjectionNotReady(follow.projection.name, reason)
        if follow.mode == BROKEN and follow.trouble is not None:
            raise follow.trouble

    async def reflect(self, follow: Follow, position: int, until: Deadline) -> None:
        """Returns once the rows reflect a position of the log.

        Raises:
            ProjectionStopped: a handler raised; they will not.
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
                if entry is not None and entry.status == STOPPED and follow.mode not in (NEW, FOLLOWING):
                    raise ProjectionStopped(entry.name, entry.error_position, entry.error)
                self._following.want(follow, position)
                if not await self._changed(follow, pulse, until):
                    raise self._too_late(follow, entry, position, until)

    def _too_late(self, follow: Follow, entry: Entry | None, position: int, until: Deadline) -> TimeoutError:
        assert self._following is not None
        state = follow.mode if entry is None else entry.status
        return TimeoutError(
            f"projection {follow.projection.name!r} did not reach position {position} within {until.seconds:g}s; it is "
            f"{state}, at {0 if entry is None else entry.position}, and the log is at {self._following.head}"
            + (f": {follow.trouble}" if follow.trouble else "")
        )

    def current(self, follow: Follow) -> Entry | None:
        """What the rows are of by now. From any thread but the loop's."""
        with follow.store.snapshot() as view:
            return registry.find(view.query, follow.projection.name)

    @contextmanager
    def _listening(self) -> Generator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

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
