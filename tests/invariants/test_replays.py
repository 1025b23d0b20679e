"""G8 over random families: every history that workers left behind replays, to its end and to every version before.

The families have children, retries, cancellations, time-outs and pauses, and were cut off twice.
"""

from __future__ import annotations

import os
from collections import defaultdict

import histories
import pytest

from wfes.core import events as e
from wfes.runtime.values import Values
from wfes.timetravel.replay import replay

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))


class _Idle(histories._World):
    """Where no step's function is called."""

    async def work(self, seconds: float, fails: int, attempt: int) -> int:
        pytest.fail("a step's function was called")


@pytest.mark.parametrize("seed", range(12 * SCALE))
def test_random_families_replay_at_every_version(seed: int) -> None:
    streams: dict[str, list[e.Recorded]] = defaultdict(list)
    for recorded in histories.random_log(seed):
        if not recorded.originator_id.startswith("$"):
            streams[recorded.originator_id].append(recorded)
    known = {workflow.name: workflow for workflow in histories._workflows(_Idle())}
    for history in streams.values():
        started = history[0].event
        assert isinstance(started, e.WorkflowStarted)
        for version in (None, *range(1 + seed % 5, len(history), 5)):
            report = replay(
                known[started.workflow], history, Values(lambda _: None), workflows=known, upto=version
            )
            assert report.complete, (seed, str(report))
            assert report.reached == (version or len(history))
