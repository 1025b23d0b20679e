"""Limited concurrency over processes that are killed: never too many at a time, by the log, and everything ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from places import url_of

from wfes import Engine, Status
from wfes.core import events as e
from wfes.log.application import decode

WORKFLOWS = """
import asyncio
from wfes import Concurrency, Step, workflow

async def work() -> None:
    await asyncio.sleep(0.01)

@workflow(concurrency=3)
async def plain(number: int, step: Step) -> None:
    await step("work", work)
    await step.sleep("nap", "10ms")

@workflow(concurrency=Concurrency(2, key="customer"))
async def keyed(job: dict[str, str], step: Step) -> None:
    await step("work", work)
    await step("more", work)
"""

CREW = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
import crew
from wfes import Engine

async def main():
    async with Engine(sys.argv[1], workflows=[crew.plain, crew.keyed]) as engine:
        print("open", flush=True)
        await engine.run_forever()

asyncio.run(main())
"""
INSTANCES = 60
LIMITS = {"plain": 3, "keyed": 2}


def worker(url: str, place: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CREW, url, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def most_at_once(engine: Engine) -> Counter[tuple[str, str]]:
    """The most that ever held a slot, by workflow and value of the key, as the log says."""
    what: dict[str, tuple[str, str]] = {}
    holding: dict[str, tuple[str, str]] = {}
    most: Counter[tuple[str, str]] = Counter()
    for stored in engine._log.select_notifications(1, 1_000_000):
        event, id = decode(stored).event, str(stored.originator_id)
        match event:
            case e.WorkflowStarted():
                key = event.input["customer"] if event.workflow == "keyed" else ""
                what[id] = event.workflow, key
            case e.SlotGranted() | e.RunClaimed():
                holding[id] = what[id]
                most[what[id]] = max(most[what[id]], sum(other == what[id] for other in holding.values()))
            case _ if event.terminal:
                holding.pop(id, None)
            case _:
                """Says nothing of slots."""
    assert not holding
    return most


@pytest.mark.timeout(120)
def test_killed_workers_never_exceed_a_limit_and_everything_ends(folder: Path) -> None:
    (folder / "crew.py").write_text(WORKFLOWS)
    url = url_of(folder)
    random = Random(7)

    async def main() -> None:
        crew = [await asyncio.to_thread(worker, url, folder) for _ in range(2)]
        try:
            async with Engine(url, worker=False) as engine:
                for number in range(INSTANCES):
                    await engine.start("plain", number)
                    await engine.start("keyed", {"customer": "abc"[number % 3]})
                begun = time.monotonic()
                kills = 0
                while (await engine.counts()).statuses.get(Status.COMPLETED, 0) < 2 * INSTANCES:
                    assert time.monotonic() - begun < 90, (await engine.counts()).workflows
                    await asyncio.sleep(random.uniform(0.05, 0.3))
                    if kills < 5:
                        kills += 1
                        victim = crew.pop(random.randrange(2))
                        victim.kill()
                        victim.communicate()
                        crew.append(await asyncio.to_thread(worker, url, folder))
                most: dict[Any, int] = most_at_once(engine)
                assert {kind[0] for kind in most} == {"plain", "keyed"}
                assert all(number <= LIMITS[kind[0]] for kind, number in most.items()), most
                assert most["plain", ""] == 3
        finally:
            for process in crew:
                process.kill()
                process.communicate()

    asyncio.run(main())
