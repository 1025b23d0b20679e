"""Schedules: what they are, what ticks are, and what a schedule's events amount to.

`ScheduleState` is the fold of a schedule's stream; what is decided on it says `wfes.core.ticking`. Which ticks there
are says `wfes.runtime.ticks`.

Invariants: what is due at the cursor or before is decided: started, queued, skipped or missed, each tick once; the
cursor never goes back while a schedule is there, so a clock that is set back repeats nothing; a tick's instance has an
id made of schedule and tick, so that one tick can never have two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any, NamedTuple

from wfes.core import events as e
from wfes.core.ids import NAME_CHARS_MAX, RESERVED, derived_id

Json = Any

OPEN_MAX = 1_000
"""How many of the instances that have not ended are remembered, the newest: only `overlap="allow"` gets that far."""
ALL = "~"
"""As the name in a cursor: everything that is due at its moment. It sorts behind every tick's name."""

TICK, CATCH_UP, QUEUED, BACKFILL, TRIGGER = "tick", "catch-up", "queued", "backfill", "trigger"

EVENTS: frozenset[type[e.Event]] = frozenset(
    {
        e.ScheduleDefined,
        e.ScheduleRemoved,
        e.SchedulePaused,
        e.ScheduleResumed,
        e.TickStarted,
        e.TickQueued,
        e.TickSkipped,
        e.TicksMissed,
        e.BackfillRequested,
        e.BackfillAdvanced,
    }
)
"""What stands on a schedule's stream."""

Cursor = tuple[int, str]
"""A moment (microseconds) and a tick's name: a place among the ticks."""


class Tick(NamedTuple):
    """A tick: when it is due, in microseconds, and its name: its local time with the offset from UTC."""

    at: int
    name: str


class Missed(NamedTuple):
    """Several ticks in a row that start nothing."""

    first: Tick
    last: Tick
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a schedule is; `jitter` and `lifetime` in microseconds, `catch_up` "latest", microseconds or None."""

    workflow: str
    cron: str
    timezone: str
    input: Json = None
    jitter: int = 0
    overlap: str = "skip"
    catch_up: Json = "latest"
    lifetime: int | None = None


@dataclass(slots=True)
class Backfill:
    """A backfill that is not done: the version that asked for it, its bounds, and the last tick looked at."""

    version: int
    start: int
    end: int
    at: int
    name: str

    @property
    def cursor(self) -> Cursor:
        """Its ticks up to here have instances."""
        return self.at, self.name


@dataclass(slots=True)
class ScheduleState:
    """Everything a schedule's events say; times in microseconds.

    Attributes:
        open: instances it has started that are not known to have ended, oldest first, with their tick's kind.
        queue: ticks that wait for these to end.
        backfills: what is still to be backfilled, in the order asked for.
        started, skipped, missed: how many ticks came to that (triggers count as started).
    """

    name: str
    version: int = 0
    definition: Definition = field(default_factory=lambda: Definition(workflow="", cron="", timezone="UTC"))
    removed: bool = True
    paused: bool = False
    pause_reason: str | None = None
    at: int = 0
    tick: str = ""
    open: dict[str, str] = field(default_factory=dict[str, str])
    queue: list[Tick] = field(default_factory=list[Tick])
    backfills: list[Backfill] = field(default_factory=list[Backfill])
    started: int = 0
    skipped: int = 0
    missed: int = 0
    last_tick: str | None = None
    last_due: int | None = None
    last_instance: str | None = None

    @property
    def cursor(self) -> Cursor:
        """Everything up to here is decided."""
        return self.at, self.tick

    @property
    def ticks(self) -> bool:
        """Whether its ticks start anything by themselves."""
        return not (self.removed or self.paused)

    @property
    def waits(self) -> bool:
        """Whether something is to start as soon as it may: a queued tick or a backfill."""
        return not self.removed and bool((self.queue and not self.paused) or self.backfills)

    @property
    def at_once(self) -> bool:
        """Whether its instances may overlap."""
        return self.definition.overlap == "allow"


def to_json(state: ScheduleState) -> Json:
    """The state as a JSON tree; `from_json` gives it back."""
    tree = {f.name: getattr(state, f.name) for f in fields(state)}
    tree["definition"] = described(state.definition)
    tree["queue"] = [list(tick) for tick in state.queue]
    tree["backfills"] = [[b.version, b.start, b.end, b.at, b.name] for b in state.backfills]
    # JSON objects need not keep their order; this one's is that of the starts.
    tree["open"] = [list(pair) for pair in state.open.items()]
    return tree


def from_json(tree: Json) -> ScheduleState:
    """The state that `to_json` made this of."""
    found = dict(tree)
    found["definition"] = Definition(**found["definition"])
    found["queue"] = [Tick(*tick) for tick in found["queue"]]
    found["backfills"] = [Backfill(*backfill) for backfill in found["backfills"]]
    found["open"] = dict(found["open"])
    return ScheduleState(**found)


def described(definition: Definition) -> Json:
    """A definition as a JSON tree."""
    return {f.name: getattr(definition, f.name) for f in fields(definition)}


def tick_instance(schedule: str, tick: str) -> str:
    """The id of a tick's instance: `schedule@tick`, where that can be an id."""
    id = f"{schedule}@{tick}"
    if len(id) <= NAME_CHARS_MAX and id.isprintable() and not id.startswith(RESERVED):
        return id
    # As much of the schedule's name as an id may hold, and what makes it differ from others that look alike.
    rest = f"~{derived_id('schedule', schedule)}@{tick}"
    head = "".join(filter(str.isprintable, schedule)).lstrip(RESERVED)
    return head[: NAME_CHARS_MAX - len(rest)] + rest


