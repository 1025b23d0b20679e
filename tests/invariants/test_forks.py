"""Forks of random programs, at random events, with random changes.

Laws, for every program and every event N of its history:

* a fork at N without changes begins as the origin was at N, sees what the origin saw, runs no step again that has its
  result by then, and comes to an end, never held; its history replays;
* a fork with changed results, dropped events, or everything by path comes to an end, never held, whatever was changed;
  it runs no step again that has a result to be given; its history replays;
* what a fork has is none of the origin's: that stays as it was, to the letter;
* a fork of a fork, and a retried one, keep all of this.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from wfes import ForkRefused
from wfes.core import events as e
from wfes.core.evolve import fold
from wfes.core.voiding import meant
from wfes.simulation import SimulatedHost
from wfes.timetravel.fork_command import Fork
from wfes.timetravel.fork_draft import Changes, Draft, drafted

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))


def _programs() -> Any:
    """The random programs of the laws of replay."""
    spec = importlib.util.spec_from_file_location("programs", Path(__file__).with_name("test_same_path.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


P = _programs()
Node = tuple[Any, ...]


async def gone_on(
    program: Node, history: list[e.Recorded], draft: Draft, seed: int
) -> tuple[list[e.Recorded], Any, SimulatedHost]:
    """Makes a fork and runs it to its end, with whatever comes from outside; its history."""
    world = P.World()
    wf = P.make_workflow(program, world)
    host = world.host = SimulatedHost([wf], seed=seed)
    host.clock._now = max(recorded.event.at for recorded in history)
    host.log.load(history[0].originator_id, history)
    Fork(id="fork", draft=draft, before=draft.state(), actor="alice").run(host.log)
    state = host.log.state("fork")
    assert state is not None
    if state.paused:
        host.log.append("fork", [e.WorkflowResumed(at=host.clock.now())])
    if seed % 2:
        host.interfere = P.Disturbance(seed, host, "fork")
    await host.run()
    return host.log.history("fork"), world, host


def random_changes(draw: Random, history: list[e.Recorded]) -> Changes:
    """Some changes that a fork of this history can have."""
    ended = [r.event for r in history if isinstance(r.event, (e.StepCompleted, e.StepFailed))]
    open_paths = fold("", history).steps
    results = {event.path: "changed" for event in ended if draw.random() < 0.2}
    results.update({path: "given" for path in open_paths if draw.random() < 0.3})
    kinds: tuple[type[e.Event], ...] = (
        *(e.StepStarted, e.StepCompleted, e.StepFailed, e.SleepScheduled, e.SleepEnded, e.ListenStarted),
        *(e.ListenEnded, e.EventReceived, e.DataProvided, e.RequestIssued, e.TimerFired, e.CancelRequested),
        *(e.WorkflowPaused, e.WorkflowCompleted, e.WorkflowFailed, e.WorkflowCancelled, e.WorkflowTimedOut),
    )
    dropped = {r.originator_version for r in history if isinstance(r.event, kinds) and draw.random() < 0.05}
    payloads = {
        r.originator_version: 7
        for r in history
        if isinstance(r.event, (e.EventReceived, e.DataProvided)) and draw.random() < 0.3
    }
    what = draw.choice(["results", "dropped", "payloads", "by_path", "all"])
    return Changes(
        results=results if what in ("results", "all") else {},
        dropped=frozenset(dropped - payloads.keys()) if what in ("dropped", "all") else frozenset(),
        payloads=payloads if what in ("payloads", "all") else {},
        by_path=what == "by_path",
        actor="alice",
    )


def without(history: list[e.Recorded]) -> list[tuple[int, e.Event]]:
    return [(recorded.originator_version, recorded.event) for recorded in history]


def check_fork(
    program: Node, history: list[e.Recorded], at: int, changes: Changes, seed: int
) -> list[e.Recorded]:
    what = (seed, at, changes)
    before = without(history)
    draft = drafted(history[:at], changes, history[at:])
    forked, world, host = asyncio.run(gone_on(program, history, draft, seed))
    P.check_no_difference(forked[draft.at :], what)
    assert forked[-1].event.terminal or fold("fork", forked).is_over, (what, forked[-1])
    assert without(host.log.history(history[0].originator_id)) == before, what
    given = {event.path for event in draft.events[: draft.cut - 1] if isinstance(event, e.StepCompleted)}
    given |= {
        path for path, at in draft.results.items() if meant(draft.events[at - 1]).topic == "StepCompleted"
    }
    repeated = {path for path in world.executed if path in given}
    assert not repeated, (what, repeated)
    if forked[-1].event.terminal and len(forked) > len(draft.events) + 1:
        P.check_replays(program, forked, world, seed, what)
    return forked


def places(history: list[e.Recorded], seed: int, number: int) -> list[int]:
    found = list(range(1, len(history) + 1))
    return found if len(found) <= number else Random(seed).sample(found, number)


@pytest.mark.parametrize("disturbed", [False, True])
def test_unchanged(disturbed: bool) -> None:
    for seed in range(40 * SCALE):
        program = P.program_of(seed)
        history, _ = asyncio.run(P.live(program, seed, disturbed=disturbed))
        for at in places(history, seed, 6):
            forked = check_fork(program, history, at, Changes(), 2 * seed)
            origin, fork = fold("", history[:at]), fold("", forked[:at])
            assert (fork.status, fork.fields, fork.inbox) == (origin.status, origin.fields, origin.inbox)
            assert fork.steps == origin.steps
            assert list(fork.waits) == list(origin.waits)
            assert [wait.until for wait in fork.waits.values()] == [w.until for w in origin.waits.values()]
            if fold("", history[:at]).ended is None:
                assert P.end_of(forked)[0].startswith("Workflow")


@pytest.mark.parametrize("disturbed", [False, True])
def test_changed(disturbed: bool) -> None:
    for seed in range(60 * SCALE):
        program = P.program_of(seed)
        history, _ = asyncio.run(P.live(program, seed, disturbed=disturbed))
        for at in places(history, seed, 5):
            draw = Random(f"{seed} {at}")
            _checked(program, history, at, random_changes(draw, history[:at]), seed)


def test_forks_of_forks() -> None:
    for seed in range(30 * SCALE):
        program = P.program_of(seed)
        history, _ = asyncio.run(P.live(program, seed, disturbed=bool(seed % 3)))
        for _ in range(3):
            draw = Random(f"{seed} {len(history)}")
            first = next(
                (r.originator_version for r in reversed(history) if isinstance(r.event, e.HistoryForked)), 1
            )
            at = draw.randrange(first, len(history) + 1)
            forked = _checked(program, history, at, random_changes(draw, history[:at]), seed)
            if forked is not None:
                history = [
                    e.Recorded("other", r.originator_version, r.event, r.position, r.copied) for r in forked
                ]


def _checked(
    program: Node, history: list[e.Recorded], at: int, changes: Changes, seed: int
) -> list[e.Recorded] | None:
    try:
        return check_fork(program, history, at, changes, seed)
    except ForkRefused as refused:
        if "timed out" not in refused.reason and "no value" not in refused.reason:
            raise
        return None
