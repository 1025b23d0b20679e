"""What is particular to the PostgreSQL adapter: its URL, its SQL, its rights, and everything that a server refuses."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from pg_server import Server

from wfes.errors import LogUnavailable
from wfes.log import postgres, postgres_write
from wfes.log.open import open_log
from wfes.log.port import StoredRow
from wfes.log.postgres import PostgresLog
from wfes.log.postgres_sql import defined, made_if_missing, translated
from wfes.log.postgres_url import place
from wfes.log.writer import Writer

TABLE = "CREATE TABLE IF NOT EXISTS wfes_test (id TEXT PRIMARY KEY, number INTEGER, part REAL, content BLOB)"


def row(position: int, stream: str = "a", version: int = 1) -> StoredRow:
    return position, stream, version, "T", b"{}"


@contextmanager
def opened(url: str) -> Generator[PostgresLog]:
    log = open_log(url)
    assert isinstance(log, PostgresLog)
    try:
        log.open([TABLE])
        yield log
    finally:
        log.close()


def append(log: PostgresLog, *rows: StoredRow) -> None:
    write = log.begin()
    write.insert(rows)
    write.commit()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for sql in statements:
            connection.execute(sql.encode())


def as_user(url: str, user: str, password: str = "") -> str:
    parts = urlsplit(url)
    name = f"{user}:{password}" if password else user
    return parts._replace(netloc=f"{name}@{parts.hostname}:{parts.port}").geturl()


def refused(url: str) -> LogUnavailable:
    with pytest.raises(LogUnavailable) as caught, opened(url):
        pass
    return caught.value


# -- URLs ----------------------------------------------------------------------------------------------------------


def test_a_url_says_everything() -> None:
    found = place(
        "postgresql://me:p%40w@one:5432,two:5433/db?sslmode=require&schema=flows&archive=/var/a&connect_timeout=3"
    )
    assert found.schema == "flows"
    assert str(found.archive) == "/var/a"
    wanted = {"user": "me", "password": "p@w", "host": "one,two", "port": "5432,5433", "dbname": "db"}
    assert wanted.items() <= found.connect.items()
    assert (found.connect["sslmode"], found.connect["connect_timeout"]) == ("require", "3")
    assert found.connect["application_name"] == "wfes"
    assert found.connect["options"] == "-csearch_path=flows"
    assert place("postgresql://h/db").schema is None
    assert place("postgresql://h/db").archive.name == "db.archive"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:secret@h/db?nonsense=1", "nonsense"),
        ("postgresql://me:secret@h/db?schema=a-b", "schema is 'a-b'"),
        ("postgresql://me:secret@h/db?schema=", "schema is ''"),
        ("postgresql://me:secret@[::1/db", "no PostgreSQL URL"),
        ("postgresql://me:secret@h/db?pooler=session", "pooler is 'session'"),
        ("postgresql://me:secret@h/db?pooler=transaction&schema=a", "leave schema out"),
    ],
)
def test_a_url_that_cannot_be_read(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_log(url)
    assert "secret" not in str(caught.value)


def test_no_password_is_shown() -> None:
    for url in ("postgresql://me:secret@h/db", "postgresql://h/db?user=me&password=secret&sslmode=require"):
        assert "secret" not in str(LogUnavailable(url, "…"))


def test_without_the_extra_everything_else_works() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
import wfes
from wfes.log.open import open_log
try:
    open_log("postgresql://me:secret@h/db")
except wfes.LogUnavailable as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'wfes[postgres]'" in found
    assert "secret" not in found


# -- SQL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT ?", "SELECT %s"),
        ("SELECT :a, :b_2", "SELECT %(a)s, %(b_2)s"),
        (
            "SELECT a::text, ':x', \"c:?\" -- :n ?\n, /* ? */ ?",
            "SELECT a::text, ':x', \"c:?\" -- :n ?\n, /* ? */ %s",
        ),
        ("SELECT a % 2, 'it''s 100%?' FROM t", "SELECT a %% 2, 'it''s 100%%?' FROM t"),
    ],
)
def test_parameters_are_translated(sql: str, wanted: str) -> None:
    assert translated(sql) == wanted.encode()


def test_tables_have_its_types() -> None:
    assert defined("CREATE TABLE t (a TEXT, b INTEGER, c BLOB, d REAL)") == (
        b'CREATE TABLE t (a TEXT COLLATE "C", b BIGINT, c BYTEA, d DOUBLE PRECISION)'
    )
    assert defined('CREATE TABLE t (a TEXT COLLATE "C")') == b'CREATE TABLE t (a TEXT COLLATE "C")'
    assert defined("SELECT 'TEXT'") == b"SELECT 'TEXT'"
    assert made_if_missing(TABLE) == "wfes_test"
    assert made_if_missing("create unique index if not exists i ON t (a)") == "i"
    assert made_if_missing("CREATE TABLE t (a TEXT)") is None


def test_values_come_back_as_from_any_log(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        write = log.begin()
        rows = [("b", 1, 0.5, b"\0\xff"), ("Z", 1 << 62, 1.5, None), ("ä", None, None, b"")]
        write.executemany("INSERT INTO wfes_test VALUES (?, ?, ?, ?)", rows)
        assert write.query("SELECT sum(number) FROM wfes_test WHERE number < ?", (10,)) == [(1,)]
        write.commit()
        assert log.read("SELECT * FROM wfes_test ORDER BY id") == [rows[1], rows[0], rows[2]]
        ((total, average, number),) = log.read("SELECT sum(number), avg(part), count(*) FROM wfes_test")
        assert (total, average, number) == ((1 << 62) + 1, 1.0, 3)
        assert (type(total), type(average)) == (int, float)
        assert log.read("SELECT id FROM wfes_test WHERE id LIKE 'b%'") == [("b",)]
        assert log.read("SELECT id FROM wfes_test WHERE id LIKE 'b%' AND number = ?", (1,)) == [("b",)]


def test_reading_cannot_write(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        with pytest.raises(LogUnavailable, match="no writes"):
            log.read("INSERT INTO wfes_test (id) VALUES (?)", ("x",))
        with pytest.raises(LogUnavailable, match="no writes"), log.snapshot() as snapshot:
            snapshot.query("INSERT INTO wfes_test (id) VALUES (?)", ("x",))
        assert log.read("SELECT count(*) FROM wfes_test") == [(0,)]


def test_mistakes_in_statements_are_raised_as_they_are(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            log.read("SELECT * FROM nowhere")
        write = log.begin()
        write.insert([row(1)])
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            write.query("SELECT * FROM nowhere")
        assert write.broken
        # Whatever it calls that, nothing of this is committed.
        with pytest.raises(psycopg.Error):
            write.commit()
        write.rollback()
        assert log.max_notification_id() == 0
        append(log, row(1))


# -- Databases, schemas, rights ------------------------------------------------------------------------------------


def test_schemas_are_logs_of_their_own(postgres_url: str) -> None:
    with opened(f"{postgres_url}?schema=one") as one, opened(f"{postgres_url}?schema=two") as two:
        append(one, row(1), row(2, "b"))
        assert (one.max_notification_id(), two.max_notification_id()) == (2, 0)
        # A writer of one does not wait for a writer of the other.
        first, second = one.begin(), two.begin()
        second.insert([row(1)])
        second.commit()
        first.rollback()
        assert not one.changed()
        assert two.read("SELECT current_schema()") == [("two",)]


def test_behind_a_pooler_nothing_belongs_to_a_session(postgres_url: str) -> None:
    url = f"{postgres_url}?pooler=transaction"
    asked = place(url).connect
    assert "options" not in asked
    assert asked["prepare_threshold"] is None
    with opened(url) as log:
        for version in range(1, 9):
            append(log, row(version, "a", version))
            assert len(log.select_events("a")) == version
        with pytest.raises(LogUnavailable, match="no writes"), log.snapshot() as snapshot:
            snapshot.query("DELETE FROM wfes_test")
        connection = log._writing
        assert connection is not None
        kept = "SELECT (SELECT count(*) FROM pg_prepared_statements), current_setting('lock_timeout')"
        assert connection.execute(kept).fetchall() == [(0, "0")]


def test_engines_that_open_at_once_make_it_once(postgres_url: str) -> None:
    errors: list[Exception] = []

    def go() -> None:
        try:
            with opened(f"{postgres_url}?schema=shared"):
                pass
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors


def test_who_may_not_create_can_use_what_is_there(postgres_url: str) -> None:
    user = as_user(postgres_url, "writer_only")
    execute(postgres_url, "DROP ROLE IF EXISTS writer_only", "CREATE ROLE writer_only LOGIN")
    try:
        error = refused(user)
        assert "lacks a right" in error.reason
        assert "permission denied for schema public" in error.reason
        assert not error.retryable
        with opened(postgres_url) as log:
            append(log, row(1))
        assert "permission denied for table" in refused(user).reason
        execute(
            postgres_url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer_only"
        )
        with opened(user) as log:
            append(log, row(2, "a", 2))
            assert log.max_notification_id() == 2
        execute(postgres_url, "REVOKE INSERT ON wfes_events FROM writer_only")
        with (
            opened(user) as log,
            pytest.raises(LogUnavailable, match="permission denied for table wfes_events"),
        ):
            append(log, row(3, "a", 3))
    finally:
        execute(postgres_url, "DROP OWNED BY writer_only", "DROP ROLE writer_only")


def test_a_newer_schema(postgres_url: str) -> None:
    with opened(postgres_url):
        execute(postgres_url, "UPDATE wfes_meta SET value = '99' WHERE name = 'schema'")
    error = refused(postgres_url)
    assert "its schema is version 99" in error.reason
    assert not error.retryable


def test_a_database_of_another_encoding(postgres_url: str) -> None:
    name = f"{urlsplit(postgres_url).path[1:]}_latin"
    execute(postgres_url, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        assert (
            "its encoding is LATIN1"
            in refused(urlsplit(postgres_url)._replace(path=f"/{name}").geturl()).reason
        )
    finally:
        execute(postgres_url, f"DROP DATABASE {name}")


def test_no_such_database_or_user(postgres_url: str) -> None:
    error = refused(urlsplit(postgres_url)._replace(path="/nowhere").geturl())
    assert "no such database" in error.reason
    assert not error.retryable
    error = refused(as_user(postgres_url, "nobody_here", "secret"))
    assert "does not let this user in" in error.reason
    assert "secret" not in str(error)


def test_a_read_only_server(postgres_url: str) -> None:
    with opened(postgres_url):
        pass
    name = urlsplit(postgres_url).path[1:]
    execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    error = refused(postgres_url)
    assert "it is read-only (default_transaction_read_only is on)" in error.reason


def test_a_server_that_becomes_read_only_is_left_for_another(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        write = log.begin()
        write.query("SET TRANSACTION READ ONLY")
        with pytest.raises(LogUnavailable, match="takes no writes") as caught:
            write.insert([row(1)])
        assert caught.value.retryable
        write.rollback()
        append(log, row(1))


def test_a_statement_that_takes_too_long(postgres_url: str) -> None:
    name = urlsplit(postgres_url).path[1:]
    execute(postgres_url, f"ALTER DATABASE {name} SET statement_timeout = '50ms'")
    with opened(postgres_url) as log:
        with pytest.raises(LogUnavailable, match="longer than statement_timeout") as caught:
            log.read("SELECT pg_sleep(5)")
        assert caught.value.retryable
        write = log.begin()
        with pytest.raises(LogUnavailable, match="longer than statement_timeout"):
            write.query("SELECT pg_sleep(5)")
        write.rollback()
        append(log, row(1))


def test_too_many_connections(postgres_url: str) -> None:
    execute(postgres_url, "DROP ROLE IF EXISTS one_only", "CREATE ROLE one_only LOGIN CONNECTION LIMIT 1")
    execute(postgres_url, "GRANT CREATE ON SCHEMA public TO one_only")
    try:
        user = as_user(postgres_url, "one_only")
        with opened(user):
            error = refused(user)
        assert "no connection left" in error.reason
        assert error.retryable
    finally:
        execute(postgres_url, "DROP OWNED BY one_only CASCADE", "DROP ROLE one_only")


def test_durability_is_never_less_than_on(postgres_url: str) -> None:
    name = urlsplit(postgres_url).path[1:]
    execute(postgres_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    with opened(postgres_url) as log:
        write = log.begin()
        assert write.query("SHOW synchronous_commit") == [("on",)]
        write.rollback()


# -- Locks and lost connections ------------------------------------------------------------------------------------


def test_a_writer_waits_only_so_long(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 0.1)
    with opened(postgres_url) as log, opened(postgres_url) as other:
        write = other.begin()
        with pytest.raises(LogUnavailable, match="kept it locked") as caught:
            log.begin()
        assert caught.value.retryable
        write.rollback()
        append(log, row(1))


def test_whoever_is_stopped_in_a_transaction_loses_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_SECONDS", 0.2)
    with opened(postgres_url) as stopped, opened(postgres_url) as other:
        write = stopped.begin()
        append(other, row(1))
        with pytest.raises(LogUnavailable) as caught:
            write.insert([row(1)])
        assert caught.value.retryable
        write.rollback()
        append(stopped, row(2, "b"))
        assert stopped.max_notification_id() == 2


def test_a_commit_of_rows_alone_is_a_change(postgres_url: str) -> None:
    with opened(postgres_url) as log, opened(postgres_url) as other:
        log.begin().rollback()
        assert not log.changed()
        write = other.begin()
        assert write.others
        write.executemany("INSERT INTO wfes_test (id) VALUES (?)", [("x",)])
        write.commit()
        assert log.changed()
        assert not log.changed()
        write = other.begin()
        assert not write.others
        write.rollback()
        write = other.begin()
        assert not write.others
        write.rollback()


def test_many_histories_are_cut_where_they_are_many(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        rows = [row(position, "abc"[position % 3], (position - 1) // 3 + 1) for position in range(1, 31)]
        append(log, *rows)
        write = log.begin()
        for limit, wanted in (
            (0, {}),
            (1, {"a": 10}),
            (10, {"a": 10}),
            (11, {"a": 10, "b": 10}),
            (99, dict.fromkeys("abc", 10)),
        ):
            found = write.histories(["c", "b", "a", "nowhere"], limit)
            assert {stream: len(rows) for stream, rows in found.items()} == wanted
            assert all([one[2] for one in rows] == list(range(1, 11)) for rows in found.values())
        write.rollback()


def test_a_taken_version_leaves_the_log_as_it_was(postgres_url: str) -> None:
    with opened(postgres_url) as log:
        append(log, row(1))
        write = log.begin()
        with pytest.raises(IntegrityError):
            write.insert([row(2, "b"), row(3)])
        write.rollback()
        assert not log.changed()
        assert log.max_notification_id() == 1


def test_limits_are_bounded() -> None:
    """Whoever is stopped while he holds the lock makes nobody's command fail."""
    command_timeout = inspect.signature(Writer).parameters["command_timeout"].default
    assert postgres_write.LOCK_SECONDS < postgres_write.IDLE_SECONDS < command_timeout


