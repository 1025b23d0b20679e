"""The writer while the database fails: nothing lost, nothing twice, nothing made up."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wfes.core import events as e
from wfes.errors import LogUnavailable
from wfes.log.application import decode
from wfes.log.faults import Fault, FaultyLog, installed
from wfes.log.open import open_log
from wfes.log.port import Log

Run = Callable[..., None]
Until = Callable[[Callable[[], object]], Awaitable[None]]


def progress(message: str) -> e.ProgressRecorded:
    return e.ProgressRecorded(at=2, path="p", message=message)


def messages(log: Log, stream: str = "i") -> list[str]:
    found = [decode(stored).event for stored in log.select_events(stream)]
    return [event.message for event in found if isinstance(event, e.ProgressRecorded)]


@pytest.mark.parametrize(
    "fault",
    ["fail:2", "lost:2", "full:2", "away:2", "fail:2-5", "lost:2-4", "full:2-6", "away:2-4", "slow:2:0.05"],
)
def test_each_event_is_recorded_once_whatever_fails(
    run: Run, log: FaultyLog, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "wfes.log")

    async def test(bench: Any) -> None:
        await bench.start("i")
        versions = await asyncio.gather(*[bench.append("i", progress(str(n))) for n in range(10)])
        assert versions == list(range(3, 13))
        for n in range(10, 15):
            assert await bench.append("i", progress(str(n))) == n + 3
        assert bench.writer.trouble is None
        await bench.append("i", e.EventReceived(at=3, event="x"))
        assert bench.positions == [1, 2, 18]
        heads = [batch.head for batch in bench.batches]
        assert heads == sorted(set(heads))

    run(test, fault)
    assert messages(log) == [str(n) for n in range(15)]
    assert log.read("SELECT status, worker FROM wfes_instances JOIN wfes_work USING (id)") == [
        ("in_progress", "w")
    ]


def test_lost_answer_is_not_repeated_when_another_wrote_since(shared_url: str, until: Until) -> None:
    """The commit whose answer was lost is found even behind newer events of another process, and those are told of
    though nothing happens afterwards."""
    url = shared_url
    other = open_log(url)

    class Racing(FaultyLog):
        def error(self, reason: str) -> LogUnavailable:
            transaction = other.begin()
            last = transaction.last("i")
            assert last is not None
            version = last.originator_version + 1
            state = bytes(32) + b'{"at":1,"path":"p","message":"other"}'
            transaction.insert([(transaction.head + 1, "i", version, "ProgressRecorded", state)])
            transaction.commit()
            return super().error(reason)

    async def main() -> None:
        from wfes.log.writer import Writer

        log = Racing(open_log(url), "lost:2")
        log.open([])
        other.open([])
        heads: list[int] = []
        writer = Writer(log, clock=lambda: 1, deliver=lambda batch: heads.append(batch.head))
        loop = asyncio.get_running_loop()
        writer.start(loop)

        class Append:
            def __init__(self, *events: e.Event) -> None:
                self.events = events
                self.future: asyncio.Future[int] = loop.create_future()

            def run(self, tx: Any) -> int:
                version: int = tx.append("i", self.events)
                return version

            def done(self, result: int) -> None:
                self.future.set_result(result)

            def failed(self, error: Exception) -> None:
                self.future.set_exception(error)

        try:
            for append, version in (
                (Append(e.WorkflowStarted(at=1, workflow="w")), 1),
                (Append(progress("mine")), 2),
            ):
                writer.submit(append)
                assert await append.future == version
            await until(lambda: heads[-1] == 3)
            last = Append(progress("mine too"))
            writer.submit(last)
            assert await last.future == 4
            assert heads == sorted(set(heads))
            assert messages(log) == ["mine", "other", "mine too"]
        finally:
            writer.stop()
            log.close()
            other.close()

    asyncio.run(main())


def test_no_space_then_space_again(
    run: Run, log: FaultyLog, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Any) -> None:
        await bench.start("i")
        log.faults = [Fault.parse("full:1-")]
        owner = bench.append("i", progress("owner"))
        await until(lambda: bench.writer.trouble is not None)
        assert "no space" in bench.writer.trouble.reason
        assert len(log.select_events("i")) == 2, "reading goes on"
        command = bench.append("i", progress("command"), withdrawable=True)
        with pytest.raises(LogUnavailable, match="no space"):
            await asyncio.wait_for(command, 10)
        assert not owner.done()
        log.faults = []
        assert await asyncio.wait_for(owner, 10) == 3
        await until(lambda: bench.writer.trouble is None)
        assert await bench.append("i", progress("after"), withdrawable=True) == 4

    run(test, command_timeout=0.1)
    assert messages(log) == ["owner", "after"]
    said = [record.getMessage() for record in caplog.records if record.name == "wfes.log"]
    assert len(said) == 2, "said once when it begins, once when it is over"


def test_commands_are_given_back_while_the_outcome_of_a_commit_is_unknown(
    run: Run, log: FaultyLog, until: Until
) -> None:
    """The log goes away in mid-commit: what was in that commit waits for the truth, what came later does not."""

    async def test(bench: Any) -> None:
        await bench.start("i")
        log.faults = [Fault.parse(f"lost:{log.commits + 1}"), Fault.parse(f"away:{log.commits + 2}-")]
        unknown = bench.append("i", progress("unknown"), withdrawable=True)
        await until(lambda: bench.writer.trouble is not None)
        later = bench.append("i", progress("later"), withdrawable=True)
        with pytest.raises(LogUnavailable, match="cannot be reached"):
            await asyncio.wait_for(later, 10)
        owner = bench.append("i", progress("owner"))
        assert not unknown.done()
        log.faults = []
        assert await asyncio.wait_for(unknown, 10) == 3
        assert await asyncio.wait_for(owner, 10) == 4

    run(test, command_timeout=0.1)
    assert messages(log) == ["unknown", "owner"]


def test_stop_does_not_wait_for_a_log_in_trouble(run: Run, log: FaultyLog, until: Until) -> None:
    async def test(bench: Any) -> None:
        await bench.start("i")
        log.faults = [Fault.parse("away:1-")]
        future = bench.append("i", progress("never"))
        await until(lambda: bench.writer.trouble is not None)
        began = time.monotonic()
        bench.stop()
        assert time.monotonic() - began < 5
        assert isinstance(future.exception(), LogUnavailable)

    run(test)


def test_nobody_waits_for_a_writer_that_has_stopped(run: Run, log: FaultyLog, until: Until) -> None:
    async def test(bench: Any) -> None:
        await bench.start("i")
        log.faults = [Fault.parse("away:1-")]
        queued = [bench.append("i", progress(str(n))) for n in range(3)]
        await until(lambda: bench.writer.trouble is not None)
        loop_thread = threading.get_ident()
        woken: list[int] = []
        waiting = [asyncio.ensure_future(bench.writer.room()) for _ in range(4)]
        await until(lambda: len(bench.writer._room) == 4)
        make_room = bench.writer._outbox._told

        def told() -> None:
            woken.append(threading.get_ident())
            make_room()

        bench.writer._outbox._told = told
        await asyncio.to_thread(bench.stop)
        for outcome in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
            assert isinstance(outcome, LogUnavailable), outcome
        assert set(woken) == {loop_thread}, "futures belong to the loop's thread"
        late = bench.append("i", progress("late"))
        for future in (*queued, late):
            with pytest.raises(LogUnavailable):
                await asyncio.wait_for(future, 10)
        with pytest.raises(LogUnavailable, match="stopped"):
            await bench.writer.room()

    run(test, queue_max=2)
    assert messages(log) == []


# ------------------------------------------------------------------------------------------ the kit


def test_faults_are_read_from_text() -> None:
    assert Fault.parse("kill:before:17") == Fault("kill", 17, 17, "before")
    assert Fault.parse(" kill:after:2 ") == Fault("kill", 2, 2, "after")
    assert Fault.parse("full:4-6") == Fault("full", 4, 6)
    assert Fault.parse("slow:2:0.5") == Fault("slow", 2, 2, seconds=0.5)
    assert Fault.parse("away:3-").at(10**9)
    assert not Fault.parse("lost:3").at(4)


@pytest.mark.parametrize(
    "text", ["", "kill", "kill:17", "kill:during:1", "explode:1", "fail", "fail:x", "fail:1:2", "slow:1"]
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no fault"):
        Fault.parse(text)


def test_nothing_fails_unless_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WFES_FAULT", "fail:1")
    assert not isinstance(open_log("sqlite://"), FaultyLog)
    with installed():
        log = open_log("sqlite://")
        assert isinstance(log, FaultyLog)
        assert log.faults == [Fault("fail", 1, 1)]
    assert not isinstance(open_log("sqlite://"), FaultyLog)
    monkeypatch.delenv("WFES_FAULT")
    with installed():
        assert not isinstance(open_log("sqlite://"), FaultyLog)


CHILD = """
import sys
import threading
from wfes.log import faults
from wfes.log.open import open_log

with faults.installed():
    log = open_log(sys.argv[1])
    log.open([])
    for version in range(1, 6):
        transaction = log.begin()
        transaction.insert([(version, "i", version, "T", b"{}")])
        transaction.commit()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(("fault", "kept"), [("kill:before:3", 2), ("kill:after:3", 3)])
def test_kill_at_a_commit(shared_url: str, fault: str, kept: int) -> None:
    url = shared_url
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url], env={**os.environ, "WFES_FAULT": fault}, check=False, timeout=30
    )
    assert child.returncode == -signal.SIGKILL
    log = open_log(url)
    log.open([])
    try:
        assert log.max_notification_id() == kept
        assert len(log.select_events("i")) == kept
    finally:
        log.close()
