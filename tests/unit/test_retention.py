"""Retention: when histories are archived, what stays, and that everything that reads them goes on."""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from wfes import (
    ArchiveUnavailable,
    Engine,
    InstanceEnded,
    InstanceExists,
    LogUnavailable,
    Projection,
    ProjectionEvent,
    Pruned,
    Reader,
    Row,
    Rows,
    Status,
    Step,
    Workflow,
    WorkflowFailed,
    on,
    query,
    testing,
    workflow,
)
from wfes.core.events import HistoryArchived, Recorded, WorkflowCompleted
from wfes.log.archived import stored_history, whole_log
from wfes.log.faults import Fault, FaultyLog, installed
from wfes.runtime import pruning
from wfes.runtime.retention import INTERVAL_MICROS
from wfes.testing import Environment
from wfes.waiting import Ends


@workflow(retention="30d")
async def order(number: int, step: Step) -> int:
    """Kept for thirty days."""
    return await step("double", lambda: number * 2)


@workflow
async def forever(number: int, step: Step) -> int:
    """Kept for ever."""
    if number < 0:
        step.fail("below zero")
    return await step("same", lambda: number)


@workflow
async def parent(child: str, step: Step) -> Any:
    """Waits for another one, then for an event."""
    outcome = await step.wait_for_workflow("other", child)
    await step.listen("go")
    return [outcome.status.value, outcome.output, outcome.error and outcome.error.type]


@workflow
async def mother(number: int, step: Step) -> int:
    """Has a child of her own, then listens."""
    found = await step.execute_workflow("child", order, number)
    await step.listen("go")
    return found


ALL: list[Workflow[Any, Any]] = [order, forever, parent, mother]


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncGenerator[Environment]:
    async with testing.engine(ALL, url=f"sqlite:///{folder}/log.db", **options) as env:
        yield env


async def types(env: Environment, id: str) -> list[str]:
    return [event.type for event in await (await env.engine.get(id)).history()]


async def is_archived(env: Environment, id: str) -> bool:
    return "HistoryArchived" in await types(env, id)


async def made(env: Environment, workflow: Workflow[int, int], *numbers: int) -> list[str]:
    runs = [await workflow.start(number, id=f"{workflow.name}-{number}") for number in numbers]
    await env.settle()
    return [run.id for run in runs]


def archive_of(folder: Path) -> Path:
    return folder / "log.db.archive"


# -- when ------------------------------------------------------------------------------------------


def test_a_history_is_archived_when_its_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, order, 1)
            await made(env, forever, 1)
            await env.advance("29d")
            await made(env, order, 2)
            assert not await is_archived(env, "order-1")
            await env.advance("1d")
            assert await is_archived(env, "order-1")
            assert not await is_archived(env, "order-2")
            await env.advance("29d")
            assert await is_archived(env, "order-2")
            assert not await is_archived(env, "forever-1")
            days = sorted(path.name[:10] for path in archive_of(tmp_path).glob("*.gz"))
            assert days == ["2030-01-31", "2030-03-01"]
            assert env.clock.next_due is None, "an idle engine has no timer"

    asyncio.run(main())


def test_an_archived_instance_keeps_the_time_of_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, order, 1)
            ended = (await env.engine.get("order-1")).updated_at
            (row,) = (await env.engine.instances(workflow=order)).items
            await env.advance("31d")
            assert await is_archived(env, "order-1")
            instance = await env.engine.get("order-1")
            assert instance.updated_at == ended
            assert (await env.engine.instances(workflow=order)).items == [row]
            shutil.rmtree(archive_of(tmp_path))
            assert (await env.engine.get("order-1")).updated_at == ended

    asyncio.run(main())


def test_passes_are_hourly_and_not_right_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        clock = testing.VirtualClock()
        async with opened(tmp_path, clock=clock) as env:
            await made(env, order, 1)
        await clock.advance("31d")
        async with opened(tmp_path, clock=clock) as env:
            await env.advance("59s")
            assert not await is_archived(env, "order-1")
            await env.advance("1s")
            assert await is_archived(env, "order-1")
            await made(env, order, 2)
            ended = clock.now()
            assert env.clock.next_due is not None
            assert env.clock.next_due == ended + order.retention_micros  # type: ignore[operator]
            await env.advance("30d")
            assert await is_archived(env, "order-2")
            assert INTERVAL_MICROS == 3_600_000_000

    asyncio.run(main())


