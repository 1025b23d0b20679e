"""PostgreSQL as it must not be: each has its own message, which says what is wrong and what would be right.

The library raises it and the command line prints it in one line with exit code 1 (2, where the URL itself is wrong); no
password is ever shown, and nothing in the database is changed. What passes by itself is waited for.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, LiteralString, cast

import corpus
import psycopg
import pytest
from checks import problems_of
from click.testing import CliRunner
from pg_server import Server, Standby
from places import content, put, tamper, url_of

from wfes import Engine, LogUnavailable, ProjectionNotReady, Step, StepError, workflow
from wfes.cli import main

SECRET = "s3cret"
SECONDS_MAX = 20.0


@workflow
async def steady(number: int, step: Step) -> int:
    """Many small steps."""
    total: int = 0
    for index in range(number):
        total += await step("add", corpus.same_async, index)
    return total


async def until(true: Callable[[], Awaitable[Any]]) -> None:
    limit = time.monotonic() + SECONDS_MAX
    while not await true():
        assert time.monotonic() < limit, "it did not become true in time"
        await asyncio.sleep(0.005)


def run_sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for sql in statements:
            connection.execute(cast("LiteralString", sql))


def ask_cli(url: str, *words: str) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    found = CliRunner().invoke(main, ["--url", url, *(words or ("publish", "news"))])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert SECRET not in found.output
    return found.exit_code, found.stderr


async def opened(url: str) -> None:
    async with Engine(url, workflows=[steady]):
        await (await steady.start(1)).result(timeout=SECONDS_MAX)


# ------------------------------------------------------------------------------------------------ URLs

URLS = {
    "a port that is no number": ("postgresql://me:s3cret@h:abc/db", ["the port is 'abc'", "1 to 65535"]),
    "a port that is too large": ("postgresql://me:s3cret@h:99999/db", ["the port is '99999'"]),
    "an @ and a / in the password": ("postgresql://me:s3cret@x/y@h:5432/db", ["%40", "%2F"]),
    "a / in the password": ("postgresql://me:s3cret/y@h:5432/db", ["%2F"]),
    "a ? in the password": ("postgresql://me:s3cret?y@h:5432/db", ["%3F"]),
    "a % in the password": ("postgresql://me:s3cret%y@h:5432/db", ["%25"]),
    "a space": ("postgresql://me:s3cret@h/my db", ["spaces", "%20"]),
    "a bracket": ("postgresql://me:s3cret[@h/db", ["no PostgreSQL URL"]),
    "a NUL": ("postgresql://me:s3cret@h/d%00b", ["%00"]),
    "one slash": ("postgresql:/me:s3cret@h/db", ["accepted are", "postgresql://user@host/database"]),
    "no slash": ("postgresql:me:s3cret@h/db", ["accepted are"]),
    "no scheme": ("me:s3cret@h/db", ["accepted are"]),
    "a driver in the scheme": ("postgresql+psycopg://me:s3cret@h/db", ["accepted are"]),
    "an unknown option": ("postgresql://me:s3cret@h/db?colour=red", ["colour"]),
    "a schema in capitals": ("postgresql://me:s3cret@h/db?schema=Mine", ["'Mine'", "lower-case"]),
    "a schema of the server's own": ("postgresql://me:s3cret@h/db?schema=pg_mine", ["'pg_mine'", "pg_"]),
}


@pytest.mark.parametrize("what", URLS)
def test_a_url_that_cannot_be_meant(what: str) -> None:
    url, words = URLS[what]
    with pytest.raises(ValueError) as caught:
        Engine(url)
    assert not isinstance(caught.value, LogUnavailable)
    code, said = ask_cli(url)
    assert code == 2
    for text in (str(caught.value), said):
        assert SECRET not in text
        for word in words:
            assert word in text


AWAY = {
    "an unknown host": ("postgresql://me:s3cret@no-such-host.invalid/db", "no-such-host.invalid", True),
    "a port where nobody is": ("postgresql://me:s3cret@127.0.0.1:1/db", "Connection refused", True),
    "an option's value": (
        "postgresql://me:s3cret@127.0.0.1:1/db?sslmode=odd",
        "invalid sslmode value",
        False,
    ),
}


@pytest.mark.parametrize("what", AWAY)
def test_a_server_that_is_not_there(what: str) -> None:
    url, word, retryable = AWAY[what]
    with pytest.raises(LogUnavailable, match=word) as caught:
        asyncio.run(opened(url))
    assert caught.value.retryable is retryable
    assert SECRET not in str(caught.value)
    code, said = ask_cli(url)
    assert (code, said.count("\n")) == (1, 1)
    assert word in said


# -------------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    server = Server("max_connections=20", "superuser_reserved_connections=3", "reserved_connections=0")
    try:
        server.start()
        run_sql(server.url, f"CREATE ROLE plain LOGIN PASSWORD '{SECRET}'", "CREATE ROLE locked NOLOGIN")
        run_sql(server.url, "CREATE ROLE guest LOGIN", f"CREATE ROLE careful LOGIN PASSWORD '{SECRET}'")
        run_sql(server.url, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        rules = server.data / "pg_hba.conf"
        first = "host all careful 127.0.0.1/32 scram-sha-256\nhost all guest 127.0.0.1/32 reject\n"
        rules.write_text(first + rules.read_text())
        run_sql(server.url, "SELECT pg_reload_conf()")
        yield server
    finally:
        server.remove()


@pytest.fixture
def there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trial's folder, with a log in a new database of this server."""
    run_sql(
        server.url, "DROP DATABASE IF EXISTS trial WITH (FORCE)", "CREATE DATABASE trial TEMPLATE template0"
    )
    put(tmp_path, server.url.replace("/postgres", "/trial"))
    corpus.use(tmp_path / "calls")
    monkeypatch.setattr("wfes.log.postgres_connection.WAIT_SECONDS", 1.0)
    asyncio.run(opened(url_of(tmp_path)))
    return tmp_path


