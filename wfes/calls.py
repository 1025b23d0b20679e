"""What callers pass, checked, validated and sealed: a command for each call, or the error that says what is wrong.

Nothing is recorded here and nothing is read but the definitions of this engine's workflows, so a wrong argument costs
nothing and leaves no trace. Each method gives a command of `wfes.runtime.commands`; what is asked from inside a handler
or a step's function carries that place as its cause.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from pydantic import ValidationError

from wfes.actor import asked_by, current_cause
from wfes.concurrency import slot_value
from wfes.core import decide, durations, ids
from wfes.core.codec import ABSENT
from wfes.core.durations import Duration
from wfes.core.state import Status
from wfes.definition import Workflow
from wfes.errors import InvalidData, WrongWorkflow
from wfes.handler import scope as scopes
from wfes.names import Event
from wfes.runtime.commands import Answer, Ask, GetOrCreate, Publish, RetryInstance, Start
from wfes.runtime.values import Sealed, Values
from wfes.validation import checked_name, explained, fitted, is_a, shown
from wfes.views import DataRequest, micros_of

TEXT_CHARS_MAX = 200


class Calls:
    """Makes commands of what callers pass.

    Attributes:
        request_types: Types of requests that a handler declared at the call (`Request("approval", bool)`), by
            workflow and name; what runs handlers adds them.
    """

    def __init__(
        self, workflows: Mapping[str, Workflow[Any, Any]], values: Values, now: Callable[[], int]
    ) -> None:
        """Makes it for an engine's workflows.

        Args:
            workflows: By name.
            values: Where values are sealed.
            now: The engine's clock, in microseconds since the Unix epoch.
        """
        self._workflows = workflows
        self._values = values
        self._now = now
        self.request_types: dict[tuple[str, str], Any] = {}

    # -- Starting ----------------------------------------------------------------------------------------------------

    def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        parent: str | None = None,
        parent_path: str | None = None,
    ) -> Start:
        """A start; `parent` and `parent_path` say who starts it where that is not the place of this call.

        Raises:
            InvalidInput: The input does not fit.
            TypeError, ValueError: An option cannot be meant.
        """
        definition = self.definition(workflow)
        name = definition.name if definition is not None else checked_name(workflow, "workflow")
        sealed, counts_as = self._sealed_input(definition, name, input)
        scope = scopes.current()
        derived = False
        if id is not None:
            ids.check_id(id)
        elif scope is not None and not scope.in_handler:
            id, derived = scope.derive_id(), True
        else:
            id = self.new_id()
        if scope is not None and parent is None:
            parent, parent_path = scope.execution.id, scope.path or None
        return Start(
            id=id,
            workflow=name,
            input=sealed.tree,
            blobs=sealed.blobs,
            key=None if key is None else _text(key, "key"),
            delay=0 if delay is None else durations.micros(delay, "delay"),
            deadline=None if definition is None else definition.deadline_micros,
            tags=checked_tags(tags),
            conversation=None if conversation is None else _text(conversation, "conversation"),
            parent=parent,
            parent_path=parent_path,
            seed=os.urandom(8).hex(),
            actor=asked_by(actor),
            cause=cause_here(),
            known=name in self._workflows,
            others=() if name in self._workflows else tuple(self._workflows),
            derived=derived,
            counts_as=counts_as,
        )

    def get_or_create(
        self,
        workflow: Workflow[Any, Any] | str,
        *,
        key: str,
        statuses: Iterable[Status | str],
        **options: Any,
    ) -> GetOrCreate:
        """A get-or-create; `options` are those of `start`."""
        return GetOrCreate(self.start(workflow, key=_text(key, "key"), **options), checked_statuses(statuses))

    def _sealed_input(
        self, definition: Workflow[Any, Any] | None, name: str, input: Any
    ) -> tuple[Sealed, tuple[str, str] | None]:
        """The input ready to be recorded, and what it counts as where the workflow's concurrency has a key."""
        where = f"input of workflow {name!r}"
        if definition is None:
            return self._values.seal(input, where), None
        fitting = definition.validate_input(input)
        field = None if definition.concurrency is None else definition.concurrency.key
        counts_as = None if field is None else (field, slot_value(fitting, field))
        return self._values.seal(fitting, where, definition.input_type), counts_as

    def definition(self, workflow: object) -> Workflow[Any, Any] | None:
        """The workflow that a caller names; None where this engine knows the name alone.

        Raises:
            TypeError: It is neither a workflow nor a name.
        """
        if is_a(workflow, Workflow):
            return cast("Workflow[Any, Any]", workflow)
        if isinstance(workflow, str):
            return self._workflows.get(workflow)
        hint = "; decorate it with @workflow" if callable(workflow) else ""
        raise TypeError(f"{shown(workflow)} is no workflow{hint}; pass a Workflow or a workflow's name")

    def new_id(self) -> str:
        """A fresh id that sorts by time."""
        return ids.new_id(self._now() // 1_000, os.urandom(10))

    # -- To one instance ---------------------------------------------------------------------------------------------

    def send(
        self,
        instance: str,
        event: str | Event[Any],
        payload: Any = None,
        *,
        id: str | None = None,
        actor: str | None = None,
    ) -> Ask:
        """An event for one instance."""
        name, sealed = self._sealed_payload(event, payload)
        if id is not None:
            ids.check_id(id, "event id")
        command = decide.Send(
            event=name, payload=sealed.tree, id=id, actor=asked_by(actor), cause=cause_here()
        )
        return Ask(instance, command, sealed.blobs)

    def provide(
        self,
        request: DataRequest | str,
        data: Any,
        *,
        workflow: Workflow[Any, Any] | str | None = None,
        actor: str | None = None,
    ) -> Ask | Answer:
        """An answer to an open request, validated against its declared type where that is known here.

        Args:
            request: The request, or its id; that is looked up, and the data validated, when the command is run.
            data: The answer.
            workflow: The workflow whose request it must be, or its name.
            actor: Who answers.

        Raises:
            InvalidData: The data does not fit.
            WrongWorkflow: The request is another workflow's.
        """
        actor, cause = asked_by(actor), cause_here()

        def answer(asked: DataRequest) -> Ask:
            return self._answer(asked, data, workflow, actor, cause)

        if isinstance(request, DataRequest):
            return answer(request)
        id = _text(request, "request")
        return Answer(
            id, lambda row: answer(DataRequest(id=row[0], instance=row[1], workflow=row[2], name=row[3]))
        )

    def _answer(
        self,
        request: DataRequest,
        data: Any,
        workflow: Workflow[Any, Any] | str | None,
        actor: str | None,
        cause: dict[str, str] | None,
    ) -> Ask:
        definition = None if workflow is None else self.definition(workflow)
        expected = workflow if definition is None else definition.name
        if isinstance(expected, str) and expected != request.workflow:
            raise WrongWorkflow(request.instance, expected=expected, actual=request.workflow)
        type_ = self._request_type(request, definition)
        if type_ is not ABSENT:
            try:
                data = fitted(type_, data)
            except ValidationError as error:
                raise InvalidData(request.name, explained(error)) from error
        sealed = self._values.seal(data, f"data for request {request.name!r}", type_)
        command = decide.Provide(id=request.id, data=sealed.tree, actor=actor, cause=cause)
        return Ask(request.instance, command, sealed.blobs)

    def _request_type(self, request: DataRequest, workflow: Workflow[Any, Any] | None) -> Any:
        definition = workflow or self._workflows.get(request.workflow)
        if definition is not None and request.name in definition.requests:
            return definition.requests[request.name]
        return self.request_types.get((request.workflow, request.name), ABSENT)

    def cancel(self, instance: str, reason: str | None = None, *, actor: str | None = None) -> Ask:
        """A cancellation."""
        return Ask(
            instance, decide.Cancel(reason=checked_reason(reason), actor=asked_by(actor), cause=cause_here())
        )

    def pause(self, instance: str, reason: str | None = None, *, actor: str | None = None) -> Ask:
        """A pause."""
        return Ask(
            instance, decide.Pause(reason=checked_reason(reason), actor=asked_by(actor), cause=cause_here())
        )

    def resume(self, instance: str, *, actor: str | None = None) -> Ask:
        """The end of a pause."""
        return Ask(instance, decide.Resume(actor=asked_by(actor), cause=cause_here()))

    def set_timeout(
        self, instance: str, in_: Duration | None = None, at: Any = None, *, actor: str | None = None
    ) -> Ask:
        """Another moment at which it times out.

        Raises:
            TypeError: Not exactly one of `in_` and `at`.
            ValueError: A naive or past moment, or a duration that cannot be meant.
        """
        if (in_ is None) == (at is None):
            raise TypeError("set_timeout takes exactly one of in_= (a duration) and at= (an aware datetime)")
        now = self._now()
        if in_ is not None:
            deadline = now + durations.micros(in_, "in_")
        else:
            deadline = micros_of(at, "at")
            # On a replay of a handler the moment may have passed since it was recorded.
            if deadline <= now and scopes.current() is None:
                raise ValueError(f"at is {at!r}, which has passed; it must be in the future")
        command = decide.SetDeadline(deadline=deadline, actor=asked_by(actor), cause=cause_here())
        return Ask(instance, command)

    def retry(self, instance: str, workflow: str, *, actor: str | None = None) -> RetryInstance:
        """A retry of an instance of this workflow."""
        definition = self._workflows.get(workflow)
        return RetryInstance(
            instance,
            actor=asked_by(actor),
            cause=cause_here(),
            lifetime=None if definition is None else definition.deadline_micros,
            known=definition is not None,
        )

    # -- To whoever it concerns --------------------------------------------------------------------------------------

    def publish(
        self,
        event: str | Event[Any],
        payload: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        actor: str | None = None,
    ) -> Publish:
        """A published event."""
        name, sealed = self._sealed_payload(event, payload)
        if id is None:
            scope = scopes.current()
            # A retried step's function publishes the same event again, not a second one.
            id = scope.derive_id() if scope is not None and not scope.in_handler else self.new_id()
        return Publish(
            event=name,
            id=ids.check_id(id, "event id"),
            payload=sealed.tree,
            blobs=sealed.blobs,
            key=None if key is None else _text(key, "key"),
            actor=asked_by(actor),
            cause=cause_here(),
        )

    def _sealed_payload(self, event: object, payload: Any) -> tuple[str, Sealed]:
        if is_a(event, Event):
            typed = cast("Event[Any]", event)
            fitting = typed.validate(payload)
            return typed.name, self._values.seal(fitting, f"payload of event {typed.name!r}", typed.type)
        name = checked_name(event, "event")
        return name, self._values.seal(payload, f"payload of event {name!r}")


def checked_statuses(statuses: object) -> frozenset[Status]:
    """One status or several, by name or as `Status`.

    Raises:
        TypeError: It is neither.
        ValueError: There is no such status.
    """
    if isinstance(statuses, str):
        return frozenset((_status(statuses),))
    if not is_a(statuses, Iterable):
        raise TypeError(f"statuses is {shown(statuses)}; it must be a Status or several")
    several = cast("Iterable[Any]", statuses)
    return frozenset(_status(status) for status in several)


def _status(status: Any) -> Status:
    try:
        return Status(status)
    except ValueError:
        raise ValueError(
            f"there is no status {status!r}; the statuses are {', '.join(map(str, Status))}"
        ) from None


def checked_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """The tags without repetitions, in the order given.

    Raises:
        TypeError: It is one text, or not iterable, or holds something else than texts.
        ValueError: A tag is empty or longer than 200 characters.
    """
    if tags is None:
        return ()
    if isinstance(tags, str):
        raise TypeError(f"tags is the text {tags!r}; it must be several, such as [{tags!r}]")
    return tuple(dict.fromkeys(_text(tag, "tag") for tag in tags))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {shown(value)}; it must be a str")
    if not value or len(value) > TEXT_CHARS_MAX:
        raise ValueError(f"{what} is {shown(value)}; it must have 1 to {TEXT_CHARS_MAX} characters")
    if (found := ids.flaw(value)) is not None:
        raise ValueError(f"{what} is {shown(value)}; it must not hold {found}")
    return value


def checked_reason(reason: object) -> str | None:
    """A reason, if it is a text or none."""
    if reason is None:
        return None
    if isinstance(reason, str):
        return ids.flawless(reason)
    raise TypeError(f"reason is {shown(reason)}; it must be a str")


def cause_here() -> dict[str, str] | None:
    """The handler or step this is asked from, else the trace of this context."""
    scope = scopes.current()
    if scope is None:
        return current_cause()
    return (
        {"instance": scope.execution.id, "path": scope.path}
        if scope.path
        else {"instance": scope.execution.id}
    )
