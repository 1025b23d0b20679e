"""`open()` makes an engine as ambient as `async with` does; virtual time moves on while a handler is stuck."""

from __future__ import annotations

import asyncio

from wfes import Engine, Status, Step, testing, workflow


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
