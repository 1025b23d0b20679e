"""Every workflow of the corpus reproduces the histories that an older release recorded of it."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from typing import Any

import corpus
import corpus_histories
import pytest

from wfes.timetravel.histories import history_of, read_histories, write_histories
from wfes.timetravel.recording import Recording
from wfes.timetravel.replay import replay

KNOWN = {workflow.name: workflow for workflow in corpus.WORKFLOWS}
RECORDINGS = read_histories(corpus_histories.FILE)


@pytest.fixture(autouse=True)
def no_step_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step function of the corpus says first that it was called."""

    def called() -> None:
        pytest.fail("a step's function was called")

    monkeypatch.setattr(corpus, "called", called)


def recorded_elsewhere(recording: Recording) -> bool:
    """Whether another minor of Python recorded it, whose asyncio may order things otherwise."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return any(code["python"] != here for code in recording.codes)


def test_every_workflow_of_the_corpus_has_a_history() -> None:
    assert {recording.started.workflow for recording in RECORDINGS} == set(KNOWN), (
        "run tests/golden/corpus_histories.py, which adds what is missing"
    )


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: str(recording.id))
def test_recorded_histories_replay_for_ever(recording: Recording) -> None:
    history = history_of(recording)
    report = replay(KNOWN[history.workflow], history.events, history.values, workflows=KNOWN)
    if not report.ok and recorded_elsewhere(recording):
        assert "Python:" in str(report)
        pytest.skip(f"recorded under another Python: {report}")
    assert report.complete, str(report)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: str(recording.id))
def test_every_beginning_of_a_history_replays(recording: Recording) -> None:
    history = history_of(recording)
    if recorded_elsewhere(recording):
        pytest.skip("recorded under another Python")
    for version in range(1, len(history.events) + 1):
        report = replay(
            KNOWN[history.workflow], history.events, history.values, workflows=KNOWN, upto=version
        )
        assert report.complete, str(report)
        assert report.reached == version


def test_the_plugin_gives_the_same(assert_replays: Callable[..., Any]) -> None:
    if not any(map(recorded_elsewhere, RECORDINGS)):
        assert len(assert_replays(corpus.WORKFLOWS, corpus_histories.FILE)) == len(RECORDINGS)


def test_written_again_the_file_is_the_same(tmp_path: Any) -> None:
    again = tmp_path / "again.gz"
    assert write_histories(again, RECORDINGS) == len(RECORDINGS)
    written, kept = (gzip.decompress(file.read_bytes()) for file in (again, corpus_histories.FILE))
    assert written == kept
