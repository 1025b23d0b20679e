"""What does it cost to replay an instance with 5,000 recorded steps to its end?

Method: a first process runs one instance of a workflow of `--steps` steps, one after another, and stops while the
instance waits for its last event. Then that event is sent. A new process opens the file with a worker: it claims the
instance, reads and checks out its history, replays it to where it waited, releases what came and records the end.
Counted is all of that process's CPU time, all threads, from opening the engine to the end of the instance, which is
seen by polling the list of instances; an engine opened before on an empty file has paid for imports and first calls,
and what opening and closing that one costs is shown as `opening_cpu_seconds` (it is not subtracted). SQLite at its
default settings.

Shown beside it, in a process of its own, are the parts: reading the rows, decoding them, the fold of the state, and
the replay alone, of the decoded history on a host that does nothing, up to where the handler waits. The figure, under
0.25 s of CPU, is judged on the whole.

    python benchmarks/replay.py [--steps 5000] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

from benchmarks._report import Found, at_most, durability, machine, median, once, parser, show, spreads
from benchmarks.throughput import nothing
from wfes import Engine, Step, workflow
from wfes.core.evolve import fold
from wfes.handler.execution import Execution
from wfes.log.application import decode
from wfes.log.port import Member
from wfes.runtime.clock import SystemClock

CPU_SECONDS_MAX = 0.25
ID = "long"


@workflow
async def long(steps: int, step: Step) -> int:
    """So many steps, one after another, and then a wait."""
    total = 0
    for number in range(steps):
        total += await step(f"step-{number}", nothing, number)
    await step.listen("go")
    return total


async def fill(path: Path, steps: int) -> Found:
    """Runs the instance until it waits, stops, and sends what it waits for."""
    url = f"sqlite:///{path}"
    async with Engine(url, workflows=[long]) as engine:
        instance = await long.start(steps, id=ID)
        while not (await instance.refresh()).waiting_for:
            await asyncio.sleep(0.05)
        settings = durability(engine)
    shutil.copy(path, path.with_suffix(".waiting"))
    async with Engine(url, workflows=[long], worker=False) as engine:
        await (await engine.get(ID)).send("go")
    return {"durability": settings}


async def to_the_end(path: Path, steps: int) -> Found:
    """Opens the file, and waits until its instance is over."""
    opening = 0.0
    for name in ("warm", "empty"):
        cpu = time.process_time()
        async with Engine(f"sqlite:///{path.with_suffix('.' + name)}", workflows=[long]) as engine:
            opening = time.process_time() - cpu
            await (await long.start(3, id=ID)).cancel()
    wall, cpu = time.perf_counter(), time.process_time()
    async with Engine(f"sqlite:///{path}", workflows=[long]) as engine:
        # By the list of instances, which reads one row: a handle would read the whole history once more.
        while not (await engine.instances(status="completed")).items:
            await asyncio.sleep(0.01)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        result = await (await engine.get(long, ID)).result()
    assert result == sum(range(steps))
    return {"cpu_seconds": cpu, "seconds": wall, "opening_cpu_seconds": opening}


class Nowhere:
    """A host of an execution that records nothing."""

    threads = cast("Executor", None)
    worker = "nowhere"
    linger_micros = 1_000_000
    reads_only = False

    def __init__(self, engine: Engine) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = SystemClock(self.loop)
        self.values = engine.values
        self.engine: Any = engine
        self.log = engine._log
        self.lending = asyncio.Semaphore(1)

    def submit(self, member: Member) -> None:
        """Takes it, and never answers."""

    def left(self, execution: Execution) -> None:
        """Is told that an execution has left memory."""


async def parts(path: Path, steps: int) -> Found:
    """Times reading, decoding, folding and replaying by themselves."""
    async with Engine(f"sqlite:///{path.with_suffix('.waiting')}", workflows=[long], worker=False) as engine:
        begun = time.process_time()
        rows = engine._log.select_events(ID)
        read = time.process_time()
        history = [decode(row) for row in rows]
        decoded = time.process_time()
        fold(ID, history)
        folded = time.process_time()
        over: asyncio.Future[tuple[float, bool]] = asyncio.get_running_loop().create_future()
        execution = Execution(Nowhere(engine), long, ID, 1, history)

        def replay() -> None:
            cpu = time.process_time()
            execution.start()
            cpu = time.process_time() - cpu
            over.set_result((cpu, "go" in execution.asks))
            execution.fence()

        # From a plain callback: a handler is not driven inside a task.
        asyncio.get_running_loop().call_soon(replay)
        async with asyncio.timeout(60):
            replayed, waits = await over
    assert waits
    return {
        "events": len(history),
        "read_cpu_seconds": read - begun,
        "decode_cpu_seconds": decoded - read,
        "fold_cpu_seconds": folded - decoded,
        "replay_cpu_seconds": replayed,
        "replay_micros_per_step": replayed / steps * 1e6,
    }


def report(arguments: argparse.Namespace) -> Found:
    """All runs; the instance is made once."""
    whole: list[Found] = []
    pieces: list[Found] = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        made = Path(directory, "made.db")
        settings = once(__file__, arguments, "fill", made)["durability"]
        for number in range(arguments.runs):
            path = Path(directory, f"{number}.db")
            shutil.copy(made, path)
            shutil.copy(made.with_suffix(".waiting"), path.with_suffix(".waiting"))
            whole.append(once(__file__, arguments, "end", path))
            pieces.append(once(__file__, arguments, "parts", path))
    found = spreads(whole, list(whole[0]), 4)
    return {
        "question": "What does it cost to replay an instance with 5,000 recorded steps to its end?",
        "machine": here,
        "durability": settings,
        "engine": found,
        "parts": spreads(pieces, list(pieces[0]), 4),
        "figures": {"cpu": at_most(median(found["cpu_seconds"]), CPU_SECONDS_MAX, "s CPU")},
    }


def main() -> None:
    arguments = parser(__doc__, steps=5000).parse_args()
    if arguments.child is None:
        show(report(arguments))
        return
    measured = {"fill": fill, "end": to_the_end, "parts": parts}[arguments.child]
    print(json.dumps(asyncio.run(measured(arguments.file, arguments.steps))))


if __name__ == "__main__":
    main()
