"""Forks: a new instance whose history begins with another's up to some event, changed as asked, and then goes on live.

How it is arranged, and why so:

* The fork has *copies* of the origin's events, at their own versions, in a history of its own with a hash chain of its
  own. So nothing of it depends on the origin any more: that may be archived, or end otherwise, and neither reading nor
  running the fork needs to know what a fork is. Large values are shared by content.
* What a change makes void is found once, when the fork is made, and not at each replay (`fork_draft`): one number, the
  first void version. Before it the fork replays like any history; behind it, results are taken by path.
* A changed outcome makes void what came *after* it, not what was there already: parallel branches that had their
  results by then keep their order, and everything later is asked for afresh, and given by path where it is the same. A
  changed input makes everything void, and so does `by_path=True`, which is what another version of the code needs.
* A step that failed for good has no result to be given by path: behind a change it runs again.
* Nothing is written to the origin's history: who was forked has no part in it, and may be archived. Both know of each
  other all the same, for the fork's history names its origin, and a projection has it the other way round.
* The deadline is not inherited, so a fork has none until `set_timeout` gives it one; pauses and cancellations count
  only as far as they stand before what is void.
* What was open at the fork goes on: a started step is started again in the fork's own name, and that neither counts as
  an attempt nor as cut off; waits keep their bounds; a fork made when a bound has passed therefore times out at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfes.concurrency import slot_value
from wfes.core import events as e
from wfes.core.codec import ABSENT, Json
from wfes.core.state import InstanceState
from wfes.core.voiding import meant
from wfes.definition import Workflow
from wfes.errors import ForkRefused
from wfes.runtime.values import Blobs, Values
from wfes.timetravel.fork_draft import Changes, Draft, drafted
from wfes.timetravel.fork_types import Declared, Sealer
from wfes.validation import shown
from wfes.views import micros_of, moment

if TYPE_CHECKING:
    Events = Mapping[int, Mapping[str, Any] | None]

_VALUES: dict[type[e.Event], str] = {
    e.WorkflowStarted: "input",
    e.StepCompleted: "result",
    e.EventReceived: "payload",
    e.DataProvided: "data",
    e.TargetEnded: "output",
}
"""Events of which a field can be changed, and which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody wants of a fork; the arguments of `Instance.fork`."""

    at: int | datetime
    input: Any = ABSENT
    results: Mapping[str, Any] | None = None
    events: Events | None = None
    by_path: bool = False
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A fork that can be made.

    Attributes:
        draft: what its history begins with.
        state: what that amounts to.
        later: the origin's events behind that.
        blobs: large values among the changes.
        counts_as: the field of the input that the workflow's concurrency is limited by, and the input's value of it.
    """

    draft: Draft
    state: InstanceState
    later: Sequence[e.Recorded]
    blobs: Blobs
    counts_as: tuple[str, str] | None


def prepared(
    history: Sequence[e.Recorded],
    wanted: Wanted,
    values: Values,
    workflow: Workflow[Any, Any] | None,
    workflows: Mapping[str, Workflow[Any, Any]],
    url: str | None,
) -> Prepared:
    """Checks what is wanted, and draws the fork up. Reads only; not within a task of an event loop.

    Args:
        history: the origin's whole history.
        wanted: what is wanted.
        values: seals what is changed.
        workflow: the origin's, where it is known.
        workflows: definitions its handler may name.
        url: the log's.

    Raises:
        ForkRefused: it cannot be forked so.
        InvalidInput: the input does not fit.
        UnstorableValue, PayloadTooLarge: a value cannot be stored.
    """
    id, asked = history[0].originator_id, wanted.at
    if isinstance(history[-1].event, e.HistoryArchived):
        # Where the events are says nothing about the instance: it is as it was before that.
        asked = len(history) - 1 if asked == len(history) else asked
        history = history[:-1]
    at = _version(id, history, asked)
    first, later = list(history[:at]), history[at:]
    declared = Declared()
    if wanted.results or wanted.events:
        declared = Declared.by(workflow, history, values, workflows, url)
    sealer = Sealer(values, declared, lambda why: ForkRefused(id, at, why))
    changes = _Changing(id, at, first, sealer, workflow).changes(wanted)
    draft = drafted(first, changes, later)
    return Prepared(draft, draft.state(), later, sealer.blobs, _counts_as(draft, values, workflow))


def _version(id: str, history: Sequence[e.Recorded], asked: Any) -> int:
    """The version that is meant, if a fork can be there."""
    last = history[-1].originator_version
    if isinstance(asked, datetime):
        try:
            bound = micros_of(asked, "at")
        except ValueError as error:
            raise ForkRefused(id, asked.isoformat(), str(error)) from None
        began = history[0].event.at
        at = sum(1 for latest in _latest(history) if latest <= bound)
        if not at:
            raise ForkRefused(id, asked.isoformat(), f"it was started later, at {moment(began).isoformat()}")
    elif isinstance(asked, bool) or not isinstance(asked, int):
        raise TypeError(f"at is {shown(asked)}; it must be a version (int) or an aware datetime")
    else:
        at = asked
    if not 1 <= at <= last:
        raise ForkRefused(id, at, f"its history has the versions 1 to {last}")
    for recorded in history[at:]:
        if isinstance(recorded.event, e.HistoryForked):
            event = recorded.event
            raise ForkRefused(
                id,
                at,
                f"versions 1 to {recorded.originator_version} belong together, for it is a fork of {event.origin!r} "
                f"itself; fork it at {recorded.originator_version} or later, or fork {event.origin!r}",
            )
    return at


