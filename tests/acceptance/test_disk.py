"""No disk space: the engine says so, keeps answering reads, and goes on by itself when there is space again."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import corpus
import pg_server
import pytest
import scenarios
from checks import broken_chains, calls_in, histories_of, malformed, stored_events, wrong_rows
from places import placed, tamper, url_of
from scenarios import finished, spawn

import wfes
from wfes import Engine, Status
from wfes.log import faults
from wfes.log.faults import Fault, FaultyLog

NO_SPACE = "no space is left on the disk"
NO_SPACE_THERE = "no space is left on the server's disk"


def check(folder: Path) -> None:
    """Everything is there, once."""
    stored = stored_events(folder)
    histories = histories_of(stored)
    assert "refused" not in histories
    problems = broken_chains(stored) + wrong_rows(folder, stored)
    for stream, history in histories.items():
        if not stream.startswith("$"):
            problems += malformed(history)
    assert problems == []
    assert set(Counter(calls_in(folder / "calls")).values()) == {1}, "a step ran twice"


@pytest.fixture
def small_disk() -> Generator[Path]:
    """A file system of 3 MB, for every user to reach; only root can make one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("making a file system takes root")
    folder = Path(tempfile.mkdtemp(prefix="wfes-disk-"))
    folder.chmod(0o755)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "wfes-test", folder], capture_output=True)
    if made.returncode:
        folder.rmdir()
        pytest.skip(f"no file system can be made here: {made.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_a_disk_that_is_full(small_disk: Path) -> None:
    """A real one, in a process of its own."""
    out = finished(spawn("full_disk", small_disk, "fill"))
    assert out.count(NO_SPACE) == 2, out
    check(small_disk)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A quota: the system refuses to let files grow."""
    out = finished(spawn("full_disk", tmp_path, "limit"))
    assert out.count("is unavailable: ") == 2, out
    check(tmp_path)


def test_a_server_without_space(tmp_path: Path) -> None:
    """PostgreSQL says so by its code for it; here a trigger does."""
    with placed(tmp_path, "postgresql") as folder:
        out = finished(spawn("full_disk", folder, "refuse"))
        assert out.count(NO_SPACE_THERE) == 2, out
        check(folder)


def test_a_server_s_disk_that_is_full(small_disk: Path) -> None:
    """A real one: the table of events lies on it, in a tablespace."""
    if pg_server.VARIABLE in os.environ:
        pytest.skip("the server is not this test's own")
    space = small_disk / "space"
    space.mkdir()
    shutil.chown(space, "nobody")
    with placed(small_disk, "postgresql") as folder:
        opened = Engine(url_of(folder))
        asyncio.run(_open(opened))
        tamper(folder, f"CREATE TABLESPACE wfes_small LOCATION '{space}'")
        try:
            tamper(folder, "ALTER TABLE wfes_events SET TABLESPACE wfes_small")
            out = finished(spawn("full_disk", folder, "fill"))
            assert out.count(NO_SPACE_THERE) == 2, out
            check(folder)
        finally:
            tamper(folder, "ALTER TABLE wfes_events SET TABLESPACE pg_default")
            tamper(folder, "DROP TABLESPACE wfes_small")


async def _open(engine: Engine) -> None:
    async with engine:
        pass


def test_a_full_disk_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Steps wait without failing, commands are refused unrecorded, reads are answered, one warning is written."""
    corpus.use(folder / "calls")

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.steady]) as engine:
            log, writer = engine._log, engine._parts._writer
            assert isinstance(log, FaultyLog)
            assert writer is not None
            writer._command_timeout = 0.2
            run = await scenarios.steady.start(30, id="run")
            while (await run.refresh()).version < 10:
                await asyncio.sleep(0.002)
            log.faults = [Fault.parse("full:1-")]
            with pytest.raises(wfes.LogUnavailable, match=NO_SPACE):
                await scenarios.steady.start(1, id="refused")
            with pytest.raises(wfes.LogUnavailable, match=NO_SPACE):
                await run.cancel()
            assert (await run.refresh()).status == Status.IN_PROGRESS
            assert [row.id for row in await engine.instances()] == ["run"]
            with pytest.raises(TimeoutError):
                await run.result(timeout=0.05)
            log.faults = []
            assert await run.result(timeout=20) == sum(range(30))

    with faults.installed("slow:999999:0"), caplog.at_level(logging.WARNING, "wfes"):
        asyncio.run(main())
    assert [record.message.count(NO_SPACE) for record in caplog.records if NO_SPACE in record.message] == [1]
    check(folder)


def test_closing_does_not_wait_for_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean stop with a full disk gives up in time, loses nothing recorded, and the next engine goes on."""
    monkeypatch.setattr("wfes.runtime.worker.LEAVING_SECONDS", 0.5)
    monkeypatch.setattr("wfes.runtime.membership.SIGN_OFF_SECONDS", 0.5)
    corpus.use(folder / "calls")

    async def stop() -> float:
        engine = Engine(url_of(folder), workflows=[scenarios.steady])
        await engine.open()
        run = await engine.start(scenarios.steady, 30, id="run")
        while (await run.refresh()).version < 10:
            await asyncio.sleep(0.002)
        log = engine._log
        assert isinstance(log, FaultyLog)
        log.faults = [Fault.parse("full:1-")]
        began = time.monotonic()
        await engine.close(grace=0.5)
        return time.monotonic() - began

    async def go_on() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.steady]) as engine:
            run = await engine.get(scenarios.steady, "run")
            assert await run.result(timeout=20) == sum(range(30))

    with faults.installed("slow:999999:0"):
        assert asyncio.run(stop()) < 5
    asyncio.run(go_on())
    stored = stored_events(folder)
    assert broken_chains(stored) == []
    assert malformed(histories_of(stored)["run"]) == []