@pytest.fixture
def server() -> Generator[Server]:
    server = Server()
    server.start()
    yield server
    server.remove()


def test_a_server_that_goes_and_comes_back(server: Server) -> None:
    url = server.url
    with opened(url) as log:
        append(log, row(1))
        write = log.begin()
        server.stop(immediate=True)
        with pytest.raises(LogUnavailable) as caught:
            write.insert([row(2, "b")])
        assert caught.value.retryable
        write.rollback()
        calls = (log.begin, log.changed, log.max_notification_id, lambda: log.read("SELECT 1"))
        for call in calls:
            with pytest.raises(LogUnavailable, match="cannot be reached") as caught:
                call()
            assert caught.value.retryable
        server.start()
        assert log.max_notification_id() == 1
        assert log.read("SELECT 1") == [(1,)]
        log.changed()
        append(log, row(2, "b"))
        # Connections that nobody used meanwhile are found to be cut before they are used.
        server.stop()
        server.start()
        append(log, row(3, "c"))
        with log.snapshot() as snapshot:
            assert snapshot.position == 3
    error = refused(url.replace(f":{server.port}", ":1"))
    assert "cannot be reached" in error.reason
    assert error.retryable


def test_a_wrong_password(server: Server) -> None:
    execute(
        server.url, "CREATE ROLE guarded LOGIN PASSWORD 'right'", "GRANT CREATE ON SCHEMA public TO guarded"
    )
    rules = server.data / "pg_hba.conf"
    rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    execute(server.url, "SELECT pg_reload_conf()")
    with opened(as_user(server.url, "guarded", "right")) as log:
        append(log, row(1))
    for password in ("wrong-one", ""):
        error = refused(as_user(server.url, "guarded", password))
        assert "does not accept this user's password" in error.reason
        assert "wrong-one" not in str(error)
        assert not error.retryable
