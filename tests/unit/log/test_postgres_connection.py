"""Connections to PostgreSQL: reads whose connection was cut, and transactions whatever the database's defaults are."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from proxy import Proxy

from wfes import Engine, Step, workflow
from wfes.errors import LogUnavailable
from wfes.log import postgres, postgres_connection
from wfes.log.port import StoredRow
from wfes.log.postgres import PostgresLog
from wfes.subscription.postgres_store import PostgresStore

ISOLATIONS = ("repeatable read", "serializable")


def row(position: int, stream: str = "a", version: int = 1) -> StoredRow:
    return position, stream, version, "T", b"{}"


def append(log: PostgresLog, *rows: StoredRow) -> None:
    write = log.begin()
    write.insert(rows)
    write.commit()


@contextmanager
def opened(url: str) -> Generator[PostgresLog]:
    log = PostgresLog(url)
    try:
        log.open(())
        yield log
    finally:
        log.close()


@pytest.fixture
def proxy(postgres_url: str) -> Generator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
def unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a connection was cut shows at its first statement only."""

    def closed(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        return connection.closed

    monkeypatch.setattr(postgres_connection, "is_cut", closed)
    monkeypatch.setattr(postgres, "is_cut", closed)
    monkeypatch.setattr(postgres_connection, "WAIT_SECONDS", 0.5)


def idle(log: PostgresLog, count: int) -> None:
    """Makes so many connections for reading that nobody uses."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(log.snapshot())


@pytest.mark.usefixtures("unnoticed")
def test_a_read_whose_connection_was_cut_is_done_on_another(postgres_url: str, proxy: Proxy) -> None:
    with opened(proxy.url(postgres_url)) as log:
        append(log, row(1), row(2, "b"))
        store = PostgresStore(proxy.url(postgres_url.partition("?")[0]) + "?schema=own")
        store.open()

        def snapshot() -> list[tuple[int]]:
            with log.snapshot() as view:
                return view.query("SELECT ?", (view.position,))

        def of_store() -> list[tuple[int]]:
            with store.snapshot() as view:
                return list(view.query("SELECT 1"))

        reads: dict[str, Callable[[], object]] = {
            "read": lambda: log.read("SELECT 1"),
            "read_at": lambda: log.read_at("SELECT 1"),
            "snapshot": snapshot,
            "select_events": lambda: len(log.select_events("a")),
            "select_notifications": lambda: len(log.select_notifications(1, 10)),
            "select_by_stream": lambda: len(log.select_by_stream("", 0, 10)),
            "max_notification_id": log.max_notification_id,
            "topics": log.topics,
            "get_blob": lambda: log.get_blob("none"),
            "presence": lambda: log.presence().look({"w": 1}),
            "a store's snapshot": of_store,
            "a store's write": lambda: store.write(lambda target: target.query("SELECT 1")),
        }
        try:
            for name, read in reads.items():
                before = read()
                idle(log, 3)
                proxy.cut_now()
                assert read() == before, name
        finally:
            store.close()


@pytest.mark.usefixtures("unnoticed")
def test_a_write_begins_on_another_connection_where_its_own_was_cut(postgres_url: str, proxy: Proxy) -> None:
    with opened(proxy.url(postgres_url)) as log:
        append(log, row(1))
        for position, look in ((2, log.changed), (3, log.handed_over), (4, lambda: None)):
            proxy.cut_now()
            look()
            proxy.cut_now()
            append(log, row(position, "b", position))
        proxy.refusing = True
        proxy.cut_now()
        for call in (log.begin, log.changed):
            with pytest.raises(LogUnavailable, match="cannot be reached"):
                call()


@pytest.mark.usefixtures("unnoticed")
def test_a_server_that_is_away_is_told_by_the_reads(postgres_url: str, proxy: Proxy) -> None:
    with opened(proxy.url(postgres_url)) as log:
        append(log, row(1))
        idle(log, 3)
        proxy.refusing = True
        proxy.cut_now()
        begun = time.monotonic()
        with pytest.raises(LogUnavailable, match="cannot be reached") as caught:
            log.max_notification_id()
        assert caught.value.retryable
        assert time.monotonic() - begun < 5
        proxy.refusing = False
        limit = time.monotonic() + 10
        while True:
            with suppress(LogUnavailable):
                assert log.max_notification_id() == 1
                break
            assert time.monotonic() < limit, "it does not go on"


@pytest.mark.usefixtures("unnoticed")
def test_a_read_is_begun_so_often_and_no_more(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(postgres_url) as log:
        begun: list[int] = []

        def ended(connection: psycopg.Connection[tuple[object, ...]]) -> None:
            begun.append(connection.info.backend_pid)
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(LogUnavailable, match="the server ended the connection") as caught:
            log._reads.read(ended)
        assert caught.value.retryable
        assert len(set(begun)) == len(begun) == postgres_connection.READS_MAX
        begun.clear()
        monkeypatch.setattr(postgres_connection, "REPEAT_SECONDS", -1.0)
        with pytest.raises(LogUnavailable):
            log._reads.read(ended)
        assert len(begun) == 1


def test_a_statement_that_is_wrong_is_not_repeated(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        tried: list[int] = []

        def wrong(connection: psycopg.Connection[tuple[object, ...]]) -> None:
            tried.append(1)
            connection.execute("SELECT * FROM nowhere")

        with pytest.raises(psycopg.errors.UndefinedTable):
            log._reads.read(wrong)
        assert tried == [1]


def test_a_read_goes_on_over_tables_that_were_changed(postgres_url: str) -> None:
    """A prepared statement whose result has another shape now is prepared anew."""
    with opened(postgres_url) as log, psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("CREATE TABLE shape (a INT)")
        for _ in range(8):
            assert log.read("SELECT * FROM shape") == []
        other.execute("ALTER TABLE shape ADD COLUMN b INT")
        other.execute("INSERT INTO shape VALUES (1, 2)")
        assert log.read("SELECT * FROM shape") == [(1, 2)]


@pytest.fixture(params=ISOLATIONS)
def isolated_url(postgres_url: str, request: pytest.FixtureRequest) -> str:
    """Of a database whose transactions are of another isolation, unless they say which."""
    name = urlsplit(postgres_url).path[1:]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        sql = f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'"
        connection.execute(sql.encode())
    return postgres_url


def waits(url: str, name: str) -> bool:
    """Whether a connection of this name waits for an advisory lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'advisory'", (name,)
        )
        return found.fetchone() is not None


