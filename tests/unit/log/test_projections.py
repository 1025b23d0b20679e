"""Inline rows equal a rebuild, whatever happened; and what their queries find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState, Status
from wfes.errors import UnknownEvent
from wfes.log.memory import MemoryLog
from wfes.log.rows import QUIET, InlineRows
from wfes.log.writer import Writer
from wfes.subscription.rebuild import bring_up
from wfes_projections import inline, instances, listeners, requests, subscriptions, waiters, work

PATHS = ("a", "b", "a/c")
Draw = Callable[[st.SearchStrategy[Any]], Any]


def owner_event(draw: Draw, state: InstanceState, at: int) -> e.Event:
    """Something the owner could do next."""
    path = draw(st.sampled_from(PATHS))
    wait = state.waits.get(path)
    step = state.steps.get(path)
    choices: list[e.Event] = [
        e.ProgressRecorded(at=at, path=path, message="m"),
        e.StateChanged(at=at, changes={"n": at}),
        e.CallRecorded(at=at, path=path, call="publish"),
        e.TimerScheduled(at=at, delay=5, number=1, due=at + 5),
        e.TimerFired(at=at, delay=5, number=1),
        e.RunReleased(at=at, waiting=draw(st.booleans()), suspended=tuple(state.steps)),
        e.WorkflowCompleted(at=at, output=1),
        e.WorkflowFailed(at=at, path=path),
        e.CancelDelivered(at=at, kind=draw(st.sampled_from(["cancel", "timeout"]))),
    ]
    if step is not None:
        ends: list[e.Event] = [
            e.StepCompleted(at=at, path=path),
            e.StepFailed(at=at, path=path),
            e.StepCancelled(at=at, path=path),
            e.StepAttemptFailed(at=at, path=path, attempt=1, error=None, retry_at=at + 9),
            e.StepStarted(at=at, path=path, attempt=2),
        ]
        choices += ends * 2
    elif wait is not None:
        over: list[e.Event] = [
            e.WaitTimedOut(at=at, path=path),
            e.WaitCancelled(at=at, path=path),
            e.SleepEnded(at=at, path=path),
            e.RequestEnded(at=at, path=path, provided=1),
            e.ListenEnded(at=at, path=path, received=next(iter(state.inbox), 1)),
        ]
        choices += over * 2
    else:
        until = draw(st.none() | st.just(at + 7))
        opens: list[e.Event] = [
            e.StepStarted(at=at, path=path),
            e.SleepScheduled(at=at, path=path, until=at + 3),
            e.ListenStarted(at=at, path=path, event=draw(st.sampled_from("xy")), until=until),
            e.RequestIssued(
                at=at, path=path, id=f"{state.id}{at}", name="ok", schema={"type": "boolean"}, until=until
            ),
            e.WaitStarted(at=at, path=path, instance="i0", until=until),
            e.ChildStarted(at=at, path=path, instance="i1", workflow="wf", until=until),
        ]
        choices += opens * 3
    return draw(st.sampled_from(choices))  # type: ignore[no-any-return]


def outside_event(draw: Draw, state: InstanceState, at: int) -> e.Event:
    """Something others could do next."""
    path = draw(st.sampled_from(PATHS))
    choices: list[e.Event] = [
        e.EventReceived(at=at, event=draw(st.sampled_from("xy")), id=f"e{at}"),
        e.DataProvided(at=at, path=path, data=True),
        e.TargetEnded(at=at, path=path, instance="i0", status="completed"),
        e.CancelRequested(at=at),
        e.DeadlineChanged(at=at, deadline=at + 20),
        e.WorkflowPaused(at=at),
        e.WorkflowResumed(at=at),
        e.RunClaimed(at=at, worker=draw(st.sampled_from(["w1", "w2"])), epoch=state.epoch + 1),
    ]
    return draw(st.sampled_from(choices))  # type: ignore[no-any-return]


@st.composite
def histories(draw: Draw, streams: int = 3) -> list[list[tuple[str, list[e.Event]]]]:
    """Batches of appends to several instances, each event possible where it stands."""
    states: dict[str, InstanceState] = {}
    batches: list[list[tuple[str, list[e.Event]]]] = []
    at = 0
    for _ in range(draw(st.integers(1, 12))):
        batch: list[tuple[str, list[e.Event]]] = []
        for _ in range(draw(st.integers(1, 3))):
            stream = f"i{draw(st.integers(0, streams - 1))}"
            events: list[e.Event] = []
            for _ in range(draw(st.integers(1, 4))):
                at += 1
                state = states.get(stream)
                if state is None:
                    state = states[stream] = InstanceState(stream)
                    event: e.Event = e.WorkflowStarted(
                        at=at,
                        workflow=draw(st.sampled_from(["wf", "other"])),
                        key=draw(st.none() | st.just("k")),
                        tags=draw(st.sampled_from([(), ("t",), ("t", "u")])),
                        conversation=draw(st.none() | st.just("c")),
                    )
                elif state.ended is not None:
                    event = e.WorkflowRetried(at=at, void_from=2)
                elif state.worker is not None and draw(st.integers(0, 3)):
                    event = owner_event(draw, state, at)
                else:
                    event = outside_event(draw, state, at)
                evolve(state, event, state.version + 1)
                events.append(event)
            batch.append((stream, events))
        batches.append(batch)
    return batches


class Append:
    def __init__(self, stream: str, events: Sequence[e.Event], future: asyncio.Future[int]) -> None:
        self.stream = stream
        self.events = events
        self.future = future

    def run(self, tx: Any) -> int:
        version: int = tx.append(self.stream, self.events)
        return version

    def done(self, result: int) -> None:
        self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        self.future.set_exception(error)


def write(batches: Sequence[Sequence[tuple[str, Sequence[e.Event]]]], cache_max: int = 100) -> MemoryLog:
    """A log with these appends, written by the writer."""
    log = MemoryLog()
    log.open([])
    bring_up(log, inline())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        writer = Writer(
            log, projections=inline(), clock=lambda: 1, deliver=lambda _: None, cache_max=cache_max
        )
        writer.start(loop)
        try:
            for batch in batches:
                futures = [loop.create_future() for _ in batch]
                for (stream, events), future in zip(batch, futures, strict=True):
                    writer.submit(Append(stream, events, future))
                await asyncio.gather(*futures)
        finally:
            writer.stop()

    asyncio.run(main())
    return log


def tables(log: MemoryLog) -> dict[str, list[tuple[Any, ...]]]:
    return {given.name: sorted(log.read(f"SELECT * FROM {given.name}"), key=repr) for given in inline()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.integers(1, 4))
def test_live_rows_equal_a_rebuild(batches: list[list[tuple[str, list[e.Event]]]], cache_max: int) -> None:
    log = write(batches, cache_max)
    live = tables(log)
    grouped = "SELECT workflow, status, count(*) FROM wfes_instances GROUP BY workflow, status"
    assert sorted(log.read(grouped)) == live["wfes_instance_counts"]
    transaction = log.begin()
    transaction.query("UPDATE wfes_projections SET version = 0")
    transaction.commit()
    assert bring_up(log, inline()) == [given.name for given in inline()]
    assert tables(log) == live
    assert bring_up(log, inline()) == []
    log.close()


def test_a_log_of_a_newer_catalogue_is_refused() -> None:
    log = MemoryLog()
    log.open([])
    transaction = log.begin()
    transaction.insert([(1, "i", 1, "FromTheFuture", b"")])
    transaction.commit()
    with pytest.raises(UnknownEvent, match="FromTheFuture"):
        bring_up(log, inline())
    log.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(streams=1))
def test_quiet_events_that_keep_the_status_keep_the_rows(
    batches: list[list[tuple[str, list[e.Event]]]],
) -> None:
    rows = InlineRows(inline())
    state = InstanceState("i0")
    for event in [event for batch in batches for _, events in batch for event in events]:
        before, status = rows.rows(state), state.status
        evolve(state, event, state.version + 1)
        if type(event) in QUIET and state.status is status:
            assert rows.rows(state) == before


# ------------------------------------------------------------------------------------------- queries


def started(workflow: str = "wf", at: int = 1, **fields: Any) -> e.WorkflowStarted:
    return e.WorkflowStarted(at=at, workflow=workflow, **fields)


def claimed(worker: str = "w") -> e.RunClaimed:
    return e.RunClaimed(at=1, worker=worker, epoch=1)


def found(log: MemoryLog, **wanted: Any) -> list[str]:
    paging = {name: wanted.pop(name) for name in ("cursor", "newest", "limit") if name in wanted}
    rows, _ = instances.find(log.read, instances.InstanceFilter(**wanted), **paging)
    return [row.id for row in rows]


def test_instances_are_found_by_what_the_filter_says() -> None:
    log = write(
        [
            [("a", [started(at=1, key="k", tags=("x", "y"))])],
            [("b", [started(at=2, tags=("y",), parent="a", conversation="c")])],
            [("c", [started("other", at=3), claimed(), e.WorkflowCompleted(at=9)])],
        ]
    )
    assert found(log) == ["c", "b", "a"]
    assert found(log, newest=False) == ["a", "b", "c"]
    assert found(log, workflow="wf") == ["b", "a"]
    assert found(log, key="k") == ["a"]
    assert found(log, tags=["y"]) == ["b", "a"]
    assert found(log, tags=["y", "x"]) == ["a"]
    assert found(log, parent="a") == ["b"]
    assert found(log, conversation="c") == ["b"]
    assert found(log, statuses=[Status.COMPLETED, Status.FAILED]) == ["c"]
    assert found(log, statuses=[]) == []
    assert found(log, created_after=2) == ["c", "b"]
    assert found(log, created_before=2) == ["a"]
    assert found(log, limit=1) == ["c"]
    assert found(log, cursor=(2, "b")) == ["a"]
    assert found(log, cursor=(2, "b"), newest=False) == ["c"]
    (row,), behind = instances.find(log.read, instances.InstanceFilter(workflow="other"))
    assert row == instances.InstanceRecord("c", "other", None, "completed", 3, 9, None, None, ())
    assert behind is None
    with pytest.raises(ValueError, match="limit is 0"):
        found(log, limit=0)
    log.close()


def test_work_is_found_by_when_it_is_due() -> None:
    sleeping = [e.SleepScheduled(at=1, path="s", until=50), e.RunReleased(at=1)]
    log = write(
        [
            [("now", [started()])],
            [("later", [started(not_before=30)])],
            [("asleep", [started(), claimed(), *sleeping])],
            [("owned", [started(), claimed("me")])],
            [("over", [started(), claimed("me"), e.WorkflowAborted(at=2)])],
            [("theirs", [started("other", not_before=5)])],
        ]
    )
    assert work.runnable(log.read, ["wf"], 10, 10) == ["now"]
    assert work.runnable(log.read, ["wf", "other"], 100, 10) == ["now", "theirs", "later", "asleep"]
    assert work.runnable(log.read, ["wf"], 100, 1) == ["now"]
    assert work.next_due(log.read, ["wf"], 10) == 30
    assert work.next_due(log.read, ["wf"], 30) == 50
    assert work.next_due(log.read, ["wf"], 50) is None
    assert work.owned_by(log.read, "me") == [("owned", "wf")]
    assert work.owners(log.read) == ["me"]
    log.close()


def test_requests_are_there_until_they_are_answered() -> None:
    ask = e.RequestIssued(at=4, path="p", id="r1", name="ok", message="?", schema={"type": "null"}, until=9)
    log = write([[("a", [started(conversation="c"), claimed(), ask])]])

    def open_requests(log: MemoryLog, cursor: tuple[int, str] | None = None, **wanted: Any) -> list[Any]:
        rows, behind = requests.find(log.read, requests.RequestFilter(**wanted), cursor=cursor)
        assert behind is None
        return rows

    (row,) = open_requests(log, workflow="wf", conversation="c", instance="a", name="ok", now=8)
    expected = requests.RequestRecord("r1", "a", "wf", "ok", "?", {"type": "null"}, "p", 9, 4, "c")
    assert row == expected
    assert requests.get(log.read, "r1") == expected
    assert requests.get(log.read, "r2") is None
    assert open_requests(log, now=9) == []
    assert open_requests(log, cursor=(4, "r1")) == []
    assert open_requests(log, workflow="other") == []
    log.close()
    log = write([[("a", [started(), claimed(), ask, e.DataProvided(at=5, path="p", data=None)])]])
    assert open_requests(log) == []
    log.close()


def test_listeners_and_waiters() -> None:
    listen = e.ListenStarted(at=2, path="l", event="paid")
    wait = e.ChildStarted(at=2, path="w", instance="b", workflow="wf")
    log = write(
        [[("a", [started(key="k"), claimed(), listen, wait])], [("b", [started(), claimed(), listen])]]
    )
    assert listeners.listening(log.read, "paid") == ["a", "b"]
    assert listeners.listening(log.read, "paid", "k") == ["a"]
    assert listeners.listening(log.read, "sent") == []
    assert waiters.waiters(log.read, "b") == [("a", "w")]
    assert waiters.waiters(log.read, "a") == []
    log.close()


def test_subscriptions_are_those_of_the_newest_definition() -> None:
    def defined(*on: str) -> list[e.Event]:
        return [e.WorkflowDefined(at=1, workflow="wf", on=on, deadline=5)]

    log = write(
        [
            [("$workflow/wf", defined("x", "y"))],
            [("$workflow/wf", defined("y", "z", "z"))],
            [("$workflow/other", [e.WorkflowDefined(at=1, workflow="other", on=("z",))])],
        ]
    )
    assert subscriptions.started_by(log.read, "x") == []
    assert subscriptions.started_by(log.read, "y") == [("wf", 5)]
    assert subscriptions.started_by(log.read, "z") == [("other", None), ("wf", 5)]
    log.close()
