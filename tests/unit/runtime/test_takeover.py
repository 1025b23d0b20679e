"""Real processes on one SQLite file: who dies, who stops, and who goes on with their instances."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pg_server import Server

from wfes import Engine, Instance, Status, Step, workflow
from wfes.log.open import open_log

CREW = """
import asyncio, sys
from pathlib import Path
from wfes import Engine
sys.path.insert(0, sys.argv[2])
import crew

async def main():
    async with Engine(sys.argv[1], workflows=[crew.stuck, crew.quick, crew.busy]) as engine:
        print("open", flush=True)
        await engine.run_forever()

asyncio.run(main())
"""

WORKFLOWS = '''
import asyncio
from pathlib import Path
from wfes import Step, workflow

async def work(gate: str) -> str:
    """Runs until the gate's file is there."""
    while not Path(gate).exists():
        await asyncio.sleep(0.005)
    return "through"

@workflow
async def stuck(gate: str, step: Step) -> str:
    await step("first", lambda: "done")
    return await step("work", work, gate)

@workflow
async def quick(n: int, step: Step) -> int:
    await step.sleep("nap", "100ms")
    return await step("double", lambda: 2 * n)

async def count(place: str, n: int) -> int:
    """Takes 50 ms, and notes that it ran."""
    await asyncio.sleep(0.05)
    with open(place, "a") as notes:
        notes.write(f"{n}\\n")
    return n

@workflow
async def busy(place: str, step: Step) -> int:
    for n in range(10):
        await step("count", count, place, n)
    return 10
