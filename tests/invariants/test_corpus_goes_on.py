"""Every workflow of the corpus, every N: replayed to N and gone on from there, it ends as if it had never stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import corpus
import corpus_histories
import driver
import pytest
from simulated import Simulated

from wfes.core import events as e
from wfes.timetravel.histories import read_histories
from wfes.timetravel.recording import Recording
from wfes.timetravel.replay import replay

RECORDINGS = {recording.id: recording for recording in read_histories(corpus_histories.FILE)}
KNOWN = {workflow.name: workflow for workflow in corpus.WORKFLOWS}


@pytest.fixture(autouse=True)
def _calls(tmp_path: Path) -> Iterator[None]:
    former = corpus.calls
    corpus.use(tmp_path / "calls")
    (tmp_path / "calls.key").touch()
    yield
    corpus.use(former)
    setattr(corpus, "asyncio", asyncio)  # noqa: B010 - it is a module\'s name, not an attribute that types know


def family_of(id: str) -> list[Recording]:
    """An instance and whatever it started, and that started."""
    found = [RECORDINGS[id]]
    for one in found:
        found += [each for each in RECORDINGS.values() if each.started.parent == one.id]
    return found


@pytest.mark.parametrize("id", sorted(driver.CASES))
def test_replayed_to_n_and_gone_on_it_ends_as_it_did(id: str) -> None:
    case = driver.CASES[id]
    family = family_of(id)
    for recorded in RECORDINGS[id].history[:-1]:

        async def go_on(position: int) -> Simulated:
            host = Simulated(family, position)
            status, output = await host.run_to_end(id)
            assert status == case.status, (id, position, status)
            if status == "completed":
                assert output in case.outputs, (id, position, output)
            return host

        host = asyncio.run(go_on(recorded.position))
        history = host.log.history(id)
        held = [
            each.event for each in history if isinstance(each.event, e.WorkflowPaused) and each.event.held
        ]
        assert not held, (id, recorded.originator_version, held)
        done = [each.event.path for each in history if isinstance(each.event, e.StepCompleted)]
        assert len(done) == len(set(done)), (id, recorded.originator_version)
        report = replay(KNOWN[RECORDINGS[id].started.workflow], history, host.values, workflows=KNOWN)
        assert report.complete, (recorded.originator_version, str(report))
