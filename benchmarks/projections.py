"""What does a projection cost, inline and following, and how long does a rebuild take?

Parts, each with its own figures; `--part` chooses one.

*inline*: the ten-step workload (`throughput.py`'s: async functions that do nothing, `--at-once` instances at a time,
SQLite at its default settings) with no projection of the user's, with one that writes a row an instance, and with one
that writes a row a step, in the append's own transaction. Each run is an engine on a new file; the three take turns in
one process, `--rounds` times, after one round that is not counted, so that whatever else the machine does happens to
all of them. The cost is how much less is done in the same CPU time (all threads), round by round; the figure is judged
on the median of the rounds. Wall-clock throughput stands beside it.

    python -m benchmarks.projections [--part inline] [--instances 200] [--steps 10] [--at-once 100] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._report import Found, at_most, machine, once, parser, show, spread
from benchmarks.throughput import run, several
from wfes import Engine, Projection, ProjectionEvent, Row, Rows, on

STEP_COST_MAX_PERCENT = 15.0
INSTANCE_COST_MAX_PERCENT = 5.0


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


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {"inline": inline}
CHILDREN: dict[str, Callable[[argparse.Namespace], Found]] = {"inline": rounds}


def main() -> None:
    options = parser(__doc__, instances=200, steps=10, at_once=100, rounds=9)
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
