"""Steps: names, kinds of functions, results, retries, time-outs, cut-offs."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Retry, Step, StepError, StepInterrupted, UnstorableValue, workflow
from wfes.core import events as e
from wfes.core.decide import Resume


def done(make_sim: Any, wf: Any, input: Any = None) -> Any:
    """What a workflow returns, live; it is replayed behind each of its events as well, and must return the same."""

    async def main() -> Any:
        sim = make_sim(wf)
        id = sim.start(wf, input)
        await sim.run()
        output = sim.output(id)
        for other in sim.cuts(first=2):
            await other.run()
            assert other.output(id) == output
        return output

    return asyncio.run(main())


def paths(sim: Any, id: str) -> list[str]:
    return [event.path for event in sim.events(id, e.StepStarted)]


# ------------------------------------------------------------------------------------------------ names


def test_the_kth_use_of_a_name_gets_its_number_at_the_call_not_at_the_await(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[int]:
        first, second = step("a", lambda: 1), step("a", lambda: 2)
        return [await second, await first, await step("a", lambda: 3)]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [2, 1, 3]
        assert paths(sim, id) == ["a#2", "a", "a#3"]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["", "a/b", "a#2", "x" * 201])
def test_names_that_no_step_can_have(make_sim: Any, name: str) -> None:
    @workflow
    async def wf(step: Step) -> str:
        try:
            await step(name, lambda: 1)
        except ValueError as error:
            return str(error)
        return "none"

    text = done(make_sim, wf)
    assert repr(name) in text or "200" in text
    assert text != "none"


def test_a_call_is_awaited_once(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        call = step("a", lambda: 1)
        await call
        try:
            await call
        except RuntimeError as error:
            return str(error)
        return "none"

    assert "once" in done(make_sim, wf)


def test_what_is_no_function_is_refused(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[bool]:
        found = []
        for wrong in (5, None, "fn"):
            try:
                await step("a", wrong)  # type: ignore[call-overload]
            except TypeError as error:
                found.append(repr(wrong) in str(error))
        try:
            await step("a", lambda: 1, on_interrupt="never")  # type: ignore[call-overload]
        except ValueError as error:
            found.append("never" in str(error))
        return found

    assert done(make_sim, wf) == [True] * 4


# ------------------------------------------------------------------------------------------------ functions


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, value: int) -> int:
        return value + self.by

    def method(self, value: int) -> int:
        return value + self.by

    async def amethod(self, value: int) -> int:
        return value + self.by


class AsyncAdder(Adder):
    async def __call__(self, value: int) -> int:  # type: ignore[override]
        return value + self.by


async def add(left: int, right: int) -> int:
    return left + right


def test_every_kind_of_function_runs(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        def gives_awaitable(value: int) -> Any:
            return add(value, 1)

        return [
            await step("lambda", lambda x: x + 1, 1),
            await step("partial", functools.partial(add, 1), 1),
            await step("object", Adder(1), 1),
            await step("async object", AsyncAdder(1), 1),
            await step("method", Adder(1).method, 1),
            await step("async method", Adder(1).amethod, 1),
            await step("on loop", lambda x: x + 1, 1, thread=False),
            await step("awaitable", gives_awaitable, 1),
            await step("awaitable on loop", gives_awaitable, 1, thread=False),
            await step("builtin", max, 1, 2),
        ]

    assert done(make_sim, wf) == [2] * 10


def test_sync_functions_run_in_a_thread_and_see_the_context_of_their_call(make_sim: Any) -> None:
    import contextvars
    import threading

    told: contextvars.ContextVar[str] = contextvars.ContextVar("told", default="nothing")

    @workflow
    async def wf(step: Step) -> list[Any]:
        told.set("something")

        def look() -> list[Any]:
            return [told.get(), threading.current_thread() is threading.main_thread()]

        return [await step("thread", look), await step("loop", look, thread=False)]

    async def main() -> None:
        sim = make_sim(wf)
        with ThreadPoolExecutor(1) as threads:
            sim.host.threads = threads
            id = sim.start(wf)
            for _ in range(1000):
                await sim.run()
                if sim.state(id).ended:
                    break
            assert sim.output(id) == [["something", False], ["something", True]]

    asyncio.run(main())


def test_attempt_and_i_are_filled_where_required_and_unbound(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        async def by_keyword(value: int, *, attempt: int) -> list[int]:
            return [value, attempt]

        def with_default(attempt: int = 7) -> int:
            return attempt

        def bound(attempt: str) -> str:
            return attempt

        def both(item: str, i: int, attempt: int) -> list[Any]:
            return [item, i, attempt, step.index, step.attempt]

        def item_called_i(i: str) -> str:
            return i

        return [
            await step("keyword", by_keyword, 5),
            await step("default", with_default),
            await step("bound", bound, "mine"),
            await step("partial", functools.partial(by_keyword, 6)),
            await step.map("map", ["a", "b"], both),
            await step.map("item", ["a"], item_called_i),
        ]

    assert done(make_sim, wf) == [
        [5, 1],
        7,
        "mine",
        [6, 1],
        [["a", 0, 1, 0, 1], ["b", 1, 1, 1, 1]],
        ["a"],
    ]


def test_wrong_arguments_fail_the_step(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> list[bool]:
        found = []
        for fn in (add, lambda: 1):
            try:
                await step("a", fn, 1)
            except StepError as error:
                found.append(error.matches(TypeError))
        return found

    assert done(make_sim, wf) == [True, True]


@pytest.mark.parametrize("exit", [SystemExit(3), StopIteration(4), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("how", ["async", "thread", "loop"])
def test_what_no_task_may_raise_fails_the_step_alone(make_sim: Any, exit: BaseException, how: str) -> None:
    @workflow(retry=Retry(max_attempts=1))
    async def wf(step: Step) -> str:
        async def raises() -> None:
            raise exit

        def raises_too() -> None:
            raise exit

        try:
            await step("a", raises if how == "async" else raises_too, thread=how == "thread")
        except StepError as error:
            return error.error.type
        return "none"

    expected = {"StopIteration": "RuntimeError", "CancelledError": "RuntimeError"}
    name = type(exit).__name__
    assert done(make_sim, wf) == expected.get(name, name)


# ------------------------------------------------------------------------------------------------ results


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    x: int


@dataclass
class Data:
    colour: Colour


def test_results_come_back_as_they_were_live_and_on_replay(make_sim: Any) -> None:
    values: list[Any] = [
        (1, b"x"),
        {1, 2},
        {"a": (1,), 2: None},
        2**70,
        datetime(2030, 1, 1, tzinfo=UTC),
        float("inf"),
    ]

    def colour() -> Colour:
        return Colour.RED

    def models() -> list[Model]:
        return [Model(x=1)]

    def data() -> Data | None:
        return Data(Colour.RED)

    seen: list[list[Any]] = []

    @workflow
    async def wf(step: Step) -> None:
        found: list[Any] = [await step("v", lambda v=value: v) for value in values]
        found += [await step("e", colour), await step("m", models), await step("d", data)]
        found += [await step("r", lambda: Model(x=2), returns=Model)]
        seen.append(found)

    done(make_sim, wf)
    expected = [*values, Colour.RED, [Model(x=1)], Data(Colour.RED), Model(x=2)]
    full = [found for found in seen if len(found) == len(expected)]
    assert len(full) > 5
    for found in full:
        assert found == expected
        assert [type(value) for value in found] == [type(value) for value in expected]


def test_the_handler_gets_a_copy_of_what_the_function_returned(make_sim: Any) -> None:
    kept: list[list[int]] = []

    @workflow
    async def wf(step: Step) -> bool:
        def make() -> list[int]:
            kept.append([1])
            return kept[-1]

        value = await step("a", make)
        return any(value is other for other in kept)

    assert done(make_sim, wf) is False


def test_what_cannot_be_stored_is_raised_as_itself_and_not_retried(make_sim: Any) -> None:
    runs: Any = []

    @workflow
    async def wf(step: Step) -> list[str]:
        found = []
        for value in (object(), Model(x=1)):
            try:
                await step("odd", lambda v=value: runs.append(1) or v)
            except UnstorableValue as error:
                found.append(str(error))
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        first, second = sim.output(id)
        assert "'odd'" in first
        assert "object" in first
        assert "'odd#2'" in second
        assert "Model" in second
        assert len(runs) == 2
        assert not sim.events(id, e.StepAttemptFailed)
        replay = sim.cut(len(sim.log.committed) - 1)
        await replay.run()
        assert replay.output(id) == [first, second]
        assert len(runs) == 2

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ failing


def test_a_failed_step_raises_the_same_live_and_on_replay(make_sim: Any) -> None:
    class Odd(KeyError):
        pass

    @workflow
    async def wf(step: Step) -> list[Any]:
        def fails() -> None:
            raise Odd("k")

        try:
            await step("a", fails, max_attempts=2)
        except StepError as error:
            same = [error.matches(Odd), error.matches(KeyError), error.matches(ValueError)]
            cause = error.__cause__
            return [
                error.step,
                error.attempts,
                error.error.message,
                *same,
                isinstance(cause, Odd),
                str(error),
            ]
        return []

    out = done(make_sim, wf)
    assert out[:2] == ["a", 2]
    assert out[3:7] == [True, True, False, False], out


def test_backoff_is_durable_and_never_early(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=3, initial="10s", factor=2, jitter=False))
    async def wf(step: Step) -> int:
        def flaky(attempt: int) -> int:
            if attempt < 3:
                raise ValueError
            return attempt

        return await step("a", flaky)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == 3
        for other in sim.cuts(first=2):
            await other.run()
            assert other.output(id) == 3
            starts = [event.at for event in other.events(id, e.StepStarted) if event.attempt > 1]
            due = [event.retry_at for event in other.events(id, e.StepAttemptFailed)]
            assert all(start >= at for start, at in zip(starts[-2:], due[-2:], strict=False))
            assert len(due) == 2

    asyncio.run(main())


def test_give_up_on_and_max_attempts(make_sim: Any) -> None:
    @workflow(retry=Retry(max_attempts=9, give_up_on=(LookupError,)))
    async def wf(step: Step) -> list[int]:
        def fails(kind: type[Exception]) -> None:
            raise kind

        found = []
        for kind, options in ((KeyError, {}), (ValueError, {"max_attempts": 2})):
            try:
                await step("a", fails, kind, **options)  # type: ignore[call-overload]
            except StepError as error:
                found.append(error.attempts)
        return found

    assert done(make_sim, wf) == [1, 2]


def test_an_attempt_that_exceeds_its_timeout_fails_even_if_it_swallows_that(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        async def slow(stubborn: bool) -> str:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            return "late"

        found = []
        for stubborn in (False, True):
            try:
                await step("slow", slow, stubborn, timeout="2s", max_attempts=2)
            except StepError as error:
                found.append([error.matches(TimeoutError), error.attempts])
        return found

    assert done(make_sim, wf) == [[True, 2], [True, 2]]


# ------------------------------------------------------------------------------------------------ cut-offs


def test_a_step_that_may_run_once_raises_where_it_was_cut_off(make_sim: Any) -> None:
    runs: Any = []

    @workflow
    async def wf(step: Step) -> str:
        try:
            return await step("once", lambda: runs.append(1) or "ran", on_interrupt="fail")
        except StepInterrupted as error:
            return f"{error.step} {error.attempt}"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        started = next(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.StepStarted))
        cut = sim.cut(started + 1)
        await cut.run()
        assert cut.output(id) == "once 1"
        assert runs == [1]
        again = cut.cut(len(cut.log.committed) - 1)
        await again.run()
        assert again.output(id) == "once 1"
        assert runs == [1]

    asyncio.run(main())


def test_five_cut_offs_in_a_row_pause_and_resume_tries_again(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> int:
        return await step("a", lambda: 1)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        for _ in range(5):
            assert sim.output(id) == 1
            last = max(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.StepStarted))
            sim = sim.cut(last + 1)
            await sim.run()
        state = sim.state(id)
        assert str(state.status) == "paused"
        assert state.held == "cut-offs"
        assert "'a'" in state.pause_reason
        assert all(event.attempt == 1 for event in sim.events(id, e.StepStarted))
        sim.do(id, Resume())
        await sim.run()
        assert sim.output(id) == 1

    asyncio.run(main())


def test_no_recorded_step_runs_again_wherever_it_is_cut(make_sim: Any) -> None:
    runs: Any = []

    @workflow
    async def wf(step: Step) -> list[Any]:
        first = await step("a", lambda: runs.append("a") or 1)
        both = await asyncio.gather(*(step("b", lambda k=k: runs.append(f"b{k}") or k) for k in range(3)))
        return [first, *both, *(await step.map("m", "xy", lambda item: runs.append(item) or item))]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        names = {"a": "a", "b": "b0", "b#2": "b1", "b#3": "b2", "m/0": "x", "m/1": "y"}
        for other in sim.cuts():
            recorded = [names[event.path] for event in other.events(id, e.StepCompleted)]
            runs.clear()
            await other.run()
            assert other.output(id) == [1, 0, 1, 2, "x", "y"]
            assert sorted(runs + recorded) == sorted(names.values())

    asyncio.run(main())


def test_intent_is_on_disk_before_the_function_is_called(make_sim: Any) -> None:
    seen: list[bool] = []

    @workflow
    async def wf(step: Step) -> None:
        async def look(before: str | None) -> None:
            known = sim.events(id)
            started = [event for event in known if isinstance(event, e.StepStarted)][-1]
            ended = {event.path for event in known if isinstance(event, e.StepCompleted)}
            seen.append(started.path == step_path() and (before is None or before in ended))

        def step_path() -> str:
            from wfes.handler.scope import current

            scope = current()
            assert scope is not None
            return scope.path

        await step("a", look, None)
        await step("b", look, "a")

    sim: Any = None
    id = ""

    async def main() -> None:
        nonlocal sim, id
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert seen == [True, True]

    asyncio.run(main())
