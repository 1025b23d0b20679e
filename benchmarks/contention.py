"""What do two processes that share one file lose to each other?

Method: a process with an engine of its own runs the workflow of `throughput.py` (10 steps that do nothing), 100
instances at a time, as fast as it can, for `--seconds`; the steps of instances that ended in that time are counted.
First one process alone on a new file, then two at the same moment on another new file: their rates are added. Both run
workers, and both start instances. SQLite at its default settings.

The figure is reached if two together do at least 70 % of what one did alone, in the median of the runs. How evenly they
share is shown beside it (the slower one's part of the whole; 0.5 is even).

    python benchmarks/contention.py [--seconds 3] [--at-once 100] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from benchmarks._report import (
    Found,
    at_least,
    begin,
    durability,
    go,
    machine,
    median,
    parser,
    ready,
    show,
    spread,
    spreads,
    writer,
)
from benchmarks.throughput import run, several
from wfes import Engine

SHARE_MIN = 0.7
STEPS = 10


async def measure(path: Path, seconds: int, at_once: int) -> Found:
    """One process's part."""
    async with Engine(f"sqlite:///{path}", workflows=[several]) as engine:
        await run(10, STEPS, 10)
        await asyncio.to_thread(ready)
        done = 0
        commits = writer(engine).commits
        wall, cpu = time.perf_counter(), time.process_time()
        until = wall + seconds

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < until:
                instance = await several.start(STEPS)
                await instance.result()
                done += time.perf_counter() < until

        await asyncio.gather(*(caller() for _ in range(at_once)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        commits = writer(engine).commits - commits
        settings = durability(engine)
    return {
        "steps_per_second": done * STEPS / seconds,
        "cpu_micros_per_step": cpu / max(1, done * STEPS) * 1e6,
        "steps_per_commit": done * STEPS / commits,
        "overrun_seconds": wall - seconds,
        "durability": settings,
    }


def together(arguments: argparse.Namespace, file: Path, processes: int) -> list[Found]:
    """So many processes on one new file."""
    return go([begin(__file__, arguments, "run", file) for _ in range(processes)])


def report(arguments: argparse.Namespace) -> Found:
    """All runs: one process, then two."""
    alone: list[Found] = []
    both: list[list[Found]] = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            alone += together(arguments, Path(directory, f"one-{number}.db"), 1)
            both.append(together(arguments, Path(directory, f"two-{number}.db"), 2))
    rates = [sum(one["steps_per_second"] for one in pair) for pair in both]
    shares = [rate / one["steps_per_second"] for rate, one in zip(rates, alone, strict=True)]
    even = [
        min(one["steps_per_second"] for one in pair) / rate for pair, rate in zip(both, rates, strict=True)
    ]
    names = ["steps_per_second", "cpu_micros_per_step", "steps_per_commit", "overrun_seconds"]
    share = spread(shares)
    return {
        "question": "What do two processes that share one file lose to each other?",
        "machine": here,
        "durability": alone[0]["durability"],
        "one": spreads(alone, names),
        "two": {
            "steps_per_second": spread(rates),
            "slower_ones_part": spread(even),
            "each": spreads([one for pair in both for one in pair], names),
        },
        "share_of_one": share,
        "figures": {"share": at_least(median(share), SHARE_MIN, "of one process's rate")},
    }


def main() -> None:
    arguments = parser(__doc__, seconds=3, at_once=100).parse_args()
    if arguments.child is None:
        show(report(arguments))
        return
    print(json.dumps(asyncio.run(measure(arguments.file, arguments.seconds, arguments.at_once))))


if __name__ == "__main__":
    main()
