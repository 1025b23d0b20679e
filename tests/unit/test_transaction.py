"""`step.transaction`: a function's rows and its step's completion, together or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from wfes import (
    Engine,
    ForbiddenInTransaction,
    LogUnavailable,
    Retry,
    Step,
    StepError,
    UnstorableValue,
    workflow,
)
from wfes.core.events import RunClaimed
from wfes.handler import transaction
from wfes.log import sqlite_lent
from wfes.log.port import Tx
from wfes.log.postgres import PostgresLog
from wfes.log.sqlite import SQLiteLog

TABLE = "CREATE TABLE IF NOT EXISTS made (what VARCHAR(100))"
QUICK = Retry(initial=0.001, max="1ms")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "sqlite://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/log.db"
        case _:
            given: str = request.getfixturevalue("postgres_url")
            return given


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def put(connection: Any, what: str) -> str:
    connection.execute(TABLE)
    connection.execute(f"INSERT INTO made VALUES ('{what}')")
    return what


async def put_async(connection: Any, what: str) -> str:
    for sql in (TABLE, f"INSERT INTO made VALUES ('{what}')"):
        done = connection.execute(sql)
        if isinstance(done, Awaitable):
            await done
    return what


def run(connection: Any, sql: str) -> None:
    connection.execute(sql)


def large(connection: Any) -> str:
    return "x" * 3_000_000


def rows(connection: Any) -> list[str]:
    connection.execute(TABLE)
    return sorted(row[0] for row in connection.execute("SELECT what FROM made").fetchall())


Handler = Callable[[Step], Awaitable[Any]]


def outcome(url: str, handler: Handler, **options: Any) -> Any:
    """What the handler gives, as the only one of a workflow."""

    @workflow(name="one", retry=QUICK, **options)
    async def one(step: Step) -> Any:
        return await handler(step)

    async def main() -> Any:
        async with Engine(url, workflows=[one]):
            return await (await one.start()).result(timeout=20)

    return asyncio.run(main())


def test_a_function_gets_a_connection_and_its_result_is_recorded(url: str) -> None:
    async def handler(step: Step) -> list[Any]:
        return [
            await step.transaction("plain", put, "a"),
            await step.transaction("async", put_async, "b"),
            await step.transaction("see", rows),
        ]

    assert outcome(url, handler) == ["a", "b", ["a", "b"]]


def test_a_server_that_is_away_is_no_failed_attempt(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long nothing can be lent: the function was not even called."""
    monkeypatch.setattr(transaction, "AGAIN_MICROS", 1_000)
    lend = PostgresLog.lend
    tries = 0

    def lend_later(log: PostgresLog) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 12:
            raise LogUnavailable(log.url, "it is away", retryable=True)
        return lend(log)

    monkeypatch.setattr(PostgresLog, "lend", lend_later)

    async def handler(step: Step) -> Any:
        return await step.transaction("late", put, "a", max_attempts=1)

    assert outcome(postgres_url, handler) == "a"
    assert tries == 13


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
def test_what_happens_while_it_is_under_way_is_not_recorded_as_before_its_end(url: str) -> None:
    """The moments of what the owner records never go back, though an attempt beside it fails meanwhile."""
    begun, failed = threading.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def write(connection: Any) -> None:
        begun.set()
        assert failed.wait(10)
        for _ in range(5):  # the loop hears of the failed attempt
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loops[0]).result(10)

    def fail(attempt: int) -> int:
        assert begun.wait(10)
        if attempt == 1:
            failed.set()
            raise ConnectionError("at first")
        return attempt

    @workflow(name="one", retry=QUICK)
    async def one(step: Step) -> None:
        await asyncio.gather(step("beside", fail), step.transaction("write", write))

    async def main() -> list[Any]:
        loops.append(asyncio.get_running_loop())
        async with Engine(url, workflows=[one]):
            run = await one.start()
            await run.result(timeout=20)
            return await run.history()

    history = asyncio.run(main())
    assert [event.type for event in history].count("StepAttemptFailed") == 1
    moments = [event.at for event in history]
    assert moments == sorted(moments)


def test_a_failed_attempt_leaves_nothing_and_is_made_again(url: str) -> None:
    def flaky(connection: Any, attempt: int) -> int:
        put(connection, f"attempt {attempt}")
        if attempt < 3:
            raise ValueError("not yet")
        return attempt

    def never(connection: Any) -> None:
        put(connection, "never")
        raise ValueError("never")

    async def handler(step: Step) -> list[Any]:
        attempt = await step.transaction("flaky", flaky)
        with pytest.raises(StepError, match=r"'never' failed after 2 attempts: ValueError: never"):
            await step.transaction("never", never, max_attempts=2)
        return [attempt, await step.transaction("see", rows)]

    assert outcome(url, handler) == [3, ["attempt 3"]]


