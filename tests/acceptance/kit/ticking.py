"""Engines that only keep a schedule, in processes that are killed, on a clock that runs fast.

As a script it has everything imported and no thread, and forks one child after another; each opens an engine and lives
for a random moment until it gets SIGKILL. What two such scripts share is the log and the beginning of virtual time.
With no kills it runs one engine to the end of all ticks instead. It answers with one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from places import url_of

from wfes import Engine, Schedule, Status, Step, workflow
from wfes.core.state import ACTIVE
from wfes.log.open import open_log
from wfes.runtime.clock import Clock, SystemClock

TICKS = 500
CRON = "0-49 0 1 1 * */6"
"""Ten ticks a minute for fifty minutes, once a year."""
LEAD_SECONDS = 60
VIRTUAL_SECONDS = 50 * 60 + LEAD_SECONDS
BEGINNING = 1_893_456_000 - LEAD_SECONDS
"""2030-01-01, and a little before, in seconds since the Unix epoch."""
LIFE_SECONDS = (0.03, 0.35)
FINISH_SECONDS_MAX = 100.0


@workflow(name="tick", schedule=Schedule(CRON, overlap="allow", catch_up="1d"))
async def ticking(step: Step) -> int:
    """What a tick starts."""
    return await step("one", lambda: 1)


@dataclass(frozen=True)
class Run:
    """A run of all ticks: where, from when on (`time.time_ns`), and how much faster than real time."""

    folder: str
    base: int
    speed: float

    @property
    def url(self) -> str:
        """The log's URL."""
        return url_of(Path(self.folder))

    def now(self) -> int:
        """Virtual nanoseconds since the Unix epoch; they stand still until the run begins."""
        return BEGINNING * 1_000_000_000 + round(max(0, time.time_ns() - self.base) * self.speed)


class _Hurried:
    """As much of an event loop as a clock needs, for times that are virtual."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float) -> None:
        self._loop = loop
        self._speed = speed

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Calls back when so much virtual time has passed."""
        return self._loop.call_later(delay / self._speed, callback, *args)


class _FastClock(SystemClock):
    """A clock that no server sets."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, None if name == "ahead" else value)


class FastEngine(Engine):
    """An engine whose time runs fast."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.url, workflows=[ticking])
        self._run = run

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        hurried: Any = _Hurried(loop, self._run.speed)
        return _FastClock(hurried, self._run.now, self._run.now)


async def _live(run: Run) -> None:
    async with FastEngine(run):
        await asyncio.Event().wait()


async def define(run: Run) -> None:
    """Makes the log and the schedule."""
    async with FastEngine(run):
        pass


async def _finish(run: Run) -> None:
    """Lets every tick have its end."""
    async with FastEngine(run) as engine, asyncio.timeout(FINISH_SECONDS_MAX):
        while True:
            (row,) = (await engine.schedules()).items
            for held in (await engine.instances(status=Status.PAUSED)).items:
                # Too many of its owners in a row were killed.
                await (await engine.get(held.id)).resume()
            if row.started >= TICKS and not (await engine.instances(status=ACTIVE, limit=1)).items:
                return
            await asyncio.sleep(0.05)


def _killed(run: Run, seconds: float) -> bool:
    """Forks a child that runs an engine, and kills it; whether it lived so long."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(_live(run))
        except BaseException as error:
            Path(run.folder, f"failed-{os.getpid()}").write_text(repr(error))
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def _main() -> None:
    warnings.simplefilter("error")
    asked = json.loads(sys.argv[1])
    kills, seed = asked.pop("kills"), asked.pop("seed")
    run = Run(**asked)
    open_log(run.url)  # imports what it needs, so that no child has to
    chance = random.Random(seed)
    killed = sum(_killed(run, chance.uniform(*LIFE_SECONDS)) for _ in range(kills))
    if not kills:
        asyncio.run(_finish(run))
    print(json.dumps({"killed": killed}), flush=True)


def command(run: Run, kills: int, seed: int) -> list[str]:
    """The command line of such a process."""
    return [sys.executable, __file__, json.dumps({**asdict(run), "kills": kills, "seed": seed})]


if __name__ == "__main__":
    _main()