def test_one_of_two_engines_archives(tmp_path: Path) -> None:
    async def main() -> None:
        clock = testing.VirtualClock()
        async with opened(tmp_path, clock=clock) as env, opened(tmp_path, clock=clock) as other:
            async with asyncio.timeout(20):
                await made(env, order, *range(20))
                for number in range(20):
                    while (await other.engine.get(f"order-{number}")).status != Status.COMPLETED:
                        await asyncio.sleep(0.01)
            await clock.advance("30d")
            for number in range(20):
                assert (await types(env, f"order-{number}")).count("HistoryArchived") == 1
                assert await (await other.engine.get(f"order-{number}")).result() == number * 2

    asyncio.run(main())


def test_a_retention_that_comes_later_counts_for_what_ended_before(tmp_path: Path) -> None:
    async def main() -> None:
        clock = testing.VirtualClock()
        async with opened(tmp_path, clock=clock) as env:
            await made(env, forever, 1)
        await clock.advance("10d")
        short = workflow(forever.handler, name="forever", retention="5d")
        async with testing.engine([short], url=f"sqlite:///{tmp_path}/log.db", clock=clock) as env:
            await env.advance("1h")
            assert await is_archived(env, "forever-1")

    asyncio.run(main())


# -- what ------------------------------------------------------------------------------------------


def test_only_what_has_ended_is_moved(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, order, 1)
            await mother.start(5, id="mother")
            await forever.start(-1, id="failed")
            await forever.start(1, id="later", delay="400d")
            await env.settle()
            await env.advance("90d")
            pruned = await env.engine.prune(older_than="1d")
            assert pruned.instances == 1
            assert not await is_archived(env, "mother")
            assert not await is_archived(env, "later")
            assert await is_archived(env, "failed")
            with pytest.raises(WorkflowFailed, match="below zero"):
                await (await env.engine.get("failed")).result()

    asyncio.run(main())


def test_what_something_waits_for_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1, 2)
            log = env.engine._log
            archivist = env.engine._parts.archivist
            batch = archivist._read("forever", env.clock.now(), (0, ""))
            assert [history.state.id for history in batch.histories] == ["forever-1", "forever-2"]
            write = log.begin()
            write.query("INSERT INTO wfes_waiters (target, waiter, path) VALUES ('forever-1', 'x', 'p')")
            write.commit()
            found = archivist._read("forever", env.clock.now(), (0, ""))
            assert [history.state.id for history in found.histories] == ["forever-2"]
            # One that is waited for since it was read.
            assert log.archive.try_lock()
            assert (await archivist._moved(batch, None, False)).instances == 1
            log.archive.unlock()
            assert not await is_archived(env, "forever-1")
            assert await is_archived(env, "forever-2")

    asyncio.run(main())


def test_one_that_went_on_since_it_was_read_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, -1, 2)
            archivist, archive = env.engine._parts.archivist, env.engine._log.archive
            batch = archivist._read("forever", env.clock.now(), (0, ""))
            await (await forever.get("forever--1")).retry()
            await env.settle()
            assert archive.try_lock()
            assert (await archivist._moved(batch, None, False)).instances == 1
            archive.unlock()
            assert "WorkflowRetried" in await types(env, "forever--1")
            assert not await is_archived(env, "forever--1")
            # What was written of it to the archive is never read; it is archived as it is now.
            assert (await env.engine.prune(older_than=0)).instances == 1
            assert (await types(env, "forever--1"))[-1] == "HistoryArchived"
            assert "WorkflowRetried" in await types(env, "forever--1")

    asyncio.run(main())


