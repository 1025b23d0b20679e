"""`stats`, `activity`, `timers` and `inbox`: for people and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wfes import Engine, Step, workflow
from wfes.cli import main


@workflow
async def checkout(number: int, step: Step) -> int:
    await step.map("price", [1, 2], abs)
    if number:
        await step.sleep("cool-off", "30m")
    return number


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("WFES_URL", f"sqlite:///{tmp_path}/shop.db")
    monkeypatch.setenv("TZ", "UTC")
    return CliRunner()


@pytest.fixture
def log(runner: CliRunner, tmp_path: Path) -> None:
    """A log in which one order is done and two sleep, one of which was told something."""

    async def run() -> None:
        async with Engine(f"sqlite:///{tmp_path}/shop.db", workflows=[checkout]) as engine:
            await (await checkout.start(0, id="o-0")).result()
            for number in (1, 2):
                await checkout.start(number, id=f"o-{number}")
                while not (await engine.get(f"o-{number}")).waiting_for:
                    await asyncio.sleep(0.01)
            await (await engine.get("o-2")).send("news", "x", id="n-1", actor="alice")

    asyncio.run(run())


def said(runner: CliRunner, *words: str) -> str:
    result = runner.invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def told(runner: CliRunner, *words: str) -> Any:
    return json.loads(said(runner, *words, "--json"))


@pytest.mark.usefixtures("log")
def test_stats(runner: CliRunner) -> None:
    text = said(runner, "stats")
    head, row, _, heads, step = (line.split() for line in text.splitlines())
    assert head[:3] == ["WORKFLOW", "STARTED", "COMPLETED"]
    assert row[:3] == ["checkout", "3", "1"]
    assert heads[-3:] == ["P50", "P95", "P99"]
    assert step[:4] == ["checkout", "price/*", "6", "6"]
    found = told(runner, "stats", "--workflow", "checkout")
    steps = found["workflows"]["checkout"]["steps"]
    assert steps["price/*"]["completed"] == 6
    assert steps["price/*"]["durations"]["count"] == 6
    assert 0 <= steps["price/*"]["durations"]["p50_seconds"] <= steps["price/*"]["durations"]["p99_seconds"]
    assert found["total"]["started"] == 3
    assert found["position"] > 0
    assert said(runner, "stats", "--workflow", "nothing") == "no instances of nothing\n"


@pytest.mark.usefixtures("log")
def test_activity(runner: CliRunner) -> None:
    for words in ([], ["--since", "2d"], ["--resolution", "hour"]):
        lines = [line.split() for line in said(runner, "activity", *words).splitlines()]
        assert lines[0][1:3] == ["STARTED", "COMPLETED"]
        assert sum(int(line[2]) for line in lines[1:]) == 3
        assert sum(int(line[3]) for line in lines[1:]) == 1
    found = told(runner, "activity", "--since", "10m")
    assert found["resolution"] == "minute"
    assert len(found["items"]) in (10, 11)
    assert sum(item["started"] for item in found["items"]) == 3
    assert said(runner, "activity", "--workflow", "nothing") == "nothing started or ended within 1h 00m\n"


@pytest.mark.usefixtures("log")
def test_timers(runner: CliRunner) -> None:
    lines = said(runner, "timers").splitlines()
    assert [line.split()[-4:] for line in lines[1:]] == [
        ["sleep", "checkout", "o-1", "cool-off"],
        ["sleep", "checkout", "o-2", "cool-off"],
    ]
    assert " 29m " in lines[1] or " 30m " in lines[1]
    first = told(runner, "timers", "--limit", "1")
    assert first["items"][0]["instance"] == "o-1"
    assert first["cursor"] in said(runner, "timers", "--limit", "1")
    rest = told(runner, "timers", "--limit", "1", "--cursor", first["cursor"])
    assert [item["instance"] for item in rest["items"]] == ["o-2"]
    assert rest["cursor"] is None
    assert said(runner, "timers", "--before", "2020-01-01T00:00Z") == "nothing is due\n"
    assert said(runner, "timers", "--instance", "o-0") == "nothing is due\n"


@pytest.mark.usefixtures("log")
def test_inbox(runner: CliRunner) -> None:
    heads, row = said(runner, "inbox").splitlines()
    assert heads.split()[0] == "RECEIVED"
    event, workflow, instance, *_, actor, id = row.split()[2:]
    assert (event, workflow, instance, actor, id) == ("news", "checkout", "o-2", "alice", "n-1")
    assert [item["event"] for item in told(runner, "inbox", "--workflow", "checkout")["items"]] == ["news"]
    assert said(runner, "inbox", "--event", "other") == "no events wait\n"


@pytest.mark.usefixtures("log")
def test_wrong_usage(runner: CliRunner) -> None:
    for words, wanted in (
        (["activity", "--since", "soon"], "soon"),
        (["activity", "--resolution", "day"], "'day' is not one of"),
        (["activity", "--since", "52w", "--resolution", "minute"], "minutes; ask for less"),
        (["timers", "--cursor", "x"], "which no page gave"),
        (["timers", "--before", "later"], "later"),
    ):
        result = runner.invoke(main, words)
        assert result.exit_code == 2, words
        assert wanted in " ".join(result.output.split())
