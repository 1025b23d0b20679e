"""`Workflow`: a handler, what it declares, and the calls that start it and find its instances.

A `Workflow` is a definition: it knows no log and no engine, is made once where the handler is defined and never
changes. Its async methods look up the engine that is meant (`wfes.ambient`) at each call and hand themselves to it,
so one definition serves any number of engines.

Every mistake that can be seen in the definition is raised there; what depends on names that do not exist yet is
checked by `check`, at the latest when an engine gets the workflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from pydantic import BaseModel, ValidationError

from wfes.ambient import current_engine
from wfes.core.durations import Duration
from wfes.core.state import ACTIVE, Status
from wfes.errors import InvalidData, InvalidInput, UnknownRequest
from wfes.options import RawOptions
from wfes.signature import Signature, digest, place
from wfes.validation import complete_adapter, explained, fitted, shown

if TYPE_CHECKING:
    from wfes.instance import Instance
    from wfes.views import DataRequest

Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class _Getter(Protocol[Out_co]):
    """`Workflow.get`, of the class or of one workflow."""

    async def __call__(self, id: str) -> Instance[Out_co]:
        """The instance with this id."""
        ...


class _Get:
    """Makes `Workflow.get(id)` and `checkout.get(id)` two calls: any instance, and one of this workflow."""

    @overload
    def __get__(self, workflow: None, owner: type[Any]) -> _Getter[Any]: ...

    @overload
    def __get__(self, workflow: Workflow[Any, Out], owner: type[Any]) -> _Getter[Out]: ...

    def __get__(self, workflow: Workflow[Any, Any] | None, owner: type[Any]) -> _Getter[Any]:
        async def get(id: str) -> Instance[Any]:
            """The instance with this id.

            Raises:
                InstanceNotFound: There is none.
                WrongWorkflow: It is another workflow's (asked of one workflow only).
            """
            instance: Instance[Any] = await current_engine().get(workflow, id)
            return instance

        return get


class Workflow(Generic[In_contra, Out_co]):
    """A workflow's definition; `@workflow` makes it.

    Attributes:
        name: Its name, unique within an engine.
        description: What it does, in a sentence or two.
        handler: The function. Calling the workflow itself calls it, which is handy in unit tests.
        module, qualname, place: Where the handler is defined.
        schedules: When it starts by itself.
        timeout_micros: Bound on handler code between two events, and default of its steps, in microseconds.
        deadline_micros: Bound on an instance's whole life, in microseconds.
        retention_micros: How long an ended instance's history stays in the log, in microseconds.
        requests: The data its handler may ask for: name → type.
        state_type: The model of its recorded state.
        on: Names of the published events that start an instance.
        retry: The default of its steps.
        concurrency: How many instances run at a time.
        version: The author's label of this code.
        digest: SHA-256 of the handler's source, in hex.
    """

    get = _Get()

    def __init__(self, signature: Signature, raw: RawOptions) -> None:
        """See `workflow`, which is how a workflow is made."""
        handler = cast(Any, signature.handler)
        options = raw.checked(handler.__name__, handler.__doc__)
        self.__doc__ = handler.__doc__
        self.handler: Callable[..., Coroutine[Any, Any, Out_co]] = handler
        self.module: str = handler.__module__
        self.qualname: str = handler.__qualname__
        self.place = place(handler)
        self.name = options.name
        self.description = options.description
        self.schedules = options.schedules
        self.timeout_micros = options.timeout_micros
        self.deadline_micros = options.deadline_micros
        self.retention_micros = options.retention_micros
        self.requests = options.requests
        self.state_type = options.state_type
        self.on = options.on
        self.retry = options.retry
        self.concurrency = options.concurrency
        self.version = options.version
        self.digest = digest(handler)
        self._signature = signature
        if signature.wants("state") and options.state_type is None:
            raise TypeError(
                f"{self.place} has the parameter 'state', and its workflow declares none; "
                "use @workflow(state=Model) with a pydantic model whose fields have defaults"
            )
        if signature.resolved:
            self.check()

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r} of {self.place}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Out_co]:
        """Calls the handler itself: no instance, nothing recorded."""
        return self.handler(*args, **kwargs)

    # -- Types -------------------------------------------------------------------------------------------------------

    @property
    def has_input(self) -> bool:
        """Whether the handler takes an input."""
        return self._signature.input_name is not None

    @property
    def input_type(self) -> Any:
        """The type of the input: `Any` without an annotation, `NoneType` where there is no input."""
        return self._signature.input_type if self.has_input else NoneType

    @property
    def output_type(self) -> Any:
        """The type of the output: `Any` without an annotation."""
        return self._signature.output_type

    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the input; `{}` where any JSON value is accepted."""
        return complete_adapter(self.input_type).json_schema(mode="validation")

    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of the output; `{}` where any JSON value may come."""
        return complete_adapter(self.output_type).json_schema(mode="serialization")

    def wants(self, name: str) -> bool:
        """Whether the handler has this reserved parameter: `step`, `state`, `workflow` or `execute`."""
        return self._signature.wants(name)

    def check(self) -> None:
        """Resolves annotations that could not be resolved yet, and checks what depends on them.

        Called at decoration where all names were known by then, and by an engine that gets the workflow.

        Raises:
            TypeError: A name in an annotation, or in one of its type's fields, is not defined.
            ValueError: A schedule's input does not fit, or `concurrency` names a field that the input has not.
        """
        input_type = self.input_type
        complete_adapter(input_type)
        complete_adapter(self.output_type)
        for schedule in self.schedules:
            try:
                self.validate_input(schedule.input)
            except InvalidInput as error:
                raise ValueError(
                    f"schedule {schedule.cron!r} of workflow {self.name!r}: its input {shown(schedule.input)} does "
                    f"not fit: {error.detail}; use Schedule({schedule.cron!r}, input=...)"
                ) from error
        key = None if self.concurrency is None else self.concurrency.key
        if key is None or not (isinstance(input_type, type) and issubclass(input_type, BaseModel)):
            return
        if key not in input_type.model_fields:
            raise ValueError(
                f"concurrency of workflow {self.name!r} counts by {key!r}, which is no field of "
                f"{input_type.__qualname__}; it has {', '.join(map(repr, input_type.model_fields)) or 'none'}"
            )

    def validate_input(self, value: Any) -> Any:
        """The value as an input of this workflow: of the input type, which a dict may be given for.

        Raises:
            InvalidInput: It does not fit, or there is one where none is taken.
        """
        if not self.has_input:
            if value is not None:
                raise InvalidInput(self.name, f"it takes no input, not {shown(value)}")
            return None
        try:
            return fitted(self.input_type, value)
        except ValidationError as error:
            raise InvalidInput(self.name, explained(error)) from error

    def validate_output(self, value: Any) -> Out_co:
        """The value as an output of this workflow.

        Raises:
            InvalidData: It does not fit.
        """
        try:
            return cast(Out_co, fitted(self.output_type, value))
        except ValidationError as error:
            raise InvalidData(self.name, explained(error), kind="output of workflow") from error

    def validate_data(self, request: str, data: Any) -> Any:
        """The data as an answer to a declared request.

        Raises:
            UnknownRequest: The workflow declares no request of this name.
            InvalidData: It does not fit the declared type.
        """
        if request not in self.requests:
            raise UnknownRequest(request, self.name, self.requests)
        try:
            return fitted(self.requests[request], data)
        except ValidationError as error:
            raise InvalidData(request, explained(error)) from error

    def bind(
        self, input: Any, *, step: Any, state: Any = None, workflow: Any = None, execute: Any = None
    ) -> Coroutine[Any, Any, Out_co]:
        """The handler's coroutine, not started, with as many of these as its signature has."""
        available = {"step": step, "state": state, "workflow": workflow, "execute": execute}
        return self._signature.call(input, available)

    # -- Instances ---------------------------------------------------------------------------------------------------

    @overload
    async def start(
        self: Workflow[None, Out], input: None = None, **options: Unpack[_StartOptions]
    ) -> Instance[Out]: ...

    @overload
    async def start(self, input: In_contra, **options: Unpack[_StartOptions]) -> Instance[Out_co]: ...

    async def start(
        self,
        input: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> Instance[Any]:
        """Starts an instance; returns once that is durable.

        Args:
            input: The handler's input, of its input type (or a dict for a model).
            id: The instance's id; default: a new one. An id is never used again.
            key: What the instance is about, such as an order's number.
            delay: A duration before it first runs.
            tags: Labels to find it by.
            conversation: The conversation it belongs to.
            actor: Who asked.
            connection: A database connection of your own to the log's database, whose transaction the start becomes
                part of: a `sqlite3.Connection` to the same file, or a psycopg connection, sync or async. The
                instance appears when you commit; until then its handle raises `InstanceNotFound`.

        Returns:
            The new instance, or the one that has this id already, if workflow and input are the same.

        Raises:
            InvalidInput: The input does not fit; nothing is recorded.
            InstanceExists: The id is another workflow's, or has another input.
            EngineNotOpen: No engine is meant here.
        """
        instance: Instance[Any] = await current_engine().start(
            self,
            input,
            id=id,
            key=key,
            delay=delay,
            tags=tags,
            conversation=conversation,
            actor=actor,
            connection=connection,
        )
        return instance

    @overload
    async def get_or_create(
        self: Workflow[None, Out],
        *,
        key: str,
        input: None = None,
        statuses: Collection[Status] = ...,
        **options: Unpack[_CreateOptions],
    ) -> Instance[Out]: ...

    @overload
    async def get_or_create(
        self,
        *,
        key: str,
        input: In_contra,
        statuses: Collection[Status] = ...,
        **options: Unpack[_CreateOptions],
    ) -> Instance[Out_co]: ...

    async def get_or_create(
        self,
        *,
        key: str,
        input: Any = None,
        statuses: Collection[Status] = ACTIVE,
        id: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> Instance[Any]:
        """The newest instance of this workflow and key that has one of these statuses, else a new one.

        Safe against any number of concurrent callers, in any number of processes: they get the same instance.

        Args:
            key: What the instance is about.
            input: The new instance's input, where there is one to make.
            statuses: Which instances will do; default: those that are not over.
            id: As for `start`, for the instance it may make; so are the rest.
            delay: See `start`.
            tags: See `start`.
            conversation: See `start`.
            actor: See `start`.
            connection: Refused: which instance it is turns out only after your commit.

        Raises:
            InvalidInput: The input does not fit; nothing is recorded.
            EngineNotOpen: No engine is meant here.
        """
        if connection is not None:
            raise TypeError(NO_CONNECTION)
        instance: Instance[Any] = await current_engine().get_or_create(
            self,
            key=key,
            input=input,
            statuses=statuses,
            id=id,
            delay=delay,
            tags=tags,
            conversation=conversation,
            actor=actor,
        )
        return instance

    async def provide(
        self, request: DataRequest, data: Any, *, actor: str | None = None, connection: Any = None
    ) -> None:
        """Answers a data request of one of this workflow's instances; the first answer wins.

        Args:
            request: The request, as `engine.requests()` lists it.
            data: The answer, of the request's declared type.
            actor: Who answers.
            connection: A database connection of your own whose transaction the answer becomes part of; see `start`.

        Raises:
            InvalidData: The data does not fit; nothing is recorded, and the request stays open.
            RequestNotPending: It was answered, it expired, or its instance is over.
            EngineNotOpen: No engine is meant here.
        """
        await current_engine().provide(self, request, data, actor=actor, connection=connection)


NO_CONNECTION = (
    "get_or_create takes no connection=: which instance it is turns out only after your commit; use "
    "start(..., key=..., connection=...)"
)


class _CreateOptions(TypedDict, total=False):
    """What `start` and `get_or_create` both take beside the input and the key."""

    id: str | None
    delay: Duration | None
    tags: Iterable[str] | None
    conversation: str | None
    actor: str | None


class _StartOptions(_CreateOptions, total=False):
    """What `start` takes beside the input."""

    key: str | None
    connection: Any
