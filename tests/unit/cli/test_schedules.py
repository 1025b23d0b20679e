"""`wfes schedules`: on a log that an engine has made, without the workflow's code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wfes import Engine, Schedule, Step, workflow
from wfes.cli import main
from wfes.cli.schedule_words import SCHEDULE_WORDS
from wfes.core.schedules import EVENTS

Invoke = Callable[..., Result]


@workflow(
    schedule=[
        Schedule("30 2 * * *", timezone="Europe/Berlin", input={"kind": "daily"}, jitter="5m", catch_up="2h"),
        Schedule("0 0 1 * *", name="monthly", overlap="queue", input={"kind": "monthly"}, catch_up=None),
    ]
)
async def report(data: dict[str, str], step: Step) -> str:
    return data["kind"]


@pytest.fixture
def wfes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setenv("WFES_URL", f"sqlite:///{tmp_path}/log.db")
    monkeypatch.setenv("TZ", "UTC")

    async def make() -> None:
        async with Engine(workflows=[report], worker=False):
            pass

    asyncio.run(make())
    runner = CliRunner()
    return lambda *words: runner.invoke(main, ["schedules", *words])


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_the_bare_group_lists(wfes: Invoke) -> None:
    for words in ([], ["list"]):
        lines = wfes(*words).output.splitlines()
        assert lines[0].split() == ["SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "OPEN", "QUEUED", "MISSED"]
        assert lines[1].startswith("report          30 2 * * *  Europe/Berlin  20")
        assert lines[2].startswith("report:monthly  0 0 1 * *   UTC            20")
        rows = answer(wfes(*words, "--json"))
        assert [row["name"] for row in rows] == ["report", "report:monthly"]
        assert [row["catch_up"] for row in rows] == [7_200.0, None]
        assert rows[0]["jitter"] == 300.0
    assert wfes("--paused").output == "no schedules are paused\n"
    assert wfes("list", "--workflow", "other").output == "no schedules\n"


def test_show_tells_the_next_ticks(wfes: Invoke) -> None:
    found = answer(wfes("show", "report", "-n", "3", "--json"))
    assert found["input"] == {"kind": "daily"}
    moments = [datetime.fromisoformat(tick) for tick in found["ticks"]]
    assert len(moments) == 3
    assert {(moment.hour, moment.minute) for moment in moments} <= {(2, 30), (3, 0)}
    assert moments[0] == datetime.fromisoformat(found["next"])
    text = wfes("show", "report").output
    for words in (
        "(Europe/Berlin)",
        "up to 0:05:00",
        "catch-up   2:00:00",
        '{"kind": "daily"}',
        "status     on",
    ):
        assert words in text
    assert text.count("\nnext  ") == 5


def test_pause_resume_trigger_backfill_remove_and_their_history(wfes: Invoke) -> None:
    assert wfes("pause", "report", "--reason", "stocktaking").output == "held: report, paused\n"
    assert "paused: stocktaking" in wfes("show", "report").output
    assert answer(wfes("--paused", "--json"))[0]["name"] == "report"
    assert wfes("resume", "report").output.startswith("released: report, next 20")
    started = answer(wfes("trigger", "report", "--json"))
    assert started["workflow"] == "report"
    assert started["id"].startswith("report@trigger-")
    span = ["--from", "2026-03-28T00:00Z", "--to", "2026-03-30T00:00Z"]
    assert answer(wfes("backfill", "report", *span, "--json"))["ticks"] == 2
    assert wfes("backfill", "report", *span).output == "asked for 2 ticks of report; a worker runs them\n"
    empty = ["--from", "2026-03-28T12:00Z", "--to", "2026-03-28T13:00Z"]
    assert wfes("backfill", "report", *empty).output == "no tick lies in that time\n"
    assert wfes("remove", "report:monthly", "--reason", "moved").output == "removed: report:monthly\n"
    assert answer(wfes("remove", "report", "--json")) == {"schedule": "report", "removed": True}
    assert wfes().output == "no schedules\n"
    types = [event["type"] for event in answer(wfes("history", "report", "--json"))]
    assert types == [
        "ScheduleDefined",
        "SchedulePaused",
        "ScheduleResumed",
        "TickStarted",
        "BackfillRequested",
        "BackfillRequested",
        "ScheduleRemoved",
    ]
    text = wfes("history", "report").output
    assert "'30 2 * * *' Europe/Berlin, overlap skip, catch-up 2:00:00" in text
    assert "(trigger)" in text
    assert "cli:" in text
    assert "moved" in wfes("history", "report:monthly", "--after", "1").output


def test_what_cannot_be_is_one_line(wfes: Invoke) -> None:
    for words in (["show", "nope"], ["pause", "nope"], ["trigger", "nope"], ["history", "nope"]):
        result = wfes(*words)
        assert result.exit_code == 1
        assert result.stderr.startswith("wfes: there is no schedule named 'nope'; there are 'report', ")
        assert result.stderr.count("\n") == 1
    backwards = wfes("backfill", "report", "--from", "2026-03-02T00:00Z", "--to", "2026-03-01T00:00Z")
    naive = wfes("backfill", "report", "--from", "2026-03-02T00:00", "--to", "2026-03-03T00:00Z")
    misplaced = wfes("--json", "show", "report")
    for result, part in (
        (backwards, "before start"),
        (naive, "names no zone"),
        (misplaced, "behind the command"),
    ):
        assert result.exit_code == 2
        assert part in result.stderr


def test_each_command_has_json_and_help(wfes: Invoke) -> None:
    for name in ("list", "show", "history", "pause", "resume", "trigger", "backfill", "remove"):
        result = wfes(name, "--help")
        assert result.exit_code == 0
        assert "--json" in result.output


def test_each_event_of_a_schedule_has_its_words() -> None:
    assert set(SCHEDULE_WORDS) == {event.topic for event in EVENTS}
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    said: dict[str, tuple[dict[str, Any], str]] = {
        "TickStarted": ({"instance": "a@t", "kind": "tick", "cancelled": ("b",)}, "a@t cancelling b"),
        "TickSkipped": ({"tick": "t", "reason": "overlap"}, "t: overlap"),
        "TicksMissed": (
            {"first": "a", "last": "b", "count": 3, "reason": "paused"},
            "3 ticks, a to b: paused",
        ),
        "BackfillAdvanced": ({"present": 1, "done": True}, "1 tick had run before, done"),
        "TickQueued": ({"tick": "t", "due": moment}, "t"),
        "ScheduleDefined": (
            {"cron": "1 * * * *", "timezone": "UTC", "former": {"cron": "0 * * * *", "timezone": "UTC"}},
            'cron "0 * * * *" → "1 * * * *"',
        ),
    }
    for name, (data, words) in said.items():
        assert SCHEDULE_WORDS[name](data) == words
