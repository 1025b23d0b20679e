"""The time-travel debugger: a handler is run again on its recorded history and stopped where somebody wants to look.

Going forward is going on with the replay; going back is dropping the handler and running it again from the first
event. Who looks is a `Front`: a prompt (`wfes.timetravel.prompt`) or a development environment
(`wfes.timetravel.attached`).

Invariants: no step's function is called and nothing is written, for a `Rerun` can do neither; at most one run is under
way; behind the last event no handler code runs, for nobody knows what it would have been given.
"""

from __future__ import annotations

import asyncio
import signal
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.errors import UnknownMoment
from wfes.handler.replay import _GIVEN
from wfes.timetravel import frames
from wfes.timetravel.frames import View, view
from wfes.timetravel.moment import Front, Goto, Kind, Moment, Move, Run
from wfes.timetravel.rerun import Differs, Outcome, Outside, Rerun, Stopped
from wfes.validation import shown
from wfes.views import moment

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.timetravel.recording import Recording

BEHIND = 2**62
"""A position that no history has: nothing but its end stops on the way there."""


class Debugger:
    """Runs a handler again and again, for somebody who looks.

    Args:
        recording: the instance.
        workflow: whose handler to run.
        front: who looks.
        at: the first stop: a version; None: where a failed handler failed, else the last event.
        workflows: definitions the handler may name, besides its own.

    Raises:
        UnknownMoment: there is no such version.
    """

    def __init__(
        self,
        recording: Recording,
        workflow: Workflow[Any, Any],
        front: Front,
        *,
        at: int | None = None,
        workflows: Mapping[str, Workflow[Any, Any]] | None = None,
    ) -> None:
        history = recording.history
        self._recording = recording
        self._workflow = workflow
        self._workflows = workflows
        self._package = workflow.module.partition(".")[0]
        self._events = len(history)
        self._last = self._events + (1 if type(history[-1].event) in _GIVEN else 0)
        self._front = front
        self._target = first_stop(recording) if at is None else at
        if at is not None and not 1 <= at <= self._events:
            raise UnknownMoment(recording.id, at, self._events, moment(recording.started.at))
        self._run: _Run | None = None
        self._move: Move = Run()
        self._given = 1
        self._main: FrameType | None = None
        self._walked: list[int] = []
        """The versions that a replay gives: not those that a retry or a fork made void."""
        self._passed: tuple[frames.Place, ...] = ()
        """What the exception passed by which the handler ended."""

    def run(self) -> None:
        """Lets somebody look, until they have seen enough. Not to be called inside a task of an event loop."""
        previous = signal.getsignal(signal.SIGINT)
        with suppress(ValueError):  # not in the main thread: Ctrl-C does there what it always does
            signal.signal(signal.SIGINT, self._interrupted)
        try:
            self._again()
            while isinstance(self._move, Goto):
                self._target = self._move.position
                self._again()
        except KeyboardInterrupt:
            """Somebody does not want to see the end of it."""
        finally:
            self._front.run_fast()
            with suppress(ValueError):
                signal.signal(signal.SIGINT, previous)

    def _again(self) -> None:
        recording = self._recording
        self._move, self._given, self._main, self._passed = Run(), 1, None, ()
        run = self._run = _Run(
            self._workflow,
            recording.id,
            recording.history,
            recording.values,
            observer=self,
            workflows=self._workflows,
            url=recording.url,
        )
        run.debugger = self
        run.execution.loop.call_soon(self._began)
        self._front.begin(self)
        try:
            run.run()
        finally:
            self._front.run_fast()
            self._run = self._main = None
            self._passed = ()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if not self._front.interrupt(frame):
            raise KeyboardInterrupt

    # -- what the run tells ------------------------------------------------------------------------------------------

    def _began(self) -> None:
        """The handler is about to run its first line."""
        assert self._run is not None
        execution = self._run.execution
        self._main = frames.main_frame(execution)
        if not self._walked and execution.replay is not None:
            self._walked = [recorded.originator_version for recorded in execution.replay._history]
        if self._target <= 1:
            execution.tell(self._stop, Kind.EVENT, 1)
            if execution.is_leaving and execution.main is not None:
                execution.main.cancel()  # it has not begun, and is not to

    def asked(self, path: str, kind: str) -> None:
        """Nothing is to be done about it."""

    def applying(self, version: int, event: e.Event) -> None:
        """An event is about to be applied."""
        self._given = version
        if self._target <= version > 1:
            self._stop(Kind.EVENT, version)

    def resumed(self, path: str, version: int) -> None:
        """Nothing is to be done about it."""

    def at(self, version: int) -> None:
        """Nothing is to be done about it."""

    def over(self, outcome: Outcome) -> None:
        """The run has come to its end; its handler has not been dropped yet."""
        if isinstance(outcome, Stopped):
            return
        kind, position, note = Kind.END, self._last, None
        if isinstance(outcome, Differs):
            kind, position, note = Kind.DIFFERENCE, outcome.difference.version, str(outcome.difference)
        elif isinstance(outcome, Outside):
            kind, position = Kind.DIFFERENCE, min(outcome.version + 1, self._events)
            note = (
                "the handler awaits something outside of its workflow here, which a replay does not do again"
            )
        self._given = max(self._given, position)
        while self._stop(kind, position, *filter(None, [note])):
            """There is nothing to go on to."""

    # -- stops -------------------------------------------------------------------------------------------------------

    def _stop(self, kind: Kind, version: int, *notes: str) -> bool:
        """Lets somebody look; whether the run goes on."""
        assert self._run is not None
        seen, ending = self._view(version)
        if kind is Kind.EVENT and 1 < self._target < version and self._target not in self._walked:
            notes = (f"event {self._target} is void: a retry or a fork left it out", *notes)
        moment = Moment(kind, version, self._last, self._events, seen, (*notes, *ending))
        return self.goes_on(self._front.look(moment))

    def at_line(self) -> Moment:
        """The moment of a stop in the handler's code."""
        return Moment(Kind.LINE, self._given, self._last, self._events, None)

    def goes_on(self, move: Move) -> bool:
        """Takes a move; False: the run is over, and its handler is to be dropped."""
        assert self._run is not None
        if isinstance(move, Goto) and move.position <= self._given:
            # Going back ends before what is left out, or it would lead to where it began.
            walked = bisect_right(self._walked, move.position)
            move = Goto(self._walked[walked - 1] if walked else 1)
        self._move = move
        match move:
            case Goto(position) if position > self._given:
                self._target = position
                self._front.run_fast()
            case Run():
                self._target = BEHIND
                self._front.run_on()
            case _:
                self._run.stop()
                return False
        return True

    def _view(self, version: int) -> tuple[View | None, list[str]]:
        """What to show of the handler, and how it ended, if it has."""
        assert self._run is not None
        execution = self._run.execution
        main = execution.main
        if main is None:
            said = execution.ends.said
            why = "" if not isinstance(said, e.WorkflowFailed) else f" ({said.error})"
            return None, [f"the handler has not begun{why}"]
        if not main.done():
            path = None
            if version <= self._events:
                path = getattr(self._recording.history[version - 1].event, "path", None)
            return view(frames.waiting(execution, path), self._package), []
        places = [] if self._main is None else [(self._main, self._main.f_lineno)]
        if not main.cancelled() and main.exception() is None:
            return view(places, self._package), [f"the handler has returned {shown(main.result())}"]
        if not self._passed:
            self._passed = tuple(frames.raised(_traceback_of(main)))
        passed = view(self._passed, self._package) or view(places, self._package)
        if main.cancelled():
            return passed, ["the handler has been ended here"]
        error = main.exception()
        return passed, [f"the handler has raised {type(error).__name__}: {error}"]


def _traceback_of(main: asyncio.Task[Any]) -> TracebackType | None:
    """Where the exception came from that a handler's task ended by; of a cancelled task it is told once."""
    if not main.cancelled():
        error = main.exception()
    else:
        make: Any = getattr(main, "_make_cancelled_error", None)
        error = None if make is None else make()
    return None if error is None else error.__traceback__


class _Run(Rerun):
    """A run whose end is told while its handler is still there."""

    debugger: Debugger

    def _outcome(self) -> Outcome:
        outcome = super()._outcome()
        self.debugger.over(outcome)
        return outcome


def first_stop(recording: Recording) -> int:
    """Where to look first: where the handler failed, if it did, else at the last event."""
    for recorded in reversed(recording.history):
        if isinstance(recorded.event, e.WorkflowRetried):
            break
        if recorded.event.terminal:
            return BEHIND if isinstance(recorded.event, e.WorkflowFailed) else recorded.originator_version
    return recording.history[-1].originator_version
