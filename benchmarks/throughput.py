"""What does a durable step cost, and how many share an fsync?

Method: one process runs `--instances` instances of a workflow of `--steps` steps (async functions that do nothing),
`--at-once` at a time: so many callers start one, await its result and start the next. SQLite at its default settings,
a new file. Ten instances run first and are not counted (imports, caches, first pages). CPU time is the process's, all
threads, from the first start to the last result; so starting, claiming and ending the instances is in it. With a
write-ahead log and `synchronous=FULL` each commit is one fsync of the log; checkpoints add two a thousand pages or so.

Beside each run, on the same disk, the bare writer loop (`writer.py`) writes as many steps, as many at a time; the ratio
is of those two. The figure is reached by 130 us of CPU a step or, where the machine is slow, by three times the bare
loop; and by 6 steps an fsync. With `--postgres` the runs are on PostgreSQL, each in a new database, with no bare loop.

    python benchmarks/throughput.py [--instances 300] [--steps 10] [--at-once 100] [--runs 3] [--directory DIR]
        [--postgres [URL]]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._postgres import fresh, option
from benchmarks._report import (
    Found,
    at_least,
    durability,
    machine,
    median,
    once,
    parser,
    show,
    spreads,
    writer,
)
from wfes import Engine, Step, workflow

CPU_MICROS_MAX = 130.0
BARE_RATIO_MAX = 3.0
STEPS_PER_FSYNC_MIN = 6.0


async def nothing(number: int) -> int:
    """A step that does nothing."""
    return number


@workflow
async def several(steps: int, step: Step) -> int:
    """So many steps, one after another."""
    for number in range(steps):
        await step(f"step-{number}", nothing, number)
    return steps


async def run(instances: int, steps: int, at_once: int) -> None:
    """So many callers, each with one instance at a time."""
    left = iter(range(instances))

    async def caller() -> None:
        for _ in left:
            instance = await several.start(steps)
            await instance.result()

    await asyncio.gather(*(caller() for _ in range(at_once)))


async def measure(url: str, instances: int, steps: int, at_once: int) -> Found:
    """One run, in this process."""
    async with Engine(url, workflows=[several]) as engine:
        await run(10, steps, 10)
        commits, events = writer(engine).commits, writer(engine).events
        wall, cpu = time.perf_counter(), time.process_time()
        await run(instances, steps, at_once)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        commits, events = writer(engine).commits - commits, writer(engine).events - events
        settings = durability(engine)
    total = instances * steps
    return {
        "steps_per_second": total / wall,
        "cpu_micros_per_step": cpu / total * 1e6,
        "steps_per_commit": total / commits,
        "events_per_commit": events / commits,
        "events_per_step": events / total,
        "durability": settings,
    }


def bare(arguments: argparse.Namespace, directory: str) -> Found:
    """The bare writer loop: as many steps, as many at a time."""
    steps = arguments.instances * arguments.steps // arguments.at_once
    line = [sys.executable, str(Path(__file__).with_name("writer.py")), "--directory", directory]
    line += ["--instances", str(arguments.at_once), "--steps", str(steps)]
    found: Found = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
    return found


def report(arguments: argparse.Namespace) -> Found:
    """All runs, each beside the bare loop."""
    engine: list[Found] = []
    loop: list[Found] = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            loop.append(bare(arguments, directory))
            engine.append(once(__file__, arguments, "run", Path(directory, f"{number}.db")))
    names = ["steps_per_second", "cpu_micros_per_step", "steps_per_commit"]
    found = spreads(engine, [*names, "events_per_commit", "events_per_step"])
    ratios = [
        one["cpu_micros_per_step"] / other["cpu_micros_per_step"]
        for one, other in zip(engine, loop, strict=True)
    ]
    cpu, ratio = median(found["cpu_micros_per_step"]), statistics.median(ratios)
    return {
        "question": "What does a durable step cost, and how many share an fsync?",
        "machine": here,
        "durability": engine[0]["durability"],
        "engine": found,
        "bare_writer_loop": spreads(loop, names),
        "cpu_ratio_to_bare": round(ratio, 2),
        "figures": {
            "cpu": {
                "value": round(cpu, 1),
                "ratio": round(ratio, 2),
                "limit": f"<= {CPU_MICROS_MAX:g} us CPU a step, or <= {BARE_RATIO_MAX:g} times the bare writer loop",
                "reached": cpu <= CPU_MICROS_MAX or ratio <= BARE_RATIO_MAX,
            },
            "group_commit": at_least(
                median(found["steps_per_commit"]), STEPS_PER_FSYNC_MIN, "steps an fsync"
            ),
        },
    }


def report_postgres(arguments: argparse.Namespace) -> Found:
    """All runs on PostgreSQL."""
    found: list[Found] = []
    for _ in range(arguments.runs):
        with fresh(arguments.postgres) as url:
            given = argparse.Namespace(**{**vars(arguments), "postgres": url})
            found.append(once(__file__, given, "run", Path("none")))
    return {
        "question": "What does a durable step cost on PostgreSQL, and how many share a commit?",
        "machine": machine(arguments.directory or tempfile.gettempdir()),
        "durability": found[0]["durability"],
        "engine": spreads(found, [name for name in found[0] if name != "durability"]),
    }


def main() -> None:
    options = parser(__doc__, instances=300, steps=10, at_once=100)
    option(options, "on PostgreSQL: a server whose user may create databases; without a URL one of its own")
    arguments = options.parse_args()
    if arguments.child is None:
        show(report(arguments) if arguments.postgres is None else report_postgres(arguments))
        return
    url = arguments.postgres or f"sqlite:///{arguments.file}"
    found = asyncio.run(measure(url, arguments.instances, arguments.steps, arguments.at_once))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
