"""Ends: by the handler, by cancellation, by time; pauses."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from wfes import InstanceEnded, Step, StepError, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Claim, Pause, Resume, Send, SetDeadline, decide
from wfes.core.state import TERMINAL
from wfes.errors import Suspended
from wfes.simulation import START

SECOND = 1_000_000


def seconds(sim: Any) -> float:
    return float(sim.now - START) / SECOND


# ------------------------------------------------------------------------------------------------ by the handler


@pytest.mark.parametrize("end", ["fail", "abort", "complete"])
@pytest.mark.parametrize("catch", [Exception, BaseException])
def test_an_end_cannot_be_swallowed(make_sim: Any, end: str, catch: type[BaseException]) -> None:
    ran: list[str] = []

    @workflow
    async def wf(step: Step, workflow: Any) -> str:
        try:
            if end == "complete":
                workflow.complete("early")
            else:
                getattr(step, end)("early")
        except catch:
            ran.append("caught")
            await step("more", lambda: ran.append("step"))
        finally:
            await step("cleanup", lambda: ran.append("step"))
        await step("rest", lambda: ran.append("step"))
        return "late"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        state = sim.state(id)
        assert str(state.status) == {"fail": "failed", "abort": "aborted", "complete": "completed"}[end]
        assert sim.types(id) == ["WorkflowStarted", "RunClaimed", sim.types(id)[-1]]
        assert "step" not in ran
        assert catch is BaseException or not ran
        told = {"fail": state.error and state.error["m"], "abort": state.reason, "complete": state.output}
        assert told[end] == "early"

    asyncio.run(main())


def test_awaiting_fail_works_too(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        await step.fail("no")  # pyright: ignore[reportGeneralTypeIssues]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.error(id)[1] == "no"

    asyncio.run(main())


def test_a_handler_that_asks_on_and_on_after_its_end_is_left_waiting(make_sim: Any) -> None:
    asked = 0

    @workflow
    async def wf(step: Step) -> None:
        nonlocal asked
        try:
            step.fail("no")
        except BaseException:
            while asked < 1_020:  # for ever, but for the sake of the tests after this
                asked += 1
                try:
                    await step("more", lambda: 1)
                except BaseException:
                    continue

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.error(id)[1] == "no"
        assert asked > 1_000

    asyncio.run(main())


def test_output_is_validated_by_return_and_by_complete(make_sim: Any) -> None:
    @workflow
    async def wf(how: str, step: Step, workflow: Any) -> int:
        match how:
            case "return":
                return "7x"  # type: ignore[return-value]
            case "complete":
                workflow.complete("7x")
            case _:
                workflow.complete(7)
        return 0

    async def main() -> None:
        for how, bad in (("return", True), ("complete", True), ("fits", False)):
            sim = make_sim(wf)
            id = sim.start(wf, how)
            await sim.run()
            if bad:
                assert sim.error(id)[0] == "wfes.InvalidData"
            else:
                assert sim.output(id) == 7

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), asyncio.CancelledError(), GeneratorExit("x")]
)
def test_whatever_leaves_the_handler_fails_the_instance(make_sim: Any, error: BaseException) -> None:
    @workflow
    async def wf(step: Step) -> None:
        await step("a", lambda: 1)
        raise error

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        kind, message = sim.error(id)
        assert type(error).__name__ in kind
        assert message

    asyncio.run(main())


def test_an_end_in_one_branch_ends_all(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        async def later() -> None:
            await step.sleep("z", 1)
            step.abort("enough")

        async def on() -> None:
            while True:
                await step("tick", sim.work, 0.3)

        await asyncio.gather(later(), on())

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert str(sim.state(id).status) == "aborted"
        assert seconds(sim) == 1

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ cancelling


def cancellable(log: list[str], *, cleanup: float = 0.0, returns: bool = True) -> Any:
    @workflow(name="cancellable")
    async def wf(step: Step) -> str:
        try:
            await step.listen("never")
        except asyncio.CancelledError as error:
            if isinstance(error, Suspended):
                raise
            log.append("told")
            if returns:
                return "mine"
            raise
        finally:
            if cleanup:
                await step.sleep("z", cleanup)
            await step("undo", lambda: log.append("undo"))
        return "not reached"

    return wf


@pytest.mark.parametrize("returns", [True, False])
def test_cancelling_is_told_once_and_steps_in_finally_work(make_sim: Any, returns: bool) -> None:
    log: list[str] = []
    wf = cancellable(log, cleanup=20, returns=returns)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(5, lambda: sim.do(id, Cancel(reason="why")))
        sim.later(6, lambda: sim.do(id, Cancel(reason="again")))
        sim.later(7, lambda: sim.do(id, Pause()))
        await sim.run()
        state = sim.state(id)
        assert str(state.status) == "cancelled"
        assert state.reason == "why"
        assert state.output is None
        assert log == ["told", "undo"]
        assert seconds(sim) == 25
        assert len(sim.events(id, e.CancelDelivered)) == 1
        for other in sim.cuts(first=len(sim.log.committed) - 5):
            log.clear()
            await other.run()
            assert str(other.state(id).status) == "cancelled", other.types(id)

    asyncio.run(main())


def test_after_thirty_seconds_a_cancelled_handler_is_dropped(make_sim: Any) -> None:
    log: list[str] = []
    wf = cancellable(log, cleanup=600)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(5, lambda: sim.do(id, Cancel()))
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert log == ["told"]
        assert seconds(sim) == 35
        n = next(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.CancelDelivered))
        for cut in (n + 1, n + 2):
            other = sim.cut(cut)
            other.host.clock._now += 10 * SECOND
            await other.run()
            assert str(other.state(id).status) == "cancelled"
            assert seconds(other) == 35

    asyncio.run(main())


def test_a_cleanup_that_waits_for_ever_ends_after_thirty_seconds(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        try:
            await step.sleep("z", "1h")
        finally:
            await step.listen("never")

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(5, lambda: sim.do(id, Cancel()))
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert seconds(sim) == 35

    asyncio.run(main())


def test_an_instance_that_never_ran_is_cancelled_without_running(make_sim: Any) -> None:
    log: list[str] = []
    wf = cancellable(log)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.do(id, Cancel(reason="no"))
        await sim.run()
        assert sim.types(id) == ["WorkflowStarted", "WorkflowCancelled"]
        assert not log
        assert sim.do(id, Cancel()) == []

    asyncio.run(main())


def test_a_cancel_and_an_end_race_and_exactly_one_wins(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        await step("a", lambda: 1)
        await step("b", lambda: 1)
        return "done"

    async def main() -> None:
        outcomes = set()
        for commit in range(1, 8):
            for seed in range(6):
                sim = make_sim(wf, seed=seed)
                id = sim.start(wf)

                def interfere(commits: int, sim: Any = sim, id: str = id, commit: int = commit) -> None:
                    if commits == commit:
                        sim.do(id, Cancel())

                sim.host.interfere = interfere
                await sim.run()
                types = sim.types(id)
                ends = [event for event in sim.events(id) if event.terminal]
                assert [type(end).__name__ for end in ends] == types[-1:], types
                assert ("CancelRequested" in types) == ("WorkflowCancelled" in types), types
                outcomes.add(types[-1])
        assert outcomes == {"WorkflowCompleted", "WorkflowCancelled"}

    asyncio.run(main())


def test_a_cancel_reaches_a_paused_handler_and_its_cleanup_runs(make_sim: Any) -> None:
    log: list[str] = []
    wf = cancellable(log, cleanup=1)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Pause()))
        sim.later(5, lambda: sim.do(id, Cancel()))
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert log == ["told", "undo"]

    asyncio.run(main())


def test_steps_that_a_pause_held_in_other_tasks_go_on_in_the_cleanup(make_sim: Any) -> None:
    log: list[str] = []

    @workflow
    async def wf(step: Step) -> None:
        async def background() -> None:
            await step.sleep("b", 2)
            await step("shielded", lambda: log.append("shielded"))

        inner = asyncio.ensure_future(background())
        try:
            await step.sleep("z", "1h")
        finally:
            await inner

    async def main() -> None:
        for linger in (500_000, 60_000_000):
            log.clear()
            sim = make_sim(wf)
            sim.host.linger_micros = linger
            id = sim.start(wf)
            sim.later(1, lambda sim=sim, id=id: sim.do(id, Pause()))
            sim.later(5, lambda sim=sim, id=id: sim.do(id, Cancel()))
            await sim.run()
            assert str(sim.state(id).status) == "cancelled"
            assert log == ["shielded"]
            assert seconds(sim) < 10

    asyncio.run(main())


def test_a_handler_cancels_itself_by_its_own_instance(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        await step.sleep("z", 1)
        from wfes.handler.scope import current

        scope = current()
        assert scope is not None
        await scope.call("cancel", sim.host.engine.calls.cancel(id))
        await step.sleep("y", "1h")

    sim: Any = None
    id = ""

    async def main() -> None:
        nonlocal sim, id
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert seconds(sim) == 1
        for other in sim.cuts(first=3):
            outer, sim = sim, other
            await other.run()
            assert str(other.state(id).status) == "cancelled", other.types(id)
            assert seconds(other) <= 1
            sim = outer

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ by time


def sleeper(**options: Any) -> Any:
    @workflow(name="sleeper", **options)
    async def wf(length: float, step: Step) -> str:
        await step.sleep("z", length)
        return "done"

    return wf


@pytest.mark.parametrize(
    ("deadline", "moved", "expected"),
    [("10s", None, 10), ("10s", 5, 5), ("10s", 30, 30), (None, 5, 5), ("10s", 200, None)],
)
def test_it_times_out_at_its_deadline_or_where_that_was_moved(
    make_sim: Any, deadline: str | None, moved: int | None, expected: int | None
) -> None:
    wf = sleeper(deadline=deadline)

    async def main() -> None:
        for linger in (500_000, 600_000_000):
            sim = make_sim(wf)
            sim.host.linger_micros = linger
            id = sim.start(wf, 100)
            if moved is not None:
                when = sim.now + moved * SECOND
                sim.later(1, lambda sim=sim, id=id, when=when: sim.do(id, SetDeadline(deadline=when)))
            await sim.run()
            status = "completed" if expected is None else "timed_out"
            assert str(sim.state(id).status) == status
            assert seconds(sim) == (expected or 100)

    asyncio.run(main())


def test_a_deadline_passes_while_pending_and_while_paused(make_sim: Any) -> None:
    log: list[str] = []

    @workflow(deadline="10s")
    async def wf(step: Step) -> None:
        try:
            await step.sleep("z", "1h")
        finally:
            await step("undo", lambda: log.append("undo"))

    async def main() -> None:
        sim = make_sim(wf)
        pending = sim.start(wf, delay=60)
        assert sim.state(pending).runnable_at() == START + 10 * SECOND
        decision: Any = decide(sim.state(pending), Claim(worker="w", code={}), START + 10 * SECOND)
        assert [type(event) for event in decision] == [e.WorkflowTimedOut]
        sim = make_sim(wf)
        paused = sim.start(wf)
        sim.later(1, lambda: sim.do(paused, Pause()))
        await sim.run()
        assert str(sim.state(paused).status) == "timed_out"
        assert seconds(sim) == 10
        assert log == ["undo"]

    asyncio.run(main())


def test_handler_code_between_two_events_is_bounded_and_each_event_starts_it_afresh(make_sim: Any) -> None:
    @workflow(timeout="5s")
    async def wf(which: str, step: Step) -> str:
        loop = sim.host.loop
        outside = loop.create_future()
        sim.later(12, lambda: outside.done() or outside.set_result("answer"))
        if which == "alone":
            return str(await outside)
        waiting = asyncio.ensure_future(wait(outside))
        for _ in range(4):
            await step.sleep("z", 3)
        return await waiting

    async def wait(outside: Any) -> str:
        return str(await outside)

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf, "alone")
        await sim.run()
        assert str(sim.state(id).status) == "timed_out"
        assert seconds(sim) == 5
        sim = make_sim(wf)
        id = sim.start(wf, "beside")
        await sim.run()
        assert sim.output(id) == "answer"
        sim = make_sim(wf)
        id = sim.start(wf, "alone")
        sim.later(1, lambda: sim.do(id, SetDeadline(deadline=sim.now + 60 * SECOND)))
        await sim.run()
        assert sim.output(id) == "answer"

    asyncio.run(main())


def test_commands_to_an_ended_instance(make_sim: Any) -> None:
    wf = sleeper()

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf, 0)
        await sim.run()
        for command in (SetDeadline(deadline=sim.now + 1), Send(event="x"), Pause(), Resume()):
            with pytest.raises(InstanceEnded):
                sim.do(id, command)
        assert sim.do(id, Cancel()) == []

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ pauses


def test_a_paused_instance_starts_no_step_records_what_runs_and_goes_on(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[int]:
        return [await step("a", first), await step("b", lambda: 2)]

    async def first() -> int:
        await sim.work(3)
        return 1

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Pause(reason="lunch")))
        seen = []
        sim.later(50, lambda: seen.extend([str(sim.state(id).status), sim.types(id), sim.do(id, Pause())]))
        sim.later(60, lambda: sim.do(id, Resume()))
        await sim.run()
        assert seen[0] == "paused"
        assert seen[2] == []
        assert seen[1][-2:] == ["StepCompleted", "RunReleased"]
        assert seen[1].count("StepStarted") == 1
        assert sim.output(id) == [1, 2]

    asyncio.run(main())


def test_one_resumed_while_its_paused_handler_leaves_is_not_forgotten(make_sim: Any) -> None:
    """A worker that stops lets go of a paused instance, which is resumed before that is recorded: it goes on."""

    async def main() -> None:
        @workflow
        async def wf(input: None, step: Step) -> str:
            await step("before", sim.work, 2)
            return await step("held by the pause", lambda: "gone on")

        sim: Any = make_sim(wf)
        id = sim.start(wf)
        submit = sim.host.submit
        resumed = False

        def racing(member: Any) -> None:
            nonlocal resumed
            submit(member)
            leaving = any(isinstance(entry.event, e.RunReleased) for entry in getattr(member, "entries", ()))
            if leaving and not resumed:
                resumed = True
                sim.do(id, Resume())
                sim.host.executions[id].stop()

        sim.host.submit = racing
        sim.later(1, lambda: sim.do(id, Pause()))
        await sim.run()
        assert resumed
        # Its epochs: the one that left, and the one that found it due.
        assert [claim.epoch for claim in sim.events(id, e.RunClaimed)] == [1, 2]
        assert sim.output(id) == "gone on"

    asyncio.run(main())


def test_a_retry_that_a_pause_holds_can_be_withdrawn(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        async def flaky(attempt: int) -> None:
            raise ValueError

        task = asyncio.ensure_future(run(step, flaky))
        await step.sleep("z", 5)
        task.cancel()
        await step.sleep("y", 5)
        return "done"

    async def run(step: Step, flaky: Any) -> None:
        from wfes import Retry

        await step("a", flaky, retry=Retry(initial="2s", factor=1, jitter=False))

    async def main() -> None:
        for linger in (500_000, 60_000_000):
            sim = make_sim(wf)
            sim.host.linger_micros = linger
            id = sim.start(wf)
            sim.later(1, lambda sim=sim, id=id: sim.do(id, Pause()))
            sim.later(20, lambda sim=sim, id=id: sim.do(id, Resume()))
            await sim.run()
            assert sim.output(id) == "done"
            assert len(sim.events(id, e.StepCancelled)) == 1

    asyncio.run(main())


def test_commands_at_every_commit_leave_a_history_that_replays(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> Any:
        async def bad() -> None:
            raise ValueError

        with contextlib.suppress(StepError):
            await step("bad", bad, max_attempts=2)
        found = await asyncio.gather(
            *(step("b", lambda k=k: k) for k in range(3)), step.sleep("z", 2), step("c", lambda: 1)
        )
        await step.progress("there")
        return found

    async def main() -> None:
        for commit in range(1, 14):
            for commands in (
                [Pause(), Resume()],
                [Pause(), Cancel()],
                [SetDeadline(deadline=START + SECOND)],
            ):
                sim = make_sim(wf, seed=commit)
                id = sim.start(wf)

                def interfere(
                    n: int, sim: Any = sim, id: str = id, at: int = commit, all_: Any = commands
                ) -> None:
                    if n == at and sim.state(id).ended is None:
                        sim.do(id, all_[0])
                        if len(all_) > 1:
                            sim.later(5, lambda: sim.state(id).ended or sim.do(id, all_[1]))

                sim.host.interfere = interfere
                await sim.run()
                state = sim.state(id)
                assert state.status in TERMINAL, (commit, sim.types(id))
                assert not any(x.held for x in sim.events(id, e.WorkflowPaused)), state.pause_reason

    asyncio.run(main())
