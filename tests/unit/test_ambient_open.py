"""`open()` makes an engine as ambient as `async with` does, and handlers find theirs while it opens and closes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Status, Step, ambient, testing, workflow


@workflow
async def one(step: Step) -> int:
    return 1


@workflow
async def stuck(step: Step) -> None:
    await asyncio.Event().wait()


def test_the_only_engine_open_is_the_one_meant() -> None:
    async def main() -> None:
        engine = Engine("sqlite://", workflows=[one])
        await engine.open()
        try:
            assert await (await one.start()).result() == 1
        finally:
            await engine.close()

    asyncio.run(main())


def test_the_engine_of_a_thread_is_the_one_meant() -> None:
    with Engine("sqlite://", workflows=[one]) as engine:
        run = engine.call(one.start())
        assert engine.call(run.result()) == 1


def test_virtual_time_moves_on_while_a_handler_is_stuck() -> None:
    async def main() -> None:
        async with testing.engine([stuck]) as env:
            run = await stuck.start()
            await asyncio.wait_for(env.advance("1m"), 20)
            assert (await run.refresh()).status is Status.PAUSED

    asyncio.run(main())


@workflow
async def other(input: None, step: Step) -> str:
    """Is started by another."""
    return "other"


def test_a_handler_finds_its_engine_while_that_closes(tmp_path: Path) -> None:
    """A handler let run on while its engine closes is not failed for that."""
    going = asyncio.Event()
    first: list[Engine] = []

    async def wait() -> None:
        going.set()
        while any(one is first[0] for one in ambient._open):
            await asyncio.sleep(0.001)

    @workflow
    async def starting(input: None, step: Step) -> str:
        await step("wait", wait)
        return (await other.start(id="other")).id

    async def main() -> None:
        async with Engine(f"sqlite:///{tmp_path}/log.db", workflows=[starting, other]) as engine:
            first.append(engine)
            await engine.start(starting, id="run")
            await going.wait()
        async with Engine(f"sqlite:///{tmp_path}/log.db", workflows=[starting, other]) as engine:
            assert await (await engine.get("run")).result(timeout=20) == "other"

    asyncio.run(main())


def test_a_handler_finds_its_engine_while_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that goes on before everything of its engine is open is not failed for that."""

    @workflow
    async def starting(input: None, step: Step) -> str:
        await step.listen("go")
        return (await other.start(id="other")).id

    async def first() -> None:
        async with Engine(f"sqlite:///{tmp_path}/log.db", workflows=[starting, other], worker=False):
            run = await starting.start(id="run")
            await run.send("go")

    async def second() -> None:
        engine = Engine(f"sqlite:///{tmp_path}/log.db", workflows=[starting, other])
        opening = engine._parts.open

        async def slowly(*args: Any) -> None:
            await opening(*args)
            limit = time.monotonic() + 20
            while (await engine.instances(workflow="starting")).items[0].status != "completed":
                assert time.monotonic() < limit
                await asyncio.sleep(0.002)

        monkeypatch.setattr(engine._parts, "open", slowly)
        async with engine:
            assert await (await engine.get("run")).result(timeout=20) == "other"

    asyncio.run(first())
    asyncio.run(second())
