"""How soon are 100,000 sleeping instances awake that are due within the same second?

Method: a first process starts `--others` instances that sleep for a day, and then `--instances` that sleep until a
moment of one and the same second, in the order in which they were started, or with `--scattered 1` each a thousandth
of it after the one before, round and round, so that neighbours in time lie far apart in the file; it lets all of them
run to their sleep and leave memory, and closes. That second is chosen by how long the first ones took, so that all
are asleep before it comes; if they are not, the run fails. Then a new process opens the file with a worker and waits,
as an engine at rest, its garbage collector set as `wfes worker` sets it. Each of `--runs` runs prepares its own file.

Each handler notes the wall clock when it goes on after its sleep: that is when it is awake. The time until all are
awake counts from the beginning of the second they are due in; the lag of each from its own moment. CPU time is the
process's, all threads, from the beginning of that second until the end of every instance is committed, divided by
their number. SQLite at its default settings.

Early is who goes on before the moment it is due by the wall clock in its handler, or whose recorded SleepEnded has an
`at` before the recorded `until` of its SleepScheduled; both are counted over all instances. Memory is resident memory
(VmRSS, its peak VmHWM) beyond that of the same process at rest, just before the second begins.

Reached if all are awake within 20 s, none early, with under 100 MB added at the peak (1 MB is 1,000,000 bytes), in
the median of the runs; nobody may be early in any.

    python benchmarks/timers.py [--instances 100000] [--others 1000] [--scattered 0] [--runs 1] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks._report import (
    Found,
    at_most,
    durability,
    machine,
    median,
    once,
    parser,
    percentile,
    resident_bytes,
    show,
    spreads,
    writer,
)
from wfes import Engine, Step, workflow
from wfes.log.application import decode
from wfes.runtime import collector

AWAKE_SECONDS_MAX = 20.0
MEGABYTES_MAX = 100.0
AT_ONCE = 500
SETTLING_SECONDS = 2.0
"""How long the engine that is to wake them may take to come to rest, before the second begins."""
OPENING_SECONDS = 4.0
"""How long it may take a new process to open the file."""
GIVE_UP_SECONDS = 300.0
_PAGE = 10_000

awake = array("q")
"""When each handler went on after its sleep, and when it was due, in microseconds, by turns."""


@workflow
async def sleeper(until: datetime, step: Step) -> None:
    """Sleeps until then."""
    await step.sleep_until("until", until)
    awake.append(time.time_ns() // 1_000)
    awake.append(round(until.timestamp() * 1e6))


async def start(engine: Engine, dues: list[datetime]) -> None:
    """Starts one sleeper for each moment, and waits until all have left memory."""
    left = iter(dues)

    async def caller() -> None:
        for due in left:
            await sleeper.start(due)

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    worker = engine._parts._worker
    assert worker is not None
    while worker.running or await _some_awake(engine):
        await asyncio.sleep(0.1)


async def _some_awake(engine: Engine) -> bool:
    return any(
        [(await engine.instances(status=status, limit=1)).items for status in ("pending", "in_progress")]
    )


async def fill(path: Path, instances: int, others: int, scattered: int) -> Found:
    """Starts and runs all of them to their sleep; says when the second begins in which they are due."""
    begun = time.perf_counter()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with Engine(f"sqlite:///{path}", workflows=[sleeper]) as engine:
        measured = time.perf_counter()
        await start(engine, [tomorrow] * others)
        expected = (time.perf_counter() - measured) / others * instances
        # More than it should take, for the machine may have other work by then.
        due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=15 + round(1.5 * expected))
        micros = [
            number % 1000 * 1000 if scattered else number * 1_000_000 // instances
            for number in range(instances)
        ]
        await start(engine, [due + timedelta(microseconds=micro) for micro in micros])
        settings = durability(engine)
    if datetime.now(UTC) > due - timedelta(seconds=OPENING_SECONDS + SETTLING_SECONDS):
        raise RuntimeError(f"preparing {instances} sleepers took until after the second they were due in")
    return {
        "due": due.timestamp(),
        "preparing_seconds": time.perf_counter() - begun,
        "durability": settings,
    }


def peak_bytes() -> int:
    """The most resident memory this process has had since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def forget_peak() -> None:
    """Lets the peak begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


async def wake(path: Path, due: float, instances: int) -> Found:
    """Opens the file, waits for the second, and until all are over."""
    async with Engine(f"sqlite:///{path}", workflows=[sleeper]) as engine:
        await asyncio.sleep(max(0.0, due - time.time() - SETTLING_SECONDS / 2))
        collector.relax()
        forget_peak()
        resting = resident_bytes()
        commits = writer(engine).commits
        if time.time() > due or awake:
            raise RuntimeError("the engine was not at rest before the second began")
        await asyncio.sleep(max(0.0, due - time.time()))
        cpu = time.process_time()
        worker = engine._parts._worker
        assert worker is not None
        while len(awake) < 2 * instances or not worker.quiet or worker.running:
            await asyncio.sleep(0.05)
            if time.time() > due + GIVE_UP_SECONDS:
                raise RuntimeError(f"after {GIVE_UP_SECONDS} s {len(awake) // 2} of {instances} are awake")
        over = time.time() - due
        cpu = time.process_time() - cpu
        peak = peak_bytes()
        commits = writer(engine).commits - commits
        early = _early_in_log(engine, instances)
    times, dues = awake[::2], awake[1::2]
    lags = [at - until for at, until in zip(times, dues, strict=True)]
    return {
        "awake_seconds": max(times) / 1e6 - due,
        "over_seconds": over,
        "lag_p50_seconds": percentile(lags, 50) / 1e6,
        "lag_p99_seconds": percentile(lags, 99) / 1e6,
        "lag_max_seconds": max(lags) / 1e6,
        "early_by_clock": sum(lag < 0 for lag in lags),
        "early_in_log": early,
        "woken": len(lags),
        "resting_megabytes": resting / 1e6,
        "added_megabytes": (peak - resting) / 1e6,
        "cpu_micros_per_wake_up": cpu / instances * 1e6,
        "commits": commits,
    }


def _early_in_log(engine: Engine, instances: int) -> int:
    """How many sleeps have ended, by what is recorded, before they were due."""
    until: dict[str, int] = {}
    early = ended = position = 0
    topics = ("SleepScheduled", "SleepEnded")
    while page := engine._log.select_notifications(position, _PAGE, topics=topics, inclusive_of_start=False):
        position = page[-1].id
        for stored in page:
            event = decode(stored).event
            stream = str(stored.originator_id)
            if stored.topic == "SleepScheduled":
                until[stream] = event.until  # type: ignore[attr-defined]
            else:
                ended += 1
                early += event.at < until[stream]
    if ended != instances:
        raise RuntimeError(f"{ended} sleeps of {instances} have ended by the log")
    return early


def report(arguments: argparse.Namespace) -> Found:
    """All runs, each on its own file."""
    found: list[Found] = []
    settings: Found = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            file = Path(directory, f"{number}.db")
            filled = once(__file__, arguments, "fill", file)
            settings = filled.pop("durability")
            woken = once(__file__, arguments, f"wake-{filled.pop('due')}", file)
            found.append({**filled, **woken})
    engine = spreads(found, list(found[0]), 3)
    early = max(one["early_by_clock"] + one["early_in_log"] for one in found)
    return {
        "question": "How soon are so many sleeping instances awake that are due within the same second?",
        "machine": here,
        "durability": settings,
        "instances": arguments.instances,
        "scattered": bool(arguments.scattered),
        "engine": engine,
        "figures": {
            "awake": at_most(median(engine["awake_seconds"]), AWAKE_SECONDS_MAX, "s until all are awake"),
            "early": at_most(early, 0, "instances woken early"),
            "memory": at_most(median(engine["added_megabytes"]), MEGABYTES_MAX, "MB added"),
        },
    }


def main() -> None:
    made = parser(__doc__, instances=100_000, others=1000, scattered=0)
    made.set_defaults(runs=1)
    arguments = made.parse_args()
    match arguments.child:
        case None:
            show(report(arguments))
        case "fill":
            made_of = arguments.instances, arguments.others, arguments.scattered
            print(json.dumps(asyncio.run(fill(arguments.file, *made_of))))
        case waking:
            due = float(waking.removeprefix("wake-"))
            print(json.dumps(asyncio.run(wake(arguments.file, due, arguments.instances))))


if __name__ == "__main__":
    main()
