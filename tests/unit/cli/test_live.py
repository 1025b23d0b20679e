"""What is said while an instance runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

from wfes.cli.live import Bar, LiveView, Watch, bar_line
from wfes.cli.screen import Part, Screen
from wfes.errors import ErrorInfo
from wfes.views import RecordedEvent

Make = Callable[..., RecordedEvent]


def said(watch: Watch, events: Iterable[RecordedEvent]) -> list[str]:
    lines: list[list[Part]] = []
    for event in events:
        lines += watch.feed(event, event.instance)
    return ["".join(part if isinstance(part, str) else part[0] for part in line) for line in lines]


def test_steps_and_failures(event: Make) -> None:
    lines = said(
        Watch("i-1"),
        [
            event("StepStarted", path="a"),
            event("StepCompleted", path="a", result={"n": 1}),
            event("StepStarted", path="b"),
            event("StepAttemptFailed", path="b", attempt=1, error=ErrorInfo(type="OSError", message="away")),
            event("StepStarted", path="b", attempt=2),
            event("StepFailed", path="b", attempts=2, error=ErrorInfo(type="OSError", message="away")),
            event("WorkflowFailed", error=None),
        ],
    )
    assert lines == [
        '✓ a  1.00 s  → {"n": 1}',
        "↻ b  attempt 1 failed: OSError: away",
        "✗ b  3.00 s  OSError: away",
    ]


def test_a_map_is_one_line_once_it_is_over(event: Make) -> None:
    watch = Watch("i-1")
    watch.expect("i-1", "price", 2)
    assert said(watch, [event("StepStarted", path=f"price/{i}") for i in range(2)]) == []
    assert watch.bars() == [Bar("price", 0, 2, 2, 0)]
    assert said(watch, [event("StepCompleted", path="price/0", result=1)]) == ["  price  1 of 2 done"]
    assert watch.bars() == [Bar("price", 1, 2, 2, 0)]
    assert said(watch, [event("StepCompleted", path="price/1", result=1)]) == []
    assert said(watch, [event("StepStarted", path="next")]) == ["✓ price  2 items  3.00 s"]
    assert watch.bars() == []
    assert [row.path for row in watch.open_rows()] == ["next"]


def test_a_group_that_never_finished_is_told_at_the_end(event: Make) -> None:
    watch = Watch("i-1")
    lines = said(watch, [event("StepStarted", path="price/0"), event("WorkflowCancelled", reason=None)])
    assert lines == ["- price  0 of 1 item"]
    assert watch.over


def test_children_are_followed_and_others_are_not(event: Make) -> None:
    watch = Watch("i-1")
    lines = said(
        watch,
        [
            event("StepStarted", of="other", path="x"),
            event("StepCompleted", of="other", path="x"),
            event("ChildStarted", path="report", workflow="render", instance="c-1"),
            event("StepStarted", of="c-1", path="render"),
            event("StepCompleted", of="c-1", path="render", result=None),
            event("ChildEnded", path="report", ended=3),
        ],
    )
    assert lines == ["→ report  render c-1", "  ✓ render  1.00 s", "✓ report  3.00 s  render c-1"]


def test_another_worker_is_named(event: Make) -> None:
    lines = said(
        Watch("i-1"),
        [
            event("RunClaimed", worker="w-1", epoch=1),
            event("RunClaimed", worker="w-1", epoch=2),
            event("RunClaimed", worker="w-2", epoch=3),
        ],
    )
    assert lines == ["→ worker w-2 carries on"]


def test_bars() -> None:
    texts = [part if isinstance(part, str) else part[0] for part in bar_line(Bar("m", 5, 7, 10, 1))]
    assert "".join(texts).startswith("… m  ")
    assert texts[2] == "━" * 15
    assert "5 of 10" in texts[4]
    assert texts[5] == ", 1 failed"
    assert "5 of 7 started" in "".join(str(part) for part in bar_line(Bar("m", 5, 7, None, 0)))


def test_plain_text_is_lines_only(event: Make) -> None:
    stream = io.StringIO()
    with LiveView(Screen(stream, None), Watch("i-1")) as view:
        view.feed(event("StepStarted", path="a"), "i-1")
        view.still()
        view.move()
        view.feed(event("StepCompleted", path="a", result=None), "i-1")
    assert stream.getvalue() == "✓ a  1.00 s\n"