@pytest.mark.parametrize("pooler", ["", "&pooler=transaction"])
def test_who_waited_for_the_lock_sees_what_was_committed(isolated_url: str, pooler: str) -> None:
    """Whatever the database's own isolation is."""
    late = f"{isolated_url}?application_name=late{pooler}"
    with opened(isolated_url) as log, opened(late) as other:
        append(log, row(1))
        assert other.max_notification_id() == 1
        write = log.begin()
        seen: list[object] = []

        def second() -> None:
            begun = other.begin()
            seen.extend([begun.head, len(begun.history("a")), len(begun.news(1)), begun.others])
            begun.insert([row(3, "b")])
            begun.commit()

        thread = threading.Thread(target=second)
        thread.start()
        limit = time.monotonic() + 5
        while not waits(isolated_url, "late") and time.monotonic() < limit:
            time.sleep(0.005)
        write.insert([row(2, "a", 2)])
        write.commit()
        thread.join(10)
        assert seen == [2, 2, 1, True]
        assert log.max_notification_id() == 3


def test_transactions_of_functions_and_of_own_databases_too(isolated_url: str) -> None:
    with opened(isolated_url) as log:
        lent = log.lend()
        try:
            assert lent.connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
            append(log, row(1))
            write = lent.write()
            assert (write.head, len(write.history("a"))) == (1, 1)
            write.rollback()
        finally:
            lent.close()
        assert log.read("SHOW transaction_isolation") == [("read committed",)]
        with log.snapshot() as snapshot:
            assert snapshot.query("SHOW transaction_isolation") == [("repeatable read",)]
    store = PostgresStore(f"{isolated_url}?schema=own")
    try:
        shown = store.write(lambda target: target.query("SHOW transaction_isolation"))
        assert shown == [("read committed",)]
    finally:
        store.close()


# -- Round trips ---------------------------------------------------------------------------------------------------

ROWS = "CREATE TABLE IF NOT EXISTS wfes_rows (id TEXT PRIMARY KEY, number INTEGER)"
PUT = (
    "INSERT INTO wfes_rows (id, number) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET number = excluded.number"
)


def test_what_is_written_together_is_one_round_trip(postgres_url: str, proxy: Proxy) -> None:
    """Begin with the lock, the rows, the commit: nobody else can write meanwhile, however far the server is."""
    log = PostgresLog(proxy.url(postgres_url))
    try:
        log.open([ROWS])
        append(log, row(1))
        before = proxy.turns
        write = log.begin()
        with write.together():
            write.insert([row(position, "b", position - 1) for position in range(2, 9)])
            with write.together():
                write.executemany(PUT, [(name, 1) for name in "abcde"])
                write.executemany("DELETE FROM wfes_rows WHERE id = ?", [("a",), ("b",)])
            write.executemany(PUT, [("z", 1)])
        assert write.head == 8
        write.commit()
        assert proxy.turns - before == 3
        assert log.read("SELECT id FROM wfes_rows ORDER BY id") == [("c",), ("d",), ("e",), ("z",)]
        assert not log.changed()
    finally:
        log.close()


@pytest.mark.parametrize("first", [True, False])
def test_what_is_wrong_in_what_is_written_together_is_told(postgres_url: str, *, first: bool) -> None:
    with opened(postgres_url) as log:
        append(log, row(1))
        write = log.begin()
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"), write.together():  # noqa: PT012
            if first:
                write.executemany("INSERT INTO nowhere VALUES (?)", [(1,), (2,)])
            write.insert([row(2, "b")])
            if not first:
                write.executemany("INSERT INTO nowhere VALUES (?)", [(1,), (2,)])
        assert write.broken
        write.rollback()
        write = log.begin()
        with pytest.raises(IntegrityError), write.together():
            write.insert([row(2, "a", 1)])
        write.rollback()
        assert log.max_notification_id() == 1
        append(log, row(2, "b"))


@workflow
async def ten(number: int, step: Step) -> int:
    for index in range(10):
        number = await step(f"add-{index}", added, number)
    return number


async def added(number: int) -> int:
    return number + 1


def test_commits_take_few_round_trips(
    postgres_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many instances are started, run and ended in them."""
    monkeypatch.setattr("wfes.log.writer.IDLE_MIN_SECONDS", 60.0)
    found: dict[str, int] = {}

    async def main() -> None:
        async with Engine(proxy.url(postgres_url), workflows=[ten]) as engine:
            writer = engine._parts._writer
            assert writer is not None
            for count in (60, 60):
                turns, commits = proxy.turns, writer.commits
                runs = await asyncio.gather(*[ten.start(0) for _ in range(count)])
                assert await asyncio.gather(*[run.result(timeout=20) for run in runs]) == [10] * count
                found["turns"], found["commits"] = proxy.turns - turns, writer.commits - commits

    asyncio.run(main())
    assert found["turns"] < 6 * found["commits"], found
