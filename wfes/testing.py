"""A test kit for workflows: an engine in memory on a clock that the test moves.

A test of a workflow that sleeps for thirty days takes milliseconds: nothing waits for time, time waits for the test.
Between two moments the clock lets everything *settle*: it moves on only when every handler in memory waits for
something and nothing is on its way to the log. What runs in step functions is real and takes the time it takes.

>>> import asyncio
>>> from wfes import Step, testing, workflow
>>> @workflow
... async def remind(step: Step) -> str:
...     await step.sleep("a month", "30d")
...     return "time is over"
>>> async def main() -> None:
...     async with testing.engine([remind]) as env:
...         run = await remind.start()
...         await env.advance("29d")
...         print((await run.refresh()).status)
...         await env.advance("1d")
...         print(await run.result())
>>> asyncio.run(main())
listening
time is over
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from wfes.core import durations
from wfes.core.codec import Json
from wfes.core.durations import Duration
from wfes.definition import Workflow
from wfes.engine import Engine
from wfes.replays import assert_replays, save_histories
from wfes.runtime.clock import Cancellable, Clock
from wfes.runtime.commands import Command

__all__ = ["Environment", "VirtualClock", "assert_replays", "engine", "save_histories"]

T = TypeVar("T")

START = datetime(2030, 1, 1, tzinfo=UTC)
"""Where a virtual clock starts by default."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CALM_TURNS = 20
"""How many turns of the event loop must find nothing going on; a test's own tasks get these turns."""
_PAUSE_SECONDS = 0.000_5
"""How long other threads get before it is looked again whether they are done."""


