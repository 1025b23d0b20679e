"""The clock that executions and workers live by.

Owns two promises of guarantee G7: what is due at a moment never happens before that moment by the wall clock, and
never earlier, by the monotonic clock, than it was away when asked for. So a wall clock set forward hastens nothing
in a running process, one set back delays (people who set a clock back mean it), and rounding in the event loop's
timers cannot fire one a little early: every firing looks at both clocks and waits for the rest. What is due by the
calendar (a schedule's ticks) asks for the wall clock alone, and then follows it forward, too.

Everything is integer microseconds; only the event loop's own timers take seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

WALL_RECHECK_SECONDS_MAX = 30.0
"""Longest sleep while waiting for the wall clock to show a moment: so long a clock set forward may go unnoticed."""
RECHECK_SECONDS_MAX = 10.0
"""Longest sleep while waiting for a wall clock that was set back, for it may be set right at any moment."""


class Cancellable(Protocol):
    """A callback asked for and perhaps not called yet."""

    def cancel(self) -> None:
        """Makes it never be called; nothing happens if it was."""
        ...


class Clock(Protocol):
    """Tells the time and calls back at a time. For the event loop's thread, but for `now`."""

    def now(self) -> int:
        """The wall clock, in microseconds since the Unix epoch. From any thread."""
        ...

    def call_at(self, due: int, callback: Callable[[], object]) -> Cancellable:
        """Calls `callback` on the event loop's thread once it is due: from a later turn, never from within this call.

        Args:
            due: microseconds since the Unix epoch; in the past: at the loop's next turn.
            callback: called without arguments, at most once.
        """
        ...

    def call_at_wall(self, due: int, callback: Callable[[], object]) -> Cancellable:
        """Calls `callback` on the event loop's thread once the wall clock shows `due`, however it came to that.

        For what is due by the calendar: a wall clock set forward is followed, within 30 seconds.

        Args:
            due: microseconds since the Unix epoch; in the past: at the loop's next turn.
            callback: called without arguments, at most once.
        """
        ...


class SystemClock:
    """The clock of this machine, with an event loop's timers.

    Attributes:
        ahead: how many nanoseconds wall clock time is ahead of the monotonic clock, where somebody else tells the time
            than this machine; None: this machine's wall clock counts. May be set from any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Makes the clock.

        Args:
            loop: where callbacks are called.
            wall, monotonic: nanosecond clocks, replaced in tests.
        """
        self.ahead: int | None = None
        self._loop = loop
        self._wall = wall
        self._monotonic = monotonic

    def _time(self) -> int:
        ahead = self.ahead
        return self._wall() if ahead is None else self._monotonic() + ahead

    def now(self) -> int:
        return self._time() // 1_000

    def call_at(self, due: int, callback: Callable[[], object]) -> Cancellable:
        return _Timer(self._loop, self._time, self._monotonic, due, callback)

    def call_at_wall(self, due: int, callback: Callable[[], object]) -> Cancellable:
        return _WallTimer(self._loop, self._time, due, callback)


class _Timer:
    """One pending callback."""

    __slots__ = ("_callback", "_due", "_floor", "_handle", "_loop", "_monotonic", "_wall")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], int],
        monotonic: Callable[[], int],
        due: int,
        callback: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._wall = wall
        self._monotonic = monotonic
        self._callback: Callable[[], object] | None = callback
        self._due = due * 1_000
        away = max(0, self._due - wall())
        self._floor = monotonic() + away
        self._handle: asyncio.Handle | None = loop.call_later(away / 1e9, self._fire)

    def cancel(self) -> None:
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        callback = self._callback
        if callback is None:
            return
        by_wall = self._due - self._wall()
        by_monotonic = self._floor - self._monotonic()
        if by_monotonic > 0:
            self._handle = self._loop.call_later(by_monotonic / 1e9, self._fire)
        elif by_wall > 0:
            self._handle = self._loop.call_later(min(by_wall / 1e9, RECHECK_SECONDS_MAX), self._fire)
        else:
            self._callback = self._handle = None  # a timer that is over is part of no circle of references
            callback()


class _WallTimer:
    """One pending callback that waits for the wall clock alone."""

    __slots__ = ("_callback", "_due", "_handle", "_loop", "_wall")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], int],
        due: int,
        callback: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._wall = wall
        self._due = due * 1_000
        self._callback: Callable[[], object] | None = callback
        self._handle = self._wait()

    def cancel(self) -> None:
        self._callback = None
        self._handle.cancel()

    def _wait(self) -> asyncio.Handle:
        away = max(0, self._due - self._wall()) / 1e9
        return self._loop.call_later(min(away, WALL_RECHECK_SECONDS_MAX), self._fire)

    def _fire(self) -> None:
        callback = self._callback
        if callback is None:
            return
        if self._wall() < self._due:
            self._handle = self._wait()
            return
        self._callback = None
        callback()
