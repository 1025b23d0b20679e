"""Commands on schedules, in transactions made by hand: every tick is decided once, in order, whatever happens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes.core import events as e
from wfes.core import schedules as core
from wfes.core import ticking
from wfes.core.durations import DAY, HOUR, MINUTE, SECOND
from wfes.core.ids import check_id
from wfes.core.schedules import ALL, Definition, ScheduleState, Tick
from wfes.core.state import ACTIVE
from wfes.errors import DuplicateSchedule, UnknownSchedule
from wfes.runtime.schedule_commands import (
    NAMES,
    OF_WORKFLOW,
    STATE,
    Advance,
    BackfillSchedule,
    Declared,
    DefineSchedules,
    PauseSchedule,
    RemoveSchedule,
    ResumeSchedule,
    TriggerSchedule,
)
from wfes.runtime.streams import SCHEDULE_PREFIX, schedule_stream
from wfes.runtime.ticks import ticks_of
from wfes.simulation import SimulatedClock, SimulatedLog

START = 1_893_456_000 * SECOND  # 2030-01-01


class Log(SimulatedLog):
    """Histories in memory, with the rows that commands on schedules read."""

    def __init__(self) -> None:
        self.time = START
        self.stale = 0
        """How many events the rows are behind."""
        super().__init__(SimulatedClock())

    @property
    def now(self) -> int:
        return self.time

    def schedule(self, name: str = "job", behind: int = 0) -> ScheduleState | None:
        history = self.streams.get(schedule_stream(name), [])
        history = history[: max(0, len(history) - behind)]
        return core.fold_schedule(name, history) if history else None

    def _all(self, behind: int = 0) -> list[ScheduleState]:
        names = [
            stream[len(SCHEDULE_PREFIX) :] for stream in self.streams if stream.startswith(SCHEDULE_PREFIX)
        ]
        return [state for name in sorted(names) if (state := self.schedule(name, behind)) is not None]

    def query(
        self,
        sql: str,
        params: Sequence[object] | Mapping[str, object] = (),
        *,
        shows: Collection[type[e.Event]] | None = None,
    ) -> list[tuple[Any, ...]]:
        given = list(params) if not isinstance(params, Mapping) else []
        if sql == STATE:
            return [(stored(state),) for state in self._all(self.stale) if state.name == given[0]]
        if sql == NAMES:
            return [(state.name,) for state in self._all() if not state.removed]
        if sql == OF_WORKFLOW:
            return [
                (state.name,)
                for state in self._all()
                if not state.removed and state.definition.workflow == given[0]
            ]
        if "wfes_instances" in sql:
            found = {str(id): self.state(str(id)) for id in given}
            return [(id, str(state.status)) for id, state in found.items() if state is not None]
        return super().query(sql, params)

    # -- What happens ------------------------------------------------------------------------------------------------

    def define(self, *definitions: Definition, workflows: Sequence[str] = ("job",)) -> list[str]:
        names = ["job"] + [f"job#{number}" for number in range(2, len(definitions) + 1)]
        declared = [Declared(name, one) for name, one in zip(names, definitions, strict=False)]
        changed: list[str] = DefineSchedules(declared, workflows).run(self)
        return changed

    def advance(self, name: str = "job") -> None:
        for _ in range(100):
            if not Advance(name).run(self)["appended"]:
                return
        raise AssertionError("it never comes to rest")

    def end(self, id: str) -> None:
        self.append(id, [e.RunClaimed(at=self.time, worker="w", epoch=1), e.WorkflowCompleted(at=self.time)])

    def active(self) -> list[str]:
        return [s.id for s in self._states.values() if s.status in ACTIVE]

    def events(self, *kinds: type[e.Event], name: str = "job") -> list[Any]:
        return [
            r.event
            for r in self.streams.get(schedule_stream(name), [])
            if not kinds or isinstance(r.event, kinds)
        ]

    def started(self, *kinds: str) -> list[str]:
        return [v.tick for v in self.events(e.TickStarted) if not kinds or v.kind in kinds]


def stored(state: ScheduleState) -> str:
    return orjson.dumps(core.to_json(state), option=orjson.OPT_SORT_KEYS).decode()


MINUTELY = Definition(workflow="job", cron="* * * * *", timezone="UTC")


def log_with(**options: Any) -> Log:
    log = Log()
    log.define(replace(MINUTELY, **options))
    return log


def minute(number: int) -> str:
    return f"2030-01-01T{number // 60:02}:{number % 60:02}:00+00:00"


# -- The laws --------------------------------------------------------------------------------------------------------


def check(log: Log) -> None:
    """Every tick was decided exactly once and in order, and no instance was started twice."""
    cursor: core.Cursor = (0, ALL)
    state = ScheduleState("job")
    started: set[str] = set()
    for recorded in log.streams.get(schedule_stream("job"), []):
        event = recorded.event
        definition = state.definition
        ticks = None if not definition.cron else ticks_of(definition.cron, definition.timezone)
        match event:
            case e.TickStarted():
                assert event.instance not in started
                started.add(event.instance)
                if event.kind == "queued":
                    assert state.queue[0] == Tick(event.due, event.tick)
                elif event.kind in ("tick", "catch-up"):
                    assert ticks is not None
                    assert not state.paused
                    assert ticks.next(cursor) == Tick(event.due, event.tick)
                    cursor = (event.due, event.tick)
            case e.TickQueued() | e.TickSkipped(queued=False):
                assert ticks is not None
                assert ticks.next(cursor) == Tick(event.due, event.tick)
                cursor = (event.due, event.tick)
            case e.TicksMissed():
                assert ticks is not None
                if state.queue and event.first == state.queue[0].name:
                    assert event.count == len(state.queue)
                else:
                    following = ticks.next(cursor)
                    assert following is not None
                    assert following.name == event.first
                    assert ticks.count(cursor, event.due) >= event.count
                    assert [t for t in ticks.upto(cursor, event.due) if t.name <= event.last][
                        -1
                    ].name == event.last
                    cursor = (event.due, event.last)
            case e.ScheduleDefined() if state.removed:
                cursor = (event.at, ALL)
            case e.ScheduleDefined():
                if (definition.cron, definition.timezone) != (event.cron, event.timezone):
                    assert ticks is not None
                    assert ticks.count(cursor, event.at) == 0
                    cursor = max(cursor, (event.at, ALL))
            case e.ScheduleResumed() | e.ScheduleRemoved():
                assert ticks is not None
                assert ticks.count(cursor, event.at) == 0
                cursor = max(cursor, (event.at, ALL))
            case _:
                pass
        core.evolve_schedule(state, event, recorded.originator_version)
        assert state.cursor == cursor
    assert core.from_json(orjson.loads(stored(state))) == state
    if state.ticks and state.definition.cron:
        left = ticks_of(state.definition.cron, state.definition.timezone).next(state.cursor)
        assert left is None or left.at > log.time
    assert state.started == len(started)


definitions = st.builds(
    Definition,
    workflow=st.just("job"),
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "*/15 * * * * 0,30", "30 2 * * *", "*/20 1-3 * * *"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    overlap=st.sampled_from(["skip", "allow", "queue", "cancel"]),
    catch_up=st.sampled_from(["latest", None, MINUTE, 10 * MINUTE, 2 * HOUR]),
    jitter=st.sampled_from([0, 30 * SECOND]),
)
actions = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([SECOND, 10 * SECOND, MINUTE, 5 * MINUTE, HOUR])),
    st.tuples(st.just("gone"), st.sampled_from([MINUTE, HOUR, 5 * HOUR, DAY])),
    st.tuples(st.just("back"), st.sampled_from([MINUTE, HOUR, DAY])),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("define"), definitions),
    st.sampled_from([("pause",), ("resume",), ("remove",), ("trigger",), ("undeclare",)]),
    st.tuples(st.just("backfill"), st.sampled_from([5 * MINUTE, HOUR, 5 * HOUR])),
)


@settings(max_examples=150, deadline=None)
@given(
    first=definitions,
    script=st.lists(actions, max_size=25),
    summer=st.booleans(),
    stale=st.sampled_from([0, 0, 3, 1_000]),
)
def test_every_tick_is_decided_once_and_in_order(
    first: Definition, script: list[tuple[Any, ...]], summer: bool, stale: int
) -> None:
    log = Log()
    log.stale = stale
    # Two in the morning of a night with a changed clock is part of half of the runs.
    log.time = (1_900_980_000 - 3 * 3_600) * SECOND if summer else START
    log.define(first)
    declared = first
    for number, (action, *rest) in enumerate(script):
        state = log.schedule()
        assert state is not None
        match action:
            case "wait" | "gone":
                log.time += rest[0]
            case "back":
                log.time -= rest[0]
            case "end":
                for id in log.active()[: rest[0]]:
                    log.end(id)
            case "define":
                declared = rest[0]
                log.define(declared)
            case "undeclare":
                log.define()
            case _ if state.removed:
                log.define(declared)
            case "pause":
                PauseSchedule(schedule="job").run(log)
            case "resume":
                ResumeSchedule(schedule="job").run(log)
            case "remove":
                RemoveSchedule(schedule="job").run(log)
            case "trigger":
                TriggerSchedule(schedule="job", id=str(number)).run(log)
            case _:
                BackfillSchedule(schedule="job", start=log.time - rest[0], end=log.time).run(log)
        if action != "gone":
            before = set(log.active())
            log.advance()
            if declared.overlap in ("skip", "queue") and not before:
                assert len(log.active()) <= 1
    log.advance()
    check(log)


# -- Overlap ---------------------------------------------------------------------------------------------------------


def test_skip_leaves_out_what_comes_while_one_is_active() -> None:
    log = log_with()
    for _ in range(3):
        log.time += MINUTE
        log.advance()
    assert log.started() == [minute(1)]
    assert [v.reason for v in log.events(e.TickSkipped)] == ["overlap", "overlap"]
    log.end(f"job@{minute(1)}")
    log.time += MINUTE
    log.advance()
    assert log.started() == [minute(1), minute(4)]
    assert log.events(e.TickStarted)[1].ended == (f"job@{minute(1)}",)


def test_allow_starts_all() -> None:
    log = log_with(overlap="allow")
    for _ in range(3):
        log.time += MINUTE
        log.advance()
    assert log.started() == [minute(1), minute(2), minute(3)]
    assert len(log.active()) == 3


def test_queue_starts_one_after_another_in_order() -> None:
    log = log_with(overlap="queue")
    for _ in range(4):
        log.time += MINUTE
        log.advance()
    assert log.started() == [minute(1)]
    for number in (2, 3, 4):
        log.end(log.active()[0])
        log.advance()
        assert log.started("queued")[-1] == minute(number)
        assert len(log.active()) == 1


def test_a_full_queue_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticking, "QUEUE_MAX", 2)
    log = log_with(overlap="queue")
    for _ in range(5):
        log.time += MINUTE
        log.advance()
    assert [v.reason for v in log.events(e.TickSkipped)] == ["the queue is full", "the queue is full"]
    check(log)


def test_cancel_interrupts_the_previous() -> None:
    log = log_with(overlap="cancel")
    log.time += MINUTE
    log.advance()
    log.append(f"job@{minute(1)}", [e.RunClaimed(at=log.time, worker="w", epoch=1)])
    log.time += MINUTE
    log.advance()
    first = log.history(f"job@{minute(1)}")[-1].event
    assert isinstance(first, e.CancelRequested)
    assert first.reason is not None
    assert "'job'" in first.reason
    assert log.events(e.TickStarted)[1].cancelled == (f"job@{minute(1)}",)


# -- Catching up -----------------------------------------------------------------------------------------------------


def gone(hours: float, **options: Any) -> Log:
    log = log_with(**options)
    log.time += round(hours * HOUR) + 30 * SECOND
    log.advance()
    return log


def test_latest_runs_the_last_missed_tick_once() -> None:
    log = gone(5)
    assert log.started() == [minute(300)]
    (missed,) = log.events(e.TicksMissed)
    assert (missed.first, missed.last, missed.count) == (minute(1), minute(299), 299)
    assert missed.reason == "no engine ran them in time"
    assert log.events(e.TickStarted)[0].kind == "catch-up"


def test_none_runs_none_and_a_duration_what_is_not_older() -> None:
    assert gone(5, catch_up=None).started() == []
    log = gone(5, catch_up=5 * MINUTE, overlap="allow")
    assert log.started() == [minute(number) for number in range(296, 301)]
    assert log.events(e.TicksMissed)[0].count == 295


def test_a_single_missed_tick_and_one_on_time() -> None:
    log = gone(1 / 60)
    assert (log.started(), log.events(e.TicksMissed)) == ([minute(1)], [])
    log = log_with()
    log.time += MINUTE + 5 * SECOND
    log.advance()
    assert log.events(e.TickStarted)[0].kind == "tick"


def test_years_without_an_engine_are_one_event() -> None:
    log = gone(24 * 365 * 3, catch_up=None)
    assert len(log.events(e.TicksMissed)) == 1
    assert log.events(e.TicksMissed)[0].count == 3 * 365 * 1_440


def test_a_long_catch_up_comes_in_bounded_transactions() -> None:
    log = log_with(overlap="allow", catch_up=DAY)
    log.time += 10 * HOUR
    assert Advance("job").run(log)["appended"] == ticking.BATCH_MAX
    log.advance()
    assert log.started() == [minute(number) for number in range(1, 601)]
    check(log)


# -- Clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [HOUR, DAY])
def test_a_clock_set_back_repeats_nothing(jump: int) -> None:
    log = log_with(overlap="allow")
    for _ in range(5):
        log.time += MINUTE
        log.advance()
    log.time -= jump
    for _ in range(5):
        log.time += MINUTE
        log.advance()
    assert log.started() == [minute(number) for number in range(1, 6)]
    log.time += jump
    log.advance()
    assert log.started()[-1] == minute(10)
    check(log)


@pytest.mark.parametrize("jump", [HOUR, DAY])
def test_a_clock_set_forward_misses_what_lies_between(jump: int) -> None:
    log = log_with(overlap="allow")
    log.time += MINUTE
    log.advance()
    log.time += jump + 30 * SECOND
    log.advance()
    assert len(log.started("catch-up")) == 1
    assert log.events(e.TicksMissed)[0].count == jump // MINUTE - 1
    check(log)


# -- Pause, resume, trigger, backfill, removal, change ---------------------------------------------------------------


def test_ticks_of_a_pause_are_missed() -> None:
    log = log_with()
    PauseSchedule(schedule="job", reason="maintenance", actor="ann").run(log)
    PauseSchedule(schedule="job").run(log)
    log.time += 3 * MINUTE
    log.advance()
    assert log.started() == []
    ResumeSchedule(schedule="job", actor="ann").run(log)
    ResumeSchedule(schedule="job").run(log)
    log.time += MINUTE
    log.advance()
    assert log.started() == [minute(4)]
    (missed,) = log.events(e.TicksMissed)
    assert (missed.count, missed.reason) == (3, "paused")
    assert [v.actor for v in log.events(e.SchedulePaused, e.ScheduleResumed)] == ["ann", "ann"]


def test_a_trigger_starts_whatever_is_open_and_while_paused() -> None:
    log = log_with(input={"x": 1}, lifetime=HOUR)
    PauseSchedule(schedule="job").run(log)
    first = TriggerSchedule(schedule="job", id="t1", actor="ann").run(log)
    assert first["id"] == "job@trigger-t1"
    assert TriggerSchedule(schedule="job", id="t1").run(log)["id"] == first["id"]
    TriggerSchedule(schedule="job", id="t2").run(log)
    started = log.history(first["id"])[0].event
    assert isinstance(started, e.WorkflowStarted)
    assert (started.input, started.actor, started.deadline) == ({"x": 1}, "ann", log.time + HOUR)
    assert started.trigger == {"schedule": "job", "tick": "trigger-t1"}
    assert log.started("trigger") == ["trigger-t1", "trigger-t2"]


def test_a_backfill_starts_what_has_no_instance() -> None:
    log = log_with(overlap="allow", catch_up=None)
    log.time += 10 * MINUTE
    log.advance()
    assert log.started() == [minute(10)]
    asked = BackfillSchedule(schedule="job", start=START, end=START + DAY).run(log)
    assert asked["ticks"] == 11
    log.advance()
    assert log.started("backfill") == [minute(number) for number in range(10)]
    (done,) = log.events(e.BackfillAdvanced)
    assert (done.present, done.done) == (1, True)
    again = BackfillSchedule(schedule="job", start=START, end=START + 5 * MINUTE).run(log)
    assert again["ticks"] == 6
    log.advance()
    assert len(log.started()) == 11
    check(log)


def test_a_backfill_runs_one_after_another_and_leaves_ticks_their_turn() -> None:
    log = log_with()
    BackfillSchedule(schedule="job", start=START - 3 * MINUTE, end=START - MINUTE).run(log)
    log.advance()
    assert len(log.active()) == 1
    log.time += MINUTE
    log.advance()
    assert len(log.active()) == 1
    while log.active():
        log.end(log.active()[0])
        log.advance()
    kinds = [v.kind for v in log.events(e.TickStarted)]
    assert kinds == ["backfill", "queued", "backfill", "backfill"]
    check(log)


def test_a_huge_backfill_comes_in_bounded_transactions() -> None:
    log = log_with(overlap="allow")
    BackfillSchedule(schedule="job", start=START - 500 * MINUTE, end=START - MINUTE).run(log)
    assert Advance("job").run(log)["appended"] == ticking.BATCH_MAX
    log.advance()
    assert len(log.started("backfill")) == 500
    BackfillSchedule(schedule="job", start=START - 600 * MINUTE, end=START - MINUTE).run(log)
    log.advance()
    assert len(log.started("backfill")) == 600
    state = log.schedule()
    assert state is not None
    assert state.backfills == []


def test_a_backfill_without_ticks_is_nothing() -> None:
    log = log_with(cron="0 0 1 * *")
    assert BackfillSchedule(schedule="job", start=START + 1, end=START + DAY).run(log)["ticks"] == 0
    assert log.events(e.BackfillRequested) == []


def test_a_removed_schedule_is_unknown_and_comes_back_afresh() -> None:
    log = log_with(overlap="queue")
    for _ in range(3):
        log.time += MINUTE
        log.advance()
    RemoveSchedule(schedule="job", reason="moved away").run(log)
    log.time += HOUR
    log.advance()
    for command in (PauseSchedule, ResumeSchedule, RemoveSchedule):
        with pytest.raises(UnknownSchedule, match="'job'"):
            command(schedule="job").run(log)
    assert [v.count for v in log.events(e.TicksMissed)] == [2]
    log.define(MINUTELY)
    log.time += MINUTE
    log.advance()
    check(log)
    assert log.events(e.ScheduleDefined)[-1].former["overlap"] == "queue"


def test_what_is_no_longer_declared_is_removed() -> None:
    log = Log()
    assert log.define(MINUTELY, replace(MINUTELY, cron="0 * * * *")) == ["job", "job#2"]
    assert log.define(MINUTELY, replace(MINUTELY, cron="0 * * * *")) == []
    assert log.define(MINUTELY) == ["job#2"]
    assert log.define(MINUTELY, workflows=["other"]) == []
    second = log.schedule("job#2")
    assert second is not None
    assert second.removed


def test_another_definition_shows_old_and_new_and_keeps_the_cursor_where_times_stay() -> None:
    log = log_with(catch_up=HOUR, overlap="allow")
    log.time += 5 * MINUTE
    log.define(replace(MINUTELY, catch_up=HOUR, overlap="allow", input=7))
    log.advance()
    assert log.started() == [minute(number) for number in range(1, 6)]
    log.time += 5 * MINUTE
    log.define(replace(MINUTELY, cron="*/2 * * * *", overlap="allow"))
    log.time += 2 * MINUTE
    log.advance()
    assert log.started()[5:] == [minute(12)]
    (missed,) = log.events(e.TicksMissed)
    assert (missed.first, missed.last, missed.reason) == (minute(6), minute(10), "definition changed")
    first, second, third = log.events(e.ScheduleDefined)
    assert first.former is None
    assert (second.former["input"], second.input) == (None, 7)
    assert (third.former["cron"], third.cron) == ("* * * * *", "*/2 * * * *")
    check(log)


def test_a_name_that_another_workflow_has_is_refused() -> None:
    log = log_with()
    other = Declared("job", replace(MINUTELY, workflow="other"))
    with pytest.raises(DuplicateSchedule, match="'job' and 'other'"):
        DefineSchedules([other], ["other"]).run(log)


def test_jitter_is_bounded_repeatable_and_counted_from_the_tick() -> None:
    starts: list[int] = []
    for _ in range(2):
        log = log_with(jitter=30 * SECOND, overlap="allow")
        log.time += MINUTE + 3 * SECOND
        log.advance()
        started = log.history(f"job@{minute(1)}")[0].event
        assert isinstance(started, e.WorkflowStarted)
        starts.append(started.not_before or log.time)
    assert starts[0] == starts[1]
    drawn = [core.jitter_of("job", minute(number), 30) for number in range(500)]
    assert set(drawn) == set(range(31))
    assert core.jitter_of("job", "x", 0) == 0


def test_a_schedule_that_a_clock_far_ahead_has_left_there_is_freed_by_removing_it() -> None:
    log = log_with()
    log.time += MINUTE
    log.advance()
    log.time += 1_000 * DAY
    log.advance()
    log.time -= 1_000 * DAY
    RemoveSchedule(schedule="job").run(log)
    log.define(MINUTELY)
    log.end(f"job@{minute(1)}")
    log.time += MINUTE
    log.advance()
    assert log.started()[-1] == minute(2)


def test_ids_say_schedule_and_tick_and_fit() -> None:
    assert core.tick_instance("job", minute(1)) == "job@2030-01-01T00:01:00+00:00"
    long = [core.tick_instance("x" * 199 + end, minute(1)) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(id) == 200 and id.endswith(minute(1)) for id in long)
    for name in ("$job", "a\nb", "$"):
        assert check_id(core.tick_instance(name, minute(1))).endswith(f"@{minute(1)}")
