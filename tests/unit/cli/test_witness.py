"""The account of a crash, from a history alone."""

from __future__ import annotations

from collections.abc import Callable

from wfes.cli.witness import account
from wfes.views import RecordedEvent

Make = Callable[..., RecordedEvent]


def test_what_ran_once_and_what_twice(event: Make) -> None:
    told = account(
        [
            event("WorkflowStarted", workflow="w"),
            event("RunClaimed", worker="w-1", epoch=1),
            event("StepStarted", path="m/a"),
            event("StepStarted", path="m/b"),
            event("StepCompleted", path="m/a", result=1),
            event("RunClaimed", worker="w-2", epoch=2),
            event("StepStarted", path="m/b"),
            event("StepCompleted", path="m/b", result=1),
            event("RunReleased", waiting=True),
            event("RunClaimed", worker="w-2", epoch=3),
        ]
    )
    assert told.workers == ["w-1", "w-2"]
    assert told.once == ["m/a"]
    assert told.again == {"m/b": 2}
    assert told.reused == 1
    assert told.repeated == []
    assert told.gap_seconds == 1.0
    text = "\n".join("".join(p if isinstance(p, str) else p[0] for p in line) for line in told.lines(80))
    assert "1 result stood in the log before that" in text
    assert "ran once: 1 step" in text
    assert "ran twice: 1 step" in text
    assert told.to_json()["results_reused"] == 1
