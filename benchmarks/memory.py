"""How much memory do sleeping instances take?

Method: `--instances` instances of a workflow that sleeps for a day. A first process starts them all, 500 at a time,
lets each run to its sleep and leave memory, and then reads its own resident memory: what that is more than after the
first thousand (which pay for imports, caches at their bounds, pages of SQLite) is what the rest has added to the
process that ran them. It is done once, since it takes a while. Then, `--runs` times, a new process opens the file
with a worker and lets it settle; what its resident memory is more than that of a new process on an empty log is what
all of them add to a process that has only to wake them. SQLite at its default settings. Resident memory is VmRSS,
after a garbage collection.

Reached if each of the two is under 100 MB (in the median of the runs; 1 MB is 1,000,000 bytes).

    python benchmarks/memory.py [--instances 100000] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from pathlib import Path

from benchmarks._report import (
    Found,
    at_most,
    durability,
    machine,
    median,
    once,
    parser,
    resident_bytes,
    show,
    spread,
    spreads,
)
from wfes import Engine, Step, workflow

MEGABYTES_MAX = 100.0
FIRST = 1000
AT_ONCE = 500
SETTLING_SECONDS = 2.0


@workflow
async def sleeper(step: Step) -> None:
    """Sleeps for a day."""
    await step.sleep("long", "1d")


def megabytes() -> float:
    """Resident memory of this process now."""
    gc.collect()
    return resident_bytes() / 1e6


async def started(engine: Engine, count: int) -> None:
    """Starts so many, and waits until all have left memory."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await sleeper.start()

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    worker = engine._parts._worker
    assert worker is not None
    # Those that found no room in memory are claimed when others have left it.
    while worker.running or not await _all_asleep(engine):
        await asyncio.sleep(0.25)


async def _all_asleep(engine: Engine) -> bool:
    return not any(
        [(await engine.instances(status=status, limit=1)).items for status in ("pending", "in_progress")]
    )


async def fill(path: Path, instances: int) -> Found:
    """Starts and runs all of them to their sleep."""
    async with Engine(f"sqlite:///{path}", workflows=[sleeper]) as engine:
        await started(engine, FIRST)
        before = megabytes()
        wall, cpu = time.perf_counter(), time.process_time()
        await started(engine, instances - FIRST)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        added = megabytes() - before
        settings = durability(engine)
    return {
        "added_megabytes": added,
        "resident_megabytes": before + added,
        "cpu_micros_per_instance": cpu / (instances - FIRST) * 1e6,
        "seconds": wall,
        "durability": settings,
    }


async def look(path: Path) -> Found:
    """Opens the file, and lets the engine settle."""
    opening = time.perf_counter()
    async with Engine(f"sqlite:///{path}", workflows=[sleeper]):
        opening = time.perf_counter() - opening
        await asyncio.sleep(SETTLING_SECONDS)
        return {"resident_megabytes": megabytes(), "opening_seconds": opening}


def report(arguments: argparse.Namespace) -> Found:
    """The long run, then the short ones."""
    opened: list[Found] = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        file = Path(directory, "sleeping.db")
        filled = once(__file__, arguments, "fill", file)
        for number in range(arguments.runs):
            empty = once(__file__, arguments, "look", Path(directory, f"empty-{number}.db"))
            full = once(__file__, arguments, "look", file)
            added = full["resident_megabytes"] - empty["resident_megabytes"]
            opened.append({**full, "added_megabytes": added})
        size = file.stat().st_size
    settings = filled.pop("durability")
    waiting = spreads(opened, list(opened[0]), 3)
    return {
        "question": "How much memory do sleeping instances take?",
        "machine": here,
        "durability": settings,
        "instances": arguments.instances,
        "file_bytes_per_instance": round(size / arguments.instances),
        "process_that_ran_them": {name: spread([value], 1) for name, value in filled.items()},
        "new_process": waiting,
        "figures": {
            "ran_them": at_most(filled["added_megabytes"], MEGABYTES_MAX, "MB added"),
            "new_process": at_most(median(waiting["added_megabytes"]), MEGABYTES_MAX, "MB added"),
        },
    }


def main() -> None:
    arguments = parser(__doc__, instances=100_000).parse_args()
    match arguments.child:
        case None:
            show(report(arguments))
        case "fill":
            print(json.dumps(asyncio.run(fill(arguments.file, arguments.instances))))
        case _:
            print(json.dumps(asyncio.run(look(arguments.file))))


if __name__ == "__main__":
    main()
