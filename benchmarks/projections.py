"""What does a projection cost, inline and following, and how long does a rebuild take?

Parts, each with its own figures; `--part` chooses one.

*inline*: the ten-step workload (`throughput.py`'s: async functions that do nothing, `--at-once` instances at a time,
SQLite at its default settings) with no projection of the user's, with one that writes a row an instance, and with one
that writes a row a step, in the append's own transaction. Each run is an engine on a new file; the three take turns in
one process, `--rounds` times, after one round that is not counted, so that whatever else the machine does happens to
all of them. The cost is how much less is done in the same CPU time (all threads), round by round; the figure is judged
on the median of the rounds. Wall-clock throughput stands beside it.

*following*: how many events a projection with a row a step, an index and a sum handles in a second of CPU time (all
threads of the engine, commits included), over a log that is there already; and how far it lags behind a steady stream,
2,000 events a second by members of the engine's own writer, one of 20 events every 10 ms: from a commit's being told
to the rows' being committed.

*rebuild*: the same projection built anew beside its live rows, from a log of `--events` events, and so is the engine's
own table of instances. Wall-clock seconds, on a machine that also does whatever else it does.

    python -m benchmarks.projections [--part inline] [--instances 200] [--steps 10] [--at-once 100] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks._histories import EVENTS, write
from benchmarks._report import Found, at_least, at_most, machine, once, parser, show, spread
from benchmarks.throughput import run, several
from wfes import Engine, Projection, ProjectionEvent, Reader, Row, Rows, on, query
from wfes.core import events as e
from wfes.log.port import Tx

STEP_COST_MAX_PERCENT = 15.0
INSTANCE_COST_MAX_PERCENT = 5.0
EVENTS_PER_CPU_SECOND_MIN = 30_000
LAG_MAX_MS = 100.0
REBUILD_MAX_SECONDS = 60.0


class Finished(Row, table="finished", key="instance"):
    """An instance that is over."""

    instance: str
    workflow: str
    steps: int


class Instances(Projection):
    """A row an instance."""

    name = "finished"
    tables = (Finished,)
    inline = True

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        """It is over."""
        rows.put(Finished(event.instance, event.workflow or "", event.data["output"]))


class Done(Row, table="done_steps", key=("instance", "path")):
    """A step that is done."""

    instance: str
    path: str
    version: int


class Steps(Projection):
    """A row a step."""

    name = "done_steps"
    tables = (Done,)
    inline = True

    @on("StepCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        """It is done."""
        rows.put(Done(event.instance, event.data["path"], event.version))


class Worked(Row, table="worked", key=("instance", "path"), indexes=["workflow"]):
    """A step of an instance."""

    instance: str
    path: str
    workflow: str | None
    attempts: int = 0
    number: int | None = None


class Sum(Row, table="sums", key="workflow"):
    """What a workflow's instances did."""

    workflow: str
    steps: int = 0
    total: int = 0


