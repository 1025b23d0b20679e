"""Steps inside steps: what a function that runs again is given back, what is retried, what its waits cost."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
from typing import Any

from wfes import Retry, Step, StepError, workflow
from wfes.core import events as e
from wfes.core.decide import Pause, Resume
from wfes.core.decide import Retry as RetryInstance


def test_a_new_attempt_runs_failed_inner_steps_again_and_completed_ones_never(make_sim: Any) -> None:
    runs: Any = []

    @workflow(retry=Retry(max_attempts=3, jitter=False))
    async def wf(step: Step) -> int:
        async def outer(attempt: int) -> int:
            runs.append("outer")
            first: int = await step("a", lambda: runs.append("a") or 1)

            def b() -> int:
                runs.append("b")
                if attempt < 3:
                    raise ValueError
                return 2

            return first + await step("b", b, max_attempts=1)

        return await step("outer", outer)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == 3
        assert runs == ["outer", "a", "b", "outer", "b", "outer", "b"]
        for other in sim.cuts():
            recorded = [event.path for event in other.events(id, e.StepCompleted)]
            runs.clear()
            await other.run()
            assert other.output(id) == 3
            assert runs.count("a") == ("outer/a" not in recorded)

    asyncio.run(main())


def test_a_retried_instance_runs_failed_inner_steps_again_and_completed_ones_never(make_sim: Any) -> None:
    runs: Any = []
    broken = True

    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> int:
        async def outer() -> int:
            first: int = await step("a", lambda: runs.append("a") or 1)

            def b() -> int:
                runs.append("b")
                if broken:
                    raise ValueError
                return 2

            return first + await step("b", b)

        return await step("outer", outer)

    async def main() -> None:
        nonlocal broken
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.error(id)[0] == "wfes.StepError"
        assert runs == ["a", "b"]
        broken = False
        sim.do(id, RetryInstance())
        await sim.run()
        assert sim.output(id) == 3
        assert runs == ["a", "b", "b"]
        for other in sim.cuts(first=10):
            runs.clear()
            await other.run()
            assert other.output(id) == 3
            assert "a" not in runs

    asyncio.run(main())


def test_long_inner_waits_leave_memory_and_are_no_attempt(make_sim: Any) -> None:
    runs: Any = []

    @workflow
    async def wf(step: Step) -> str:
        async def outer(attempt: int) -> str:
            runs.append(attempt)
            await step.sleep("z", "30d")
            return await step("in", lambda: "done")

        return await step("outer", outer, timeout="1m")

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == "done"
        assert runs == [1, 1]
        assert [x.suspended for x in sim.events(id, e.RunReleased)] == [("outer",)]
        assert not sim.events(id, e.StepAttemptFailed)

    asyncio.run(main())


def test_inner_waits_do_not_count_for_the_outers_timeout(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[Any]:
        async def outer(before: float, wait: float, after: float) -> str:
            await sim.work(before)
            await step.sleep("z", wait)
            await sim.work(after)
            return "done"

        found: list[Any] = []
        for times in ((0, 0.9, 0.2), (0.5, 3, 0.4), (0.5, 0.2, 0.6), (0.6, 3, 0.6)):
            try:
                found.append(await step("outer", outer, *times, timeout=1))
            except StepError as error:
                found.append(error.matches(TimeoutError))
        return found

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        sim.host.linger_micros = 60_000_000
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == ["done", "done", True, True]

    asyncio.run(main())


def test_inner_backoff_and_a_pause_do_not_count_for_the_outers_timeout(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> str:
        def flaky(attempt: int) -> int:
            if attempt == 1:
                raise ValueError
            return attempt

        async def outer() -> str:
            await step("in", flaky, retry=Retry(max_attempts=2, initial="3s", jitter=False))
            await sim.work(0.5)
            await step("then", lambda: 1)
            return "done"

        return await step("outer", outer, timeout=1)

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        sim.host.linger_micros = 60_000_000
        id = sim.start(wf)
        sim.later(3.2, lambda: sim.do(id, Pause()))
        sim.later(20, lambda: sim.do(id, Resume()))
        await sim.run()
        assert sim.output(id) == "done"
        assert not [x for x in sim.events(id, e.StepAttemptFailed) if x.path == "outer"]

    asyncio.run(main())


def test_fail_and_abort_inside_a_step_end_the_instance_at_the_call(make_sim: Any) -> None:
    ran: list[str] = []

    def workflow_of(end: str, how: str) -> Any:
        @workflow
        async def wf(step: Step) -> None:
            async def inner() -> None:
                try:
                    getattr(step, end)("enough")
                except Exception:
                    ran.append("swallowed")
                finally:
                    await step("in", lambda: ran.append("inner"))

            def sync() -> None:
                getattr(step, end)("enough")

            try:
                await step("a", inner if how == "async" else sync, thread=how == "thread")
            except BaseException:
                await step("b", lambda: ran.append("outer"))
                raise

        return wf

    async def main() -> None:
        for end, status in (("fail", "failed"), ("abort", "aborted")):
            for how in ("async", "thread", "loop"):
                wf = workflow_of(end, how)
                sim = make_sim(wf)
                id = sim.start(wf)
                await sim.run()
                assert str(sim.state(id).status) == status
                assert sim.types(id)[-2:-1] == ["StepStarted"]
                assert not ran

    asyncio.run(main())


def test_an_inner_call_is_made_once_though_the_outer_is_cut_off_while_it_is_made(make_sim: Any) -> None:
    @workflow
    async def target(step: Step) -> list[Any]:
        first = await step.listen("e")
        try:
            return [first, await step.listen("more", event="e", timeout="1h")]
        except TimeoutError:
            return [first]

    @workflow(name="sender")
    async def wf(to: str, step: Step) -> str:
        async def outer(attempt: int) -> str:
            call = asyncio.ensure_future(send(attempt))
            if attempt == 1:
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                raise ValueError
            await call
            return "sent"

        async def send(attempt: int) -> None:
            await step.send("tell", to, "e", "hello")

        return await step("outer", outer, retry=Retry(max_attempts=2, jitter=False))

    turns = 0

    async def main() -> None:
        nonlocal turns
        for turns in range(12):
            for seed in range(3):
                sim = make_sim(wf, target, seed=seed)
                other = sim.start(target)
                id = sim.start(wf, other)
                await sim.run()
                assert sim.output(id) == "sent"
                assert sim.output(other) == ["hello"], (turns, seed)

    asyncio.run(main())


def test_inner_results_are_given_back_wherever_the_outer_is_cut(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> Any:
        async def outer() -> Any:
            one = await step("one", lambda: 1)
            several = await step.map("m", range(3), lambda item: item * 2)
            await step.sleep("z", 1)
            await step.progress("half")
            try:
                await step.listen("nothing", timeout=1)
            except TimeoutError:
                several.append("late")
            return [one, several]

        return await step("outer", outer)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [1, [0, 2, 4, "late"]]
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == [1, [0, 2, 4, "late"]]
            done = [event.path for event in other.events(id, e.StepCompleted)]
            assert len(done) == len(set(done))

    asyncio.run(main())
