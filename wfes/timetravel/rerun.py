"""One run of a handler against recorded history, reading only.

It is the execution and the replay that a worker uses after a crash (`wfes.handler.execution`, `wfes.handler.replay`),
stopped where they would go live: whatever a crash's replay does, this does. No step's function is called, nothing is
submitted, no clock is read, no other event loop is there: what a handler awaits outside of its workflow never comes,
and the run ends there.

Invariants:

* A run is synchronous, in the thread that calls `run`, where no task of an event loop may be running: handler code is
  on the stack of that thread, so a debugger can stop in it.
* Whatever happens, the handler is dropped before `run` returns; nothing of it runs again.
* Observers are called synchronously. What one raises goes through the handler's code that is on the stack, and then
  out of `run`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from wfes import errors
from wfes.core import events as e
from wfes.handler import ending
from wfes.handler.asks import Ask, HandlerFuture
from wfes.handler.changes import Was, last_of_handler
from wfes.handler.difference import Difference, Place, code_of, recorded_by, standing
from wfes.handler.execution import Execution
from wfes.handler.main import make_main
from wfes.handler.replay import Mismatch, Replay, _Step
from wfes.handler.scope import Scope
from wfes.timetravel.proposed import proposed_end
from wfes.timetravel.stand_in import ReadingHost, RecordedClock

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.runtime.values import Values

_PACKAGE = Path(errors.__file__).resolve().parents[1]
_MACHINERY = tuple(str(folder) + os.sep for folder in (_PACKAGE, Path(asyncio.__file__).parent))
_EXAMPLES = str(_PACKAGE / "demo") + os.sep
"""Code that lies in the package and is a user's all the same."""


class Observer(Protocol):
    """Is told what a run does. Every call is made while the run stands still, from within its thread."""

    def asked(self, path: str, kind: str) -> None:
        """Handler code begins to await something of `step`: the frame that awaits it is on the stack, if a
        coroutine of the handler's awaits it directly (not through a task of its own, or ``map``)."""
        ...

    def applying(self, version: int, event: e.Event) -> None:
        """The walk is about to apply this event; handler code that it leads to runs next."""
        ...

    def resumed(self, path: str, version: int) -> None:
        """Handler code is about to get the outcome recorded as event `version`: the frame that awaits it is on the
        stack, under the same condition as for `asked`."""
        ...

    def at(self, version: int) -> None:
        """The walk has applied event `version`, and the handler has settled."""
        ...


@dataclass(frozen=True, slots=True)
class Reached:
    """The code does what the history says, up to event ``version``. ``ended``: that is the instance's end."""

    version: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """An observer stopped the run, after event ``version``."""

    version: int


@dataclass(frozen=True, slots=True)
class Outside:
    """After event ``version`` the handler awaits something outside of its workflow, which a replay does not do."""

    version: int
    place: Place | None


@dataclass(frozen=True, slots=True)
class Differs:
    """The code does something else than the history says; all is well up to event ``version``."""

    version: int
    difference: Difference


Outcome = Reached | Stopped | Outside | Differs


