"""What differs between two moments of an instance, or between two instances: `Diff`, as data and as text.

Two things are told. *Where they part*: the first event of either history that the other one has no like of; two
moments of one instance part nowhere, for the earlier is where the later comes from. *What differs*: input, status,
steps by path, state by field, waits, output, as they are at the two moments.

Compared is what a handler sees and does. What differs between any two runs (times, workers, ids of instances and
requests, interruptions and new starts of a step) is left out, and so is the order in which steps that ran at the same
time came to their ends. Nothing here runs code of a workflow or writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.state import Status
from wfes.history import Viewer
from wfes.timetravel.past import InstanceState, step_view
from wfes.timetravel.waits import waits_of
from wfes.validation import shown
from wfes.views import RecordedEvent

if TYPE_CHECKING:
    from wfes.engine import Engine
    from wfes.instance import Instance
    from wfes.timetravel.index import Index, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs.

    Attributes:
        kind: `workflow`, `input`, `status`, `reason`, `output`, `error`, `state`, `progress`, `wait` or `step`.
        path: A step's or wait's path, a state field's name; empty for the rest.
        before: How the first one has it: a `StepView`, a `WaitView`, a value. None where it has not.
        after: How the second one has it.
    """

    kind: str
    path: str = ""
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where two histories part.

    Attributes:
        path: The step or wait that it is about; empty for the start and the end.
        before: The first event of the first history that the second has no like of; None: it has none.
        after: The same of the second.
    """

    path: str
    before: RecordedEvent | None = None
    after: RecordedEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs; true where something does, readable as text.

    Attributes:
        before: The first moment.
        after: The second.
        parting: Where the two histories part; None: one goes on where the other is, or they are alike.
        changes: What differs between the two moments.
    """

    before: InstanceState
    after: InstanceState
    parting: Parting | None = None
    changes: list[Change] = field(default_factory=list[Change])

    def __bool__(self) -> bool:
        return bool(self.changes) or self.parting is not None

    @property
    def steps(self) -> dict[str, Change]:
        """The steps that differ, by path."""
        return {change.path: change for change in self.changes if change.kind == "step"}

    def text(self, changes_max: int = 50) -> str:
        """The difference in lines.

        Args:
            changes_max: Of more than so many changes of one kind only the first are written out.
        """
        from wfes.timetravel.diff_text import written

        return written(self, changes_max)

    def __str__(self) -> str:
        return self.text()


async def diff(
    first: Instance[Any],
    second: Instance[Any],
    a: int | datetime | None = None,
    b: int | datetime | None = None,
) -> Diff:
    """What differs between two instances, or between two moments of one.

    The instances may be of two engines on different logs.

    Args:
        first: The one to start from.
        second: The one to compare it with.
        a: At which version or aware moment the first is looked at; None: as it is now.
        b: The same of the second.

    Raises:
        UnknownMoment: An instance has no such version, or was started later; a `LookupError`.
        ValueError: A moment is naive.
        TypeError: Something is no instance, or no moment.
    """
    sides = [await _side(instance, asked) for instance, asked in ((first, a), (second, b))]
    return await asyncio.to_thread(compared, *sides)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two.

    Attributes:
        engine: Whose instance it is.
        index: Its history.
        version: The moment.
    """

    engine: Engine
    index: Index
    version: int


async def _side(instance: Instance[Any], asked: int | datetime | None) -> Side:
    engine = getattr(instance, "_engine", None)
    if engine is None:
        raise TypeError(f"diff compares instances, not {shown(instance)}")
    if not instance.version:
        await instance.refresh()
    index = await engine.past(instance.id)
    return Side(engine, index, index.version if asked is None else index.version_of(asked))


def compared(one: Side, other: Side) -> Diff:
    """The difference of two sides. Reads both histories; not for an event loop's thread."""
    states = [_state(one), _state(other)]
    before, after = states
    same = one.index.id == other.index.id and one.engine.url == other.engine.url
    return Diff(
        before=before,
        after=after,
        parting=None if same else _parting(one, other, (before._state.is_over, after._state.is_over)),
        changes=[*_changes(before, after), *_wait_changes(one, other), *_step_changes(before, after, same)],
    )


