"""An instance's rows as a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wfes.cli.chart import Chart, print_chart
from wfes.cli.screen import Screen, screen
from wfes.cli.timeline import Row, Timeline
from wfes.cli.values import json_text
from wfes.errors import ErrorInfo
from wfes.views import RecordedEvent

BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
AWAY = ErrorInfo(type="OSError", message="away")


class History:
    """Events at seconds of one's own."""

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []

    def at(
        self, seconds: float, type: str, actor: str | None = None, worker: str = "w-1", **data: Any
    ) -> History:
        number = len(self.events) + 1
        when = BEGAN + timedelta(seconds=seconds)
        self.events.append(
            RecordedEvent(
                position=number,
                instance="i",
                version=number,
                at=when,
                type=type,
                data=data,
                actor=actor,
                worker=worker,
            )
        )
        return self

    def begun(self) -> History:
        return self.at(0, "WorkflowStarted").at(0, "RunClaimed", worker="w-1", epoch=1)

    def step(self, path: str, start: float, end: float, **data: Any) -> History:
        return self.at(start, "StepStarted", path=path, attempt=1).at(end, "StepCompleted", path=path, **data)


def bars(history: History, columns: int = 20, **options: Any) -> dict[str, str]:
    chart = Chart(Timeline(history.events), columns=columns, **options)
    return {line.name.strip(): "".join(character for character, _ in line.cells) for line in chart.lines()}


def text(history: History, **options: Any) -> list[str]:
    out = Screen(io.StringIO(), None)
    print_chart(out, Timeline(history.events), **options)
    assert isinstance(out.stream, io.StringIO)
    return out.stream.getvalue().splitlines()


def test_steps_one_after_another_and_at_the_same_time() -> None:
    history = History().begun().step("a", 0, 5)
    history.at(5, "StepStarted", path="b").at(5, "StepStarted", path="c")
    history.at(7.5, "StepCompleted", path="c").at(10, "StepCompleted", path="b")
    assert bars(history.at(10, "WorkflowCompleted")) == {
        "a": "█" * 10 + " " * 10,
        "b": " " * 10 + "█" * 10,
        "c": " " * 10 + "█" * 5 + " " * 5,
    }


def test_idle_time_is_cut() -> None:
    history = History().begun().step("a", 0, 1)
    history.at(1, "SleepScheduled", path="rest", until=None).at(1, "RunReleased", waiting=True)
    history.at(86_401, "RunClaimed", worker="w-1", epoch=2).at(86_401, "SleepEnded", path="rest")
    history.step("b", 86_401, 86_402).at(86_402, "WorkflowCompleted")
    assert bars(history, 21) == {
        "a": "█" * 10 + "┊" + " " * 10,
        "rest": " " * 10 + "─" + " " * 10,
        "b": " " * 10 + "┊" + "█" * 10,
    }
    lines = text(history)
    assert "┊24h00m" in lines[1]
    assert "─ waits" in lines[-1]
    assert "┊ idle time left out" in lines[-1]


def test_attempts_and_backoff() -> None:
    history = History().begun()
    history.at(0, "StepStarted", path="a", attempt=1)
    history.at(5, "StepAttemptFailed", path="a", attempt=1, error=AWAY, retry_at=None)
    history.at(6, "StepStarted", path="a", attempt=2).at(10, "StepCompleted", path="a", result="ok")
    history.at(10, "WorkflowCompleted")
    assert bars(history) == {"a": "▒" * 10 + "·" * 2 + "█" * 8}
    (line,) = Chart(Timeline(history.events)).lines()
    assert line.note == '2 attempts, → "ok"'


def test_a_cut_off_attempt_ends_with_the_last_sign_of_who_made_it() -> None:
    history = History().begun().step("before", 0, 4)
    history.at(4, "StepStarted", path="a").at(6, "ProgressRecorded", path="#progress", message="half")
    history.at(8, "RunClaimed", worker="w-2", epoch=2)
    history.at(8, "StepStarted", path="a", worker="w-2").at(10, "StepCompleted", path="a", worker="w-2")
    history.at(10, "WorkflowCompleted")
    found = bars(history)
    assert found["a"] == " " * 8 + "░" * 4 + " " * 4 + "█" * 4
    lines = text(history)
    assert any("taken" in line and "over from w-1 by w-2" in line for line in lines)
    assert any(line.startswith("a ") and "cut off once and run again, on w-1, w-2" in line for line in lines)
    tree = Timeline(history.events).rows["a"].to_json()
    assert [(each["outcome"], each["worker"]) for each in tree["tries"]] == [
        ("cut_off", "w-1"),
        ("completed", "w-2"),
    ]


def test_who_did_what() -> None:
    history = History().begun().step("a", 0, 1)
    history.at(2, "WorkflowPaused", actor="bob", reason="stock taking").at(
        3, "WorkflowResumed", actor="carol"
    )
    history.at(3, "RequestIssued", path="go", id="r", name="go", message="Go?")
    history.at(4, "DataProvided", actor="alice", path="go", data=True).at(
        4, "RequestEnded", path="go", provided=8
    )
    history.at(5, "CancelRequested", actor="dave", reason="no more").at(5, "WorkflowCancelled")
    lines = text(history)
    order = ["a ", "◆ paused", "◆ resumed", "go ", "◆ cancel"]
    assert [line.startswith(begin) for line, begin in zip(lines[2:7], order, strict=True)] == [True] * 5
    for line, words in zip(
        lines[3:7], ["stock taking by bob", "by carol", "by alice", "no more by dave"], strict=True
    ):
        assert line.endswith(words)