'''


@workflow
async def stuck(gate: str, step: Step) -> str:
    """As the crew's; its instances are started here and run there."""
    raise NotImplementedError


@workflow
async def quick(n: int, step: Step) -> int:
    """As the crew's."""
    raise NotImplementedError


@workflow
async def busy(place: str, step: Step) -> int:
    """As the crew's."""
    raise NotImplementedError


class Place:
    """A log and the processes that work on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.gate = folder / "gate"
        (folder / "crew.py").write_text(WORKFLOWS)

    @contextmanager
    def process(self, **environment: str) -> Generator[subprocess.Popen[str]]:
        """A process with a worker, open."""
        command = [sys.executable, "-c", CREW, self.url, str(self.folder)]
        env = {**os.environ, **environment}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
                yield process
            finally:
                process.send_signal(signal.SIGCONT)
                process.kill()

    def engine(self) -> Engine:
        """An engine that starts and looks, and runs nothing."""
        return Engine(self.url, workflows=[stuck, quick, busy], worker=False)

    def events(self, id: str, type: str) -> list[str]:
        """An instance's events of a type, straight from the log."""
        log: Any = open_log(self.url)
        log.open(())
        try:
            return [str(x.topic) for x in log.select_events(id) if x.topic == type]
        finally:
            log.close()

    def workers(self) -> list[tuple[str, int]]:
        log = open_log(self.url)
        log.open(())
        try:
            return [(str(id), int(pid)) for id, pid in log.read("SELECT id, pid FROM wfes_workers")]
        finally:
            log.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(tmp_path, f"sqlite:///{tmp_path / 'log.db'}")
    return Place(tmp_path, request.getfixturevalue("postgres_url"))


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came true"
        await asyncio.sleep(0.01)


def test_a_killed_workers_instances_go_on_in_a_running_one(place: Place) -> None:
    async def main() -> None:
        async with place.engine():
            with place.process() as first:
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                with place.process():
                    first.kill()
                    killed = time.monotonic()
                    await until(lambda: len(place.events(run.id, "RunClaimed")) == 2)
                    assert time.monotonic() - killed < 5
                    place.gate.touch()
                    assert await run.result(15) == "through"
                    await until(lambda: len(place.workers()) == 1)
            assert len(place.events(run.id, "StepStarted")) == 3
            assert len(place.events(run.id, "StepCompleted")) == 2

    asyncio.run(main())


def test_a_restarted_process_goes_on_at_once(place: Place) -> None:
    async def main() -> None:
        async with place.engine():
            with place.process() as first:
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                first.kill()
                first.wait()
            with place.process():
                opened = time.monotonic()
                await until(lambda: len(place.events(run.id, "RunClaimed")) == 2)
                assert time.monotonic() - opened < 5, "no lease had to be waited for"
                place.gate.touch()
                assert await run.result(15) == "through"

    asyncio.run(main())


def test_a_cleanly_stopped_workers_instances_go_on_elsewhere(place: Place) -> None:
    async def main() -> None:
        async with place.engine():
            with place.process() as first:
                runs = [await quick.start(n) for n in range(20)]
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                with place.process():
                    first.send_signal(signal.SIGTERM)
                    place.gate.touch()
                    assert await run.result(15) == "through"
                    assert [await x.result(15) for x in runs] == [2 * n for n in range(20)]
                    assert first.wait(15) == 0
                    await until(lambda: len(place.workers()) == 1)

    asyncio.run(main())


def test_a_stopped_process_is_not_dead(place: Place) -> None:
    async def main() -> None:
        async with place.engine():
            with place.process() as first:
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                first.send_signal(signal.SIGSTOP)
                with place.process():
                    # It looks at all workers before it says it is open, and works on what it may.
                    assert await (await quick.start(4)).result(15) == 8
                    assert (await run.refresh()).status is Status.IN_PROGRESS
                    assert len(place.events(run.id, "RunClaimed")) == 1
                    place.gate.touch()
                    first.send_signal(signal.SIGCONT)
                    assert await run.result(15) == "through"

    asyncio.run(main())


def test_two_processes_share_the_work_and_none_runs_twice(place: Place) -> None:
    async def main() -> None:
        async with place.engine():
            with place.process(), place.process():
                runs = await asyncio.gather(*(quick.start(n) for n in range(100)))
                assert [await run.result(30) for run in runs] == [2 * n for n in range(100)]
            for run in runs[::10]:
                assert len(place.events(run.id, "StepStarted")) == 1

    asyncio.run(main())


def test_whoever_was_stopped_past_its_lease_records_nothing_and_goes_on_as_another(
    tmp_path: Path, postgres_url: str
) -> None:
    """G5. On PostgreSQL, where a connection that lives proves nothing."""
    place = Place(tmp_path, postgres_url)

    async def main() -> None:
        async with place.engine() as engine:
            with place.process(WFES_LEASE="1s") as first:
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                ((before, _),) = place.workers()
                with place.process(WFES_LEASE="1s") as second:
                    first.send_signal(signal.SIGSTOP)
                    await until(lambda: len(place.events(run.id, "RunClaimed")) == 2)
                    await until(lambda: len(place.workers()) == 1)
                    place.gate.touch()
                    first.send_signal(signal.SIGCONT)
                    assert await run.result(15) == "through"
                    await until(lambda: len(place.workers()) == 2)
                    assert before not in dict(place.workers()), "an id is never used again"
                    assert first.pid in dict(place.workers()).values()
                    second.send_signal(signal.SIGTERM)
                    assert second.wait(15) == 0
                    assert await (await quick.start(4)).result(15) == 8, "it goes on"
            assert len(place.events(run.id, "StepCompleted")) == 2
            assert [worker.status for worker in await engine.workers()] in ([], ["dead"])

    asyncio.run(main())


def test_where_no_lock_is_seen_a_killed_worker_is_given_its_lease_and_no_more(
    tmp_path: Path, postgres_url: str
) -> None:
    """As from another machine, or behind a transaction pooler."""
    place = Place(tmp_path, f"{postgres_url}?pooler=transaction")

    async def main() -> None:
        async with place.engine():
            with place.process(WFES_LEASE="2s") as first:
                run = await stuck.start(str(place.gate))
                await until(lambda: len(place.events(run.id, "StepStarted")) == 2)
                with place.process(WFES_LEASE="2s"):
                    alive = time.monotonic() + 3
                    await until(lambda: time.monotonic() > alive)
                    assert len(place.events(run.id, "RunClaimed")) == 1, "its heartbeat is seen"
                    first.kill()
                    killed = time.monotonic()
                    await until(lambda: len(place.events(run.id, "RunClaimed")) == 2)
                    took = time.monotonic() - killed
                    assert 1 <= took <= 5, "about a lease, however busy the machine"
                    place.gate.touch()
                    assert await run.result(15) == "through"

    asyncio.run(main())


@pytest.mark.timeout(120)
def test_a_crashed_server_makes_nobody_dead(tmp_path: Path) -> None:
    """All locks vanish with it: whoever connects first must not take the others for dead."""
    server = Server()
    try:
        server.start()
        place = Place(tmp_path, server.url)

        async def main() -> None:
            async with place.engine() as engine:
                with place.process(), place.process(), place.process():
                    runs = [await stuck.start(str(place.gate)) for _ in range(6)]
                    await until(lambda: sum(map(started, runs)) == 12)
                    before = sorted(place.workers())
                    server.stop(immediate=True)
                    server.start()
                    assert await (await quick.start(4)).result(30) == 8, "they work"
                    # By now each has looked at the others more than once.
                    looked = time.monotonic() + 1.5
                    await until(lambda: time.monotonic() > looked)
                    assert sorted(place.workers()) == before
                    assert [len(place.events(run.id, "RunClaimed")) for run in runs] == [1] * 6
                    place.gate.touch()
                    assert {await run.result(30) for run in runs} == {"through"}
                    assert sum(map(started, runs)) == 12, "no step ran twice"
                    assert len(await engine.workers()) == 3

        def started(run: Instance[str]) -> int:
            return len(place.events(run.id, "StepStarted"))

        asyncio.run(main())
    finally:
        server.remove()


def test_a_dead_workers_instances_are_spread_among_the_living(place: Place) -> None:
    def owned() -> dict[str, int]:
        log = open_log(place.url)
        log.open(())
        try:
            sql = "SELECT worker, count(*) FROM wfes_work WHERE worker IS NOT NULL GROUP BY worker"
            return {str(worker): int(number) for worker, number in log.read(sql)}
        finally:
            log.close()

    async def main() -> None:
        async with place.engine():
            with ExitStack() as crew:
                first = crew.enter_context(place.process())
                runs = [await stuck.start(str(place.gate)) for _ in range(150)]
                await until(lambda: sum(owned().values()) == 150)
                ((dead, _),) = place.workers()
                for _ in range(3):
                    crew.enter_context(place.process())
                first.kill()
                await until(lambda: dead not in owned() and sum(owned().values()) == 150, 30)
                shares = owned()
                assert len(shares) == 3
                assert max(shares.values()) <= 75, shares
                place.gate.touch()
                assert {await run.result(30) for run in runs} == {"through"}

    asyncio.run(main())


def test_what_one_process_starts_is_spread_over_all(place: Place) -> None:
    """How evenly depends on how soon the other one looks, so a busy machine has several goes at it."""
    go: list[asyncio.Event] = []

    @workflow
    async def held(burst: int, step: Step) -> None:
        """Is under way until all of its burst are let go."""
        await step("wait", go[burst].wait)

    async def main() -> None:
        async with (
            Engine(place.url, workflows=[held]) as first,
            Engine(place.url, workflows=[held]) as second,
        ):
            workers = [worker for engine in (first, second) if (worker := engine._parts._worker) is not None]
            await until(lambda: all(worker._claiming.peers for worker in workers))
            spread: list[list[int]] = []
            for burst in range(8):
                go.append(asyncio.Event())
                runs = await asyncio.gather(*(first.start(held, burst) for _ in range(100)))
                await until(lambda: sum(worker.running for worker in workers) == 100)
                spread.append([worker.running for worker in workers])
                go[burst].set()
                for run in runs:
                    await run.result(30)
                if min(spread[-1]) >= 20:
                    break
                await until(lambda: all(worker.running == 0 for worker in workers))
            assert min(spread[-1]) >= 20, spread

    asyncio.run(main())


@pytest.mark.timeout(120)
def test_a_rolling_deployment_runs_no_step_twice(place: Place) -> None:
    """Two generations of two workers; 100 instances with steps of 50 ms are under way all the time."""
    notes = [place.folder / f"notes-{n}" for n in range(100)]

    async def main() -> None:
        async with place.engine():
            with ExitStack() as crew:
                old = [crew.enter_context(place.process()) for _ in range(2)]
                runs = [await busy.start(str(note)) for note in notes]
                for process in old:
                    crew.enter_context(place.process())
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(20) == 0
                assert {await run.result(60) for run in runs} == {10}
                everything = "".join(f"{n}\n" for n in range(10))
                assert {note.read_text() for note in notes} == {everything}

    asyncio.run(main())


def test_a_loop_closed_without_a_stop_keeps_nothing_from_others(place: Place) -> None:
    async def opened() -> Engine:
        engine = Engine(place.url, workflows=[quick])
        await engine.open()
        return engine

    loop = asyncio.new_event_loop()
    loop.run_until_complete(opened())
    loop.close()
    # The row stays: beside it, a free lock says that its worker is dead, and no lease is waited for.
    log = open_log(place.url)
    log.open(())
    try:
        ((worker, era),) = log.read("SELECT id, locked FROM wfes_workers")
        presence = log.presence()
        assert presence is not None
        asyncio.run(until(lambda: presence.look({worker: era}) == {worker: True}))
    finally:
        log.close()
