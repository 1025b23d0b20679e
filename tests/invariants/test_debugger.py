"""Laws of the debugger, over a recorded history of every workflow of the corpus and every event of it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import corpus
import pytest
from corpus_histories import FILE

from wfes.core import events as e
from wfes.timetravel.debugger import Debugger
from wfes.timetravel.glance import Glance
from wfes.timetravel.histories import read_histories
from wfes.timetravel.moment import Goto, Kind, Moment, Move, Quit, Running
from wfes.timetravel.recording import Recording

KNOWN = {workflow.name: workflow for workflow in corpus.WORKFLOWS}
_ADDRESS = re.compile(r"0x[0-9a-f]+|Task-\d+|number=\d+")


def recordings() -> list[Recording]:
    """One history of each workflow."""
    return list({each.started.workflow: each for each in read_histories(FILE)}.values())


class Walk:
    """A front that goes on by one event at a time, then back by one, and notes what it sees."""

    def __init__(self) -> None:
        self.forward: dict[int, dict[str, Any]] = {}
        self.backward: dict[int, dict[str, Any]] = {}
        self.runs = 0
        self._is_back = False

    def begin(self, run: Running) -> None:
        self.runs += 1

    def look(self, moment: Moment) -> Move:
        seen = glimpse(moment)
        (self.backward if self._is_back else self.forward)[moment.position] = seen
        if moment.kind in (Kind.END, Kind.DIFFERENCE):
            self._is_back = True
        target = moment.position + (-1 if self._is_back else 1)
        return Goto(target) if target else Quit()

    def run_on(self) -> None:
        raise AssertionError("nobody asked to run on")

    def run_fast(self) -> None:
        """Nothing stops in the handler's code."""

    def interrupt(self, frame: FrameType | None) -> bool:
        return False


def glimpse(moment: Moment) -> dict[str, Any]:
    """What a glance sees, without what differs from run to run."""
    glance = Glance()
    glance.look(moment)
    for frame in glance.seen["frames"]:
        frame["locals"] = {name: _ADDRESS.sub("", text) for name, text in frame["locals"].items()}
    return glance.seen


@pytest.mark.parametrize("recording", recordings(), ids=lambda each: each.started.workflow)
def test_every_event_is_a_place_in_the_handlers_code_and_the_same_one_from_both_sides(
    recording: Recording, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    corpus.use(calls)
    walk = Walk()
    Debugger(recording, KNOWN[recording.started.workflow], walk, at=1, workflows=KNOWN).run()
    assert not calls.exists(), "a step's function was called"
    seen = dict(walk.forward)
    last = max(seen)
    left_out = set(range(1, last + 1)) - set(seen)
    assert not left_out or any(isinstance(each.event, e.WorkflowRetried) for each in recording.history)
    if seen[last]["at"] == "end":
        assert last >= len(recording.history)
    for position, moment in seen.items():
        frames = moment["frames"]
        assert frames, (position, moment)
        assert all("/wfes/" not in f["file"] and "/asyncio/" not in f["file"] for f in frames), frames
        assert any(f["file"] == corpus.__file__ for f in frames), frames
    for moment in walk.forward.values():
        moment["notes"] = [note for note in moment["notes"] if "is void" not in note]
    del seen[last]
    assert walk.backward == seen
    assert walk.runs == 1 + len(seen)  # forward in one run, back in one run an event


def test_the_corpus_is_seen_to_its_ends_but_for_what_lies_outside() -> None:
    ends: dict[str, set[str]] = defaultdict(set)
    for recording in recordings():
        glance = Glance()
        Debugger(recording, KNOWN[recording.started.workflow], glance, at=None, workflows=KNOWN).run()
        ends[glance.seen["at"]].add(recording.started.workflow)
        if glance.seen["at"] == "difference":
            assert "outside of its workflow" in glance.seen["notes"][0]
    assert len(ends["end"]) > 3 * len(ends["difference"])
