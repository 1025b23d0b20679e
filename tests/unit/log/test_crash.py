"""Two processes write to one file and are killed in the middle: what is there is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wfes.core import chain
from wfes.log.application import digest
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes.subscription.rebuild import bring_up
from wfes_projections import inline

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "writer.py"


def tables(log: Log) -> list[list[tuple[Any, ...]]]:
    return [sorted(log.read(f"SELECT * FROM {given.name}"), key=repr) for given in inline()]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("head", [200, 3000])
def test_killed_writers_leave_a_whole_log(tmp_path: Path, head: int) -> None:
    path = tmp_path / "log.db"
    log = open_log(f"sqlite:///{path}")
    log.open([])
    bring_up(log, inline())
    command = [sys.executable, str(BENCHMARK), "--instances", "20", "--steps", "5000", "--file", str(path)]
    children = [subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL) for _ in range(2)]
    try:
        limit = time.monotonic() + 30
        while log.max_notification_id() < head:
            assert time.monotonic() < limit
            time.sleep(0.005)
    finally:
        for child in children:
            child.kill()
        codes = [child.wait() for child in children]
    assert codes == [-signal.SIGKILL] * 2

    tails: dict[str, tuple[int, bytes]] = {}
    for position, stored in enumerate(log.select_notifications(None, 10**9), 1):
        stream = str(stored.originator_id)
        version, expected = tails.get(stream, (0, chain.GENESIS))
        assert stored.id == position
        assert stored.originator_version == version + 1
        assert stored.state[: chain.SIZE] == expected
        tails[stream] = version + 1, digest(stored)
    assert tails

    live = tables(log)
    transaction = log.begin()
    transaction.query("UPDATE wfes_projections SET version = 0")
    transaction.commit()
    bring_up(log, inline())
    assert tables(log) == live
    log.close()
