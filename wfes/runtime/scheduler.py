"""The scheduler: sees to it that due ticks are decided, in an engine that runs instances.

It knows, for every schedule of the engine's workflows, when the next tick is due, and asks for `Advance` then; what a
tick leads to is decided inside that command's transaction, on what stands there. So it may be late, early, doubled by
other engines or wrong about what it remembers: asking once too often changes nothing.

Invariants: one timer waits, for the earliest tick, by the wall clock; at most one command a schedule is in the queue;
every event of a schedule, and the end of an instance that a queued tick or a backfill waits for, makes it look again;
what goes wrong with one schedule is logged and tried again, and holds up no other. Everything happens on the event
loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from wfes.core.codec import Json
from wfes.core.durations import SECOND
from wfes.core.events import Recorded
from wfes.core.schedules import ScheduleState
from wfes.errors import WfesError
from wfes.log.port import Log, Tx
from wfes.runtime.clock import Cancellable, Clock
from wfes.runtime.membership import Queue
from wfes.runtime.schedule_commands import STATE, Advance, read_state
from wfes.runtime.streams import SCHEDULE_PREFIX
from wfes.runtime.ticks import ticks_of

_log = logging.getLogger("wfes")

RETRY_MICROS = 5 * SECOND
"""How long after something went wrong with a schedule it is tried again."""
_NAMES = "SELECT name, workflow FROM wfes_schedules WHERE removed = 0 ORDER BY name"


class _Advancing:
    """`Advance` as a member of the writer's queue. Nobody waits for it, so it waits while the log is in trouble."""

    __slots__ = ("_command", "_done", "_failed")

    def __init__(
        self, command: Advance, done: Callable[[str, int], None], failed: Callable[[str, Exception], None]
    ) -> None:
        self._command = command
        self._done = done
        self._failed = failed

    def run(self, tx: Tx) -> Json:
        return self._command.run(tx)

    def done(self, result: Any) -> None:
        self._done(self._command.schedule, result["now"])

    def failed(self, error: Exception) -> None:
        self._failed(self._command.schedule, error)


class Scheduler:
    """Advances the schedules of an engine's workflows."""

    def __init__(self, *, log: Log, writer: Queue, clock: Clock, workflows: Collection[str]) -> None:
        """Makes it; `start` lets it work. On the event loop's thread.

        Args:
            log: an open log.
            writer: its writer.
            clock: tells the time and calls back.
            workflows: the names of the workflows whose schedules it advances.
        """
        self._log = log
        self._writer = writer
        self._clock = clock
        self._workflows = frozenset(workflows)
        self._loop = asyncio.get_running_loop()
        self._working = False
        self._touched: set[str] = set()
        self._looking = False
        self._in_flight: set[str] = set()
        self._due: dict[str, int] = {}
        self._timer: Cancellable | None = None
        self._timer_due: int | None = None
        # instances whose end somebody waits for, and the other way round
        self._awaited: dict[str, str] = {}
        self._awaiting: dict[str, list[str]] = {}

    def start(self) -> None:
        """Looks at every schedule and begins to work."""
        self._working = True
        for name, workflow in self._log.read(_NAMES):
            if workflow in self._workflows:
                self._touched.add(name)
        self._look_soon()

    def stop(self) -> None:
        """Asks for nothing more. What is in the writer's queue is written."""
        self._working = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timer_due = None

    @property
    def quiet(self) -> bool:
        """Whether it only waits for the time."""
        return not (self._in_flight or self._looking)

    def deliver(self, events: Sequence[Recorded]) -> None:
        """Takes what was committed, by whomever."""
        if not self._working:
            return
        awaited = self._awaited
        for recorded in events:
            stream = recorded.originator_id
            if stream.startswith(SCHEDULE_PREFIX):
                self._touch(stream[len(SCHEDULE_PREFIX) :])
            elif awaited and stream in awaited and recorded.event.terminal:
                self._touch(awaited[stream])

    # -- Looking ---------------------------------------------------------------------------------------------------

    def _touch(self, name: str) -> None:
        self._touched.add(name)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._touched and not self._looking:
            self._looking = True
            self._loop.call_soon(self._look_at_touched)

    def _look_at_touched(self) -> None:
        self._looking = False
        if not self._working:
            return
        # What is in flight is looked at when it is done.
        names = self._touched - self._in_flight
        self._touched -= names
        for name in sorted(names):
            self._look(name)
        self._set_timer()

    def _look(self, name: str, advanced_at: int | None = None) -> None:
        """Sees what is to be done about a schedule, and asks for it or waits.

        Args:
            name: the schedule.
            advanced_at: when it was advanced, where nothing has happened to it since.
        """
        self._due.pop(name, None)
        try:
            state = self._read(name)
            if state is None:
                self._await(name, [])
                return
            # Before the command: what ends while that is on its way makes it look again.
            self._await(name, list(state.open) if state.waits else [])
            following = ticks_of(state.definition.cron, state.definition.timezone).next(state.cursor)
        except (WfesError, ValueError) as error:
            self._trouble(name, error)
            return
        due = None if following is None or not state.ticks else following.at
        if advanced_at is None and ((due is not None and due <= self._clock.now()) or state.waits):
            self._in_flight.add(name)
            self._writer.submit(_Advancing(Advance(name), self._done, self._failed))
        elif due is not None:
            # What it has just left undone would be left undone again at once.
            undone = advanced_at is not None and due <= advanced_at
            self._due[name] = self._clock.now() + RETRY_MICROS if undone else due

    def _read(self, name: str) -> ScheduleState | None:
        rows = self._log.read(STATE, (name,))
        state = read_state(rows[0][0]) if rows else None
        if state is None or state.removed or state.definition.workflow not in self._workflows:
            return None
        return state

    def _await(self, name: str, instances: list[str]) -> None:
        for id in self._awaiting.pop(name, ()):
            self._awaited.pop(id, None)
        if instances:
            self._awaiting[name] = instances
            self._awaited.update(dict.fromkeys(instances, name))

    def _done(self, name: str, at: int) -> None:
        self._in_flight.discard(name)
        if not self._working:
            return
        if name in self._touched:
            self._look_soon()
            return
        # It changed nothing: there is nothing to do but wait for its next tick.
        self._look(name, at)
        self._set_timer()

    def _failed(self, name: str, error: Exception) -> None:
        self._in_flight.discard(name)
        if self._working:
            self._trouble(name, error)
            self._set_timer()

    def _trouble(self, name: str, error: Exception) -> None:
        unexpected = None if isinstance(error, (WfesError, ValueError)) else error
        _log.error("schedule %r cannot go on: %s; it is tried again", name, error, exc_info=unexpected)
        self._due[name] = self._clock.now() + RETRY_MICROS

    # -- The timer -------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = min(self._due.values(), default=None) if self._working else None
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_due = due
        if due is not None:
            self._timer = self._clock.call_at_wall(due, self._fire)

    def _fire(self) -> None:
        self._timer = self._timer_due = None
        now = self._clock.now()
        self._touched.update(name for name, due in self._due.items() if due <= now)
        self._look_soon()
        if not self._looking:
            self._set_timer()
