"""What was once wrong in rare conditions: conflicts during replays, large values, refused openings, pauses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from wfes import Engine, Retry, Status, Step, WfesError, WorkflowFailed, workflow

BIG = 3 * 1024 * 1024


async def big(number: int) -> str:
    return str(number) * BIG


async def small() -> int:
    return 1


@workflow
async def bare(step: Step) -> list[int]:
    first = asyncio.create_task(step("a", small))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step("b", small)) for _ in range(3)]
    return [await first, *[task.result() for task in tasks]]


def test_tasks_are_made_of_step_calls() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[bare]):
            run = await bare.start()
            assert await run.result() == [1, 1, 1, 1]
            started = [event.data["path"] for event in await run.history() if event.type == "StepStarted"]
            assert started == ["a", "b", "b#2", "b#3"]

    asyncio.run(main())


@workflow
async def large(step: Step) -> int:
    first = await step.map("big", range(30), big, concurrency=30)
    await step.sleep("rest", "1200ms")
    return sum(len(text) for text in first)


def test_many_large_results_at_once_survive_a_replay(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine(f"sqlite:///{tmp_path}/a.db", workflows=[large]):
            assert await (await large.start()).result(timeout=50) == 10 * BIG + 20 * 2 * BIG

    asyncio.run(main())


@workflow
async def refused(step: Step) -> str:
    task = asyncio.ensure_future(step.wait_for_workflow("ww", "nobody"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await step.sleep("rest", "1200ms")
    return "done"


def test_what_was_refused_and_withdrawn_is_no_difference(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine(f"sqlite:///{tmp_path}/a.db", workflows=[refused]):
            assert await (await refused.start()).result(timeout=20) == "done"

    asyncio.run(main())


class Note(BaseModel):
    note: str = "default"


broken = {"is": True}


async def sometimes() -> None:
    if broken["is"]:
        raise ValueError("broken")


@workflow(state=Note, retry=Retry(max_attempts=1))
async def noting(step: Step, state: Note) -> str:
    try:
        await step("try", sometimes)
    except WfesError:
        state.note = "failed"
        await step("tell", small)
        raise
    await step("after", small)
    return state.note


def test_a_retry_voids_what_the_failed_run_recorded_of_the_state() -> None:
    async def main() -> None:
        broken["is"] = True
        async with Engine("sqlite://", workflows=[noting]):
            run = await noting.start()
            with pytest.raises(WorkflowFailed):
                await run.result()
            await run.refresh()
            assert run.state.note == "failed"
            broken["is"] = False
            await run.retry()
            assert await run.result() == "default"
            await run.refresh()
            assert run.state.note == "default"

    asyncio.run(main())


@workflow
async def after_change(step: Step) -> str:
    await step("a" if broken["is"] else "z", small)
    await step.sleep("rest", "3s")
    return "done"


def test_commands_that_meet_a_hold_leave_no_instance_behind(tmp_path: Path) -> None:
    """A send between the claim and the hold's commit conflicts with it; the instance is paused all the same."""

    async def main() -> None:
        broken["is"] = True
        async with Engine(f"sqlite:///{tmp_path}/a.db", workflows=[after_change]):
            runs = list(await asyncio.gather(*(after_change.start() for _ in range(20))))
            for run in runs:
                while (await run.refresh()).status is not Status.LISTENING:
                    await asyncio.sleep(0.02)
        broken["is"] = False
        async with Engine(f"sqlite:///{tmp_path}/a.db", workflows=[after_change]) as engine:
            handles = [await engine.get(run.id) for run in runs]
            paused: set[str] = set()
            for _ in range(3_000):
                for run in handles:
                    if run.id not in paused:
                        await run.send("noise")
                        if (await run.refresh()).status is Status.PAUSED:
                            paused.add(run.id)
                if len(paused) == len(handles):
                    return
                await asyncio.sleep(0.002)
        raise AssertionError(f"{len(paused)} of {len(handles)} are paused")

    asyncio.run(main())


@workflow
async def listening(step: Step) -> str:
    try:
        return str(await step.listen("late", timeout="200ms"))
    except TimeoutError:
        return "timed out"


def test_what_comes_after_a_listen_has_expired_is_late_whether_or_not_a_worker_ran(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/a.db"
        async with Engine(url, workflows=[listening]):
            run = await listening.start()
            while (await run.refresh()).status is not Status.LISTENING:
                await asyncio.sleep(0.005)
        async with Engine(url, workflows=[listening], worker=False) as engine:
            handle = await engine.get(run.id)
            (wait,) = handle.waiting_for
            assert wait.until is not None
            while datetime.now(UTC) <= wait.until:
                await asyncio.sleep(0.02)
            await handle.send("late", "too late")
        async with Engine(url, workflows=[listening]) as engine:
            assert await (await engine.get(run.id)).result(timeout=20) == "timed out"

    asyncio.run(main())


@workflow
async def dozing(step: Step) -> None:
    await step("a", small)
    await asyncio.sleep(3600)


def test_a_timer_is_waited_for_since_it_was_made() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[dozing]):
            run = await dozing.start()
            while not (await run.refresh()).waiting_for:
                await asyncio.sleep(0.02)
            await run.send("noise")
            (wait,) = (await run.refresh()).waiting_for
            assert wait.kind == "timer"
            assert wait.until is not None
            assert wait.until - wait.since == timedelta(hours=1)

    asyncio.run(main())
