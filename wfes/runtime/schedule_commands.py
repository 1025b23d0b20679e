"""Commands on schedules: definitions, due ticks, pauses, triggers, backfills.

Each reads the schedule's row inside the writer's transaction, decides by ``wfes.core.ticking`` and appends to the
schedule's stream; an instance that a tick starts is started in that very transaction. So however many engines find a
tick due at the same time, the first transaction decides it, and the others find the cursor behind it.

Invariants: a transaction starts at most `BATCH_MAX` instances, and looks at as many ticks of a backfill; what is left
is for the next one. Ticks are computed from the definition in the log, never from what an engine's own code says.
Uniqueness rests on the log: should the row ever be behind its stream, the rest of the stream is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from wfes.core import decide, ticking
from wfes.core import events as e
from wfes.core import schedules as core
from wfes.core.codec import Json
from wfes.core.schedules import ALL, Definition, Missed, ScheduleState
from wfes.core.state import ACTIVE
from wfes.core.ticking import BATCH_MAX
from wfes.errors import DuplicateSchedule, UnknownSchedule, WfesError
from wfes.log.port import Tx
from wfes.runtime.commands import Start
from wfes.runtime.descriptions import description
from wfes.runtime.streams import schedule_stream
from wfes.runtime.ticks import Ticks, ticks_of
from wfes.runtime.values import Blobs, Values
from wfes.schedule import schedule_names

if TYPE_CHECKING:
    from wfes.definition import Workflow

STATE = "SELECT state FROM wfes_schedules WHERE name = ?"
OF_WORKFLOW = "SELECT name FROM wfes_schedules WHERE workflow = ? AND removed = 0 ORDER BY name"
NAMES = "SELECT name FROM wfes_schedules WHERE removed = 0 ORDER BY name"
_STATUSES = "SELECT id, status FROM wfes_instances WHERE id IN ({})"
_ASKED_MAX = 200

Read = Callable[[str, Sequence[object]], Sequence[tuple[Any, ...]]]


def read_state(stored: str) -> ScheduleState:
    """The state that a row holds."""
    return core.from_json(orjson.loads(stored))


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule as an engine's code declares it, its input validated and sealed."""

    name: str
    definition: Definition
    blobs: Blobs = ()


def declared(workflows: Iterable[Workflow[Any, Any]], values: Values) -> list[Declared]:
    """The schedules of these workflows, as they are to be defined.

    Raises:
        DuplicateSchedule: two workflows have schedules of the same name.
    """
    found: dict[str, Declared] = {}
    for workflow in workflows:
        names = schedule_names(workflow.name, workflow.schedules)
        for name, schedule in zip(names, workflow.schedules, strict=True):
            if name in found:
                raise DuplicateSchedule(name, found[name].definition.workflow, workflow.name)
            fitting = workflow.validate_input(schedule.input)
            input = values.seal(fitting, f"input of schedule {name!r}", workflow.input_type)
            catch_up = schedule.catch_up_micros
            definition = Definition(
                workflow=workflow.name,
                cron=schedule.cron,
                timezone=schedule.timezone,
                input=input.tree,
                jitter=schedule.jitter_micros,
                overlap=schedule.overlap,
                catch_up="latest" if catch_up is None else catch_up or None,
                lifetime=workflow.deadline_micros,
            )
            found[name] = Declared(name, definition, input.blobs)
    return list(found.values())


@dataclass(slots=True)
class DefineSchedules:
    """Records the definitions that differ from those in force, and the removal of what is declared no longer.

    Attributes:
        declared: every schedule of these workflows.
        workflows: the names of the workflows the engine has.
    """

    declared: Sequence[Declared]
    workflows: Collection[str]

    def run(self, tx: Tx) -> Json:
        found = {one.name: _found(tx, one.name) for one in self.declared}
        for one in self.declared:
            state = found[one.name]
            if state is None or state.removed or state.definition.workflow == one.definition.workflow:
                continue
            if state.definition.workflow not in self.workflows:
                raise DuplicateSchedule(one.name, state.definition.workflow, one.definition.workflow)
        changed: list[str] = []
        for one in self.declared:
            state = found[one.name] or ScheduleState(one.name)
            former, new = state.definition, one.definition
            moved = (former.cron, former.timezone) != (new.cron, new.timezone)
            missed = _missed(state, tx.now) if moved and not state.removed else None
            events = ticking.decide_definition(state, new, missed, tx.now)
            if events:
                for digest, content in one.blobs:
                    tx.put_blob(digest, content)
                tx.append(schedule_stream(one.name), events)
                changed.append(one.name)
        return [*changed, *self._remove_others(tx)]

    def _remove_others(self, tx: Tx) -> list[str]:
        removed: list[str] = []
        declared = {one.name for one in self.declared}
        for workflow in self.workflows:
            for row in tx.query(OF_WORKFLOW, (workflow,), shows=core.EVENTS):
                state = None if row[0] in declared else _found(tx, row[0])
                if state is None:
                    continue
                missed = _missed(state, tx.now)
                events = ticking.decide_removal(state, missed, tx.now, reason="no longer declared")
                if events:
                    tx.append(schedule_stream(state.name), events)
                    removed.append(state.name)
        return removed


