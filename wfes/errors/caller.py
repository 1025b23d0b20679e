"""Errors of whoever calls: a wrong argument, a name nobody knows, a command that comes too late."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from wfes.errors.base import WfesError, because, one_of


class InvalidInput(WfesError, ValueError):
    """The input does not fit the workflow's input type."""

    def __init__(self, workflow: str, detail: str) -> None:
        super().__init__()
        self.workflow = workflow
        self.detail = detail

    def __str__(self) -> str:
        return f"input does not fit the input type of workflow {self.workflow!r}: {self.detail}"


class InvalidData(WfesError, ValueError):
    """The data does not fit the declared type.

    Attributes:
        name: What the data was for: a request's, event's or workflow's name.
        detail: What is wrong with it, value by value.
        kind: What `name` names: "request", "event", "output of workflow", "state of workflow".
    """

    def __init__(self, name: str, detail: str, *, kind: str = "request") -> None:
        super().__init__()
        self.name = name
        self.detail = detail
        self.kind = kind

    def __str__(self) -> str:
        return f"data does not fit the type declared for the {self.kind} {self.name!r}: {self.detail}"


class InstanceNotFound(WfesError, LookupError):
    """There is no instance with this id."""

    def __init__(self, id: str) -> None:
        super().__init__()
        self.id = id

    def __str__(self) -> str:
        return f"there is no instance with the id {self.id!r} in this log"


class UnknownMoment(WfesError, LookupError):
    """The instance's history has no such version, or began later.

    Attributes:
        id: The instance.
        asked: The version, or the aware `datetime`, that was asked for.
        version: Its newest version.
        began: When it was started.
    """

    def __init__(self, id: str, asked: int | datetime, version: int, began: datetime) -> None:
        super().__init__()
        self.id = id
        self.asked = asked
        self.version = version
        self.began = began

    def __str__(self) -> str:
        if isinstance(self.asked, datetime):
            return (
                f"instance {self.id!r} was not there at {self.asked.isoformat()}: it was started at "
                f"{self.began.isoformat()}"
            )
        return f"instance {self.id!r} has no version {self.asked}: its versions are 1 to {self.version}"


class InstanceExists(WfesError, ValueError):
    """The id is taken by an instance of another workflow or with another input."""

    def __init__(self, id: str, workflow: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.id = id
        self.workflow = workflow
        self.reason = reason

    def __str__(self) -> str:
        owner = f" by an instance of workflow {self.workflow!r}" if self.workflow else ""
        return (
            f"the id {self.id!r} is taken{owner}{because(self.reason)};"
            " ids are never used again, choose another"
        )


class ForkRefused(WfesError, ValueError):
    """An instance cannot be forked there, or not with these changes.

    Attributes:
        id: The instance whose history the fork was to begin with.
        at: The version, or what was given as such.
        reason: Why not, and what would be right.
    """

    def __init__(self, id: str, at: object, reason: str) -> None:
        super().__init__()
        self.id = id
        self.at = at
        self.reason = reason

    def __str__(self) -> str:
        return f"instance {self.id!r} cannot be forked at {self.at}: {self.reason}"


class WrongWorkflow(WfesError, LookupError):
    """The instance belongs to another workflow."""

    def __init__(self, id: str, *, expected: str, actual: str) -> None:
        super().__init__()
        self.id = id
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"instance {self.id!r} belongs to workflow {self.actual!r}, not to {self.expected!r};"
            " Workflow.get(id) gives any instance"
        )


class _Unknown(WfesError, LookupError):
    """Nothing of this name is known."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        super().__init__()
        self.name = name
        self.known = tuple(sorted(known))


class UnknownWorkflow(_Unknown):
    """This engine does not know the workflow."""

    def __str__(self) -> str:
        return (
            f"this engine has no workflow named {self.name!r}; it knows {one_of(self.known)};"
            " pass it in Engine(workflows=[...])"
        )


class DuplicateWorkflow(WfesError, ValueError):
    """Two workflows of one engine have the same name."""

    def __init__(self, name: str, first: str | None = None, second: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.first = first
        self.second = second

    def __str__(self) -> str:
        places = f" ({self.first} and {self.second})" if self.first and self.second else ""
        return f"two workflows are named {self.name!r}{places}; give one another with @workflow(name=...)"


class UnknownSchedule(_Unknown):
    """There is no schedule of this name."""

    def __str__(self) -> str:
        return (
            f"there is no schedule named {self.name!r}; there are {one_of(self.known)}; a workflow's first schedule"
            " has the workflow's name"
        )


class DuplicateSchedule(WfesError, ValueError):
    """Two workflows have schedules of the same name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__()
        self.name = name
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"schedules of workflows {self.first!r} and {self.second!r} are both named {self.name!r}; give one"
            " another with Schedule(..., name=...)"
        )


class UnknownProjection(_Unknown):
    """There is no projection of this name."""

    def __str__(self) -> str:
        return (
            f"this engine has no projection {self.name!r}; it has {one_of(self.known)}; "
            "give it to the engine with Engine(projections=[...])"
        )


class DuplicateProjection(WfesError, ValueError):
    """Two projections of an engine have the same name, or tables of the same name."""

    def __init__(self, name: str, first: str, second: str, *, what: str = "projection") -> None:
        super().__init__()
        self.name = name
        self.first = first
        self.second = second
        self.what = what

    def __str__(self) -> str:
        return f"two projections have a {self.what} named {self.name!r}: {self.first} and {self.second}; rename one"


