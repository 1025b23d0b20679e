"""The frames of a waiting handler: whichever way its code came to wait, the line that awaits an event is found."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import FrameType

import pytest

from wfes import Step, Workflow, testing, workflow
from wfes.timetravel.debugger import Debugger
from wfes.timetravel.frames import View
from wfes.timetravel.moment import Goto, Kind, Moment, Move, Quit, Running
from wfes.timetravel.recording import Recording, read_recording


async def pair(step: Step, name: str) -> int:
    await step(f"{name}1", abs, 1)
    return await step(f"{name}2", abs, 2)


@asynccontextmanager
async def around(step: Step) -> AsyncGenerator[None]:
    await step("enter", abs, 1)
    yield
    await step("leave", abs, 1)


async def numbers(step: Step) -> AsyncGenerator[int]:
    yield await step("number", abs, 1)


class Awaitable:
    def __init__(self, step: Step) -> None:
        self.step = step

    def __await__(self):  # type: ignore[no-untyped-def]
        return (yield from self.step("own", abs, 1).__await__())


@workflow
async def tasks(step: Step) -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(pair(step, "group"))
        group.create_task(step("direct", abs, 3))
    await asyncio.gather(pair(step, "gather"), step("plain", abs, 1))
    await asyncio.wait({asyncio.create_task(pair(step, "wait"))})
    await asyncio.wait_for(pair(step, "limited"), 10)
    async with asyncio.timeout(10):
        await step("timeout", abs, 5)
    await asyncio.shield(asyncio.ensure_future(step("shield", abs, 6)))
    later = asyncio.create_task(step("later", abs, 7))
    await step("first", abs, 8)
    await later
    for each in asyncio.as_completed([asyncio.create_task(pair(step, "completed"))]):
        await each
    async with around(step):
        await step("inside", abs, 1)
    async for _ in numbers(step):
        pass
    await Awaitable(step)
    await step.for_each("each", [1, 2], abs)
    await step.map("map", [1], abs)
    return 1


TWO = ['await step(f"{name}1", abs, 1)', 'return await step(f"{name}2", abs, 2)']
OUTER = {
    "group": "async with asyncio.TaskGroup() as group:",
    "gather": 'await asyncio.gather(pair(step, "gather"), step("plain", abs, 1))',
    "wait": 'await asyncio.wait({asyncio.create_task(pair(step, "wait"))})',
    "limited": 'await asyncio.wait_for(pair(step, "limited"), 10)',
    "completed": "await each",
}
AT = {
    **{f"{name}{number}": [line, TWO[number - 1]] for name, line in OUTER.items() for number in (1, 2)},
    "direct": [OUTER["group"]],
    "plain": [OUTER["gather"]],
    "timeout": ['await step("timeout", abs, 5)'],
    "shield": ['await asyncio.shield(asyncio.ensure_future(step("shield", abs, 6)))'],
    "first": ['await step("first", abs, 8)'],
    "enter": ["async with around(step):", 'await step("enter", abs, 1)'],
    "inside": ['await step("inside", abs, 1)'],
    "leave": ["async with around(step):", 'await step("leave", abs, 1)'],
    "number": ["async for _ in numbers(step):", 'yield await step("number", abs, 1)'],
    "own": ["await Awaitable(step)", 'return (yield from self.step("own", abs, 1).__await__())'],
    "each/0": ['await step.for_each("each", [1, 2], abs)'],
    "each/1": ['await step.for_each("each", [1, 2], abs)'],
    "map/0": ['await step.map("map", [1], abs)'],
}


class Places:
    """A front that notes the user's own lines at every event, and the lines that its stops are in."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.lines: dict[tuple[str, str], list[str]] = {}

    def begin(self, run: Running) -> None:
        """A run begins."""

    def look(self, moment: Moment) -> Move:
        if moment.kind is not Kind.EVENT:
            return Quit()
        event = self.recording.events[moment.position - 1]
        if (path := event.data.get("path")) is not None:
            assert moment.view is not None
            self.lines[event.type, path] = own_lines(moment.view)
        return Goto(moment.position + 1)

    def run_on(self) -> None:
        """Nothing stops in the handler's code."""

    def run_fast(self) -> None:
        """Nothing stops in the handler's code."""

    def interrupt(self, frame: FrameType | None) -> bool:
        return False


def own_lines(view: View) -> list[str]:
    """The source lines of the frames of this file, the outermost first."""
    own = [(frame, line) for frame, line in view.places if frame.f_code.co_filename == __file__]
    return [linecache.getline(__file__, line).strip() for _, line in own]


def recorded(wanted: Workflow[None, int]) -> Recording:
    """A run of a workflow without input."""

    async def main() -> Recording:
        async with testing.engine([wanted]) as env:
            run = await wanted.start()
            await env.until(run.result())
            return read_recording(env.engine._log, run.id)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def lines() -> dict[tuple[str, str], list[str]]:
    recording = recorded(tasks)
    front = Places(recording)
    Debugger(recording, tasks, front, at=1).run()
    return front.lines


@pytest.mark.parametrize("path", AT)
@pytest.mark.parametrize("type", ["StepStarted", "StepCompleted"])
def test_the_line_that_awaits_is_found(lines: dict[tuple[str, str], list[str]], type: str, path: str) -> None:
    assert lines[type, path] == AT[path]


def test_a_task_that_is_awaited_later_is_shown_where_its_maker_stands(
    lines: dict[tuple[str, str], list[str]],
) -> None:
    assert lines["StepStarted", "later"] == ['await step("first", abs, 8)']
    assert lines["StepCompleted", "later"] in (["await later"], ['await step("first", abs, 8)'])
