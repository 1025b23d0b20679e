"""`wfes prune`: asks, counts, moves, and what it moved is read as before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wfes import Engine, Step, workflow
from wfes.cli import main

NUMBERS = (1, 2, 3)


@workflow
async def twice(number: int, step: Step) -> int:
    """Doubles a number."""
    return await step("double", lambda: number * 2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/log.db"

    async def make() -> None:
        async with Engine(url, workflows=[twice]):
            for number in NUMBERS:
                await (await twice.start(number, id=f"i{number}")).result(timeout=20)

    asyncio.run(make())
    return url


def wfes(url: str, *words: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["--url", url, *words], input=input)


def test_it_asks(url: str, tmp_path: Path) -> None:
    refused = wfes(url, "prune", "--older-than", "0s", input="n\n")
    assert refused.exit_code == 1
    assert "archive 3 histories with 15 events" in refused.output
    assert not (tmp_path / "log.db.archive").exists()
    done = wfes(url, "prune", "--older-than", "0s", input="y\n")
    assert done.exit_code == 0
    assert "archived 3 histories with 15 events" in done.output
    assert str(tmp_path / "log.db.archive") in done.output
    assert wfes(url, "prune", "--older-than", "0s").output == "nothing to archive\n"


def test_a_dry_run(url: str, tmp_path: Path) -> None:
    found = wfes(url, "prune", "--older-than", "0s", "--dry-run")
    assert found.exit_code == 0
    assert found.output.startswith("would archive 3 histories with 15 events (")
    shown = wfes(url, "prune", "--older-than", "0s", "--dry-run", "--json")
    as_json = json.loads(shown.output)
    assert as_json == {"dry_run": True, "instances": 3, "events": 15, "bytes": as_json["bytes"], "files": []}
    assert wfes(url, "prune", "--older-than", "90d", "--dry-run").output == "nothing to archive\n"
    assert not (tmp_path / "log.db.archive").exists()


def test_json(url: str) -> None:
    done = wfes(url, "prune", "--older-than", "0s", "--workflow", "twice", "--yes", "--json")
    found = json.loads(done.output)
    assert (found["dry_run"], found["instances"], found["events"]) == (False, 3, 15)
    assert [Path(file).suffixes for file in found["files"]] == [[".jsonl", ".gz"]]


def test_what_is_archived_is_read_as_before(url: str, tmp_path: Path) -> None:
    before = [json.loads(wfes(url, "history", f"i{number}", "--json").output) for number in NUMBERS]
    shown = wfes(url, "show", "i2").output
    assert wfes(url, "prune", "--older-than", "0s", "--yes").exit_code == 0
    after = [json.loads(wfes(url, "history", f"i{number}", "--json").output) for number in NUMBERS]
    assert [events[:-1] for events in after] == before
    assert {events[-1]["type"] for events in after} == {"HistoryArchived"}
    assert "versions 1 to 5 are in " in wfes(url, "history", "i2").output
    assert wfes(url, "show", "i2").output == shown
    (tmp_path / "log.db.archive").rename(tmp_path / "elsewhere")
    gone = wfes(url, "history", "i2")
    assert gone.exit_code == 1
    assert "log.db.archive/" in gone.output
    assert "'i2'" in gone.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json"], "--yes"),
        (["--older-than", "soon"], "soon"),
        (["--workflow", "nobody"], "no workflow of that name"),
        (["--workflow", "twice"], "has no retention"),
    ],
)
def test_wrong_usage(url: str, words: list[str], said: str) -> None:
    found = wfes(url, "prune", *words)
    assert found.exit_code == 2
    assert said in found.output


def test_without_a_log(tmp_path: Path) -> None:
    found = wfes(f"sqlite:///{tmp_path}/nothing.db", "prune", "--yes")
    assert found.exit_code == 1
    assert "there is no log" in found.output
