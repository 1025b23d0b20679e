"""What is inferred for a handler's step calls: a function's return type, whichever way it is called."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from wfes.workflow import Event, Request, workflow

if TYPE_CHECKING:
    from wfes.handler.step import Step


class Order(BaseModel):
    items: list[str]


class Receipt(BaseModel):
    total: float


def price(item: str) -> float:
    return 1.0


async def charge(order: Order, total: float) -> Receipt:
    return Receipt(total=total)


def charge_later(order: Order) -> Awaitable[Receipt]:
    return charge(order, 1.0)


def untold(item: str) -> Any:
    return item


@workflow
async def child(count: int, step: Step) -> Receipt:
    return Receipt(total=count)


@workflow
async def child_without_input(step: Step) -> list[int]:
    return []


@workflow(requests={"approval": bool})
async def checkout(order: Order, step: Step) -> Receipt:
    reveal_type(await step("price", price, "tea"))  # T: float
    reveal_type(await step("charge", charge, order, 1.0, max_attempts=3, timeout="1m"))  # T: Receipt
    reveal_type(await step("later", charge_later, order))  # T: Receipt
    reveal_type(await step("untold", untold, "tea"))  # T: Any
    reveal_type(await step.map("prices", order.items, price, concurrency=5))  # T: list[float]
    reveal_type(await step.map("charges", [order], charge_later))  # T: list[Receipt]
    reveal_type(await step.for_each("each", order.items, price))  # T: None
    reveal_type(await step.batch("batches", order.items, len, batch_size=2))  # T: None
    reveal_type(await step.sleep("nap", "1m"))  # T: None
    reveal_type(await step.request(Request("approval", bool), "Really?"))  # T: bool
    reveal_type(await step.request("approval"))  # T: Any
    reveal_type(await step.listen("paid", event=Event("order.paid", Order)))  # T: Order
    reveal_type(await step.listen("order.paid"))  # T: Any
    reveal_type(await step.execute_workflow("child", child, 1))  # T: Receipt
    reveal_type(await step.execute_workflow("other", child_without_input))  # T: list[int]
    reveal_type(step.now())  # T: datetime
    reveal_type(step.uuid())  # T: UUID
    reveal_type(step.random())  # T: float
    await step.sleep("nap")  # E
    await step("price")  # E
    await step.sleep_until("nap", "tomorrow")  # E
    return Receipt(total=await step("price", price, "cup"))
