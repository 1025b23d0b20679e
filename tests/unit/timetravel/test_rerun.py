"""One run of a handler against its history: what observers are told, where it stops, and that nothing else happens."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from wfes import Engine, Step, StepError, Workflow, testing, workflow
from wfes.core import events as e
from wfes.runtime.values import Values
from wfes.timetravel.rerun import Differs, Outside, Reached, Rerun, Stopped

VALUES = Values(lambda _: None)
armed = False
"""Whether a step's function that is called fails the test."""


def act(value: Any) -> Any:
    if armed:
        pytest.fail("a step's function was called")
    return value


def refuse() -> None:
    act(None)
    raise LookupError("no")


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "armed", True)


def recorded(wf: Workflow[Any, Any], input: Any = None, *others: Workflow[Any, Any]) -> list[e.Recorded]:
    """The history of one instance, run to its end."""

    async def main() -> list[e.Recorded]:
        async with testing.engine([wf, *others]) as env:
            run = await env.engine.start(wf, input, id="it")
            await env.until(ended(run))
            return env.engine._parts.histories.rest("it")

    return asyncio.run(main())


async def ended(run: Any) -> None:
    while (await run.refresh()).status not in ("completed", "failed", "aborted", "cancelled", "timed_out"):
        await asyncio.sleep(0)


class Told:
    """Writes down what it is told, and where handler code stood."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.run: Rerun | None = None
        self.stop_at: int | None = None
        self.raises: BaseException | None = None

    def asked(self, path: str, kind: str) -> None:
        self.lines.append(("asked", path, kind, here()))

    def applying(self, version: int, event: e.Event) -> None:
        self.lines.append(("applying", version, event.topic))

    def resumed(self, path: str, version: int) -> None:
        self.lines.append(("resumed", path, version, here()))
        if version == self.stop_at:
            assert self.run is not None
            if self.raises is not None:
                raise self.raises
            self.run.stop()

    def at(self, version: int) -> None:
        self.lines.append(("at", version))


def here() -> str | None:
    """The name of the innermost function of this file's handlers on the stack."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("trip", "inner"):
            return str(frame.f_code.co_name)
        frame = frame.f_back
    return None


seen: list[str] = []


@workflow
async def trip(step: Step) -> int:
    """Awaits directly, through a coroutine of its own, through a task, and in a map."""
    first = await step("first", act, 1)
    seen.append("first")

    async def inner() -> int:
        found: int = await step("second", act, 2)
        return found

    second = await inner()
    seen.append("second")
    third = await asyncio.ensure_future(step("third", act, 3))
    items = await step.map("many", [4, 5], act)
    total: int = first + second + third + sum(items)
    return total


def test_observers_see_the_handler_where_it_awaits(arm: None) -> None:
    globals()["armed"] = False
    history = recorded(trip)
    globals()["armed"] = True
    told = Told()
    run = Rerun(trip, "it", history, VALUES, observer=told)
    assert run.run() == Reached(len(history), ended=True)
    asked = [line for line in told.lines if line[0] == "asked"]
    assert [line[1:] for line in asked] == [
        ("first", "step", "trip"),
        ("second", "step", "inner"),
        ("third", "step", None),
        ("many/0", "step", "trip"),
        ("many/1", "step", "trip"),
    ]
    completed = {r.event.path: r.originator_version for r in history if isinstance(r.event, e.StepCompleted)}
    resumed = [line[1:] for line in told.lines if line[0] == "resumed"]
    assert resumed == [
        ("first", completed["first"], "trip"),
        ("second", completed["second"], "inner"),
        ("third", completed["third"], None),
    ]
    versions = [line[1] for line in told.lines if line[0] == "at"]
    assert versions == list(range(1, len(history) + 1))
    for version in versions[:-1]:
        at = told.lines.index(("at", version))
        assert ("applying", version, history[int(version) - 1].event.topic) in told.lines[:at]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("mine")])
def test_an_observer_stops_the_run_where_it_stands(error: BaseException | None) -> None:
    history = recorded(trip)
    told = Told()
    told.run = run = Rerun(trip, "it", history, VALUES, observer=told)
    told.stop_at = next(
        r.originator_version
        for r in history
        if isinstance(r.event, e.StepCompleted) and r.event.path == "second"
    )
    told.raises = error
    seen.clear()
    if error is None:
        assert isinstance(run.run(), Stopped)
    else:
        with pytest.raises(type(error)):
            run.run()
    assert seen == ["first"]
    assert run.execution.is_gone
    assert not run.execution.loop.pending_tasks


def test_it_runs_once_and_not_inside_a_task() -> None:
    history = recorded(trip)
    run = Rerun(trip, "it", history, VALUES)
    run.run()
    with pytest.raises(RuntimeError, match="once"):
        run.run()

    async def inside() -> None:
        with pytest.raises(RuntimeError, match="to_thread"):
            Rerun(trip, "it", history, VALUES).run()
        outcome = await asyncio.to_thread(Rerun(trip, "it", history, VALUES).run)
        assert isinstance(outcome, Reached)

    asyncio.run(inside())


def test_it_stops_after_the_version_asked_for() -> None:
    history = recorded(trip)
    for version in range(1, len(history) + 1):
        run = Rerun(trip, "it", history, VALUES, upto=version)
        assert run.run() == Reached(version, ended=version == len(history))


# -- what is outside --------------------------------------------------------------------------------------------------