def jitter_of(schedule: str, tick: str, bound: int) -> int:
    """How long the start of this tick is put off: always the same, at most `bound`; microseconds."""
    if not bound:
        return 0
    drawn = int.from_bytes(sha256(f"{schedule}\n{tick}".encode()).digest()[:8], "big")
    return drawn % (bound + 1)


# -- The fold --------------------------------------------------------------------------------------------------------


def fold_schedule(name: str, events: Sequence[e.Recorded]) -> ScheduleState:
    """The state of a schedule after these events of its stream, from the first on."""
    state = ScheduleState(name)
    for recorded in events:
        evolve_schedule(state, recorded.event, recorded.originator_version)
    return state


def evolve_schedule(state: ScheduleState, event: e.Event, version: int) -> ScheduleState:
    """The state after one more event. Changes its argument."""
    state.version = version
    match event:
        case e.ScheduleDefined():
            _defined(state, event)
        case e.ScheduleRemoved():
            state.removed = True
            state.paused = False
            state.pause_reason = None
            state.queue = []
            state.backfills = []
            _decided(state, event.at, ALL)
        case e.SchedulePaused():
            state.paused = True
            state.pause_reason = event.reason
        case e.ScheduleResumed():
            state.paused = False
            state.pause_reason = None
            _decided(state, event.at, ALL)
        case e.TickStarted():
            _started(state, event)
        case e.TickQueued():
            state.queue.append(Tick(event.due, event.tick))
            _decided(state, event.due, event.tick)
        case e.TickSkipped():
            state.skipped += 1
            if event.queued:
                del state.queue[:1]
            else:
                _decided(state, event.due, event.tick)
        case e.TicksMissed():
            state.missed += event.count
            _decided(state, event.due, event.last)
        case e.BackfillRequested():
            state.backfills.append(Backfill(version, event.start, event.end, event.start - 1, ALL))
        case e.BackfillAdvanced():
            _backfilled(state, event.backfill, event.due, event.tick)
            if event.done:
                state.backfills = [b for b in state.backfills if b.version != event.backfill]
        case _:
            raise ValueError(f"{event.topic} is no event of a schedule")
    return state


def _decided(state: ScheduleState, at: int, tick: str) -> None:
    state.at, state.tick = max(state.cursor, (at, tick))


def _defined(state: ScheduleState, event: e.ScheduleDefined) -> None:
    former = state.definition
    if state.removed:
        # Afresh, even where a clock that was far ahead has left the cursor there.
        state.at, state.tick = event.at, ALL
    elif (former.cron, former.timezone) != (event.cron, event.timezone):
        _decided(state, event.at, ALL)
    state.removed = False
    state.definition = Definition(
        workflow=event.workflow,
        cron=event.cron,
        timezone=event.timezone,
        input=event.input,
        jitter=event.jitter,
        overlap=event.overlap,
        catch_up=event.catch_up,
        lifetime=event.lifetime,
    )


def _started(state: ScheduleState, event: e.TickStarted) -> None:
    for id in event.ended:
        state.open.pop(id, None)
    state.open[event.instance] = event.kind
    if len(state.open) > OPEN_MAX:
        del state.open[next(iter(state.open))]
    state.started += 1
    state.last_instance = event.instance
    if event.kind == TRIGGER:
        return
    if event.kind == BACKFILL:
        _backfilled(state, event.backfill, event.due, event.tick)
        return
    if event.kind == QUEUED:
        del state.queue[:1]
    state.last_tick, state.last_due = event.tick, event.due
    _decided(state, event.due, event.tick)


def _backfilled(state: ScheduleState, version: int, at: int, tick: str) -> None:
    for backfill in state.backfills:
        if backfill.version == version:
            backfill.at, backfill.name = max(backfill.cursor, (at, tick))