FORBIDDEN: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: c.execute("COMMIT"), "COMMIT"),
    (lambda c: c.execute("  /* so */ rollback"), "ROLLBACK"),
    (lambda c: c.commit(), r"commit\(\)"),
    (lambda c: c.rollback(), r"rollback\(\)"),
    (lambda c: c.close(), r"close\(\)"),
    (lambda c: c.__enter__(), "with connection"),
    (lambda c: c.execute("DELETE FROM wfes_instances"), "DELETE.*wfes_instances"),
    (lambda c: c.execute("UPDATE wfes_instances SET status = 'completed'"), "UPDATE.*wfes_instances"),
    (lambda c: c.execute("DROP TABLE wfes_instances"), r"wfes_instances"),
]


@pytest.mark.parametrize(("what", "words"), FORBIDDEN)
def test_what_is_not_the_functions_is_refused_at_once(
    url: str, what: Callable[[Any], Any], words: str
) -> None:
    def forbidden(connection: Any) -> None:
        put(connection, "forbidden")
        what(connection)

    async def handler(step: Step) -> Any:
        pattern = f"failed after 1 attempt: wfes.ForbiddenInTransaction: .*{words}.* is not for a function"
        with pytest.raises(StepError, match=pattern) as caught:
            await step.transaction("forbidden", forbidden)
        assert caught.value.matches(ForbiddenInTransaction)
        assert "in forbidden" in caught.value.error.traceback
        return await step.transaction("see", rows)

    assert outcome(url, handler) == []


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("ATTACH ':memory:' AS other", "ATTACH"),
        ("PRAGMA synchronous = OFF", "PRAGMA synchronous"),
        ("PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
        ("CREATE TRIGGER t AFTER INSERT ON wfes_events BEGIN SELECT 1; END", "CREATE TRIGGER.*wfes_events"),
    ],
)
def test_what_leads_out_of_the_file_is_refused(file: str, sql: str, words: str) -> None:
    async def handler(step: Step) -> None:
        with pytest.raises(StepError, match=words):
            await step.transaction("forbidden", run, sql)

    outcome(file, handler)


def test_a_function_that_swallows_a_refusal_fails_all_the_same(url: str) -> None:
    def swallowing(connection: Any) -> str:
        try:
            connection.execute("DELETE FROM wfes_instances")
        except Exception:
            put(connection, "went on")
        return "done"

    async def handler(step: Step) -> Any:
        with pytest.raises(StepError, match="wfes_instances"):
            await step.transaction("swallowing", swallowing)
        return await step.transaction("see", rows)

    assert outcome(url, handler) == []


def test_savepoints_are_the_functions_own(url: str) -> None:
    def saving(connection: Any) -> None:
        put(connection, "kept")
        connection.execute("SAVEPOINT mine")
        put(connection, "dropped")
        connection.execute("ROLLBACK TO SAVEPOINT mine")
        connection.execute("RELEASE SAVEPOINT mine")

    async def handler(step: Step) -> Any:
        await step.transaction("saving", saving)
        return await step.transaction("see", rows)

    assert outcome(url, handler) == ["kept"]


