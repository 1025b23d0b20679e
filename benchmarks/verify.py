"""How many events does `engine.verify()` check in a second of CPU time, and how much memory does it take?

Method: `--events` events of finished instances of nine steps each are written past the engine into a new SQLite file.
Then a new process opens it without a worker and verifies all of it: every digest computed again from the stored bytes,
versions and positions followed, the last event of each history decoded. `archived` is the same after `prune` has moved
the histories to the archive. CPU time is the process's, from before the call to after it; memory is what its resident
size grew by.

    python benchmarks/verify.py [--events 420000] [--archived-events 42000] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks._histories import EVENTS, write
from benchmarks._report import (
    Found,
    at_least,
    machine,
    median,
    once,
    parser,
    resident_bytes,
    show,
    spreads,
)
from wfes import Engine

EVENTS_PER_CPU_SECOND_MIN = 100_000
BEGUN = 1_700_000_000_000_000
"""When the first instance began: long enough ago to be archived."""


async def verify(path: Path) -> Found:
    """Verifies the log, and says what that took."""
    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        memory = resident_bytes()
        begun, cpu = time.perf_counter(), time.process_time()
        report = await engine.verify()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
        if not report.ok:
            raise RuntimeError(str(report))
        return {
            "events": report.events,
            "events_per_cpu_second": report.events / cpu,
            "events_per_second": report.events / wall,
            "memory_mb": (resident_bytes() - memory) / 2**20,
        }


async def prune(path: Path) -> None:
    """Moves the histories to the archive."""
    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        await engine.prune(older_than=timedelta(0))


def main() -> None:
    """Runs it and prints the report."""
    arguments: argparse.Namespace = parser(__doc__, events=420_000, archived_events=42_000).parse_args()
    if arguments.child:
        print(json.dumps(asyncio.run(verify(arguments.file))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        report: Found = {"question": (__doc__ or "").partition("\n")[0], "machine": machine(directory)}
        for kind, events in (("log", arguments.events), ("archived", arguments.archived_events)):
            path = Path(directory) / f"{kind}.db"
            write(f"sqlite:///{path}", max(1, events // EVENTS), BEGUN)
            if kind == "archived":
                asyncio.run(prune(path))
            runs = [once(__file__, arguments, kind, path) for _ in range(max(arguments.runs, 1))]
            report[kind] = spreads(runs, list(runs[0]), 1)
    speed = median(report["log"]["events_per_cpu_second"])
    figures = {"events_per_cpu_second": at_least(speed, EVENTS_PER_CPU_SECOND_MIN, "events/s CPU")}
    show({**report, "figures": figures})


if __name__ == "__main__":
    main()
