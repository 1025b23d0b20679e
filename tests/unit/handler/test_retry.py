"""Retrying an ended instance: what is void, what is used again, what survives."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from wfes import InstanceEnded, Retry, Step, StepError, WaitTimeout, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Provide, Send, SetDeadline
from wfes.core.decide import Retry as RetryInstance
from wfes.simulation import START

SECOND = 1_000_000


class World:
    """What step functions do: count, and fail while it is broken."""

    def __init__(self) -> None:
        self.broken = True
        self.runs: Counter[str] = Counter()

    def work(self, name: str) -> str:
        self.runs[name] += 1
        return name

    def fragile(self, name: str) -> str:
        self.runs[name] += 1
        if self.broken:
            raise ValueError(name)
        return name


def check(make_sim: Any, wf: Any, world: World, once: set[str], *, output: Any = None, **options: Any) -> Any:
    """Lets it fail, mends what was broken, retries; cut anywhere after, recorded steps never run again."""

    async def main() -> Any:
        sim = make_sim(wf)
        id = sim.start(wf, **options)
        await sim.run()
        assert str(sim.state(id).status) in ("failed", "timed_out"), sim.types(id)
        world.broken = False
        before = len(sim.log.committed)
        sim.do(id, RetryInstance())
        await sim.run()
        result = sim.output(id)
        assert output is None or result == output
        assert all(world.runs[name] == 1 for name in once), world.runs
        for other in sim.cuts(first=before + 1):
            done = {x.path for x in other.events(id, e.StepCompleted)}
            world.runs.clear()
            await other.run()
            assert other.output(id) == result, other.types(id)
            assert not set(world.runs) & done, (done, world.runs)
        return sim, id

    return asyncio.run(main())


def test_a_failed_step_gets_fresh_attempts_and_what_completed_is_kept(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=2, jitter=False))
    async def wf(step: Step) -> list[str]:
        first = await step("a", world.work, "a")
        return [first, await step("b", world.fragile, "b"), await step("c", world.work, "c")]

    sim, id = check(make_sim, wf, world, {"a"}, output=["a", "b", "c"])
    attempts = [x.attempt for x in sim.events(id, e.StepStarted) if x.path == "b"]
    assert attempts == [1, 2, 1]


def test_results_of_parallel_branches_after_the_failure_are_used_again(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[Any]:
        found = await asyncio.gather(
            step("bad", world.fragile, "bad"), branch(step, "x"), branch(step, "y"), return_exceptions=True
        )
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return list(found)

    async def branch(step: Step, name: str) -> list[str]:
        return [
            await step(f"{name}1", world.work, f"{name}1"),
            await step(f"{name}2", world.work, f"{name}2"),
            *await step.map(f"{name}3", [f"{name}m", f"{name}n"], world.work),
        ]

    names = {"x1", "x2", "y1", "y2", "xm", "xn", "ym", "yn"}
    sim, id = check(
        make_sim,
        wf,
        world,
        names,
        output=["bad", ["x1", "x2", "xm", "xn"], ["y1", "y2", "ym", "yn"]],
    )
    assert sim.events(id, e.ResultReused)


def test_retrying_twice(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[str]:
        first = await step("a", world.work, "a")
        both = step("p", world.work, "p"), step("b", world.fragile, "b")
        return [first, *await asyncio.gather(*both)]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        for _ in range(3):
            await sim.run()
            assert sim.error(id)[0] == "wfes.StepError"
            sim.do(id, RetryInstance())
        await sim.run()
        world.broken = False
        sim.do(id, RetryInstance())
        await sim.run()
        assert sim.output(id) == ["a", "p", "b"]
        assert world.runs == {"a": 1, "p": 1, "b": 5}
        last = sim.cut(len(sim.log.committed) - 1)
        await last.run()
        assert last.output(id) == ["a", "p", "b"]
        assert world.runs["b"] == 5

    asyncio.run(main())


def test_the_failure_of_a_fallback_is_void_not_the_one_it_stood_in_for(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> str:
        def fails() -> None:
            world.runs["first"] += 1
            raise KeyError

        try:
            await step("first", fails)
        except StepError:
            return await step("fallback", world.fragile, "fallback")
        return "none"

    check(make_sim, wf, world, {"first"}, output="fallback")


def test_a_failure_in_a_task_group_is_found_in_its_exception_group(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> str:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(run(step, "good", world.work))
            two = group.create_task(run(step, "bad", world.fragile))
        return one.result() + two.result()

    async def run(step: Step, name: str, fn: Any) -> str:
        return str(await step(name, fn, name))

    check(make_sim, wf, world, {"good"}, output="goodbad")


def test_a_wait_that_timed_out_waits_afresh(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> Any:
        return await step.listen("e", timeout="10s")

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert "WaitTimeout" in sim.error(id)[0]
        sim.do(id, RetryInstance())
        sim.later(9, lambda: sim.do(id, Send(event="e", payload="late")))
        await sim.run()
        assert sim.output(id) == "late"

    asyncio.run(main())


def test_a_failed_child_is_started_anew(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def child(step: Step) -> str:
        return await step("b", world.fragile, "b")

    @workflow
    async def wf(step: Step) -> str:
        return await step.execute_workflow("child", child)

    async def main() -> None:
        sim = make_sim(wf, child)
        id = sim.start(wf)
        await sim.run()
        assert "ChildWorkflowError" in sim.error(id)[0]
        world.broken = False
        sim.do(id, RetryInstance())
        await sim.run()
        assert sim.output(id) == "b"
        assert world.runs["b"] == 2
        first, second = (x.instance for x in sim.events(id, e.ChildStarted))
        assert first != second

    asyncio.run(main())


def test_a_child_that_runs_when_its_parent_fails_is_waited_for_again(make_sim: Any) -> None:
    world = World()

    @workflow
    async def child(step: Step) -> str:
        await step.sleep("z", 100)
        return "child"

    @workflow(retry=Retry(max_attempts=1))
    async def wf(timeout: int | None, step: Step) -> list[str]:
        async def bad() -> str:
            await sim.work(5)
            return world.fragile("bad")

        work = [step.execute_workflow("child", child, timeout=timeout)]
        if timeout is None:
            work.append(step("bad", bad))
        return list(await asyncio.gather(*work))

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        for timeout in (None, 60):
            world.broken = True
            sim = make_sim(wf, child)
            id = sim.start(wf, timeout)
            sim.later(70, lambda id=id, sim=sim: sim.do(id, RetryInstance()))
            sim.later(6, lambda: setattr(world, "broken", False))
            await sim.run()
            assert sim.output(id) == (["child"] if timeout else ["child", "bad"])
            assert len({x.instance for x in sim.events(id, e.ChildStarted)}) == 1
            assert len([s for s in sim.log.streams if not s.startswith("$")]) == 2

    asyncio.run(main())


def test_a_child_that_is_retried_alone_does_not_change_what_its_parent_was_told(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def child(step: Step) -> str:
        return await step("b", world.fragile, "b")

    @workflow
    async def wf(step: Step) -> str:
        try:
            await step.execute_workflow("child", child)
        except Exception:
            await step.sleep("z", 100)
            return "failed"
        return "done"

    async def main() -> None:
        sim = make_sim(wf, child)
        id = sim.start(wf)

        def mend() -> None:
            world.broken = False
            (started,) = sim.events(id, e.ChildStarted)
            sim.do(started.instance, RetryInstance())

        sim.later(50, mend)
        await sim.run()
        (started,) = sim.events(id, e.ChildStarted)
        assert sim.output(started.instance) == "b"
        assert sim.output(id) == "failed"
        assert len(sim.events(id, e.TargetEnded)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("how", ["raise", "step.fail", "output"])
def test_an_end_by_the_handler_itself_is_void_and_the_code_decides_anew(make_sim: Any, how: str) -> None:
    world = World()

    @workflow
    async def wf(step: Step) -> int:
        await step("a", world.work, "a")
        if world.broken:
            if how == "raise":
                raise ValueError
            if how == "step.fail":
                step.fail("no")
            return "x"  # type: ignore[return-value]
        await step("b", world.work, "b")
        return 5

    check(make_sim, wf, world, {"a", "b"}, output=5)


def test_a_timed_out_instance_goes_on_with_its_clock_afresh(make_sim: Any) -> None:
    log: list[str] = []

    @workflow(deadline="10s")
    async def wf(step: Step) -> str:
        try:
            await step("a", lambda: log.append("a"))
            await step.sleep("z", "15s")
            return "done"
        finally:
            await step("undo", lambda: log.append("undo"))

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert str(sim.state(id).status) == "timed_out"
        assert sim.now == START + 10 * SECOND
        before = len(sim.log.committed)
        sim.do(id, RetryInstance(lifetime=10 * SECOND))
        await sim.run()
        assert sim.output(id) == "done"
        assert sim.now == START + 15 * SECOND
        assert log == ["a", "undo"]
        for other in sim.cuts(first=before + 1):
            await other.run()
            assert other.output(id) == "done", other.types(id)

    asyncio.run(main())


def test_a_moved_deadline_does_not_outlive_a_retry(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        await step.sleep("z", "100s")
        return "done"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.do(id, SetDeadline(deadline=sim.now + 10 * SECOND))
        await sim.run()
        assert str(sim.state(id).status) == "timed_out"
        sim.do(id, RetryInstance())
        await sim.run()
        assert sim.output(id) == "done"
        assert sim.now == START + 100 * SECOND

    asyncio.run(main())


def test_open_waits_survive_and_answers_given_meanwhile_count(make_sim: Any) -> None:
    world = World()

    @workflow(requests={"ok": bool}, retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[Any]:
        async def bad() -> str:
            await sim.work(5)
            return world.fragile("bad")

        return list(
            await asyncio.gather(
                step("bad", bad), step.request("ok"), step.listen("e"), step.listen("f"), step.sleep("z", 60)
            )
        )

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Send(event="e", payload="early")))
        await sim.run()
        assert sim.error(id)[0] == "wfes.StepError"
        world.broken = False
        sim.do(id, RetryInstance())
        issued: list[str] = []

        def answer() -> None:
            (wait,) = [w for w in sim.state(id).waits.values() if w.kind == "request"]
            issued.append(wait.target)
            sim.do(id, Provide(id=wait.target, data=True))

        sim.later(10, answer)
        sim.later(11, lambda: sim.do(id, Send(event="f", payload="late")))
        await sim.run()
        assert sim.output(id) == ["bad", True, "early", "late", None]
        first, second = sim.events(id, e.RequestIssued)
        assert first.id == second.id == issued[0]
        sleeps = sim.events(id, e.SleepScheduled)
        assert sleeps[0].until == sleeps[-1].until

    asyncio.run(main())


def test_an_event_consumed_after_the_failure_is_nobody_elses(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[Any]:
        failure = None
        try:
            await step("bad", world.fragile, "bad")
        except StepError as error:
            failure = error
        first = await step.listen("first", event="e")
        if failure is not None:
            raise failure
        try:
            return [first, await step.listen("second", event="e", timeout="5s")]
        except WaitTimeout:
            return [first]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Send(event="e", payload=1)))
        await sim.run()
        world.broken = False
        sim.do(id, RetryInstance())
        await sim.run()
        assert sim.output(id) == [1]

    asyncio.run(main())


def test_only_failed_and_timed_out_instances_are_retried(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        await step.sleep("z", 5)

    async def main() -> None:
        sim = make_sim(wf)
        cancelled, completed = sim.start(wf), sim.start(wf)
        assert sim.do(completed, RetryInstance()) == []
        sim.do(cancelled, Cancel())
        await sim.run()
        for id in (cancelled, completed):
            with pytest.raises(InstanceEnded):
                sim.do(id, RetryInstance())

    asyncio.run(main())


def test_a_retried_instance_that_did_not_run_since_can_be_cancelled(make_sim: Any) -> None:
    world = World()

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> str:
        try:
            return await step("a", world.fragile, "a")
        finally:
            await step("undo", world.work, "undo")

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        sim.do(id, RetryInstance())
        sim.do(id, Cancel())
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        for other in sim.cuts(first=len(sim.log.committed) - 4):
            await other.run()
            assert str(other.state(id).status) == "cancelled"

    asyncio.run(main())