def _state(side: Side) -> InstanceState:
    state = side.index.state(side.version)
    return InstanceState(side.engine, state, side.index.steps(state))


# --------------------------------------------------------------------------------------------------- what differs


def _changes(before: InstanceState, after: InstanceState) -> Iterator[Change]:
    one, other = before._state, after._state
    for kind, a, b in (
        ("workflow", one.workflow, other.workflow),
        ("input", _plain(before, one.input), _plain(after, other.input)),
        ("status", before.status, after.status),
        ("reason", before.reason, after.reason),
        ("output", _output(before), _output(after)),
    ):
        if a != b or type(a) is not type(b):
            yield Change(kind=kind, before=a, after=b)
    if _failure(one.error) != _failure(other.error):
        yield Change(kind="error", before=before.error, after=after.error)
    for name in {**one.fields, **other.fields}:
        if one.fields.get(name, _ABSENT) != other.fields.get(name, _ABSENT):
            yield Change(
                kind="state",
                path=name,
                before=_plain(before, one.fields.get(name)),
                after=_plain(after, other.fields.get(name)),
            )
    last, now = before.progress, after.progress
    if (last and (last.message, last.percent, last.data)) != (now and (now.message, now.percent, now.data)):
        yield Change(kind="progress", before=last, after=now)


def _plain(state: InstanceState, tree: Json) -> Any:
    """Without the workflow's types: those of today need not be those that it was recorded with."""
    return state._engine.values.open(tree)


def _output(state: InstanceState) -> Any:
    return _plain(state, state._state.output) if state.status is Status.COMPLETED else None


def _wait_changes(one: Side, other: Side) -> Iterator[Change]:
    a, b = [waits_of(side.index.events(0, side.version)) for side in (one, other)]
    for path in {**a, **b}:
        before, after = a.get(path), b.get(path)
        if before is None or after is None or before.compared() != after.compared():
            yield Change(
                kind="wait",
                path=path,
                before=None if before is None else before.view(one.engine.values),
                after=None if after is None else after.view(other.engine.values),
            )


def _step_changes(before: InstanceState, after: InstanceState, same: bool) -> Iterator[Change]:
    one, other = before._steps, after._steps
    for path in _paths(one, other):
        if same and one.token(path) == other.token(path):
            continue
        a, b = one.get(path), other.get(path)
        if a is not None and b is not None and _known(a) == _known(b):
            continue
        yield Change(
            kind="step",
            path=path,
            before=None if a is None else step_view(a, before._engine.values),
            after=None if b is None else step_view(b, after._engine.values),
        )


def _paths(one: Steps, other: Steps) -> Iterator[str]:
    yield from one
    yield from (path for path in other if path not in one)


def _known(step: Any) -> tuple[Any, ...]:
    return step.status, step.attempts, step.result, _failure(step.error)


def _failure(error: Mapping[str, Any] | None) -> Any:
    """An error without its traceback, which differs with the code's lines."""
    return None if error is None else (error.get("t"), error.get("m"), _failure(error.get("c")))


# ------------------------------------------------------------------------------------------------ where they part


def _parting(one: Side, other: Side, over: tuple[bool, bool]) -> Parting | None:
    told_a, told_b = [[*_told([*side.index.events(0, side.version)])] for side in (one, other)]
    first, second = _first_unlike(told_a, told_b), _first_unlike(told_b, told_a)
    if (first is None and not over[0]) or (second is None and not over[1]):
        # One that has only got less far does not part from the other.
        return None
    if first is None and second is None:
        return None
    events = [
        None if found is None else Viewer(side.engine._parts.histories, side.engine.values).view([found])[0]
        for side, found in ((one, first), (other, second))
    ]
    path = next(
        (str(event.data["path"]) for event in events if event is not None and "path" in event.data), ""
    )
    return Parting(path=path, before=events[0], after=events[1])


