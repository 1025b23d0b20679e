"""How many steps a second do one, two and four worker processes on PostgreSQL make, and what does a step cost there?

Method: a starter process without a worker keeps `--at-once` instances of a workflow of `--steps` steps (async functions
that do nothing) under way, `--instances` in all, and waits for each result; so many worker processes run them. As a
starting point the same in one process, worker and callers in one engine, on SQLite and on PostgreSQL. Every run has new
processes and a new database; twenty instances come first and are not counted.

*CPU a step* is the workers' own, all threads; the starter's, and the server's where it is on this machine, stand beside
it. *Commits* are those that write, of workers and starter together: each is one flush on the server.

How many processes help depends on the CPUs: workers, starter and server share this machine's.

    python benchmarks/workers.py [--instances 200] [--steps 10] [--at-once 100] [--runs 3] [--processes 1,2,4]
        [--postgres URL] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks._postgres import fresh, option, server_cpu_seconds
from benchmarks._report import Found, durability, machine, parser, show, spreads, writer
from benchmarks.throughput import run, several
from wfes import Engine

COUNTERS = ("cpu", "commits", "events")
EMBEDDED = "in one process"


def counters(engine: Engine) -> Found:
    """What this process has used and written so far."""
    return {"cpu": time.process_time(), "commits": writer(engine).commits, "events": writer(engine).events}


async def work(url: str) -> None:
    """A worker process; tells its counters whenever it is asked."""
    async with Engine(url, workflows=[several]) as engine:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(counters(engine)), flush=True)


@contextmanager
def worker(url: str) -> Generator[subprocess.Popen[str]]:
    """A worker process, at work."""
    line = [sys.executable, __file__, "--child", "work", "--postgres", url]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if _answer(process) != "ready\n":
                raise RuntimeError("a worker did not start")
            yield process
        finally:
            process.kill()


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def told(process: subprocess.Popen[str]) -> Found:
    """A worker process's counters now."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: Found = json.loads(_answer(process))
    return found


async def measure(url: str, processes: int, arguments: argparse.Namespace) -> Found:
    """One run; the starter is this process. No processes: the worker is in it, too."""
    instances, steps, at_once = arguments.instances, arguments.steps, arguments.at_once
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(url)) for _ in range(processes)]
        async with Engine(url, workflows=[several], worker=not workers) as engine:
            await run(20, steps, 20)
            before, served = [counters(engine), *map(told, workers)], server_cpu_seconds(url)
            begun = time.perf_counter()
            await run(instances, steps, at_once)
            wall = time.perf_counter() - begun
            after, serves = [counters(engine), *map(told, workers)], server_cpu_seconds(url)
            settings = durability(engine)
    used = [{name: b[name] - a[name] for name in COUNTERS} for a, b in zip(before, after, strict=True)]
    total = instances * steps
    commits = sum(one["commits"] for one in used)
    own = sum(one["cpu"] for one in (used[1:] if workers else used))
    return {
        "steps_per_second": total / wall,
        "cpu_micros_per_step": own / total * 1e6,
        "starter_cpu_micros_per_step": (used[0]["cpu"] if workers else 0.0) / total * 1e6,
        "server_cpu_micros_per_step": 0.0 if served is None else ((serves or 0.0) - served) / total * 1e6,
        "commits_per_second": commits / wall,
        "steps_per_commit": total / commits,
        "events_per_commit": sum(one["events"] for one in used) / commits,
        "durability": settings,
    }


def measured(url: str, processes: int, arguments: argparse.Namespace) -> Found:
    """One run in a process of its own."""
    line = [sys.executable, __file__, "--child", str(processes), "--postgres", url]
    for name in ("instances", "steps", "at_once"):
        line += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    found: Found = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
    return found


def report(arguments: argparse.Namespace) -> Found:
    """Every arrangement, `--runs` times."""
    numbers: Sequence[int] = [int(number) for number in arguments.processes.split(",")]
    found: dict[str, list[Found]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for turn in range(arguments.runs):
            one = measured(f"sqlite:///{Path(directory, f'{turn}.db')}", 0, arguments)
            found.setdefault(f"sqlite, {EMBEDDED}", []).append(one)
            for number in (0, *numbers):
                name = f"postgresql, {f'{number} workers' if number else EMBEDDED}"
                with fresh(arguments.postgres or "") as url:
                    found.setdefault(name, []).append(measured(url, number, arguments))
    names = [name for name in next(iter(found.values()))[0] if name != "durability"]
    return {
        "question": "How many steps a second do one, two and four worker processes on PostgreSQL make?",
        "machine": here,
        "durability": {name: runs[0]["durability"] for name, runs in found.items()},
        "arrangements": {name: spreads(runs, names, 1) for name, runs in found.items()},
    }


def main() -> None:
    options = parser(__doc__, instances=200, steps=10, at_once=100)
    options.add_argument("--processes", default="1,2,4", help="how many worker processes; default: 1,2,4")
    option(options, "a server whose user may create databases; default: one of its own")
    arguments = options.parse_args()
    match arguments.child:
        case None:
            show(report(arguments))
        case "work":
            asyncio.run(work(arguments.postgres))
        case processes:
            print(json.dumps(asyncio.run(measure(arguments.postgres, int(processes), arguments))))


if __name__ == "__main__":
    main()
