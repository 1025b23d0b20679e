"""Never early, by the wall clock and by the monotonic clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wfes.runtime.clock import RECHECK_SECONDS_MAX, SystemClock

SECOND = 1_000_000_000


class Loop:
    """An event loop's timers, by hand; its timers may fire a little early, as rounding makes them."""

    def __init__(self) -> None:
        self.monotonic = 50 * SECOND
        self.wall = 1_700_000_000 * SECOND
        self.early = 0
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, callback: Callable[[], object], *args: Any) -> Timer:
        timer = Timer(self.monotonic + round(seconds * SECOND), callback)
        self.timers.append(timer)
        return timer

    def run(self, seconds: float) -> None:
        """Lets both clocks go on, firing timers on the way."""
        end = self.monotonic + round(seconds * SECOND)
        while True:
            pending = [timer for timer in self.timers if not timer.cancelled]
            first = min(pending, key=lambda timer: timer.at, default=None)
            if first is None or first.at - self.early > end:
                break
            self.timers.remove(first)
            self.go(max(0, first.at - self.early - self.monotonic))
            first.callback()
            # A loop's own time goes on between two turns, so that an early timer does not spin for ever.
            self.go(1_000)
        self.go(max(0, end - self.monotonic))

    def go(self, nanos: int) -> None:
        self.monotonic += nanos
        self.wall += nanos


class Timer:
    def __init__(self, at: int, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def make() -> tuple[Loop, SystemClock, list[int]]:
    loop = Loop()
    clock = SystemClock(loop, lambda: loop.wall, lambda: loop.monotonic)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return loop, clock, []


def test_calls_back_at_its_time_and_once() -> None:
    loop, clock, calls = make()
    clock.call_at(clock.now() + 2_000_000, lambda: calls.append(clock.now()))
    loop.run(1.9)
    assert not calls
    loop.run(100)
    assert len(calls) == 1


def test_a_past_moment_comes_at_the_next_turn_not_at_once() -> None:
    loop, clock, calls = make()
    clock.call_at(clock.now() - 5_000_000, lambda: calls.append(1))
    assert not calls
    loop.run(0)
    assert calls == [1]


def test_a_cancelled_callback_is_not_called() -> None:
    loop, clock, calls = make()
    handle = clock.call_at(clock.now() + 1_000_000, lambda: calls.append(1))
    handle.cancel()
    handle.cancel()
    loop.run(10)
    assert not calls
    done = clock.call_at(clock.now(), lambda: calls.append(2))
    loop.run(1)
    done.cancel()
    assert calls == [2]


def test_a_wall_clock_set_back_delays() -> None:
    loop, clock, calls = make()
    due = clock.now() + 2_000_000
    clock.call_at(due, lambda: calls.append(clock.now()))
    loop.run(1)
    loop.wall -= 3600 * SECOND
    loop.run(100)
    assert not calls
    loop.run(3600)
    assert len(calls) == 1
    assert calls[0] >= due


def test_a_wall_clock_set_back_and_right_again_is_noticed_soon() -> None:
    loop, clock, calls = make()
    clock.call_at(clock.now() + 2_000_000, lambda: calls.append(1))
    loop.wall -= 365 * 86_400 * SECOND
    loop.run(3)
    loop.wall += 365 * 86_400 * SECOND
    loop.run(RECHECK_SECONDS_MAX + 1)
    assert calls == [1]


def test_a_wall_clock_set_forward_hastens_nothing() -> None:
    loop, clock, calls = make()
    clock.call_at(clock.now() + 60_000_000, lambda: calls.append(1))
    loop.wall += 3600 * SECOND
    loop.run(59)
    assert not calls
    loop.run(1.1)
    assert calls == [1]


@given(
    delay=st.integers(0, 100_000_000),
    early=st.integers(0, 2_000_000),
    sets=st.lists(st.tuples(st.floats(0, 60), st.integers(-600, 600)), max_size=6),
)
def test_never_early_by_either_clock(delay: int, early: int, sets: list[tuple[float, int]]) -> None:
    loop, clock, _ = make()
    loop.early = early
    due = clock.now() + delay
    floor = loop.monotonic + delay * 1_000
    fired: list[tuple[int, int]] = []
    clock.call_at(due, lambda: fired.append((clock.now(), loop.monotonic)))
    for seconds, change in sets:
        loop.run(seconds)
        loop.wall += change * SECOND
    loop.run(100 + 6 * 600 + 20)
    assert len(fired) == 1
    wall, monotonic = fired[0]
    assert wall >= due
    assert monotonic >= floor


def test_on_a_real_loop() -> None:
    async def main() -> None:
        clock = SystemClock(asyncio.get_running_loop())
        called = asyncio.get_running_loop().create_future()
        due = clock.now() + 3_000
        clock.call_at(due, lambda: called.set_result(clock.now()))
        assert await called >= due

    asyncio.run(main())


def test_a_wall_clock_set_forward_is_followed_by_what_waits_for_it_within_half_a_minute() -> None:
    loop, clock, calls = make()
    due = clock.now() + 3_600_000_000
    clock.call_at_wall(due, lambda: calls.append(clock.now()))
    loop.run(60)
    assert not calls
    loop.wall += 86_400 * SECOND
    loop.run(30.1)
    assert len(calls) == 1
    assert calls[0] >= due


def test_a_wall_clock_set_back_delays_what_waits_for_it() -> None:
    loop, clock, calls = make()
    due = clock.now() + 20_000_000
    clock.call_at_wall(due, lambda: calls.append(clock.now()))
    loop.wall -= 3_600 * SECOND
    loop.run(3_600)
    assert not calls
    loop.run(21)
    assert len(calls) == 1
    assert calls[0] >= due


def test_what_waits_for_the_wall_clock_is_never_early_and_can_be_cancelled() -> None:
    loop, clock, calls = make()
    loop.early = 900_000
    now = clock.now()
    for seconds in (0, 1, 45):
        due = now + seconds * 1_000_000
        clock.call_at_wall(due, lambda due=due: calls.append(clock.now() - due))  # type: ignore[misc]
    clock.call_at_wall(now + 1_000_000, lambda: calls.append(-1)).cancel()
    loop.run(60)
    assert len(calls) == 3
    assert all(0 <= late < 100_000 for late in calls)
