"""What an execution does when its handler has settled: stay, leave memory, or be held.

A handler all of whose branches wait needs no memory: after a moment (a short sleep needs no replay) its instance is
released and what will wake it stands in the log. Two conditions no event will ever end are held for somebody to look
at: a handler that never settles, and one that waits for nothing but itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wfes.core import durations
from wfes.core import events as e
from wfes.handler.difference import Difference, whereabouts
from wfes.handler.ends import CLEANUP_MICROS
from wfes.handler.outbox import Entry

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.handler.replay import Replay

DEADLOCK_MICROS = 10 * durations.SECOND
"""How long a handler may wait for nothing that is known before it is held: a thread of its own may yet wake it."""
INSIDE_LINGER_FACTOR = 10
"""A step's function that only waits stays this much longer than a handler: it might do something unseen."""

_log = logging.getLogger("wfes")


class Rest:
    """Whether one execution stays in memory.

    Attributes:
        stopping: a clean stop has begun: no new step starts.
        releasing: the instance's release is on its way to the log.
    """

    __slots__ = ("_execution", "_held", "_limited", "releasing", "stopping")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._held = False
        self._limited = 0
        self.stopping = False
        self.releasing = False

    def let_go(self) -> None:
        """Its execution has left: it is asked nothing more."""
        del self._execution

    @property
    def must_leave(self) -> bool:
        """Whether it leaves memory whatever comes."""
        return self.stopping or self._held

    @property
    def idle(self) -> bool:
        """Whether every branch of the handler only waits."""
        execution = self._execution
        if execution.replay is not None or execution.is_leaving or not execution.line.is_quiet:
            return False
        if execution.loop.outside_open or execution.loop.has_ready or execution.held:
            return False
        if not execution.asks and not execution.timers:
            return False
        return self._only_waits()

    @property
    def may_leave(self) -> bool:
        """Whether it only waits for what will wake it: not in the 30 seconds of an interrupted handler."""
        return self._execution.ends.interrupted is None and self.idle

    def look(self) -> None:
        """Decides what to do now that the handler has settled."""
        execution = self._execution
        if execution.is_leaving or not execution.line.is_empty:
            return
        if execution.active and not self._may_rest():
            return
        self._watch_handler_code()
        if (self.stopping or execution.paused) and self._only_waits():
            interrupted = execution.ends.interrupted is not None
            self.release(waiting=not interrupted and (execution.paused or not execution.held))
        elif self._is_stuck():
            if "deadlock" not in execution.alarms:
                execution.alarms.set("deadlock", self._from_now(DEADLOCK_MICROS), self._deadlocked)
        elif "linger" not in execution.alarms and self.may_leave:
            self._linger()

    def look_at_replay(self, replay: Replay) -> None:
        """A replay waits for something outside; a stop does not wait for that, nor an end for longer than it must."""
        execution = self._execution
        if self.stopping:
            self.release(waiting=False)
            return
        interrupted, deadline = replay.to_come()
        due = deadline if interrupted is None else interrupted + CLEANUP_MICROS
        if due is None:
            execution.alarms.cancel("replay")
        else:
            execution.alarms.set("replay", due, lambda: self._end_in_replay(replay))

    def _end_in_replay(self, replay: Replay) -> None:
        execution = self._execution
        if execution.is_leaving or execution.replay is not replay:
            return
        replay.foresee_interruption()
        execution.ends.end_now()
        execution.line.outbox.flush()

    def release(self, *, waiting: bool) -> None:
        """Releases the instance; the execution is gone when that is committed."""
        self.releasing = True
        execution = self._execution
        line, at = execution.line, execution.stamp()
        for timer, due in execution.timers.pending():
            line.add(Entry(e.TimerScheduled(at=at, delay=timer.delay, number=timer.number, due=due)))
        suspended = tuple(step.path for step in execution.active if execution.waits_inside(step))
        line.add(Entry(e.RunReleased(at=at, waiting=waiting, suspended=suspended), blocks=True))
        line.outbox.flush()

    def hold(self, kind: str, report: str | Difference) -> None:
        """Pauses the instance by the engine itself, with a report, and leaves memory; one that is to end, ends."""
        execution = self._execution
        if execution.replay is not None:
            execution.replay.foresee_interruption()
            if execution.ends.is_interrupted:
                execution.ends.finish_interrupted()
                return
        name = execution.workflow.name
        _log.warning("instance %s of workflow %r is paused: %s", execution.id, name, report)
        self._held = True
        execution.line.add(Entry(e.WorkflowPaused(at=execution.stamp(), reason=str(report), held=kind)))
        self.release(waiting=True)

    def stay(self) -> None:
        """Does not leave memory after all: takes up what was due or came while it was about to."""
        self.releasing = False
        execution = self._execution
        for ask in list(execution.asks.values()):
            if ask.on_disk and not (ask.settled or ask.withdrawn):
                ask.stay()
        execution.timers.arm_again()

    # ------------------------------------------------------------------------------------------------ inside

    def _may_rest(self) -> bool:
        """Whether anything is to be looked at although a step runs."""
        execution = self._execution
        if self.stopping or execution.paused or "handler" in execution.alarms:
            return True
        return bool(execution.loop.outside_open or execution.nested.open)

    def _only_waits(self) -> bool:
        execution = self._execution
        return all(execution.waits_inside(step) for step in execution.active)

    def _from_now(self, micros: int) -> int:
        return self._execution.host.clock.now() + micros

    def _is_stuck(self) -> bool:
        """Whether nothing that is known can make the handler go on."""
        execution = self._execution
        if execution.asks or execution.timers or execution.fresh or not execution.line.is_quiet:
            return False
        return not (execution.loop.outside_open or execution.loop.has_ready)

    def _deadlocked(self) -> None:
        execution = self._execution
        if not execution.is_leaving and self._is_stuck():
            execution.hold(
                "deadlock",
                f"the handler of workflow {execution.workflow.name!r} waits for nothing but itself: no step, wait "
                "or timer is open that could make it go on" + whereabouts(execution),
            )

    def _watch_handler_code(self) -> None:
        """Bounds the time that handler code takes between two events: only outside awaits can take any."""
        execution = self._execution
        limit = execution.workflow.timeout_micros
        ends = execution.ends
        if not execution.loop.outside_open or ends.interrupted is not None or ends.is_moved:
            execution.alarms.cancel("handler")
        elif limit is not None and (
            "handler" not in execution.alarms or self._limited != execution.line.added
        ):
            self._limited = execution.line.added
            text = durations.text(limit)
            reason = f"handler code ran for longer than its timeout of {text} between two events"
            execution.alarms.set("handler", self._from_now(limit), lambda: execution.ends.time_out(reason))

    def _linger(self) -> None:
        execution = self._execution
        linger = execution.host.linger_micros * (INSIDE_LINGER_FACTOR if execution.active else 1)
        execution.alarms.set("linger", self._from_now(linger), self._lingered)

    def _lingered(self) -> None:
        execution = self._execution
        if execution.is_leaving or not self.may_leave:
            return
        dues = [due for ask in execution.asks.values() if (due := ask.due()) is not None]
        dues.extend(execution.timers.dues.values())
        if dues and min(dues) <= self._from_now(execution.host.linger_micros):
            self._linger()
        else:
            self.release(waiting=True)
