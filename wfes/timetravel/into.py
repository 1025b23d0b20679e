"""Running one step's function again, for real, under pdb: the only part of the debugger that runs one.

The handler is run again up to where the history records the step's start, so that the function and its arguments are
what the replay computes. What the function returns is shown and thrown away, and nothing is recorded; what it does to
the world is done.

Invariant: inside the function, steps that are recorded give what they gave; any other is refused, for to run it would
mean to record it.
"""

from __future__ import annotations

import asyncio
import bdb
import inspect
import pdb
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from wfes.core import events as e
from wfes.errors import NotSupported, WfesError
from wfes.handler import functions
from wfes.handler.attempts import StepAsk
from wfes.handler.nested import SUCCESSES
from wfes.handler.scope import Scope, enter
from wfes.handler.transaction import TransactionAsk
from wfes.timetravel.frames import is_engine
from wfes.timetravel.rerun import Differs, Rerun

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.handler.asks import Ask
    from wfes.timetravel.recording import Recording

_ENDS = (*SUCCESSES, e.StepFailed)


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call of a step's function, as the handler makes it.

    Attributes:
        path: the step's.
        version: of the event that records its start.
        ask: what the handler asked for.
        history: the instance's.
    """

    path: str
    version: int
    ask: StepAsk
    history: Sequence[e.Recorded]

    def __str__(self) -> str:
        fn: Any = self.ask.fn
        name = getattr(fn, "__qualname__", None) or repr(fn)
        module = getattr(fn, "__module__", None)
        arguments = ", ".join(map(repr, self.ask.args))
        return f"{module}.{name}({arguments})" if module else f"{name}({arguments})"

    def run(self, prompt: pdb.Pdb) -> Any:
        """Calls the function under this pdb, stopped at its first line.

        Returns:
            What it returned.

        Raises:
            bdb.BdbQuit: somebody left the debugger.
            Exception: what it raised.
        """
        ask = self.ask
        context = ask.context.copy()
        context.run(enter, Scope(ask.execution, self.path, ask.attempt, ask.index))
        ask.execution.open = _Recorded(self).open  # type: ignore[method-assign]
        values = {"attempt": ask.attempt} if ask.index is None else {"attempt": ask.attempt, "i": ask.index}
        extra = functions.filled(ask.fn, len(ask.args), values)
        call = partial(ask.fn, *ask.args, **extra)
        if functions.is_async(ask.fn) or not ask.thread:
            with asyncio.Runner() as runner:
                return runner.run(_on_loop(prompt, call), context=context)
        # What a worker runs in a thread has no event loop around it.
        result = context.run(_traced, prompt, call)
        if not inspect.isawaitable(result):
            return result
        with asyncio.Runner() as runner:
            return runner.run(_awaited(prompt, result), context=context)


async def _on_loop(prompt: pdb.Pdb, call: Callable[[], Any]) -> Any:
    result = _traced(prompt, call)
    return await _awaited(prompt, result) if inspect.isawaitable(result) else result


def _traced(prompt: pdb.Pdb, call: Callable[[], Any]) -> Any:
    prompt.reset()
    prompt.botframe = sys._getframe()
    sys.settrace(prompt.trace_dispatch)
    try:
        return call()
    finally:
        sys.settrace(None)


async def _awaited(prompt: pdb.Pdb, result: Awaitable[Any]) -> Any:
    sys.settrace(prompt.trace_dispatch)
    try:
        return await result
    finally:
        sys.settrace(None)


class StepPrompt(pdb.Pdb):
    """A pdb that passes over the frames of this package and of asyncio."""

    def __init__(self, stdin: Any = None, stdout: Any = None) -> None:
        super().__init__(stdin=stdin, stdout=stdout, nosigint=True)
        self.prompt = "(wfes step) "
        self._first = True

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        """As bdb's, but for code that is not the user's."""
        if is_engine(frame):
            return None
        return super().trace_dispatch(frame, event, arg)

    def user_call(self, frame: FrameType, argument_list: Any) -> None:
        """The step's own function is stopped in at its first line, not before."""
        if self._first:
            self._first = False
        else:
            super().user_call(frame, argument_list)

    def get_stack(self, f: FrameType | None, t: Any) -> tuple[list[Any], int]:
        """Without the engine's frames."""
        stack, index = super().get_stack(f, t)
        current = stack[index]
        shown = [place for place in stack if not is_engine(place[0]) or place is current]
        return shown, next(number for number, place in enumerate(shown) if place is current)

    def _cmdloop(self) -> None:
        try:
            self.cmdloop()
        except KeyboardInterrupt:
            self.message("")
            self.set_quit()


