"""Running a handler against its recorded history.

A replay walks the log in order. At a recorded request (a start, a wait, a withdrawal) the handler must have made it
by now, or it is a *difference*: its code is not the code that wrote this history. At a recorded release the handler
is given what the log says, and runs on. Paths inside a step that has not ended are kept for its function, which runs
again later, live.

What a retry made void is left out before the walk; results recorded in the void part go to the execution's pool, to
be given to whoever asks for their paths again.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from wfes.core import events as e
from wfes.core.state import Status
from wfes.handler import forking
from wfes.handler.attempts import StepAsk
from wfes.handler.changes import last_of_handler
from wfes.handler.difference import Difference, Place, code_of, recorded_by, standing
from wfes.handler.nested import SUCCESSES, Nested

if TYPE_CHECKING:
    from wfes.handler.execution import Execution

_KINDS: dict[type[e.Event], str] = {
    e.StepStarted: "step",
    e.SleepScheduled: "sleep",
    e.ListenStarted: "listen",
    e.RequestIssued: "request",
    e.ChildStarted: "child",
    e.WaitStarted: "workflow",
    e.CallRecorded: "call",
    e.ProgressRecorded: "progress",
}
_IMMEDIATE: frozenset[type[e.Event]] = frozenset((e.CallRecorded, e.ProgressRecorded))
_RELEASES: frozenset[type[e.Event]] = frozenset((*SUCCESSES, e.StepFailed, e.WaitTimedOut))
_WITHDRAWALS: frozenset[type[e.Event]] = frozenset((e.StepCancelled, e.WaitCancelled))
_GIVEN: frozenset[type[e.Event]] = frozenset((*_RELEASES, e.TimerFired, e.CancelDelivered))
"""What the handler is given."""


class _Step(Enum):
    DONE = 1
    WAIT = 2


class Mismatch(NamedTuple):
    """Where code and history part: the path, what the history has there, what the code does.

    ``instead`` is the path that the code asks for in its place, where it asks for any.
    """

    path: str | None
    expected: str
    actual: str
    instead: str | None = None


class Replay:
    """The walk of one execution along its history."""

    def __init__(self, execution: Execution, history: list[e.Recorded]) -> None:
        self._execution = execution
        self._history = history
        self._whole = history
        self._cursor = 0
        self._next = 0
        """The first event that is not behind the handler, while it runs."""
        self._last_of_handler: int | None = None
        self._last_release = -1
        self._orphans: set[int] = set()
        self._void_fields: set[str] = set()
        # Suspended steps whose functions have been run again since that release.
        self._run_again: set[str] = set()

    def prepare(self) -> None:
        """Leaves out what retries made void, and notes what came from outside."""
        execution = self._execution
        void: set[int] = set()
        forgotten: list[tuple[str, int]] = []
        for recorded in self._history:
            event = recorded.event
            if type(event) is e.WorkflowRetried:
                void.update(range(event.void_from, recorded.originator_version))
                if event.path is not None:
                    forgotten.append((event.path, event.void_from))
                execution.ends.deadline = event.deadline
                execution.retries += 1
            elif type(event) is e.HistoryForked:
                execution.ends.deadline = None
            elif not event.owner:
                execution.inbox.seen = recorded.originator_version
            if event.owner:
                execution.line.not_before(event.at)
                if type(event) is e.PatchDecided:
                    execution.changes.recall(event)
        if void:
            self._leave_out(void, forgotten)
        self._note_orphans()
        last = len(self._history) - 1
        while last >= 0 and type(self._history[last].event) not in _GIVEN:
            last -= 1
        self._last_release = last

    def _leave_out(self, void: set[int], forgotten: list[tuple[str, int]]) -> None:
        execution = self._execution
        self._remember_children()
        kept: list[e.Recorded] = []
        # A retry sets the deadline; what changed it before says nothing any more.
        last = max(void) + 1
        for recorded in self._history:
            event, version = recorded.event, recorded.originator_version
            if event.terminal or (isinstance(event, e.DeadlineChanged) and version < last):
                continue
            if not event.owner:
                kept.append(recorded)
                continue
            path: Any = getattr(event, "path", None)
            if version in void and isinstance(event, e.StateChanged):
                self._void_fields.update(event.changes)
            elif version in void:
                if isinstance(event, e.ResultReused):
                    execution.pool[event.path] = event.version
                elif self._succeeded(event):
                    execution.pool[path] = version
                    execution.inbox.keep(event, version)
                    if isinstance(event, e.ListenEnded):
                        execution.inbox.reserve(event.received)
            elif not any(path == other and version < until for other, until in forgotten):
                kept.append(recorded)
                if isinstance(event, e.ResultReused):
                    execution.pool.pop(event.path, None)
        self._history = kept

    def _note_orphans(self) -> None:
        """Withdrawals of what was never opened: asked for and refused, or held by a pause, and then cancelled."""
        if all(type(recorded.event) not in _WITHDRAWALS for recorded in self._history):
            return
        opened: set[str] = set()
        for recorded in self._history:
            event: Any = recorded.event
            if type(event) in _KINDS:
                opened.add(event.path)
            elif type(event) in _WITHDRAWALS:
                if event.path not in opened:
                    self._orphans.add(recorded.originator_version)
                opened.discard(event.path)

    def to_come(self) -> tuple[int | None, int | None]:
        """When a cancellation or time-out that stands further on was given, and when the deadline then is."""
        given: int | None = None
        deadline = self._execution.ends.deadline
        for recorded in (*self._history[self._cursor :], *self._execution.unread):
            match recorded.event:
                case e.CancelRequested(at=at) | e.CancelDelivered(at=at):
                    given = at
                case e.DeadlineChanged(deadline=moved):
                    deadline = moved
                case _:
                    """Says nothing of the end."""
        return given, deadline

    def foresee_interruption(self) -> None:
        """Notes a cancellation or time-out that stands further on: a replay that cannot get there still ends by it."""
        ends = self._execution.ends
        for recorded in (*self._history[self._cursor :], *self._execution.unread):
            event = recorded.event
            if isinstance(event, e.CancelDelivered):
                ends.interrupted, ends.cancel = event, None
            elif isinstance(event, e.CancelRequested):
                ends.request_cancel(event)

    def _succeeded(self, event: e.Event) -> bool:
        if isinstance(event, e.ChildEnded):
            ended = self._history[event.ended - self._history[0].originator_version].event
            return isinstance(ended, e.TargetEnded) and ended.status == Status.COMPLETED
        return isinstance(event, SUCCESSES) and getattr(event, "error", None) is None

    def _remember_children(self) -> None:
        """A child that did not fail is waited for again, not started a second time."""
        children = self._execution.children
        for recorded in self._history:
            match recorded.event:
                case e.ChildStarted(path=path, instance=instance):
                    children[path] = instance
                case e.TargetEnded(path=path, instance=instance, status=status):
                    if status != Status.COMPLETED and children.get(path) == instance:
                        del children[path]
                case _:
                    """Not about a child."""

    # -------------------------------------------------------------------------------------------- the walk

    @property
    def is_new_code(self) -> bool:
        """Whether the handler is past everything it was given before: what it runs now may never have run."""
        return self._cursor >= self._last_release

    @property
    def was_passed(self) -> bool:
        """Whether the code that wrote this history has passed the place where the handler is now."""
        if self._last_of_handler is None:
            self._last_of_handler = last_of_handler(self._history)
        return self._last_of_handler >= self._next

    @property
    def whole(self) -> list[e.Recorded]:
        """The whole history, with what retries made void."""
        return self._whole

    def place_of(self, path: str) -> Place | None:
        """Where the handler asked for this path, if that was noted: whoever only reads a history notes it."""
        return None

    def advance(self) -> bool:
        """Goes on as far as possible; True at the end of the history."""
        execution = self._execution
        self._next = self._cursor
        if self._cursor == 0 or execution.loop.has_ready:
            execution.drain()
        history = self._history
        while self._cursor < len(history):
            if execution.is_leaving:
                return False
            recorded = history[self._cursor]
            self._next = self._cursor + 1
            verdict = self._apply(recorded.event, recorded.originator_version)
            if verdict is _Step.WAIT:
                return False
            if isinstance(verdict, Mismatch):
                execution.hold("difference", self.difference(recorded.originator_version, verdict))
                return False
            self._cursor += 1
        if execution.is_leaving:
            return False
        self._history = self._whole = []
        return True

    def _apply(self, event: e.Event, version: int) -> _Step | Mismatch:
        execution = self._execution
        cls = type(event)
        if cls in _KINDS:
            verdict = self._requested(event, _KINDS[cls])
            if verdict is not _Step.DONE or cls not in _IMMEDIATE:
                return verdict
        if cls in _RELEASES:
            return self._released(event)
        if cls in _WITHDRAWALS:
            return _Step.DONE if version in self._orphans else self._withdrawn(event)
        match event:
            case e.StepAttemptFailed():
                return self._attempt_failed(event)
            case e.TimerFired():
                execution.timers.dues.pop((event.delay, event.number), None)
                execution.fire(event.delay, event.number, event.at)
            case e.TimerScheduled():
                execution.timers.dues[event.delay, event.number] = event.due
            case e.StateChanged():
                if execution.state is not None:
                    execution.state.adopt(event.changes)
            case e.CancelDelivered():
                execution.ends.interrupt(event)
            case e.RunClaimed():
                self._claimed()
            case e.RunReleased():
                self._suspended(event)
            case e.WorkflowRetried():
                self._retried(event.path)
            case e.WorkflowResumed():
                self._forget_cut_offs()
                execution.take_in(event, version)
            case e.HistoryForked():
                self._run_again.clear()
                forking.go_on(execution, event, self._event_at)
                execution.take_in(event, version)
            case _ if not event.owner:
                execution.take_in(event, version)
            case _:
                """Says nothing to the handler."""
        return _Step.DONE

    def _event_at(self, version: int) -> e.Event:
        return self._whole[version - self._whole[0].originator_version].event

    # -------------------------------------------------------------------------------------------- requests

    def _requested(self, event: Any, kind: str) -> _Step | Mismatch:
        execution = self._execution
        ask = execution.asks.get(event.path)
        if ask is None:
            if self._enclosing(event.path) is not None:
                nested = execution.nested.recorded.get(event.path)
                if nested is None or nested.end is not None:
                    nested = Nested(kind)
                    execution.nested.record(event.path, nested)
                nested.add(event)
                if type(event) in _IMMEDIATE:
                    nested.end = event
                return _Step.DONE
            return self._missing(event.path, f"{kind} {event.path!r} was asked for")
        if ask.kind != kind and not (kind == "call" and ask.kind in ("child", "workflow")):
            return Mismatch(
                ask.path, f"{kind} {ask.path!r} was asked for", f"asks for {ask.describe()} there", ask.path
            )
        execution.fresh.pop(ask, None)
        ask.recorded = True
        if ask.withdrawn:
            execution.fresh[ask] = True
        if kind not in ("call", "progress"):
            ask.adopt(event)
        return _Step.DONE

    def _withdrawn(self, event: Any) -> _Step | Mismatch:
        execution = self._execution
        ask = execution.asks.get(event.path)
        if ask is None or not ask.withdrawn:
            if self._enclosing(event.path) is not None:
                execution.nested.recorded.pop(event.path, None)
                return _Step.DONE
            return self._missing(event.path, f"{event.path!r} was withdrawn")
        execution.fresh.pop(ask, None)
        execution.unregister(ask)
        return _Step.DONE

    def _missing(self, path: str, what: str) -> _Step | Mismatch:
        """The handler has not done what is recorded: it may still, while it waits for something outside."""
        execution = self._execution
        if execution.loop.outside_open or execution.loop.has_ready:
            return _Step.WAIT
        if execution.main is None or execution.main.done():
            return Mismatch(path, what, f"ends before it ({self._ending()})")
        asked = [ask for ask, withdrawn in execution.fresh.items() if not withdrawn]
        if not asked:
            return Mismatch(path, what, "asks for nothing there")
        described = ", ".join(ask.describe() for ask in asked[:5])
        return Mismatch(path, what, f"asks for {described}", asked[0].path)

    def _ending(self) -> str:
        main = self._execution.main
        if main is None:
            return "it does not begin"
        if main.cancelled():
            return "cancelled"
        error = main.exception()
        return "it returns" if error is None else f"{type(error).__name__}: {error}"

    def _enclosing(self, path: str) -> StepAsk | None:
        """The open step inside whose function this path lies, if it does."""
        asks = self._execution.asks
        parent = path.rpartition("/")[0]
        while parent:
            ask = asks.get(parent)
            if isinstance(ask, StepAsk):
                return ask
            parent = parent.rpartition("/")[0]
        return None

    # -------------------------------------------------------------------------------------------- releases

    def _released(self, event: Any) -> _Step | Mismatch:
        execution = self._execution
        ask = execution.asks.get(event.path)
        if ask is None:
            if isinstance(event, e.ResultReused) and self._enclosing(event.path) is not None:
                forking.reuse_inside(execution, event)
                return _Step.DONE
            nested = execution.nested.recorded.get(event.path)
            if nested is not None:
                nested.end = event
                self._consume(event)
                return _Step.DONE
            return self._missing(event.path, f"{event.path!r} ended ({type(event).__name__})")
        if isinstance(event, e.ResultReused):
            execution.fresh.pop(ask, None)
            execution.pool.pop(ask.path, None)
            ask.recorded = True
        if ask.withdrawn:
            ended = f"{ask.describe()} ended ({type(event).__name__}) before it was withdrawn"
            return self._missing(ask.path, ended)
        if not ask.recorded:
            return Mismatch(
                ask.path, f"{ask.describe()} ended", "asks for it, though the history has no beginning of it"
            )
        self._consume(event)
        execution.release(ask, event)
        return _Step.DONE

    def _consume(self, event: e.Event) -> None:
        if isinstance(event, e.ListenEnded):
            self._execution.inbox.consume(event.received)

    def _attempt_failed(self, event: e.StepAttemptFailed) -> _Step | Mismatch:
        execution = self._execution
        ask = execution.asks.get(event.path)
        if ask is not None:
            ask.adopt(event)
        elif (nested := execution.nested.recorded.get(event.path)) is not None:
            nested.add(event)
        else:
            return self._missing(event.path, f"step {event.path!r} was attempted")
        execution.nested.forget_failures(event.path)
        return _Step.DONE

    # -------------------------------------------------------------------------------------------- ownership

    def _open_steps(self) -> list[tuple[str, Any]]:
        """Steps that have begun and not ended, by path: the handler's own, and what is kept of inner ones."""
        execution = self._execution
        steps: list[tuple[str, Any]] = [
            (path, ask) for path, ask in execution.asks.items() if isinstance(ask, StepAsk) and ask.recorded
        ]
        for path, nested in execution.nested.recorded.items():
            if nested.kind == "step" and nested.end is None:
                steps.append((path, nested))
        return steps

    def _claimed(self) -> None:
        """Whoever owned it is gone: started steps have been cut off, but for those suspended by its release."""
        for path, step in self._open_steps():
            if step.suspended and path not in self._run_again:
                self._run_again.add(path)
            else:
                step.suspended = False
                step.cut_offs += 1

    def _suspended(self, event: e.RunReleased) -> None:
        self._run_again.clear()
        for path, step in self._open_steps():
            step.suspended = path in event.suspended

    def _forget_cut_offs(self) -> None:
        """Somebody resumed it: what was cut off gets as many tries as before."""
        for _, step in self._open_steps():
            step.cut_offs = 0

    def _retried(self, path: str | None) -> None:
        """What was open before an end is asked for again after the retry; a failed step retries what failed inside."""
        execution = self._execution
        if path is not None:
            execution.nested.forget_failures(path)
        for ask in execution.asks.values():
            if ask.recorded and not ask.withdrawn:
                ask.recorded = False
                execution.fresh[ask] = False
                if isinstance(ask, StepAsk):
                    ask.cut_offs = 0
                    ask.attempt = 1
                    ask.retry_at = None
        execution.paused = False
        if execution.state is not None:
            execution.state.forget(self._void_fields)

    def difference(self, version: int, mismatch: Mismatch) -> Difference:
        """What is said of a mismatch at this version of the history."""
        execution = self._execution
        place = None if mismatch.instead is None else self.place_of(mismatch.instead)
        return Difference(
            version=version,
            path=mismatch.path,
            expected=mismatch.expected,
            actual=mismatch.actual,
            place=place or standing(execution),
            recorded=recorded_by(self._history, version),
            code=code_of(execution.workflow),
        )
