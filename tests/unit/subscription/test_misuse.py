"""What goes wrong around projections is told for what it is, and spoils nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wfes import (
    Engine,
    Projection,
    ProjectionEvent,
    ProjectionNotReady,
    ProjectionStatus,
    ProjectionStopped,
    Reader,
    Row,
    Rows,
    Step,
    on,
    query,
    workflow,
)


@workflow
async def work(number: int, step: Step) -> int:
    return number


class Done(Row, table="done", key="instance"):
    instance: str
    number: int = 0


class Doing(Projection):
    name = "doing"
    tables: ClassVar[Sequence[type[Row]]] = (Done,)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Done(event.instance, event.data["output"]))

    @query
    def count(self, rows: Reader) -> int:
        return rows.count(Done)

    @query
    def clearing(self, rows: Reader) -> Any:
        return rows.sql(" DELETE FROM {done}")

    @query
    def wrong(self, rows: Reader) -> Any:
        return rows.sql("SELECT * FROM {gone}")

    @query
    def braces(self, rows: Reader) -> Any:
        return rows.sql("SELECT '{}', '{\"a\": 1}', count(*) FROM {done}")


class Second(Doing):
    name = "doing"
    version = 2


class Failing(Doing):
    name = "doing"
    version = 3

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        raise LookupError("not in version 3")


async def session(url: str, projection: type[Projection], count: int = 1) -> None:
    """An engine that has this projection, and one more instance."""
    async with Engine(url, workflows=[work], projections=[projection]) as engine:
        await (await work.start(1)).result()
        assert (await engine.query(Doing.count(), at_least=await engine.position())).value == count


async def status_of(engine: Engine, name: str) -> ProjectionStatus:
    return {status.name: status for status in await engine.projections()}[name]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def test_a_query_only_reads_and_names_its_tables(url: str) -> None:
    async def main() -> None:
        await session(url, Doing)
        async with Engine(url, projections=[Doing]) as engine:
            with pytest.raises(
                ValueError, match=r"a query only reads: ' DELETE FROM \{done\}' must be a SELECT"
            ):
                await engine.query(Doing.clearing())
            with pytest.raises(KeyError, match="no table 'gone'; it has done"):
                await engine.query(Doing.wrong())
            assert (await engine.query(Doing.braces())).value == [("{}", '{"a": 1}', 1)]
            with pytest.raises(ValueError, match="at_least is -1"):
                await engine.query(Doing.count(), at_least=-1)

    asyncio.run(main())


def test_a_new_version_that_cannot_be_built_is_said_to_be_stopped(url: str) -> None:
    """The old rows still answer; whoever waits for more is told why there is none, at once."""

    async def main() -> None:
        await session(url, Doing)
        async with Engine(url, workflows=[work], projections=[Failing]) as engine:
            await (await work.start(1)).result()
            with pytest.raises(ProjectionStopped, match="LookupError: not in version 3"):
                await engine.query(Failing.count(), at_least=await engine.position())
            assert (await engine.query(Failing.count())).value == 1
            status = await status_of(engine, "doing")
            assert (status.version, status.status, status.error_position) == (
                1,
                "stopped",
                status.error_position,
            )
            assert "not in version 3" in (status.error or "")
            assert status.error_at is not None

    asyncio.run(main())


def test_rows_of_a_newer_version_are_named_where_they_stay_behind(url: str) -> None:
    async def main() -> None:
        await session(url, Second)
        async with Engine(url, workflows=[work], projections=[Doing]) as engine:
            await (await work.start(1)).result()
            reached = (await engine.query(Doing.count())).position
            assert (await engine.query(Doing.count(), at_least=reached)).value == 1
            with pytest.raises(
                ProjectionNotReady, match=r"its rows are of version 2 and at .*; this program has version 1"
            ):
                await engine.query(Doing.count(), at_least=await engine.position())

    asyncio.run(main())


def test_a_table_of_somebody_else_is_left_alone(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "log.db") as mine:
        mine.execute("CREATE TABLE done (instance TEXT PRIMARY KEY, number INTEGER)")
        mine.execute("INSERT INTO done VALUES ('precious', 1)")
    mine.close()

    async def main() -> None:
        async with Engine(url, workflows=[work], projections=[Doing]) as engine:
            with pytest.raises(
                ValueError, match="has a table 'done' already, which is not one of projection 'doing'"
            ):
                await engine.query(Doing.count())

    asyncio.run(main())
    with sqlite3.connect(tmp_path / "log.db") as mine:
        assert mine.execute("SELECT * FROM done").fetchall() == [("precious", 1)]
    mine.close()


class Extra(Row, table="extras", key="instance"):
    instance: str


class Wider(Doing):
    """A version with a table more."""

    name = "doing"
    version = 2
    tables = (Done, Extra)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Done(event.instance, event.data["output"]))
        rows.put(Extra(event.instance))

    @query
    def extras(self, rows: Reader) -> int:
        return rows.count(Extra)


class Narrow(Doing):
    """The next one, without it."""

    name = "doing"
    version = 3


class Rival(Projection):
    """Another projection with a table of that name."""

    name = "rival"
    tables = (Extra,)

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Extra(f"rival {event.instance}"))


def tables(path: Path) -> dict[str, str]:
    """Tables outside the engine's own, and those that were made for projections of users."""
    with sqlite3.connect(path) as reading:
        there = reading.execute(
            "SELECT t.name, o.projection FROM sqlite_master t LEFT JOIN wfes_projection_tables o USING (name) "
            "WHERE type = 'table'"
        )
        found = {name: owner for name, owner in there if not name.startswith(("wfes_", "sqlite_"))}
    reading.close()
    return found


