"""An engine whose PostgreSQL is away, restarts, cuts it off, has no connection left or lets statements take too long.

Each time the message is clear, nothing is lost, and work goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import corpus
import projected
import psycopg
import pytest
from chaotic import proxied
from checks import problems_of
from pg_server import Server
from places import put, url_of
from proxy import Proxy

from wfes import Engine, LogUnavailable, Step, workflow
from wfes.log.open import open_log

SECONDS_MAX = 20.0


@workflow
async def steady(number: int, step: Step) -> int:
    """Many small steps."""
    total: int = 0
    for index in range(number):
        total += await step("add", corpus.same_async, index)
    return total


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    server = Server("max_connections=12", "superuser_reserved_connections=1", "reserved_connections=0")
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trial's folder, with its log in a new database of a server of these tests' own."""
    server.stop()
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS trial WITH (FORCE)")
        connection.execute("CREATE DATABASE trial TEMPLATE template0")
    put(tmp_path, server.url.replace("/postgres", "/trial"))
    corpus.use(tmp_path / "calls")
    monkeypatch.setattr("wfes.log.postgres_connection.WAIT_SECONDS", 1.0)
    return tmp_path


def opened(folder: Path, **options: Any) -> Engine:
    return Engine(url_of(folder), workflows=[steady, *corpus.WORKFLOWS], projections=projected.ALL, **options)


async def until(true: Callable[[], Awaitable[Any]]) -> None:
    limit = time.monotonic() + SECONDS_MAX
    while not await true():
        assert time.monotonic() < limit, "it did not become true in time"
        await asyncio.sleep(0.005)


async def until_version(run: Any, version: int) -> None:
    async def reached() -> bool:
        return bool((await run.refresh()).version >= version)

    await until(reached)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------------------------- at the start


def test_a_server_that_is_away_at_the_start(server: Server, there: Path) -> None:
    """Opening says at once what is wrong, may be tried again, and works once the server is there."""

    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(LogUnavailable, match="the server cannot be reached") as caught:
            async with opened(there):
                pass
        assert time.monotonic() - began < 5
        assert caught.value.retryable
        assert "Connection refused" in str(caught.value)

    server.stop(immediate=True)
    asyncio.run(main())
    server.start()

    async def again() -> None:
        async with opened(there):
            assert await (await steady.start(3)).result(timeout=SECONDS_MAX) == 3

    asyncio.run(again())


