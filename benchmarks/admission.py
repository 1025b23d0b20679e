"""Does an admission cost more where 100,000 instances are held than where a few are?

Method: a process without a worker starts `--held` instances of a workflow with `concurrency=10`, and two for each of
`--keys` values of the key of another one with `Concurrency(1, key=...)`; the first of the two, once admitted, sleeps
for a day, so that the second is held for good. A second process opens the file with a worker and waits until the
sleepers sleep and everything rests. Then the ten that have a slot are let go, each following one ends as soon as it
is admitted, and the process measures the CPU time (all threads) and the time until `--admissions` more have ended;
whoever is admitted after that keeps its slot. An instance has one step, so what is measured is a whole short life:
admission, claim, step, end.

The same is done with just enough held instances and no keys, in a file of its own; the ratio of CPU per admission is
what counts. Each of `--runs` runs makes both files. SQLite at its default settings; with `--postgres` a database each
instead, where the server's CPU time counts as well.

    python benchmarks/admission.py [--held 100000] [--keys 5000] [--admissions 2000] [--runs 1] [--directory DIR]
        [--postgres [URL]]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._postgres import fresh, option, server_cpu_seconds
from benchmarks._report import Found, at_most, durability, machine, median, once, parser, show, spreads
from wfes import Concurrency, Engine, Status, Step, workflow

SLOTS = 10
AT_ONCE = 500
RATIO_MAX = 1.25
GIVE_UP_SECONDS = 300.0

ended = 0
wanted = 0
done = asyncio.Event()


async def over() -> int:
    """What each instance's only step does: it ends at once, as long as more are wanted."""
    global ended
    ended += 1
    if ended == wanted:
        done.set()
    elif ended > wanted:
        await asyncio.Event().wait()
    return 1


@workflow(concurrency=SLOTS, timeout=None)
async def one(waits: bool, step: Step) -> None:
    """A short life; the first few wait until the measuring begins."""
    if waits:
        await step.listen("go")
    await step("over", over)


@workflow(concurrency=Concurrency(1, key="key"))
async def each(input: dict[str, int], step: Step) -> None:
    """Keeps its key's only slot."""
    await step.sleep("day", "1d")


async def together(starts: list[Coroutine[Any, Any, Any]]) -> None:
    """Awaits many, some at a time."""
    left = iter(starts)

    async def caller() -> None:
        for start in left:
            await start

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))


async def fill(url: str, held: int, keys: int) -> Found:
    """Starts all of them; nothing runs."""
    begun = time.perf_counter()
    async with Engine(url, workflows=[one, each], worker=False) as engine:
        await together([engine.start(one, number < SLOTS) for number in range(held)])
        for _ in range(2):
            await together([engine.start(each, {"key": key}) for key in range(keys)])
        return {"filling_seconds": time.perf_counter() - begun, "durability": durability(engine)}


async def admit(url: str, keys: int, admissions: int) -> Found:
    """Measures so many admissions."""
    global wanted
    async with Engine(url, workflows=[one, each]) as engine:
        limit = time.time() + GIVE_UP_SECONDS
        while (await engine.counts()).statuses.get(
            Status.LISTENING, 0
        ) < keys + SLOTS or not engine._parts.quiet:
            if time.time() > limit:
                raise RuntimeError(f"after {GIVE_UP_SECONDS} s: {(await engine.counts()).workflows}")
            await asyncio.sleep(0.1)
        first = (await engine.instances(workflow="one", status="listening")).items
        wanted = admissions
        cpu, served, begun = time.process_time(), server_cpu_seconds(url) or 0.0, time.perf_counter()
        for row in first:
            await (await engine.get(row.id)).send("go")
        await asyncio.wait_for(done.wait(), GIVE_UP_SECONDS)
        serves = (server_cpu_seconds(url) or 0.0) - served
        return {
            "cpu_micros_per_admission": (time.process_time() - cpu + serves) / admissions * 1e6,
            "admissions_per_second": admissions / (time.perf_counter() - begun),
            "held_behind": (await engine.counts("one")).statuses.get(Status.PENDING, 0),
        }


@contextmanager
def place(arguments: argparse.Namespace, directory: str, name: str) -> Generator[str]:
    """The URL of an empty log."""
    if arguments.postgres is None:
        yield f"sqlite:///{Path(directory, name)}.db"
        return
    with fresh(arguments.postgres) as url:
        yield url


def report(arguments: argparse.Namespace) -> Found:
    """Few and many held instances, `--runs` times."""
    found: dict[str, list[Found]] = {"few": [], "many": []}
    settings: Any = None
    sizes = {
        "few": (arguments.admissions + 2 * SLOTS, 0),
        "many": (arguments.held, arguments.keys),
    }
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            for name, (held, keys) in sizes.items():
                with place(arguments, directory, f"{name}-{number}") as url:
                    given = argparse.Namespace(
                        **{**vars(arguments), "held": held, "keys": keys, "postgres": url}
                    )
                    filled = once(__file__, given, "fill", Path("none"))
                    settings = filled.pop("durability")
                    found[name].append({**filled, **once(__file__, given, "admit", Path("none"))})
    shown = {name: spreads(runs, list(runs[0]), 1) for name, runs in found.items()}
    few, more = (median(shown[name]["cpu_micros_per_admission"]) for name in ("few", "many"))
    return {
        "question": "Does an admission cost more where many instances are held?",
        "machine": here,
        "durability": settings,
        "held": arguments.held,
        "keys": arguments.keys,
        **shown,
        "figures": {"ratio": at_most(more / few, RATIO_MAX, "times the CPU of few held ones")},
    }


def main() -> None:
    made = parser(__doc__, held=100_000, keys=5_000, admissions=2_000)
    made.set_defaults(runs=1)
    option(made, "on PostgreSQL: a server whose user may create databases; without a URL one of its own")
    arguments = made.parse_args()
    match arguments.child:
        case "fill":
            print(json.dumps(asyncio.run(fill(arguments.postgres, arguments.held, arguments.keys))))
        case "admit":
            print(json.dumps(asyncio.run(admit(arguments.postgres, arguments.keys, arguments.admissions))))
        case _:
            show(report(arguments))


if __name__ == "__main__":
    main()
