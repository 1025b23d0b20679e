"""The failures a state remembers for a later retry."""

from __future__ import annotations

import pytest

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.state import FAILURES_KEPT, InstanceState


def begun() -> InstanceState:
    state = InstanceState("i")
    evolve(state, e.WorkflowStarted(at=1, workflow="wf"), 1)
    return evolve(state, e.RunClaimed(at=1, worker="w", epoch=1), 2)


@pytest.mark.parametrize("status", ["completed", "failed", "aborted", "cancelled", "timed_out"])
def test_only_a_child_that_did_not_complete_has_failed(status: str) -> None:
    state = begun()
    evolve(state, e.ChildStarted(at=1, path="c", instance="k", workflow="wf"), 3)
    evolve(state, e.TargetEnded(at=1, path="c", instance="k", status=status), 4)
    assert state.waits["c"].ready_status == status
    evolve(state, e.ChildEnded(at=1, path="c", ended=4), 5)
    assert state.last_failures == ({} if status == "completed" else {"c": 5})
    assert not state.waits


def test_the_newest_failures_are_remembered() -> None:
    state = begun()
    count = FAILURES_KEPT + 50
    for n in range(count):
        evolve(state, e.StepFailed(at=1, path=f"s#{n}", error={}), 3 + n)
    assert len(state.last_failures) == FAILURES_KEPT
    assert "s#49" not in state.last_failures
    assert state.last_failures[f"s#{count - 1}"] == 2 + count


def test_a_path_that_fails_again_is_new() -> None:
    state = begun()
    evolve(state, e.StepFailed(at=1, path="first", error={}), 3)
    for n in range(FAILURES_KEPT - 1):
        evolve(state, e.StepFailed(at=1, path=f"s#{n}", error={}), 4 + n)
    evolve(state, e.StepFailed(at=1, path="first", error={}), 5_000)
    evolve(state, e.WaitTimedOut(at=1, path="late"), 5_001)
    assert state.last_failures["first"] == 5_000
    assert "s#0" not in state.last_failures