@dataclass(slots=True)
class Advance:
    """Decides what is due: ticks behind the cursor, queued ticks whose turn it is, the next ones of a backfill.

    Nothing is due: nothing is appended. So any engine may ask at any time.
    """

    schedule: str

    def run(self, tx: Tx) -> Json:
        state = _found(tx, self.schedule)
        if state is None or state.removed:
            return {"appended": 0, "now": tx.now}
        turn = _Turn(tx, state)
        if state.ticks:
            turn.due()
        if state.queue and turn.room:
            turn.queued()
        if state.backfills and turn.room:
            turn.backfill()
        return {"appended": turn.appended, "now": tx.now}


class _Turn:
    """One transaction's work on one schedule."""

    def __init__(self, tx: Tx, state: ScheduleState) -> None:
        self._tx = tx
        self._state = state
        self._ticks = ticks_of(state.definition.cron, state.definition.timezone)
        self._ended: frozenset[str] | None = None
        self.appended = 0
        self.room = BATCH_MAX

    def due(self) -> None:
        """Ticks behind the cursor."""
        state, now = self._state, self._tx.now
        first = self._ticks.next(state.cursor)
        if first is None or first.at > now:
            return
        horizon = ticking.horizon(state, now)
        missed, latest = self._ticks.missed(state.cursor, horizon - 1) if first.at < horizon else (None, None)
        cursor = max(state.cursor, (horizon - 1, ALL))
        due = list(itertools.islice(self._ticks.upto(cursor, now), self.room))
        looked_at = [*due, *([missed.last] if missed is not None else [])]
        present = self._present([*looked_at, *state.queue[: self.room]])
        self._take(
            ticking.decide_due(state, missed, latest, due, now, ended=self._ended_ones(), present=present)
        )

    def queued(self) -> None:
        """Queued ticks."""
        present = self._present(self._state.queue[: self.room])
        self._take(
            ticking.decide_queued(self._state, self._tx.now, ended=self._ended_ones(), present=present)
        )

    def backfill(self) -> None:
        """The next ticks of the first backfill."""
        backfill = self._state.backfills[0]
        found = list(itertools.islice(self._ticks.upto(backfill.cursor, backfill.end), self.room + 1))
        ticks, more = found[: self.room], len(found) > self.room
        self._take(
            ticking.decide_backfill(
                self._state,
                ticks,
                more,
                self._tx.now,
                ended=self._ended_ones(),
                present=self._present(ticks),
            )
        )

    def _ended_ones(self) -> frozenset[str]:
        if self._ended is None:
            self._ended = ended_of(self._tx.query, self._state)
        return self._ended

    def _present(self, ticks: Iterable[core.Tick]) -> set[str]:
        return _present(self._tx, [core.tick_instance(self._state.name, tick.name) for tick in ticks])

    def _take(self, events: Sequence[e.Event]) -> None:
        """Appends events and does what they say."""
        perform(self._tx, self._state, events)
        self.appended += len(events)
        self.room -= sum(isinstance(event, e.TickStarted) for event in events)


def perform(tx: Tx, state: ScheduleState, events: Sequence[e.Event]) -> Start | None:
    """Appends a schedule's events, moves its state, starts the instances they name and cancels those they cancel.

    Returns:
        The last start.
    """
    if not events:
        return None
    tx.append(schedule_stream(state.name), events)
    start = None
    for event in events:
        core.evolve_schedule(state, event, state.version + 1)
        if isinstance(event, e.TickStarted):
            for id in event.cancelled:
                _cancel(tx, id, state.name, event.tick)
            start = _start(state, event, tx.now)
            start.run(tx)
    return start


def _start(state: ScheduleState, event: e.TickStarted, now: int) -> Start:
    definition = state.definition
    delay = 0
    if event.kind in (core.TICK, core.CATCH_UP):
        delay = max(0, event.due + core.jitter_of(state.name, event.tick, definition.jitter) - now)
    source = {"schedule": state.name, "tick": event.tick}
    return Start(
        id=event.instance,
        workflow=definition.workflow,
        input=definition.input,
        delay=delay if definition.jitter else 0,
        deadline=definition.lifetime,
        trigger=source,
        seed=event.instance,
        actor=event.actor,
        cause=source if event.cause is None else event.cause,
        derived=True,
    )


def _cancel(tx: Tx, id: str, schedule: str, tick: str) -> None:
    state = tx.state(id)
    if state is None:
        return
    reason = f"the next tick of schedule {schedule!r} is due"
    command = decide.Cancel(reason=reason, cause={"schedule": schedule, "tick": tick})
    decision = decide.decide(state, command, tx.now)
    if decision and not isinstance(decision, WfesError):
        tx.append(id, decision)


