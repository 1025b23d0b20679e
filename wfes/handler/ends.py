"""How an execution's instance comes to its end: by its handler, by a cancellation, by time.

Invariants: the first end counts. A cancellation or time-out is delivered to the handler once; from then on it decides
the end, whatever the handler does with the 30 seconds it is given. An end is an intent: until it is committed, a
cancellation that was there before it takes its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfes.core import durations
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.handler import ending
from wfes.handler.outbox import Entry

if TYPE_CHECKING:
    from wfes.handler.execution import Execution

CLEANUP_MICROS = 30 * durations.SECOND
"""How long a cancelled or timed-out handler may work on."""
_DEADLINE_PASSED = "its deadline passed"


class Ends:
    """The end of one instance, before and while it comes.

    Attributes:
        said: the end that the handler has called for (``fail``, ``abort``, ``complete``), or None.
        interrupted: the cancellation or time-out that the handler has been given, or None.
        cancel: a cancellation request that it has not been given yet, or None.
        deadline: when the instance times out, in microseconds, or None.
        is_moved: whether that moment was set from outside: then no other time-out ends it before.
        is_over: whether the end is decided, if not committed.
        since: when it began to be an instance of its own, where it is a fork; in microseconds.
    """

    __slots__ = ("_execution", "cancel", "deadline", "interrupted", "is_moved", "is_over", "said", "since")

    def __init__(self, execution: Execution, deadline: int | None) -> None:
        self._execution = execution
        self.said: e.Event | None = None
        self.interrupted: e.CancelDelivered | None = None
        self.cancel: e.CancelRequested | None = None
        self.deadline = deadline
        self.is_moved = False
        self.is_over = False
        self.since = 0

    def let_go(self) -> None:
        """Its execution has left: it is asked nothing more."""
        del self._execution

    @property
    def is_interrupted(self) -> bool:
        """Whether a cancellation or time-out has been asked for or given."""
        return self.interrupted is not None or self.cancel is not None

    # ---------------------------------------------------------------------------------------- by the handler

    def say(self, event: e.Event) -> None:
        """The instance is over at this call of the handler."""
        if self.said is None:
            self.said = event

    def fail(self, reason: str) -> None:
        """The handler called ``fail``."""
        info = ErrorInfo(type="wfes.WorkflowFailed", message=reason)
        self.say(e.WorkflowFailed(at=self._execution.stamp(), error=info.to_json()))

    def finish(self) -> None:
        """The handler has ended: records how, unless a cancellation got there first."""
        execution = self._execution
        if self.is_interrupted:
            self.finish_interrupted()
            return
        end = self.said
        if end is None:
            assert execution.main is not None
            execution.record_state()
            end = ending.result_of(execution, execution.main)
        self._over(end)

    # -------------------------------------------------------------------------------------- by interruption

    def request_cancel(self, request: e.CancelRequested) -> None:
        """Somebody wants it cancelled."""
        if not self.is_interrupted:
            self.cancel = request
            if self._execution.replay is None:
                self._execution.line.put(self._emit_cancel)

    def interrupt(self, event: e.CancelDelivered) -> None:
        """Delivers a cancellation or time-out to the handler."""
        execution = self._execution
        self.interrupted = event
        self.cancel = None
        execution.paused = False
        execution.alarms.cancel("deadline")
        execution.move_to(event.at)
        if execution.main is not None and not execution.main.done():
            execution.main.cancel()
            execution.drain()
        if execution.replay is None and not self.is_over:
            self.watch()
            execution.open_held()

    def finish_interrupted(self) -> None:
        """Ends it as cancelled or timed out, now."""
        execution = self._execution
        if self.interrupted is None:
            assert self.cancel is not None
            event = e.CancelDelivered(at=execution.stamp(), kind="cancel", reason=self.cancel.reason)
            self.interrupted = event
            self.cancel = None
            execution.line.add(Entry(event))
        at, reason = execution.stamp(), self.interrupted.reason
        if self.interrupted.kind == "timeout":
            self._over(e.WorkflowTimedOut(at=at, reason=reason))
        else:
            self._over(e.WorkflowCancelled(at=at, reason=reason))

    def end_now(self) -> None:
        """Ends it by the interruption that is known of, or else because its deadline has passed."""
        execution = self._execution
        if not self.is_interrupted:
            event = e.CancelDelivered(at=execution.stamp(), kind="timeout", reason=_DEADLINE_PASSED)
            self.interrupted = event
            execution.line.add(Entry(event))
        self.finish_interrupted()

    def _emit_cancel(self) -> None:
        if self.cancel is None or self.interrupted is not None:
            return
        event = e.CancelDelivered(at=self._execution.stamp(), kind="cancel", reason=self.cancel.reason)
        self._execution.line.add(Entry(event))
        self.interrupt(event)

    # ---------------------------------------------------------------------------------------------- by time

    def watch(self) -> None:
        """Sets the alarms that time calls for as things are: the end of the clean-up, or the deadline."""
        alarms = self._execution.alarms
        if self.interrupted is not None:
            began = max(self.interrupted.at, self.since)
            alarms.set("cleanup", began + CLEANUP_MICROS, self._cleanup_over)
        elif self.deadline is not None and self.deadline <= self._execution.host.clock.now():
            self.time_out(_DEADLINE_PASSED)  # now: a paused handler would leave before any alarm
        elif self.deadline is not None:
            alarms.set("deadline", self.deadline, lambda: self.time_out(_DEADLINE_PASSED))

    def move_deadline(self, deadline: int | None) -> None:
        """It times out at another moment."""
        self.deadline = deadline
        self.is_moved = True
        if self._execution.replay is None and self.interrupted is None:
            self.watch()

    def time_out(self, reason: str) -> None:
        """Time is over: interrupts the handler once that is committed."""
        execution = self._execution

        def emit() -> None:
            if self.interrupted is None and not execution.is_leaving:
                event = e.CancelDelivered(at=execution.stamp(), kind="timeout", reason=reason)
                if self.still_times_out(event):
                    execution.line.add(Entry(event, blocks=True))

        execution.line.put(emit)
        execution.schedule()

    def took(self, seconds: float) -> None:
        """Handler code ran for so long without a break, on the event loop."""
        limit = self._execution.workflow.timeout_micros
        if limit is None or seconds * durations.SECOND <= limit or self.is_interrupted or self.is_over:
            return
        reason = f"handler code ran for longer than {durations.text(limit)}, its timeout, and blocked the event loop"
        main = self._execution.main
        if main is not None and main.done():
            self.said = e.WorkflowTimedOut(at=self._execution.stamp(), reason=reason)
        else:
            self.time_out(reason)

    def still_times_out(self, event: e.CancelDelivered) -> bool:
        """Whether a time-out that could not be committed yet is still due."""
        if event.reason != _DEADLINE_PASSED:
            return not self.is_moved
        return self.deadline is not None and self.deadline <= self._execution.host.clock.now()

    def _cleanup_over(self) -> None:
        if not self._execution.is_leaving:
            self.finish_interrupted()

    # ------------------------------------------------------------------------------------------------- both

    def reopen(self) -> None:
        """The end could not be committed: a cancellation was there before it."""
        self.is_over = False
        self.finish_interrupted()

    def _over(self, end: e.Event) -> None:
        execution = self._execution
        self.is_over = True
        execution.line.clear()
        execution.fresh.clear()
        execution.line.add(Entry(end, blocks=True))
        execution.halt()
        execution.line.outbox.flush()
