"""`@workflow`: names, options, signatures and types, each mistake with its own error where it is made."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from wfes import ambient
from wfes.core.retry import Retry
from wfes.core.state import ACTIVE
from wfes.errors import EngineNotOpen, InvalidData, InvalidInput, UnknownRequest
from wfes.names import Event, Request
from wfes.options import Concurrency
from wfes.schedule import Schedule
from wfes.signature import digest
from wfes.workflow import Workflow, workflow

if TYPE_CHECKING:
    from wfes.engine import Engine
    from wfes.handler.step import Step

MINUTE = 60_000_000


class Order(BaseModel):
    order_id: str
    items: list[str] = []


class Receipt(BaseModel):
    order_id: str
    total: float


class Draft(BaseModel):
    text: str = ""
    pages: int = 0


@workflow
async def checkout(order: Order, step: Step) -> Receipt:
    """Charges an order,
    and ships it.

    More about it.
    """
    return Receipt(order_id=order.order_id, total=1.0)


@workflow
async def early(value: DefinedLater) -> DefinedLater:
    return value


class DefinedLater(BaseModel):
    number: int


class Parcel(BaseModel):
    content: Content


@workflow(schedule=Schedule("0 0 * * *", input={"content": {"grams": "5"}}))
async def pack(parcel: Parcel) -> list[Parcel]:
    return [parcel]


class Content(BaseModel):
    grams: int


class Broken(BaseModel):
    content: NeverDefined  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@workflow
async def break_it(value: Broken) -> None: ...


# -- Names and options -----------------------------------------------------------------------------------------------


def test_the_name_and_description_come_from_the_function() -> None:
    @workflow
    async def send_monthly_report() -> None: ...

    assert send_monthly_report.name == "send-monthly-report"
    assert send_monthly_report.description == ""
    assert checkout.description == "Charges an order, and ships it."
    assert checkout.module == __name__
    assert checkout.place == f"{__name__}.checkout"
    assert repr(checkout) == f"<Workflow 'checkout' of {__name__}.checkout>"


def test_options_are_kept_in_engine_units() -> None:
    retry = Retry(max_attempts=2)

    @workflow(
        name="Order/2",
        description="Its own words",
        schedule=["0 7 * * *", Schedule("*/5 * * * * 30", timezone="Europe/Berlin")],
        timeout="1h30m",
        deadline=timedelta(days=2),
        requests={"approval": bool, "note": str | None},
        state=Draft,
        on=["paid", Event("order.paid", int), "paid"],
        retry=retry,
        concurrency=3,
        retention="2w",
        version="7",
    )
    async def h(step: Step, state: Draft) -> None: ...

    assert (h.name, h.description) == ("Order/2", "Its own words")
    assert [one.cron for one in h.schedules] == ["0 7 * * *", "*/5 * * * * 30"]
    assert (h.timeout_micros, h.deadline_micros) == (90 * MINUTE, 2 * 24 * 60 * MINUTE)
    assert h.retention_micros == 14 * 24 * 60 * MINUTE
    assert dict(h.requests) == {"approval": bool, "note": str | None}
    assert h.state_type is Draft
    assert h.on == ("paid", "order.paid")
    assert h.retry is retry
    assert h.concurrency == Concurrency(3)
    assert h.version == "7"


def test_defaults() -> None:
    assert checkout.timeout_micros == 5 * MINUTE
    assert checkout.deadline_micros is None
    assert checkout.retention_micros is None
    assert checkout.schedules == ()
    assert dict(checkout.requests) == {}
    assert checkout.state_type is None
    assert checkout.on == ()
    assert checkout.retry == Retry()
    assert checkout.concurrency is None
    assert checkout.version is None

    @workflow(timeout=None)
    async def unbounded() -> None: ...

    assert unbounded.timeout_micros is None


def test_workflow_takes_function_and_options_at_once() -> None:
    async def h(x: int) -> int:
        return x

    assert workflow(h, name="other").name == "other"


class NoDefault(BaseModel):
    text: str = ""
    count: int
    kind: str


class BadDefault(BaseModel):
    count: Annotated[int, Field(validate_default=True, gt=5)] = 1


class Unknowable:
    pass


@pytest.mark.parametrize(
    ("options", "kind", "texts"),
    [
        ({"name": ""}, ValueError, ["workflow's name", "empty"]),
        ({"name": "x" * 201}, ValueError, ["200", "201"]),
        ({"name": "a\ud800"}, ValueError, ["surrogates"]),
        ({"name": 7}, TypeError, ["workflow's name", "7"]),
        ({"description": 7}, TypeError, ["description", "7"]),
        ({"timeout": "-5m"}, ValueError, ["timeout", "-5m"]),
        ({"timeout": "soon"}, ValueError, ["timeout", "soon"]),
        ({"deadline": -1}, ValueError, ["deadline", "-1"]),
        ({"retention": "5 parsecs"}, ValueError, ["retention", "parsecs"]),
        ({"schedule": "every day"}, ValueError, ["cron", "every day", "five fields"]),
        ({"schedule": "61 * * * *"}, ValueError, ["cron", "61 * * * *"]),
        ({"schedule": "0 0 30 2 *"}, ValueError, ["cron", "no tick"]),
        ({"schedule": "R R * * *"}, ValueError, ["cron", "random"]),
        ({"schedule": 5}, TypeError, ["schedule", "5"]),
        ({"schedule": ["* * * * *", None]}, TypeError, ["schedule", "None"]),
        ({"requests": {"": bool}}, ValueError, ["request's name", "empty"]),
        ({"requests": {"a/b": bool}}, ValueError, ["request's name", "a/b", "'/'"]),
        ({"requests": {"a#2": bool}}, ValueError, ["request's name", "'#'"]),
        ({"requests": {"a": Unknowable}}, TypeError, ["request 'a'", "Unknowable", "pydantic"]),
        ({"requests": ["approval"]}, TypeError, ["requests", "mapping"]),
        ({"state": NoDefault}, TypeError, ["'count', 'kind'", "NoDefault", "default"]),
        ({"state": BadDefault}, TypeError, ["BadDefault", "count"]),
        ({"state": dict}, TypeError, ["state", "dict", "pydantic model"]),
        ({"state": Draft()}, TypeError, ["state", "model class"]),
        ({"on": 5}, TypeError, ["on", "5"]),
        ({"on": [""]}, ValueError, ["event's name", "empty"]),
        ({"retry": 3}, TypeError, ["retry", "3", "Retry("]),
        ({"concurrency": 0}, ValueError, ["concurrency", "0"]),
        ({"concurrency": True}, TypeError, ["concurrency", "True"]),
        ({"concurrency": Concurrency(1, key="customer")}, ValueError, ["'customer'", "'order_id'"]),
        ({"version": ""}, ValueError, ["version"]),
        ({"version": 2}, TypeError, ["version", "2"]),
    ],
)
def test_a_wrong_option_is_refused_at_decoration(
    options: dict[str, Any], kind: type[Exception], texts: list[str]
) -> None:
    async def h(order: Order) -> None: ...

    with pytest.raises(kind) as caught:
        workflow(**options)(h)
    for text in texts:
        assert text in str(caught.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="retries"):
        cast(Any, workflow)(retries=3)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ({"timezone": "Mars/Olympus"}, ["timezone", "Mars/Olympus"]),
        ({"timezone": "../etc/passwd"}, ["timezone"]),
        ({"timezone": ""}, ["timezone"]),
        ({"overlap": "maybe"}, ["overlap", "maybe", "'skip'"]),
        ({"jitter": -1}, ["jitter", "-1"]),
        ({"catch_up": "all"}, ["catch_up", "all"]),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(arguments: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Schedule("* * * * *", **arguments)
    for text in texts:
        assert text in str(caught.value)


def test_a_schedule_in_engine_units() -> None:
    assert Schedule("* * * * *").catch_up_micros is None
    assert Schedule("* * * * *", catch_up=None).catch_up_micros == 0
    assert Schedule("* * * * *", catch_up="1m", jitter="2m").catch_up_micros == MINUTE
    assert Schedule("* * * * *", jitter="2m").jitter_micros == 2 * MINUTE


def test_a_schedules_input_is_checked_against_the_input_type() -> None:
    fitting = workflow(schedule=Schedule("0 * * * *", input={"order_id": "o-1"}))(checkout.handler)
    assert fitting.schedules[0].input == {"order_id": "o-1"}
    for wrong in ("0 * * * *", Schedule("0 * * * *", input=3)):
        with pytest.raises(ValueError, match="schedule '0 \\* \\* \\* \\*' of workflow 'checkout'"):
            workflow(schedule=wrong)(checkout.handler)


# -- Signatures ------------------------------------------------------------------------------------------------------


async def _no_parameter() -> int:
    return 1


async def _only_reserved(workflow: Any, step: Step) -> int:
    return 1


async def _positional_only(order: Order, step: Step, /) -> int:
    return 1


async def _keyword_reserved(order: Order, *, step: Step, state: Draft) -> int:
    return 1


@pytest.mark.parametrize(
    ("handler", "input_type", "wanted"),
    [
        (_no_parameter, types.NoneType, []),
        (_only_reserved, types.NoneType, ["step", "workflow"]),
        (_positional_only, Order, ["step"]),
        (_keyword_reserved, Order, ["step", "state"]),
    ],
)
def test_reserved_names_are_filled_in_and_the_first_other_is_the_input(
    handler: Callable[..., Any], input_type: Any, wanted: list[str]
) -> None:
    defined = workflow(state=Draft)(handler)
    assert defined.input_type is input_type
    assert [name for name in ("step", "state", "workflow", "execute") if defined.wants(name)] == wanted


def test_bind_passes_what_the_signature_wants() -> None:
    @workflow(state=Draft)
    async def h(order: str, workflow: Any, *, state: Any, step: Any, execute: Any) -> Any:
        return order, step, state, workflow, execute

    coroutine = h.bind("in", step=1, state=2, workflow=3, execute=4)
    assert asyncio.run(coroutine) == ("in", 1, 2, 3, 4)

    @workflow
    async def bare() -> Any:
        return "ran"

    assert asyncio.run(bare.bind(None, step=1)) == "ran"


def test_calling_a_workflow_calls_its_handler() -> None:
    receipt = asyncio.run(checkout(Order(order_id="o-1"), None))
    assert receipt == Receipt(order_id="o-1", total=1.0)


async def _second_input(order: Order, count: int) -> None: ...


async def _extra_default(order: Order, step: Step, dry_run: bool = False) -> None: ...


async def _after_reserved(step: Step, order: Order) -> None: ...


async def _star(order: Order, *rest: int) -> None: ...


async def _star_star(order: Order, **options: int) -> None: ...


async def _keyword_input(*, order: Order) -> None: ...


async def _default_input(order: Order | None = None) -> None: ...


async def _state_undeclared(state: Draft) -> None: ...


def _plain(order: Order) -> None: ...


async def _generator(order: Order) -> AsyncIterator[int]:
    yield 1


class Holder:
    async def method(self, order: Order) -> None: ...

    async def __call__(self, order: Order) -> None: ...


WRONG_HANDLERS: list[tuple[Any, list[str]]] = [
    (_second_input, ["_second_input", "'count'", "`step`, `state`, `workflow`, `execute`"]),
    (_extra_default, ["'dry_run'"]),
    (_after_reserved, ["'order'", "input first"]),
    (_star, ["'*rest'"]),
    (_star_star, ["'**options'"]),
    (_keyword_input, ["keyword-only", "'order'"]),
    (_default_input, ["default", "'order'"]),
    (_state_undeclared, ["'state'", "state=Model"]),
    (_plain, ["not async", "async def _plain("]),
    (_generator, ["async generator", "step.progress"]),
    (Holder, ["Holder is a class"]),
    (Holder().method, ["Holder.method is a bound method"]),
    (Holder.method, ["is a method"]),
    (Holder(), ["not an async function"]),
    (functools.partial(_no_parameter), ["is a partial"]),
    (staticmethod(_no_parameter), ["belongs to a class"]),
    (7, ["7 is not a function"]),
    ("checkout", ["'checkout' is not a function"]),
    (checkout, ["is a workflow already"]),
]


@pytest.mark.parametrize(("handler", "texts"), WRONG_HANDLERS)
def test_what_is_no_handler_is_refused_saying_what_would_be_right(handler: Any, texts: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        workflow(handler)
    for text in texts:
        assert text in str(caught.value)


# -- Types -----------------------------------------------------------------------------------------------------------


def test_types_are_those_of_the_annotations() -> None:
    assert (checkout.input_type, checkout.output_type) == (Order, Receipt)
    assert checkout.input_schema()["required"] == ["order_id"]
    assert checkout.output_schema()["title"] == "Receipt"

    @workflow
    async def typed(x: Any) -> Any:
        return x

    untyped = cast(Any, typed.handler)
    untyped.__annotations__.clear()
    anything = cast("Workflow[Any, Any]", workflow(untyped))

    assert (anything.input_type, anything.output_type) == (Any, Any)
    assert (anything.input_schema(), anything.output_schema()) == ({}, {})

    @workflow
    async def nothing() -> None: ...

    assert nothing.input_schema() == {"type": "null"}
    assert nothing.output_type is types.NoneType


def test_annotated_types_keep_their_constraints() -> None:
    @workflow
    async def h(count: Annotated[int, Field(gt=0)]) -> Annotated[int, Field(lt=10)]:
        return count

    assert h.validate_input(1) == 1
    with pytest.raises(InvalidInput, match="greater than 0"):
        h.validate_input(0)
    with pytest.raises(InvalidData, match="less than 10"):
        h.validate_output(10)


def test_types_defined_inside_a_function_are_found() -> None:
    class Local(BaseModel):
        number: int

    @workflow
    async def h(value: Local) -> list[Local]:
        return [value]

    assert h.input_type is Local
    assert h.output_type == list[Local]


def test_a_type_defined_later_is_found_when_it_is_needed() -> None:
    early.check()
    assert early.input_type is DefinedLater
    assert early.validate_input({"number": 1}) == DefinedLater(number=1)


def test_a_models_fields_may_be_defined_later() -> None:
    pack.check()
    assert pack.validate_input({"content": {"grams": 1}}) == Parcel(content=Content(grams=1))
    assert pack.output_schema()["type"] == "array"
    for use in (break_it.check, break_it.input_schema, lambda: break_it.validate_input({})):
        with pytest.raises(TypeError, match=r"Broken.*'NeverDefined' is not defined"):
            use()


def test_a_type_never_defined_is_named() -> None:
    @workflow
    async def h(
        value: Missing,  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
    ) -> None: ...

    with pytest.raises(
        TypeError, match=r"annotation 'Missing' of parameter 'value' of handler .*\.h cannot be res"
    ):
        h.check()


def test_a_type_pydantic_cannot_validate_is_refused() -> None:
    async def takes(value: Unknowable) -> None: ...

    async def returns() -> Unknowable:
        return Unknowable()

    with pytest.raises(TypeError, match=r"parameter 'value' .*Unknowable"):
        workflow(takes)
    with pytest.raises(TypeError, match=r"return value .*Unknowable"):
        workflow(returns)


def test_input_is_validated_as_instance_or_dict() -> None:
    order = Order(order_id="o-1", items=["tea"])
    assert checkout.validate_input(order) == order
    assert checkout.validate_input({"order_id": "o-1", "items": ["tea"]}) == order
    with pytest.raises(InvalidInput) as caught:
        checkout.validate_input({"items": [1, "cup"]})
    text = str(caught.value)
    assert "'checkout'" in text
    assert "order_id: Field required" in text
    assert "items.0: Input should be a valid string, not 1" in text
    with pytest.raises(InvalidInput):
        checkout.validate_input(None)


def test_long_values_and_many_problems_are_shortened() -> None:
    with pytest.raises(InvalidInput) as caught:
        checkout.validate_input({"order_id": "x", "items": [["y" * 1000]] * 100})
    assert "and 95 more" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_workflow_without_input_takes_none() -> None:
    @workflow
    async def h(step: Step) -> None: ...

    assert h.validate_input(None) is None
    with pytest.raises(InvalidInput, match="takes no input, not 3"):
        h.validate_input(3)


def test_output_and_data_are_validated() -> None:
    @workflow(requests={"approval": bool})
    async def h() -> dict[str, int]:
        return {}

    assert h.validate_output({"a": 1}) == {"a": 1}
    with pytest.raises(InvalidData, match="output of workflow 'h'"):
        h.validate_output("no")
    assert h.validate_data("approval", True) is True
    with pytest.raises(InvalidData, match="request 'approval'"):
        h.validate_data("approval", "perhaps")
    with pytest.raises(UnknownRequest, match=r"'signature'.*'approval'"):
        h.validate_data("signature", True)


def test_dataclasses_are_types_too() -> None:
    @dataclass
    class Point:
        x: int
        y: int = 0

    @workflow
    async def h(point: Point) -> Point:
        return point

    assert h.validate_input({"x": 1}) == Point(1)
    assert h.validate_input(Point(1, 2)) == Point(1, 2)


# -- Digest ----------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_source() -> None:
    again = workflow(name="again")(checkout.handler)
    assert again.digest == checkout.digest
    assert len(checkout.digest) == 64
    assert early.digest != checkout.digest


def _made(source: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["h"]


def test_without_source_the_digest_is_that_of_the_bytecode() -> None:
    first = "async def h(x):\n    f = lambda: x in {1, 2, 'a', 'b'}\n    return f()"
    with pytest.raises(OSError):
        inspect.getsource(_made(first))
    assert digest(_made(first)) == digest(_made(first))
    assert digest(_made(first)) != digest(_made(first.replace("'a'", "'c'")))


# -- Event and Request -----------------------------------------------------------------------------------------------


def test_typed_names_are_frozen_and_compared_by_name_and_type() -> None:
    paid = Event("order.paid", Order)
    assert paid == Event("order.paid", Order)
    assert hash(paid) == hash(Event("order.paid", Order))
    assert paid != Event("order.paid", Receipt)
    assert paid != Event("order.sent", Order)
    assert cast(Any, paid) != Request("order.paid", Order)
    assert repr(paid) == "Event('order.paid', Order)"
    assert repr(Request("note")) == "Request('note')"
    assert repr(Event("n", list[int])) == "Event('n', list[int])"
    with pytest.raises(AttributeError, match="frozen"):
        paid.name = "other"
    with pytest.raises(AttributeError, match="frozen"):
        del paid.name


def test_typed_names_validate() -> None:
    assert Event("order.paid", Order).validate({"order_id": "o"}) == Order(order_id="o")
    assert Event("any").validate([1, "two"]) == [1, "two"]
    with pytest.raises(InvalidData, match="event 'n'"):
        Event("n", int).validate("x")
    with pytest.raises(InvalidData, match="request 'n'"):
        Request("n", int).validate("x")


def test_typed_names_check_themselves() -> None:
    with pytest.raises(ValueError, match="empty"):
        Event("")
    with pytest.raises(ValueError, match="'/'"):
        Request("a/b")
    with pytest.raises(TypeError, match="Unknowable"):
        Event("x", Unknowable)
    with pytest.raises(TypeError, match="7"):
        Event(cast(Any, 7))


@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200
    ).filter(lambda text: not text.isspace())
)
def test_any_short_text_names_a_workflow(name: str) -> None:
    assert workflow(name=name)(_no_parameter).name == name


# -- The engine that is meant ----------------------------------------------------------------------------------------


class FakeEngine:
    """Records what a workflow asks of its engine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[tuple[Any, ...]] = []

    async def start(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(("start", *arguments, options))
        return "instance"

    async def get_or_create(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(("get_or_create", *arguments, options))
        return "instance"

    async def get(self, *arguments: Any) -> str:
        self.calls.append(("get", *arguments))
        return "instance"

    async def provide(self, *arguments: Any, **options: Any) -> None:
        self.calls.append(("provide", *arguments, options))


def _engine(name: str) -> Engine:
    return cast("Engine", FakeEngine(name))


def test_without_an_engine_a_call_says_so() -> None:
    with pytest.raises(EngineNotOpen, match="no engine is open"):
        ambient.current_engine()
    with pytest.raises(EngineNotOpen):
        asyncio.run(checkout.start(Order(order_id="o")))


def test_the_contexts_engine_then_the_only_open_one() -> None:
    first, second = _engine("first"), _engine("second")
    token = ambient.entered(first)
    other = ambient.entered(second)
    try:
        assert ambient.current_engine() is second
        with ambient.using(first):
            assert ambient.current_engine() is first
        with pytest.raises(EngineNotOpen, match=r"2 engines are open .*: first, second"):
            _in_fresh_context(ambient.current_engine)
        ambient.left(second, other)
        assert ambient.current_engine() is first
        assert _in_fresh_context(ambient.current_engine) is first
    finally:
        ambient.left(second, other)
        ambient.left(first, token)
    with pytest.raises(EngineNotOpen):
        ambient.current_engine()


def test_a_closed_engine_is_passed_over_in_copied_contexts() -> None:
    engine = _engine("one")

    async def main() -> None:
        token = ambient.entered(engine)
        closed = asyncio.Event()

        async def later() -> None:
            await closed.wait()
            with pytest.raises(EngineNotOpen):
                ambient.current_engine()

        task = asyncio.create_task(later())
        # Closing in another context than that of the opening is allowed.
        await asyncio.create_task(_leave(engine, token))
        closed.set()
        await task

    asyncio.run(main())


async def _leave(engine: Engine, token: Any) -> None:
    ambient.left(engine, token)


def _in_fresh_context(call: Callable[[], Any]) -> Any:
    return contextvars.Context().run(call)


def test_a_workflows_calls_go_to_the_engine() -> None:
    engine = FakeEngine("one")
    order = Order(order_id="o")
    request = cast(Any, "request")

    async def main() -> None:
        await checkout.start(order, id="i", key="k", delay=1, tags=["t"], conversation="c", actor="a")
        await checkout.get_or_create(key="k", input=order, tags=["t"])
        await checkout.get("i")
        await Workflow.get("i")
        await checkout.provide(request, True, actor="a")

    token = ambient.entered(cast("Engine", engine))
    try:
        asyncio.run(main())
    finally:
        ambient.left(cast("Engine", engine), token)
    options = {"id": "i", "delay": 1, "tags": ["t"], "conversation": "c", "actor": "a", "connection": None}
    created = dict.fromkeys(name for name in options if name != "connection")
    assert engine.calls == [
        ("start", checkout, order, {**options, "key": "k"}),
        (
            "get_or_create",
            checkout,
            {**created, "tags": ["t"], "key": "k", "input": order, "statuses": ACTIVE},
        ),
        ("get", checkout, "i"),
        ("get", None, "i"),
        ("provide", checkout, request, True, {"actor": "a", "connection": None}),
    ]
