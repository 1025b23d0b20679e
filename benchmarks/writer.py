"""How much does a durable step cost without handlers? The yardstick for the engine.

Method: `--instances` fake instances in one event loop, each writing `--steps` steps one after another through the real
writer: every member appends a step's `StepCompleted` and the next one's `StepStarted`, as an execution does. Hash
chain, inline projections and fsync are on, the file is new, the machine's disk is what it is. CPU time is the whole
process's, without start-up. With `--processes 2` two processes do this on one file at the same time, and are compared
with one that did it alone just before. Prints JSON.

    python benchmarks/writer.py [--instances 100] [--steps 300] [--processes 1] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wfes.core import events as e
from wfes.core.ids import new_id
from wfes.log.open import open_log
from wfes.log.port import Tx
from wfes.log.writer import Writer
from wfes.subscription.rebuild import bring_up
from wfes_projections import inline


def now() -> int:
    """Wall clock in microseconds."""
    return time.time_ns() // 1000


class Stepper:
    """A fake instance: as soon as a step is durable, it hands in the next one."""

    __slots__ = ("id", "left", "over", "writer")

    def __init__(self, id: str, steps: int, writer: Writer, over: asyncio.Future[None]) -> None:
        self.id = id
        self.left = steps
        self.writer = writer
        self.over = over

    def run(self, tx: Tx) -> int:
        number = self.left
        return tx.append(
            self.id,
            [
                e.StepCompleted(at=tx.now, path=f"step-{number + 1}", result=number),
                e.StepStarted(at=tx.now, path=f"step-{number}"),
            ],
        )

    def done(self, result: int) -> None:
        self.left -= 1
        if self.left:
            self.writer.submit(self)
        else:
            self.over.set_result(None)

    def failed(self, error: Exception) -> None:
        self.over.set_exception(error)


class Start:
    """Starts one fake instance and claims it."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper

    def run(self, tx: Tx) -> int:
        started = e.WorkflowStarted(at=tx.now, workflow="bench", input={"number": 1})
        claimed = e.RunClaimed(at=tx.now, worker="bench", epoch=1, code={"digest": "0" * 16})
        return tx.append(self.stepper.id, [started, claimed])

    def done(self, result: int) -> None:
        self.stepper.writer.submit(self.stepper)

    def failed(self, error: Exception) -> None:
        self.stepper.failed(error)


async def measure(path: Path, instances: int, steps: int) -> dict[str, Any]:
    """One process's share."""
    log = open_log(f"sqlite:///{path}")
    projections = inline()
    log.open([])
    bring_up(log, projections)
    writer = Writer(log, projections=projections, clock=now, deliver=lambda batch: None)
    loop = asyncio.get_running_loop()
    writer.start(loop)
    wall, cpu = time.perf_counter(), time.process_time()
    futures: list[asyncio.Future[None]] = []
    for _ in range(instances):
        over: asyncio.Future[None] = loop.create_future()
        futures.append(over)
        stepper = Stepper(new_id(now() // 1000, os.urandom(10)), steps, writer, over)
        writer.submit(Start(stepper))
    await asyncio.gather(*futures)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    writer.stop()
    log.close()
    total = instances * steps
    return {
        "steps": total,
        "seconds": round(wall, 3),
        "steps_per_second": round(total / wall),
        "cpu_micros_per_step": round(cpu / total * 1e6, 1),
        "commits": writer.commits,
        "steps_per_commit": round(total / writer.commits, 1),
        "events_per_commit": round(writer.events / writer.commits, 1),
    }


def bytes_per_step(path: Path, steps: int) -> float:
    """Size of the events' table and its index, a step; of the whole file where SQLite was built without dbstat."""
    connection = sqlite3.connect(path)
    try:
        sizes = "SELECT sum(pgsize) FROM dbstat WHERE name IN ('wfes_events', 'wfes_streams')"
        size: int = connection.execute(sizes).fetchone()[0]
    except sqlite3.OperationalError:
        size = path.stat().st_size
    finally:
        connection.close()
    return round(size / steps, 1)


def several(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Several processes on one file."""
    command = [sys.executable, __file__, "--instances", str(arguments.instances)]
    command += ["--steps", str(arguments.steps), "--file", str(path)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(arguments.processes)
    ]
    each = [json.loads(child.communicate()[0]) for child in children]
    slowest = max(found["seconds"] for found in each)
    return {
        "each": each,
        "steps_per_second": round(sum(found["steps"] for found in each) / slowest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=None, help="where the log is made")
    parser.add_argument(
        "--file", type=Path, default=None, help="the log to write to; made by several processes"
    )
    arguments = parser.parse_args()
    if arguments.file is not None:
        print(json.dumps(asyncio.run(measure(arguments.file, arguments.instances, arguments.steps))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory, "bench.db")
        result = asyncio.run(measure(path, arguments.instances, arguments.steps))
        result["bytes_per_step"] = bytes_per_step(path, result["steps"])
        if arguments.processes > 1:
            together = several(arguments, Path(directory, "several.db"))
            together["share_of_one"] = round(together["steps_per_second"] / result["steps_per_second"], 2)
            result = {"one": result, "together": together}
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
