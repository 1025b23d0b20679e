"""What callers get to read: pages of instances and requests, waits, progress, recorded events, outcomes.

Plain frozen values at the public edge: moments are aware UTC `datetime`s, user values plain Python values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, overload

from wfes.core.moments import micros_of as micros_of
from wfes.core.state import Status
from wfes.core.state import Wait as Wait

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@overload
def moment(micros: int) -> datetime: ...
@overload
def moment(micros: None) -> None: ...
def moment(micros: int | None) -> datetime | None:
    """Microseconds since the Unix epoch as an aware UTC `datetime`, exactly."""
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; iterating and indexing go over its items.

    A page may be shorter than its limit, or empty, though more is to come: a query that no index serves looks at a
    bounded number of rows and gives what it found. Only a `cursor` of None is the end.

    Attributes:
        items: The items, in the order asked for.
        cursor: What to pass as `cursor=` for the next page; None at the end.
        position: The log position that the items and the total reflect.
        total: How many items all pages have together; None: it was not asked for.
        total_exact: Whether that is exact; otherwise it is an estimate.
    """

    items: list[T]
    cursor: str | None
    position: int
    total: int | None = None
    total_exact: bool = False

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.items[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """An instance in a list.

    Attributes:
        id, workflow, key, tags, parent, conversation: As given at its start.
        status: Where it is in its life.
        created_at: When it was started.
        updated_at: When its status last changed.
        reason: Why it is held, where it is pending because its workflow's `concurrency=` has no slot free.
    """

    id: str
    workflow: str
    key: str | None
    status: Status
    created_at: datetime
    updated_at: datetime
    parent: str | None
    conversation: str | None
    tags: tuple[str, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """How many instances there are, exactly.

    Attributes:
        workflows: By workflow, then by status; only what there is.
        position: The log position that the counts reflect.
    """

    workflows: dict[str, dict[Status, int]]
    position: int

    @property
    def statuses(self) -> dict[Status, int]:
        """By status, over all workflows counted."""
        found: dict[Status, int] = {}
        for counts in self.workflows.values():
            for status, number in counts.items():
                found[status] = found.get(status, 0) + number
        return {status: found[status] for status in Status if status in found}

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """A request for data that is open; `Workflow.provide` answers it.

    Attributes:
        id: The request's own id.
        instance: The id of the instance that asks.
        workflow: That instance's workflow.
        name: The request's declared name.
        message: What the handler says to whoever answers.
        schema: JSON Schema of the data.
        step: The path it was asked at.
        deadline: When it expires, or None.
        created_at: When it was asked.
        conversation: The conversation the instance belongs to, or None.
    """

    id: str
    instance: str
    workflow: str
    name: str
    message: str | None = None
    schema: Any = None
    step: str = ""
    deadline: datetime | None = None
    created_at: datetime | None = None
    conversation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRow:
    """A fork of an instance, as `Instance.forks` lists it.

    Attributes:
        id: The fork.
        at: The version of the origin that it was forked at.
        created_at: When.
        actor: Who forked it.
    """

    id: str
    at: int
    created_at: datetime
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A progress checkpoint: its message, percentage and data as the handler gave them, and when."""

    message: str
    percent: float | None
    data: Any
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event of the log.

    Attributes:
        position: Its place in the whole log, rising.
        instance: Whose history it stands in; a name beginning with `$` is one of the engine's own streams.
        version: Its number in that history: 1, 2, … without gaps.
        at: When it was made.
        type: The event's name.
        data: Its own fields by name; user values as plain Python values, errors as `ErrorInfo`, moments as
            `datetime`.
        actor: Who asked, for what was asked from outside.
        worker: Which worker's run it belongs to.
        code: What that worker ran.
        cause: What led to it: another event's place, a published event, a trace.
        copied: It is a copy that a fork's history begins with, and happened to the fork's origin: `"kept"`,
            `"changed"`, `"void"` (it says nothing about the fork; its result may be given by path), `"dropped"`,
            `"reused"` (void, and given by path) or `"unused"` (void, and the fork ended without asking for it). None:
            it happened here.
    """

    position: int
    instance: str
    version: int
    at: datetime
    type: str
    data: dict[str, Any]
    actor: str | None = None
    worker: str | None = None
    code: Any = None
    cause: Any = None
    copied: str | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a projection's query found.

    Attributes:
        value: What the query returned.
        position: The log position that it reflects: every event up to it, and none behind it.
    """

    value: T
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionStatus:
    """How a projection is.

    Attributes:
        name, version: The projection, and the version that its rows are of.
        kind: `"following"`, `"inline"`, or `"state"` for the engine's own that are a function of instances' states.
        status: `"live"`; `"building"`: made for the first time, or anew beside the old rows; `"stopped"`: a handler
            raised, of these rows or of those that are to replace them; `"unavailable"`: the database of its rows
            cannot be read; `"absent"`: it has no rows yet, and this engine does not follow it.
        position: Every event up to this log position is in the rows.
        head: The newest position of the log.
        lag: Events of the log that it is behind; 0 where none of them concerns it.
        lag_seconds: How long ago the first of them was made.
        building: How much of the log a rebuild that is under way has done, 0 to 1; None: there is none.
        error, error_position, error_at: Why, where and when it was stopped.
        url: The database of its rows, where that is not the log's own.
    """

    name: str
    version: int
    kind: str
    status: str
    position: int
    head: int
    lag: int
    lag_seconds: float
    building: float | None = None
    error: str | None = None
    error_position: int | None = None
    error_at: datetime | None = None
    url: str | None = None