class Working(Projection):
    """A row a step and a sum a workflow, of nearly every event there is."""

    name = "working"
    tables = (Worked, Sum)

    @on("StepStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        """An attempt begins."""
        path = event.data["path"]
        row = rows.get(Worked, event.instance, path) or Worked(event.instance, path, event.workflow)
        row.attempts += 1
        rows.put(row)

    @on("StepCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        """It has a result."""
        row = rows.get(Worked, event.instance, event.data["path"])
        assert row is not None
        row.number = event.data["result"]["number"]
        rows.put(row)
        workflow = event.workflow or ""
        found = rows.get(Sum, workflow) or Sum(workflow)
        found.steps += 1
        found.total += row.number or 0
        rows.put(found)

    @query
    def steps(self, rows: Reader) -> int:
        """How many there were."""
        return sum(each.steps for each in rows.select(Sum))


class Marks(Projection):
    """Counts progress."""

    name = "marks"
    tables = (Sum,)

    @on("ProgressRecorded")
    def progress(self, event: ProjectionEvent, rows: Rows) -> None:
        """Once more."""
        found = rows.get(Sum, event.instance) or Sum(event.instance)
        found.steps += 1
        rows.put(found)

    @query
    def steps(self, rows: Reader) -> int:
        """How many there were."""
        return sum(each.steps for each in rows.select(Sum))


KINDS: dict[str, Sequence[type[Projection]]] = {
    "none": [],
    "row_an_instance": [Instances],
    "row_a_step": [Steps],
}


async def measure(
    path: Path, projections: Sequence[type[Projection]], arguments: argparse.Namespace
) -> Found:
    """One run of the workload."""
    async with Engine(f"sqlite:///{path}", workflows=[several], projections=projections) as engine:
        await run(10, arguments.steps, 10)
        wall, cpu = time.perf_counter(), time.process_time()
        await run(arguments.instances, arguments.steps, arguments.at_once)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows = [
            engine._log.read(f"SELECT count(*) FROM {row.table.name}")[0][0]
            for projection in projections
            for row in projection.tables
        ]
    total = arguments.instances * arguments.steps
    return {"steps_per_second": total / wall, "cpu_micros_per_step": cpu / total * 1e6, "rows": rows}


def rounds(arguments: argparse.Namespace) -> Found:
    """All rounds, in this process; each number of a kind as a list."""
    found: dict[str, list[Found]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory(dir=arguments.file) as directory:
        for number in range(arguments.rounds + 1):
            # Whoever comes first finds another state of caches and disk: they take turns in that too.
            names = list(KINDS)[number % len(KINDS) :] + list(KINDS)[: number % len(KINDS)]
            for name in names:
                gc.collect()
                path = Path(directory, f"{name}{number}.db")
                one = asyncio.run(measure(path, KINDS[name], arguments))
                if number:
                    found[name].append(one)
    return {"rounds": found}


def inline(arguments: argparse.Namespace) -> Found:
    """What rows in the append's own transaction cost."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        found: dict[str, list[Found]] = once(__file__, arguments, "inline", Path(directory))["rounds"]
    report: Found = {"machine": here}
    base = found["none"]
    figures: Found = {}
    for name, runs in found.items():
        costs = [
            (1 - before["cpu_micros_per_step"] / after["cpu_micros_per_step"]) * 100
            for before, after in zip(base, runs, strict=True)
        ]
        walls = [
            (1 - after["steps_per_second"] / before["steps_per_second"]) * 100
            for before, after in zip(base, runs, strict=True)
        ]
        report[name] = {
            "steps_per_second": spread([one["steps_per_second"] for one in runs], 0),
            "cpu_micros_per_step": spread([one["cpu_micros_per_step"] for one in runs], 1),
            "rows": runs[0]["rows"],
        }
        if name != "none":
            report[name]["cost_percent"] = spread(costs, 1)
            report[name]["cost_percent_by_wall_clock"] = spread(walls, 1)
            limit = STEP_COST_MAX_PERCENT if name == "row_a_step" else INSTANCE_COST_MAX_PERCENT
            figures[name] = at_most(statistics.median(costs), limit, "% of throughput")
    report["figures"] = figures
    return report


async def catch_up(path: Path, arguments: argparse.Namespace) -> Found:
    """A projection that was not there before gets to the end of a log."""
    url = f"sqlite:///{path}"
    events = write(url, arguments.followed // EVENTS)
    async with Engine(url, worker=False):
        pass  # the engine's own tables are made
    wall, cpu = time.perf_counter(), time.process_time()
    async with Engine(url, worker=False, projections=[Working]) as engine:
        answer = await engine.query(Working.steps(), at_least=events, timeout=600)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    handled = answer.value * 2
    return {"events": handled, "per_cpu_second": handled / cpu, "per_second": handled / wall}


class Burst:
    """A member of the writer's queue: an instance's next progress."""

    def __init__(self, number: int, times: dict[int, float], told: asyncio.Future[None]) -> None:
        self.number = number
        self._times = times
        self._told = told

    def run(self, tx: Tx) -> int:
        """Appends 20 events."""
        stream = f"b-{self.number // 50}"
        at = tx.now
        events: list[e.Event] = [e.ProgressRecorded(at=at, path="p", message="on")] * 20
        if self.number % 50 == 0:
            events[0] = e.WorkflowStarted(at=at, workflow="marked")
        tx.append(stream, events)
        head: int = cast(Any, tx).write.head + 20  # at least: others in the same batch may be behind it
        return head

    def done(self, result: int) -> None:
        """It is committed."""
        self._times[result] = time.perf_counter()
        if not self._told.done():
            self._told.set_result(None)

    def failed(self, error: Exception) -> None:
        """It is not."""
        self._told.set_exception(error)


async def lag(path: Path, arguments: argparse.Namespace) -> Found:
    """How far a projection is behind a steady stream."""
    committed: dict[int, float] = {}
    reached: list[tuple[int, float]] = []
    async with Engine(f"sqlite:///{path}", worker=False, projections=[Marks]) as engine:
        await engine.query(Marks.steps())
        models, parts = engine._parts.models, engine._parts
        following, follow = models._following, models._follows["marks"]
        assert following is not None
        following.told = lambda: reached.append((follow.entry_position, time.perf_counter()))
        began = time.perf_counter()
        for number in range(arguments.seconds * 100):
            assert parts._writer is not None
            member = Burst(number, committed, asyncio.get_running_loop().create_future())
            parts._writer.submit(member)
            await asyncio.sleep(max(0.0, began + (number + 1) * 0.01 - time.perf_counter()))
        wall = time.perf_counter() - began
        head = await engine.position()
        while not reached or reached[-1][0] < head:
            following.want(follow, head)
            await asyncio.sleep(0.01)
    lags: list[float] = []
    places = iter(reached)
    position, at = next(places)
    for wanted in sorted(committed):
        while position < wanted:
            position, at = next(places)
        lags.append(max(0.0, at - committed[wanted]) * 1_000)
    lags.sort()
    return {
        "events_per_second": head / wall,
        "p50_ms": lags[len(lags) // 2],
        "p99_ms": lags[len(lags) * 99 // 100],
        "max_ms": lags[-1],
    }


def following_once(arguments: argparse.Namespace) -> Found:
    """Both, in this process."""
    with tempfile.TemporaryDirectory(dir=arguments.file) as directory:
        caught_up = asyncio.run(catch_up(Path(directory, "log.db"), arguments))
        behind = asyncio.run(lag(Path(directory, "live.db"), arguments))
    return {"catch_up": caught_up, "lag": behind}


def following(arguments: argparse.Namespace) -> Found:
    """How fast a projection follows."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        runs = [
            once(__file__, arguments, "following", Path(directory)) for _ in range(max(3, arguments.runs))
        ]
    caught = [one["catch_up"] for one in runs]
    behind = [one["lag"] for one in runs]
    return {
        "machine": here,
        "events": caught[0]["events"],
        "events_per_cpu_second": spread([one["per_cpu_second"] for one in caught], 0),
        "events_per_second": spread([one["per_second"] for one in caught], 0),
        "stream_events_per_second": spread([one["events_per_second"] for one in behind], 0),
        "lag_p50_ms": spread([one["p50_ms"] for one in behind], 1),
        "lag_p99_ms": spread([one["p99_ms"] for one in behind], 1),
        "lag_max_ms": spread([one["max_ms"] for one in behind], 1),
        "figures": {
            "events_per_cpu_second": at_least(
                statistics.median(one["per_cpu_second"] for one in caught),
                EVENTS_PER_CPU_SECOND_MIN,
                "events/s",
            ),
            "lag_p99": at_most(statistics.median(one["p99_ms"] for one in behind), LAG_MAX_MS, "ms"),
        },
    }


async def rebuild_once(path: Path, arguments: argparse.Namespace) -> Found:
    """One log, both rebuilds."""
    url = f"sqlite:///{path}"
    events = write(url, -(-arguments.events // EVENTS))
    seconds: Found = {}
    async with Engine(url, worker=False, projections=[Working]) as engine:
        await engine.query(Working.steps(), at_least=events, timeout=600)
        for name in ("working", "wfes_instances"):
            began = time.perf_counter()
            await engine.rebuild_projection(name)
            seconds[name] = time.perf_counter() - began
        ok = (await engine.check_projection("working")).ok
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"events": events, "seconds": seconds, "ok": ok, "memory_mib": memory}


def rebuild_child(arguments: argparse.Namespace) -> Found:
    """In this process."""
    with tempfile.TemporaryDirectory(dir=arguments.file) as directory:
        return asyncio.run(rebuild_once(Path(directory, "log.db"), arguments))


def rebuild(arguments: argparse.Namespace) -> Found:
    """How long a rebuild takes."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        found = once(__file__, arguments, "rebuild", Path(directory))
    slowest = max(found["seconds"].values())
    return {"machine": here, **found, "figures": {"seconds": at_most(slowest, REBUILD_MAX_SECONDS, "s")}}


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "inline": inline,
    "following": following,
    "rebuild": rebuild,
}
CHILDREN: dict[str, Callable[[argparse.Namespace], Found]] = {
    "inline": rounds,
    "following": following_once,
    "rebuild": rebuild_child,
}


def main() -> None:
    options = parser(
        __doc__,
        instances=200,
        steps=10,
        at_once=100,
        rounds=9,
        followed=210_000,
        seconds=10,
        events=1_000_000,
    )
    options.add_argument("--part", choices=sorted(PARTS), default=None, help="default: all of them")
    arguments = options.parse_args()
    if arguments.child is not None:
        print(json.dumps(CHILDREN[arguments.child](arguments)))
        return
    chosen = PARTS if arguments.part is None else {arguments.part: PARTS[arguments.part]}
    arguments.part = next(iter(chosen))  # what a child is told; it does not need it
    report: Found = {"question": "What does a projection cost?"}
    figures: Found = {}
    for name, part in chosen.items():
        report[name] = part(arguments)
        figures.update({f"{name}_{figure}": value for figure, value in report[name].pop("figures").items()})
    report["figures"] = figures
    show(report)


if __name__ == "__main__":
    main()