class Rerun:
    """One handler, run once against a history.

    Attributes:
        execution: what runs it; its ``main``, ``asks`` and ``loop`` may be looked at while a run stands still.
        version: the event applied last; 0 before the first.
        whole: the whole history, whatever of it is to be reproduced.
        goes_on: whether the code that wrote it went on behind what is to be reproduced.
    """

    def __init__(
        self,
        workflow: Workflow[Any, Any],
        id: str,
        history: Sequence[e.Recorded],
        values: Values,
        *,
        observer: Observer | None = None,
        upto: int | None = None,
        workflows: Mapping[str, Workflow[Any, Any]] | None = None,
        url: str | None = None,
    ) -> None:
        """Prepares it; `run` runs it.

        Args:
            workflow: whose handler to run.
            id: the instance.
            history: its whole history from version 1 on (an archived one read from its archive), or its beginning.
            values: opens recorded values; it only reads.
            observer: is told what happens.
            upto: the last event to reproduce; None: all.
            workflows: definitions the handler may name, besides its own.
            url: the log's, where the history comes from one: calls of an engine on it are recorded calls.
        """
        self.whole = list(history)
        self._history = [r for r in history if upto is None or r.originator_version <= upto]
        self._walk, self._end = _split(self._history)
        self.goes_on = last_of_handler(self.whole) >= len(self._walk)
        started = self._history[0].event
        assert isinstance(started, e.WorkflowStarted)
        self._clock = RecordedClock(started.at)
        host = ReadingHost({**(workflows or {}), workflow.name: workflow}, values, self._clock, url)
        self.observer = observer
        self.version = 0
        self.execution = _Reading(self, host, workflow, id, self._walk)
        self._ran = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self.execution.stopped

    def stop(self) -> None:
        """Ends the run, from within an observer's call: handler code on the stack sees `Suspended` and nothing of
        it runs on."""
        self.execution.stopped = True

    def run(self) -> Outcome:
        """Runs the handler against the history, once.

        Raises:
            RuntimeError: called a second time, or inside a task of an event loop (use `asyncio.to_thread`).
            BaseException: what an observer raised.
        """
        if self._ran:
            raise RuntimeError("a Rerun runs once; make another one")
        if asyncio._get_running_loop() is not None and asyncio.current_task() is not None:
            raise RuntimeError("a Rerun is run outside of tasks: use `await asyncio.to_thread(rerun.run)`")
        self._ran = True
        execution = self.execution
        try:
            outcome = self._outcome()
            if execution.raised is not None:
                raise execution.raised
            return outcome
        finally:
            execution.observed = False
            execution.leave()

    def _outcome(self) -> Outcome:
        if not any(isinstance(recorded.event, e.RunClaimed) for recorded in self._walk):
            # Nobody has ever run it: there is nothing of the handler's in its history.
            return Reached(self._history[-1].originator_version, ended=self._end is not None)
        execution = self.execution
        replay = execution.replay
        assert isinstance(replay, _ReadingReplay)
        replay.prepare()
        for recorded in self.whole:
            if isinstance(recorded.event, e.PatchDecided):
                execution.changes.recall(recorded.event)
        try:
            execution.main = make_main(execution)
        except Exception as error:
            execution.ends.say(ending.failure(execution, error))
        finished = replay.advance()
        if execution.stopped or execution.raised is not None:
            return Stopped(self.version)
        if execution.differs is not None:
            return Differs(self.version, execution.differs)
        if not finished:
            return Outside(self.version, standing(execution))
        if self._end is None:
            self.version = self._history[-1].originator_version
            return Reached(self.version)
        return self._ended(self._end, replay)

    def _ended(self, end: e.Recorded, replay: Replay) -> Outcome:
        execution = self.execution
        mismatch = proposed_end(execution, end.event)
        if mismatch is None:
            self.applied(end)
            self.version = self._history[-1].originator_version
            return Reached(self.version, ended=True)
        if mismatch.waits and execution.loop.outside_open:
            return Outside(self.version, standing(execution))
        place = None if mismatch.instead is None else replay.place_of(mismatch.instead)
        return Differs(
            self.version,
            Difference(
                version=end.originator_version,
                path=mismatch.path,
                expected=mismatch.expected,
                actual=mismatch.actual,
                place=place or standing(execution),
                recorded=recorded_by(self._walk, end.originator_version),
                code=code_of(execution.workflow),
            ),
        )

    # ---------------------------------------------------------------------------------- what the walk tells

    def applying(self, recorded: e.Recorded) -> None:
        """An event is about to be applied."""
        self._clock.moment = max(self._clock.moment, recorded.event.at)
        if self.observer is not None:
            self.execution.tell(self.observer.applying, recorded.originator_version, recorded.event)

    def applied(self, recorded: e.Recorded) -> None:
        """An event has been applied."""
        self.version = recorded.originator_version
        if self.observer is not None:
            self.execution.tell(self.observer.at, recorded.originator_version)


def _split(history: list[e.Recorded]) -> tuple[list[e.Recorded], e.Recorded | None]:
    """What is to be walked, and the end that follows it; an end that a retry made void is part of the walk."""
    for index in range(len(history) - 1, -1, -1):
        event = history[index].event
        if isinstance(event, e.WorkflowRetried):
            break
        if event.terminal:
            return history[:index], history[index]
    return history, None


