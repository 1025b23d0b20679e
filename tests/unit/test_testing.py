"""The test kit: time moves only when it is told to, and nothing waits for it."""

from __future__ import annotations

import asyncio
import doctest
import time
from datetime import UTC, datetime, timedelta

import pytest

from wfes import Status, Step, testing, workflow
from wfes.testing import VirtualClock


@workflow
async def months(count: int, step: Step) -> list[str]:
    seen: list[str] = []
    for _ in range(count):
        await step.sleep("month", "30d")
        seen.append(await step("look", lambda: "looked"))
    return seen


@workflow(requests={"approval": bool})
async def approve(step: Step) -> bool:
    approved: bool = await step.request("approval", "Go on?", timeout="7d")
    return approved


def test_a_clock_starts_where_it_is_told_and_moves_by_hand() -> None:
    async def main() -> None:
        clock = VirtualClock(datetime(2031, 5, 1, tzinfo=UTC))
        calls: list[tuple[int, datetime]] = []
        for days in (3, 1, 2, 1):
            clock.call_at(clock.now() + days * 86_400_000_000, lambda d=days: calls.append((d, clock.time)))  # type: ignore[misc]
        dropped = clock.call_at(clock.now() + 1, lambda: calls.append((0, clock.time)))
        dropped.cancel()
        await clock.advance("2d")
        assert calls == [(day, datetime(2031, 5, 1 + day, tzinfo=UTC)) for day in (1, 1, 2)]
        assert clock.time == datetime(2031, 5, 3, tzinfo=UTC)
        await clock.advance(timedelta(hours=1))
        assert clock.time == datetime(2031, 5, 3, 1, tzinfo=UTC)
        assert clock.next_due == clock.now() + 23 * 3_600_000_000

    asyncio.run(main())


def test_what_is_due_comes_at_the_next_turn_and_can_be_cancelled() -> None:
    async def main() -> None:
        clock = VirtualClock()
        calls: list[int] = []
        clock.call_at(clock.now(), lambda: calls.append(1))
        clock.call_at(clock.now() - 5, lambda: calls.append(2)).cancel()
        assert not calls
        await asyncio.sleep(0)
        assert calls == [1]

    asyncio.run(main())


def test_a_naive_start_and_a_negative_step_are_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        VirtualClock(datetime(2031, 5, 1))
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(VirtualClock().advance(-1))


def test_advance_stops_at_each_due_moment() -> None:
    async def main() -> None:
        async with testing.engine([months]) as env:
            run = await months.start(3)
            started = env.clock.time
            await env.advance("89d")
            assert (await run.refresh()).status is Status.LISTENING
            assert len([x for x in await run.history() if x.type == "StepCompleted"]) == 2
            await env.advance("1d")
            assert await run.result() == ["looked"] * 3
            ended = (await run.history())[-1].at
            assert timedelta(days=90) <= ended - started < timedelta(days=90, seconds=1)

    asyncio.run(main())


def test_a_year_takes_no_time() -> None:
    async def main() -> None:
        before = time.monotonic()
        async with testing.engine([months], auto_advance=True) as env:
            runs = [await months.start(12) for _ in range(10)]
            for run in runs:
                assert await run.result() == ["looked"] * 12
            assert env.clock.time - testing.START >= timedelta(days=360)
        assert time.monotonic() - before < 20

    asyncio.run(main())


def test_until_moves_the_clock_as_far_as_needed() -> None:
    async def main() -> None:
        async with testing.engine([months, approve]) as env:
            run = await months.start(2)
            assert await env.until(run.result()) == ["looked"] * 2
            asked = await approve.start()
            await env.settle()
            (request,) = (await env.engine.requests()).items
            await approve.provide(request, True)
            assert await env.until(asked.result()) is True
            assert env.clock.time - testing.START < timedelta(days=61)

    asyncio.run(main())


def test_until_says_when_nothing_can_come_any_more() -> None:
    async def main() -> None:
        async with testing.engine([months]) as env:
            with pytest.raises(TimeoutError, match="nothing is due"):
                await env.until(asyncio.get_running_loop().create_future())

    asyncio.run(main())


def test_a_running_step_holds_the_clock() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def work() -> str:
            await gate.wait()
            return "done"

        @workflow
        async def waits(step: Step) -> str:
            return await step("work", work, timeout=None)

        @workflow
        async def sleeps(step: Step) -> None:
            await step.sleep("a day", "1d")

        async with testing.engine([waits, sleeps], auto_advance=True) as env:
            busy = await waits.start()
            run = await sleeps.start()
            for _ in range(200):
                await asyncio.sleep(0)
            assert env.clock.time == testing.START
            gate.set()
            assert await busy.result() == "done"
            await run.result()

    asyncio.run(main())


def test_the_example_runs() -> None:
    assert doctest.testmod(testing).failed == 0
