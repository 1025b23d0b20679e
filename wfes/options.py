"""The options of `@workflow`: checked where they are written, kept in the engine's units.

Invariants: an `Options` holds nothing a user could have meant otherwise; durations are whole microseconds; a wrong
value is a `ValueError`, a value of a wrong type a `TypeError`, and each names the option, the value and what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.core.retry import Retry
from wfes.names import Event
from wfes.schedule import Schedule, schedule_names, schedules
from wfes.validation import checked_name, checked_type, explained, is_a, shown

EventName = str | Event[Any]
ScheduleOption = str | Schedule | list[str | Schedule]
TIMEOUT_DEFAULT: Duration = "5m"


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many instances of a workflow run at a time, over all workers.

    Attributes:
        limit: At most so many, at least 1.
        key: A field of the input; the limit then holds for each value of it by itself. None: for all together.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: The limit is below 1.

    >>> Concurrency(2, key="customer").limit
    2
    """

    limit: int
    key: str | None = None

    def __post_init__(self) -> None:
        limit: Any = self.limit
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"concurrency is {limit!r}; it must be a whole number, at least 1")
        if limit < 1:
            raise ValueError(f"concurrency is {limit!r}; it must be at least 1")
        if self.key is not None:
            checked_name(self.key, "concurrency key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A workflow's options in the engine's units, as `Workflow`'s attributes document them."""

    name: str
    description: str = ""
    schedules: tuple[Schedule, ...] = ()
    timeout_micros: int | None = None
    deadline_micros: int | None = None
    retention_micros: int | None = None
    requests: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    state_type: type[BaseModel] | None = None
    on: tuple[str, ...] = ()
    retry: Retry = field(default_factory=Retry)
    concurrency: Concurrency | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RawOptions:
    """The options as they were written, before there is a handler to check them with."""

    name: str | None = None
    description: str | None = None
    schedule: ScheduleOption | None = None
    timeout: Duration | None = TIMEOUT_DEFAULT
    deadline: Duration | None = None
    requests: Mapping[str, Any] | None = None
    state: type[BaseModel] | None = None
    on: EventName | Iterable[EventName] | None = None
    retry: Retry | None = None
    concurrency: int | Concurrency | None = None
    retention: Duration | None = None
    version: str | None = None

    def checked(self, handler_name: str, docstring: str | None) -> Options:
        """The options for a handler, with its name and docstring as defaults.

        Raises:
            TypeError: An option is of the wrong type.
            ValueError: An option's value cannot be meant.
        """
        default_name = handler_name.strip("_").replace("_", "-") or handler_name
        name = checked_name(default_name if self.name is None else self.name, "workflow")
        several = schedules(self.schedule)
        schedule_names(name, several)
        return Options(
            name=name,
            description=_description(self.description, docstring),
            schedules=several,
            timeout_micros=_micros(self.timeout, "timeout"),
            deadline_micros=_micros(self.deadline, "deadline"),
            retention_micros=_micros(self.retention, "retention"),
            requests=_requests(self.requests, name),
            state_type=_state_type(self.state),
            on=_event_names(self.on),
            retry=_retry(self.retry),
            concurrency=_concurrency(self.concurrency),
            version=_version(self.version),
        )


def _micros(value: Duration | None, option: str) -> int | None:
    return None if value is None else durations.micros(value, option)


def _description(given: Any, docstring: str | None) -> str:
    if given is not None:
        if not isinstance(given, str):
            raise TypeError(f"description is {shown(given)}; it must be a str")
        return given
    lines: list[str] = []
    for line in (docstring or "").strip().splitlines():
        if not line.strip():
            break
        lines.append(line.strip())
    return " ".join(lines)


def _requests(given: Any, workflow: str) -> Mapping[str, Any]:
    if given is None:
        return MappingProxyType({})
    if not is_a(given, Mapping):
        raise TypeError(f'requests is {shown(given)}; it must be a mapping such as {{"approval": bool}}')
    declared: dict[str, Any] = {}
    for name, kind in given.items():
        checked_name(name, "request", forbidden="/#")
        declared[name] = checked_type(kind, f"request {name!r} of workflow {workflow!r}")
    return MappingProxyType(declared)


def _state_type(given: Any) -> type[BaseModel] | None:
    if given is None:
        return None
    if not (is_a(given, type) and issubclass(given, BaseModel)):
        raise TypeError(f"state is {shown(given)}; it must be a pydantic model class")
    missing = [name for name, info in given.model_fields.items() if info.is_required()]
    if missing:
        fields = ", ".join(repr(name) for name in missing)
        raise TypeError(
            f"state {given.__qualname__} has no default for {fields}; state starts at its defaults, so every "
            "field needs one"
        )
    try:
        given()
    except ValidationError as error:
        raise TypeError(
            f"the defaults of state {given.__qualname__} do not fit: {explained(error)}"
        ) from error
    model: type[BaseModel] = given
    return model


def _event_names(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    several: Iterable[Any] = [given] if is_a(given, str) or not is_a(given, Iterable) else given
    names: list[str] = []
    for one in several:
        if is_a(one, Event):
            names.append(one.name)
        elif isinstance(one, str):
            names.append(checked_name(one, "event"))
        else:
            raise TypeError(f"on holds {shown(one)}; it must hold event names or `Event`s")
    return tuple(dict.fromkeys(names))


def _retry(given: Any) -> Retry:
    if given is None:
        return Retry()
    if not isinstance(given, Retry):
        raise TypeError(f"retry is {shown(given)}; it must be a Retry, such as Retry(max_attempts=3)")
    return given


def _concurrency(given: Any) -> Concurrency | None:
    if given is None or isinstance(given, Concurrency):
        return given
    return Concurrency(given)


def _version(given: Any) -> str | None:
    return None if given is None else checked_name(given, "version")