def test_a_worker_that_is_started_before_its_server(server: Server, there: Path) -> None:
    """`wfes worker` says what is wrong, tries again, and works once the server is there; else it ends."""
    (there / "early.py").write_text(
        "from wfes import workflow\n\n\n@workflow\nasync def early() -> None: ...\n"
    )
    command = [sys.executable, "-m", "wfes", "--url", url_of(there), "worker", "early"]
    server.stop(immediate=True)
    with subprocess.Popen(command, cwd=there, stdout=PIPE, stderr=PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stderr is not None
            said = worker.stderr.readline()
            assert "the server cannot be reached (Connection refused" in said
            assert said.endswith("; it is tried again in 0.5 s\n")
            server.start()
            assert worker.stdout.readline().startswith("runs early on ")
            worker.terminate()
            assert (worker.wait(SECONDS_MAX), worker.stdout.read()) == (0, "stopped\n")
        finally:
            worker.kill()

    command[4] = server.url.replace("/postgres", "/nowhere")
    found = subprocess.run(
        command, cwd=there, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert (found.returncode, found.stderr.count("there is no such database")) == (1, 1)


# ------------------------------------------------------------------------------------- in the middle


@pytest.mark.parametrize("how", ["crash", "shutdown"])
def test_a_server_that_goes_away_in_the_middle(
    server: Server, there: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """It is said once; commands get the reason; reads too; what runs goes on when the server is back."""

    async def main() -> None:
        async with opened(there) as engine:
            writer = engine._parts._writer
            assert writer is not None
            writer._command_timeout = 0.3
            runs = [await steady.start(40, id=f"run-{n}") for n in range(5)]
            await until_version(runs[0], 12)
            server.stop(immediate=how == "crash")
            with pytest.raises(LogUnavailable) as caught:
                await steady.start(1, id="refused")
            assert caught.value.retryable
            with pytest.raises(LogUnavailable):
                await engine.get("run-0")
            server.start()
            for run in runs:
                assert await run.result(timeout=SECONDS_MAX) == sum(range(40))
            assert await (await steady.start(3, id="after")).result(timeout=SECONDS_MAX) == 3
            assert {row.id for row in await engine.instances()} == {*(run.id for run in runs), "after"}

    asyncio.run(main())
    said = [text for text in told(caplog) if "writing waits until it is back" in text]
    assert len(said) == 1, told(caplog)
    assert "is unavailable" in said[0]
    assert problems_of(there) == []


@pytest.fixture
def proxy(there: Path) -> Generator[Proxy]:
    with Proxy(url_of(there)) as proxy:
        (there / "proxied").write_text(proxy.url(url_of(there)))
        yield proxy


def test_cut_connections_stop_no_projection(there: Path, proxy: Proxy) -> None:
    """Connections are cut again and again while projections follow: none of them takes that for a fault of its own."""
    chance = random.Random(1)

    async def main() -> None:
        engine = Engine(proxied(there), workflows=[steady], projections=projected.ALL)
        async with engine:
            runs = [await steady.start(60, id=f"run-{n}") for n in range(4)]
            for _ in range(15):
                await asyncio.sleep(chance.uniform(0, 0.2))
                proxy.cut_all()
            for run in runs:
                assert await run.result(timeout=SECONDS_MAX) == sum(range(60))
            for each in await engine.projections():
                assert each.error is None, each

    asyncio.run(main())
    assert problems_of(there) == []


def test_a_snapshot_that_is_cut_says_that_the_log_is_unavailable(there: Path, proxy: Proxy) -> None:
    log = open_log(proxied(there))
    log.open([])
    try:
        with log.snapshot() as snapshot:
            proxy.cut_all()
            # The cut comes from the proxy's thread, at any moment now.
            with pytest.raises(LogUnavailable):
                snapshot.query("SELECT pg_sleep(20)")
    finally:
        log.close()


# ------------------------------------------------------------------------------ limits of the server


def _set(server: Server, setting: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE trial SET {setting}".encode())


def test_a_statement_that_takes_too_long(
    server: Server, there: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a statement_timeout on the database a writer that has to wait for another is cut off, and tries again."""
    _set(server, "statement_timeout = '100ms'")

    async def main() -> None:
        async with opened(there):
            run = await steady.start(20, id="run")
            await until_version(run, 8)
            with psycopg.connect(url_of(there).partition("?")[0]) as other:
                other.execute("SELECT pg_advisory_xact_lock(2003199347, hashtext(current_schema()))")
                await until(lambda: _said(caplog, "statement_timeout"))
            assert await run.result(timeout=SECONDS_MAX) == sum(range(20))

    asyncio.run(main())
    assert problems_of(there) == []


async def _said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in text for text in told(caplog))


@contextmanager
def all_connections(server: Server) -> Generator[ExitStack]:
    """Takes every connection that the server has."""
    with ExitStack() as stack:
        try:
            while True:
                stack.enter_context(psycopg.connect(server.url))
        except psycopg.OperationalError:
            yield stack


def test_too_many_connections(server: Server, there: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the server has none left it is said so, at the start and in the middle; it goes on when there is one."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("ALTER DATABASE trial OWNER TO plain")
    put(there, url_of(there).partition("?")[0].replace("wfes@", "plain@"))

    async def main() -> None:
        with all_connections(server):
            with pytest.raises(LogUnavailable, match="no connection left") as caught:
                async with opened(there):
                    pass
            assert caught.value.retryable
        async with opened(there) as engine:
            run = await steady.start(30, id="run")
            await until_version(run, 8)
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("ALTER ROLE plain CONNECTION LIMIT 0")
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'plain'"
                )
                await until(lambda: _said(caplog, "no connection left"))
                with pytest.raises(LogUnavailable, match="no connection left"):
                    await engine.get("run")
                connection.execute("ALTER ROLE plain CONNECTION LIMIT -1")
            assert await run.result(timeout=SECONDS_MAX) == sum(range(30))

    asyncio.run(main())
    assert problems_of(there) == []
