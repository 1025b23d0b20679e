"""Behind a transaction pooler: nothing rests on a session, and everything is as it is without.

By a pooler of these tests' own, which forgets everything between two transactions, and by PgBouncer where that is
installed: as it is, and told to ignore what is asked for a session at the start.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import corpus
import projected
import psycopg
import pytest
import scenarios
from checks import doubled, histories_of, problems_of, stored_events
from driver import CASES
from places import put, url_of
from pooler import POOLERS, pooled
from scenarios import finished, spawn

from wfes import Engine, LogUnavailable, Step, workflow
from wfes.core import events as e


@pytest.fixture(params=POOLERS)
def through(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Generator[Path]:
    """A trial's folder, with its log behind a pooler."""
    corpus.use(tmp_path / "calls")
    with pooled(postgres_url, request.param) as url:
        put(tmp_path, url)
        yield tmp_path


def direct(folder: Path, url: str) -> None:
    """From here on the trial's log is looked at without the pooler."""
    put(folder, url)


@workflow
async def booking(number: int, step: Step) -> int:
    """One transaction with a row, and one asynchronous."""

    def book(connection: Any) -> int:
        connection.execute("INSERT INTO booked VALUES (%s)", (number,))
        return number

    async def book_more(connection: Any) -> int:
        await connection.execute("INSERT INTO booked VALUES (%s)", (number + 100,))
        return number

    one = await step.transaction("book", book)
    two: int = await step.transaction("book more", book_more)
    return one + two


def test_everything_runs_and_every_projection_is_right(through: Path, postgres_url: str) -> None:
    """The corpus of workflows, commands in a caller's own transaction, transactions of steps; opened twice."""
    workflows = [*corpus.WORKFLOWS, booking]

    async def main() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE booked (number INTEGER)")
        for number in range(2):
            async with Engine(url_of(through), workflows=workflows, projections=projected.ALL) as engine:
                ids = ("chain", "racer", "nested", "parent", "fan-out", "stateful", "sleeper")
                cases = [(id, case) for id, case in CASES.items() if id in ids]
                runs = [await case.workflow.start(case.number, id=f"{id}-{number}") for id, case in cases]
                for (_, case), run in zip(cases, runs, strict=True):
                    assert await run.result(timeout=30) in case.outputs
                assert await (await booking.start(number)).result(timeout=20) == 2 * number
                with psycopg.connect(url_of(through).partition("?")[0], prepare_threshold=None) as connection:
                    connection.execute("INSERT INTO booked VALUES (7)")
                    run = await corpus.child.start(1, connection=connection)
                await run.result(timeout=20)
                assert await engine.outbox() == []

    asyncio.run(main())
    direct(through, postgres_url)
    assert problems_of(through) == []
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT number FROM booked ORDER BY number").fetchall()
    assert found == [(0,), (1,), (7,), (7,), (100,), (101,)]


@pytest.mark.parametrize("through", POOLERS[:2], indirect=True)
def test_two_workers_start_each_thing_once(through: Path, postgres_url: str) -> None:
    """G6, from two processes at once."""
    children = [spawn("start_same", through, role, "25") for role in "ab"]
    for role in "ab":
        scenarios.until(through / f"ready-{role}")
    (through / "go").touch()
    for child in children:
        finished(child)
    direct(through, postgres_url)
    histories = histories_of(stored_events(through))
    starts = [h[0].event for h in histories.values() if isinstance(h[0].event, e.WorkflowStarted)]
    assert sum(start.workflow == "small" for start in starts) == 25
    assert doubled(histories) == []
    assert problems_of(through) == []


@pytest.mark.parametrize("through", POOLERS[:2], indirect=True)
def test_a_dead_worker_is_taken_over_and_a_zombie_records_nothing(through: Path, postgres_url: str) -> None:
    """G5: without a lock to be seen, by heartbeats alone."""
    a = spawn("zombie", through, "a")
    b = None
    try:
        scenarios.until(through / "working-a")
        os.kill(a.pid, signal.SIGSTOP)
        b = spawn("zombie", through, "b")
        scenarios.until(through / "working-b")
        (through / "go-a").touch()
        os.kill(a.pid, signal.SIGCONT)
        scenarios.until(through / "dropped-a")
        (through / "go-b").touch()
        told_b, told_a = finished(b), finished(a)
    finally:
        for child in (a, b):
            if child is not None and child.poll() is None:
                child.kill()
    assert "result b, after" in told_b
    assert "result b, after" in told_a
    direct(through, postgres_url)
    assert problems_of(through) == []


def test_what_a_pooler_cannot_keep_is_said(through: Path, postgres_url: str) -> None:
    """A schema is chosen for a session; nothing is made in another one instead."""

    async def main(url: str) -> None:
        async with Engine(url):
            pass

    for option in ("schema=mine", "options=-csearch_path%3Dmine"):
        with pytest.raises(LogUnavailable, match=r"pooler, which keeps no session.*ALTER ROLE") as caught:
            asyncio.run(main(f"{url_of(through)}&{option}"))
        assert not caught.value.retryable
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'wfes%'").fetchall()
    assert found == [(0,)]