def test_an_await_outside_of_the_workflow_is_not_made() -> None:
    made: list[int] = []

    @workflow(name="outer")
    async def outer(step: Step) -> int:
        found: int = await step("before", act, 1)
        await asyncio.to_thread(made.append, 1)
        found += await step("after", act, 2)
        return found

    history = recorded(outer)
    assert made
    made.clear()
    outcome = Rerun(outer, "it", history, VALUES).run()
    assert isinstance(outcome, Outside)
    assert outcome.place is not None
    assert outcome.place.function == "outer"
    last = history[outcome.version - 1].event
    assert isinstance(last, e.StepCompleted)
    assert last.path == "before"
    assert not made


def test_what_a_handler_asks_of_an_engine_by_name_stays_in_the_replay() -> None:
    """An engine that the handler's module has, open or not, is not asked for anything."""

    @workflow(name="other")
    async def other(step: Step) -> int:
        return await step("work", act, 1)

    engines: list[Engine] = []

    @workflow(name="asks")
    async def asks(reads: bool, step: Step) -> str:
        engine = engines[0]
        run = await engine.start(other, id="the-other")
        await engine.publish("news", 1)
        if reads:
            await engine.instances()
        await step("after", act, 1)
        return run.id

    async def main() -> list[list[e.Recorded]]:
        async with testing.engine([asks, other]) as env:
            engines[:] = [env.engine]
            run = await asks.start(False, id="it")
            assert await env.until(run.result()) == "the-other"
            reading = await asks.start(True, id="reads")
            await env.until(reading.result())
            position = env.engine._log.max_notification_id()
            assert (await run.replay()).complete
            report = await reading.replay()
            assert report.ok
            assert not report.complete
            assert env.engine._log.max_notification_id() == position
            return [env.engine._parts.histories.rest(id) for id in ("it", "reads")]

    histories = asyncio.run(main())
    # Closed by now, and one that was never opened:
    for engine in (engines[0], Engine("sqlite://")):
        engines[0] = engine
        outcome = Rerun(asks, "it", histories[0], VALUES, workflows={"other": other}).run()
        assert isinstance(outcome, Reached), outcome
        outcome = Rerun(asks, "reads", histories[1], VALUES, workflows={"other": other}).run()
        assert isinstance(outcome, Outside), outcome


# -- ends -------------------------------------------------------------------------------------------------------------


def ends_with(kind: str) -> Workflow[Any, Any]:
    @workflow(name="ends")
    async def ends(step: Step, workflow: Any) -> Any:
        await step("work", act, 1)
        match kind:
            case "returns":
                return 1
            case "returns 2":
                return 2
            case "raises":
                raise LookupError("one")
            case "raises another":
                raise LookupError("two")
            case "aborts":
                return step.abort("enough")
            case "aborts for nothing":
                return step.abort()
            case "completes":
                return workflow.complete(1)
            case "goes on":
                return await step("more", act, 1)
            case "waits":
                return await step.listen("never")
            case _:
                return await asyncio.get_running_loop().create_future()

    return ends


@pytest.mark.parametrize("kind", ["returns", "raises", "aborts", "completes"])
def test_the_end_is_compared(kind: str) -> None:
    history = recorded(ends_with(kind))
    assert isinstance(Rerun(ends_with(kind), "it", history, VALUES).run(), Reached)
    for other, words in (
        ("returns 2", "it completed with 2"),
        ("raises another", "it failed: LookupError: two"),
        ("aborts for nothing", "it was aborted"),
        ("goes on", "goes on: asks for step 'more'"),
        ("waits", "asks for listen 'never'"),
        ("hangs", "does not end"),
    ):
        outcome = Rerun(ends_with(other), "it", history, VALUES).run()
        assert isinstance(outcome, Differs), (kind, other)
        assert outcome.difference.version == len(history)
        assert words in outcome.difference.actual
    same = {"returns": "completes", "completes": "returns"}.get(kind)
    if same is not None:
        assert isinstance(Rerun(ends_with(same), "it", history, VALUES).run(), Reached)


def test_who_never_ran_has_nothing_to_differ() -> None:
    @workflow
    async def late(step: Step) -> None:
        await step("work", act, 1)

    async def main() -> list[e.Recorded]:
        async with testing.engine([late]) as env:
            run = await late.start(id="it", delay="1h")
            await run.cancel()
            return env.engine._parts.histories.rest("it")

    history = asyncio.run(main())
    assert not any(isinstance(r.event, e.RunClaimed) for r in history)
    assert Rerun(late, "it", history, VALUES).run() == Reached(len(history), ended=True)


def test_a_retried_history_replays_before_and_after_the_retry() -> None:
    mended = False

    def fragile() -> int:
        if not mended:
            raise LookupError("not yet")
        return 2

    @workflow
    async def twice(step: Step) -> list[int]:
        return [await step("first", act, 1), await step("second", fragile, max_attempts=1)]

    async def main() -> list[e.Recorded]:
        nonlocal mended
        async with testing.engine([twice]) as env:
            run = await twice.start(id="it")
            with pytest.raises(Exception, match="not yet"):
                await env.until(run.result())
            mended = True
            await run.retry()
            assert await env.until(run.result()) == [1, 2]
            return env.engine._parts.histories.rest("it")

    history = asyncio.run(main())
    for version in range(1, len(history) + 1):
        outcome = Rerun(twice, "it", history, VALUES, upto=version).run()
        assert isinstance(outcome, Reached), (version, outcome)


def test_a_failure_given_to_the_handler_is_the_same_in_a_replay() -> None:
    caught: list[Any] = []

    @workflow
    async def careful(step: Step) -> str:
        try:
            await step("never", refuse, max_attempts=2)
        except StepError as error:
            caught.append((error.step, error.attempts, error.matches(LookupError)))
        return "done"

    history = recorded(careful)
    Rerun(careful, "it", history, VALUES).run()
    assert caught[0] == caught[-1]
    assert len(caught) == 2
