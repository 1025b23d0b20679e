"""`connection=`: commands as part of a caller's own transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import AsyncGenerator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from wfes import (
    Engine,
    Event,
    InstanceEnded,
    InstanceExists,
    InstanceNotFound,
    InvalidData,
    InvalidInput,
    LogUnavailable,
    NotSupported,
    RequestNotPending,
    Status,
    Step,
    UnknownWorkflow,
    acting_as,
    errors,
    workflow,
)
from wfes.core import decide
from wfes.log.port import Handed
from wfes.runtime.commands import Ask, Publish, Start
from wfes.runtime.outbox import command_of, handed

paid = Event("paid", int)


@workflow(requests={"approved": bool})
async def order(number: int, step: Step) -> list[Any]:
    news = await step.listen("news")
    return [number, news, await step.request("approved")]


@workflow
async def plain(number: int, step: Step) -> int:
    return await step("same", lambda: number)


@workflow(on=paid)
async def on_paid(amount: int, step: Step) -> int:
    return amount


WORKFLOWS = [order, plain, on_paid]


class Customer:
    """A caller with a database connection and a table of his own."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def do(self, sql: str) -> Any:
        done = self.connection.execute(sql)
        return await done if asyncio.iscoroutine(done) else done

    async def write(self) -> None:
        await self.do("INSERT INTO mine (number) VALUES (1)")

    async def commit(self) -> None:
        done = self.connection.commit()
        if asyncio.iscoroutine(done):
            await done

    async def rollback(self) -> None:
        done = self.connection.rollback()
        if asyncio.iscoroutine(done):
            await done

    async def count(self, table: str = "mine") -> int:
        cursor = await self.do(f"SELECT count(*) FROM {table}")
        row = cursor.fetchone()
        return int((await row if asyncio.iscoroutine(row) else row)[0])


