"""Every workflow of the corpus is killed with SIGKILL, at every commit and at random moments, and must go on.

After each kill a new process finishes everything. Then each instance ended as it must (nothing lost, nothing seen
differently), no step whose result was recorded had been called again, everything acknowledged is in the log, each
history is well-formed, its hash chain holds, and every projection, the engine's own and a user's, equals its rebuild.

``WFES_CRASHES=N`` repeats each of these tests N times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path

import pytest
from driver import CASES, GROUPS
from nursery import Nursery

TIMES = int(os.environ.get("WFES_CRASHES", "1"))
COMMITS_MAX = 400
RANDOM_KILLS = 25
"""A group; there are four."""
KILLS_IN_A_ROW = 4
"""After five in a row that cut off one step, its instance is paused, as it should be."""

groups = pytest.mark.parametrize("ids", GROUPS, ids=lambda ids: ids[0])


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def test_every_case_is_in_one_group() -> None:
    assert sorted(id for ids in GROUPS for id in ids) == sorted(CASES)


@groups
def test_undisturbed(nursery: Nursery, tmp_path: Path, ids: tuple[str, ...]) -> None:
    assert nursery.run(tmp_path, ids, [])["problems"] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["before", "after"])
@groups
def test_killed_at_every_commit(nursery: Nursery, tmp_path: Path, ids: tuple[str, ...], when: str) -> None:
    """G1, G2, G3: right before and right after each commit of a run."""
    for time in range(TIMES):
        missed = 0
        for number in range(1, COMMITS_MAX):
            folder = tmp_path / f"{time}-{number}"
            found = nursery.run(folder, ids, [f"kill:{when}:{number}"])
            assert found["problems"] == [], f"killed {when} commit {number}; see {folder}"
            missed = 0 if found["killed"] else missed + 1
            if missed == 3:
                assert number > 20, "a run has fewer commits than any of these workflows needs"
                break
        else:
            pytest.fail("a run never ended before its last commit")


@pytest.mark.timeout(300)
@groups
def test_killed_at_random_moments(nursery: Nursery, tmp_path: Path, ids: tuple[str, ...]) -> None:
    """G1, G3, G4: several kills in a row on one log, at moments of a run."""
    length = nursery.run(tmp_path / "undisturbed", ids, [])["seconds"]
    chance = random.Random(ids[0])
    for time in range(TIMES):
        killed = trial = 0
        while killed < RANDOM_KILLS:
            trial += 1
            kills = [chance.uniform(0.01, length) for _ in range(min(KILLS_IN_A_ROW, RANDOM_KILLS - killed))]
            folder = tmp_path / f"{time}-{trial}"
            found = nursery.run(folder, ids, kills)
            assert found["problems"] == [], f"killed after {kills} seconds; see {folder}"
            killed += found["killed"]
            assert trial < 10 * RANDOM_KILLS, "hardly any process lives long enough to be killed"
