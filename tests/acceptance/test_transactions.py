"""A caller's rows and the log's, together or not at all, with faults and SIGKILL at every commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import scenarios
import transacting
from places import DATABASES, placed

COMMITS_MAX = 200
ALL = bool(os.environ.get("WFES_CRASHES_ALL"))
STRIDE = {"sqlite": 1 if ALL else 3, "postgresql": 1 if ALL else 9}
"""Every so many commits one is tried."""


class Trials:
    """A process that has everything imported, and forks one child a run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, transacting.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=scenarios.environment(),
        )

    def run(self, folder: Path, fault: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), fault]) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def trials() -> Generator[Trials]:
    trials = Trials()
    yield trials
    trials.close()


def run(trials: Trials, folder: Path, database: str, fault: str) -> dict[str, Any]:
    with placed(folder, database):
        return trials.run(folder, fault)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit(trials: Trials, tmp_path: Path, database: str, when: str) -> None:
    missed = 0
    for number in range(1, COMMITS_MAX, STRIDE[database]):
        folder = tmp_path / str(number)
        found = run(trials, folder, database, f"kill:{when}:{number}")
        assert found["problems"] == [], f"killed {when} commit {number}; see {folder}"
        missed = 0 if found["killed"] else missed + 1
        if missed == 2:
            assert number > 8
            return
    pytest.fail("a run never ended before its last commit")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("kind", ["fail", "lost", "full", "away"])
def test_faults_at_every_commit(trials: Trials, tmp_path: Path, database: str, kind: str) -> None:
    """A commit that fails, or whose answer is lost, or that cannot be begun, is made once in the end."""
    for number in range(2, 30, 2 * STRIDE[database]):
        folder = tmp_path / str(number)
        found = run(trials, folder, database, f"{kind}:{number}")
        assert found["problems"] == [], f"{kind} at commit {number}; see {folder}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_caller_is_killed_at_his_own_commit(
    trials: Trials, tmp_path: Path, database: str, when: str
) -> None:
    """What he committed happens though nobody lives who knows of it; what he did not commit never happened."""
    for number in range(transacting.ORDERS):
        found = run(trials, tmp_path / str(number), database, f"order:{when}:{number}")
        assert found == {"killed": True, "problems": []}