class _Recorded:
    """Answers what the function asks of its step with what is recorded."""

    def __init__(self, call: StepCall) -> None:
        inner = f"{call.path}/"
        self._ends: dict[str, Any] = {}
        for recorded in call.history:
            event: Any = recorded.event
            if isinstance(event, _ENDS) and event.path.startswith(inner):
                self._ends[event.path] = event

    def open(self, scope: Scope, ask: Ask) -> asyncio.Future[Any]:
        """The recorded outcome."""
        end = self._ends.get(ask.path)
        if end is None:
            raise NotSupported(
                f"{ask.describe()} is asked for inside the function, and no outcome of it is recorded: run under the "
                "debugger, a step's function gets recorded outcomes only"
            )
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(ask.outcome(end))
        except Exception as error:
            future.set_exception(error)
        return future


class _Finder:
    """An observer that takes what the handler asked for at a path when the history records its start."""

    def __init__(self, version: int, path: str) -> None:
        self._version = version
        self._path = path
        self.run: Rerun | None = None
        self.found: StepAsk | None = None

    def asked(self, path: str, kind: str) -> None:
        """Nothing is to be done about it."""

    def applying(self, version: int, event: e.Event) -> None:
        """Nothing is to be done about it."""

    def resumed(self, path: str, version: int) -> None:
        """Nothing is to be done about it."""

    def at(self, version: int) -> None:
        """Takes it."""
        assert self.run is not None
        if version == self._version:
            ask = self.run.execution.asks.get(self._path)
            self.found = cast("StepAsk", ask)
            self.run.stop()


def step_call(
    recording: Recording,
    workflow: Workflow[Any, Any],
    path: str,
    *,
    at: int | None = None,
    workflows: Mapping[str, Workflow[Any, Any]] | None = None,
) -> StepCall:
    """The call of a step's function as the handler makes it on its history.

    Args:
        recording: the instance.
        workflow: whose handler makes it.
        path: the step's.
        at: the last start up to this event; None: the last one there is.
        workflows: definitions the handler may name, besides its own.

    Raises:
        WfesError: there is no such step, it lies inside another one, or the code differs from the history.
        NotSupported: its function is one of a transaction.
    """
    version = _started(recording, path, at)
    finder = _Finder(version, path)
    run = finder.run = Rerun(
        workflow,
        recording.id,
        recording.history,
        recording.values,
        observer=finder,
        workflows=workflows,
        url=recording.url,
    )
    outcome = run.run()
    ask = finder.found
    if isinstance(outcome, Differs):
        raise WfesError(f"the handler does not come to step {path!r}: {outcome.difference}")
    if ask is None:
        outer = path.rpartition("/")[0]
        inside = (
            f"it lies inside step {outer!r}, whose function calls it; run that one" if outer else "it is over"
        )
        raise WfesError(f"the handler does not call step {path!r} itself at event {version}: {inside}")
    if isinstance(ask, TransactionAsk):
        raise NotSupported(
            f"step {path!r} is a step.transaction: its function writes to the log's own database, in a transaction "
            "that only a worker has"
        )
    return StepCall(path, version, ask, recording.history)


def _started(recording: Recording, path: str, at: int | None) -> int:
    """The version of the step's last start, up to a version."""
    paths: dict[str, int] = {}
    for recorded in recording.history:
        event = recorded.event
        if isinstance(event, e.StepStarted) and (at is None or recorded.originator_version <= at):
            paths[event.path] = recorded.originator_version
    if path in paths:
        return paths[path]
    known = ", ".join(list(paths)[:8]) + (", …" if len(paths) > 8 else "")
    upto = "" if at is None else f" up to event {at}"
    raise WfesError(
        f"instance {recording.id} has no step {path!r}{upto}; the steps that have begun: {known or 'none'}"
    )


Left = bdb.BdbQuit
"""What is raised when somebody leaves the prompt."""
