"""`wfes show --at`, `wfes diff`, `wfes history` by time and live: what they print, and what they refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wfes import Engine, Step, workflow
from wfes.cli import main

Wfes = Callable[..., Result]


@workflow
async def add(numbers: list[int], step: Step) -> int:
    total = 0
    for number in numbers:
        total += await step("add", int, number, thread=False)
    return total


@pytest.fixture
def wfes(tmp_path: Path) -> Wfes:
    """Asks about a log with two instances."""
    url = f"sqlite:///{tmp_path}/log.db"

    async def fill() -> None:
        async with Engine(url, workflows=[add]):
            await (await add.start([1, 2], id="one-two")).result()
            await (await add.start([1, 3, 5], id="one-three")).result()

    asyncio.run(fill())

    def ask(*words: str) -> Result:
        found = CliRunner().invoke(main, ["--url", url, *words])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    return ask


def data(found: Result) -> Any:
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_show_at_a_version_or_moment(wfes: Wfes) -> None:
    now = data(wfes("show", "one-two", "--json"))
    then = data(wfes("show", "one-two", "--at", "4", "--json"))
    assert (now["status"], then["status"]) == ("completed", "in_progress")
    assert (now["version"], then["version"]) == (7, 4)
    assert [step["path"] for step in now["steps"]] == ["add", "add#2"]
    assert [step["path"] for step in then["steps"]] == ["add"]
    assert then["output"] is None
    at = data(wfes("show", "one-two", "--at", "2999-01-01T00:00:00Z", "--json"))
    assert (at["version"], at["output"]) == (7, 3)
    text = wfes("show", "one-two", "--at", "4").output
    assert text.startswith("as of     version 4, ")
    assert "output" not in text


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "one-two", "--at", "8"], 1, "has no version 8: its versions are 1 to 7"),
        (["show", "one-two", "--at", "0"], 1, "has no version 0"),
        (["show", "one-two", "--at", "2000-01-01T00:00:00Z"], 1, "was not there at 2000-01-01"),
        (["show", "one-two", "--at", "2000-01-01"], 2, "names no zone"),
        (["show", "one-two", "--at", "then"], 2, "neither a version, such as 7, nor a moment"),
        (["show", "nobody", "--at", "1"], 1, "no instance with the id 'nobody'"),
        (["diff", "one-two"], 2, "give a second instance, or --at"),
        (["diff", "one-two", "--at", "1", "--at", "2", "--at", "3"], 2, "twice at most"),
        (["diff", "one-two", "nobody"], 1, "no instance with the id 'nobody'"),
        (["diff", "one-two", "--at", "1", "--at", "99"], 1, "has no version 99"),
        (["history", "one-two", "--follow", "--upto", "3"], 2, "--follow goes with --after VERSION alone"),
    ],
)
def test_what_is_refused(wfes: Wfes, words: list[str], code: int, says: str) -> None:
    found = wfes(*words)
    assert found.exit_code == code, found.output
    assert says in found.output


def test_diff_of_two_instances(wfes: Wfes) -> None:
    found = data(wfes("diff", "one-two", "one-three", "--json"))
    assert (found["before"]["id"], found["after"]["id"]) == ("one-two", "one-three")
    assert found["parting"]["before"]["type"] == "WorkflowStarted"
    changed = {(change["kind"], change["path"]): change for change in found["changes"]}
    assert changed["step", "add#2"]["before"]["result"] == 2
    assert changed["step", "add#2"]["after"]["result"] == 3
    assert changed["step", "add#3"]["before"] is None
    lines = wfes("diff", "one-two", "one-three").output.splitlines()
    assert "input[1]  2 → 3" in lines
    assert "  ~ add#2  completed 2 → completed 3" in lines
    assert "  + add#3  completed 5" in lines


def test_diff_of_two_moments(wfes: Wfes) -> None:
    found = data(wfes("diff", "one-two", "--at", "3", "--at", "5", "--json"))
    assert found["parting"] is None
    assert [(change["kind"], change["path"]) for change in found["changes"]] == [
        ("step", "add"),
        ("step", "add#2"),
    ]
    assert "status  in_progress → completed" in wfes("diff", "one-two", "--at", "3").output.splitlines()
    assert wfes("diff", "one-two", "--at", "3", "--at", "3").output.splitlines()[-1] == "nothing differs"


def test_history_by_moment_and_live(wfes: Wfes) -> None:
    whole = data(wfes("history", "one-two", "--json"))
    assert [event["version"] for event in whole] == [1, 2, 3, 4, 5, 6, 7]
    assert data(wfes("history", "one-two", "--upto", "2000-01-01T00:00:00Z", "--json")) == []
    assert data(wfes("history", "one-two", "--after", "2000-01-01T00:00:00Z", "--json")) == whole
    followed = wfes("history", "one-two", "--follow", "--after", "2", "--json").stdout.splitlines()
    assert [json.loads(line) for line in followed] == whole[2:]
    assert "WorkflowCompleted" in wfes("history", "one-two", "-f").output