def test_a_changed_history_is_not_archived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1, 2)
            connection = sqlite3.connect(tmp_path / "log.db")
            with connection:
                connection.execute(
                    "UPDATE wfes_events SET state = CAST(state || ' ' AS BLOB) WHERE originator_id = 'forever-1' "
                    "AND originator_version = 2"
                )
            connection.close()
            assert (await env.engine.prune(older_than=0)).instances == 1
            assert not await is_archived(env, "forever-1")
            assert await is_archived(env, "forever-2")

    with caplog.at_level(logging.ERROR, "wfes"):
        asyncio.run(main())
    assert "forever-1 is not archived: its hash chain is broken at version 3" in caplog.text


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "INSTANCES_MAX", 3)
    monkeypatch.setattr(pruning, "BLOCK_BYTES", 1_000)

    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, *range(10))
            writer = env.engine._parts._writer
            assert writer is not None
            commits = writer.commits
            told: list[int] = []
            pruned = await env.engine.prune(
                older_than=0, progress=lambda so_far: told.append(so_far.instances)
            )
            assert told == [3, 6, 9, 10]
            assert writer.commits == commits + 4
            assert pruned.instances == 10
            monkeypatch.setattr(pruning, "INSTANCES_MAX", 100)
            monkeypatch.setattr(pruning, "EVENTS_MAX", 12)
            await made(env, forever, *range(10, 20))
            told.clear()
            await env.engine.prune(older_than=0, progress=lambda so_far: told.append(so_far.events))
            assert told == [15, 30, 45, 50]

    asyncio.run(main())


def test_a_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1, 2)
            head = env.engine._log.max_notification_id()
            counted = await env.engine.prune(older_than=0, dry_run=True)
            assert (counted.instances, counted.events, counted.files) == (2, 10, ())
            assert env.engine._log.max_notification_id() == head
            assert not archive_of(tmp_path).exists()
            pruned = await env.engine.prune(older_than=0, actor="alice")
            assert pruned == Pruned(
                2, 10, counted.bytes, (str(archive_of(tmp_path) / "2030-01-01.jsonl.gz"),)
            )
            assert await env.engine.prune(older_than=0) == Pruned()
            last = (await (await forever.get("forever-1")).history())[-1]
            assert last.actor == "alice"

    asyncio.run(main())


def test_what_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            engine = env.engine
            await made(env, forever, 1)
            await made(env, order, 1)
            await env.advance("10d")
            with pytest.raises(ValueError, match="'forever' has no retention"):
                await engine.prune("forever")
            with pytest.raises(ValueError, match="no workflow of that name"):
                await engine.prune("nobody", "1d")
            with pytest.raises(ValueError, match="older_than"):
                await engine.prune(older_than="-1d")
            with pytest.raises(TypeError, match="a workflow or the name"):
                await engine.prune(3)  # type: ignore[arg-type]
            assert await engine.prune() == Pruned()
            assert await engine.prune(order) == Pruned()
            assert await engine.prune(older_than="11d") == Pruned()
            assert (await engine.prune("order", "10d")).instances == 1
            assert (await engine.prune(older_than="10d")).instances == 1

    asyncio.run(main())


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_everything_is_read_as_before(where: str, tmp_path: Path) -> None:
    async def main() -> None:
        url = "sqlite://" if where == "memory" else f"sqlite:///{tmp_path}/log.db"
        async with testing.engine(ALL, url=url) as env:
            engine, log = env.engine, env.engine._log
            await order.start(4, id="a", key="k", tags=["t"])
            await made(env, forever, -1, 2)
            ids = ["a", "forever--1", "forever-2"]
            before = {id: await (await engine.get(id)).history() for id in ids}
            stored = {id: list(log.select_events(id)) for id in ids}
            everything = list(whole_log(log))
            head = log.max_notification_id()
            rows = (await engine.instances()).items
            await engine.prune(older_than=0)
            for id in ids:
                history = await (await engine.get(id)).history()
                assert history[:-1] == before[id]
                assert history[-1].type == "HistoryArchived"
                assert history[-1].version == len(history)
                assert list(stored_history(log, id))[:-1] == stored[id]
                assert await (await engine.get(id)).history(1, 2) == before[id][1:2]
                assert await (await engine.get(id)).history(upto=1) == before[id][:1]
            assert list(whole_log(log, upto=head)) == everything
            assert (await engine.instances()).items == rows
            again = await order.get("a")
            assert (again.input, again.output, again.key, again.tags) == (4, 8, "k", ("t",))
            assert again.status == Status.COMPLETED
            assert again.created_at == before["a"][0].at
            assert await again.result() == 8
            stone = (await again.history())[-1].data
            assert (stone["created"], stone["ended"]) == (before["a"][0].at, before["a"][-1].at)
            assert (stone["workflow"], stone["key"], stone["generation"]) == ("order", "k", 1)
            shown: list[tuple[int, str]] = []
            async for event in engine.events():
                shown.append((event.position, event.type))
                if event.position == log.max_notification_id():
                    break
            assert shown[:head] == [(each.id, each.topic) for each in everything]
            assert [type for _, type in shown[head:]] == ["HistoryArchived"] * 3
            only = engine.events(after=2, topics=["WorkflowCompleted"])
            assert [(await anext(only)).instance for _ in range(2)] == ["a", "forever-2"]
            await only.aclose()

    asyncio.run(main())


