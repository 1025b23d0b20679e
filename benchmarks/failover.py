"""How soon does somebody go on after a kill -9, how soon is another process's start at work, and what does idling cost?

Method, on SQLite and on PostgreSQL alike (a server of its own at default durability, or the one of `--postgres`):

*Failover.* Two worker processes; an instance runs a step in one of them that never ends. Its owner is killed with
SIGKILL, and the time from then until the instance's next event, its RunClaimed by the other worker, stands in the log
is taken, by one clock. `--kills` times, each with new processes, at a random moment of the other's looking around.
Where no lock is seen, by polling alone as from another machine, the owner's lease of 2 s has to be waited for.

*Start.* One worker process, idle. Another process without a worker starts `--starts` instances of one step, up to
200 ms apart at random. From the call of start until the step's StepStarted was made.

*Notification.* On PostgreSQL the same once more without hints: by polling alone, as behind a transaction pooler.

*Idle.* CPU time of the idle worker process, all threads, over `--seconds`, with another worker registered.

Reached if a failover takes at most 1 s, or 1 s more than the lease, a start is at work within 250 ms on SQLite and
100 ms on PostgreSQL (p99, by polling alone too), and an idle worker uses at most 0.5 % of a core.

    python benchmarks/failover.py [--kills 10] [--starts 200] [--seconds 20] [--postgres URL] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._report import Found, at_most, machine, parser, percentile, show
from wfes import Engine, Step, workflow
from wfes.log.open import open_log
from wfes.log.port import Log

FAILOVER_MS_MAX = 1_000.0
LEASE_MS = 2_000
START_MS_MAX = {"sqlite": 250.0, "postgresql": 100.0, "postgresql_polling": 100.0}
CORE_PERCENT_MAX = 0.5
UNTIL_SECONDS = 30.0
KIT = Path(__file__).resolve().parent.parent / "tests" / "acceptance" / "kit"


@workflow
async def endless(step: Step) -> None:
    """One step that never ends."""
    await step("wait", asyncio.Event().wait)


def nothing() -> None:
    """Does nothing."""


@workflow
async def single(step: Step) -> None:
    """One step."""
    await step("only", nothing)


async def work(url: str) -> None:
    """A worker process; tells its CPU time so far whenever it is asked."""
    async with Engine(url, workflows=[endless, single]):
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(time.process_time(), flush=True)


@contextmanager
def worker(url: str, lease_ms: int | None = None) -> Generator[subprocess.Popen[str]]:
    """A worker process, at work."""
    line = [sys.executable, __file__, "--child", url]
    lease = {} if lease_ms is None else {"WFES_LEASE": f"{lease_ms / 1e3:g}s"}
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **lease}
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not start")
        try:
            yield process
        finally:
            process.kill()


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """The CPU time that a worker process has used."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


async def appeared(log: Log, id: str, topic: str, number: int) -> float:
    """When the so-many-th event of this type stands in an instance's history, by the monotonic clock."""
    limit = time.monotonic() + UNTIL_SECONDS
    while sum(found.topic == topic for found in log.select_events(id)) < number:
        if time.monotonic() > limit:
            raise RuntimeError(f"{topic} {number} of {id} never came")
        await asyncio.sleep(0.002)
    return time.monotonic()


async def failover(url: str, kills: int) -> list[float]:
    """Milliseconds from each kill to the instance's next event."""
    took: list[float] = []
    chance = random.Random(1)
    lease_ms = LEASE_MS if "pooler" in url else None
    log = open_log(url)
    async with Engine(url, workflows=[endless, single], worker=False) as engine:
        log.open(())
        for _ in range(kills):
            with worker(url, lease_ms) as owner, worker(url, lease_ms):
                run = await engine.start(endless)
                await appeared(log, run.id, "StepStarted", 1)
                # By its claim: workers of earlier rounds may hold what was cancelled as they were killed.
                claimed = next(event.worker for event in await run.history() if event.type == "RunClaimed")
                (owning,) = [each for each in await engine.workers() if each.id == claimed]
                assert owning.pid is not None
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                killed = time.monotonic()
                os.kill(owning.pid, signal.SIGKILL)
                took.append((await appeared(log, run.id, "RunClaimed", 2) - killed) * 1e3)
                await run.cancel()
                owner.poll()
        log.close()
    return took