Told = tuple[e.Recorded, bytes]
"""An event, and what in it two runs can be compared by."""


def _first_unlike(told: list[Told], other: list[Told]) -> e.Recorded | None:
    there = Counter(what for _, what in other)
    for recorded, what in told:
        if not there[what]:
            return recorded
        there[what] -= 1
    return None


def _told(history: list[e.Recorded]) -> Iterator[Told]:
    by_version = {recorded.originator_version: recorded.event for recorded in history}
    begun: set[str] = set()
    for recorded in history:
        for event in _meant(recorded.event, by_version):
            if isinstance(event, e.StepStarted):
                if event.path in begun:
                    continue
                begun.add(event.path)
            tells = _TELLS.get(type(event))
            if tells is not None:
                what = event.topic, getattr(event, "path", ""), tells(event, by_version)
                yield recorded, orjson.dumps(what, option=orjson.OPT_SORT_KEYS)


def _meant(event: e.Event, by_version: Mapping[int, e.Event]) -> Iterable[e.Event]:
    """The event; where a fork was given an outcome of its origin's, that."""
    given = by_version.get(event.version) if isinstance(event, e.ResultReused) else None
    if not isinstance(given, e.EventVoided):
        return (event,)
    outcome = e.CATALOGUE[given.event](**given.body)
    if isinstance(outcome, e.StepCompleted | e.StepFailed):
        return e.StepStarted(at=outcome.at, path=outcome.path), outcome
    return (outcome,)


_Tells = Callable[[Any, Mapping[int, e.Event]], Any]


def _nothing(event: Any, by_version: Mapping[int, e.Event]) -> Any:
    return None


def _answer(event: Any, by_version: Mapping[int, e.Event]) -> Any:
    return getattr(by_version.get(event.provided), "data", None)


def _taken(event: Any, by_version: Mapping[int, e.Event]) -> Any:
    return getattr(by_version.get(event.received), "payload", None)


def _target(event: Any, by_version: Mapping[int, e.Event]) -> Any:
    ended: Any = by_version.get(event.ended)
    return None if ended is None else (ended.status, ended.output, _failure(ended.error))


_TELLS: dict[type[e.Event], _Tells] = {
    e.WorkflowStarted: lambda event, _: (event.workflow, event.input),
    e.StepStarted: _nothing,
    e.StepCompleted: lambda event, _: event.result,
    e.StepFailed: lambda event, _: _failure(event.error),
    e.StepCancelled: _nothing,
    e.ProgressRecorded: lambda event, _: (event.message, event.percent, event.data),
    e.SleepScheduled: _nothing,
    e.SleepEnded: _nothing,
    e.ListenStarted: lambda event, _: event.event,
    e.ListenEnded: _taken,
    e.RequestIssued: lambda event, _: (event.name, event.message),
    e.RequestEnded: _answer,
    e.WaitTimedOut: _nothing,
    e.WaitCancelled: _nothing,
    e.ChildStarted: lambda event, _: event.workflow,
    e.ChildEnded: _target,
    e.WaitStarted: _nothing,
    e.WaitEnded: _target,
    e.TimerFired: lambda event, _: (event.delay, event.number),
    e.StateChanged: lambda event, _: event.changes,
    e.CallRecorded: lambda event, _: (event.call, _failure(event.error)),
    e.CancelDelivered: lambda event, _: (event.kind, event.reason),
    e.WorkflowCompleted: lambda event, _: event.output,
    e.WorkflowFailed: lambda event, _: (event.path, _failure(event.error)),
    e.WorkflowAborted: lambda event, _: event.reason,
    e.WorkflowCancelled: lambda event, _: event.reason,
    e.WorkflowTimedOut: lambda event, _: event.reason,
}
"""What is compared of each event; the others say nothing that a handler's run could differ by."""

_ABSENT = object()
