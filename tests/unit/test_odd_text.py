"""Texts that a database keeps in no column: refused by name where they name something, written out where people read
them; the same whatever the database is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from places import url_of

from wfes import Engine, InstanceNotFound, Status, Step, workflow

ODD = ["a\0b", "a\ud800b"]


@workflow(requests={"approval": bool})
async def listening(number: int, step: Step) -> Any:
    return await step.listen("go")


@workflow(requests={"approval": bool})
async def telling(text: str, step: Step) -> Any:
    await step.progress(text)
    with pytest.raises(InstanceNotFound):
        await step.send("send", text, "event")
    with pytest.raises(ValueError, match="must not hold"):
        await step.publish("publish", text)
    with pytest.raises(InstanceNotFound):
        await step.wait_for_workflow("wait", text)
    await step.request("approval", text, name="ask")
    step.fail(text)


@pytest.mark.parametrize("odd", ODD)
def test_what_cannot_be_stored_everywhere_is_refused_as_a_name(folder: Path, odd: str) -> None:
    async def main() -> None:
        async with Engine(url_of(folder), workflows=[listening]) as engine:
            run = await listening.start(1)
            calls: list[Any] = [
                lambda: listening.start(1, id=odd),
                lambda: listening.start(1, key=odd),
                lambda: listening.get_or_create(key=odd, input=1),
                lambda: listening.start(1, tags=[odd]),
                lambda: listening.start(1, conversation=odd),
                lambda: listening.start(1, actor=odd),
                lambda: run.send(odd, 1),
                lambda: run.send("go", 1, id=odd),
                lambda: run.send("go", 1, actor=odd),
                lambda: engine.publish(odd, 1),
                lambda: engine.publish("event", 1, key=odd),
                lambda: engine.instances(key=odd),
                lambda: engine.instances(workflow=odd),
                lambda: engine.requests(instance=odd),
                lambda: engine.requests(name=odd),
            ]
            for call in calls:
                with pytest.raises(ValueError, match="must not hold"):
                    await call()
            with pytest.raises(InstanceNotFound):
                await engine.get(odd)
            # Nobody's list was stopped by any of it.
            await run.send("other", 1)
            page = await engine.inbox(at_least=await engine.position())
            assert [item.event for item in page.items] == ["other"]

    asyncio.run(main())


@pytest.mark.parametrize("odd", ODD)
def test_what_people_read_is_written_out(folder: Path, odd: str) -> None:
    async def main() -> None:
        shown = odd.replace("\0", "\\x00").replace("\ud800", "\\ud800")
        async with Engine(url_of(folder), workflows=[telling]) as engine:
            run = await telling.start(odd)
            requests: list[Any] = []
            while not requests:
                await asyncio.sleep(0.01)
                requests = (await engine.requests(instance=run.id)).items
            assert requests[0].message == shown
            await run.pause(odd)
            await run.refresh()
            assert (run.input, run.reason, run.status) == (odd, shown, Status.PAUSED)
            assert run.progress is not None
            assert run.progress.message == shown
            await run.resume()
            await engine.provide(telling, requests[0], True)
            with pytest.raises(Exception, match="failed") as caught:
                await run.result()
            assert shown in str(caught.value)

    asyncio.run(main())
