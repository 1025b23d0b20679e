"""A projection's rows in a PostgreSQL database of their own: exactly once, told of, refused where a log is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from wfes import Engine, LogUnavailable, Projection, ProjectionEvent, Reader, Row, Rows, on, query
from wfes.subscription import postgres_store
from wfes.subscription.own_database import checked_url


class Kind(Row, table="kinds", key="type"):
    type: str
    count: int = 0
    last: str | None = None


class Kinds(Projection):
    """Counts, so that an event handled twice shows."""

    name = "kinds"
    tables = (Kind,)

    @on()
    def count(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Kind, event.type) or Kind(event.type)
        row.count += 1
        row.last = event.instance
        rows.put(row)

    @query
    def total(self, rows: Reader) -> int:
        return sum(row.count for row in rows.select(Kind))


class Doubled(Kinds):
    """A later version of the same."""

    name = "kinds"
    version = 2

    @on()
    def again(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Kind, event.type) or Kind(event.type)
        row.count += 1
        rows.put(row)


async def total(engine: Engine) -> int:
    answer = await engine.query(Kinds.total(), at_least=await engine.position())
    return answer.value


def tracked(url: str) -> list[tuple[int]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT notification_id FROM notification_tracking WHERE application_name = 'kinds'"
        ).fetchall()


def test_rows_follow_and_go_on_after_a_restart(
    url: str, postgres_url: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        for number in range(3):
            head = histories(url, number * 10, 10)
            async with (
                Engine(url, worker=False, projections=[Kinds(url=postgres_url)]) as engine,
                Engine(url, worker=False, projections=[Kinds(url=postgres_url)]) as other,
            ):
                assert await total(engine) == await total(other) == head
                assert (await engine.check_projection("kinds")).ok
                (status,) = [each for each in await engine.projections() if each.name == "kinds"]
                assert (status.status, status.position, status.url) == ("live", head, postgres_url)
            assert tracked(postgres_url) == [(head,)]

    asyncio.run(main())


def test_a_new_version_is_built_beside_the_rows_and_swapped(
    url: str, postgres_url: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        head = histories(url, 0, 20)
        place = f"{postgres_url}?schema=reports"
        async with Engine(url, worker=False, projections=[Kinds(url=place)]) as engine:
            assert await total(engine) == head
        async with Engine(url, worker=False, projections=[Doubled(url=place)]) as engine:
            async with asyncio.timeout(30):
                while True:
                    (status,) = [each for each in await engine.projections() if each.name == "kinds"]
                    if (status.version, status.status) == (2, "live"):
                        break
                    await asyncio.sleep(0.01)
            assert (await engine.query(Kinds.total(), at_least=head)).value == 2 * head
            await engine.rebuild_projection("kinds")
            assert (await engine.query(Kinds.total(), at_least=head)).value == 2 * head
        with psycopg.connect(postgres_url) as connection:
            found = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_name ~ 'kinds|wfes'"
            ).fetchall()
        tables = {"kinds", "wfes_projections", "wfes_projection_tables"}
        assert set(found) == {("reports", table) for table in tables}

    asyncio.run(main())


def test_a_connection_cut_in_the_middle_of_a_write_leaves_nothing_of_it(
    url: str, postgres_url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = 0
    moved = postgres_store._Target.moved

    def cutting(target: postgres_store._Target, name: str, position: int | None) -> None:
        nonlocal cut
        cut += 1
        if cut in (1, 3):  # its rows are written, its checkpoint is not
            target.query("SELECT pg_terminate_backend(pg_backend_pid())")
        moved(target, name, position)

    monkeypatch.setattr(postgres_store._Target, "moved", cutting)

    async def main() -> None:
        histories(url, 0, 10)
        async with Engine(url, worker=False, projections=[Kinds(url=postgres_url)]) as engine:
            for number in range(1, 4):
                assert await total(engine) == await engine.position()
                histories(url, number * 10, 10)
            assert await total(engine) == await engine.position()
            assert (await engine.check_projection("kinds")).ok
        assert cut > 3

    asyncio.run(main())


def test_the_logs_own_database_is_the_log_and_another_log_is_refused(
    postgres_url: str, url: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        log = f"{postgres_url}?schema=main"
        head = histories(log, 0, 5)
        same = f"{postgres_url}?connect_timeout=3&schema=main"
        async with Engine(log, worker=False, projections=[Kinds(url=same)]) as engine:
            assert await total(engine) == head
            assert engine._parts.models._follows["kinds"].store is engine._parts.models._log_store
        beside = f"{postgres_url}?schema=beside"
        async with Engine(log, worker=False, projections=[Kinds(url=beside)]) as engine:
            assert await total(engine) == head
        with pytest.raises(LogUnavailable, match="its schema holds a log; name one for projections by"):
            postgres_store.PostgresStore(log).open()

    asyncio.run(main())


def test_what_cannot_be_read_is_refused_when_the_engine_is_made() -> None:
    checked_url("postgresql://user@host/database?schema=reports")
    with pytest.raises(ValueError, match="schema is 'Up'"):
        Engine("sqlite://", projections=[Kinds(url="postgresql://h/d?schema=Up")])
    with pytest.raises(ValueError, match="or 'postgresql://user@host/database'"):
        checked_url("mysql://h/d")


def test_a_server_that_is_away_is_told_of_and_stops_nothing_else(
    url: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        histories(url, 0, 1)
        away = "postgresql://user@127.0.0.1:1/nothing"
        async with Engine(url, worker=False, projections=[Kinds(url=away)]) as engine:
            (status,) = [each for each in await engine.projections() if each.name == "kinds"]
            assert status.status == "unavailable"
            assert "cannot be reached" in (status.error or "")
            assert not postgres_store.PostgresStore(away)._recorder

    asyncio.run(main())
