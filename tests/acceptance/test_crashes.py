"""Every workflow of the corpus is killed with SIGKILL, at every commit and at random moments, and must go on.

After each kill a new process finishes everything. Then each instance ended as it must (nothing lost, nothing seen
differently), no step whose result was recorded had been called again, everything acknowledged is in the log, each
history is well-formed, its hash chain holds, and every projection, the engine's own and a user's, equals its rebuild.

``WFES_CRASHES=N`` repeats each of these tests N times. On PostgreSQL, where a run takes several times as long, only
some of the commits are tried and fewer random moments, unless ``WFES_CRASHES_ALL`` is set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from driver import CASES, GROUPS
from nursery import Nursery
from places import DATABASES, placed

TIMES = int(os.environ.get("WFES_CRASHES", "1"))
COMMITS_MAX = 400
ALL = bool(os.environ.get("WFES_CRASHES_ALL"))
STRIDE = {"sqlite": 1, "postgresql": 1 if ALL else 9}
"""Every so many commits one is tried."""
RANDOM_KILLS = {"sqlite": 25, "postgresql": 25 if ALL else 8}
"""A group; there are four."""
KILLS_IN_A_ROW = 4
"""After five in a row that cut off one step, its instance is paused, as it should be."""

groups = pytest.mark.parametrize("ids", GROUPS, ids=lambda ids: ids[0])
databases = pytest.mark.parametrize("database", DATABASES)


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def run(
    nursery: Nursery, folder: Path, database: str, ids: Sequence[str], kills: Sequence[str | float]
) -> dict[str, Any]:
    with placed(folder, database):
        return nursery.run(folder, ids, kills)


def test_every_case_is_in_one_group() -> None:
    assert sorted(id for ids in GROUPS for id in ids) == sorted(CASES)


@databases
@groups
def test_undisturbed(nursery: Nursery, tmp_path: Path, ids: tuple[str, ...], database: str) -> None:
    assert run(nursery, tmp_path, database, ids, [])["problems"] == []


@pytest.mark.timeout(300 * TIMES * (4 if ALL else 1))
@databases
@pytest.mark.parametrize("when", ["before", "after"])
@groups
def test_killed_at_every_commit(
    nursery: Nursery, tmp_path: Path, ids: tuple[str, ...], when: str, database: str
) -> None:
    """G1, G2, G3: right before and right after each commit of a run."""
    for time in range(TIMES):
        killed = missed = 0
        for number in range(1 + time % STRIDE[database], COMMITS_MAX, STRIDE[database]):
            folder = tmp_path / f"{time}-{number}"
            found = run(nursery, folder, database, ids, [f"kill:{when}:{number}"])
            assert found["problems"] == [], f"killed {when} commit {number}; see {folder}"
            killed += found["killed"]
            missed = 0 if found["killed"] else missed + 1
            if missed == 3:  # how many commits a run takes depends on what met in one: hardly fewer than nine
                assert killed * STRIDE[database] >= 9, f"killed at {killed} commits only"
                break
        else:
            pytest.fail("a run never ended before its last commit")


@pytest.mark.timeout(300 * TIMES * (4 if ALL else 1))
@databases
@groups
def test_killed_at_random_moments(
    nursery: Nursery, tmp_path: Path, ids: tuple[str, ...], database: str
) -> None:
    """G1, G3, G4: several kills in a row on one log, at moments of a run."""
    length = run(nursery, tmp_path / "undisturbed", database, ids, [])["seconds"]
    chance = random.Random(ids[0])
    kills_wanted = RANDOM_KILLS[database]
    for time in range(TIMES):
        killed = trial = 0
        while killed < kills_wanted:
            trial += 1
            kills = [chance.uniform(0.01, length) for _ in range(min(KILLS_IN_A_ROW, kills_wanted - killed))]
            folder = tmp_path / f"{time}-{trial}"
            found = run(nursery, folder, database, ids, kills)
            assert found["problems"] == [], f"killed after {kills} seconds; see {folder}"
            killed += found["killed"]
            assert trial < 10 * kills_wanted, "hardly any process lives long enough to be killed"
