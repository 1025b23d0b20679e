"""Events told with what went before them."""

from __future__ import annotations

from collections.abc import Callable

from wfes.cli.telling import CUT_OFF, Telling
from wfes.views import RecordedEvent

Make = Callable[..., RecordedEvent]


def told(*events: RecordedEvent) -> list[str]:
    telling = Telling()
    return [telling.told(event) for event in events]


def test_an_attempt_that_was_cut_off_stands_twice_and_says_why(event: Make) -> None:
    words = told(
        event("RunClaimed", worker="w-1", epoch=1),
        event("StepStarted", path="charge", attempt=1),
        event("RunClaimed", worker="w-2", epoch=2),
        event("StepStarted", path="charge", attempt=1),
        event("StepCompleted", path="charge", attempt=1, result=7),
        event("StepStarted", path="ship", attempt=1),
    )
    assert words[2] == "worker w-2, claim 2, taken over from w-1"
    assert words[3] == f"charge  {CUT_OFF}"
    assert CUT_OFF not in words[5]


def test_one_that_failed_or_was_left_for_a_wait_was_not_cut_off(event: Make) -> None:
    words = told(
        event("RunClaimed", worker="w-1", epoch=1),
        event("StepStarted", path="charge", attempt=1),
        event("StepStarted", path="outer", attempt=1),
        event("StepAttemptFailed", path="charge", attempt=1, error=None),
        event("StepStarted", path="charge", attempt=2),
        event("StepFailed", path="charge", attempts=2, error=None),
        event("RunReleased", waiting=True, suspended=("outer",)),
        event("RunClaimed", worker="w-2", epoch=2),
        event("StepStarted", path="outer", attempt=1),
        event("WorkflowFailed", error=None),
        event("WorkflowRetried", path="charge"),
        event("RunClaimed", worker="w-2", epoch=3),
        event("StepStarted", path="charge", attempt=1),
    )
    assert not [each for each in words if CUT_OFF in each or "taken over" in each]
