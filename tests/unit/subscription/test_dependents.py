"""What users build on a projection's tables: views go on reading them, the rest is named before anything is done."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from checks import unlike_rebuilt
from places import NoLog, rows, tamper, url_of

from wfes import Engine, Projection, ProjectionEvent, ProjectionInUse, Row, Rows, on, workflow
from wfes.subscription import asking


class Total(Row, table="totals", key="workflow"):
    workflow: str
    count: int = 0


class Totals(Projection):
    name = "totals"
    tables = (Total,)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Total, event.workflow or "") or Total(event.workflow or "")
        row.count += 1
        rows.put(row)


class Renamed(Row, table="totals", key="workflow"):
    workflow: str
    number: int = 0


class NewTotals(Projection):
    """Version 2 has no column `count` any more."""

    name = "totals"
    version = 2
    tables = (Renamed,)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Renamed, event.workflow or "") or Renamed(event.workflow or "")
        row.number += 1
        rows.put(row)


@workflow
async def hello(input: None) -> str:
    return "hello"


async def greeted(engine: Engine, times: int) -> None:
    for _ in range(times):
        await (await hello.start()).result(timeout=20)
    assert await unlike_rebuilt(engine) == []


VIEW = "CREATE VIEW doubled{} AS SELECT workflow, 2 * count AS twice FROM totals WHERE count > 0"


def test_a_view_reads_the_new_rows_after_a_rebuild(folder: Path) -> None:
    """Again and again; also a view on a view, and with its own options and grants."""
    on_postgres = not url_of(folder).startswith("sqlite")

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[hello], projections=[Totals]) as engine:
            await greeted(engine, 2)
            tamper(folder, VIEW.format(" WITH (security_barrier)" if on_postgres else ""))
            tamper(folder, "CREATE VIEW summed AS SELECT sum(twice) AS s FROM doubled")
            tamper(folder, "CREATE VIEW listed AS SELECT id FROM wfes_instances")
            if on_postgres:
                tamper(folder, "GRANT SELECT ON doubled TO PUBLIC")
            for number in range(1, 4):
                await engine.rebuild_projection("totals")
                await engine.rebuild_projection("wfes_instances")
                await greeted(engine, 1)
                assert rows(folder, "SELECT * FROM doubled") == [("hello", 4 + 2 * number)]
                assert rows(folder, "SELECT s FROM summed") == [(4 + 2 * number,)]
                assert rows(folder, "SELECT count(*) FROM listed") == [(2 + number,)]

    asyncio.run(main())
    if on_postgres:
        ((options, rights),) = rows(
            folder,
            "SELECT array_to_string(reloptions, ','), relacl::text FROM pg_class WHERE relname = 'doubled'",
        )
        assert options == "security_barrier=true"
        assert "=r/" in rights
        left = "SELECT relname FROM pg_class WHERE relname LIKE '%\\_\\_old' OR relname LIKE '%\\_\\_next'"
    else:
        left = "SELECT name FROM sqlite_master WHERE name LIKE '%old' OR name LIKE '%next'"
    assert rows(folder, left) == []


IN_THE_WAY = {
    "a materialized view": (
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM totals",
        "materialized view kept",
    ),
    "a foreign key": ("CREATE TABLE mine (workflow TEXT REFERENCES totals)", "constraint mine_workflow_fkey"),
    "a function": (
        "CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT sum(count) FROM totals; END",
        "function counted()",
    ),
    "somebody else's view": (
        "CREATE VIEW foreigners AS SELECT * FROM totals; ALTER VIEW foreigners OWNER TO wfes_somebody",
        "view foreigners",
    ),
}


@pytest.fixture
def somebody(postgres_url: str) -> Generator[str]:
    """A user who is not the engine's, and the URL of one who is no superuser."""

    def run(*statements: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for sql in statements:
                connection.execute(cast("LiteralString", sql))

    run("DROP ROLE IF EXISTS wfes_somebody", "DROP ROLE IF EXISTS wfes_plain", "CREATE ROLE wfes_somebody")
    run("CREATE ROLE wfes_plain LOGIN", "GRANT ALL ON SCHEMA public TO wfes_plain, wfes_somebody")
    try:
        yield postgres_url.replace("wfes@", "wfes_plain@")
    finally:
        run("DROP OWNED BY wfes_plain CASCADE", "DROP OWNED BY wfes_somebody CASCADE")
        run("DROP ROLE wfes_plain", "DROP ROLE wfes_somebody")


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_cannot_be_led_to_new_rows_is_named_and_nothing_is_lost(
    postgres_url: str, somebody: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql, name = IN_THE_WAY[what]
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.0)

    async def main() -> None:
        async with Engine(somebody, workflows=[hello], projections=[Totals]) as engine:
            await greeted(engine, 2)
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                for each in sql.split("; ") if "ATOMIC" not in sql else [sql]:
                    connection.execute(cast("LiteralString", each))
                with pytest.raises(ValueError, match="needs the table 'totals'") as caught:
                    await engine.rebuild_projection("totals")
                assert name in str(caught.value)
                await greeted(engine, 1)
                assert connection.execute("SELECT count FROM totals").fetchall() == [(3,)]
                (status,) = [each for each in await engine.projections() if each.name == "totals"]
                assert (status.status, status.building, status.error) == ("live", None, None)
        async with Engine(somebody, worker=False) as engine:
            with pytest.raises(ValueError, match="needs the table 'totals'; drop that first"):
                await engine.drop_projection("totals")
        async with Engine(somebody, workflows=[hello], projections=[Totals]) as engine:
            await greeted(engine, 1)

    asyncio.run(main())


def test_a_view_that_does_not_fit_the_new_version_stops_that_and_keeps_the_old_rows(
    postgres_url: str,
) -> None:
    async def main() -> None:
        async with Engine(postgres_url, workflows=[hello], projections=[Totals]) as engine:
            await greeted(engine, 2)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(VIEW.format(""))
            async with Engine(postgres_url, workflows=[hello], projections=[NewTotals]) as engine:
                while (status := await totals(engine)).status != "stopped":
                    await asyncio.sleep(0.01)
                assert status.error is not None
                assert "view doubled" in status.error
                assert "column" in status.error
                assert connection.execute("SELECT twice FROM doubled").fetchall() == [(4,)]
            connection.execute("DROP VIEW doubled")
            async with Engine(postgres_url, workflows=[hello], projections=[NewTotals]) as engine:
                await engine.retry_projection("totals")
                while (status := await totals(engine)).version != 2 or status.status != "live":
                    await asyncio.sleep(0.01)
                assert connection.execute("SELECT number FROM totals").fetchall() == [(2,)]

    async def totals(engine: Engine) -> Any:
        (status,) = [each for each in await engine.projections() if each.name == "totals"]
        return status

    asyncio.run(main())


def test_a_release_with_a_new_version_of_its_own_tables_keeps_views(folder: Path) -> None:
    """What is made anew at opening: in one transaction where nobody builds on it, else beside it."""

    async def opened() -> None:
        async with Engine(url_of(folder), workflows=[hello]):
            await (await hello.start()).result(timeout=20)

    asyncio.run(opened())
    tamper(folder, "CREATE VIEW listed AS SELECT id FROM wfes_instances")
    tamper(folder, "UPDATE wfes_projections SET version = 0 WHERE name = 'wfes_instances'")
    asyncio.run(opened())
    assert rows(folder, "SELECT count(*) FROM listed") == [(2,)]
    assert rows(folder, "SELECT version > 0 FROM wfes_projections WHERE name = 'wfes_instances'")[0][0]


# ------------------------------------------------------------------------------------------------- dropping


@pytest.mark.parametrize("inline", [False, True], ids=["following", "inline"])
def test_a_projection_in_use_is_not_dropped(folder: Path, inline: bool) -> None:
    """Not while any engine follows it, busy or idle; then it is, and whoever opens with it later gets it anew."""

    async def main() -> None:
        async with (
            Engine(url_of(folder), workflows=[hello], projections=[Totals(inline=inline)]) as follower,
            Engine(url_of(folder), worker=False) as other,
        ):
            await greeted(follower, 2)
            with pytest.raises(ProjectionInUse, match="this very engine follows it"):
                await follower.drop_projection("totals")
            for _ in range(2):
                with pytest.raises(
                    ProjectionInUse, match=r"an engine follows it: process \d+ on .+; close that"
                ):
                    await other.drop_projection("totals")
            assert "totals" in {status.name for status in await other.projections()}
            await greeted(follower, 1)
            await follower.close()
            await other.drop_projection("totals")
            assert "totals" not in {status.name for status in await other.projections()}
            with pytest.raises(NoLog, match="totals"):
                rows(folder, "SELECT * FROM totals")
        async with Engine(url_of(folder), workflows=[hello], projections=[Totals(inline=inline)]) as again:
            await greeted(again, 1)
            assert rows(folder, "SELECT count FROM totals") == [(4,)]

    asyncio.run(main())


def test_who_was_not_heard_makes_it_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that was stopped while it was asked, and goes on, finds its rows gone and makes them again."""
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.0)

    async def main() -> None:
        async with (
            Engine(url_of(folder), workflows=[hello], projections=[Totals]) as follower,
            Engine(url_of(folder), worker=False) as other,
        ):
            await greeted(follower, 2)
            await other.drop_projection("totals")
            await greeted(follower, 1)
            assert rows(folder, "SELECT count FROM totals") == [(3,)]

    asyncio.run(main())
