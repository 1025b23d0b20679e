"""What is done wrong is told at once, by name and value, and harms nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Engine, Event, LogUnavailable, Status, Step, WorkflowFailed, WorkflowTimedOut, workflow
from wfes.core import events as e
from wfes.core.decide import FRUITLESS_MAX, Claim, Resume, decide
from wfes.core.evolve import evolve, fold
from wfes.core.state import InstanceState
from wfes.log.sqlite import SQLiteLog

LATEST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))


class Counts(BaseModel):
    n: int = 0


def never(*args: Any) -> None:
    raise AssertionError("called")


@workflow(requests={"approval": bool}, state=Counts)
async def misuse(what: str, step: Step, state: Counts, workflow: Any) -> Any:
    match what:
        case "retry":
            await step("a", never, retry=3)  # type: ignore[call-overload]
        case "percent":
            await step.progress("p", percent=float("nan"))
        case "share":
            await step.progress("p", percent="x")  # type: ignore[arg-type]
        case "message":
            await step.progress(5)  # type: ignore[arg-type]
        case "question":
            await step.request("approval", 5)  # type: ignore[call-overload]
        case "wait":
            await step.wait_for_workflow("n", None)  # type: ignore[arg-type]
        case "send":
            await step.send("n", 7, Event("e"))  # type: ignore[arg-type]
        case "late":
            await step.sleep_until("s", LATEST)
        case "itself":
            return await workflow.result()
        case "state":
            state.n = "x"  # type: ignore[assignment]
        case "arguments":
            await step("a", never_two, 1)
        case _:
            raise AssertionError(what)
    return None


def never_two(a: int, b: int) -> None:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("retry", "TypeError", "retry is 3"),
        ("percent", "ValueError", "percent is nan"),
        ("share", "TypeError", "percent is 'x'"),
        ("message", "TypeError", "not 5"),
        ("question", "TypeError", "'approval'"),
        ("wait", "TypeError", "wait_for_workflow('n')"),
        ("send", "TypeError", "send('n')"),
        ("late", "ValueError", "year 9999"),
        ("itself", "ValueError", "its own result"),
        ("state", "ValidationError", "valid integer"),
        ("arguments", "wfes.StepError", "after 1 attempt"),
    ],
)
def test_misuse_in_a_handler_is_told_at_the_call(what: str, kind: str, words: str) -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[misuse]):
            run = await misuse.start(what)
            with pytest.raises(WorkflowFailed) as caught:
                await run.result(timeout=20)
            error = caught.value.error
            assert error is not None
            assert error.type.endswith(kind), error
            assert words in error.message

    asyncio.run(main())


def test_a_moment_nobody_could_read_back_is_refused() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[misuse], worker=False):
            run = await misuse.start("wait")
            with pytest.raises(ValueError, match="year 9999"):
                await run.set_timeout(at=LATEST)
            await run.set_timeout(at=datetime(9998, 1, 1, tzinfo=UTC))
            assert (await run.history())[-1].data["deadline"].year == 9998

    asyncio.run(main())


@workflow(timeout=0.2)
async def blocking(last: bool, step: Step) -> str:
    time.sleep(0.3)
    if not last:
        await step("after", never)
    return "done"


@pytest.mark.parametrize("last", [True, False])
def test_a_handler_that_blocks_longer_than_its_timeout_times_out(last: bool) -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[blocking]):
            with pytest.raises(WorkflowTimedOut, match="blocked the event loop"):
                await (await blocking.start(last)).result(timeout=20)

    asyncio.run(main())


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:"])
def test_a_url_that_would_keep_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        Engine(url)


def test_a_file_removed_under_an_open_log_takes_nothing_more(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "a.db")
    log.open([])
    log.begin().rollback()
    aside = tmp_path / "aside.db"
    (tmp_path / "a.db").rename(aside)
    with pytest.raises(LogUnavailable, match="removed or replaced"):
        log.begin()
    aside.rename(tmp_path / "a.db")
    log.begin().rollback()
    log.close()


def test_an_instance_whose_workers_die_one_after_the_other_is_paused() -> None:
    started = e.WorkflowStarted(at=1, workflow="w")
    state = fold("i", [e.Recorded("i", 1, started)])

    def put(state: InstanceState, *events: e.Event) -> None:
        for event in events:
            evolve(state, event, state.version + 1)

    for number in range(FRUITLESS_MAX):
        decision = decide(state, Claim(worker=f"w{number}", code=None, dead=state.worker), 10 + number)
        assert isinstance(decision, list)
        assert isinstance(decision[0], e.RunClaimed)
        put(state, *decision)
    decision = decide(state, Claim(worker="next", code=None, dead=state.worker), 50)
    assert isinstance(decision, list)
    assert isinstance(decision[0], e.WorkflowPaused)
    put(state, *decision)
    assert state.status is Status.PAUSED
    assert state.worker is None
    assert state.runnable_at() is None
    resumed = decide(state, Resume(), 60)
    assert isinstance(resumed, list)
    put(state, *resumed)
    assert state.runnable_at() == 0
    decision = decide(state, Claim(worker="next", code=None), 70)
    assert isinstance(decision, list)
    assert isinstance(decision[0], e.RunClaimed)


BUSY = """
    from wfes import Engine, workflow
    import asyncio

    @workflow
    async def spin() -> None:
        print("spinning", flush=True)
        while True:
            pass

    async def main() -> None:
        async with Engine("sqlite://", workflows=[spin]) as engine:
            forever = asyncio.create_task(engine.run_forever())
            await asyncio.sleep(0)
            await spin.start()
            await forever

    asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_second_signal_ends_a_process_whose_loop_is_blocked() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUSY)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spinning\n"
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