def test_what_is_open_goes_on_until_now() -> None:
    history = History().begun().step("a", 0, 5).at(5, "StepStarted", path="b")
    until = BEGAN + timedelta(seconds=10)
    assert bars(history, until=until) == {"a": "█" * 10 + " " * 10, "b": " " * 10 + "█" * 9 + "▸"}
    assert any("5.00 s …" in line for line in text(history, until=until))


def test_what_was_open_at_the_end_does_not_go_on() -> None:
    history = History().begun().step("a", 0, 5)
    history.at(5, "SleepScheduled", path="night", until=None).at(10, "CancelRequested")
    open_still = text(history)
    assert any(line.startswith("night") and "waiting" in line and "▸" in line for line in open_still)
    ended = text(history.at(10, "WorkflowCancelled"))
    (night,) = (line for line in ended if line.startswith("night"))
    assert "dropped" in night
    assert "waiting" not in night
    assert "…" not in night
    assert not any("▸" in line for line in ended)


def test_no_backoff_follows_the_last_failure() -> None:
    history = History().begun().at(0, "StepStarted", path="a", attempt=1)
    history.at(5, "StepFailed", path="a", attempts=1, error=AWAY).step("b", 5, 10)
    assert bars(history.at(10, "WorkflowCompleted"))["a"] == "▒" * 10 + " " * 10


def test_nested_rows_are_indented() -> None:
    history = History().begun().at(0, "StepStarted", path="outer").step("outer/in", 0, 1)
    history.at(2, "StepCompleted", path="outer").at(2, "WorkflowCompleted")
    assert [line.name for line in Chart(Timeline(history.events)).lines()] == ["outer", "  in"]


@pytest.mark.parametrize("steps", [1, 50, 5_000])
def test_however_many_steps_there_are(steps: int) -> None:
    """The first, the last, and what did not simply complete; the rest as one line."""
    history = History().begun()
    for number in range(steps):
        if number == steps // 2:
            history.at(number, "StepStarted", path=f"s#{number}")
            history.at(number + 1, "StepFailed", path=f"s#{number}", attempts=1, error=AWAY)
        else:
            history.step(f"s#{number}", number, number + 1)
    history.at(steps, "WorkflowCompleted")
    lines = text(history)
    assert len(lines) <= 70
    assert any("OSError: away" in line for line in lines)
    shown = sum(line.startswith("s#") for line in lines)
    hidden = [int(line.split()[1].replace(",", "")) for line in lines if line.startswith("… ")]
    assert shown + sum(hidden) == steps
    everything = text(history, everything=True)
    assert sum(line.startswith("s#") for line in everything) == steps


def test_many_items_of_a_map() -> None:
    history = History().begun()
    for number in range(3_000):
        history.step(f"price/{number}", number, number + 1)
    history.at(3_000, "WorkflowCompleted")
    lines = text(history)
    assert [line.split()[0] for line in lines[2:6]] == ["price", "0", "…", "2999"]
    assert "2,998 completed" in lines[4]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 250])
def test_every_line_fits_into_a_terminal(width: int) -> None:
    console = pytest.importorskip("rich.console")
    history = History().begun().step("reserve", 0, 4, result={"some": "value" * 20})
    history.at(4, "StepStarted", path="a-step-with-a-name-that-is-rather-long")
    history.at(5, "WorkflowPaused", actor="somebody", reason="stock taking " * 9)
    stream = io.StringIO()
    out = Screen(stream, console.Console(file=stream, width=width))
    print_chart(out, Timeline(history.events))
    lines = stream.getvalue().splitlines()
    legend = lines.pop()
    assert "goes on" in legend
    assert max(map(len, lines)) <= max(width, 30)
    assert any("█" in line for line in lines)


def test_a_terminal_that_cannot_show_bars_gets_plain_ones() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    history = History().begun().step("a", 0, 4).at(4, "WorkflowCompleted")
    print_chart(Screen(stream, None), Timeline(history.events))
    stream.flush()
    shown = stream.buffer.getvalue().decode()
    assert "#" * 10 in shown
    assert "\\u" not in shown


def test_nothing_at_all() -> None:
    assert text(History()) == []
    assert text(History().at(0, "WorkflowStarted")) == []


def test_groups_end_with_their_last_row_and_go_on_with_a_new_one() -> None:
    history = History().begun().step("g/0", 0, 1).step("g/1", 1, 2)
    history.at(2, "StepStarted", path="g/2").at(3, "StepFailed", path="g/2", attempts=1, error=AWAY)
    timeline = Timeline(history.events)
    (group,) = timeline.top
    assert (group.status, group.seconds) == ("failed", 3.0)
    again = timeline.feed(history.at(4, "StepStarted", path="g/2").events[-1])
    assert isinstance(again, Row)
    assert (group.status, group.ended) == ("started", None)
    timeline.feed(history.at(5, "StepCompleted", path="g/2").events[-1])
    assert (group.status, group.seconds) == ("completed", 5.0)
    json.loads(json_text([row.to_json() for row in timeline.top]))


def test_a_timeline_of_many_rows_is_quick(event: Callable[..., RecordedEvent]) -> None:
    """No row looks at all the others: this would take minutes."""

    def events() -> Iterable[RecordedEvent]:
        for number in range(10_000):
            yield event("StepStarted", path=f"m/{number}")
            yield event("StepCompleted", path=f"m/{number}")

    timeline = Timeline(events())
    assert timeline.top[0].status == "completed"
    assert screen(io.StringIO()).console is None
