"""A short run of chaos, and whether its checks notice what they are there for; `make chaos` makes a long one.

``WFES_CHAOS_SECONDS`` and ``WFES_CHAOS_INSTANCES`` make this one longer; ``WFES_CHAOS_SEED`` repeats one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import market
import pytest
import witness
from chaos import CALM_SECONDS_MAX, Chaos
from eventsourcing.persistence import Notification
from proxy import Talk

from wfes.core import events as e
from wfes.log.application import body_bytes

SECONDS = float(os.environ.get("WFES_CHAOS_SECONDS", "20"))
INSTANCES = int(os.environ.get("WFES_CHAOS_INSTANCES", "100"))
SEED = int(os.environ.get("WFES_CHAOS_SEED", "1"))


@pytest.mark.timeout(SECONDS + CALM_SECONDS_MAX + 120)
def test_everything_comes_right(tmp_path: Path) -> None:
    """G1 to G6, G9, G10: every instance ends, no recorded step runs again, no acknowledged command is lost, no refused
    one happens, no stale write is accepted, every history is whole, and projections equal their rebuild. What customers
    commit with rows of their own appears, and nothing else; no limit of concurrency is exceeded."""
    report = Chaos(tmp_path, instances=INSTANCES, seconds=SECONDS, seed=SEED).run()
    assert report.problems == [], report
    assert report.instances >= INSTANCES
    assert report.takeovers > 0


# ----------------------------------------------------------------------------------------- its checks


def history(*events: e.Event) -> dict[str, list[e.Recorded]]:
    return {"i": [e.Recorded("i", version, event, version) for version, event in enumerate(events, 1)]}


def claimed(pid: int, epoch: int) -> e.RunClaimed:
    return e.RunClaimed(at=1, worker=f"some-host-{pid}-abc", epoch=epoch)


STARTED = e.WorkflowStarted(at=1, workflow="w")
BEGUN = e.StepStarted(at=1, path="a", attempt=1)
DONE = e.StepCompleted(at=1, path="a", result=1)
TAKEN_OVER = history(STARTED, claimed(7, 1), BEGUN, claimed(8, 2), BEGUN, DONE)


@pytest.mark.parametrize(
    ("pids", "wrong"),
    [
        ([7, 8], []),
        # Whoever announced it and was stopped before the call makes it whenever it goes on.
        ([8, 7], []),
        ([8, 8], ["i a attempt 1 was called 2 times by 8, which had announced 1"]),
        ([7, 8, 9], ["i a attempt 1 was called 1 times by 9, which had announced 0"]),
    ],
)
def test_calls_that_their_process_had_not_announced_are_noticed(pids: list[int], wrong: list[str]) -> None:
    assert witness.unannounced(TAKEN_OVER, [("i", "a", 1, pid) for pid in pids]) == wrong


def test_a_step_that_was_left_while_it_waited_is_called_again_without_another_start() -> None:
    left = history(STARTED, claimed(7, 1), BEGUN, e.RunReleased(at=1, suspended=("a",)), claimed(8, 2), DONE)
    assert witness.unannounced(left, [("i", "a", 1, 7), ("i", "a", 1, 8)]) == []
    assert len(witness.unannounced(left, [("i", "a", 1, 8), ("i", "a", 1, 8)])) == 1


def test_a_write_by_whoever_was_taken_over_is_noticed() -> None:
    positions = {("i", version): version for version in range(1, 7)}
    assert witness.stale(TAKEN_OVER, positions, {3: 7, 5: 8, 6: 8}) == []
    (problem,) = witness.stale(TAKEN_OVER, positions, {3: 7, 5: 8, 6: 7})
    assert "StepCompleted by process 7" in problem


def test_more_than_a_limit_allows_are_noticed() -> None:
    stored: list[Notification] = []

    def record(id: str, *events: e.Event) -> None:
        for event in events:
            place = len(stored) + 1
            stored.append(Notification(id, place, event.topic, bytes(32) + body_bytes(event), place))

    def begin(id: str) -> None:
        record(id, e.WorkflowStarted(at=1, workflow="counter", input=1), e.SlotGranted(at=1), claimed(7, 1))

    for number in range(market.LIMIT):
        begin(f"c-{number}")
    record("c-0", e.WorkflowCompleted(at=1, output=None))
    begin("c-next")
    assert market.crowded(stored) == []
    begin("c-too-many")
    (problem,) = market.crowded(stored)
    assert "c-too-many" in problem


def said(query: str) -> bytes:
    body = query.encode() + b"\0"
    return b"Q" + struct.pack("!I", len(body) + 4) + body


def test_the_proxy_knows_a_commit_from_the_end_of_a_read() -> None:
    talk = Talk()
    hello = struct.pack("!II", 8, 196_608)
    assert talk.hear(hello + said("BEGIN; SET LOCAL x = 1")) == [
        (hello + said("BEGIN; SET LOCAL x = 1"), False)
    ]
    commit = said("COMMIT")
    assert talk.hear(said("SELECT 1") + commit[:3]) == [(said("SELECT 1"), False)]
    assert talk.hear(commit[3:]) == [(commit, True)]
    assert (
        talk.hear(said("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT 1") + commit)[0][1] is False
    )
    assert talk.hear(said("BEGIN") + commit) == [(said("BEGIN"), False), (commit, True)]
