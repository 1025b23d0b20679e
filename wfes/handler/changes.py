"""What running instances make of changed code: which changes they have, and under which names their paths stand.

*Patches.* ``step.patched("id")`` is asked where new code may begin. An instance has the change if it comes to its first
such question with nothing recorded behind it; otherwise the code that wrote its history went another way there, and it
goes on as that code did. The answer is recorded once (``PatchDecided``) and holds for the instance's life; where it
stands in the history says nothing, so code that asks no more is no difference.

*Old names.* A step that was renamed stands in older histories under a name it ``was`` known by. The next use of a name
is recorded under that one of its names whose path the history has and nobody has asked for yet, the earliest where
there are several; under the new name, where it has none of them.

Inside a step's function, which is only ever run live, the order of what it asks for is not replayed: there an instance
has a change unless its history has a path of that function which this run has not asked for yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from wfes.core import events as e
from wfes.core.ids import check_name
from wfes.core.voiding import meant
from wfes.handler.outbox import Entry
from wfes.handler.scope import use_of

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.handler.scope import Scope

Was = str | Sequence[str]
"""A name, or several, that a step was known by before."""

_OPENINGS = (
    e.StepStarted,
    e.SleepScheduled,
    e.ListenStarted,
    e.RequestIssued,
    e.ChildStarted,
    e.WaitStarted,
    e.CallRecorded,
    e.ProgressRecorded,
    e.ResultReused,
)
_ENDS = (
    e.StepCancelled,
    e.WaitCancelled,
    e.StepCompleted,
    e.StepFailed,
    e.SleepEnded,
    e.ListenEnded,
    e.RequestEnded,
    e.ChildEnded,
    e.WaitEnded,
    e.WaitTimedOut,
)
_WITHOUT_PATH = (e.TimerFired, e.CancelDelivered, e.StateChanged)


class Changes:
    """The changes and the old names of one execution.

    Attributes:
        decided: by the scope's path and the change's id, whether the instance has it.
    """

    __slots__ = ("_execution", "_fresh", "_places", "decided")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.decided: dict[tuple[str, str], bool] = {}
        self._fresh: list[e.PatchDecided] = []
        """Decided during the replay, and not recorded yet."""
        self._places: _Places | None = None

    def let_go(self) -> None:
        """Its execution has left: nothing is decided any more."""
        del self._execution

    def recall(self, event: e.PatchDecided) -> None:
        """Takes over what the history says was decided; the first one counts."""
        self.decided.setdefault((event.scope, event.change), event.new)

    # ------------------------------------------------------------------------------------------------ patches

    def patched(self, scope: Scope, change: str) -> bool:
        """Whether the instance has this change.

        Raises:
            ValueError: the id is empty, longer than 200 characters, or has a ``/`` or ``#``.
            NotSupported: this is the function of a transaction, which records nothing by itself.
        """
        scope.check_records("step.patched()")
        key = scope.path, change
        known = self.decided.get(key)
        if known is not None:
            return known
        check_name(change, "id of a change")
        execution = self._execution
        if scope.path:
            new = not self._is_left_over(scope)
        else:
            new = execution.replay is None or not execution.replay.was_passed
        if execution.is_leaving or execution.ends.said is not None:
            return new
        self.decided[key] = new
        event = e.PatchDecided(at=execution.stamp(), change=change, new=new, scope=scope.path)
        if scope.path:  # a step's function may be in a thread
            execution.host.loop.call_soon_threadsafe(self._record, event)
        elif execution.replay is not None:
            self._fresh.append(event)
        else:
            self._record(event)
        return new

    def go_live(self) -> None:
        """Records what was decided during the replay."""
        self._places = None
        fresh, self._fresh = self._fresh, []
        for event in fresh:
            self._record(event)

    def _record(self, event: e.PatchDecided) -> None:
        execution = self._execution
        if not execution.is_leaving:
            execution.line.not_before(event.at)
            execution.line.add(Entry(event))
            execution.schedule()

    def _is_left_over(self, scope: Scope) -> bool:
        """Whether an earlier run of this function has asked for something that this run has not asked for yet."""
        prefix = scope.path + "/"
        execution = self._execution
        for path in (*execution.nested.recorded, *execution.pool):
            if path.startswith(prefix) and not scope.has_claimed(path[len(prefix) :].partition("/")[0]):
                return True
        return False

    # ------------------------------------------------------------------------------------------------ names

    def name_of(self, scope: Scope, name: str, was: Was) -> str:
        """The name under which the next use of ``name`` in this scope is recorded.

        Raises:
            TypeError: ``was`` is neither a name nor several.
            ValueError: a name is none.
        """
        names = [name, *_checked(name, was)]
        execution = self._execution
        if execution.replay is None and not (execution.nested.recorded or execution.pool):
            return name  # all of the history has been asked for
        places = self._history_places()
        found = [(place, each) for each in names if (place := places.of(scope, each)) is not None]
        return min(found)[1] if found else name

    def _history_places(self) -> _Places:
        execution = self._execution
        if execution.replay is not None:
            if self._places is None:
                openings = (
                    event.path
                    for recorded in execution.replay.whole
                    if isinstance(event := meant(recorded.event), _OPENINGS)
                )
                self._places = _Places(openings)
            return self._places
        # The handler's own have all been asked for, but for what a retry or a fork made void.
        return _Places((*execution.nested.recorded, *execution.pool))


class _Places:
    """Where paths first stand in a history, by the names that their uses are counted by."""

    __slots__ = ("_known", "_last", "_uses")

    def __init__(self, paths: Iterable[str]) -> None:
        """Makes it of the paths in their order; those around a path, which may be fan-outs, are asked for with it."""
        self._known: dict[str, int] = {}
        self._uses: dict[str, list[tuple[int, int]]] = {}
        self._last: dict[str, int] = {}
        for place, path in enumerate(paths):
            while path and path not in self._known:
                self._known[path] = place
                around, _, part = path.rpartition("/")
                name, use = use_of(part)
                counted = f"{around}/{name}" if around else name
                self._uses.setdefault(counted, []).append((use, place))
                self._last[counted] = max(use, self._last.get(counted, 0))
                path = around

    def of(self, scope: Scope, name: str) -> int | None:
        """Where the next use of a name stands, or the first behind it that does; None: nothing is left of it.

        A use in between that stands nowhere was asked for and withdrawn at once, and counts all the same.
        """
        exact = self._known.get(scope.next_path(name))
        if exact is not None:
            return exact
        counted = f"{scope.path}/{name}" if scope.path else name
        begun = scope.uses(name)
        if begun >= self._last.get(counted, 0):
            return None
        uses = self._uses[counted]
        return min((place for use, place in uses if use > begun), default=None)


def _checked(name: str, was: object) -> Sequence[str]:
    if isinstance(was, str):
        return (check_name(was, "former step name"),)
    if not isinstance(was, Sequence):
        raise TypeError(
            f"was= of step {name!r} is {was!r}; it must be a name the step had before, or several"
        )
    return [check_name(each, "former step name") for each in cast("Sequence[Any]", was)]


def last_of_handler(history: Sequence[e.Recorded]) -> int:
    """The index of the last event that the handler was given or that its code led to; -1: there is none.

    Not counted is what happens without it: further attempts of a step, and whatever a step's function asks for.
    """
    steps: dict[str, int] | None = None
    for index in range(len(history) - 1, -1, -1):
        event = history[index].event
        if isinstance(event, _WITHOUT_PATH) or event.terminal:
            return index
        if not isinstance(event, (*_OPENINGS, *_ENDS)):
            continue
        path: str = event.path
        if isinstance(event, e.StepStarted) or "/" in path:
            if steps is None:
                steps = _first_starts(history)
            if isinstance(event, e.StepStarted) and steps[path] < index:
                continue
            if _is_inside(path, steps):
                continue
        return index
    return -1


def _first_starts(history: Sequence[e.Recorded]) -> dict[str, int]:
    starts: dict[str, int] = {}
    for index, recorded in enumerate(history):
        event = recorded.event
        if isinstance(event, e.StepStarted):
            starts.setdefault(event.path, index)
    return starts


def _is_inside(path: str, steps: dict[str, int]) -> bool:
    """Whether a step's function asked for this path, rather than the handler."""
    while path := path.rpartition("/")[0]:
        if path in steps:
            return True
    return False