@dataclass(order=True, slots=True)
class _Alarm:
    due: int
    number: int
    callback: Callable[[], object] | None = field(compare=False)

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A clock that stands still until it is moved. For one event loop's thread."""

    def __init__(self, start: datetime = START) -> None:
        """Makes a clock.

        Args:
            start: the moment it shows first; aware.

        Raises:
            ValueError: `start` is naive.
        """
        if start.tzinfo is None:
            raise ValueError(f"start is {start!r}, which is naive; it must have a time zone")
        self._now = (start - _EPOCH) // _MICROSECOND
        self._alarms: list[_Alarm] = []
        self._numbers = count()
        self._quiet: list[Callable[[], bool]] = []

    def now(self) -> int:
        """The moment it shows, in microseconds since the Unix epoch."""
        return self._now

    @property
    def time(self) -> datetime:
        """The moment it shows."""
        return _EPOCH + self._now * _MICROSECOND

    @property
    def next_due(self) -> int | None:
        """When something is to happen next, in microseconds; None: nothing is waited for."""
        while self._alarms and self._alarms[0].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0].due if self._alarms else None

    def call_at(self, due: int, callback: Callable[[], object]) -> Cancellable:
        """Calls `callback` when the clock reaches `due`; at the loop's next turn if it has."""
        if due <= self._now:
            return asyncio.get_running_loop().call_soon(callback)
        alarm = _Alarm(due, next(self._numbers), callback)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def call_at_wall(self, due: int, callback: Callable[[], object]) -> Cancellable:
        """As `call_at`: there is one clock here."""
        return self.call_at(due, callback)

    def join(self, quiet: Callable[[], bool]) -> Callable[[], None]:
        """Makes the clock wait, before it moves, until `quiet()` is true; returns what undoes that."""
        self._quiet.append(quiet)
        return lambda: self._quiet.remove(quiet)

    async def settle(self) -> None:
        """Waits, without moving the clock, until nothing goes on any more but waiting."""
        calm = 0
        while calm < _CALM_TURNS:
            if all(quiet() for quiet in self._quiet):
                calm += 1
                await asyncio.sleep(0)
            else:
                calm = 0
                await asyncio.sleep(_PAUSE_SECONDS)

    async def advance(self, duration: Duration) -> None:
        """Moves the clock, stopping at each moment at which something is due, and settles.

        Args:
            duration: how far; a `timedelta`, a number of seconds, or text such as "2d".

        Raises:
            ValueError: it is negative or cannot be read.
        """
        target = self._now + durations.micros(duration)
        await self.settle()
        while (due := self.next_due) is not None and due <= target:
            self._jump(due)
            await self.settle()
        self._now = target
        await self.settle()

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Awaits something, and moves the clock to whatever is due next each time everything has settled.

        Args:
            awaitable: such as `run.result()`. Where a schedule ticks something is always due: then it is waited for
                until it is done, however late.

        Raises:
            TimeoutError: everything has settled, nothing is due any more, and it is still not done.
        """
        task = asyncio.ensure_future(awaitable)
        try:
            while not task.done():
                await self.settle()
                # Once more after settling: what has just been committed may be on its way to it.
                if task.done():
                    break
                due = self.next_due
                if due is None:
                    raise TimeoutError(
                        f"nothing is due after {self.time.isoformat()} and what was awaited is not there; "
                        "somebody has to send or provide something first"
                    )
                self._jump(due)
        except BaseException:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
            raise
        return await task

    async def run_ahead(self) -> None:
        """Moves the clock to whatever is due next whenever everything has settled, until this is cancelled."""
        while True:
            await self.settle()
            due = self.next_due
            if due is None:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._jump(due)

    def _jump(self, due: int) -> None:
        self._now = max(self._now, due)
        while (first := self.next_due) is not None and first <= self._now:
            alarm = heapq.heappop(self._alarms)
            callback, alarm.callback = alarm.callback, None
            if callback is not None:
                callback()


class _Engine(Engine):
    """An engine on a virtual clock that knows whether anything is going on in it."""

    def __init__(self, url: str, clock: VirtualClock, **options: Any) -> None:
        super().__init__(url, **options)
        self._virtual = clock
        self._commands = 0

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        return self._virtual

    async def perform(self, name: str, command: Command, connection: object = None) -> Json:
        self._commands += 1
        try:
            return await super().perform(name, command, connection)
        finally:
            self._commands -= 1

    def is_quiet(self) -> bool:
        """Whether every handler in memory waits and nothing is on its way to the log."""
        return not self._commands and self._parts.quiet


@dataclass(frozen=True, slots=True)
class Environment:
    """An open engine and its clock.

    Attributes:
        engine: the engine; the current one of the test's context.
        clock: the clock it lives by.
    """

    engine: Engine
    clock: VirtualClock

    async def settle(self) -> None:
        """See `VirtualClock.settle`."""
        await self.clock.settle()

    async def advance(self, duration: Duration) -> None:
        """See `VirtualClock.advance`."""
        await self.clock.advance(duration)

    async def until(self, awaitable: Awaitable[T]) -> T:
        """See `VirtualClock.until`."""
        return await self.clock.until(awaitable)


@asynccontextmanager
async def engine(
    workflows: Iterable[Workflow[Any, Any]],
    *,
    clock: VirtualClock | None = None,
    auto_advance: bool = False,
    url: str = "sqlite://",
    **options: Any,
) -> AsyncGenerator[Environment]:
    """An engine for a test: in memory, on a virtual clock.

    Args:
        workflows: what it runs.
        clock: its clock; several engines may live by one. Default: a new one.
        auto_advance: move the clock by itself whenever everything waits. A wait with a time-out then times out
            unless what it waits for is there; use `Environment.until` to say what is waited for.
        url: the log; default: in memory.
        options: any other option of `Engine`.

    Yields:
        The open engine with its clock.
    """
    time = clock if clock is not None else VirtualClock()
    made = _Engine(url, time, workflows=workflows, **options)
    async with made:
        leave = time.join(made.is_quiet)
        runner = asyncio.create_task(time.run_ahead()) if auto_advance else None
        try:
            yield Environment(made, time)
        finally:
            leave()
            if runner is not None:
                runner.cancel()
                with suppress(asyncio.CancelledError):
                    await runner
