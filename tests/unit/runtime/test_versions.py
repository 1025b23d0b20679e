"""Which instances are for workers with newer code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Instance, Status, Step, Unserved, Workflow, workflow
from wfes.core import events as e
from wfes.runtime.versions import Versions, newer_than


def defined(workflow: str, version: str | None) -> e.WorkflowDefined:
    return e.WorkflowDefined(at=1, workflow=workflow, version=version)


def test_newer_is_what_was_met_later() -> None:
    versions = Versions({"a": "2", "b": None})
    for label in ("1", "2", None, "1"):
        versions.tell(defined("a", label))
    assert versions.newer == {}
    versions.tell(defined("a", "0"))
    versions.tell(defined("a", "2"))
    assert versions.newer == {"a": ("0",)}, (
        "labels have no order of their own, and one that comes back is as old"
    )
    versions.tell(defined("b", "1"))
    versions.tell(defined("c", "1"))
    assert versions.newer == {"a": ("0",)}


def test_a_label_that_was_never_met_has_none_that_are_newer() -> None:
    assert newer_than("x", ["a", "b"]) == ()
    assert newer_than("a", ["a", "b", "c"]) == ("b", "c")
    assert newer_than("c", ["a", "b", "c"]) == ()


def generation(version: str | None) -> Workflow[str, str]:
    @workflow(name="job", version=version)
    async def job(name: str, step: Step) -> str:
        await step("begin", lambda: name)
        await step.listen("go")
        return await step("end", lambda: str(version))

    return job


async def rests(run: Instance[Any]) -> None:
    """Returns once it waits, and nobody has it in memory."""
    async with asyncio.timeout(10):
        while (await run.refresh()).status is not Status.LISTENING or (
            (await run.history())[-1].type != "RunReleased"
        ):
            await asyncio.sleep(0.01)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("postgres_url"))


def test_new_code_goes_on_with_what_old_code_began(url: str) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[generation("1")]) as old:
            run = await old.start("job", "x")
            await rests(run)
        async with Engine(url, workflows=[generation("2")]) as new:
            again = await new.get(run.id)
            await again.send("go")
            assert await again.result(10) == "2"

    asyncio.run(main())


def test_old_code_leaves_alone_what_new_code_began_and_says_so(url: str) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[generation("1")]) as old:
            early = await old.start("job", "early")
            await rests(early)
            async with Engine(url, workflows=[generation("2")], name="new") as new:
                run = await new.start("job", "x")
                await rests(run)
                assert await old.unserved() == []
            await run_on(old, run.id)
            assert await old.unserved() == [Unserved(workflow="job", version="2", instances=1)]
            assert await old.without_worker(await old.instances()) == {run.id}
            # Its own, and what is new, it goes on with.
            await early.send("go")
            assert await early.result(10) == "1"
            fresh = await old.start("job", "fresh")
            await fresh.send("go")
            assert await fresh.result(10) == "1"
            assert (await (await old.get(run.id)).refresh()).status is Status.LISTENING
            async with Engine(url, workflows=[generation("3")]) as newest:
                assert await (await newest.get(run.id)).result(10) == "3"
            assert await old.unserved() == []

    async def run_on(engine: Engine, id: str) -> None:
        await (await engine.get(id)).send("go")

    asyncio.run(main())


def test_without_labels_every_worker_takes_everything(url: str) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[generation("1")]) as labelled:
            run = await labelled.start("job", "x")
            await rests(run)
        async with Engine(url, workflows=[generation(None)]) as plain:
            again = await plain.get(run.id)
            await again.send("go")
            assert await again.result(10) == "None"

    asyncio.run(main())