def test_a_run_is_shown_with_its_worker_from_the_middle_of_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1)
            completed = (await (await forever.get("forever-1")).history())[-1]
            await env.engine.prune(older_than=0)
            event = await anext(env.engine.events(after=completed.position - 1))
            assert event == completed
            assert event.worker

    asyncio.run(main())


def test_a_handle_of_before_is_refreshed(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            young = await forever.start(7, id="x", delay="1h")
            await env.advance("1h")
            old = await forever.get("x")
            version = old.version
            await env.engine.prune(older_than=0)
            for handle in (young, old):
                await handle.refresh()
                assert (handle.status, handle.output, handle.version) == (Status.COMPLETED, 7, version + 1)

    asyncio.run(main())


@pytest.mark.parametrize("reopened", [False, True])
def test_an_id_is_never_used_again(tmp_path: Path, reopened: bool) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await forever.start(1, id="x", key="k")
            await env.settle()
            await env.engine.prune(older_than=0)
            if not reopened:
                await check(env)
        if reopened:
            async with opened(tmp_path) as env:
                await check(env)

    async def check(env: Environment) -> None:
        assert await (await forever.start(1, id="x")).result() == 1
        with pytest.raises(InstanceExists, match="its input is another"):
            await forever.start(2, id="x")
        with pytest.raises(InstanceExists):
            await order.start(1, id="x")
        run = await forever.get("x")
        with pytest.raises(InstanceEnded):
            await run.send("news")
        with pytest.raises(InstanceEnded):
            await run.set_timeout("1h")
        await run.cancel()
        found = await forever.get_or_create(key="k", input=9, statuses=[Status.COMPLETED])
        assert (found.id, found.output) == ("x", 1)
        new = await forever.get_or_create(key="k", input=9)
        await env.settle()
        assert (await new.history())[0].data["generation"] == 2
        assert (await types(env, "x"))[-1] == "HistoryArchived"

    asyncio.run(main())


def test_a_failed_one_cannot_be_retried_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, -1)
            await env.engine.prune(older_than=0)
            with pytest.raises(InstanceEnded, match="retry of what is archived is not possible"):
                await (await forever.get("forever--1")).retry()

    asyncio.run(main())


def test_whoever_waits_for_it_gets_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 3)
            await env.engine.prune(older_than=0)
        async with opened(tmp_path) as env:
            run = await parent.start("forever-3")
            await run.send("go")
            assert await env.until(run.result()) == ["completed", 3, None]

    asyncio.run(main())


def test_a_parent_goes_on_without_its_childs_history(tmp_path: Path) -> None:
    async def main() -> None:
        clock = testing.VirtualClock()
        async with opened(tmp_path, clock=clock) as env:
            run = await mother.start(21, id="m")
            await env.advance("1h")
            assert (await env.engine.prune(older_than=0)).instances == 1
        shutil.rmtree(archive_of(tmp_path))
        async with opened(tmp_path, clock=clock) as env:
            run = await mother.get("m")
            await run.send("go")
            assert await env.until(run.result()) == 42

    asyncio.run(main())