def _latest(history: Sequence[e.Recorded]) -> list[int]:
    """The latest time by each version."""
    found: list[int] = []
    latest = 0
    for recorded in history:
        latest = max(latest, recorded.event.at)
        found.append(latest)
    return found


class _Changing:
    """Makes what is wanted what a draft takes: each change at its version or path, its value sealed."""

    def __init__(
        self,
        id: str,
        at: int,
        history: Sequence[e.Recorded],
        sealer: Sealer,
        workflow: Workflow[Any, Any] | None,
    ) -> None:
        self._id = id
        self._at = at
        self._history = history
        self._sealer = sealer
        self._workflow = workflow
        self._input: tuple[Json] | None = None
        self._results: dict[str, Json] = {}
        self._payloads: dict[int, Json] = {}
        self._dropped: set[int] = set()

    def _refused(self, why: str) -> ForkRefused:
        return ForkRefused(self._id, self._at, why)

    def changes(self, wanted: Wanted) -> Changes:
        if wanted.input is not ABSENT:
            self._change_input(wanted.input)
        for version, change in _mapping(wanted.events, "events", "versions to what is changed there").items():
            self._change_event(version, change)
        for path, value in _mapping(wanted.results, "results", "paths to values").items():
            if not isinstance(path, str):
                raise TypeError(f"results has the key {shown(path)}; it must be a step's path, a str")
            self._change_result(path, value)
        return Changes(
            input=self._input,
            results=self._results,
            payloads=self._payloads,
            dropped=frozenset(self._dropped),
            by_path=wanted.by_path,
            actor=wanted.actor,
        )

    def _change_input(self, value: Any) -> None:
        started = self._history[0].event
        assert isinstance(started, e.WorkflowStarted)
        what = f"input of workflow {started.workflow!r}"
        if self._workflow is None:
            self._input = (self._sealer.sealed(value, started.input, what),)
            return
        fitting = self._workflow.validate_input(value)
        self._input = (self._sealer.sealed(fitting, None, what, self._workflow.input_type),)

    def _change_result(self, path: str, value: Any) -> None:
        recorded = self._recorded(path)
        self._results[path] = self._sealer.at(path, value, recorded, f"the result of {path!r}")

    def _recorded(self, path: str) -> Json:
        """The form of the result that a path has now."""
        found: Json = None
        for recorded in self._history:
            event = meant(recorded.event)
            if isinstance(event, e.StepCompleted) and event.path == path:
                found = event.result
        return found

    def _change_event(self, version: Any, change: Any) -> None:
        if isinstance(version, bool) or not isinstance(version, int):
            raise TypeError(f"events has the key {shown(version)}; it must be a version, an int")
        if not 1 <= version <= self._at:
            raise self._refused(
                f"there is no version {version} in what the fork begins with, 1 to {self._at}"
            )
        if change is None:
            self._dropped.add(version)
            return
        event: Any = meant(self._history[version - 1].event)
        name = next((name for kind, name in _VALUES.items() if isinstance(event, kind)), None)
        fields = _mapping(change, f"events[{version}]", "a field's name to its value")
        if name is None or set(fields) != {name}:
            can = "nothing of it can" if name is None else f"only its {name!r} can"
            hint = ", but it can be dropped" if name is None and event.owner else ""
            raise self._refused(
                f"version {version} is {event.topic}; {can} be changed, not {', '.join(map(repr, fields))}{hint}"
            )
        value = fields[name]
        if isinstance(event, e.WorkflowStarted):
            self._change_input(value)
        elif isinstance(event, e.StepCompleted):
            self._results[event.path] = self._sealer.at(
                event.path, value, event.result, f"the result of {event.path!r}"
            )
        else:
            path = self._taker(version, event)
            recorded = getattr(event, name)
            self._payloads[version] = self._sealer.at(path, value, recorded, f"{name} of version {version}")

    def _taker(self, version: int, event: Any) -> str | None:
        """The path that what came from outside was given to, or is for."""
        path: str | None = getattr(event, "path", None)
        if path is not None:
            return path
        for recorded in self._history:
            found = recorded.event
            if isinstance(found, e.ListenEnded) and found.received == version:
                return found.path
        return None


def _mapping(given: Any, name: str, what: str) -> Mapping[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} is {shown(given)}; it must be a mapping of {what}")
    found: Mapping[Any, Any] = given  # pyright: ignore[reportUnknownVariableType]
    return found


def _counts_as(draft: Draft, values: Values, workflow: Workflow[Any, Any] | None) -> tuple[str, str] | None:
    field = None if workflow is None or workflow.concurrency is None else workflow.concurrency.key
    if workflow is None or field is None:
        return None
    started = draft.events[0]
    assert isinstance(started, e.WorkflowStarted)
    try:
        return field, slot_value(values.open(started.input, workflow.input_type), field)
    except ValueError:
        return None  # It does not fit today's type; who admits it knows what that means.
