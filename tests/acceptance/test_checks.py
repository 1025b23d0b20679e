"""The checks of the crash tests notice what they are there for: a log that was tampered with is never called right."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from checks import problems_of
from driver import GROUPS
from nursery import Nursery


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial in which nothing went wrong."""
    folder = tmp_path_factory.mktemp("trial")
    with Nursery() as nursery:
        assert nursery.run(folder, GROUPS[0], [])["problems"] == []
    return folder


RESULTS = "originator_id = 'chain' AND topic = 'StepCompleted'"


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            f"DELETE FROM wfes_events WHERE rowid = (SELECT min(rowid) FROM wfes_events WHERE {RESULTS})",
            "version",
        ),
        (
            f"UPDATE wfes_events SET state = CAST(zeroblob(32) || substr(state, 33) AS BLOB) WHERE {RESULTS}",
            "the chain breaks",
        ),
        ("DELETE FROM wfes_events WHERE originator_id = 'flaky'", "start  of flaky was acknowledged"),
        ("DELETE FROM wfes_instances WHERE id = 'nested'", "wfes_instances: too much set(), missing"),
        ("UPDATE wfes_instances SET status = 'failed' WHERE id = 'nested'", "wfes_instances: too much {"),
        (
            "DELETE FROM kit_steps WHERE instance = 'nested' AND path = 'last'",
            "kit_steps instance='nested', path='last': mi",
        ),
        ("UPDATE kit_ends SET count = 7 WHERE workflow = 'nested'", "count is 7, not 1"),
        (
            "INSERT INTO kit_lives VALUES ('x', 'x', NULL, NULL)",
            "kit_lives instance='x': should not be there",
        ),
        ("UPDATE wfes_progress SET percent = 99.0", "'wfes_progress'"),
    ],
)
def test_tampering_is_noticed(finished: Path, tmp_path: Path, sql: str, problem: str) -> None:
    for name in ("acks", "calls"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with sqlite3.connect(finished / "log.db") as there, sqlite3.connect(tmp_path / "log.db") as here:
        there.backup(here)
        assert here.execute(sql).rowcount > 0
    here.close()
    there.close()
    found = problems_of(tmp_path)
    assert any(problem in told for told in found), found


def test_a_call_that_was_not_announced_is_noticed(finished: Path, tmp_path: Path) -> None:
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "calls").open("a") as calls:
        calls.write("chain thread 1 1\n")
    assert problems_of(tmp_path) == ["('chain', 'thread', 1) was called 2 times, 1 starts are recorded"]
