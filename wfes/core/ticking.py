"""What a schedule's ticks lead to: the events that due ticks, a queue, a backfill, a pause or a definition amount to.

The deciders are pure and change no state they are given. Whoever calls says which ticks there are, which of the open
instances have ended and which instances exist already.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.core.schedules import (
    BACKFILL,
    CATCH_UP,
    QUEUED,
    TICK,
    Definition,
    Missed,
    ScheduleState,
    Tick,
    described,
    evolve_schedule,
    tick_instance,
)

Json = Any

ON_TIME = 10 * SECOND
"""A tick that is not older than this is on time; an older one was missed, and `catch_up` says what becomes of it."""
QUEUE_MAX = 1_000
"""How many ticks wait at most until the open instances have ended."""
BATCH_MAX = 200
"""How many instances one decision starts at most, and how many ticks of a backfill it looks at."""

LATE, PAUSED, CHANGED, REMOVED = "no engine ran them in time", "paused", "definition changed", "removed"
OVERLAP, FULL, PRESENT = "overlap", "the queue is full", "its instance exists already"


def horizon(state: ScheduleState, now: int) -> int:
    """From which moment on a due tick still starts; microseconds. Older ones are missed, but for the latest where
    `catch_up` says so."""
    catch_up = state.definition.catch_up
    return now - max(ON_TIME, catch_up if isinstance(catch_up, int) else 0)


class _Working:
    """A state that is being decided upon, and the events so far."""

    def __init__(self, state: ScheduleState, now: int, ended: AbstractSet[str]) -> None:
        self.state = copy.deepcopy(state)
        self.now = now
        self.ended = ended
        self.events: list[e.Event] = []

    def add(self, event: e.Event) -> None:
        """Decides this."""
        self.events.append(event)
        evolve_schedule(self.state, event, self.state.version + 1)

    def active(self) -> list[str]:
        """The open instances that have not ended."""
        return [id for id in self.state.open if id not in self.ended]

    def start(self, tick: Tick, kind: str, *, backfill: int = 0, cancelled: Sequence[str] = ()) -> None:
        """Starts a tick's instance."""
        state = self.state
        self.add(
            e.TickStarted(
                at=self.now,
                tick=tick.name,
                due=tick.at,
                instance=tick_instance(state.name, tick.name),
                kind=kind,
                backfill=backfill,
                ended=tuple(id for id in state.open if id in self.ended),
                cancelled=tuple(cancelled),
            )
        )

    def skip(self, tick: Tick, reason: str, *, queued: bool = False) -> None:
        """Leaves a tick out."""
        self.add(e.TickSkipped(at=self.now, tick=tick.name, due=tick.at, reason=reason, queued=queued))

    def missed(self, missed: Missed, reason: str) -> None:
        """Records ticks that start nothing."""
        self.add(
            e.TicksMissed(
                at=self.now,
                first=missed.first.name,
                last=missed.last.name,
                due=missed.last.at,
                count=missed.size,
                reason=reason,
            )
        )

    def tick(self, tick: Tick, kind: str, present: Collection[str]) -> None:
        """Decides what becomes of a tick that is due."""
        state = self.state
        if tick_instance(state.name, tick.name) in present:
            self.skip(tick, PRESENT)
            return
        active = self.active()
        overlap = state.definition.overlap
        if state.at_once or not active:
            self.start(tick, kind)
        elif overlap == "queue" or all(state.open[id] == BACKFILL for id in active):
            # What is backfilled neither costs a tick its turn nor is cancelled by it.
            if len(state.queue) < QUEUE_MAX:
                self.add(e.TickQueued(at=self.now, tick=tick.name, due=tick.at))
            else:
                self.skip(tick, FULL)
        elif overlap == "cancel":
            self.start(tick, kind, cancelled=[id for id in active if state.open[id] != BACKFILL])
        else:
            self.skip(tick, OVERLAP)


def decide_due(
    state: ScheduleState,
    missed: Missed | None,
    latest: Missed | None,
    due: Sequence[Tick],
    now: int,
    *,
    ended: AbstractSet[str],
    present: Collection[str],
) -> list[e.Event]:
    """What due ticks lead to.

    Args:
        state: the schedule's; it is not changed.
        missed: the ticks behind its cursor that are due before the `horizon`.
        latest: the same without the last of them; None where there is only one.
        due: the ticks from the horizon on, in order; those beyond the last of them are left for later.
        now: microseconds.
        ended: which of the open instances have ended.
        present: ids of the ticks' instances that exist already.
    """
    if not state.ticks:
        return []
    working = _Working(state, now, ended)
    _next_queued(working, present)
    if missed is not None:
        if state.definition.catch_up == "latest" and not due:
            if latest is not None:
                working.missed(latest, LATE)
            working.tick(missed.last, CATCH_UP, present)
        else:
            working.missed(missed, LATE)
    for tick in due:
        working.tick(tick, TICK if now - tick.at <= ON_TIME else CATCH_UP, present)
    return working.events