async def starts(url: str, number: int) -> list[float]:
    """Milliseconds from each call of start to its step's start in another process."""
    took: list[float] = []
    chance = random.Random(1)
    async with Engine(url, workflows=[endless, single], worker=False) as engine:
        for _ in range(number):
            await asyncio.sleep(chance.uniform(0.0, 0.2))
            begun = time.time()
            run = await engine.start(single)
            await run.result(UNTIL_SECONDS)
            (at,) = [event.at for event in await run.history() if event.type == "StepStarted"]
            took.append((at.timestamp() - begun) * 1e3)
    return took


async def idle(url: str, seconds: int) -> float:
    """The share of a core, in per cent, that an idle worker uses beside another one."""
    with worker(url) as process, worker(url):
        await asyncio.sleep(2.0)
        wall, cpu = time.monotonic(), cpu_seconds(process)
        await asyncio.sleep(seconds)
        return (cpu_seconds(process) - cpu) / (time.monotonic() - wall) * 100


async def started_beside_a_worker(url: str, number: int) -> list[float]:
    with worker(url):
        await asyncio.sleep(1.0)
        return await starts(url, number)


def spread_ms(values: list[float]) -> Found:
    """What is told of many latencies."""
    return {
        "p50": round(statistics.median(values), 1),
        "p99": round(percentile(values, 99), 1),
        "max": round(max(values), 1),
        "runs": len(values),
    }


@contextmanager
def urls(arguments: argparse.Namespace) -> Generator[dict[str, str]]:
    """The logs that are measured."""
    sys.path.insert(0, str(KIT))
    from pg_server import Server

    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        sqlite = f"sqlite:///{directory}/failover.db"
        if arguments.postgres:
            yield {"sqlite": sqlite, **_both(arguments.postgres)}
            return
        server = Server()
        try:
            server.start()
            yield {"sqlite": sqlite, **_both(server.url)}
        finally:
            server.remove()


def _both(url: str) -> dict[str, str]:
    return {
        "postgresql": url,
        "postgresql_polling": f"{url}{'&' if '?' in url else '?'}pooler=transaction",
    }


def report(arguments: argparse.Namespace) -> Found:
    """Every question on every log."""
    logs: Found = {}
    figures: Found = {}
    with urls(arguments) as measured:
        for name, url in measured.items():
            found: Found = {}
            kills = asyncio.run(failover(url, arguments.kills))
            found["failover_ms"] = spread_ms(kills)
            lease = LEASE_MS if name == "postgresql_polling" else 0
            limit = FAILOVER_MS_MAX + lease
            figures[f"{name}_failover"] = at_most(max(kills), limit, "ms until somebody goes on")
            seen = asyncio.run(started_beside_a_worker(url, arguments.starts))
            found["start_to_step_ms"] = spread_ms(seen)
            figures[f"{name}_start"] = at_most(percentile(seen, 99), START_MS_MAX[name], "ms, p99")
            core = asyncio.run(idle(url, arguments.seconds))
            found["idle_core_percent"] = round(core, 3)
            figures[f"{name}_idle"] = at_most(core, CORE_PERCENT_MAX, "% of a core")
            logs[name] = found
    return {
        "question": "How soon does somebody go on, how soon is a start at work, and what does idling cost?",
        "machine": machine(arguments.directory or tempfile.gettempdir()),
        "logs": logs,
        "figures": figures,
    }


def main() -> None:
    options = parser(__doc__, kills=10, starts=200, seconds=20)
    options.add_argument(
        "--postgres", default=None, help="the URL of an empty database; default: one of its own"
    )
    arguments = options.parse_args()
    if arguments.child is None:
        show(report(arguments))
    else:
        asyncio.run(work(arguments.child))


if __name__ == "__main__":
    main()
