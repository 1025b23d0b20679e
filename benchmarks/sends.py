"""Does an instance that is sent a thousand events a second still get on with its own work?

Method: one process runs one instance with two branches: one listens for events, one after another, the other runs steps
that do nothing, one after another, as long as the first one lives. A second process, with no worker, sends it `--rate`
events a second for `--seconds`, paced by the clock, each with an id of its own and each awaited until it is durable.
Both processes write to the same file, SQLite at its default settings. Before the sending begins, the steps run for a
second alone, for comparison. Times of both processes are read from the machine's one monotonic clock.

Reached if over the whole time, from the first send to the last one's acknowledgement (consumption), at least 1,000 a
second were acknowledged (consumed by the handler), and if no two steps ended more than 250 ms apart.

    python benchmarks/sends.py [--rate 1100] [--seconds 5] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks._report import (
    Found,
    at_least,
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
    spreads,
    writer,
)
from wfes import Engine, Step, workflow

PER_SECOND_MIN = 1000.0
GAP_MS_MAX = 250.0
ID = "inbox"
BACKLOG_SECONDS = 60.0
"""How long the receiver may still consume after the sender has ended."""

steps: list[float] = []
"""When steps ended."""
consumed: list[tuple[float, float]] = []
"""When an event was sent, and when the handler had it."""


async def beat() -> None:
    """A step that does nothing but take the time."""
    steps.append(time.perf_counter())


@workflow
async def inbox(total: int, step: Step) -> int:
    """Consumes so many events, and runs steps meanwhile."""

    async def consume() -> None:
        for _ in range(total):
            sent: float = await step.listen("tick")
            consumed.append((sent, time.perf_counter()))

    consumer = asyncio.create_task(consume())
    number = 0
    while not consumer.done():
        number += 1
        await step("beat", beat)
    return number


async def receive(path: Path, total: int) -> Found:
    """The process with the instance."""
    async with Engine(f"sqlite:///{path}", workflows=[inbox]) as engine:
        instance = await inbox.start(total, id=ID)
        while len(steps) < 100:
            await asyncio.sleep(0.01)
        alone, wall = len(steps), time.perf_counter()
        await asyncio.sleep(1)
        alone, wall = len(steps) - alone, time.perf_counter() - wall
        await asyncio.to_thread(ready)
        from_step, cpu, commits = len(steps), time.process_time(), writer(engine).commits
        await instance.result(BACKLOG_SECONDS)
        cpu, commits = time.process_time() - cpu, writer(engine).commits - commits
        settings = durability(engine)
    first, last = min(sent for sent, _ in consumed), consumed[-1][1]
    meanwhile = [at for at in steps[from_step:] if first <= at <= last]
    lags = [(at - sent) * 1e3 for sent, at in consumed]
    return {
        "steps_per_second_alone": alone / wall,
        "steps_per_second": len(meanwhile) / (last - first),
        "longest_gap_between_steps_ms": max(b - a for a, b in pairwise([first, *meanwhile, last])) * 1e3,
        "consumed_per_second": len(consumed) / (last - first),
        "send_to_consumed_p50_ms": percentile(lags, 50),
        "send_to_consumed_p99_ms": percentile(lags, 99),
        "send_to_consumed_max_ms": max(lags),
        "receiver_cpu_share": cpu / (last - first),
        "commits_per_second": commits / (last - first),
        "durability": settings,
    }


async def send(path: Path, rate: int, total: int) -> Found:
    """The process that sends."""
    async with Engine(f"sqlite:///{path}", workflows=[inbox], worker=False) as engine:
        instance = await engine.get(inbox, ID)
        await asyncio.to_thread(ready)
        took: list[float] = []

        async def one(number: int) -> None:
            sent = time.perf_counter()
            await instance.send("tick", sent, id=f"tick-{number}")
            took.append((time.perf_counter() - sent) * 1e3)

        begun, cpu = time.perf_counter(), time.process_time()
        sending: list[asyncio.Task[None]] = []
        while len(sending) < total:
            due = min(total, int((time.perf_counter() - begun) * rate) + 1)
            sending += [asyncio.create_task(one(number)) for number in range(len(sending), due)]
            await asyncio.sleep(0.002)
        await asyncio.gather(*sending)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "sent_per_second": total / wall,
        "send_p50_ms": percentile(took, 50),
        "send_p99_ms": percentile(took, 99),
        "sender_cpu_share": cpu / wall,
    }


def report(arguments: argparse.Namespace) -> Found:
    """All runs."""
    found: list[Found] = []
    settings: Found = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            file = Path(directory, f"{number}.db")
            receiver = begin(__file__, arguments, "receive", file)
            received, sent = go([receiver, begin(__file__, arguments, "send", file)])
            settings = received.pop("durability")
            found.append(received | sent)
    result = spreads(found, list(found[0]))
    return {
        "question": "Does an instance that is sent a thousand events a second still get on with its own work?",
        "machine": here,
        "durability": settings,
        "engine": result,
        "figures": {
            "sent": at_least(
                median(result["sent_per_second"]), PER_SECOND_MIN, "sends acknowledged a second"
            ),
            "consumed": at_least(
                median(result["consumed_per_second"]), PER_SECOND_MIN, "events consumed a second"
            ),
            "not_starved": at_most(
                median(result["longest_gap_between_steps_ms"]), GAP_MS_MAX, "ms between two steps"
            ),
        },
    }


def main() -> None:
    arguments = parser(__doc__, rate=1100, seconds=5).parse_args()
    total = arguments.rate * arguments.seconds
    match arguments.child:
        case None:
            show(report(arguments))
        case "receive":
            print(json.dumps(asyncio.run(receive(arguments.file, total))))
        case _:
            print(json.dumps(asyncio.run(send(arguments.file, arguments.rate, total))))


if __name__ == "__main__":
    main()
