"""Lists and counts as an engine gives them: totals, positions, cursors, misuse, logs of an older version."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from wfes import Engine, InstanceCounts, Status, Step, workflow
from wfes_projections import inline, paging


@workflow(name="listed")
async def listed(step: Step) -> None: ...


@workflow(name="asking", requests={"approval": bool, "address": str})
async def asking(step: Step) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(step.request("approval", name="a"))
        group.create_task(step.request("address", name="b"))


async def fill(engine: Engine) -> list[str]:
    """Twelve instances, oldest first: every third cancelled, every fourth of key `k`, every second tagged `t`."""
    made: list[str] = []
    for number in range(12):
        run = await engine.start(
            listed,
            key="k" if number % 4 == 0 else None,
            tags=["t", "all"] if number % 2 == 0 else ["all"],
            conversation="c" if number < 6 else None,
        )
        if number % 3 == 0:
            await run.cancel()
        made.append(run.id)
    return made


def test_totals_say_whether_they_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[listed], worker=False) as engine:
            await fill(engine)

            async def total(**filters: Any) -> tuple[int | None, bool]:
                page = await engine.instances(limit=1, **filters)
                return page.total, page.total_exact

            assert await total() == (12, True)
            assert await total(workflow=listed) == await total(workflow="listed") == (12, True)
            assert await total(workflow="nobody") == (0, True)
            assert await total(status="cancelled") == (4, True)
            assert await total(status=["cancelled", "pending"], workflow="listed") == (12, True)
            assert await total(status=[]) == (0, True)
            assert await total(tags=["t"], status="cancelled") == (2, True)
            monkeypatch.setattr(paging, "COUNTED_MAX", 4)
            monkeypatch.setattr(paging, "SAMPLED_MAX", 2)
            estimated = await total(tags=["all"], status="cancelled")
            assert not estimated[1]
            assert await total(tags=["all"], status="cancelled", total="exact") == (4, True)
            assert await total(total=None) == (None, False)
            page = await engine.instances(tags=["all"], status="cancelled")
            assert (len(page), page.cursor, page.total, page.total_exact) == (4, None, 4, True)
            wrong: Any = "about"
            with pytest.raises(ValueError, match="total is 'about'; it must be 'estimate', 'exact' or None"):
                await engine.instances(total=wrong)
            with pytest.raises(ValueError, match="total is 'about'"):
                await engine.requests(total=wrong)

    asyncio.run(main())


def test_counts_are_by_workflow_and_status() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[listed, asking], worker=False) as engine:
            before = await engine.counts()
            assert (before.workflows, before.statuses, before.total) == ({}, {}, 0)
            await fill(engine)
            last = await engine.start(asking)
            counts = await engine.counts()
            assert counts == InstanceCounts(
                {"asking": {Status.PENDING: 1}, "listed": {Status.CANCELLED: 4, Status.PENDING: 8}},
                (await engine.instances(limit=1)).position,
            )
            assert counts.statuses == {Status.PENDING: 9, Status.CANCELLED: 4}
            assert counts.total == 13
            assert (await engine.counts(listed)).workflows == {"listed": counts.workflows["listed"]}
            assert (await engine.counts("nobody")).total == 0
            await last.cancel()
            counts = await engine.counts("asking")
            assert counts.workflows == {"asking": {Status.CANCELLED: 1}}, "what counts nothing is gone"
            wrong: Any = 7
            with pytest.raises(TypeError, match="workflow is 7"):
                await engine.counts(wrong)

    asyncio.run(main())


def test_a_short_page_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "SCAN_MAX", 3)

    async def main() -> None:
        async with Engine("sqlite://", workflows=[listed], worker=False) as engine:
            made = await fill(engine)
            asked: dict[str, Any] = {"tags": ["all"], "status": "cancelled", "order": "oldest"}
            found: list[str] = []
            sizes: list[int] = []
            cursor = None
            while True:
                page = await engine.instances(limit=4, cursor=cursor, **asked)
                found += [row.id for row in page]
                sizes.append(len(page))
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == made[::3]
            assert min(sizes) < 4
            assert sizes[:-1], "more than one page"
            with pytest.raises(ValueError, match="other filters or order"):
                await engine.instances(cursor=(await engine.instances(limit=4, **asked)).cursor)

    asyncio.run(main())


def test_what_cannot_be_meant_is_said() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[listed], worker=False) as engine:
            wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
                ({"key": 7}, TypeError, "key is 7; it must be a str"),
                ({"conversation": b"c"}, TypeError, "conversation is b'c'; it must be a str"),
                ({"parent": 7}, TypeError, "parent is 7; it must be an Instance or an instance's id"),
                ({"workflow": 7}, TypeError, "workflow is 7"),
                ({"tags": "red"}, TypeError, "tags is the text 'red'"),
                ({"tags": [7]}, TypeError, "tag is 7"),
                ({"status": "happy"}, ValueError, "there is no status 'happy'; the statuses are pending"),
                ({"order": "random"}, ValueError, "order is 'random'; it must be 'newest' or 'oldest'"),
                ({"limit": 0}, ValueError, "limit is 0; it must be 1 to 1000"),
                ({"limit": 1001}, ValueError, "limit is 1001"),
                ({"limit": "ten"}, TypeError, "limit is 'ten'; it must be a whole number"),
                ({"limit": True}, TypeError, "limit is True"),
                ({"created_after": datetime(2026, 1, 1)}, ValueError, "created_after .* naive"),
                ({"created_before": datetime(2026, 1, 1)}, ValueError, "created_before .* naive"),
                ({"created_before": 7}, TypeError, "created_before is 7; it must be an aware datetime"),
                ({"cursor": "nonsense"}, ValueError, "cursor is 'nonsense', which no page gave"),
            ]
            for asked, kind, said in wrong:
                with pytest.raises(kind, match=said):
                    await engine.instances(**asked)
            wrong = [
                ({"instance": 7}, TypeError, "instance is 7; it must be an Instance or an instance's id"),
                ({"name": 7}, TypeError, "name is 7; it must be a str"),
                ({"limit": 0}, ValueError, "limit is 0"),
                ({"cursor": "nonsense"}, ValueError, "which no page gave"),
            ]
            for asked, kind, said in wrong:
                with pytest.raises(kind, match=said):
                    await engine.requests(**asked)

    asyncio.run(main())


def test_a_cursor_that_was_tampered_with_is_refused() -> None:
    from wfes.queries import _Cursors

    cursors = _Cursors("instances", {})
    assert cursors.read(cursors.made(7, "i")) == (7, "i")
    tampered: list[Any] = [(2**63, "i"), ("7", "i"), (7, 7), (True, "i")]
    for place in tampered:
        with pytest.raises(ValueError, match="which no page gave"):
            cursors.read(cursors.made(*place))


def test_requests_are_listed_by_several_things() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[asking]) as engine:
            runs = [await engine.start(asking, conversation="c" if n else None) for n in range(3)]
            while (await engine.requests()).total != 6:
                await asyncio.sleep(0.01)
            page = await engine.requests(workflow=asking, name="approval", conversation="c")
            assert {request.instance for request in page} == {run.id for run in runs[1:]}
            assert (page.total, page.total_exact) == (2, True)
            (request,) = await engine.requests(instance=runs[0], name="address")
            assert request.name == "address"
            first = await engine.requests(limit=4)
            assert (len(first), first.total, first.cursor is None) == (4, 6, False)
            second = await engine.requests(limit=4, cursor=first.cursor)
            assert len({request.id for request in [*first, *second]}) == 6
            assert second.cursor is None
            with pytest.raises(ValueError, match="other filters or order"):
                await engine.requests(cursor=first.cursor, name="address")

    asyncio.run(main())


def test_what_another_engine_wrote_is_read_at_its_position(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path / 'two.db'}"
        async with (
            Engine(url, workflows=[listed], worker=False) as writes,
            Engine(url, worker=False) as reads,
        ):
            position = 0
            for number in range(1, 6):
                run = await writes.start(listed)
                position = (await writes.instances(limit=1)).position
                page = await reads.instances(limit=1, at_least=position)
                assert page[0].id == run.id
                assert page.position >= position
                counts = await reads.counts(at_least=position)
                assert (counts.total, counts.position >= position) == (number, True)
                await run.cancel()
                position = (await writes.counts()).position
                assert (await reads.counts(at_least=position)).statuses == {Status.CANCELLED: number}
            # Asked for before it is written.
            waiting = asyncio.ensure_future(reads.requests(at_least=position + 1))
            later = asyncio.ensure_future(reads.instances(at_least=position + 1, limit=1))
            await asyncio.sleep(0)
            run = await writes.start(listed)
            assert (await later)[0].id == run.id
            assert (await waiting).position > position

    asyncio.run(main())


OLD = """CREATE TABLE wfes_instances (
    id TEXT PRIMARY KEY NOT NULL, workflow TEXT NOT NULL, key TEXT, status TEXT NOT NULL,
    created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, parent TEXT, conversation TEXT, tags TEXT)"""


def test_a_log_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "old.db"

    def tables() -> dict[str, Any]:
        with closing(sqlite3.connect(path)) as connection:
            found: dict[str, Any] = {
                given.name: sorted(connection.execute(f'SELECT * FROM "{given.name}"'), key=repr)
                for given in inline()
            }
            schema = connection.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'wfes%'")
            found["schema"] = sorted(schema.fetchall(), key=repr)
            found["versions"] = sorted(connection.execute("SELECT name, version FROM wfes_projections"))
            return found

    async def write() -> None:
        async with Engine(f"sqlite:///{path}", workflows=[listed], worker=False) as engine:
            await fill(engine)

    async def look() -> None:
        async with Engine(f"sqlite:///{path}", worker=False) as engine:
            assert (await engine.counts()).statuses == {Status.PENDING: 8, Status.CANCELLED: 4}
            assert len(await engine.instances(tags=["t"])) == 6
            assert len(await engine.instances(key="k")) == 3

    asyncio.run(write())
    new = tables()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE wfes_instances RENAME TO kept")
        connection.execute(OLD)
        connection.execute("INSERT INTO wfes_instances SELECT * FROM kept")
        for table in ("kept", "wfes_instance_tags", "wfes_instance_counts"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("CREATE INDEX wfes_instances_key ON wfes_instances (key) WHERE key IS NOT NULL")
        connection.execute(
            "CREATE INDEX wfes_instances_status ON wfes_instances (workflow, status, created_at, id)"
        )
        connection.execute("UPDATE wfes_projections SET version = 1 WHERE name = 'wfes_instances'")
        connection.execute("DELETE FROM wfes_projections WHERE name LIKE 'wfes_instance\\__%' ESCAPE '\\'")
        connection.commit()
    asyncio.run(look())
    assert tables() == new


def test_a_page_of_a_long_list_reads_few_rows_on_postgresql(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wfes.log.postgres import PostgresSnapshot

    rows, limit = 5_000, 10
    plans: list[dict[str, Any]] = []
    query = PostgresSnapshot.query

    def explained(snapshot: PostgresSnapshot, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        if "UNION ALL" in sql:
            ((plan,),) = query(snapshot, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
            plans.append(plan[0]["Plan"])
        return query(snapshot, sql, params)

    def most(plan: dict[str, Any]) -> float:
        own: float = plan["Actual Rows"]
        return max([own, *(most(part) for part in plan.get("Plans", []))])

    async def main() -> None:
        async with Engine(postgres_url, workflows=[listed], worker=False) as engine:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute(
                    """INSERT INTO wfes_instances (id, workflow, status, created_at, updated_at, conversation)
                    SELECT 'i' || lpad(n::text, 6, '0'), 'listed',
                        CASE WHEN mod(n, 3) = 0 THEN 'failed' ELSE 'completed' END, n, n, 'c'
                    FROM generate_series(1, %s) AS n""",
                    (rows,),
                )
                connection.execute("VACUUM ANALYZE wfes_instances")
            monkeypatch.setattr(PostgresSnapshot, "query", explained)
            page = await engine.instances(workflow="listed", limit=limit, total=None)
            assert [row.id for row in page] == [f"i{rows - number:06}" for number in range(limit)]
            page = await engine.instances(workflow="listed", limit=limit, total=None, cursor=page.cursor)
            assert page.items[0].id == f"i{rows - limit:06}"
            await engine.instances(conversation="c", order="oldest", limit=limit, total=None)
            await engine.instances(status=["failed", "completed"], limit=limit, total=None)
        assert len(plans) == 4
        assert max(most(plan) for plan in plans) <= len(Status) * (limit + 1), plans

    asyncio.run(main())
