"""Timers of a handler: named, and fired by whoever owns the loop.

There is no heap and no clock here: real time is the owner's. It learns of new timers after each drain
(`new_timers`, `cancelled_timers`), names them in the log by (delay, number), and fires them by that name.
A number counts within one delay, not over all: code outside the record that makes more or fewer timers of its own
on another run then leaves the names of the others as they were.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from wfes.handler.bridge import OutsideLoop

_LONGEST_DELAY = 100 * 366 * 86_400
"""Seconds. A longer delay (infinity, say) is this one: it fits every store and is never awaited."""


class PrivateTimer(asyncio.TimerHandle):
    """A timer of a private loop: a callback with a name, which its owner fires.

    Attributes:
        delay: Microseconds from the loop's time at its creation, rounded up.
        number: 1, 2, … among the timers of this delay on this loop, in creation order.
    """

    __slots__ = ("announced", "delay", "number")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
        *,
        delay: int,
        number: int,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.delay = delay
        self.number = number
        self.announced = False


class TimedLoop(OutsideLoop):
    """The part of the private loop that keeps time and timers.

    Attributes:
        now: What `time()` returns, in seconds; only the owner sets it.
    """

    def __init__(self, outside: asyncio.AbstractEventLoop | None) -> None:
        super().__init__(outside)
        self.now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._closed = False
        self._timers: dict[tuple[int, int], PrivateTimer] = {}
        self._timer_numbers: dict[int, int] = {}
        self._fresh_timers: list[PrivateTimer] = []
        self._cancelled_timers: list[PrivateTimer] = []

    def time(self) -> float:
        """Seconds: the time of the last release, as the owner set it."""
        return self.now

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a timer; a delay of nothing or less is `call_soon`."""
        return self._timer(self.now + delay, delay * 1e6, 1e-6, callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a timer; a moment not after now is `call_soon`.

        `when` has mostly been computed as `time()` plus a delay. Taking the difference again errs by up to one
        spacing of the floats there (a quarter of a microsecond for seconds since 1970), which must not change
        the timer's name from one run to the next: an excess below two spacings is not rounded up.
        """
        return self._timer(
            when, (when - self.now) * 1e6, min(0.5, math.ulp(when) * 2e6), callback, args, context
        )

    def _timer(
        self,
        when: float,
        micros: float,
        excess: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> PrivateTimer:
        if math.isnan(micros):
            raise ValueError(f"a timer's time must be a number of seconds, not {when!r}")
        delay = math.ceil(min(micros, _LONGEST_DELAY * 1e6) - excess)
        if delay <= 0 or self._closed:
            soon = PrivateTimer(when, callback, args, self, context, delay=0, number=0)
            self._ready.append(soon)
            return soon
        number = self._timer_numbers.get(delay, 0) + 1
        self._timer_numbers[delay] = number
        timer = PrivateTimer(when, callback, args, self, context, delay=delay, number=number)
        self._timers[delay, number] = timer
        self._fresh_timers.append(timer)
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """Asyncio's hook: `timer` is being cancelled."""
        assert isinstance(timer, PrivateTimer)
        if self._timers.pop((timer.delay, timer.number), None) is not None and timer.announced:
            self._cancelled_timers.append(timer)

    def new_timers(self) -> list[PrivateTimer]:
        """The timers made since the last call that are still pending, in creation order."""
        if not self._fresh_timers:
            return []
        fresh = [timer for timer in self._fresh_timers if (timer.delay, timer.number) in self._timers]
        self._fresh_timers.clear()
        for timer in fresh:
            timer.announced = True
        return fresh

    def cancelled_timers(self) -> list[PrivateTimer]:
        """The timers given out by `new_timers` and cancelled since the last call."""
        cancelled, self._cancelled_timers = self._cancelled_timers, []
        return cancelled

    def pending_timers(self) -> list[PrivateTimer]:
        """All timers neither fired nor cancelled, in creation order."""
        return list(self._timers.values())

    def fire(self, delay: int, number: int) -> bool:
        """Make a timer's callback ready.

        Args:
            delay: The timer's delay in microseconds.
            number: Its number among the timers of that delay.

        Returns:
            False if there is no such timer or it was cancelled or fired already; nothing happens then.
        """
        timer = self._timers.pop((delay, number), None)
        if timer is None:
            return False
        self._ready.append(timer)
        return True

    def _drop_timers(self) -> None:
        for timer in self._timers.values():
            timer._cancelled = True
        self._timers.clear()
        self._fresh_timers.clear()
        self._cancelled_timers.clear()