class _Reading(Execution):
    """An execution that never goes live, and tells its run what handler code does.

    Attributes:
        differs: what it would be paused for.
        places: which line of the user's source asked for a path.
        current: the version of the event that is being applied, or None.
        stopped: whether it is to end at once.
        raised: what an observer raised.
        observed: whether observers are told: not of what dropped code does.
    """

    def __init__(
        self,
        run: Rerun,
        host: ReadingHost,
        workflow: Workflow[Any, Any],
        id: str,
        history: list[e.Recorded],
    ) -> None:
        super().__init__(host, workflow, id, 0, history)
        self._run = run
        self.differs: Difference | None = None
        self.stopped = False
        self.raised: BaseException | None = None
        self.observed = True
        self.current: int | None = None
        self.places: dict[str, Place] = {}
        self.loop.outside = None  # what is outside is counted, and never comes
        self._root = _ReadingScope(self, "")
        self.replay = _ReadingReplay(self, history, run)

    @property
    def is_leaving(self) -> bool:
        return self.differs is not None or self.stopped or self.raised is not None or super().is_leaving

    def schedule(self) -> None:
        """No turn is taken but the walk's own."""

    def abandon(self) -> None:
        """Nothing is released where nothing is owned; what interrupted the handler goes out of the run."""

    def hold(self, kind: str, report: str | Difference) -> None:
        if self.is_leaving:
            return
        if not isinstance(report, Difference):
            report = Difference(
                version=self._run.version,
                path=None,
                expected="the handler went on",
                actual=report,
                place=standing(self),
                code=code_of(self.workflow),
            )
        self.differs = report

    def open(self, scope: Scope, ask: Ask) -> asyncio.Future[Any]:
        future = super().open(scope, ask)
        observer = self._run.observer
        if observer is None or not isinstance(future, HandlerFuture):
            return future
        self.tell(observer.asked, ask.path, ask.kind)
        if self.is_leaving:
            raise errors.Suspended
        future.__class__ = _Watched
        return future

    def release(self, ask: Ask, event: Any) -> None:
        future = ask.future
        if isinstance(future, _Watched):
            future.released = self.current
        super().release(ask, event)

    def told_resumed(self, path: str, version: int) -> None:
        """Handler code is about to get the outcome of this path."""
        observer = self._run.observer
        if observer is not None:
            self.tell(observer.resumed, path, version)
            if self.is_leaving:
                raise errors.Suspended

    def tell(self, call: Any, *args: Any) -> None:
        """Tells the observer; what it raises ends the run."""
        if not self.observed or self.raised is not None:
            return
        try:
            call(*args)
        except BaseException as error:
            self.raised = error


class _Watched(HandlerFuture):
    """A future that says when whoever awaits it gets its outcome."""

    released: int | None = None

    def __await__(self) -> Any:
        ask = self.ask
        try:
            return (yield from super().__await__())
        finally:
            execution = ask.execution
            if self.released is not None and isinstance(execution, _Reading):
                execution.told_resumed(ask.path, self.released)

    __iter__ = __await__


class _ReadingScope(Scope):
    """The handler's own scope; notes which line asked for a path."""

    __slots__ = ()

    def claim(self, name: str, was: Was | None = None) -> str:
        path = super().claim(name, was)
        self._note(path)
        return path

    def claim_call(self, call: str) -> str:
        path = super().claim_call(call)
        self._note(path)
        return path

    def _note(self, path: str) -> None:
        place = _place(sys._getframe(2))
        execution = self.execution
        if place is not None and isinstance(execution, _Reading):
            execution.places[path] = place


def _place(frame: FrameType | None) -> Place | None:
    """The innermost line that is neither wfes' nor asyncio's."""
    while frame is not None and _is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else Place.of(frame)


def _is_machinery(file: str) -> bool:
    return file.startswith(_MACHINERY) and not file.startswith(_EXAMPLES)


class _ReadingReplay(Replay):
    """The walk, told to its run."""

    def __init__(self, execution: _Reading, history: list[e.Recorded], run: Rerun) -> None:
        super().__init__(execution, history)
        self._reading = execution
        self._run = run

    @property
    def is_new_code(self) -> bool:
        """Nothing is timed: a debugger may stop in it for as long as it likes."""
        return False

    def place_of(self, path: str) -> Place | None:
        places = self._reading.places
        place = places.get(path)
        if place is None and "/" in path:  # an item of a map
            place = places.get(path.rpartition("/")[0])
        return place

    @property
    def was_passed(self) -> bool:
        return self._run.goes_on or super().was_passed

    @property
    def whole(self) -> list[e.Recorded]:
        return self._run.whole

    def _apply(self, event: e.Event, version: int) -> _Step | Mismatch:
        reading = self._reading
        recorded = self._history[self._cursor]
        self._run.applying(recorded)
        if reading.is_leaving:
            return _Step.WAIT
        reading.current = version
        verdict = super()._apply(event, version)
        reading.current = None
        if verdict is _Step.DONE and not reading.is_leaving:
            self._run.applied(recorded)
        return verdict
