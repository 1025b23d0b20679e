"""Laws of the bundled read models, over logs of random families of instances (`histories`).

After every event: timers are what the state says is due; the inbox is what the state has not consumed; progress is the
state's. At the end: statistics and activity are what counting the events anew gives. And however the events are cut
into batches, whether rows are read back from a store or known to be new: the rows are the same, to the byte.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random
from typing import Any

import pytest
from feeding import Fed
from histories import random_log

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.subscription.projection import Projection
from wfes_projections.activity import COUNTED, HOUR, MINUTE, Activity, HourRow, MinuteRow
from wfes_projections.inbox import Inbox, InboxRow
from wfes_projections.progress import Progress, ProgressRow
from wfes_projections.statistics import DurationRow, OpenRow, RunningRow, Statistics, StepRow, WorkflowRow
from wfes_projections.timers import DEADLINE, START, DueRow, InterruptedRow, Timers, timer_path

SEEDS = range(60)
MODELS: list[type[Projection]] = [Timers, Inbox, Progress, Statistics, Activity]

log_of = cache(random_log)


def states_along(log: list[e.Recorded]) -> Any:
    """After each event the state of its instance; the engine's own streams are passed over."""
    states: dict[str, InstanceState] = {}
    for recorded in log:
        stream = recorded.originator_id
        if not stream.startswith("$"):
            state = states.setdefault(stream, InstanceState(stream))
            evolve(state, recorded.event, recorded.originator_version)
            yield recorded, state


def dues(state: InstanceState) -> dict[str, tuple[str, int]]:
    """What the state says is due: path to kind and moment."""
    if state.ended is not None:
        return {}
    found = {path: (w.kind, w.until) for path, w in state.waits.items() if w.until is not None}
    found |= {path: ("retry", s.retry_at) for path, s in state.steps.items() if s.retry_at is not None}
    found |= {timer_path(*timer): ("timer", due) for timer, due in state.timers.items()}
    if state.deadline is not None and state.interrupted is None:
        found[DEADLINE] = ("deadline", state.deadline)
    if not state.ran and state.not_before:
        found[START] = ("start", state.not_before)
    return found


@pytest.mark.parametrize("empty", [False, True], ids=["live", "rebuild"])
def test_timers_are_what_the_state_says_is_due(empty: bool) -> None:
    kinds: Counter[str] = Counter()
    for seed in SEEDS:
        fed = Fed(Timers(), empty=empty)
        draw = Random(seed)
        for recorded, state in states_along(log_of(seed)):
            fed.feed([recorded])
            rows = {row.path: row for row in fed.rows.find(DueRow, instance=state.id)}
            wanted = dues(state)
            where = (seed, recorded)
            assert {path: (row.kind, row.due) for path, row in rows.items()} == wanted, where
            assert all(row.workflow == state.workflow for row in rows.values()), where
            bounds = [due for kind, due in wanted.values() if kind != "start"]
            assert state.ended is not None or min(bounds, default=None) == state.due_at(), where
            for path, wait in state.waits.items():
                assert wait.until is None or rows[path].since == wait.since, where
            kinds.update(row.kind for row in rows.values())
            if draw.random() < 0.1:
                fed.write()
        last = {state.id: state for _, state in states_along(log_of(seed))}
        over = {id for id, state in last.items() if state.ended is not None}
        assert all(row.instance not in over for row in fed.all(DueRow)), seed
        assert not {row.instance for row in fed.all(InterruptedRow)} & over, seed
    assert len(kinds) == 9, kinds


def test_an_inner_step_that_is_made_anew_backs_off_no_more() -> None:
    """Whoever runs the outer step again makes the inner one's first attempt, whatever it waited for before."""
    happened: list[e.Event] = [
        e.WorkflowStarted(at=1, workflow="w"),
        e.RunClaimed(at=1, worker="a", epoch=1),
        e.StepStarted(at=2, path="outer"),
        e.StepStarted(at=3, path="outer/in"),
        e.StepAttemptFailed(at=4, path="outer/in", attempt=1, error=None, retry_at=9),
        e.StepAttemptFailed(at=5, path="outer", attempt=1, error=None, retry_at=6),
        e.StepStarted(at=6, path="outer", attempt=2),
        e.StepStarted(at=7, path="outer/in"),
    ]
    fed = Fed(Timers())
    for recorded, state in states_along(
        [e.Recorded("i", n, event, n) for n, event in enumerate(happened, 1)]
    ):
        fed.feed([recorded])
        rows = fed.rows.find(DueRow, instance="i")
        assert {row.path: (row.kind, row.due) for row in rows} == dues(state), recorded
    assert fed.all(DueRow) == []


def test_the_inbox_is_what_the_state_has_not_consumed() -> None:
    seen = kept = 0
    for seed in SEEDS:
        fed = Fed(Inbox())
        for recorded, state in states_along(log_of(seed)):
            fed.feed([recorded])
            rows = {row.version: row for row in fed.rows.find(InboxRow, instance=state.id)}
            wanted: dict[int, str] = {} if state.ended is not None else state.inbox
            assert {version: row.event for version, row in rows.items()} == wanted, (seed, recorded)
            assert all(row.workflow == state.workflow for row in rows.values())
            seen += len(rows)
            kept += isinstance(recorded.event, e.WorkflowRetried) and bool(rows)
            if recorded.position % 7 == 0:
                fed.write()
    assert seen
    assert kept, "no retried instance had anything left in its inbox"


