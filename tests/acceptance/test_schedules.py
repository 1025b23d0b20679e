"""Two engine processes on one log, killed at random moments while a schedule ticks: one instance a tick.

``WFES_CRASHES=N`` makes it N times as many kills as usual.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from places import url_of
from scenarios import environment
from ticking import BEGINNING, CRON, LIFE_SECONDS, TICKS, VIRTUAL_SECONDS, Run, command, define

from wfes.core import events as e
from wfes.core import schedules as core
from wfes.core.durations import SECOND
from wfes.log.application import decode
from wfes.log.open import open_log
from wfes.runtime.streams import schedule_stream
from wfes.runtime.ticks import ticks_of

TIMES = int(os.environ.get("WFES_CRASHES", "1"))
KILLS = {"sqlite": 200 * TIMES, "postgresql": 60 * TIMES}
PROCESSES = 2
HOUR_NANOS = 3_600_000_000_000
START_UP_NANOS = 1_000_000_000
"""What a process takes to import everything."""


@pytest.mark.timeout(200 + 60 * TIMES)
def test_each_tick_has_one_instance_however_often_engines_are_killed(folder: Path) -> None:
    """G6: 500 ticks, two processes, 200 kills with SIGKILL; fewer on PostgreSQL."""
    kills = KILLS[urlsplit(url_of(folder)).scheme]
    # Ticks and kills are to last equally long, opening an engine included.
    seconds = kills / PROCESSES * (sum(LIFE_SECONDS) / 2 + 0.02)
    speed = VIRTUAL_SECONDS / seconds
    asyncio.run(define(Run(str(folder), time.time_ns() + HOUR_NANOS, speed)))
    run = Run(str(folder), time.time_ns() + START_UP_NANOS, speed)
    processes = [
        subprocess.Popen(
            command(run, kills // PROCESSES, seed), stdout=subprocess.PIPE, text=True, env=environment()
        )
        for seed in range(PROCESSES)
    ]
    try:
        killed = sum(orjson.loads(process.communicate()[0])["killed"] for process in processes)
    finally:
        for process in processes:
            process.kill()
    failures = [path.read_text() for path in folder.glob("failed-*")]
    assert failures == []
    assert killed == kills
    subprocess.run(command(run, 0, 0), check=True, env=environment(), stdout=subprocess.DEVNULL)
    check(run)


def check(run: Run) -> None:
    log = open_log(run.url)
    log.open([])
    try:
        history = [decode(stored) for stored in log.select_events(schedule_stream("tick"))]
        rows = log.read("SELECT id, status FROM wfes_instances")
        (stored,) = log.read("SELECT state FROM wfes_schedules")
        starts = log.select_notifications(None, 100_000, topics=["WorkflowStarted"])
    finally:
        log.close()
    ticks = ticks_of(CRON, "UTC").between(BEGINNING * SECOND, (BEGINNING + VIRTUAL_SECONDS) * SECOND)
    expected = [tick.name for tick in ticks]
    assert len(expected) == TICKS
    started = [r.event for r in history if isinstance(r.event, e.TickStarted)]
    assert [event.tick for event in started] == expected
    assert [event.instance for event in started] == [f"tick@{name}" for name in expected]
    assert Counter(str(n.originator_id) for n in starts) == Counter(event.instance for event in started)
    assert dict(rows) == dict.fromkeys((event.instance for event in started), "completed")
    assert not [r for r in history if isinstance(r.event, (e.TicksMissed, e.TickSkipped))]
    assert core.from_json(orjson.loads(stored[0])) == core.fold_schedule("tick", history)
