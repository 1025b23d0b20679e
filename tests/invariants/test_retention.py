"""Random lives of instances, archived at random moments: laws of retention.

For every run: each history is byte for byte what it was, with what says so behind it, and its hash chain holds; the
log with its archives is what the log was, in order, nothing missing and nothing twice; every projection rebuilt from
log and archives equals the live one row for row (G10), also one that begins to follow only now; and the rows of the
engine's own projections can even be made without the archives.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from eventsourcing.persistence import Notification
from places import archives, placed, url_of

from wfes import (
    ChildWorkflowError,
    Engine,
    Instance,
    Projection,
    ProjectionEvent,
    Reader,
    Retry,
    Row,
    Rows,
    Step,
    StepError,
    WaitTimeout,
    WfesError,
    Workflow,
    on,
    query,
    testing,
    workflow,
)
from wfes.log.archived import stored_history, whole_log
from wfes.log.blocks import broken_link
from wfes.log.port import Log
from wfes.runtime import pruning
from wfes.runtime.streams import is_instance
from wfes.subscription.rebuild import fill
from wfes.testing import Environment
from wfes_projections import inline

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
RUNS = {"sqlite": 8 * SCALE, "postgresql": 2 * SCALE}


async def live(plan: list[Any], step: Step) -> Any:
    """Does what its plan says: a list of kinds with a number each."""

    def work(number: int) -> dict[str, Any]:
        if number % 4 == 0:
            raise ValueError(f"{number} ☃")
        return {"number": number, "text": "ä" * number}

    found: list[Any] = []
    for kind, number, rest in plan:
        match kind:
            case "step":
                with suppress(StepError):
                    found.append(await step("s", work, number))
            case "sleep":
                await step.sleep("z", f"{number}h")
            case "listen":
                with suppress(WaitTimeout):
                    found.append(await step.listen("news", timeout=f"{number}h"))
            case "child":
                with suppress(ChildWorkflowError, WaitTimeout):
                    found.append(await step.execute_workflow("c", second, rest, timeout=f"{number * 10}h"))
            case "wait":
                with suppress(WaitTimeout, WfesError):
                    outcome = await step.wait_for_workflow("w", rest, timeout=f"{number}h")
                    found.append(outcome.status.value)
            case "ask":
                with suppress(WaitTimeout):
                    found.append(await step.request("approval", timeout=f"{number}h"))
            case "progress":
                await step.progress(f"at {number}", data=rest)
            case "fail":
                step.fail("as planned")
            case _:
                step.abort("as planned")
    return found


RETRY = Retry(max_attempts=2, initial="1m", jitter=False)
first: Workflow[Any, Any] = workflow(
    live, name="first", retention="2d", requests={"approval": bool}, retry=RETRY, deadline="20d"
)
second: Workflow[Any, Any] = workflow(live, name="second", requests={"approval": bool}, retry=RETRY)
third: Workflow[Any, Any] = workflow(
    live, name="third", retention="5d", requests={"approval": bool}, retry=RETRY, on="news"
)
WORKFLOWS = [first, second, third]


class Tally(Row, table="tally", key="instance"):
    """How many events an instance has, and where they stand."""

    instance: str
    events: int = 0
    positions: int = 0
    last: str = ""


class LateTally(Row, table="late_tally", key="instance"):
    """The same."""

    instance: str
    events: int = 0
    positions: int = 0
    last: str = ""


def counted(row_type: type[Tally] | type[LateTally], event: ProjectionEvent, rows: Rows) -> None:
    """Takes one event in."""
    row = rows.get(row_type, event.instance) or row_type(instance=event.instance)
    row.events += 1
    row.positions += event.position
    row.last = f"{event.version} {event.type}"
    rows.put(row)


def all_of(row_type: type[Tally] | type[LateTally], rows: Reader) -> list[Any]:
    return [
        (row.instance, row.events, row.positions, row.last) for row in rows.select(row_type, order="instance")
    ]


class Tallies(Projection):
    """Counts every event of every stream, and where they stand."""

    name = "tallies"
    version = 1
    tables = (Tally,)

    @on()
    def counted(self, event: ProjectionEvent, rows: Rows) -> None:
        counted(Tally, event, rows)

    @query
    def all(self, rows: Reader) -> list[Any]:
        return all_of(Tally, rows)


class LateTallies(Projection):
    """The same, begun late."""

    name = "late_tallies"
    version = 1
    tables = (LateTally,)

    @on()
    def counted(self, event: ProjectionEvent, rows: Rows) -> None:
        counted(LateTally, event, rows)

    @query
    def all(self, rows: Reader) -> list[Any]:
        return all_of(LateTally, rows)


def make_plan(draw: Random, depth: int, known: Sequence[str]) -> list[Any]:
    kinds = ["step", "step", "step", "sleep", "listen", "ask", "progress"]
    kinds += ["child"] * 2 if depth else []
    kinds += ["wait"] if known else []
    plan: list[Any] = []
    for _ in range(draw.randrange(1, 5)):
        kind = draw.choice(kinds)
        rest: Any = None
        if kind == "child":
            rest = make_plan(draw, depth - 1, [])
        elif kind == "wait":
            rest = draw.choice(known)
        plan.append([kind, draw.randrange(1, 60), rest])
    if draw.random() < 0.3:
        plan.append([draw.choice(["fail", "abort"]), 0, None])
    return plan


async def disturb(env: Environment, draw: Random, runs: list[Instance[Any]]) -> None:
    """Something that somebody may ask at any moment; a refusal is as good."""
    engine = env.engine
    what = draw.choice(["start", "start", "send", "cancel", "retry", "provide", "pause", "publish", "prune"])
    run = draw.choice(runs) if runs else None
    with suppress(WfesError):
        match what:
            case "start":
                wf = draw.choice(WORKFLOWS)
                plan = make_plan(draw, 2, [each.id for each in runs])
                key = draw.choice([None, "a", "b"])
                tags = draw.sample(["x", "y", "z"], draw.randrange(3))
                runs.append(await wf.start(plan, key=key, tags=tags, id=f"i{len(runs)}"))
            case "publish":
                await engine.publish("news", [["step", 3, None]], id=str(draw.randrange(50)))
            case "provide":
                for request in await engine.requests():
                    await engine.provide(request.workflow, request, draw.random() < 0.5)
            case "prune":
                await engine.prune(
                    draw.choice([None, *WORKFLOWS]), older_than=f"{draw.randrange(72)}h", actor="the test"
                )
            case _ if run is None:
                pass
            case "send":
                await run.send("news", draw.randrange(9))
            case "cancel":
                await run.cancel("enough")
            case "retry":
                await run.retry()
            case _:
                await run.pause("wait")
                await run.resume()


class Target:
    """Where rows are rebuilt."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")

    def query(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, params).fetchall()

    def executemany(self, sql: str, params: Any) -> None:
        self.connection.executemany(sql, params)


