"""Going on with a history that was copied from another instance.

Up to ``HistoryForked`` a replay walks the copies as any history, but for those that a change made void, which say
nothing. Here it goes on: what was under way is asked for anew, in the fork's own name, and what the void part has
results of is given to whoever asks for their paths. Waits stay open as they are, and are due when they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wfes.core import events as e
from wfes.core.voiding import meant
from wfes.handler.attempts import StepAsk
from wfes.handler.nested import Nested

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


class Pool(dict[str, int]):
    """Paths whose outcome stands in a void part of the history, to their versions.

    Attributes:
        dues: paths at which a sleep was open in a void part, to when it ends.
    """

    __slots__ = ("dues",)

    def __init__(self) -> None:
        super().__init__()
        self.dues: dict[str, int] = {}


def go_on(execution: Execution, fork: e.HistoryForked, at: Callable[[int], e.Event]) -> None:
    """Makes an execution whose replay has come to the fork ready to go on as an instance of its own.

    Args:
        execution: whose.
        fork: what it has come to.
        at: the event of a version of its history.
    """
    execution.pool.dues.update(fork.dues)
    for path, version in fork.results.items():
        outcome = meant(at(version))
        execution.pool[path] = version
        execution.inbox.keep(outcome, version)
        named = _named(outcome)
        if named:
            execution.inbox.keep(meant(at(named)), named)
    for version in fork.taken:
        execution.inbox.consume(version)
    _begin_anew(execution)
    execution.ends.since = fork.at


def reuse_inside(execution: Execution, reused: e.ResultReused) -> None:
    """Notes, in a replay, what a path inside an open step was given from the pool."""
    outcome = execution.inbox.at(reused.version)
    execution.pool.pop(reused.path, None)
    execution.nested.record(reused.path, Nested(_KINDS[type(outcome)], outcome))


_KINDS: dict[type[e.Event], str] = {
    e.StepCompleted: "step",
    e.SleepEnded: "sleep",
    e.ListenEnded: "listen",
    e.RequestEnded: "request",
    e.ChildEnded: "child",
    e.WaitEnded: "workflow",
    e.CallRecorded: "call",
    e.ProgressRecorded: "progress",
}
"""What ended by such an event."""


def _named(outcome: e.Event) -> int:
    """The version of what came from outside that an end names, or 0."""
    match outcome:
        case e.ListenEnded(received=version) | e.RequestEnded(provided=version):
            return version
        case e.ChildEnded(ended=version) | e.WaitEnded(ended=version):
            return version
        case _:
            return 0


def _begin_anew(execution: Execution) -> None:
    """Attempts that were under way were the origin's; what has its outcome in the pool is given that."""
    pool = execution.pool
    for ask in execution.asks.values():
        if not ask.recorded or ask.withdrawn:
            continue
        attempted = isinstance(ask, StepAsk) and ask.retry_at is None and not ask.suspended
        if isinstance(ask, StepAsk):
            ask.cut_offs = 0
        if attempted or ask.path in pool:
            ask.recorded = False
            execution.fresh[ask] = False
    recorded = execution.nested.recorded
    for path, nested in list(recorded.items()):
        nested.cut_offs = 0
        if nested.end is None and (nested.is_attempted or path in pool):
            del recorded[path]
