"""A process that forks and is killed at any commit: there is a fork, or none; and two processes that fork alike."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import checks
import pytest
from places import DATABASES, placed, url_of

from wfes import Engine, Step, workflow
from wfes.core import events as e
from wfes.log import faults

PROGRAM = """
import asyncio, sys
from wfes import Engine, Workflow
from wfes.log import faults

async def main(url, id, ids):
    async with Engine(url, worker=False):
        run = await Workflow.get(id)
        for fork in ids:
            await run.fork(run.version, id=fork, results={"work": fork})

with faults.installed():
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@workflow
async def working(step: Step) -> str:
    """Works, and waits."""
    value = await step("work", str, "x")
    await step.listen("go")
    return value


async def _started(folder: Path) -> str:
    async with Engine(url_of(folder), workflows=[working]) as engine:
        run = await engine.start(working)
        while not run.waiting_for:
            await asyncio.sleep(0.001)
            await run.refresh()
        return run.id


async def _finished(folder: Path, ids: list[str]) -> list[str]:
    async with Engine(url_of(folder), workflows=[working]) as engine:
        outputs: list[str] = []
        for id in ids:
            run = await engine.get(working, id)
            await run.send("go")
            outputs.append(await run.result(timeout=20))
        return outputs


def _forking(folder: Path, id: str, ids: list[str], fault: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, faults.VARIABLE: fault} if fault else {**os.environ}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, url_of(folder), id, *ids], env=environment)


@pytest.mark.parametrize(
    ("database", "when"),
    [("sqlite", "after"), *((database, "before") for database in DATABASES)],
)
def test_killed_at_a_commit(tmp_path: Path, database: str, when: str) -> None:
    with placed(tmp_path, database) as folder:
        id = asyncio.run(_started(folder))
        for commit in (1, 2):
            ids = [f"{commit}-{number}" for number in range(2)]
            process = _forking(folder, id, ids, f"kill:{when}:{commit}")
            assert process.wait(30) == -signal.SIGKILL
            histories = checks.histories_of(checks.stored_events(folder))
            there = [fork for fork in ids if fork in histories]
            assert there == ids[: commit - (when == "before")]
            assert all(isinstance(histories[fork][-1].event, e.HistoryForked) for fork in there)
            assert asyncio.run(_finished(folder, there)) == there
        assert checks.problems_of(folder) == []


def test_two_processes_make_one_fork(tmp_path: Path) -> None:
    with placed(tmp_path, "sqlite") as folder:
        id = asyncio.run(_started(folder))
        ids = ["one", "two"]
        processes = [_forking(folder, id, ids) for _ in range(2)]
        assert [process.wait(30) for process in processes] == [0, 0]
        assert asyncio.run(_finished(folder, ids)) == ids
        assert checks.problems_of(folder) == []
