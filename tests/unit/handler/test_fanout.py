"""map, for_each and batch."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from wfes import Retry, Step, StepError, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel


def started(sim: Any, id: str) -> list[str]:
    return [event.path for event in sim.events(id, e.StepStarted)]


def test_results_come_in_item_order_and_so_many_run_at_a_time(make_sim: Any) -> None:
    running = most = 0

    @workflow
    async def wf(step: Step) -> list[int]:
        async def work(item: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await sim.work((7 - item) / 10)
            running -= 1
            return item * 2

        return await step.map("m", (k for k in range(7)), work, concurrency=3)

    sim: Any = None

    async def main() -> None:
        nonlocal sim, running
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [k * 2 for k in range(7)]
        assert most == 3
        assert sorted(started(sim, id)) == [f"m/{k}" for k in range(7)]
        for sim in live.cuts():
            running = 0
            await sim.run()
            assert sim.output(id) == [k * 2 for k in range(7)]
            done = [event.path for event in sim.events(id, e.StepCompleted)]
            assert len(done) == 7

    asyncio.run(main())


def test_a_failure_drops_what_has_not_begun_awaits_the_rest_and_the_earliest_is_raised(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[str]:
        async def work(item: int) -> int:
            await sim.work((5, 1, 3, 0, 0)[item])
            if item in (0, 2):
                raise ValueError(item)
            return item

        try:
            await step.map("m", range(5), work, concurrency=3)
        except StepError as error:
            return [error.step, error.error.message]
        return []

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        # 0 takes 5 s; 1 ends after 1 s and lets 3 and then 4 begin; 2 fails first, after 3 s
        assert sim.output(id) == ["m/2", "2"]
        assert len(sim.events(id, e.StepFailed)) == 2
        assert len(sim.events(id, e.StepCompleted)) == 3
        for sim in live.cuts():
            await sim.run()
            assert sim.output(id)[0] in ("m/0", "m/2")
        sim = live.cut(len(live.log.committed) - 1)
        await sim.run()
        assert sim.output(id) == ["m/2", "2"]

    asyncio.run(main())


def test_collected_failures_stand_among_the_results(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=2, jitter=False))
    async def wf(step: Step) -> list[Any]:
        def work(item: int) -> int:
            if item % 2:
                raise ValueError(item)
            return item

        found = await step.map("m", range(4), work, on_error="collect")
        return [[x.step, x.attempts] if isinstance(x, StepError) else x for x in found]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        expected = [0, ["m/1", 2], 2, ["m/3", 2]]
        assert sim.output(id) == expected
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == expected

    asyncio.run(main())


def test_keys_take_the_place_of_numbers(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        found: list[Any] = [await step.map("m", ["b", "a"], str.upper, key=lambda item: f"k-{item}")]
        for wrong in (lambda item: "same", lambda item: "a/b", lambda item: ""):
            try:
                await step.map("n", ["b", "a"], str.upper, key=wrong)
            except ValueError as error:
                found.append("'n'" in str(error))
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [["B", "A"], True, True, True]
        assert started(sim, id) == ["m/k-b", "m/k-a"]

    asyncio.run(main())


def test_nothing_to_do_records_nothing(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        calls: list[Any] = [step.map("m", [], str), step.for_each("f", [], str), step.batch("b", [], str)]
        return [await call for call in (*calls, step.for_each("g", "ab", str))]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [[], None, None, None]
        assert started(sim, id) == ["g/0", "g/1"]

    asyncio.run(main())


def test_batches_follow_one_another_and_know_their_first_index(make_sim: Any) -> None:
    seen: list[Any] = []

    @workflow
    async def wf(step: Step) -> None:
        def work(batch: list[int], i: int) -> None:
            seen.append([i, step.index, batch])

        await step.batch("b", range(7), work, batch_size=3)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert seen == [[0, 0, [0, 1, 2]], [3, 3, [3, 4, 5]], [6, 6, [6]]]
        assert started(sim, id) == ["b/0", "b/3", "b/6"]
        order = [t for t in sim.types(id) if t.startswith("Step")]
        assert order == ["StepStarted", "StepCompleted"] * 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "named"),
    [({"concurrency": 0}, "0"), ({"concurrency": True}, "True"), ({"on_error": "ignore"}, "ignore")],
)
def test_options_that_cannot_be_meant(make_sim: Any, options: dict[str, Any], named: str) -> None:
    @workflow
    async def wf(step: Step) -> str:
        try:
            await step.map("m", [1], str, **options)
        except ValueError as error:
            return str(error)
        return "accepted"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert named in sim.output(id)

    asyncio.run(main())


def test_cancelling_a_map_withdraws_what_runs_and_drops_the_rest(make_sim: Any) -> None:
    cut_off: list[int] = []

    @workflow
    async def wf(step: Step) -> str:
        async def work(item: int) -> None:
            try:
                await sim.work(100)
            except asyncio.CancelledError:
                cut_off.append(item)
                raise

        try:
            async with asyncio.timeout(5):
                await step.map("m", range(9), work, concurrency=2)
        except TimeoutError:
            await step("after", lambda: 1)
            return "late"
        return "done"

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == "late"
        assert cut_off == [0, 1]
        assert len(sim.events(id, e.StepCancelled)) == 2
        for sim in live.cuts():
            await sim.run()
            assert sim.output(id) == "late"
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Cancel()))
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert len(started(sim, id)) == 2

    asyncio.run(main())


def test_ten_thousand_items_are_quick(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> int:
        async def work(item: int) -> int:
            return item

        async def outer() -> int:
            return sum(await step.map("in", range(3_000), work))

        return sum(await step.map("m", range(10_000), work)) + await step("outer", outer)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        before = time.process_time()
        await sim.host.run(turns_max=1_000_000)
        live = time.process_time() - before
        assert sim.output(id) == sum(range(10_000)) + sum(range(3_000))
        again = sim.cut(len(sim.log.committed) - 1)
        before = time.process_time()
        await again.run()
        assert again.output(id) == sim.output(id)
        assert live < 12
        assert time.process_time() - before < 4

    asyncio.run(main())
