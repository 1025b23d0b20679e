"""`inst.replay`: what is reported, that nothing is written, and what bad input is told."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Engine, InstanceNotFound, Step, UnknownWorkflow, Workflow, testing, workflow
from wfes.errors import UnknownMoment
from wfes.timetravel.recording import Recording
from wfes.timetravel.replay import replay

LARGE = 1_200_000
armed = False


class Order(BaseModel):
    number: int
    note: str = ""


def act(value: Any) -> Any:
    if armed:
        pytest.fail("a step's function was called")
    return value


def made(second: str = "second", version: str | None = None) -> Workflow[Order, int]:
    @workflow(name="order", version=version)
    async def order(order: Order, step: Step) -> int:
        await step("first", act, order.note)
        await step.sleep("rest", "1h")
        await step(second, act, order.number)
        return order.number

    return order


def content(path: Path) -> list[Any]:
    """Everything in a database."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        found = [(name, connection.execute(f"SELECT * FROM {name}").fetchall()) for (name,) in names]
    connection.close()
    return found


def test_a_replay_reads_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a database that cannot be written, and step functions that fail the test."""
    path = tmp_path / "log.db"

    async def fill() -> None:
        async with testing.engine([wf := made()], url=f"sqlite:///{path}") as env:
            run = await wf.start(Order(number=3, note="x" * LARGE), id="it")
            assert await env.until(run.result()) == 3

    asyncio.run(fill())
    before = content(path)
    monkeypatch.setitem(globals(), "armed", True)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def get_blob(digest: str) -> bytes | None:
        row = connection.execute("SELECT content FROM wfes_blobs WHERE sha256 = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])

    rows = connection.execute(
        "SELECT notification_id, originator_id, originator_version, topic, state FROM wfes_events "
        "WHERE originator_id = 'it' ORDER BY originator_version"
    ).fetchall()
    recording = Recording("it", [tuple(row) for row in rows], {})
    recording.values._get_blob = get_blob
    for version in range(1, len(rows) + 1):
        report = replay(made(), recording.history, recording.values, upto=version)
        assert report.complete, str(report)
    connection.close()
    assert content(path) == before


def test_a_replay_in_an_engine_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with testing.engine([wf := made()]) as env:
            run = await wf.start(Order(number=3), id="it")
            await env.settle()
            position = env.engine._log.max_notification_id()
            monkeypatch.setitem(globals(), "armed", True)
            report = await run.replay()  # in the middle of its sleep
            assert report.complete, str(report)
            assert report
            assert (report.instance, report.workflow) == ("it", "order")
            assert str(report) == f"instance it of order: reproduced, {report.upto} events"
            await env.settle()
            assert env.engine._log.max_notification_id() == position

    asyncio.run(main())


def test_the_first_difference_is_told_with_what_helps() -> None:
    async def main() -> None:
        async with testing.engine([wf := made(version="one")]) as env:
            run = await wf.start(Order(number=3), id="it")
            assert await env.until(run.result()) == 3
            history = env.engine._parts.histories.rest("it")
            report = await asyncio.to_thread(replay, made("another", "two"), history, env.engine.values)
        difference = report.difference
        assert not report
        assert difference is not None
        at = next(r for r in history if getattr(r.event, "path", "") == "second")
        assert difference.version == at.originator_version == report.reached + 1
        assert difference.path == "second"
        assert difference.expected == "step 'second' was asked for"
        assert difference.actual == "asks for step 'another'"
        assert difference.place is not None
        assert difference.place.function == "order"
        assert difference.place.file == __file__
        source = Path(__file__).read_text().splitlines()
        assert source[difference.place.line - 1].strip() == "await step(second, act, order.number)"
        text = str(report)
        for words in (
            f"version {difference.version} of the history",
            "recorded: step 'second' was asked for",
            "now:      asks for step 'another'",
            f"{__file__}:{difference.place.line} in order",
            "label:    recorded under one, run now under two",
        ):
            assert words in text, text

    asyncio.run(main())


def test_an_input_that_does_not_fit_any_more_is_a_difference() -> None:
    class Other(BaseModel):
        name: str

    @workflow(name="order")
    async def changed(order: Other, step: Step) -> None:
        await step("first", act, order.name)

    async def main() -> None:
        async with testing.engine([wf := made()]) as env:
            run = await wf.start(Order(number=3), id="it")
            await env.until(run.result())
            history = env.engine._parts.histories.rest("it")
            report = await asyncio.to_thread(replay, changed, history, env.engine.values)
            assert "it does not begin" in str(report)

    asyncio.run(main())


def test_moments() -> None:
    async def main() -> None:
        async with testing.engine([wf := made()]) as env:
            run = await wf.start(Order(number=3), id="it")
            await env.until(run.result())
            last = (await run.refresh()).version
            began = run.created_at
            for version in range(1, last + 1):
                assert (await run.replay(version)).reached == version
            half = await run.replay(began + timedelta(minutes=30))
            assert 1 < half.upto < last
            assert (await run.replay(datetime.now(UTC) + timedelta(days=99_999))).upto == last
            for wrong, error in (
                (0, UnknownMoment),
                (last + 1, UnknownMoment),
                (-1, UnknownMoment),
                (began - timedelta(seconds=1), UnknownMoment),
                (datetime(2030, 1, 1), ValueError),
                ("3", TypeError),
                (True, TypeError),
            ):
                with pytest.raises(error):
                    await run.replay(wrong)  # type: ignore[arg-type]
            with pytest.raises(InstanceNotFound):
                await env.engine.replay("nobody")
            with pytest.raises(InstanceNotFound):
                await env.engine.replay("$wf:order")

    asyncio.run(main())


def test_a_workflow_that_this_engine_does_not_know(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    async def main() -> None:
        async with testing.engine([wf := made()], url=url) as env:
            await env.until((await wf.start(Order(number=1), id="it")).result())
        async with Engine(url, worker=False) as engine:
            with pytest.raises(UnknownWorkflow, match="order"):
                await (await engine.get("it")).replay()

    asyncio.run(main())


def test_an_archived_history_replays_as_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with testing.engine([wf := made()], url=f"sqlite:///{tmp_path}/log.db") as env:
            run = await wf.start(Order(number=1), id="it")
            await env.until(run.result())
            before = await run.replay()
            await env.engine.prune(older_than=0)
            report = await run.replay()
            assert report.complete, str(report)
            assert report.reached >= before.reached

    asyncio.run(main())
