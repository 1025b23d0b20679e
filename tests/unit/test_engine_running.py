"""The engine with a worker: results, commands to what runs, calls inside handlers and steps, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Engine, Event, Instance, Request, Status, Step, Workflow, workflow
from wfes.errors import (
    EngineNotOpen,
    InvalidInput,
    OutsideHandler,
    WorkflowAborted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTimedOut,
)


class Order(BaseModel):
    id: str
    total: float = 0


class Receipt(BaseModel):
    id: str


@workflow
async def sell(order: Order, step: Step) -> Receipt:
    """Sells at once."""
    await step("charge", lambda: order.total)
    return Receipt(id=order.id)


@workflow(requests={"approval": bool})
async def approve(step: Step) -> bool:
    """Asks a person."""
    return bool(await step.request("approval"))


@workflow
async def wait(step: Step) -> Any:
    """Waits for an event."""
    return await step.listen("go")


@workflow
async def fail(reason: str, step: Step) -> None:
    """Fails, or aborts."""
    if reason == "abort":
        step.abort("enough")
    raise ValueError(reason)


@workflow
async def finish(step: Step, workflow: Instance[Any]) -> int:
    """Ends from within."""
    await step("look", lambda: None)
    workflow.complete(7)


@workflow
async def starts(key: str, step: Step) -> list[str]:
    """Starts others by recorded calls, across a wait that replays them."""
    first = await wait.start(key=key, tags=["child"])
    again = await wait.get_or_create(key=key)
    assert again == first
    assert (first.key, first.tags, first.status) == (key, ("child",), Status.PENDING)
    assert first.parent == again.parent
    refused = ""
    try:
        await sell.start({"no": "id"})  # type: ignore[arg-type]
    except InvalidInput as error:
        refused = str(error)
    third = await step("inner", start_inside)
    await step.listen("go")
    await first.send("go", "by parent")
    return [first.id, third, refused]


async def start_inside() -> str:
    first = await wait.start()
    second = await wait.start()
    assert first.id != second.id
    if FAILING:
        FAILING.pop()
        raise OSError("once")
    return first.id


FAILING: list[int] = []
WORKFLOWS: list[Workflow[Any, Any]] = [sell, approve, wait, fail, finish, starts]


async def until_waiting(run: Instance[Any]) -> None:
    async with asyncio.timeout(10):
        while (await run.refresh()).status is not Status.LISTENING:
            await asyncio.sleep(0.005)


async def until_closed_again(run: Instance[Any], kind: str) -> None:
    """Until the handler left memory."""
    async with asyncio.timeout(10):
        while (await run.history())[-1].type != kind:
            await asyncio.sleep(0.005)


def test_results_are_decoded_and_errors_are_raised() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=WORKFLOWS):
            run = await sell.start(Order(id="o", total=3))
            assert await run.result(10) == Receipt(id="o")
            assert (await run.refresh()).output == Receipt(id="o")
            assert run.status is Status.COMPLETED
            failed = await fail.start("no")
            with pytest.raises(WorkflowFailed, match="no") as caught:
                await failed.result(10)
            assert caught.value.error is not None
            assert caught.value.error.matches(ValueError)
            assert (await failed.refresh()).error == caught.value.error
            with pytest.raises(WorkflowAborted, match="enough"):
                await (await fail.start("abort")).result(10)
            assert await (await finish.start()).result(10) == 7
            with pytest.raises(OutsideHandler):
                (await wait.start()).complete()

    asyncio.run(main())


def test_many_at_once_over_the_bound_of_what_runs() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=WORKFLOWS, max_running=5):
            runs = await asyncio.gather(*(sell.start(Order(id=str(n))) for n in range(60)))
            receipts = await asyncio.gather(*(run.result(30) for run in runs))
            assert [receipt.id for receipt in receipts] == [str(n) for n in range(60)]

    asyncio.run(main())


def test_requests_events_cancels_and_time_outs_reach_what_runs() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=WORKFLOWS) as engine:
            asking = await approve.start()
            await until_waiting(asking)
            (request,) = await engine.requests(instance=asking)
            await approve.provide(request, True)
            assert await asking.result(10) is True

            listening = await wait.start(key="k")
            await until_waiting(listening)
            await engine.publish(Event("go", int), 3, key="k")
            assert await listening.result(10) == 3

            early = await wait.start()
            await early.send("go", {"x": 1})
            assert await early.result(10) == {"x": 1}

            gone = await wait.start()
            await until_waiting(gone)
            await gone.cancel("no")
            with pytest.raises(WorkflowCancelled, match="no"):
                await gone.result(10)

            late = await wait.start()
            await late.set_timeout("20ms")
            with pytest.raises(WorkflowTimedOut):
                await late.result(10)
            await late.retry()
            await late.send("go", 1)
            assert await late.result(10) == 1

    asyncio.run(main())


def test_calls_inside_a_handler_are_recorded_and_replayed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    FAILING.append(1)

    async def begin() -> str:
        async with Engine(url, workflows=WORKFLOWS):
            run = await starts.start("k")
            await until_waiting(run)
            return run.id

    async def go_on(id: str) -> None:
        async with Engine(url, workflows=WORKFLOWS) as engine:
            run = await starts.get(id)
            await run.send("go")
            first, third, refused = await run.result(10)
            assert "does not fit" in refused
            assert await (await wait.get(first)).result(10) == "by parent"
            children = await engine.instances(parent=run)
            assert len(children) == 3
            assert {first, third} < {row.id for row in children}
            calls = [event for event in await run.history() if event.type == "CallRecorded"]
            assert [event.data["call"] for event in calls[:2]] == ["start", "get_or_create"]
            assert (await wait.get(first)).parent == run.id

    id = asyncio.run(begin())
    asyncio.run(go_on(id))


def test_a_worker_runs_what_another_process_started(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def main() -> None:
        async with Engine(url, worker=False) as outside, Engine(url, workflows=WORKFLOWS):
            run = await outside.start("sell", {"id": "o"})
            assert await run.result(10) == {"id": "o"}
            bad = await outside.start("sell", {"no": "id"})
            with pytest.raises(WorkflowFailed) as caught:
                await bad.result(10)
            assert caught.value.error is not None
            assert caught.value.error.matches(InvalidInput)
            typed = await outside.start(sell, Order(id="p"))
            assert await typed.result(10) == Receipt(id="p")

    asyncio.run(main())


def test_a_requests_type_declared_in_the_handler_is_checked() -> None:
    colour = Request("colour", int)

    @workflow
    async def choose(step: Step) -> int:
        return await step.request(colour)

    async def main() -> None:
        async with Engine("sqlite://", workflows=[choose]) as engine:
            run = await choose.start()
            await until_waiting(run)
            (request,) = await engine.requests()
            with pytest.raises(ValueError, match="colour"):
                await choose.provide(request, "red")
            await choose.provide(request, "3")
            assert await run.result(10) == 3

    asyncio.run(main())


def test_large_results_are_had_again_from_the_log() -> None:
    @workflow
    async def large(size: int) -> str:
        return "x" * size

    async def main() -> None:
        async with Engine("sqlite://", workflows=[large]):
            runs = [await large.start(size) for size in (100_000, 1, 100_001)]
            for _ in range(2):
                assert [len(await run.result(10)) for run in runs] == [100_000, 1, 100_001]
            (found,) = [await large.get(runs[0].id)]
            assert len(await found.result(10)) == 100_000

    asyncio.run(main())


def test_run_forever_stops_cleanly_on_a_signal() -> None:
    async def main() -> None:
        engine = Engine("sqlite://", workflows=WORKFLOWS)
        running = asyncio.create_task(engine.run_forever())
        async with asyncio.timeout(10):
            async with asyncio.TaskGroup() as group:
                group.create_task(running_then_stopped(engine))
            await running

    async def running_then_stopped(engine: Engine) -> None:
        while True:
            try:
                run = await engine.start(sell, Order(id="o"))
            except EngineNotOpen:
                await asyncio.sleep(0.005)
                continue
            await run.result(10)
            os.kill(os.getpid(), signal.SIGTERM)
            return

    asyncio.run(main())


def test_a_handler_may_await_another_instances_result_as_plain_io() -> None:
    @workflow
    async def asks(step: Step) -> str:
        run = await sell.start(Order(id="inner"))
        found = await sell.get(run.id)
        receipt = await found.result(10)
        await step("after", lambda: None)
        return receipt.id

    async def main() -> None:
        async with Engine("sqlite://", workflows=[asks, sell]):
            assert await (await asks.start()).result(10) == "inner"

    asyncio.run(main())


def test_one_instance_for_callers_in_two_engines(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def ids(engine: Engine) -> set[str]:
        runs = await asyncio.gather(*(engine.get_or_create(wait, key="k") for _ in range(25)))
        return {run.id for run in runs}

    async def main() -> None:
        async with Engine(url, workflows=[wait]) as one, Engine(url, workflows=[wait]) as two:
            first, second = await asyncio.gather(ids(one), ids(two))
            assert first == second
            assert len(first) == 1

    asyncio.run(main())


def test_code_that_is_not_async_runs_workflows() -> None:
    with Engine("sqlite://", workflows=WORKFLOWS) as engine:
        run = engine.call(sell.start(Order(id="o")))
        assert engine.call(run.result(), timeout=10) == Receipt(id="o")


def test_a_large_value_comes_back() -> None:
    @workflow
    async def echo(value: list[str], step: Step) -> list[str]:
        return await step("same", lambda: value)

    async def main() -> None:
        async with Engine("sqlite://", workflows=[echo]):
            value = ["x" * 1000] * 2000
            run = await echo.start(value)
            assert await run.result(20) == value
            assert (await run.history())[0].data["input"] == value

    asyncio.run(main())
