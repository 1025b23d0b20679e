"""Replays of many histories: what is told of handler code that never comes back."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from wfes import Engine, Step, workflow
from wfes.timetravel import many
from wfes.timetravel.recording import Recording, read_recording
from wfes.timetravel.replay import ReplayReport

endless = False


@workflow
async def turning(step: Step) -> str:
    """Turned into an endless loop, once it has been recorded."""
    await step("first", str)
    while endless:
        try:
            time.sleep(0.001)
        except Exception:
            continue
    return "done"


def recorded(folder: Path) -> Recording:
    async def main() -> Recording:
        async with Engine(f"sqlite:///{folder}/log.db", workflows=[turning]) as engine:
            run = await turning.start(id="t-1")
            await run.result()
            return read_recording(engine._log, run.id, engine.url)

    return asyncio.run(main())


def test_an_endless_loop_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever had an alarm set still has it."""
    recording = recorded(tmp_path)
    known = {"turning": turning}
    good = many.replay_one(recording, known)
    assert isinstance(good, ReplayReport)
    assert good.ok

    monkeypatch.setattr(many, "SECONDS_MAX", 0.1)
    monkeypatch.setitem(globals(), "endless", True)
    handler, (left, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    answer = many.replay_one(recording, known)
    assert isinstance(answer, many.Unreplayed)
    assert str(answer) == (
        "instance t-1 of turning: not replayed: "
        "it takes more than 0.1 s: look for an endless loop in the handler"
    )
    assert signal.getsignal(signal.SIGALRM) is handler
    still, _ = signal.getitimer(signal.ITIMER_REAL)
    assert (0 < still < left) if left else still == 0
