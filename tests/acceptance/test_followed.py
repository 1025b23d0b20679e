"""A log that four processes write at once is followed while they do: no event is missed, none is handled twice.

Three of the writers use the log's adapter, with batches of any size, pauses before and inside their transactions, and
rollbacks after the insert; the fourth is an engine whose members change their minds. The projection notes for each
stream and for the whole log what it was shown; in the end that is compared with what the writers know they committed.

``WFES_FOLLOWED=1000000`` is how many events there are; by default a few thousand, times ``WFES_TEST_SCALE``, fewer on
PostgreSQL.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import followed
import pytest
from places import url_of
from scenarios import environment

SCALE = float(os.environ.get("WFES_TEST_SCALE", "1"))
EVENTS = {
    "sqlite": int(os.environ.get("WFES_FOLLOWED", 24_000 * SCALE)),
    "postgresql": int(os.environ.get("WFES_FOLLOWED", 4_000 * SCALE)),
}
SECONDS_MAX = 40 + max(EVENTS.values()) / 500
KILLS = max(5, EVENTS["sqlite"] // 20_000)

pytestmark = pytest.mark.timeout(SECONDS_MAX + 60)


def spawn(name: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, followed.__file__, name, str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finished(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=SECONDS_MAX)
    assert child.returncode == 0, f"it ended with {child.returncode}: {out}{err}"
    return out


class Writers:
    """Four processes that write."""

    def __init__(self, folder: Path) -> None:
        share = str(EVENTS[urlsplit(url_of(folder)).scheme] // 4)
        self.began = time.monotonic()
        self.seconds = 0.0
        self._children = [spawn("write", folder, name, share) for name in "abc"]
        self._children.append(spawn("write_by_engine", folder, "d", share))

    @property
    def busy(self) -> bool:
        return any(child.poll() is None for child in self._children)

    def finish(self, folder: Path) -> None:
        for child in self._children:
            finished(child)
        self.seconds = time.monotonic() - self.began
        (folder / "written").touch()

    def kill(self) -> None:
        for child in self._children:
            child.kill()
            child.communicate()


def follower(folder: Path, mode: str, name: str) -> subprocess.Popen[str]:
    """A process that follows, and has begun to."""
    (folder / f"ready-{name}").unlink(missing_ok=True)
    child = spawn("follow", folder, mode, name)
    limit = time.monotonic() + SECONDS_MAX
    while not (folder / f"ready-{name}").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    return child


def compare(folder: Path, followers: list[subprocess.Popen[str]], writers: Writers) -> None:
    expected = followed.expected(folder)
    for child in followers:
        found: dict[str, Any] = json.loads(finished(child))
        behind = found.pop("seconds")
        assert found == expected
        print(
            f"{expected['events']} events written in {writers.seconds:.1f} s, all handled {behind:.2f} s later",
            file=sys.stderr,
        )


@pytest.mark.parametrize("mode", ["following", "own", "inline"])
def test_none_missed_none_twice(folder: Path, mode: str) -> None:
    """By one process: beside the log, in a database of its own, and inline."""
    child = follower(folder, mode, "one")
    writers = Writers(folder)
    try:
        writers.finish(folder)
        compare(folder, [child], writers)
    finally:
        writers.kill()
        child.kill()
        child.communicate()


@pytest.mark.parametrize("mode", ["following", "own", "inline"])
def test_none_missed_none_twice_by_two_that_are_killed(folder: Path, mode: str) -> None:
    """By two processes that follow the same rows, each killed again and again and started anew."""
    chance = random.Random(mode)
    children = {name: follower(folder, mode, name) for name in ("one", "two")}
    writers = Writers(folder)
    killed = 0
    try:
        while writers.busy and killed < KILLS:
            time.sleep(chance.uniform(0.05, 0.5))
            name = chance.choice(sorted(children))
            children[name].kill()
            children[name].communicate()
            killed += 1
            children[name] = follower(folder, mode, name)
        assert killed, "everything was written before anybody could be killed"
        writers.finish(folder)
        compare(folder, list(children.values()), writers)
    finally:
        writers.kill()
        for child in children.values():
            child.kill()
            child.communicate()