async def built(engine: Engine, version: int) -> None:
    async with asyncio.timeout(20):
        while (await status_of(engine, "doing")).version != version:
            await asyncio.sleep(0.005)


async def refused(engine: Engine) -> ProjectionStatus:
    async with asyncio.timeout(20):
        while (status := await status_of(engine, "doing")).status != "stopped":
            await asyncio.sleep(0.005)
    return status


@pytest.mark.parametrize("name", ["extras", "extras__next", "extras__old", "done__old"])
@pytest.mark.parametrize("own", [False, True])
def test_a_table_that_a_new_version_would_replace_is_left_alone(
    name: str, own: bool, url: str, tmp_path: Path
) -> None:
    path = tmp_path / ("own.db" if own else "log.db")

    def made(projection: type[Projection]) -> Projection:
        return projection(url=f"sqlite:///{path}" if own else None)

    async def main() -> None:
        async with Engine(url, workflows=[work], projections=[made(Doing)]) as engine:
            await (await work.start(1)).result()
            assert (await engine.query(Doing.count(), at_least=await engine.position())).value == 1
        with sqlite3.connect(path) as mine:
            mine.execute(f"CREATE TABLE {name} (instance TEXT PRIMARY KEY)")
            mine.execute(f"INSERT INTO {name} VALUES ('precious')")
        mine.close()
        async with Engine(url, workflows=[work], projections=[made(Wider)]) as engine:
            status = await refused(engine)
            assert status.version == 1
            expected = f"has a table {name!r} already, which is not one of projection 'doing'; give"
            assert expected in (status.error or "")
            assert (await engine.query(Wider.count())).value == 1
            with pytest.raises(ProjectionStopped, match=f"has a table {name!r} already"):
                await engine.query(Wider.count(), at_least=1_000)
            if name == "extras__next":
                with pytest.raises(ProjectionStopped, match=f"has a table {name!r} already"):
                    await engine.query(Wider.extras())
            with sqlite3.connect(path) as mine:
                assert mine.execute(f"SELECT * FROM {name}").fetchall() == [("precious",)]
                mine.execute(f"DROP TABLE {name}")
            mine.close()
            await engine.retry_projection("doing")
            await built(engine, 2)
            assert (await engine.query(Wider.extras(), at_least=await engine.position())).value == 1

    asyncio.run(main())