# -- What people ask for ---------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Asked:
    """What somebody asks of one schedule."""

    schedule: str
    actor: str | None = None
    cause: Json = None

    def find(self, tx: Tx) -> ScheduleState:
        """The schedule's state.

        Raises:
            UnknownSchedule: there is none, or it was removed.
        """
        state = _found(tx, self.schedule)
        if state is None or state.removed:
            raise UnknownSchedule(self.schedule, [str(row[0]) for row in tx.query(NAMES, shows=core.EVENTS)])
        return state

    def answer(self, tx: Tx, state: ScheduleState, events: Sequence[e.Event]) -> Json:
        """Appends the events; what the caller gets."""
        if events:
            tx.append(schedule_stream(state.name), events)
        return {"schedule": state.name, "new": bool(events)}


@dataclass(slots=True, kw_only=True)
class PauseSchedule(_Asked):
    """Holds a schedule."""

    reason: str | None = None

    def run(self, tx: Tx) -> Json:
        state = self.find(tx)
        events = ticking.decide_pause(state, tx.now, reason=self.reason, actor=self.actor, cause=self.cause)
        return self.answer(tx, state, events)


@dataclass(slots=True, kw_only=True)
class ResumeSchedule(_Asked):
    """Releases a schedule; what it missed meanwhile is recorded."""

    def run(self, tx: Tx) -> Json:
        state = self.find(tx)
        missed = _missed(state, tx.now) if state.paused else None
        events = ticking.decide_resume(state, missed, tx.now, actor=self.actor, cause=self.cause)
        return self.answer(tx, state, events)


@dataclass(slots=True, kw_only=True)
class RemoveSchedule(_Asked):
    """Ends a schedule."""

    reason: str | None = None

    def run(self, tx: Tx) -> Json:
        state = self.find(tx)
        events = ticking.decide_removal(
            state, _missed(state, tx.now), tx.now, reason=self.reason, actor=self.actor, cause=self.cause
        )
        return self.answer(tx, state, events)


@dataclass(slots=True, kw_only=True)
class TriggerSchedule(_Asked):
    """Starts an instance now, whatever is open and whether it is paused.

    Attributes:
        id: makes the instance's id.
    """

    id: str

    def run(self, tx: Tx) -> Json:
        state = self.find(tx)
        tick = f"trigger-{self.id}"
        instance = core.tick_instance(state.name, tick)
        existing = tx.state(instance)
        if existing is not None:
            return description(existing, new=False)
        event = e.TickStarted(
            at=tx.now,
            tick=tick,
            due=tx.now,
            instance=instance,
            kind=core.TRIGGER,
            ended=tuple(sorted(ended_of(tx.query, state))),
            actor=self.actor,
            cause=self.cause,
        )
        start = perform(tx, state, [event])
        assert start is not None
        assert start.state is not None
        # With its input, which the caller has not.
        return description(start.state, new=False)


@dataclass(slots=True, kw_only=True)
class BackfillSchedule(_Asked):
    """Has the ticks of a time in the past start an instance each, as far as they have none.

    Attributes:
        start, end: the bounds, both included, in microseconds; what is not due yet is left to its own time.
    """

    start: int
    end: int

    def run(self, tx: Tx) -> Json:
        state = self.find(tx)
        end = min(self.end, tx.now)
        ticks = ticks_of(state.definition.cron, state.definition.timezone)
        size = ticks.count((self.start - 1, ALL), end)
        if size:
            event = e.BackfillRequested(
                at=tx.now, start=self.start, end=end, ticks=size, actor=self.actor, cause=self.cause
            )
            tx.append(schedule_stream(state.name), [event])
        return {"schedule": state.name, "ticks": size}


# -- Reading ---------------------------------------------------------------------------------------------------------


def _found(tx: Tx, name: str) -> ScheduleState | None:
    """A schedule's state, exactly: the row's, and should that ever be behind the stream, moved on by the rest."""
    rows = tx.query(STATE, (name,), shows=core.EVENTS)
    state = read_state(rows[0][0]) if rows else ScheduleState(name)
    stream = schedule_stream(name)
    if state.version != tx.version(stream):
        for recorded in tx.history(stream, state.version):
            core.evolve_schedule(state, recorded.event, recorded.originator_version)
    return state if state.version else None


def _missed(state: ScheduleState, now: int) -> Missed | None:
    """The ticks behind the cursor that are due by now."""
    try:
        ticks: Ticks = ticks_of(state.definition.cron, state.definition.timezone)
    except ValueError:
        return None  # a time zone that this machine does not know: nothing can be said of its ticks
    return ticks.missed(state.cursor, now)[0]


def _statuses(read: Read, ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(ids), _ASKED_MAX):
        some = ids[start : start + _ASKED_MAX]
        found.update(read(_STATUSES.format(", ".join("?" * len(some))), some))
    return found


def ended_of(read: Read, state: ScheduleState) -> frozenset[str]:
    """Which of the instances that a schedule has open have ended. `read` runs a query: a transaction's, or a log's."""
    statuses = _statuses(read, list(state.open))
    return frozenset(id for id in state.open if statuses.get(id) not in ACTIVE)


def _present(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Which of these instances exist."""
    return set(_statuses(tx.query, ids))