def check_rows(log: Log, events: Iterable[Notification]) -> None:
    """The rows of the engine's projections are what these events make."""
    target = Target()
    projections = inline()
    for projection in projections:
        for sql in projection.create:
            target.query(sql)
    fill(target, projections, events)
    for projection in projections:
        select = f'SELECT * FROM "{projection.name}"'
        assert sorted(log.read(select), key=repr) == sorted(target.query(select), key=repr), projection.name
    target.connection.close()


@pytest.mark.parametrize(
    ("database", "seed"), [(database, seed) for database, runs in RUNS.items() for seed in range(runs)]
)
def test_laws_of_retention(database: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(tmp_path, database) as folder:
        _laws_of_retention(seed, folder, monkeypatch)


def _laws_of_retention(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Random(seed)
    monkeypatch.setattr(pruning, "INSTANCES_MAX", draw.choice([1, 2, 5, 100]))
    monkeypatch.setattr(pruning, "BLOCK_BYTES", draw.choice([1, 2_000, 256 * 1024]))
    monkeypatch.setattr("wfes.log.archived.PAGE", draw.choice([3, 50, 5_000]))
    url = url_of(folder)
    clock = testing.VirtualClock()
    seen: dict[int, Notification] = {}
    runs: list[Instance[Any]] = []

    def remember(log: Log) -> None:
        """What is in the log before anything more leaves it."""
        seen.update((stored.id, stored) for stored in log.select_notifications(None, 1_000_000))

    async def lives() -> list[Any]:
        async with testing.engine(WORKFLOWS, url=url, clock=clock, projections=[Tallies]) as env:
            log = env.engine._log
            begin = log.begin

            def begun() -> Any:
                write = begin()
                remember(log)
                return write

            monkeypatch.setattr(log, "begin", begun)
            for _ in range(60):
                await disturb(env, draw, runs)
                await env.settle()
                if draw.random() < 0.5:
                    await env.advance(f"{draw.randrange(1, 30)}h")
            await env.advance("1h")
            remember(log)
            everything = [seen[position] for position in sorted(seen)]
            positions = [stored.id for stored in everything]
            assert positions == list(range(1, log.max_notification_id() + 1))
            assert list(whole_log(log)) == everything
            streams = {str(stored.originator_id) for stored in everything}
            archived = 0
            for stream in filter(is_instance, streams):
                history = stored_history(log, stream)
                assert list(history) == [s for s in everything if s.originator_id == stream]
                assert broken_link(history) is None
                shown = await (await env.engine.get(stream)).history()
                assert [event.position for event in shown] == [stored.id for stored in history]
                archived += history[-1].topic == "HistoryArchived"
            assert archived == len(log.read("SELECT id FROM wfes_archived"))
            check_rows(log, whole_log(log))
            answer = await env.engine.query(Tallies.all(), at_least=log.max_notification_id())
            return [archived, answer.value]

    async def late() -> list[Any]:
        async with Engine(url, projections=[Tallies, LateTallies]) as engine:
            head = engine._log.max_notification_id()
            live_rows = (await engine.query(Tallies.all(), at_least=head)).value
            assert (await engine.query(LateTallies.all(), at_least=head)).value == live_rows
            shutil.rmtree(archives(folder), ignore_errors=True)
            check_rows(engine._log, whole_log(engine._log, lenient=True))
            return live_rows

    archived, tallied = asyncio.run(lives())
    assert asyncio.run(late()) == tallied
    if seed < 8:
        assert archived > 2, "too little was archived for this to say anything"