@pytest.mark.parametrize("kind", ["plain", "async", "statement"])
def test_on_sqlite_it_is_bounded(
    file: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sqlite_lent, "LENDS_SECONDS", 0.2)
    monkeypatch.setattr("wfes.log.sqlite.LENDS_SECONDS", 0.2)
    later: list[str] = []

    def plain(connection: Any) -> None:
        put(connection, "too late")
        time.sleep(0.5)
        try:
            connection.execute("INSERT INTO made VALUES ('much too late')")
        except sqlite3.Error as error:
            later.append(str(error))

    async def asynchronous(connection: Any) -> None:
        put(connection, "too late")
        await asyncio.sleep(30)

    def statement(connection: Any) -> None:
        put(connection, "too late")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        ).fetchall()

    function: Any = {"plain": plain, "async": asynchronous, "statement": statement}[kind]

    async def handler(step: Step) -> Any:
        with pytest.raises(StepError, match=r"TimeoutError: .*'slow' took longer than 0.2s"):
            await step.transaction("slow", function, max_attempts=1)
        await step("goes on", put_by_hand, tmp_path / "log.db")
        return await step.transaction("see", rows)

    def put_by_hand(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            put(connection, "by hand")
        connection.close()

    assert outcome(file, handler) == ["by hand"]
    if kind == "plain":
        limit = time.monotonic() + 10
        while not later and time.monotonic() < limit:
            time.sleep(0.01)
        assert later
        with sqlite3.connect(tmp_path / "log.db") as connection:
            assert rows(connection) == ["by hand"]
        connection.close()


def test_a_timeout_of_its_own_is_kept(url: str) -> None:
    async def slow(connection: Any) -> None:
        await put_async(connection, "too late")
        await asyncio.sleep(30)

    async def handler(step: Step) -> Any:
        with pytest.raises(StepError, match=r"TimeoutError: .*exceeded its timeout of 100ms"):
            await step.transaction("slow", slow, timeout="100ms", max_attempts=1)
        return await step.transaction("see", rows)

    assert outcome(url, handler) == []


def test_a_result_that_cannot_be_stored_undoes_the_rows(url: str) -> None:
    def unstorable(connection: Any) -> object:
        put(connection, "nothing")
        return object()

    async def handler(step: Step) -> Any:
        with pytest.raises(UnstorableValue):
            await step.transaction("unstorable", unstorable)
        return await step.transaction("see", rows)

    assert outcome(url, handler) == []


def test_a_large_result_comes_back(url: str) -> None:
    async def handler(step: Step) -> int:
        return len(await step.transaction("large", large))

    assert outcome(url, handler) == 3_000_000


def test_nothing_is_recorded_from_inside(url: str) -> None:
    async def inside(connection: Any, step: Step) -> None:
        await step("inner", lambda: 1)

    async def starts(connection: Any, engine: Engine) -> None:
        await engine.publish("news")

    async def handler(step: Step) -> None:
        with pytest.raises(StepError, match="step 'inner' is asked for inside the function of transaction"):
            await step.transaction("inside", inside, step, max_attempts=1)
        with pytest.raises(StepError, match="changes the log by connection= alone"):
            await step.transaction("starts", starts, step._execution.host.engine, max_attempts=1)

    outcome(url, handler)


def test_beside_and_inside_other_steps(url: str) -> None:
    """In the order of the log, also where the one around it is cancelled."""

    async def handler(step: Step) -> list[Any]:
        async def outer(name: str) -> str:
            return str(await step.transaction("inner", put, name))

        many = [step.transaction("own", put, f"own {n}") for n in range(3)]
        several = [step(f"step {n}", lambda: "step") for n in range(3)]
        nested = [step(f"outer {n}", outer, f"outer {n}") for n in range(3)]
        gathered = await asyncio.gather(*many, *several, *nested)
        return [gathered, await step.transaction("see", rows)]

    expected = ["own 0", "own 1", "own 2", "outer 0", "outer 1", "outer 2"]
    gathered, seen = outcome(url, handler)
    assert gathered == expected[:3] + ["step"] * 3 + expected[3:]
    assert seen == sorted(expected)


def test_a_replay_gives_what_was_recorded(file: str) -> None:
    calls: list[str] = []

    def once(connection: Any) -> str:
        calls.append("first")
        return put(connection, "first")

    @workflow
    async def two(step: Step) -> list[Any]:
        first = await step.transaction("first", once)
        await step.listen("go")
        return [first, await step.transaction("see", rows)]

    async def begin() -> str:
        async with Engine(file, workflows=[two]):
            run = await two.start()
            while not (await run.refresh()).waiting_for:
                await asyncio.sleep(0.005)
            return run.id

    async def finish(id: str) -> Any:
        async with Engine(file, workflows=[two]) as engine:
            run = await engine.get(two, id)
            await run.send("go")
            return await run.result(timeout=20)

    id = asyncio.run(begin())
    assert asyncio.run(finish(id)) == ["first", ["first"]]
    assert calls == ["first"]


def test_what_is_no_function_is_refused(file: str) -> None:
    async def handler(step: Step) -> None:
        with pytest.raises(TypeError, match="transaction 'x' takes a function of a connection"):
            await step.transaction("x", 3)  # type: ignore[call-overload]
        with pytest.raises(StepError, match="failed after 1 attempt: TypeError"):
            await step.transaction("y", put)

    outcome(file, handler)


def test_on_postgresql_words_in_texts_and_functions_are_no_statements(postgres_url: str) -> None:
    def words(connection: Any) -> list[str]:
        put(connection, "a; COMMIT")
        connection.execute("INSERT INTO made SELECT CASE WHEN true THEN 'b' END -- ; COMMIT")
        connection.execute("DO $$ BEGIN INSERT INTO made VALUES ('c'); END $$")
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany("INSERT INTO made VALUES (%s)", [("d",), ("e",)])
        with connection.cursor().copy("COPY made FROM STDIN") as copy:
            copy.write_row(("f",))
        return rows(connection)

    async def handler(step: Step) -> Any:
        return await step.transaction("words", words)

    assert outcome(postgres_url, handler) == ["a; COMMIT", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SET TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY is not for"),
        (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ is not for",
        ),
        (
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE is not for",
        ),
    ],
)
def test_on_postgresql_a_transaction_that_cannot_be_appended_in_is_refused(
    postgres_url: str, sql: str, words: str
) -> None:
    async def handler(step: Step) -> Any:
        with pytest.raises(StepError, match=f"failed after 1 attempt: wfes.ForbiddenInTransaction: {words}"):
            await step.transaction("forbidden", run, sql)
        return "went on"

    assert outcome(postgres_url, handler) == "went on"


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL ROLE pg_monitor",
        "SET ROLE pg_monitor",
        "SET LOCAL search_path = pg_catalog",
        "SET LOCAL statement_timeout = '1ms'",
    ],
)
def test_on_postgresql_what_a_function_sets_is_for_its_own_statements(postgres_url: str, sql: str) -> None:
    def setting(connection: Any) -> str:
        put(connection, "row")
        connection.execute(sql)
        return "done"

    async def handler(step: Step) -> Any:
        return await step.transaction("set", setting), await step.transaction("see", rows)

    assert outcome(postgres_url, handler) == ("done", ["row"])


