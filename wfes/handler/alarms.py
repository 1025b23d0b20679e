"""Real time for one execution: its own named alarms, and the plain asyncio timers of its handler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from wfes.handler.timers import PrivateTimer

if TYPE_CHECKING:
    from wfes.handler.loop import PrivateLoop
    from wfes.runtime.clock import Cancellable, Clock


class Alarms:
    """Named callbacks at a time; a name has one at most."""

    __slots__ = ("_clock", "_pending")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, Cancellable] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._pending

    def set(self, name: str, due: int, callback: Callable[[], None]) -> None:
        """Calls back at ``due`` microseconds, in place of what was set under this name."""
        self.cancel(name)

        def ring() -> None:
            del self._pending[name]
            callback()

        self._pending[name] = self._clock.call_at(due, ring)

    def cancel(self, name: str) -> None:
        """Takes back what was set under this name."""
        alarm = self._pending.pop(name, None)
        if alarm is not None:
            alarm.cancel()

    def clear(self) -> None:
        """Takes back everything."""
        for name in list(self._pending):
            self.cancel(name)


class HandlerTimers:
    """Gives the private loop's timers their real time.

    Attributes:
        dues: when each known timer is due, in microseconds, by delay and number.
    """

    __slots__ = ("_armed", "_clock", "_due", "_loop", "_origin", "dues")

    def __init__(
        self, loop: PrivateLoop, clock: Clock, origin: int, due: Callable[[PrivateTimer], None]
    ) -> None:
        """Makes it.

        Args:
            loop: whose timers they are.
            clock: real time.
            origin: the moment from which the loop counts its seconds, in microseconds.
            due: called with a timer whose time has come.
        """
        self._loop = loop
        self._clock = clock
        self._origin = origin
        self._due = due
        self._armed: dict[PrivateTimer, Cancellable] = {}
        self.dues: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._armed)

    def arm_recorded(self) -> None:
        """Arms what a replay made: due when the history says, or by the recorded time it was made at."""
        for timer in self._loop.new_timers():
            self._arm(timer, max(self._when(timer), self.dues.get((timer.delay, timer.number), 0)))
        self._loop.cancelled_timers()

    def arm(self) -> None:
        """Arms what was made since; no earlier than now plus the delay, whatever the loop's own time is."""
        for timer in self._loop.new_timers():
            self._arm(timer, max(self._when(timer), self._clock.now() + timer.delay))
        for timer in self._loop.cancelled_timers():
            alarm = self._armed.pop(timer, None)
            if alarm is not None:
                alarm.cancel()
                self.dues.pop((timer.delay, timer.number), None)

    def arm_again(self) -> None:
        """Arms what was due while nothing could fire."""
        for timer in self._loop.pending_timers():
            due = self.dues.get((timer.delay, timer.number))
            if due is not None and timer not in self._armed:
                self._arm(timer, due)

    def pending(self) -> list[tuple[PrivateTimer, int]]:
        """The timers that are open, with the moments they are due."""
        return [(timer, self.dues[timer.delay, timer.number]) for timer in self._armed]

    def clear(self) -> None:
        """Takes back everything."""
        for alarm in self._armed.values():
            alarm.cancel()
        self._armed.clear()

    def let_go(self) -> None:
        """Its execution has left: no timer is armed again."""
        del self._due

    def _arm(self, timer: PrivateTimer, due: int) -> None:
        self.dues[timer.delay, timer.number] = due
        self._armed[timer] = self._clock.call_at(due, lambda: self._ring(timer))

    def _ring(self, timer: PrivateTimer) -> None:
        self._armed.pop(timer, None)
        if not timer.cancelled():
            self._due(timer)

    def _when(self, timer: PrivateTimer) -> int:
        return self._origin + math.ceil(timer.when() * 1e6)