def test_who_hears_only_of_the_archiving_looks() -> None:
    async def main() -> None:
        ends = Ends(asyncio.get_running_loop())
        waiter = ends.expect("x")
        stone = HistoryArchived(
            at=1,
            workflow="w",
            status="completed",
            versions=1,
            digest="",
            file="",
            offset=0,
            length=0,
            first=1,
            last=1,
            created=0,
            ended=0,
        )
        ends.tell([Recorded("x", 2, stone, 5)], 5)
        assert await waiter == stone
        ends.tell([Recorded("y", 2, WorkflowCompleted(at=1), 6), Recorded("y", 3, stone, 7)], 7)
        assert isinstance(ends.known("y"), WorkflowCompleted)

    asyncio.run(main())


class Over(Row, table="over", key="instance"):
    """Which instances have ended, and where in the log."""

    instance: str
    position: int = 0


class EndsInOrder(Projection):
    """A projection in the append's own transaction."""

    name = "over"
    version = 1
    inline = True
    tables = (Over,)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Over(instance=event.instance, position=event.position))

    @query
    def all(self, rows: Reader) -> list[str]:
        return [row.instance for row in rows.select(Over, order="position")]


def test_an_inline_projection_makes_up_for_what_was_archived_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, projections=[EndsInOrder]) as env:
            await made(env, forever, 1, 2)
        async with opened(tmp_path) as env:
            await made(env, forever, 3, 4)
            await env.engine.prune(older_than=0)
        async with opened(tmp_path, projections=[EndsInOrder]) as env:
            await made(env, forever, 5)
            head = env.engine._log.max_notification_id()
            answer = await env.engine.query(EndsInOrder.all(), at_least=head)
            assert answer.value == [f"forever-{number}" for number in (1, 2, 3, 4, 5)]
            assert answer.position >= head

    asyncio.run(main())


# -- trouble ---------------------------------------------------------------------------------------


def test_an_archive_that_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await forever.start(3, id="x", key="k", tags=["t"])
            await env.settle()
            rows = (await env.engine.instances()).items
            await env.engine.prune(older_than=0)
        shutil.rmtree(archive_of(tmp_path))
        async with opened(tmp_path) as env:
            run = await forever.get("x")
            assert (run.id, run.workflow, run.status, run.key, run.tags) == (
                "x",
                "forever",
                Status.COMPLETED,
                "k",
                ("t",),
            )
            assert (await env.engine.instances()).items == rows
            for ask in (run.result, run.history):
                with pytest.raises(ArchiveUnavailable, match=r"2030-01-01\.jsonl\.gz") as caught:
                    await ask()
                assert caught.value.instance == "x"
            for name in ("input", "output", "error", "state"):
                with pytest.raises(ArchiveUnavailable, match="'x'"):
                    getattr(run, name)
            with pytest.raises(InstanceExists, match="archive that cannot be read"):
                await forever.start(3, id="x")
            other = await parent.start("x")
            await other.send("go")
            assert await env.until(other.result()) == ["failed", None, "wfes.ArchiveUnavailable"]
            with pytest.raises(ArchiveUnavailable):
                await anext(env.engine.events())

    asyncio.run(main())


def test_a_changed_archive_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 3)
            await env.engine.prune(older_than=0)
            (file,) = archive_of(tmp_path).glob("*.gz")
            whole = file.read_bytes()
            forged = gzip.compress(
                gzip.decompress(whole).replace(b'\\"result\\":3', b'\\"result\\":4'), mtime=0
            )
            assert len(forged) <= len(whole)
            file.write_bytes(forged.ljust(len(whole), b"\0"))
            with pytest.raises(ArchiveUnavailable, match="version 4 is not what was archived") as caught:
                await (await forever.get("forever-3")).history()
            assert caught.value.instance == "forever-3"

    asyncio.run(main())


def test_a_full_disk_leaves_the_log_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1)
            head = env.engine._log.max_notification_id()

            def full(fd: int, data: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "write", full)
            with pytest.raises(ArchiveUnavailable, match="No space left"):
                await env.engine.prune(older_than=0)
            monkeypatch.undo()
            assert env.engine._log.max_notification_id() == head
            assert (await env.engine.prune(older_than=0)).instances == 1

    asyncio.run(main())


