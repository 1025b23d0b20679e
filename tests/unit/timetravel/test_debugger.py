"""The debugger's stops by what an instance has been through: not begun, ended from inside, cancelled, retried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wfes import Instance, Step, UnknownMoment, Workflow, WorkflowFailed, testing, workflow
from wfes.timetravel.debugger import Debugger
from wfes.timetravel.glance import Glance
from wfes.timetravel.into import step_call
from wfes.timetravel.recording import Recording, read_recording

luck = {"is_good": False}


def hope(attempt: int) -> int:
    if not luck["is_good"]:
        raise LookupError(f"attempt {attempt}")
    return attempt


def one() -> int:
    return 1


def give_up(step: Step, reason: str) -> None:
    why = f"because {reason}"
    step.fail(why)


@workflow
async def giving_up(step: Step) -> None:
    await step("first", abs, 1)
    give_up(step, "of rain")


@workflow
async def hoping(step: Step) -> int:
    before: int = await step("before", one)
    return before + await step("hope", hope, max_attempts=1)


@workflow
async def patient(step: Step) -> None:
    waited = "for long"
    try:
        await step.sleep("long", "30d")
    finally:
        waited += ", in vain"


@workflow
async def picky(number: int, step: Step) -> None:
    await step("first", abs, number)


Play = Callable[[testing.Environment, Instance[Any]], Awaitable[None]]


def recorded(wanted: Workflow[Any, Any], play: Play, input: Any = None) -> Recording:
    """An instance, and what happened to it."""

    async def main() -> Recording:
        async with testing.engine([wanted]) as env:
            run = await env.engine.start(wanted, input)
            await play(env, run)
            return read_recording(env.engine._log, run.id)

    return asyncio.run(main())


async def fails(env: testing.Environment, run: Instance[Any]) -> None:
    with pytest.raises(WorkflowFailed):
        await env.until(run.result())


def glance(recording: Recording, wanted: Workflow[Any, Any], at: int | None = None) -> dict[str, Any]:
    """What there is to be seen."""
    front = Glance()
    Debugger(recording, wanted, front, at=at).run()
    return front.seen


def test_a_handler_that_ended_its_instance_shows_where() -> None:
    seen = glance(recorded(giving_up, fails), giving_up)
    assert [frame["function"] for frame in seen["frames"]] == ["give_up", "giving_up"]
    assert seen["frames"][0]["locals"]["why"] == "'because of rain'"
    assert seen["notes"] == ["the handler has been ended here"]


def test_a_cancelled_handler_shows_where_it_was_when_it_was_told() -> None:
    async def play(env: testing.Environment, run: Instance[Any]) -> None:
        await env.settle()
        await run.cancel("no more")
        await env.settle()

    recording = recorded(patient, play)
    seen = glance(recording, patient)
    assert seen["frames"][0]["function"] == "patient"
    assert seen["frames"][0]["locals"]["waited"] == "'for long, in vain'"


def test_what_a_retry_made_void_is_passed_over() -> None:
    async def play(env: testing.Environment, run: Instance[Any]) -> None:
        luck["is_good"] = False
        await fails(env, run)
        luck["is_good"] = True
        await run.retry()
        assert await env.until(run.result()) == 2

    recording = recorded(hoping, play)
    types = [event.type for event in recording.events]
    void = types.index("StepFailed") + 1
    seen = glance(recording, hoping, void)
    assert seen["notes"] == [f"event {void} is void: a retry or a fork left it out"]
    assert seen["event"] > void
    assert seen["frames"][0]["locals"]["before"] == "1"
    assert glance(recording, hoping)["notes"] == ["the handler has returned 2"]
    # It is the start that counts whose outcome the handler was given.
    assert step_call(recording, hoping, "hope").version > void
    assert str(step_call(recording, hoping, "hope")).endswith("hope()")


def test_an_instance_that_nobody_ran() -> None:
    async def play(env: testing.Environment, run: Instance[Any]) -> None:
        """It is only started."""

    recording = recorded(patient, play)
    first = Recording(recording.id, recording.rows[:1], {})
    seen = glance(first, patient)
    assert seen["frames"] == []
    assert seen["notes"] == ["the handler has not begun"]


def test_an_input_that_does_not_fit_any_more() -> None:
    async def play(env: testing.Environment, run: Instance[Any]) -> None:
        await env.until(run.result())

    recording = recorded(picky, play, 3)

    @workflow(name="picky")
    async def pickier(number: bool, step: Step) -> None:
        await step("first", abs, number)

    seen = glance(recording, pickier)
    assert seen["frames"] == []
    assert "does not begin" in str(seen["notes"])


@pytest.mark.parametrize("at", [0, 99, -1])
def test_an_event_that_is_not_there(at: int) -> None:
    recording = recorded(giving_up, fails)
    with pytest.raises(UnknownMoment, match=f"has no version {at}: its versions are 1 to 5"):
        Debugger(recording, giving_up, Glance(), at=at)
