"""The program by which wfes is introduced runs as it is written; its half hour passes on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import wfes
from wfes import Engine, Workflow, testing

PROGRAM = '''
# shop.py
import asyncio
from pydantic import BaseModel
from wfes import Engine, Step, workflow

class Order(BaseModel):
    order_id: str
    items: list[str]

class Receipt(BaseModel):
    order_id: str
    total: float

@workflow(requests={"approval": bool})
async def checkout(order: Order, step: Step) -> Receipt:
    """Price an order, ask a person for approval, charge it."""
    prices = await step.map("price", order.items, look_up_price, concurrency=5)
    total = sum(prices)
    if total > 100 and not await step.request("approval", f"Approve {total:.2f}?"):
        step.fail("not approved")
    await step("charge", charge_card, order.order_id, total, max_attempts=3)
    await step.sleep("cool-off", "30m")
    await step("ship", ship, order.order_id)
    return Receipt(order_id=order.order_id, total=total)

async def main() -> None:
    async with Engine("sqlite:///shop.db", workflows=[checkout]):
        run = await checkout.start(Order(order_id="o-1", items=["tea", "cup"]))
        print(await run.result())

asyncio.run(main())
'''


def _program(prices: dict[str, float], done: list[str], *, runs: bool) -> dict[str, Any]:
    """The names of the program after it ran, or without its last line."""

    async def look_up_price(item: str) -> float:
        return prices[item]

    async def charge_card(order_id: str, total: float) -> str:
        done.append(f"charge {order_id} {total}")
        return "charged"

    async def ship(order_id: str) -> None:
        done.append(f"ship {order_id}")

    names: dict[str, Any] = {"look_up_price": look_up_price, "charge_card": charge_card, "ship": ship}
    text = PROGRAM if runs else PROGRAM.replace("asyncio.run(main())", "")
    exec(compile(text, "shop.py", "exec", dont_inherit=True), names)
    return names


def test_it_prints_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = testing.VirtualClock()
    began = clock.time

    @asynccontextmanager
    async def engine(url: str, *, workflows: list[Workflow[Any, Any]]) -> AsyncGenerator[Engine]:
        async with testing.engine(workflows, url=url, clock=clock, auto_advance=True) as env:
            yield env.engine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wfes, "Engine", engine)
    done: list[str] = []
    _program({"tea": 4.5, "cup": 20.0}, done, runs=True)
    assert capsys.readouterr().out == "order_id='o-1' total=24.5\n"
    assert done == ["charge o-1 24.5", "ship o-1"]
    assert (clock.time - began).total_seconds() == 1800
    assert (tmp_path / "shop.db").exists()


@pytest.mark.parametrize("approved", [True, False])
def test_a_person_decides_on_an_expensive_order(approved: bool) -> None:
    done: list[str] = []
    names = _program({"tea": 4.5, "cup": 200.0}, done, runs=False)
    checkout: Workflow[Any, Any] = names["checkout"]

    async def main() -> None:
        async with testing.engine([checkout]) as env:
            run = await checkout.start(names["Order"](order_id="o-2", items=["tea", "cup"]))
            await env.settle()
            (request,) = await env.engine.requests()
            assert request.message == "Approve 204.50?"
            await checkout.provide(request, approved)
            if approved:
                assert (await env.until(run.result())).total == 204.5
                assert done == ["charge o-2 204.5", "ship o-2"]
                return
            with pytest.raises(wfes.WorkflowFailed, match="not approved"):
                await env.until(run.result())
            assert done == []

    asyncio.run(main())