class ProjectionStopped(WfesError):
    """A handler of the projection raised, or its tables cannot be made, and it goes no further.

    Attributes:
        name: The projection.
        position: The event it stopped at; None: it was not an event.
        error: What its handler raised.
    """

    def __init__(self, name: str, position: int | None, error: str | None) -> None:
        super().__init__()
        self.name = name
        self.position = position
        self.error = error

    def __str__(self) -> str:
        again = f"let it try again: engine.retry_projection({self.name!r})"
        if self.position is None:
            return f"projection {self.name!r} is stopped{because(self.error)}; mend that, and {again}"
        return (
            f"projection {self.name!r} is stopped at position {self.position}{because(self.error)}; mend its handler "
            f"and open the engine again, or {again}"
        )


class ProjectionInUse(WfesError):
    """The projection is in use and cannot be dropped.

    Attributes:
        name: The projection.
        reason: Who uses it, and what to do about it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__()
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"projection {self.name!r} cannot be dropped: {self.reason}"


class ProjectionNotReady(WfesError):
    """The projection's rows are not there yet, or are still those of an older version.

    Attributes:
        name: The projection.
        reason: What it waits for, and how far that is.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__()
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"projection {self.name!r} cannot answer this yet: {self.reason}"


class UnknownRequest(WfesError, LookupError):
    """The workflow does not declare this request."""

    def __init__(self, request: str, workflow: str | None = None, declared: Iterable[str] = ()) -> None:
        super().__init__()
        self.request = request
        self.workflow = workflow
        self.declared = tuple(sorted(declared))

    def __str__(self) -> str:
        owner = f"workflow {self.workflow!r}" if self.workflow else "the workflow"
        return (
            f"{owner} declares no request named {self.request!r}, only {one_of(self.declared)};"
            f" declare it with @workflow(requests={{{self.request!r}: TYPE}})"
        )


class RequestNotPending(WfesError):
    """The request is not open: it was answered, it expired, or its instance ended.

    Attributes:
        request: The request's name or id.
        instance: The id of the instance that asked, where it is known.
        reason: What became of it: "answered", "expired", "withdrawn", "never asked", "instance completed", …
    """

    def __init__(self, request: str, instance: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.request = request
        self.instance = instance
        self.reason = reason

    def __str__(self) -> str:
        owner = f" of instance {self.instance!r}" if self.instance else ""
        return (
            f"request {self.request!r}{owner} is not open{because(self.reason)}; nothing was recorded;"
            " engine.requests() lists the open ones"
        )


class InstanceEnded(WfesError):
    """The instance is over."""

    def __init__(self, id: str, status: str | None = None, action: str | None = None) -> None:
        super().__init__()
        self.id = id
        self.status = status
        self.action = action

    def __str__(self) -> str:
        status = f" ({self.status})" if self.status else ""
        action = f", so {self.action} is not possible" if self.action else ""
        return f"instance {self.id!r} is over{status}{action}; nothing was recorded"


class KeyInUse(WfesError):
    """Another active instance has this key."""

    def __init__(self, key: str, workflow: str | None = None, id: str | None = None) -> None:
        super().__init__()
        self.key = key
        self.workflow = workflow
        self.id = id

    def __str__(self) -> str:
        owner = f" of workflow {self.workflow!r}" if self.workflow else ""
        other = f" by instance {self.id!r}" if self.id else ""
        return f"the key {self.key!r}{owner} is in use{other}; that one must end first"


class EngineNotOpen(WfesError):
    """No engine is open: use `async with Engine(...)`, or the methods of an open engine."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__()
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or super().__str__()


class OutsideHandler(WfesError):
    """This call works only inside a running handler."""

    def __init__(self, call: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.call = call
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.call or 'this call'} works only inside a running handler{because(self.reason)}"


class InsideHandler(WfesError):
    """This call does not work inside a running handler."""

    def __init__(self, call: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.call = call
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.call or 'this call'} does not work inside a running handler{because(self.reason)}"


class StateReadOnly(WfesError):
    """A step's function may read the state, not change it."""

    def __init__(self, field: str, step: str | None = None) -> None:
        super().__init__()
        self.field = field
        self.step = step

    def __str__(self) -> str:
        place = f"step {self.step!r}" if self.step else "a step's function"
        return (
            f"state.{self.field} cannot be changed in {place}: the handler alone changes the state;"
            " return the value from the step and assign it in the handler"
        )


class ForbiddenInTransaction(WfesError):
    """A function of `step.transaction` did what only its step may do.

    It tried to end the transaction, which is committed together with the step's completion, to write to the log's own
    tables, or to change the connection, which is the engine's. What it wrote is rolled back, and it is not run again.

    Attributes:
        reason: What it did, and why that is not for it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class UnstorableValue(WfesError, ValueError):
    """The value cannot be stored exactly.

    Attributes:
        where: What the value was for, such as "result of step 'charge'".
        type_name: Qualified name of the offending value's type.
        hint: What would work.
    """

    def __init__(self, where: str, type_name: str, hint: str) -> None:
        super().__init__()
        self.where = where
        self.type_name = type_name
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where} cannot be stored: {self.type_name} does not come back equal; {self.hint}"


class PayloadTooLarge(WfesError, ValueError):
    """The value is larger than the engine's `max_payload`.

    Attributes:
        where: What the value was for.
        size: Its size in bytes.
        limit: The largest size in bytes.
    """

    def __init__(self, where: str, size: int, limit: int) -> None:
        super().__init__()
        self.where = where
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.where} takes {self.size:,} bytes, more than the limit of {self.limit:,} (max_payload);"
            " store it elsewhere and record a reference to it"
        )


class NotSupported(WfesError, NotImplementedError):
    """This release of wfes cannot do this."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __str__(self) -> str:
        return self.what