def test_on_postgresql_whoever_is_slow_stops_nobody(postgres_url: str) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Any) -> str:
        await put_async(connection, "slow")
        began.set()
        await go_on.wait()
        return "slow"

    @workflow
    async def waits(step: Step) -> Any:
        return [await step.transaction("slow", slow), await step.transaction("see", rows)]

    @workflow
    async def other(step: Step) -> list[str]:
        return [await step.transaction(f"{n}", put, f"{n}") for n in range(3)]

    async def main() -> None:
        async with Engine(postgres_url, workflows=[waits, other]):
            await (await other.start()).result(timeout=20)
            first = await waits.start()
            await began.wait()
            assert await (await other.start()).result(timeout=20) == ["0", "1", "2"]
            go_on.set()
            assert (await first.result(timeout=20))[0] == "slow"

    asyncio.run(main())


def test_on_postgresql_a_lost_connection_costs_no_attempt(postgres_url: str) -> None:
    import psycopg

    async def cut(connection: Any, attempt: int) -> int:
        await put_async(connection, "once")
        if not cuts:
            cuts.append(attempt)
            pid = connection.info.backend_pid
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            await connection.execute("SELECT 1")
        return attempt

    cuts: list[int] = []

    async def handler(step: Step) -> list[Any]:
        return [await step.transaction("cut", cut, max_attempts=1), await step.transaction("see", rows)]

    assert outcome(postgres_url, handler) == [1, ["once"]]
    assert cuts == [1]


def test_on_postgresql_who_ends_its_own_connection_again_and_again_fails(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five times in a row it counts as an attempt that failed, with what the database's library raised."""
    monkeypatch.setattr(transaction, "AGAIN_MICROS", 1_000)
    calls: list[int] = []

    def suicidal(connection: Any) -> None:
        calls.append(1)
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async def handler(step: Step) -> Any:
        with pytest.raises(StepError, match=r"after 1 attempt: psycopg\.errors\.AdminShutdown: terminating"):
            await step.transaction("cut", suicidal, max_attempts=1)
        return await step.transaction("see", rows)

    assert outcome(postgres_url, handler) == []
    assert len(calls) == 6


def test_whoever_was_taken_over_in_the_meantime_commits_nothing(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: the rows of a worker that another has taken the instance from go with the completion that is refused."""
    ids: list[str] = []
    taken = threading.Event()

    class TakeOver:
        def run(self, tx: Tx) -> None:
            state = tx.state(ids[0])
            assert state is not None
            tx.append(ids[0], [RunClaimed(at=tx.now, worker="another", epoch=state.epoch + 1, code={})])

        def done(self, result: object) -> None:
            taken.set()

        def failed(self, error: Exception) -> None:
            raise error

    @workflow
    async def one(step: Step) -> str:
        return await step.transaction("put", put, "stale")

    async def main() -> None:
        async with Engine(file, workflows=[one]) as engine, Engine(file, worker=False) as other:
            writer = other._parts._writer
            assert writer is not None
            lend = SQLiteLog.lend

            def lend_late(log: SQLiteLog) -> Any:
                if not taken.is_set():
                    writer.submit(TakeOver())
                    assert taken.wait(10)
                return lend(log)

            monkeypatch.setattr(SQLiteLog, "lend", lend_late)
            ids.append("one")
            run = await one.start(id="one")
            worker = engine._parts._worker
            assert worker is not None
            while worker.running or not taken.is_set():
                await asyncio.sleep(0.005)
            assert "StepCompleted" not in [event.type for event in await run.history()]
            with sqlite3.connect(file.removeprefix("sqlite:///")) as connection:
                assert rows(connection) == []
            connection.close()

    asyncio.run(main())
