"""What is inferred for workflow definitions and typed names, and the mistakes that are found in their use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from wfes.workflow import Event, Request, Workflow, workflow

if TYPE_CHECKING:
    from wfes.handler.step import Step
    from wfes.instance import Instance


class Order(BaseModel):
    order_id: str


class Receipt(BaseModel):
    total: float


class Draft(BaseModel):
    text: str = ""


@workflow
async def checkout(order: Order, step: Step) -> Receipt:
    return Receipt(total=1.0)


@workflow(requests={"approval": bool}, timeout="1h")
async def with_options(order: Order, step: Step) -> Receipt:
    return Receipt(total=1.0)


@workflow
async def nothing() -> int:
    return 1


@workflow(name="other")
async def only_step(step: Step) -> int:
    return 1


@workflow(state=Draft)
async def state_first(state: Draft, step: Step) -> list[str]:
    return [state.text]


@workflow
async def all_reserved(
    workflow: Instance[str], step: Step, state: Draft, execute: object
) -> str:
    return ""


@workflow
async def input_and_all(data: dict[str, int], workflow: Any, step: Step, state: Draft) -> None: ...


@workflow
async def optional(count: int | None, *, step: Step) -> int:
    return count or 0


@workflow
async def anything(data: Any) -> Any:
    return data


async def plain(order: Order, step: Step) -> Receipt:
    return Receipt(total=1.0)


reveal_type(checkout)  # T: Workflow[Order, Receipt]
reveal_type(with_options)  # T: Workflow[Order, Receipt]
reveal_type(nothing)  # T: Workflow[None, int]
reveal_type(only_step)  # T: Workflow[None, int]
reveal_type(state_first)  # T: Workflow[None, list[str]]
reveal_type(all_reserved)  # T: Workflow[None, str]
reveal_type(input_and_all)  # T: Workflow[dict[str, int], None]
reveal_type(optional)  # T: Workflow[int | None, int]
reveal_type(anything)  # T: Workflow[Any, Any]
reveal_type(workflow(plain, name="direct"))  # T: Workflow[Order, Receipt]

workflow(lambda order: order)  # E
workflow(timeout=[])  # E
workflow(retries=3)  # E
workflow("checkout")  # E


@workflow  # E
def not_async(order: Order) -> Receipt:
    return Receipt(total=1.0)


reveal_type(Event("order.paid", Order))  # T: Event[Order]
reveal_type(Event("order.paid", list[int]))  # T: Event[list[int]]
reveal_type(Event("order.paid"))  # T: Event[Any]
reveal_type(Request("approval", bool))  # T: Request[bool]
reveal_type(Request("approval"))  # T: Request[Any]
reveal_type(Request("approval", bool).validate("yes"))  # T: bool


async def use() -> None:
    order = Order(order_id="o-1")
    reveal_type(await checkout.start(order))  # T: Instance[Receipt]
    reveal_type(await checkout.start(order, id="i", delay="1m", tags=["a"]))  # T: Instance[Receipt]
    reveal_type(await nothing.start())  # T: Instance[int]
    reveal_type(await only_step.start(key="k"))  # T: Instance[int]
    reveal_type(await optional.start())  # T: Instance[int]
    reveal_type(await optional.start(1))  # T: Instance[int]
    reveal_type(await checkout.get_or_create(key="k", input=order))  # T: Instance[Receipt]
    reveal_type(await nothing.get_or_create(key="k"))  # T: Instance[int]
    reveal_type(await checkout.get("i"))  # T: Instance[Receipt]
    reveal_type(await checkout.get(id="i"))  # T: Instance[Receipt]
    reveal_type(await Workflow.get("i"))  # T: Instance[Any]
    reveal_type(await (await checkout.start(order)).result())  # T: Receipt
    reveal_type(await checkout.bind(order, step=None))  # T: Receipt
    reveal_type(checkout.validate_output({}))  # T: Receipt
    await checkout.start("o-1")  # E
    await checkout.start()  # E
    await nothing.start(1)  # E
    await checkout.start(order, colour="red")  # E
    await checkout.get(1)  # E
    await checkout.get_or_create(input=order)  # E