def test_what_cannot_be_archived_is_tried_again_in_an_hour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, order, 1)
            archive_of(tmp_path).write_text("in the way")
            await env.advance("30d")
            assert not await is_archived(env, "order-1")
            archive_of(tmp_path).unlink()
            await env.advance("59m")
            assert not await is_archived(env, "order-1")
            await env.advance("1m")
            assert await is_archived(env, "order-1")

    with caplog.at_level(logging.WARNING, "wfes"):
        asyncio.run(main())
    assert caplog.text.count("could not be archived") == 1


def test_a_commit_without_an_answer_archives_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1, 2)
            log, writer = env.engine._log, env.engine._parts._writer
            assert isinstance(log, FaultyLog)
            assert writer is not None
            log.faults = [Fault.parse(f"lost:{log.commits + 1}")]
            assert (await env.engine.prune(older_than=0)).instances == 2
            log.faults = [Fault.parse(f"fail:{log.commits + 1}")]
            await made(env, forever, 3)
            assert (await env.engine.prune(older_than=0)).instances == 1
            for number in (1, 2, 3):
                assert (await types(env, f"forever-{number}")).count("HistoryArchived") == 1
            await made(env, forever, 4)
            writer._command_timeout = 0.1
            log.faults = [Fault.parse("full:1-")]
            with pytest.raises(LogUnavailable):
                await env.engine.prune(older_than=0)
            log.faults = []
            assert (await env.engine.prune(older_than=0)).instances == 1

    with installed("slow:999999:0"):
        asyncio.run(main())


def test_a_vacuum_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, *range(30))
            await env.engine.prune(older_than=0)
            await made(env, order, 1)
            before = list(whole_log(env.engine._log))
            head = env.engine._log.max_notification_id()
        connection = sqlite3.connect(tmp_path / "log.db")
        connection.execute("VACUUM")
        connection.close()
        async with opened(tmp_path) as env:
            assert list(whole_log(env.engine._log, upto=head)) == before
            assert await (await forever.get("forever-7")).result() == 7
            await made(env, order, 2)
            assert (await (await order.get("order-2")).history())[0].position > head

    asyncio.run(main())


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, *range(250))
            async with Engine(f"sqlite:///{tmp_path}/log.db", worker=False) as other:
                found = await asyncio.gather(
                    env.engine.prune(older_than=0),
                    env.engine.prune(older_than=0),
                    # The clock of this one is years behind: an age says nothing to it.
                    other._parts.archivist.prune({"forever": env.clock.now()}),
                )
            assert sum(pruned.instances for pruned in found) == 250
            for number in range(250):
                assert (await types(env, f"forever-{number}")).count("HistoryArchived") == 1

    asyncio.run(main())


def test_who_is_cancelled_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "INSTANCES_MAX", 2)

    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, *range(12))
            turns = 0
            while True:
                task = asyncio.create_task(env.engine.prune(older_than=0))
                for _ in range(turns):
                    await asyncio.sleep(0.000_2)
                task.cancel()
                done = await asyncio.gather(task, return_exceptions=True)
                if not isinstance(done[0], asyncio.CancelledError):
                    break
                turns += 1
            await env.engine.prune(older_than=0)
            for number in range(12):
                assert (await types(env, f"forever-{number}")).count("HistoryArchived") == 1
                assert await (await forever.get(f"forever-{number}")).result() == number
            for file in archive_of(tmp_path).glob("*.gz"):
                assert gzip.decompress(file.read_bytes())

    asyncio.run(main())


def test_another_process_that_keeps_the_archive_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LOCK_SECONDS", 0.05)

    async def main() -> None:
        async with opened(tmp_path) as env:
            await made(env, forever, 1)
            archive = env.engine._log.archive
            assert archive.try_lock()
            with pytest.raises(ArchiveUnavailable, match="another process"):
                await env.engine.prune(older_than=0)
            archive.unlock()
            assert (await env.engine.prune(older_than=0)).instances == 1

    asyncio.run(main())
