"""Histories read as rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wfes.cli.timeline import Timeline, walk
from wfes.cli.wording import described
from wfes.core.events import CATALOGUE
from wfes.errors import ErrorInfo
from wfes.views import RecordedEvent

Make = Callable[..., RecordedEvent]


def test_a_step_with_a_failed_attempt(event: Make) -> None:
    timeline = Timeline(
        [
            event("WorkflowStarted", workflow="shop"),
            event("RunClaimed", worker="w-1", epoch=1),
            event("StepStarted", path="charge", attempt=1),
            event(
                "StepAttemptFailed", path="charge", attempt=1, error=ErrorInfo(type="OSError", message="away")
            ),
            event("StepStarted", path="charge", attempt=2),
            event("StepCompleted", path="charge", attempt=2, result=7),
            event("WorkflowCompleted", output=None),
        ]
    )
    (row,) = timeline.top
    assert (row.kind, row.status, row.starts, row.attempts, row.value) == ("step", "completed", 2, 2, 7)
    assert row.seconds == 3.0
    assert timeline.claims[0][0] == "w-1"
    assert timeline.ended is not None


def test_items_of_a_map_are_a_group_and_nested_steps_are_not(event: Make) -> None:
    timeline = Timeline(
        [
            event("StepStarted", path="price/0"),
            event("StepStarted", path="price/1"),
            event("StepCompleted", path="price/1", result=1),
            event("StepStarted", path="outer"),
            event("StepStarted", path="outer/inner"),
            event("StepCompleted", path="outer/inner", result=None),
            event("StepCompleted", path="outer", result=None),
        ]
    )
    group, outer = timeline.top
    assert (group.path, group.kind, group.status) == ("price", "group", "started")
    assert [row.name for row in group.inner] == ["0", "1"]
    assert (outer.kind, outer.status, [row.path for row in outer.inner]) == (
        "step",
        "completed",
        ["outer/inner"],
    )
    timeline.feed(event("StepCompleted", path="price/0", result=2))
    assert (group.status, group.ended is not None) == ("completed", True)
    assert [row.path for row in walk(timeline.top)] == ["price", "price/0", "price/1", "outer", "outer/inner"]
    timeline.feed(event("StepStarted", path="price/2"))
    assert group.status == "started"
    assert group.ended is None


def test_a_cut_off_attempt_is_started_twice(event: Make) -> None:
    timeline = Timeline(
        [
            event("StepStarted", path="a", attempt=1),
            event("RunClaimed", worker="w-2", epoch=2),
            event("StepStarted", path="a", attempt=1),
            event("StepCompleted", path="a", result=None),
        ]
    )
    (row,) = timeline.top
    assert (row.starts, row.attempts) == (2, 1)


def test_waits(event: Make) -> None:
    timeline = Timeline(
        [
            event("SleepScheduled", path="rest", until=None),
            event("RequestIssued", path="approval", id="r-1", name="approval", message="Go?"),
            event("DataProvided", path="approval", data=True, actor="alice"),
            event("RequestEnded", path="approval", provided=3),
            event("ListenStarted", path="paid", event="order.paid"),
            event("WaitTimedOut", path="paid"),
            event("ChildStarted", path="report", instance="c-1", workflow="render"),
            event("TargetEnded", path="report", instance="c-1", status="failed"),
            event("ChildEnded", path="report", ended=8),
            event("ProgressRecorded", path="#progress", message="half", percent=50.0),
        ]
    )
    rows = {row.path: row for row in timeline.top}
    assert rows["rest"].status == "waiting"
    assert rows["approval"].note == "answered true by alice"
    assert rows["paid"].status == "timed_out"
    assert rows["report"].target == "c-1"
    assert "failed" in rows["report"].note
    assert rows["#progress"].note == "half (50 %)"


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_event_has_words(name: str, event: Make) -> None:
    made = event(name, path="a", something=1)
    assert isinstance(described(made), str)
    Timeline([made])


def test_an_event_without_words_is_shown_by_its_data(event: Make) -> None:
    assert described(event("Unheard", colour="red", nothing=None)) == 'colour="red"'