def test_progress_is_the_states() -> None:
    seen = 0
    for seed in SEEDS:
        fed = Fed(Progress())
        for recorded, state in states_along(log_of(seed)):
            fed.feed([recorded])
            row = fed.rows.get(ProgressRow, state.id)
            last = state.progress
            seen += last is not None
            assert (row is None) == (last is None)
            if row is not None and last is not None:
                assert (row.message, row.percent, row.data, row.at) == (
                    last.message,
                    last.percent,
                    last.data,
                    last.at,
                )
                assert row.active == (state.ended is None), (seed, recorded)
                assert row.workflow == state.workflow
    assert seen


def test_statistics_count_what_happened() -> None:
    """Against a count of its own, by whole paths."""
    cut_offs = 0
    for seed in SEEDS:
        log = log_of(seed)
        fed = Fed(Statistics()).feed(log)
        kinds: Counter[str] = Counter(recorded.event.topic for recorded in log)
        steps: list[StepRow] = fed.all(StepRow)
        workflows: list[WorkflowRow] = fed.all(WorkflowRow)
        open_attempts: list[OpenRow] = fed.all(OpenRow)
        assert sum(row.started for row in steps) == kinds["StepStarted"]
        assert sum(row.completed for row in steps) == kinds["StepCompleted"]
        assert sum(row.failed for row in steps) == kinds["StepFailed"]
        assert sum(row.retries for row in steps) == kinds["StepAttemptFailed"]
        assert sum(row.cancelled for row in steps) >= kinds["StepCancelled"]
        assert sum(row.retried for row in workflows) == kinds["WorkflowRetried"]
        for column, topic in (("started", "Started"), ("completed", "Completed"), ("timed_out", "TimedOut")):
            assert sum(getattr(row, column) for row in workflows) == kinds[f"Workflow{topic}"]
        durations, recut, idle = attempts_of(log)
        assert sum(row.micros for row in steps) == sum(durations)
        assert sum(row.cut_offs for row in steps) == recut
        cut_offs += recut
        assert sum(sum(row.bins) for row in fed.all(DurationRow) if row.step) == len(durations)
        assert sum(sum(row.bins) for row in fed.all(DurationRow) if not row.step) == sum(
            recorded.event.terminal for recorded in log
        )
        # Whatever was started has come to an end, was cut off, or is under way.
        ended = sum(row.completed + row.failed + row.retries + row.cancelled + row.cut_offs for row in steps)
        assert sum(row.started for row in steps) == ended + len(open_attempts) - idle, seed
        last = {state.id: state for _, state in states_along(log)}
        alive = {id for id, state in last.items() if state.ended is None}
        assert {row.instance for row in fed.all(RunningRow)} == alive
        assert {row.instance for row in open_attempts} <= alive
    assert cut_offs


def attempts_of(log: list[e.Recorded]) -> tuple[list[int], int, int]:
    """Durations of attempts that ended, how many were cut off, and how many steps were cancelled without one."""
    begun: dict[tuple[str, str], int] = {}
    durations: list[int] = []
    cut_offs = idle = 0
    for recorded in log:
        event, id = recorded.event, recorded.originator_id
        if isinstance(event, e.StepStarted):
            cut_offs += (id, event.path) in begun
            begun[id, event.path] = event.at
        elif isinstance(event, (e.StepCompleted, e.StepFailed, e.StepAttemptFailed)):
            durations.append(event.at - begun.pop((id, event.path)))
        elif isinstance(event, e.StepCancelled):
            idle += begun.pop((id, event.path), None) is None
        elif event.terminal:
            for left in [key for key in begun if key[0] == id]:
                del begun[left]
    return durations, cut_offs, idle


def test_names_of_steps_do_not_depend_on_places() -> None:
    names: set[str] = set()
    for seed in SEEDS:
        names |= {row.step for row in Fed(Statistics()).feed(log_of(seed)).all(StepRow)}
    assert names == {"step", "flaky", "fails", "outer", "outer/in", "m/*", "t"} & names
    assert {"flaky", "outer/in", "m/*"} <= names


def test_activity_is_a_count_of_starts_and_ends() -> None:
    for seed in SEEDS:
        log = log_of(seed)
        fed = Fed(Activity()).feed(log)
        for kind, length in ((MinuteRow, MINUTE), (HourRow, HOUR)):
            rows = fed.all(kind)
            assert all(row.at % length == 0 for row in rows)
            total = Counter({name: sum(getattr(row, name) for row in rows) for name in COUNTED})
            topics = Counter(recorded.event.topic for recorded in log)
            wanted = {name: topics[f"Workflow{name.title().replace('_', '')}"] for name in COUNTED}
            assert dict(total) == wanted, seed


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rows_do_not_depend_on_batches(model: type[Projection]) -> None:
    for seed in SEEDS[:30]:
        log = log_of(seed)
        wanted = Fed(model(), sqlite=True).feed(log).stored()
        assert Fed(model(), empty=True).feed(log).stored() == wanted, "a rebuild"
        for batches in range(3):
            draw = Random(seed * 10 + batches)
            fed = Fed(model(), sqlite=draw.random() < 0.5, empty=draw.random() < 0.5)
            place = 0
            while place < len(log):
                size = draw.choice([1, 1, 2, 5, 50])
                fed.feed(log[place : place + size]).write()
                place += size
                if draw.random() < 0.2:
                    fed.rows.forget()
            assert fed.stored() == wanted, (seed, batches)