@pytest.fixture(params=["sqlite", "psycopg", "psycopg-async"])
def kind(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    given: str = request.getfixturevalue("postgres_url")
    return given


async def connected(kind: str, url: str) -> Any:
    if kind == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    import psycopg

    if kind == "psycopg":
        return psycopg.connect(url)
    return await psycopg.AsyncConnection.connect(url)


@contextlib.asynccontextmanager
async def opened(kind: str, url: str, **options: Any) -> AsyncGenerator[tuple[Engine, Customer]]:
    async with Engine(url, workflows=WORKFLOWS, **options) as engine:
        connection = await connected(kind, url)
        try:
            customer = Customer(connection)
            await customer.do("CREATE TABLE IF NOT EXISTS mine (number INTEGER)")
            await customer.commit()
            yield engine, customer
        finally:
            closed = connection.close()
            if asyncio.iscoroutine(closed):
                await closed


async def until_open(engine: Engine) -> Any:
    while not (page := await engine.requests()).items:
        await asyncio.sleep(0.005)
    return page.items[0]


def test_a_start_appears_when_the_caller_commits(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            await customer.write()
            with acting_as("carol"):
                run = await plain.start(7, key="k", tags=["t"], connection=customer.connection)
            assert (run.status, run.version, run.input, run.key) == (Status.PENDING, 0, 7, "k")
            with pytest.raises(InstanceNotFound):
                await run.refresh()
            with pytest.raises(InstanceNotFound):
                await run.result(timeout=1)
            with pytest.raises(InstanceNotFound):
                await engine.get(run.id)
            await customer.commit()
            assert await run.result(timeout=20) == 7
            assert (await run.refresh()).tags == ("t",)
            assert (await run.history())[0].actor == "carol"
            assert await customer.count() == 1
            assert await engine.outbox() == []

    asyncio.run(main())


def test_a_start_vanishes_with_the_callers_rows(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            await customer.write()
            run = await plain.start(7, connection=customer.connection)
            await customer.rollback()
            with pytest.raises(InstanceNotFound):
                await run.refresh()
            assert await customer.count() == 0
            assert (await engine.instances()).items == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["psycopg", "psycopg-async"], indirect=True)
def test_a_caller_in_pipeline_mode(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (_, customer), contextlib.AsyncExitStack() as stack:
            pipeline = customer.connection.pipeline()
            if kind == "psycopg":
                stack.enter_context(pipeline)
            else:
                await stack.enter_async_context(pipeline)
            await customer.write()
            run = await plain.start(7, id="seven", connection=customer.connection)
            await customer.commit()
            assert await run.result(timeout=20) == 7

    asyncio.run(main())


def test_everything_in_one_transaction_happens_in_its_order(kind: str, url: str) -> None:
    large = "x" * 2_000_000

    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            connection = customer.connection
            run = await order.start(7, connection=connection)
            await run.send("news", large, id="once", connection=connection)
            await run.send("news", "again", id="once", connection=connection)
            await engine.publish(paid, 12, connection=connection)
            await customer.commit()
            request = await until_open(engine)
            await engine.provide(order, request, True, connection=connection)
            await customer.commit()
            assert await run.result(timeout=20) == [7, large, True]
            (started,) = (await engine.instances("on-paid")).items
            assert await (await engine.get(started.id)).result(timeout=20) == 12
            with pytest.raises(InstanceEnded):
                await run.send("news", connection=connection)
            with pytest.raises(RequestNotPending):
                await engine.provide(order, request, True, connection=connection)
            with pytest.raises(RequestNotPending):
                await engine.provide(None, request.id, True, connection=connection)

    asyncio.run(main())


def test_what_is_wrong_is_told_before_anything_is_inserted(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            connection = customer.connection
            await (await plain.start(1, id="there")).result(timeout=20)
            run = await order.start(1, id="waits")
            await run.send("news", 1)
            request = await until_open(engine)
            with pytest.raises(InvalidInput):
                await plain.start("x", connection=connection)  # type: ignore[arg-type]
            with pytest.raises(InstanceExists):
                await plain.start(2, id="there", connection=connection)
            with pytest.raises(UnknownWorkflow):
                await engine.start("unheard-of", connection=connection)
            with pytest.raises(InvalidData):
                await engine.publish(paid, "x", connection=connection)
            with pytest.raises(InvalidData):
                await order.provide(request, "x", connection=connection)
            with pytest.raises(InstanceNotFound):
                await _unknown(engine, connection)
            with pytest.raises(TypeError, match="get_or_create takes no connection="):
                await plain.get_or_create(key="k", input=1, connection=connection)  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="get_or_create takes no connection="):
                await engine.get_or_create(plain, key="k", input=1, connection=connection)  # type: ignore[call-overload]
            assert (await plain.start(1, id="there", connection=connection)).status is Status.COMPLETED
            await engine.publish(paid, 1, id="p")
            await engine.publish(paid, 1, id="p", connection=connection)
            assert await customer.count("wfes_outbox") == 0

    asyncio.run(main())


async def _unknown(engine: Engine, connection: Any) -> None:
    command = engine.calls.send("nobody", "news")
    await engine.perform("send", command, connection)


def test_what_is_refused_by_the_time_of_the_commit_is_kept_and_stops_nobody(
    kind: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            run = await order.start(7)
            await run.send("news", "here")
            request = await until_open(engine)
            await customer.write()
            # Both fit as of now; the second is too late when they are appended.
            await order.provide(request, True, connection=customer.connection)
            await order.provide(request, False, connection=customer.connection)
            started = await plain.start(3, connection=customer.connection)
            await customer.commit()
            assert await started.result(timeout=20) == 3
            assert await run.result(timeout=20) == [7, "here", True]
            (left,) = await engine.outbox(refused=True)
            assert (left.kind, left.id) == ("provide", run.id)
            assert left.error is not None
            assert "RequestNotPending" in left.error.type
            assert await engine.outbox() == [left]
            assert any("is refused" in message for message in caplog.messages)
            assert await engine.drop_refused(left.number)
            assert not await engine.drop_refused(left.number)
            assert await engine.outbox() == []

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


def test_an_id_is_used_once(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            run = await plain.start(1, id="same", connection=customer.connection)
            other = await plain.start(2, id="same", connection=customer.connection)
            await customer.commit()
            assert await run.result(timeout=20) == 1
            assert (await other.refresh()).input == 1
            (left,) = await engine.outbox(refused=True)
            assert left.error is not None
            assert "InstanceExists" in left.error.type

    asyncio.run(main())


def test_a_refused_start_says_why(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            run = await plain.start(1, connection=customer.connection)
            await customer.do("UPDATE wfes_outbox SET command = '{}'")
            await customer.commit()
            with pytest.raises(errors.RecordedError, match="tags"):
                await run.refresh()
            with pytest.raises(errors.RecordedError, match="tags"):
                await engine.get(run.id)

    asyncio.run(main())


def test_what_nobody_can_run_is_refused_by_itself(kind: str, url: str) -> None:
    """A row that this release does not know, or that fails in a way nobody foresaw, stops no other."""

    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            caller = engine._log.caller(customer.connection)
            await caller.check()
            await caller.insert(Handed("dance", "x", 1, "{}"))
            await caller.insert(Handed("start", "x", 1, '{"unknown": 1, "tags": [], "delay": 0}'))
            await caller.insert(
                Handed("publish", "x", 1, '{"event": "e", "id": "x", "payload": {"a": 1}, "key": 7}')
            )
            run = await plain.start(1, connection=customer.connection)
            await customer.commit()
            assert await run.result(timeout=20) == 1
            while any(each.error is None for each in await engine.outbox()):
                await asyncio.sleep(0.005)
            kinds = [each.kind for each in await engine.outbox(refused=True)]
            assert kinds[:2] == ["dance", "start"]

    asyncio.run(main())


def test_another_engine_relays_what_a_dead_process_committed(kind: str, url: str) -> None:
    async def main() -> None:
        async with opened(kind, url) as (_, customer):
            run = await plain.start(5, connection=customer.connection)
        # The caller commits when every engine is closed.
        async with Engine(url, workflows=WORKFLOWS):
            connection = await connected(kind, url)
            late = Customer(connection)
            run = await plain.start(6, connection=connection)
        await late.commit()
        closed = connection.close()
        if asyncio.iscoroutine(closed):
            await closed
        async with Engine(url, workflows=WORKFLOWS) as engine:
            again = await engine.get(plain, run.id)
            assert await again.result(timeout=20) == 6

    asyncio.run(main())


def test_whoever_idles_in_a_transaction_stops_nobody(postgres_url: str) -> None:
    async def main() -> None:
        async with opened("psycopg", postgres_url) as (engine, customer):
            waiting = await plain.start(1, connection=customer.connection)
            run = await order.start(2)
            for number in range(3):
                assert await (await plain.start(number)).result(timeout=5) == number
            await run.send("news")
            await engine.publish(paid, 3)
            async with opened("psycopg", postgres_url) as (_, other):
                second = await plain.start(4, connection=other.connection)
                await other.commit()
                assert await second.result(timeout=5) == 4
            await customer.commit()
            assert await waiting.result(timeout=5) == 1

    asyncio.run(main())


def test_a_handler_must_not_and_a_step_may(kind: str, url: str) -> None:
    @workflow
    async def asks(step: Step) -> list[str]:
        with pytest.raises(errors.InsideHandler, match="connection= does not work inside a running handler"):
            await plain.start(1, connection=object())

        async def start() -> str:
            connection = await connected(kind, url)
            try:
                run = await plain.start(9, connection=connection)
                await Customer(connection).commit()
                if step.attempt == 1:
                    raise ValueError("again")
                return run.id
            finally:
                closed = connection.close()
                if asyncio.iscoroutine(closed):
                    await closed

        id = await step("start", start)
        return [id]

    async def main() -> None:
        async with Engine(url, workflows=[asks, plain]) as engine:
            (id,) = await (await asks.start()).result(timeout=20)
            assert await (await engine.get(id)).result(timeout=20) == 9
            assert len((await engine.instances("plain")).items) == 1
            assert (await engine.get(id)).parent is not None

    asyncio.run(main())


def test_a_transaction_step_starts_with_its_rows(kind: str, url: str) -> None:
    @workflow
    async def starts(step: Step) -> str:
        async def both(connection: Any, attempt: int) -> str:
            await Customer(connection).write()
            run = await plain.start(attempt, connection=connection)
            if attempt == 1:
                raise ValueError("again")
            return run.id

        return str(await step.transaction("both", both))

    async def main() -> None:
        async with opened(kind, url) as (engine, customer):
            async with Engine(url, workflows=[starts, plain]) as other:
                id = await (await other.start(starts)).result(timeout=20)
                assert await (await other.get(id)).result(timeout=20) == 2
            assert await customer.count() == 1
            assert len((await engine.instances("plain")).items) == 1

    asyncio.run(main())


def test_a_wrong_connection_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", f"sqlite:///{tmp_path}/log.db") as (_, customer):
            with pytest.raises(TypeError, match=r"is a builtins.object; the log is in SQLite"):
                await plain.start(1, connection=object())
            with (
                contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other,
                pytest.raises(ValueError, match=r"leads to '.*other.db', and the log is in '.*log.db'"),
            ):
                await plain.start(1, connection=other)
            closed = sqlite3.connect(tmp_path / "log.db")
            closed.close()
            with pytest.raises(ValueError, match="cannot be used: Cannot operate on a closed database"):
                await plain.start(1, connection=closed)
            customer.connection.row_factory = sqlite3.Row
            await plain.start(1, connection=customer.connection)

    asyncio.run(main())


def test_an_attached_log_will_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", f"sqlite:///{tmp_path}/log.db"):
            with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
                other.execute('ATTACH ? AS "my ""log"', (str(tmp_path / "log.db"),))
                run = await plain.start(1, connection=other)
                other.commit()
                assert await run.result(timeout=20) == 1

    asyncio.run(main())


def test_another_threads_connection_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", f"sqlite:///{tmp_path}/log.db"):
            made: list[sqlite3.Connection] = []
            thread = threading.Thread(target=lambda: made.append(sqlite3.connect(tmp_path / "log.db")))
            thread.start()
            thread.join()
            with pytest.raises(ValueError, match="check_same_thread=False"):
                await plain.start(1, connection=made[0])

    with contextlib.suppress(pytest.PytestUnraisableExceptionWarning):
        asyncio.run(main())


def test_from_code_that_is_not_async(tmp_path: Path) -> None:
    with (
        Engine(f"sqlite:///{tmp_path}/log.db", workflows=WORKFLOWS) as engine,
        contextlib.closing(sqlite3.connect(tmp_path / "log.db", check_same_thread=False)) as connection,
    ):
        run = engine.call(plain.start(4, connection=connection))
        connection.commit()
        assert engine.call(run.result(timeout=20)) == 4


def test_a_log_in_memory_has_no_other_connection() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=WORKFLOWS) as engine:
            with (
                contextlib.closing(sqlite3.connect(":memory:")) as connection,
                pytest.raises(NotSupported, match="a log in memory has none"),
            ):
                await plain.start(1, connection=connection)
            assert await engine.outbox() == []

    asyncio.run(main())


def test_postgresql_says_what_is_wrong_and_leaves_the_transaction_well(
    postgres_url: str, request: pytest.FixtureRequest
) -> None:
    import psycopg

    async def main() -> None:
        async with opened("psycopg", postgres_url) as (_, customer):
            with pytest.raises(TypeError, match="must be a connection of psycopg 3"):
                await plain.start(1, connection=object())
            base = postgres_url.rpartition("/")[0]
            with psycopg.connect(f"{base}/postgres") as other:
                other.execute("SELECT 1")
                with pytest.raises(ValueError, match="leads to the database 'postgres'"):
                    await plain.start(1, connection=other)
                other.execute("SELECT 1")
            await customer.do("DROP ROLE IF EXISTS wfes_poor")
            await customer.do("CREATE ROLE wfes_poor")
            await customer.do("SET LOCAL ROLE wfes_poor")
            with pytest.raises(ValueError, match="GRANT SELECT, INSERT ON"):
                await plain.start(1, connection=customer.connection)
            await customer.do("RESET ROLE")
            await customer.do("DROP ROLE wfes_poor")
            run = await plain.start(1, connection=customer.connection)
            await customer.commit()
            assert await run.result(timeout=20) == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["psycopg", "psycopg-async"])
def test_a_connection_that_is_closed_or_breaks_is_told(postgres_url: str, kind: str) -> None:
    """It is not mixed up with a log that is away."""
    import psycopg

    async def main() -> None:
        async with opened(kind, postgres_url) as (engine, customer):
            closed = await connected(kind, postgres_url)
            closing = closed.close()
            if asyncio.iscoroutine(closing):
                await closing
            with pytest.raises(ValueError, match="connection= is closed; it must be an open connection"):
                await plain.start(1, connection=closed)
            await customer.do("SELECT 1")
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (customer.connection.info.backend_pid,))
            with pytest.raises(LogUnavailable, match="connection= has broken, and its transaction is undone"):
                await plain.start(1, connection=customer.connection)
            with pytest.raises(ValueError, match="connection= has broken; it must be an open connection"):
                await plain.start(1, connection=customer.connection)
            assert (await engine.instances()).items == []
            assert await (await plain.start(2)).result(timeout=20) == 2

    asyncio.run(main())


def test_a_schema_of_its_own_is_found_from_any_search_path(postgres_url: str) -> None:
    async def main() -> None:
        async with Engine(f"{postgres_url}?schema=flows", workflows=WORKFLOWS):
            connection = await connected("psycopg", postgres_url)
            with contextlib.closing(connection):
                run = await plain.start(1, connection=connection)
                connection.commit()
                assert await run.result(timeout=20) == 1

    asyncio.run(main())


@pytest.fixture
def commands() -> list[Any]:
    start = Start(
        id="i",
        workflow="w",
        input={"a": [1]},
        key="k",
        delay=10,
        deadline=20,
        tags=("a", "b"),
        conversation="c",
        parent="p",
        parent_path="p/q",
        trigger={"by": "x"},
        seed="s",
        actor="alice",
        cause={"trace": "t"},
        known=False,
        derived=True,
        counts_as=("customer", "7"),
    )
    return [
        start,
        Publish(event="e", id="x", payload=1, key="k", actor="a", cause={"c": 1}),
        Ask("i", decide.Send(event="e", payload=2, id="x", actor="a", cause={"c": 1})),
        Ask("i", decide.Provide(id="r", data=3, actor="a", cause={"c": 1})),
    ]


def test_commands_come_back_as_they_were(commands: list[Any]) -> None:
    for command in commands:
        assert command_of(handed(command, 100), 100) == command
        command.blobs = (("digest", b"content"),)
        assert command_of(handed(command, 100), 100) == command


def test_every_part_of_a_command_is_kept(commands: list[Any]) -> None:
    """A new field of a command has to be handed over as well."""
    not_kept = {Start: {"blobs", "others", "claim", "state", "history"}, Publish: {"blobs"}}
    for command in commands[:2]:
        kept = handed(command, 100).command
        for field in fields(command):
            assert (f'"{field.name}":' in kept) is (field.name not in not_kept[type(command)]), field.name


def test_a_delay_counts_from_when_it_was_asked_for(commands: list[Any]) -> None:
    start = commands[0]
    assert command_of(handed(start, 100), 104).delay == 6  # type: ignore[attr-defined]
    assert command_of(handed(start, 100), 500).delay == 0  # type: ignore[attr-defined]


def test_other_commands_cannot_be_handed_over() -> None:
    with pytest.raises(NotSupported):
        handed(Ask("i", decide.Cancel()), 1)