def test_a_table_of_another_projection_is_not_replaced(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        await session(url, Doing)
        async with Engine(url, workflows=[work], projections=[Doing, Rival]) as engine:
            await (await work.start(1)).result()
            assert (await engine.query(Doing.count(), at_least=await engine.position())).value == 2
            await engine.rebuild_projection("rival")
        async with Engine(url, workflows=[work], projections=[Wider]) as engine:
            status = await refused(engine)
            assert "which is not one of projection 'doing' but of projection 'rival'" in (status.error or "")
        assert tables(tmp_path / "log.db") == {"done": "doing", "extras": "rival"}
        with sqlite3.connect(tmp_path / "log.db") as reading:
            assert reading.execute(
                "SELECT count(*) FROM extras WHERE instance LIKE 'rival %'"
            ).fetchone() == (2,)
        reading.close()

    asyncio.run(main())


def test_a_table_that_comes_while_new_rows_are_built_is_left_alone(url: str, tmp_path: Path) -> None:
    class Slow(Wider):
        name = "doing"
        version = 2
        mine: ClassVar[list[str]] = []

        @on("WorkflowCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            if not self.mine:
                self.mine.append("precious")
                with sqlite3.connect(tmp_path / "own.db") as connection:
                    connection.execute("CREATE TABLE extras (instance TEXT)")
                    connection.execute("INSERT INTO extras VALUES ('precious')")
                connection.close()
            super().completed(event, rows)

    own = f"sqlite:///{tmp_path}/own.db"

    async def main() -> None:
        async with Engine(url, workflows=[work], projections=[Doing(url=own)]) as engine:
            await (await work.start(1)).result()
            await engine.query(Doing.count(), at_least=await engine.position())
        async with Engine(url, workflows=[work], projections=[Slow(url=own)]) as engine:
            assert "has a table 'extras' already" in ((await refused(engine)).error or "")
            with sqlite3.connect(tmp_path / "own.db") as mine:
                assert mine.execute("SELECT * FROM extras").fetchall() == [("precious",)]
                mine.execute("DROP TABLE extras")
            mine.close()
            await engine.retry_projection("doing")
            await built(engine, 2)
            assert (await engine.query(Slow.extras())).value == 1

    asyncio.run(main())


def test_tables_are_owned_on_postgresql_too(postgres_url: str) -> None:
    import psycopg

    listed = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()"

    def theirs(connection: Any) -> set[str]:
        return {name for (name,) in connection.execute(listed) if not name.startswith("wfes_")}

    async def main() -> None:
        await session(postgres_url, Doing)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE extras (instance TEXT PRIMARY KEY)")
            connection.execute("INSERT INTO extras VALUES ('precious')")
            async with Engine(postgres_url, workflows=[work], projections=[Wider]) as engine:
                assert "has a table 'extras' already" in ((await refused(engine)).error or "")
                assert connection.execute("SELECT * FROM extras").fetchall() == [("precious",)]
                connection.execute("DROP TABLE extras")
                await engine.retry_projection("doing")
                await built(engine, 2)
                assert (await engine.query(Wider.extras(), at_least=await engine.position())).value == 1
            async with Engine(postgres_url, workflows=[work], projections=[Narrow]) as engine:
                await built(engine, 3)
                async with asyncio.timeout(20):
                    while theirs(connection) != {"done"}:
                        await asyncio.sleep(0.005)

    asyncio.run(main())


def test_a_view_that_has_the_name_of_a_new_table_is_left_alone(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        await session(url, Doing)
        with sqlite3.connect(tmp_path / "log.db") as mine:
            mine.execute("CREATE VIEW extras AS SELECT instance FROM done")
        async with Engine(url, workflows=[work], projections=[Wider]) as engine:
            assert "has a table 'extras' already" in ((await refused(engine)).error or "")
            assert len(mine.execute("SELECT * FROM extras").fetchall()) == 1
        mine.close()

    asyncio.run(main())


def test_what_a_new_version_has_no_table_for_is_dropped(url: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"

    async def main() -> None:
        await session(url, Wider)
        assert tables(path) == {"done": "doing", "extras": "doing"}
        async with Engine(url, workflows=[work], projections=[Narrow]) as engine:
            await built(engine, 3)
            assert (await engine.query(Narrow.count(), at_least=await engine.position())).value == 1
            async with asyncio.timeout(20):
                while tables(path) != {"done": "doing"}:
                    await asyncio.sleep(0.005)

    asyncio.run(main())


def test_what_a_crash_left_of_replaced_tables_is_removed_at_the_next_opening(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.db"

    async def main() -> None:
        await session(url, Doing)
        with sqlite3.connect(path) as left:
            left.execute("CREATE TABLE done__old (instance TEXT PRIMARY KEY)")
            left.execute("INSERT INTO wfes_projection_tables VALUES ('done__old', 'doing')")
        left.close()
        async with Engine(url, workflows=[work], projections=[Doing]):
            async with asyncio.timeout(20):
                while tables(path) != {"done": "doing"}:
                    await asyncio.sleep(0.005)

    asyncio.run(main())


def test_a_database_that_is_away_keeps_the_status_of_no_other(url: str, tmp_path: Path) -> None:
    class Other(Row, table="others", key="instance"):
        instance: str

    class Here(Projection):
        name = "here"
        tables = (Other,)

        @on("WorkflowCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Other(event.instance))

    async def main() -> None:
        away = Doing(url=f"sqlite:///{tmp_path}/no/such/rows.db")
        async with Engine(url, projections=[away, Here]) as engine:
            status = await status_of(engine, "doing")
            assert status.status == "unavailable"
            assert "no/such' does not exist" in (status.error or "")
            assert (await status_of(engine, "here")).status in ("building", "live")

    asyncio.run(main())


@pytest.mark.parametrize("url", ["mysql://x", "sqlite://", "reports.db"])
def test_a_database_that_a_class_names_is_checked_as_well(url: str) -> None:
    given = type("Elsewhere", (Doing,), {"name": "doing", "url": url})
    with pytest.raises(ValueError, match="is no projection's url; accepted are"):
        Engine("sqlite://", projections=[given])


def test_what_is_known_and_not_followed_is_listed_and_nothing_is_made(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        apart = Doing(url=f"sqlite:///{tmp_path}/rows.db")
        async with Engine(url, workflows=[work]) as engine:
            engine.learn_projections([apart])
            assert (await status_of(engine, "doing")).status == "absent"
        assert not (tmp_path / "rows.db").exists()
        async with Engine(url, workflows=[work]) as engine:
            engine.learn_projections([Doing])
            assert (await status_of(engine, "doing")).status == "absent"
        await session(url, Doing)
        async with Engine(url, workflows=[work]) as engine:
            assert (await status_of(engine, "doing")).kind == "unknown"
            engine.learn_projections([Doing])
            status = await status_of(engine, "doing")
            assert (status.kind, status.status, status.lag) == ("following", "live", 0)
            assert (await engine.check_projection("doing")).ok

    asyncio.run(main())
