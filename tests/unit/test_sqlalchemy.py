"""`connection=` with what SQLAlchemy hands out: its rows and a start commit together, or neither does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import placed, rows, url_of
from sqlalchemy import Connection, create_engine, text
from sqlalchemy import Engine as Database
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from wfes import Engine, InstanceNotFound, workflow


@workflow
async def hello(number: int) -> int:
    return number


INSERT = text("INSERT INTO mine VALUES (1)")


def url_for_sqlalchemy(folder: Path) -> str:
    url = url_of(folder).partition("?")[0]
    return url.replace("postgresql://", "postgresql+psycopg://")


@contextmanager
def database(folder: Path) -> Generator[Database]:
    made = create_engine(url_for_sqlalchemy(folder))
    try:
        with made.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS mine (number INTEGER)"))
        yield made
    finally:
        made.dispose()


@asynccontextmanager
async def async_database(folder: Path) -> AsyncGenerator[AsyncEngine]:
    made = create_async_engine(url_for_sqlalchemy(folder))
    try:
        async with made.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS mine (number INTEGER)"))
        yield made
    finally:
        await made.dispose()


def of_connection(connection: Connection) -> Any:
    return connection


def of_pool(connection: Connection) -> Any:
    return connection.connection


def of_driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


@pytest.mark.parametrize("given", [of_connection, of_pool, of_driver])
def test_a_connection_and_all_that_it_has_inside(folder: Path, given: Callable[[Connection], Any]) -> None:
    async def main() -> None:
        async with Engine(url_of(folder), workflows=[hello]) as engine:
            with database(folder) as made:
                with made.begin() as connection:
                    connection.execute(INSERT)
                    run = await hello.start(7, connection=given(connection))
                assert await run.result(timeout=20) == 7
                with made.connect() as connection:
                    connection.execute(INSERT)
                    gone = await hello.start(8, connection=given(connection))
                    connection.rollback()
            with pytest.raises(InstanceNotFound):
                await engine.get(gone.id)
        assert rows(folder, "SELECT count(*) FROM mine") == [(1,)]

    asyncio.run(main())


def test_a_session_and_a_raw_connection(folder: Path) -> None:
    async def main() -> None:
        async with Engine(url_of(folder), workflows=[hello]):
            with database(folder) as made:
                with Session(made) as session:
                    run = await hello.start(7, connection=session.connection())
                    session.execute(INSERT)
                    session.commit()
                assert await run.result(timeout=20) == 7
                raw = made.raw_connection()
                run = await hello.start(8, connection=raw)
                raw.commit()
                assert await run.result(timeout=20) == 8
                raw.close()

    asyncio.run(main())


async def of_async_connection(connection: AsyncConnection) -> Any:
    return connection


async def of_async_pool(connection: AsyncConnection) -> Any:
    return await connection.get_raw_connection()


async def of_async_driver(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


@pytest.mark.parametrize("given", [of_async_connection, of_async_pool, of_async_driver])
def test_an_async_engine(tmp_path: Path, given: Callable[[AsyncConnection], Awaitable[Any]]) -> None:
    async def main(folder: Path) -> None:
        async with Engine(url_of(folder), workflows=[hello]) as engine, async_database(folder) as made:
            async with made.begin() as connection:
                await connection.execute(INSERT)
                run = await hello.start(7, connection=await given(connection))
            assert await run.result(timeout=20) == 7
            async with AsyncSession(made) as session:
                run = await hello.start(8, connection=await session.connection())
                await session.execute(INSERT)
                await session.commit()
            assert await run.result(timeout=20) == 8
            async with made.connect() as connection:
                await connection.execute(INSERT)
                gone = await hello.start(9, connection=await given(connection))
            with pytest.raises(InstanceNotFound):
                await engine.get(gone.id)
        assert rows(folder, "SELECT count(*) FROM mine") == [(2,)]

    with placed(tmp_path, "postgresql") as folder:
        asyncio.run(main(folder))


def test_what_is_no_connection_says_what_to_pass(folder: Path) -> None:
    async def told(given: Any) -> str:
        with pytest.raises(TypeError, match="which is no connection; pass ") as caught:
            await hello.start(1, connection=given)
        return str(caught.value)

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[hello]) as engine:
            with database(folder) as made, Session(made) as session:
                assert "pass connection=session.connection()" in await told(session)
                assert "sqlalchemy.orm" in await told(session)
                assert "pass connection=session.connection()" in await told(
                    scoped_session(sessionmaker(made))
                )
                assert "connection=session.connection() of one" in await told(sessionmaker(made))
                assert "`with engine.begin() as connection:`" in await told(made)
            if not url_of(folder).startswith("sqlite"):
                async with async_database(folder) as async_made, AsyncSession(async_made) as async_session:
                    assert "connection=await session.connection()" in await told(async_session)
                    assert "await session" in await told(async_sessionmaker(async_made))
                    assert "`async with engine.begin() as connection:`" in await told(async_made)
                    with pytest.raises(ValueError, match="not open yet; await it"):
                        await hello.start(1, connection=async_made.connect())
            assert len(await engine.instances()) == 0

    asyncio.run(main())


def test_a_connection_without_a_transaction_would_lose_it(folder: Path) -> None:
    """Its commit() does nothing before it has begun one."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[hello]):
            with database(folder) as made, made.connect() as connection:
                with pytest.raises(ValueError, match="has begun no transaction"):
                    await hello.start(1, connection=connection)
                connection.begin()
                run = await hello.start(1, connection=connection)
                connection.commit()
                assert await run.result(timeout=20) == 1

    asyncio.run(main())
