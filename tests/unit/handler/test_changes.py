"""`step.patched` and `was=`: what instances make of changed code, wherever an old run was cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wfes import Step, Workflow, workflow
from wfes.core import events as e
from wfes.runtime.values import Values
from wfes.simulation import SimulatedHost
from wfes.timetravel.replay import replay

Handler = Callable[[Step], Coroutine[Any, Any, Any]]


def act(value: Any) -> Any:
    return value


def made(handler: Handler) -> Workflow[Any, Any]:
    @workflow(name="changed", requests={"data": int}, timeout=None)
    async def changed(step: Step) -> Any:
        return await handler(step)

    return changed


def run(handler: Handler, history: list[e.Recorded] | None = None) -> tuple[list[e.Recorded], Any]:
    """Runs it to its end, from a history or from its start; its history then, and its output."""

    async def main() -> tuple[list[e.Recorded], Any]:
        wf = made(handler)
        host = SimulatedHost([wf])
        if history is None:
            start = host.engine.calls.start(wf, id="it")
            start.run(host.log)
        else:
            host.clock._now = max(recorded.event.at for recorded in history)
            host.log.load("it", history)
            state = host.log.state("it")
            assert state is not None
            if state.worker is not None:
                host.begin("it")
        await host.run()
        state = host.log.state("it")
        assert state is not None
        assert state.ended is not None, state.pause_reason
        return list(host.log.history("it")), host.values.open(state.output)

    return asyncio.run(main())


def goes_on(handler: Handler, history: list[e.Recorded]) -> Any:
    """Goes on with a history to its end; its output. What is then recorded replays."""
    grown, output = run(handler, history)
    report = replay(made(handler), grown, Values(lambda _: None))
    assert report.complete, str(report)
    return output


def version_of(history: list[e.Recorded], cls: type[e.Event], path: str) -> int:
    return next(
        r.originator_version
        for r in history
        if isinstance(r.event, cls) and getattr(r.event, "path", "") == path
    )


def decisions(history: list[e.Recorded]) -> list[tuple[str, str, bool]]:
    return [
        (r.event.scope, r.event.change, r.event.new) for r in history if isinstance(r.event, e.PatchDecided)
    ]


# -- patched ----------------------------------------------------------------------------------------------------------


async def before(step: Step) -> list[Any]:
    first = await step("a", act, 1)
    await step("b", act, 2)
    await step.sleep("rest", 1)
    return [first]


async def behind(step: Step) -> list[Any]:
    first = await step("a", act, 1)
    found = [first]
    if step.patched("change"):
        found.append(await step("extra", act, "extra"))
    await step("b", act, 2)
    await step.sleep("rest", 1)
    return found


def test_an_instance_has_a_change_if_nothing_is_recorded_behind_it() -> None:
    history, _ = run(before)
    passed = version_of(history, e.StepStarted, "b")
    for cut in range(1, len(history)):
        expected = [1, "extra"] if cut < passed else [1]
        assert goes_on(behind, history[:cut]) == expected, cut
    assert goes_on(behind, run(behind)[0][:1]) == [1, "extra"]


def test_an_end_is_behind_it_as_well() -> None:
    async def short(step: Step) -> int:
        return await step("a", act, 1)

    async def longer(step: Step) -> int:
        found: int = await step("a", act, 1)
        if step.patched("change"):
            await step("b", act, 2)
        return found

    history, _ = run(short)
    report = replay(made(longer), history, Values(lambda _: None))
    assert report.complete, str(report)
    assert goes_on(longer, history[:-1]) == 1


def test_the_answer_is_recorded_once_and_holds() -> None:
    async def loops(step: Step) -> list[bool]:
        found: list[bool] = []
        for number in range(3):
            found.append(step.patched("change"))
            await step("work", act, number)
            found.append(step.patched(f"round {number}"))
        return found

    async def old(step: Step) -> list[bool]:
        for number in range(3):
            await step("work", act, number)
        return []

    history, found = run(loops)
    assert found == [True] * 6
    assert decisions(history) == [
        ("", "change", True),
        ("", "round 0", True),
        ("", "round 1", True),
        ("", "round 2", True),
    ]
    history, _ = run(old)
    second = version_of(history, e.StepCompleted, "work#2")
    assert goes_on(loops, history[:second]) == [False, False, False, True, False, True]
    grown, _ = run(loops, history[:second])
    assert decisions(grown) == [
        ("", "change", False),
        ("", "round 0", False),
        ("", "round 1", True),
        ("", "round 2", True),
    ]


def test_code_that_asks_no_more_is_no_difference() -> None:
    history, _ = run(behind)

    async def settled(step: Step) -> list[Any]:
        found = [await step("a", act, 1), await step("extra", act, "extra")]
        await step("b", act, 2)
        await step.sleep("rest", 1)
        return found

    for cut in range(1, len(history)):
        assert goes_on(settled, history[:cut]) == [1, "extra"]


def test_branches_that_run_at_a_time() -> None:
    """Branch two passes the place while branch one still waits: what is behind it in either branch counts."""

    async def one(step: Step) -> None:
        await step.sleep("long", 5)
        await step("one", act, 1)

    async def two(step: Step, *, new: bool) -> bool:
        await step.sleep("short", 1)
        has = new and step.patched("change")
        if has:
            await step("extra", act, 1)
        await step("two", act, 2)
        return has

    async def old(step: Step) -> list[Any]:
        return [*await asyncio.gather(one(step), two(step, new=False))]

    async def new(step: Step) -> list[Any]:
        return [*await asyncio.gather(one(step), two(step, new=True))]

    history, _ = run(old)
    passed = version_of(history, e.StepStarted, "two")
    for cut in range(1, len(history)):
        assert goes_on(new, history[:cut]) == [None, cut < passed], cut


def test_in_the_function_of_a_step() -> None:
    def outer(*, new: bool) -> Handler:
        async def handler(step: Step) -> Any:
            async def function() -> list[Any]:
                found = [await step("in", act, 1)]
                if new and step.patched("change"):
                    found.append(await step("extra", act, "extra"))
                found.append(await step("second", act, 2))
                await step.sleep("rest", 1)
                return found

            return await step("outer", function)

        return handler

    history, _ = run(outer(new=False))
    passed = version_of(history, e.StepStarted, "outer/second")
    ended = version_of(history, e.StepCompleted, "outer")
    for cut in range(1, len(history)):
        expected = [1, "extra", 2] if cut < passed else [1, 2]
        assert goes_on(outer(new=True), history[:cut]) == expected, cut
        if cut < ended:
            grown, _ = run(outer(new=True), history[:cut])
            assert decisions(grown) == [("outer", "change", cut < passed)]


def test_an_id_is_checked() -> None:
    for wrong in ("", "a/b", "a#2", "x" * 201):

        async def asks(step: Step) -> str:
            try:
                step.patched(wrong)  # noqa: B023
            except ValueError as error:
                return str(error)
            return "taken"

        assert "id of a change" in run(asks)[1]


# -- was --------------------------------------------------------------------------------------------------------------


def test_a_renamed_step_goes_on_under_the_name_it_was_recorded_by() -> None:
    async def old(step: Step) -> list[Any]:
        return [await step("pay", act, number) for number in range(3)]

    async def new(step: Step) -> list[Any]:
        return [await step("charge", act, number, was="pay") for number in range(3)]

    async def newer(step: Step) -> list[Any]:
        return [await step("bill", act, number, was=["charge", "pay"]) for number in range(3)]

    history, _ = run(old)
    for cut in range(1, len(history)):
        assert goes_on(new, history[:cut]) == [0, 1, 2]
        grown, _ = run(new, history[:cut])
        before_it = {r.event.path for r in history[:cut] if isinstance(r.event, e.StepStarted)}
        started = {r.event.path for r in grown[cut:] if isinstance(r.event, e.StepStarted)} - before_it
        assert all(path.startswith("charge") for path in started)
        for again in range(cut, len(grown)):
            assert goes_on(newer, grown[:again]) == [0, 1, 2]


def test_two_steps_that_exchange_their_names() -> None:
    async def old(step: Step) -> list[Any]:
        return [await step("pay", act, 1), await step("charge", act, 2)]

    async def new(step: Step) -> list[Any]:
        return [await step("charge", act, 1, was="pay"), await step("charge", act, 2)]

    async def other(step: Step) -> list[Any]:
        """A step of the old name that comes later is another one."""
        return [await step("charge", act, 1, was="pay"), await step("pay", act, 2)]

    history, _ = run(old)
    for cut in range(1, len(history)):
        assert goes_on(new, history[:cut]) == [1, 2]
    history, _ = run(other)
    assert [r.event.path for r in history if isinstance(r.event, e.StepStarted)] == ["charge", "pay"]
    for cut in range(1, len(history)):
        assert goes_on(other, history[:cut]) == [1, 2]


def test_every_call_that_takes_a_name_takes_an_old_one() -> None:
    def calls(*, new: bool) -> Handler:
        def named(kind: str) -> dict[str, Any]:
            return {"name": f"new {kind}", "was": f"old {kind}"} if new else {"name": f"old {kind}"}

        async def handler(given: Step) -> Any:
            step: Any = given
            found: list[Any] = [
                await step(fn=lambda: "done", **named("step")),
                await step.sleep(duration=1, **named("sleep")),
                await step.sleep_until(when=step.now(), **named("until")),
                await step.map(items=[1, 2], fn=act, **named("map")),
                await step.for_each(items=[1], fn=act, **named("each")),
                await step.batch(items=[1, 2, 3], fn=act, batch_size=2, **named("batch")),
            ]
            for wait in (
                step.listen(event="e", timeout=1, **named("listen")),
                step.request("data", timeout=1, **named("request")),
            ):
                try:
                    await wait
                except TimeoutError:
                    found.append("late")
            return found

        return handler

    history, output = run(calls(new=False))
    assert output == ["done", None, None, [1, 2], None, None, "late", "late"]
    for cut in range(1, len(history)):
        assert goes_on(calls(new=True), history[:cut]) == output
    history, _ = run(calls(new=True))
    paths = {getattr(r.event, "path", "new") for r in history}
    assert all(path.startswith("new") for path in paths), paths


@pytest.mark.parametrize(
    ("was", "words"),
    [(3, "was="), (["a", ""], "former step name"), ("a/b", "former step name"), ([1], "name")],
)
def test_old_names_are_checked(was: Any, words: str) -> None:
    async def asks(step: Step) -> str:
        try:
            await step("name", act, 1, was=was)
        except (TypeError, ValueError) as error:
            return str(error)
        return "taken"

    assert words in run(asks)[1]
