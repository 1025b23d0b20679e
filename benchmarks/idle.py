"""What does an engine cost while nothing happens, and how soon does it see a start from another process?

Method: one process opens an engine with a worker on a new file that holds `--sleeping` instances asleep for a day. Its
CPU time, all threads, is read at the beginning and at the end of each of `--runs` stretches of `--seconds` in which
nothing happens. Then a second process, with no worker, starts `--starts` instances of a workflow of one step, up to
200 ms apart at random, so that they meet every phase of the first one's waiting. The latency of each is what the log
says: from the `at` of its WorkflowStarted to the `at` of its RunClaimed (one machine, one clock). SQLite at its default
settings.

Reached if the idle engine uses at most 0.5 % of a core, and if every start was claimed within 250 ms.

    python benchmarks/idle.py [--seconds 20] [--sleeping 100] [--starts 100] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._report import (
    Found,
    at_most,
    begin,
    durability,
    go,
    machine,
    median,
    parser,
    percentile,
    ready,
    show,
    spread,
)
from benchmarks.throughput import nothing
from wfes import Engine, Step, workflow

CORE_PERCENT_MAX = 0.5
SEEN_MS_MAX = 250.0
SETTLING_SECONDS = 3.0
"""How long instances that fell asleep may take to leave memory, before idling begins."""


@workflow
async def sleeper(step: Step) -> None:
    """Sleeps."""
    await step.sleep("long", "1d")


@workflow
async def single(number: int, step: Step) -> int:
    """One step."""
    return await step("only", nothing, number)


async def idle(path: Path, seconds: int, runs: int, sleeping: int) -> Found:
    """The process whose engine idles, and then sees starts."""
    shares: list[float] = []
    async with Engine(f"sqlite:///{path}", workflows=[sleeper, single]) as engine:
        for _ in range(sleeping):
            await sleeper.start()
        await asyncio.sleep(SETTLING_SECONDS)
        for _ in range(runs):
            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(seconds)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            shares.append(cpu / wall * 100)
        settings = durability(engine)
        print("ready", flush=True)
        # The loop is free for the engine: the wait for the end of the other process is in a thread.
        await asyncio.to_thread(sys.stdin.readline)
    return {"core_percent": shares, "durability": settings}


async def start(path: Path, starts: int) -> Found:
    """The process that starts instances, and reads from the log when they were claimed."""
    seen: list[float] = []
    whole: list[float] = []
    pauses = random.Random(1)
    async with Engine(f"sqlite:///{path}", workflows=[sleeper, single], worker=False):
        await asyncio.to_thread(ready)
        for number in range(starts):
            await asyncio.sleep(pauses.uniform(0.0, 0.2))
            begun = time.perf_counter()
            instance = await single.start(number)
            await instance.result(10)
            whole.append((time.perf_counter() - begun) * 1e3)
            at = {event.type: event.at for event in await instance.history()}
            seen.append((at["RunClaimed"] - at["WorkflowStarted"]).total_seconds() * 1e3)
    return {"seen": seen, "whole": whole}


def report(arguments: argparse.Namespace) -> Found:
    """The idle stretches, then the starts."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        file = Path(directory, "idle.db")
        idling = begin(__file__, arguments, f"idle-{arguments.runs}", file)
        started = go([begin(__file__, arguments, "start", file)])[0]
        idled = go([idling])[0]
    shares = spread(idled["core_percent"], 3)
    seen, whole = started["seen"], started["whole"]
    return {
        "question": "What does an engine cost while nothing happens, and how soon does it see another's start?",
        "machine": here,
        "durability": idled["durability"],
        "engine": {
            "core_percent": shares,
            "claimed_after_ms": {
                "median": round(statistics.median(seen), 1),
                "min": round(min(seen), 1),
                "p99": round(percentile(seen, 99), 1),
                "max": round(max(seen), 1),
                "runs": len(seen),
            },
            "start_to_result_ms": {
                "median": round(statistics.median(whole), 1),
                "min": round(min(whole), 1),
                "p99": round(percentile(whole, 99), 1),
                "max": round(max(whole), 1),
                "runs": len(whole),
            },
        },
        "figures": {
            "idle": at_most(median(shares), CORE_PERCENT_MAX, "% of a core"),
            "seen": at_most(max(seen), SEEN_MS_MAX, "ms until another process's start is claimed"),
        },
    }


def main() -> None:
    arguments = parser(__doc__, seconds=20, sleeping=100, starts=100).parse_args()
    match arguments.child:
        case None:
            show(report(arguments))
        case "start":
            print(json.dumps(asyncio.run(start(arguments.file, arguments.starts))))
        case idling:
            runs = int(idling.removeprefix("idle-"))
            print(json.dumps(asyncio.run(idle(arguments.file, arguments.seconds, runs, arguments.sleeping))))


if __name__ == "__main__":
    main()
