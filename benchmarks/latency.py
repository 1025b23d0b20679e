"""How long does a caller wait for a workflow of one step?

Method: in one process with an idle engine, `--count` instances of a workflow with one step that does nothing, one
after another; timed is from the call of `start` to the return of `result()`. On the way lie three commits, each with
an fsync: the start with its claim, the step's start, and its result with the end; `commits_per_instance` shows
whether that is so. Twenty instances run first and are not counted. SQLite at its default settings, a new file. There
is no figure to reach; the disk's own fsync stands beside it, since that is what is waited for.

    python benchmarks/latency.py [--count 500] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from benchmarks._report import Found, durability, machine, once, parser, percentile, show, spreads, writer
from benchmarks.throughput import nothing
from wfes import Engine, Step, workflow


@workflow
async def single(number: int, step: Step) -> int:
    """One step."""
    return await step("only", nothing, number)


async def measure(path: Path, count: int) -> Found:
    """One run, in this process."""
    started: list[float] = []
    took: list[float] = []
    async with Engine(f"sqlite:///{path}", workflows=[single]) as engine:
        for _ in range(20):
            await (await single.start(0)).result()
        commits, cpu = writer(engine).commits, time.process_time()
        for number in range(count):
            begun = time.perf_counter()
            instance = await single.start(number)
            started.append(time.perf_counter() - begun)
            await instance.result()
            took.append(time.perf_counter() - begun)
        commits, cpu = writer(engine).commits - commits, time.process_time() - cpu
        settings = durability(engine)
    return {
        "p50_ms": percentile(took, 50) * 1e3,
        "p99_ms": percentile(took, 99) * 1e3,
        "max_ms": max(took) * 1e3,
        "start_p50_ms": percentile(started, 50) * 1e3,
        "start_p99_ms": percentile(started, 99) * 1e3,
        "commits_per_instance": commits / count,
        "cpu_micros_per_instance": cpu / count * 1e6,
        "durability": settings,
    }


def report(arguments: argparse.Namespace) -> Found:
    """All runs."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        found = [
            once(__file__, arguments, "run", Path(directory, f"{number}.db"))
            for number in range(arguments.runs)
        ]
    return {
        "question": "How long does a caller wait for a workflow of one step?",
        "machine": here,
        "durability": found[0].pop("durability"),
        "engine": spreads(found, list(found[0]), 3),
        "figures": {},
    }


def main() -> None:
    arguments = parser(__doc__, count=500).parse_args()
    if arguments.child is None:
        show(report(arguments))
        return
    print(json.dumps(asyncio.run(measure(arguments.file, arguments.count))))


if __name__ == "__main__":
    main()
