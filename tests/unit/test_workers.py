"""Who works on a log, what each holds and runs, and what no worker can run."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Instance, Step, Unserved, WorkerCode, workflow
from wfes.log.open import open_log
from wfes.runtime import leases


@workflow(version="7")
async def held(step: Step) -> None:
    """Stays in memory."""
    await step("wait", asyncio.Event().wait)


@workflow
async def other(step: Step) -> None:
    """Knows nothing of the rest."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("postgres_url"))


async def began(run: Instance[Any]) -> None:
    async with asyncio.timeout(10):
        while "StepStarted" not in [event.type for event in await run.history()]:
            await asyncio.sleep(0.01)


def test_a_worker_tells_what_it_holds_and_runs(url: str) -> None:
    async def main() -> None:
        async with (
            Engine(url, workflows=[held], worker=False) as looking,
            Engine(url, workflows=[held, other], name="crew") as working,
        ):
            run = await working.start(held)
            await began(run)
            (worker,) = await looking.workers()
            assert (worker.status, worker.name, worker.host, worker.pid) == (
                "running",
                "crew",
                platform.node(),
                os.getpid(),
            )
            assert worker.holds == {"held": 1}
            assert sorted(worker.code) == ["held", "other"]
            code = worker.code["held"]
            assert isinstance(code, WorkerCode)
            assert (code.version, code.digest) == ("7", held.digest)
            assert worker.started_at is not None
            assert await looking.unserved() == []
            assert await looking.without_worker([run]) == set()
            stopping = asyncio.ensure_future(working.close(0.5))
            async with asyncio.timeout(10):
                while [each.status for each in await looking.workers()] != ["draining"]:
                    await asyncio.sleep(0.01)
            await stopping
            assert await looking.workers() == []
            assert await looking.unserved() == [Unserved(workflow="held", version=None, instances=1)]
            assert await looking.without_worker(await looking.instances()) == {run.id}

    asyncio.run(main())


def test_a_worker_that_does_not_know_a_workflow_is_no_worker_for_it(url: str) -> None:
    async def main() -> None:
        async with (
            Engine(url, workflows=[held], worker=False) as starting,
            Engine(url, workflows=[other]) as working,
        ):
            run = await starting.start(held)
            done = await working.start(other)
            await done.result(10)
            assert await working.unserved() == [Unserved(workflow="held", version=None, instances=1)]
            assert await working.without_worker(await working.instances()) == {run.id}, (
                "who is over needs none"
            )
            assert (await run.refresh()).status == "pending"

    asyncio.run(main())


def test_whoever_died_is_shown_dead_with_what_it_held(url: str) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[held], worker=False) as looking:
            log = open_log(url)
            log.open(())
            presence = log.presence()
            assert presence is not None
            hold = presence.hold("gone")
            here = leases.Machine.here()
            transaction = log.begin()
            row = ("gone", None, here.host, here.boot, 1, looking._parts.now(), hold.era, "{}", 30_000_000)
            transaction.query(leases.INSERT, row)
            transaction.query(leases.BEAT, (looking._parts.now(), hold.era, "gone"))
            transaction.commit()
            assert [worker.status for worker in await looking.workers()] == ["running"]
            hold.forget()
            assert [worker.status for worker in await looking.workers()] == ["dead"]
            log.close()

    asyncio.run(main())


def test_nobody_shares_a_log_in_memory() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[other]) as engine:
            (worker,) = await engine.workers()
            assert worker.status == "running"

    asyncio.run(main())
