"""A log that the release 0.1 wrote is opened, brought up and carried on: nothing of it is lost, changed or read anew.

The log is `first_release.db.gz`; what is in it, and how it came about, says ``first_release.py``.
"""

from __future__ import annotations

import asyncio
import gzip
import platform
import sqlite3
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import first_release as old
import pytest
from checks import broken_chains, histories_of, malformed, stored_events, wrong_rows

from wfes import Engine, Instance, LogUnavailable, Status
from wfes.testing import Environment, VirtualClock, assert_replays
from wfes.testing import engine as virtual

LATER = datetime(2025, 1, 1, 3, tzinfo=UTC)
"""When the present release takes over; what slept still has to sleep."""
ENDED = {
    "plain": "completed",
    "failing": "failed",
    "failed": "failed",
    "aborting": "aborted",
    "overdue": "timed_out",
    "cancelled": "cancelled",
}
WAITING = {
    "sleeper": "listening",
    "listener": "listening",
    "asker": "listening",
    "paused": "paused",
    "backoff": "in_progress",
    "parent": "listening",
    "waiter": "listening",
    "large": "listening",
    "interrupted": "in_progress",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The log as a process of this machine left it behind when it died."""
    path = tmp_path / "log.db"
    path.write_bytes(gzip.decompress((Path(old.__file__).parent / "first_release.db.gz").read_bytes()))
    with sqlite3.connect(path) as log:
        (worker,) = log.execute("SELECT id FROM wfes_workers").fetchone()
        log.execute("UPDATE wfes_workers SET host = ?", (platform.node(),))
    log.close()
    locks = tmp_path / "log.db.workers"
    locks.mkdir()
    (locks / f"{worker}.lock").touch()
    return path


@pytest.fixture(autouse=True)
def mended() -> Generator[None]:
    old.mended = True
    yield
    old.mended = False


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(5_000):
        if await true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not become true in time")


def test_everything_is_there(path: Path) -> None:
    """Lists, requests, histories and large values, read by an engine that runs nothing."""
    before = stored_events(path.parent)

    async def main() -> None:
        async with Engine(url(path), workflows=old.WORKFLOWS, worker=False) as engine:
            rows = {row.id: row for row in await engine.instances()}
            assert len(rows) == 21
            known = {**ENDED, **WAITING, "retried": "failed"}
            assert {id: str(rows[id].status) for id in known} == known
            assert {row.id for row in await engine.instances(tags=["golden"])} == {"plain"}
            assert {str(row.status) for row in await engine.instances(key="k")} == {"completed", "listening"}
            assert [row.status for row in await engine.instances(workflow="child", status="listening")] == [
                "listening"
            ]
            (request,) = (await engine.requests()).items
            assert (request.instance, request.name) == ("asker", "approval")
            run: Instance[Any] = await engine.get("plain")
            assert (run.output, run.state) == ([61, 10, 20, 30], old.Total(sum=61))
            assert run.progress is not None
            assert run.progress.message == "half"
            started = (await (await engine.get("retried")).history())[0]
            assert (started.type, started.actor) == ("WorkflowStarted", "alice")
            text = [e for e in await (await engine.get("large")).history() if e.type == "StepCompleted"]
            assert len(text[0].data["result"]) == old.LARGE

    asyncio.run(main())
    assert stored_events(path.parent)[: len(before)] == before, "the log was changed by opening it"
    assert wrong_rows(path.parent, stored_events(path.parent)) == []


async def _go_on(env: Environment) -> dict[str, Any]:
    """Does what each one waits for; returns what became of all of them."""
    engine = env.engine
    await env.settle()
    runs = {row.id: await engine.get(row.id) for row in await engine.instances()}
    # Whose process died is taken over without any lease having to pass.
    await until(lambda: _is(runs["interrupted"], Status.COMPLETED))
    assert (await runs["sleeper"].refresh()).status == Status.LISTENING
    await runs["listener"].send("said", "early", id="s-1")  # it was sent before: counts once
    await runs["listener"].send("paid", 5)
    await runs["listener"].send("said", "late")
    (request,) = (await engine.requests(workflow="asker")).items
    await engine.provide(old.asker, request, True)
    await runs["paused"].send("go")
    await env.settle()
    assert (await runs["paused"].refresh()).status == Status.PAUSED
    await runs["paused"].resume()
    await runs["retried"].retry()
    again = await engine.get_or_create(old.keyed, key="k", input=9)
    assert again.id in runs, "the active instance of the key"
    await again.send("said", "second")
    third = await engine.get_or_create(old.keyed, key="k", input=9)
    assert third.id not in runs or third.id == again.id
    await engine.publish("order.placed", 7, id="order-7")  # it was published before: counts once
    await engine.publish("order.placed", 8, id="order-8")
    await env.advance("4d")
    assert (await runs["sleeper"].refresh()).status == Status.LISTENING, "never early"
    await env.advance("40d")
    return {id: [str((await run.refresh()).status), run.output] for id, run in runs.items() if run.id in runs}


async def _is(run: Instance[Any], status: Status) -> bool:
    return (await run.refresh()).status == status


def test_everything_goes_on_to_its_end(path: Path) -> None:
    """Under the present code, on the old log: each outcome is the one it would have had."""
    before = stored_events(path.parent)

    async def main() -> dict[str, Any]:
        clock = VirtualClock(LATER)
        async with virtual(old.WORKFLOWS, url=url(path), clock=clock) as env:
            found = await _go_on(env)
            orders = await env.engine.instances(workflow="placed")
            assert len(orders.items) == 2
            return found

    found = asyncio.run(main())
    for id, status in ENDED.items():
        assert found[id][0] == status, id
    assert {id: found[id] for id in [*WAITING, "retried"]} == {
        "sleeper": ["completed", 30],
        "listener": ["completed", [5, "early", "late"]],
        "asker": ["completed", {"approval": True, "amount": 3}],
        "paused": ["completed", 2],
        "backoff": ["completed", 1],
        "parent": ["completed", ["failed", 8]],
        "waiter": ["completed", 30],
        "large": ["completed", old.LARGE],
        "interrupted": ["completed", [1, 2]],
        "retried": ["completed", 2],
    }
    after = stored_events(path.parent)
    assert after[: len(before)] == before, "events of the old release were changed"
    assert broken_chains(after) == []
    histories = histories_of(after)
    assert [bad for id, history in histories.items() if id[0] != "$" for bad in malformed(history)] == []
    assert wrong_rows(path.parent, after) == []


def test_everything_replays(path: Path) -> None:
    """Today's code does what the old release recorded, of what has ended and of what is under way."""
    reports = assert_replays(old.WORKFLOWS, url(path))
    assert all(report.complete for report in reports), [
        str(report) for report in reports if not report.complete
    ]
    assert {report.workflow for report in reports} == {workflow.name for workflow in old.WORKFLOWS}


def test_an_upgraded_log_is_opened_again(path: Path) -> None:
    """What was brought up once is not brought up again, and rows stay right."""

    async def main() -> int:
        async with Engine(url(path), workflows=old.WORKFLOWS, worker=False) as engine:
            return (await engine.instances()).position

    asyncio.run(main())
    with sqlite3.connect(path) as log:
        versions = log.execute(
            "SELECT name, version, generation FROM wfes_projections ORDER BY name"
        ).fetchall()
    log.close()
    asyncio.run(main())
    with sqlite3.connect(path) as log:
        again = log.execute("SELECT name, version, generation FROM wfes_projections ORDER BY name").fetchall()
    log.close()
    assert again == versions
    assert wrong_rows(path.parent, stored_events(path.parent)) == []


def _set_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as log:
        sql = "UPDATE wfes_projections SET version = ? WHERE name = 'wfes_requests'"
        assert log.execute(sql, (version,)).rowcount
    log.close()


@pytest.mark.parametrize("version", [0, 99])
def test_rows_of_another_release_are_made_anew(path: Path, version: int) -> None:
    """Whichever release opens a log last has its own rows, made from the log: a release can be taken back, too."""

    async def main() -> list[str]:
        async with Engine(url(path), worker=False) as engine:
            return [request.instance for request in await engine.requests()]

    asyncio.run(main())
    _set_version(path, version)
    with sqlite3.connect(path) as log:
        log.execute("ALTER TABLE wfes_requests RENAME COLUMN instance TO inst")
    log.close()
    assert asyncio.run(main()) == ["asker"]
    assert wrong_rows(path.parent, stored_events(path.parent)) == []


@pytest.mark.parametrize(("version", "which"), [(0, "an older"), (99, "a newer")])
def test_a_process_whose_rows_another_release_made_anew_writes_nothing_more(
    path: Path, version: int, which: str
) -> None:
    """Its statements are for other columns. It says so to whoever calls it, and reads on."""

    async def main() -> None:
        async with Engine(url(path), workflows=old.WORKFLOWS, worker=False) as engine:
            await old.plain.start(1, id="before")
            _set_version(path, version)
            head = len(stored_events(path.parent))
            with pytest.raises(
                LogUnavailable, match=f"wfes_requests.*version {version}.*{which} release of wfes"
            ):
                await old.plain.start(1, id="after")
            with pytest.raises(LogUnavailable):
                await (await engine.get("listener")).send("paid", 5)
            assert (await (await engine.get("listener")).refresh()).status == Status.LISTENING
            assert len(stored_events(path.parent)) == head

    asyncio.run(main())


def test_the_old_release_refuses_a_log_that_this_one_has_opened(path: Path) -> None:
    """By the version of the schema, which it compares before it does anything."""

    async def main() -> None:
        async with Engine(url(path), worker=False):
            pass

    asyncio.run(main())
    with sqlite3.connect(path) as log:
        (version,) = log.execute("SELECT value FROM wfes_meta WHERE name = 'schema'").fetchone()
    log.close()
    assert int(version) > 1
