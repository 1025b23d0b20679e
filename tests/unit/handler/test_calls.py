"""Recorded calls: sends, publishes, starts and checkpoints from inside handlers and steps; repeatable values."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
from typing import Any

from wfes import InstanceEnded, InstanceNotFound, Step, workflow
from wfes.core import events as e


@workflow
async def target(step: Step) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found.append(await step.listen("e", timeout="1m"))
        except TimeoutError:
            return found


def test_sends_happen_exactly_once_wherever_it_is_cut(make_sim: Any) -> None:
    @workflow
    async def wf(to: str, step: Step) -> list[str]:
        await step.send("tell", to, "e", 1)
        await step("a", lambda: 1)
        await asyncio.gather(*(step.send("tell", to, "e", k) for k in (2, 3)))

        async def inner(attempt: int) -> None:
            await step.send("in", to, "e", 4)
            if attempt == 1:
                raise ValueError

        await step("outer", inner)
        found = []
        for wrong in ("nobody", done):
            try:
                await step.send("wrong", wrong, "e")
            except (InstanceNotFound, InstanceEnded) as error:
                found.append(f"{type(error).__name__} {wrong == getattr(error, 'id', wrong)}")
        return found

    done = ""

    async def main() -> None:
        nonlocal done
        sim = make_sim(wf, target)
        done = sim.start(target)
        await sim.run()
        to = sim.start(target)
        id = sim.start(wf, to)
        first = len(sim.log.committed)
        await sim.run()
        assert sim.output(id) == ["InstanceNotFound True", "InstanceEnded True"]
        for other in (sim, *sim.cuts(first=first)):
            await other.run()
            assert other.output(id) == sim.output(id)
            assert [x.payload for x in other.events(to, e.EventReceived)] == [1, 2, 3, 4]
            assert other.output(to) == [1, 2, 3, 4]

    asyncio.run(main())


def test_starts_inside_handlers_and_steps_happen_once(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[str]:
        from wfes.handler.scope import current

        async def start() -> str:
            scope = current()
            assert scope is not None
            command = sim.host.engine.calls.start(target)
            return str((await scope.call("start", command))["id"])

        async def inner(attempt: int) -> str:
            id = await start()
            if attempt == 1:
                raise ValueError
            return id

        first = await start()
        return [first, await step("outer", inner), await start()]

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        live = sim = make_sim(wf, target)
        id = sim.start(wf)
        await sim.run()
        assert len(set(sim.output(id))) == 3
        for sim in live.cuts():
            known = {s for s in sim.log.streams if not s.startswith("$")}
            await sim.run()
            streams = {s for s in sim.log.streams if not s.startswith("$")}
            assert streams == {id, *sim.output(id)}
            assert known <= streams
            assert all(sim.state(one).parent == id for one in sim.output(id))

    asyncio.run(main())


def test_checkpoints_may_repeat_and_are_recorded_once_each(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        for k in range(3):
            await step.progress("same", percent=k * 50, data={"k": k})

        async def inner(attempt: int) -> None:
            await step.progress("inside")
            if attempt == 1:
                raise ValueError

        await step("outer", inner)
        return "done"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        for other in (sim, *sim.cuts()):
            await other.run()
            found = [(x.message, x.percent) for x in other.events(id, e.ProgressRecorded)]
            assert found == [("same", 0), ("same", 50), ("same", 100), ("inside", None)], other.types(id)
        assert sim.state(id).progress.message == "inside"

    asyncio.run(main())


def test_now_uuid_and_random_are_repeatable_and_differ_from_place_to_place(make_sim: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    @workflow
    async def wf(step: Step) -> list[str]:
        values: list[Any] = [step.uuid(), step.uuid(), step.random(), step.random(), step.now()]
        await step.sleep("z", 5)
        values += [step.uuid(), step.random(), step.now()]
        values += await step("in", lambda: [step.uuid(), step.random()])
        seen.append(tuple(map(str, values)))
        return [str(value) for value in values]

    async def main() -> None:
        sim = make_sim(wf)
        one, two = sim.start(wf), sim.start(wf)
        await sim.run()
        first = sim.output(one)
        assert len(set(first)) == len(first)
        assert all(0 <= float(first[k]) < 1 for k in (2, 3, 6))
        assert not set(first[:4]) & set(sim.output(two)[:4])
        for other in sim.cuts(first=3):
            await other.run()
            assert other.output(one) == first

    asyncio.run(main())


def test_large_values_travel_beside_the_log(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> int:
        text = await step("a", lambda: "x" * 3_000_000)
        return len(text)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == 3_000_000
        (done,) = sim.events(id, e.StepCompleted)
        assert list(done.result) == ["~blob"]

    asyncio.run(main())