def decide_queued(
    state: ScheduleState, now: int, *, ended: AbstractSet[str], present: Collection[str]
) -> list[e.Event]:
    """Starts the first queued tick if no instance is open."""
    if not state.ticks:
        return []
    working = _Working(state, now, ended)
    _next_queued(working, present)
    return working.events


def _next_queued(working: _Working, present: Collection[str]) -> None:
    for tick in working.state.queue[:BATCH_MAX]:
        if working.active() and not working.state.at_once:
            break
        if tick_instance(working.state.name, tick.name) in present:
            working.skip(tick, PRESENT, queued=True)
        else:
            working.start(tick, QUEUED)


def decide_backfill(
    state: ScheduleState,
    ticks: Sequence[Tick],
    more: bool,
    now: int,
    *,
    ended: AbstractSet[str],
    present: Collection[str],
) -> list[e.Event]:
    """What the first backfill comes to now.

    Args:
        state: the schedule's; it is not changed.
        ticks: the next ticks of that backfill behind its cursor.
        more: whether there are more ticks in it behind these.
        now: microseconds.
        ended: which of the open instances have ended.
        present: ids of the ticks' instances that exist already.
    """
    if state.removed or not state.backfills or (state.queue and not state.paused):
        return []
    working = _Working(state, now, ended)
    backfill = working.state.backfills[0]
    passed = 0
    behind = 0
    for number, tick in enumerate(ticks, 1):
        if tick_instance(state.name, tick.name) in present:
            passed += 1
        elif state.at_once or not working.active():
            working.start(tick, BACKFILL, backfill=backfill.version)
        else:
            break
        behind = number
    done = behind == len(ticks) and not more
    at, name = ticks[behind - 1] if behind else backfill.cursor
    if done or (passed and behind):
        working.add(
            e.BackfillAdvanced(
                at=now, backfill=backfill.version, tick=name, due=at, present=passed, done=done
            )
        )
    return working.events


def decide_definition(
    state: ScheduleState, definition: Definition, missed: Missed | None, now: int
) -> list[e.Event]:
    """What a definition amounts to that an engine comes with; nothing where it is the one in force.

    Args:
        state: the schedule's; it is not changed.
        definition: what it is to be.
        missed: the ticks behind its cursor that are due by now.
        now: microseconds.
    """
    former = state.definition
    if not state.removed and former == definition:
        return []
    working = _Working(state, now, frozenset())
    moves = (former.cron, former.timezone) != (definition.cron, definition.timezone)
    if missed is not None and moves and not state.removed:
        working.missed(missed, PAUSED if state.paused else CHANGED)
    replaced = None if state.version == 0 else described(former)
    working.add(
        e.ScheduleDefined(at=now, schedule=state.name, former=replaced, **described(definition)),
    )
    return working.events


def decide_removal(
    state: ScheduleState,
    missed: Missed | None,
    now: int,
    *,
    reason: str | None = None,
    actor: str | None = None,
    cause: Json = None,
) -> list[e.Event]:
    """The end of a schedule; nothing where it is removed already. `missed`: what is behind its cursor and due."""
    if state.removed:
        return []
    working = _Working(state, now, frozenset())
    if missed is not None:
        working.missed(missed, PAUSED if state.paused else REMOVED)
    if state.queue:
        working.missed(Missed(state.queue[0], state.queue[-1], len(state.queue)), REMOVED)
    working.add(e.ScheduleRemoved(at=now, reason=reason, actor=actor, cause=cause))
    return working.events


def decide_pause(
    state: ScheduleState, now: int, *, reason: str | None, actor: str | None, cause: Json
) -> list[e.Event]:
    """A pause; nothing where it is paused already."""
    if state.paused:
        return []
    return [e.SchedulePaused(at=now, reason=reason, actor=actor, cause=cause)]


def decide_resume(
    state: ScheduleState, missed: Missed | None, now: int, *, actor: str | None, cause: Json
) -> list[e.Event]:
    """The end of a pause; `missed`: what is behind its cursor and due."""
    if not state.paused:
        return []
    working = _Working(state, now, frozenset())
    if missed is not None:
        working.missed(missed, PAUSED)
    working.add(e.ScheduleResumed(at=now, actor=actor, cause=cause))
    return working.events
