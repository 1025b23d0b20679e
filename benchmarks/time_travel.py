"""How long does `inst.at(N)` take on a history of 100,000 events, and how much memory?

Method: a history of `--events` events is written past the engine into a new SQLite file: `chain`, steps one after
another, each with a small result; `wide`, steps of which `--open` are open at a time; and `restless`, an instance that
is claimed and released around every sleep and changes its state; `archived` is `chain` once more, after `prune` has
moved it to the archive. For each kind a new process opens the file without a worker and asks for the state in the
middle of the history: `first_seconds`. Then it asks `--asks` times for a version drawn at random, and each time for the
number of steps, one step and what is waited for: `later_ms`, the slowest of them. Both are given as they passed on the
wall and as CPU time of the process; the figures are judged on CPU time, which depends less on what else runs on the
machine. Memory is what the process's resident size grew by from before the first call to after the last.

    python benchmarks/time_travel.py [--events 100000] [--open 1000] [--asks 200] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from benchmarks._report import Found, at_most, machine, median, once, parser, show, spreads
from wfes import Engine
from wfes.core import chain
from wfes.core import events as e
from wfes.core.events import Event
from wfes.log.application import body_bytes
from wfes.log.open import open_log
from wfes.log.port import StoredRow

KINDS = ("chain", "wide", "restless", "archived")
FIRST_SECONDS_MAX = 1.0
ARCHIVED_SECONDS_MAX = 2.0
"""The same from the archive: it is unpacked, and checked by the hash chain, as it is read."""
LATER_MS_MAX = 50.0
AT = 1_700_000_000_000_000
ID = "long"


def history(kind: str, events: int, open_at_a_time: int) -> Iterator[Event]:
    """So many events of one instance, which ends with the last."""
    yield e.WorkflowStarted(at=AT, workflow="w", input={"events": events})
    yield e.RunClaimed(at=AT, worker="w", epoch=1)
    rest = events - 3
    for number in range(rest):
        at = AT + number * 1_000
        turn, place = divmod(number, 2)
        if kind == "restless":
            yield _restless(number, at)
        elif kind == "wide":
            turn, place = divmod(number, 2 * open_at_a_time)
            path = f"s{turn}-{place % open_at_a_time}"
            yield _step(path, place >= open_at_a_time, at)
        else:
            yield _step(f"s{turn}", bool(place), at)
    yield e.WorkflowCompleted(at=AT + events * 1_000, output=events)


def _step(path: str, done: bool, at: int) -> Event:
    return (
        e.StepCompleted(at=at, path=path, result={"path": path}) if done else e.StepStarted(at=at, path=path)
    )


def _restless(number: int, at: int) -> Event:
    turn, place = divmod(number, 5)
    match place:
        case 0:
            return e.StateChanged(at=at, changes={"turn": turn})
        case 1:
            return e.SleepScheduled(at=at, path=f"z#{turn}", until=at + 10)
        case 2:
            return e.RunReleased(at=at)
        case 3:
            return e.RunClaimed(at=at, worker="w", epoch=turn + 2)
        case _:
            return e.SleepEnded(at=at, path=f"z#{turn}")


def write(path: Path, kind: str, events: int, open_at_a_time: int) -> None:
    """Writes the history into a new log."""
    log = open_log(f"sqlite:///{path}")
    log.open([])
    rows: list[StoredRow] = []
    prev = chain.GENESIS
    for version, event in enumerate(history(kind, events, open_at_a_time), 1):
        stored = prev + body_bytes(event)
        rows.append((version, ID, version, event.topic, stored))
        prev = chain.digest(ID, version, event.topic, stored)
    target = log.begin()
    target.insert(rows)
    target.commit()
    log.close()


async def prune(path: Path) -> None:
    """Moves the history to the archive."""
    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        await engine.prune(older_than=timedelta(0))


async def ask(path: Path, events: int, asks: int) -> Found:
    """Asks, and says how long it took."""
    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        instance = await engine.get(ID)
        before = _resident()
        begun, cpu = time.perf_counter(), time.process_time()
        await instance.at(events // 2)
        found = {
            "first_seconds": time.perf_counter() - begun,
            "first_cpu_seconds": time.process_time() - cpu,
        }
        draw = random.Random(7)
        later: list[tuple[float, float]] = []
        for _ in range(asks):
            version = draw.randint(1, events)
            begun, cpu = time.perf_counter(), time.process_time()
            state = await instance.at(version)
            first = next(iter(state.steps), None)
            look = len(state.steps), None if first is None else state.steps[first], state.waiting_for
            later.append((time.process_time() - cpu, time.perf_counter() - begun))
            assert look[0] <= version
        for name, taken in zip(("later_cpu_ms", "later_ms"), zip(*later, strict=True), strict=True):
            ordered = sorted(taken)
            found[name] = ordered[-1] * 1_000
            found[f"{name}_median"] = ordered[len(ordered) // 2] * 1_000
        found["memory_mb"] = (_resident() - before) / 2**20
        return found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Runs it and prints the report."""
    arguments: argparse.Namespace = parser(__doc__, events=100_000, open=1_000, asks=200).parse_args()
    if arguments.child:
        print(json.dumps(asyncio.run(ask(arguments.file, arguments.events, arguments.asks))))
        return
    question = "How long does inst.at(N) take on a history of 100,000 events, and how much memory?"
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        report: Found = {"question": question, "machine": machine(directory)}
    first = later = 0.0
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            path = Path(directory) / "log.db"
            write(path, "chain" if kind == "archived" else kind, arguments.events, arguments.open)
            if kind == "archived":
                asyncio.run(prune(path))
            runs = [once(__file__, arguments, kind, path) for _ in range(max(arguments.runs, 1))]
        report[kind] = spreads(runs, list(runs[0]), 3)
        if kind != "archived":
            first = max(first, median(report[kind]["first_cpu_seconds"]))
        later = max(later, median(report[kind]["later_cpu_ms"]))
    figures = {
        "first_cpu_seconds": at_most(first, FIRST_SECONDS_MAX, "s CPU"),
        "first_archived_cpu_seconds": at_most(
            median(report["archived"]["first_cpu_seconds"]), ARCHIVED_SECONDS_MAX, "s CPU"
        ),
        "later_cpu_ms": at_most(later, LATER_MS_MAX, "ms CPU"),
    }
    show({**report, "figures": figures})


if __name__ == "__main__":
    main()