def as_user(url: str, user: str) -> str:
    return url.replace("wfes@", f"{user}@")


ON_DATABASE = "ALTER DATABASE trial SET "

REFUSED: dict[str, tuple[Callable[[str], str], tuple[str, ...], list[str]]] = {
    "a database that is not there": (lambda url: url.replace("/trial", "/nowhere"), (),
        ["no such database", '"nowhere"', "create it"]),
    "a user who is not there": (lambda url: as_user(url, "nobody_here"), (),
        ["does not let this user in", '"nobody_here"']),
    "a user who may not log in": (lambda url: as_user(url, "locked"), (),
        ["does not let this user in", '"locked"']),
    "a user who is turned away": (lambda url: as_user(url, "guest"), (),
        ["does not let this user in", "pg_hba.conf", '"guest"']),
    "a wrong password": (lambda url: as_user(url, "careful:s3cret_or_so"), (),
        ["password", '"careful"']),
    "no password": (lambda url: as_user(url, "careful"), (), ["password"]),
    "no encryption": (lambda url: f"{url}&sslmode=require", (), ["SSL", "sslmode"]),
    "another encoding": (lambda url: url.replace("/trial", "/latin"), (),
        ["LATIN1", "UTF8", "TEMPLATE template0"]),
    "a schema that may not be made": (lambda url: f"{as_user(url, 'plain')}&schema=fresh", (),
        ["GRANT CREATE ON DATABASE trial"]),
    "no right to make tables": (lambda url: as_user(url, "plain").replace("/trial", "/postgres"), (),
        ["GRANT USAGE, CREATE ON SCHEMA public"]),
    "no right to read": (lambda url: as_user(url, "plain"), (),
        ["lacks a right", "GRANT SELECT, INSERT, UPDATE, DELETE ON wfes_"]),
    "no right to write": (
        lambda url: as_user(url, "plain"), ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain",),
        ["lacks a right", "GRANT SELECT, INSERT, UPDATE, DELETE ON wfes_"]),
    "a search path to nowhere": (lambda url: url, (ON_DATABASE + "search_path = nowhere",),
        ["search_path", "?schema="]),
    "a database that is read-only": (
        lambda url: url, (ON_DATABASE + "default_transaction_read_only = on",),
        ["read-only (default_transaction_read_only is on)", "primary"]),
    "a newer schema": (lambda url: url, ("UPDATE wfes_meta SET value = '99' WHERE name = 'schema'",),
        ["version 99", "newer release"]),
    "an event of a newer release": (lambda url: url, ("INSERT INTO wfes_topics VALUES ('WorkflowDreamed')",),
        ["'WorkflowDreamed'", "newer"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_says_what_is_wrong_and_changes_nothing(there: Path, what: str) -> None:
    made, prepare, words = REFUSED[what]
    for sql in prepare:
        tamper(there, sql)
    url, before = made(url_of(there)), None
    if "search path" not in what:
        before = content(there)
    kind: type[Exception] = LogUnavailable if "event" not in what else Exception
    with pytest.raises(kind) as caught:
        asyncio.run(opened(url))
    code, said = ask_cli(url, "publish", "e")
    assert (code, said.count("\n")) == (1, 1), said
    for text in (str(caught.value), said):
        assert SECRET not in text
        for word in words:
            assert word in text, text
    assert before is None or content(there) == before


HARMLESS = [
    "statement_timeout = '1s'", "lock_timeout = '1s'", "idle_in_transaction_session_timeout = '1s'",
    "idle_session_timeout = '1s'", "default_transaction_isolation = 'serializable'", "client_encoding = 'LATIN1'",
    "datestyle = 'German'", "timezone = 'Asia/Tokyo'", "bytea_output = 'escape'",
    "standard_conforming_strings = off", "quote_all_identifiers = on", "default_transaction_deferrable = on",
]  # fmt: skip


def test_settings_of_a_database_that_do_no_harm(there: Path) -> None:
    """Whatever else a database is used for: values come back as they were, and nothing waits for ever."""

    @workflow
    async def odd(text: str, step: Step) -> str:
        return await step("again", corpus.same_async, text)

    async def live() -> None:
        async with Engine(url_of(there), workflows=[odd, steady]) as engine:
            run = await odd.start("☃ \\ ' ä", key="☃")
            assert await run.result(timeout=SECONDS_MAX) == "☃ \\ ' ä"
            assert [row.id for row in await engine.instances(key="☃")] == [run.id]
            await (await steady.start(5)).result(timeout=SECONDS_MAX)

    for setting in HARMLESS:
        tamper(there, ON_DATABASE + setting)
    asyncio.run(live())
    tamper(there, "ALTER DATABASE trial RESET ALL")
    assert problems_of(there) == []


# ------------------------------------------------------------------------------------------ in the middle


def test_a_right_that_is_taken_away_in_the_middle(server: Server, there: Path) -> None:
    """What runs waits, commands are told, and work goes on when the right is there again."""
    tamper(there, "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    url = url_of(there)

    async def main() -> None:
        async with Engine(as_user(url, "plain"), workflows=[steady]) as engine:
            writer = engine._parts._writer
            assert writer is not None
            writer._command_timeout = 0.3
            run = await steady.start(30, id="run")
            while (await run.refresh()).version < 12:
                await asyncio.sleep(0.002)
            await asyncio.to_thread(tamper, there, "REVOKE INSERT ON wfes_events FROM plain")
            with pytest.raises(LogUnavailable, match="GRANT SELECT, INSERT, UPDATE, DELETE ON wfes_events"):
                await steady.start(1, id="refused")
            assert (await run.refresh()).status == "in_progress"
            await asyncio.to_thread(tamper, there, "GRANT INSERT ON wfes_events TO plain")
            assert await run.result(timeout=SECONDS_MAX) == sum(range(30))
            assert "refused" not in [row.id for row in await engine.instances()]

    asyncio.run(main())
    put(there, url.partition("?")[0])
    assert problems_of(there) == []


def test_a_function_that_idles_in_its_transaction_for_too_long(there: Path) -> None:
    """The server ends it, and the step says that in the server's words; nothing of it is there."""
    tamper(there, ON_DATABASE + "idle_in_transaction_session_timeout = '50ms'")
    tamper(there, "CREATE TABLE mine (number INTEGER)")

    def idle(connection: Any) -> None:
        connection.execute("INSERT INTO mine VALUES (1)")
        time.sleep(0.15)
        connection.execute("SELECT 1")

    @workflow
    async def idling(input: None, step: Step) -> str:
        try:
            await step.transaction("idle", idle, max_attempts=1)
        except StepError as error:
            return str(error)
        return "nothing was wrong"

    async def live() -> str:
        async with Engine(url_of(there), workflows=[idling]):
            return await (await idling.start()).result(timeout=SECONDS_MAX)

    said = asyncio.run(live())
    assert "idle-in-transaction timeout" in said, said
    with psycopg.connect(url_of(there).partition("?")[0]) as connection:
        assert connection.execute("SELECT count(*) FROM mine").fetchall() == [(0,)]


# --------------------------------------------------------------------------------------------- a standby


@contextmanager
def standby_of(server: Server) -> Generator[Standby]:
    standby = Standby(server)
    try:
        standby.start()
        yield standby
    finally:
        standby.remove()


def test_a_standby_is_refused_and_waited_for_until_it_is_promoted(server: Server, there: Path) -> None:
    """Opening says so; `wfes worker` tries again, and begins when the standby takes over."""
    (there / "early.py").write_text(
        "from wfes import workflow\n\n\n@workflow\nasync def early() -> None: ...\n"
    )
    with standby_of(server) as standby, ExitStack() as stack:
        url = url_of(there).replace(str(server.port), str(standby.port))
        with pytest.raises(LogUnavailable, match=r"read-only \(a standby\).*primary") as caught:
            asyncio.run(opened(url))
        assert caught.value.retryable
        code, said = ask_cli(url, "publish", "e")
        assert (code, said.count("\n")) == (1, 1)
        assert "(a standby)" in said
        assert ask_cli(url, "ls") == (0, "")  # for reading it is good enough
        command = [sys.executable, "-m", "wfes", "--url", url, "worker", "early"]
        worker = stack.enter_context(
            subprocess.Popen(command, cwd=there, stdout=PIPE, stderr=PIPE, text=True)
        )
        stack.callback(worker.kill)
        assert worker.stdout is not None
        assert worker.stderr is not None
        assert re.search(r"\(a standby\).* it is tried again in 0\.5 s$", worker.stderr.readline())
        run_sql(standby.url, "SELECT pg_promote()")
        assert worker.stdout.readline().startswith("runs early on ")
        worker.terminate()
        assert worker.wait(SECONDS_MAX) == 0


# ------------------------------------------------------------------------------- who may not make tables


def test_a_user_without_the_right_to_make_tables(there: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It runs workflows all the same; only what needs new tables is refused, and holds up nothing else."""
    tamper(there, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain")

    async def main() -> None:
        async with Engine(as_user(url_of(there), f"plain:{SECRET}"), workflows=[steady]) as engine:
            run = await steady.start(30)
            began = time.monotonic()
            with pytest.raises(ProjectionNotReady, match="GRANT USAGE, CREATE ON SCHEMA public"):
                await engine.statistics()
            assert time.monotonic() - began < 5
            assert await run.result(timeout=SECONDS_MAX) == sum(range(30))

    asyncio.run(main())
    said = [record.getMessage() for record in caplog.records]
    assert not [text for text in said if "writing waits" in text or SECRET in text]


def test_no_password_is_printed_by_a_worker(server: Server, there: Path) -> None:
    """Nor by what it says when its server goes away and comes back."""
    (there / "flows.py").write_text(
        "from wfes import workflow\n\n\n@workflow\nasync def one() -> None: ...\n"
    )
    url = as_user(url_of(there), "careful:s3cret")
    tamper(there, "GRANT ALL ON ALL TABLES IN SCHEMA public TO careful")
    command = [sys.executable, "-m", "wfes", "--url", url, "worker", "flows"]
    with subprocess.Popen(command, cwd=there, stdout=PIPE, stderr=PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stderr is not None
            heard = [worker.stdout.readline()]
            assert heard[0].startswith("runs one on postgresql://careful:***@127.0.0.1")
            server.stop(immediate=True)
            code, said = ask_cli(url, "ls")
            assert (code, said.count("\n")) == (1, 1)
            heard += [worker.stderr.readline(), said]
            assert "writing waits until it is back" in heard[1]
            server.start()
            heard.append(worker.stderr.readline())
            assert heard[3].endswith("is written again\n")
            worker.terminate()
            assert worker.wait(SECONDS_MAX) == 0
            heard += [worker.stdout.read(), worker.stderr.read()]
        finally:
            worker.kill()
    assert "s3cret" not in "".join(heard)
