"""Workflows whose histories were written by the release 0.1, and must go on under every later one.

They and the log beside them, ``first_release.db.gz``, stay as they are for ever. How the log came about: `write`,
run as a script under that release on a clock of the year 2025, by a process that dies without closing anything in the
middle of a step. Afterwards there are instances that have ended in every way, and others that sleep, listen, ask, are
paused, are in backoff, wait for a child or another instance, or were cut off.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wfes import ChildWorkflowError, Event, Request, Retry, Step, Workflow, testing, workflow
from wfes.core import error_info
from wfes.runtime import leases
from wfes.testing import VirtualClock

WRITTEN = datetime(2025, 1, 1, tzinfo=UTC)
LARGE = 1_200_000
"""Characters of a value that is stored beside the log."""

mended = False
"""Whether what failed under the old release works now."""
cut_off = asyncio.Event()
"""A step is in the middle of something that it never finishes."""


class Total(BaseModel):
    """The state of a workflow."""

    sum: int = 0


def same(value: Any) -> Any:
    """Gives back what it got."""
    return value


def times(item: int) -> int:
    """Part of a map."""
    return item * 10


def fragile(value: int) -> int:
    """Fails under the old release."""
    if not mended:
        raise ConnectionError("nobody there")
    return value


async def long(value: int) -> int:
    """Is cut off under the old release."""
    if mended:
        return value
    cut_off.set()
    await asyncio.sleep(3600)
    return -1


@workflow(state=Total)
async def plain(number: int, step: Step, state: Total) -> list[int]:
    """Steps, a map, state, progress."""
    first: int = await step("first", same, number)
    state.sum += first
    await step.progress("half", percent=50.0)
    found = await step.map("tens", [1, 2, 3], times)
    state.sum += sum(found)
    return [state.sum, *found]


@workflow
async def failing(step: Step) -> None:
    """Fails by its own word."""
    await step("before", same, 1)
    step.fail("not today")


@workflow
async def aborting(step: Step) -> None:
    """Is over, and that is no failure."""
    step.abort("nothing to do")


@workflow(deadline="1h")
async def overdue(step: Step) -> None:
    """Has a deadline that passes."""
    await step.listen("nothing")


@workflow
async def sleeper(number: int, step: Step) -> int:
    """Sleeps for thirty days."""
    await step("before", same, number)
    began = step.now()
    await step.sleep("a month", "30d")
    return (step.now() - began).days


PAID = Event("paid", int)


@workflow
async def listener(number: int, step: Step) -> list[Any]:
    """Listens for one thing while another is kept for it."""
    found: list[Any] = [await step.listen("paid", event=PAID)]
    found.append(await step.listen("said", returns=str))
    found.append(await step.listen("said", returns=str))
    return found


@workflow(requests={"approval": bool})
async def asker(number: int, step: Step) -> dict[str, Any]:
    """Asks two things at once."""
    approval, amount = await asyncio.gather(
        step.request("approval", "Go on?"), step.request(Request("amount", int), name="how much")
    )
    return {"approval": approval, "amount": amount}


@workflow
async def paused(number: int, step: Step) -> int:
    """Is paused while it listens."""
    await step("before", same, number)
    await step.listen("go")
    after: int = await step("after", same, number + 1)
    return after


@workflow(retry=Retry(max_attempts=3, initial="10d", max="10d", jitter=False))
async def backoff(number: int, step: Step) -> int:
    """Waits long before it tries again."""
    found: int = await step("fragile", fragile, number)
    return found


@workflow(retry=Retry(max_attempts=1))
async def retried(number: int, step: Step) -> int:
    """Fails, until it is retried."""
    first: int = await step("first", same, number)
    found: int = await step("fragile", fragile, first + 1)
    return found


@workflow
async def child(number: int, step: Step) -> int:
    """Another's child."""
    if number < 0:
        step.fail("negative")
    await step.sleep("nap", "5d")
    doubled: int = await step("double", same, number * 2)
    return doubled


@workflow
async def parent(number: int, step: Step) -> list[Any]:
    """A child that failed, and one that sleeps."""
    found: list[Any] = []
    try:
        await step.execute_workflow("bad", child, -1)
    except ChildWorkflowError as error:
        found.append(str(error.status))
    found.append(await step.execute_workflow("good", child, number))
    return found


@workflow
async def waiter(other: str, step: Step) -> Any:
    """Waits for another instance."""
    outcome = await step.wait_for_workflow("other", other)
    return outcome.output


@workflow
async def large(number: int, step: Step) -> int:
    """Has a large value, and needs it again after a sleep."""
    text: str = await step("text", lambda: "x" * LARGE)
    await step.sleep("nap", "2d")
    return len(text)


@workflow
async def interrupted(number: int, step: Step) -> list[int]:
    """Is in the middle of a step when its process dies."""
    first: int = await step("first", same, number)
    return [first, await step("long", long, number + 1)]


@workflow(on="order.placed")
async def placed(number: int, step: Step) -> int:
    """Starts when an order is placed."""
    found: int = await step("take", same, number)
    return found


@workflow
async def keyed(number: int, step: Step) -> str:
    """One a key."""
    said: str = await step.listen("said", returns=str)
    return said


WORKFLOWS: list[Workflow[Any, Any]] = [
    value for value in list(globals().values()) if isinstance(value, Workflow)
]


async def write(path: Path) -> None:
    """Writes the log, and dies."""
    environment = testing.engine(WORKFLOWS, url=f"sqlite:///{path}", clock=VirtualClock(WRITTEN), name="old")
    async with environment as env:
        engine = env.engine
        await env.until((await plain.start(1, id="plain", tags=["golden", "done"])).result())
        for without in (failing, aborting, overdue):
            await without.start(id=without.name)
        for flow in (sleeper, listener, asker, paused, backoff):
            await engine.start(flow.name, 1, id=flow.name)
        await retried.start(1, id="retried", actor="alice")
        await retried.start(1, id="failed")
        await env.settle()
        await (await paused.get("paused")).pause("a moment", actor="alice")
        await (await listener.get("listener")).send("said", "early", id="s-1")
        for request in (await engine.requests()).items:
            if request.name == "amount":
                await engine.provide(asker, request, 3, actor="bob")
        await parent.start(4, id="parent")
        await waiter.start("sleeper", id="waiter")
        await large.start(1, id="large")
        first = await keyed.get_or_create(key="k", input=1)
        await first.send("said", "first")
        await env.until(first.result())
        await keyed.get_or_create(key="k", input=2)
        await engine.publish("order.placed", 7, id="order-7")
        stopped = await keyed.start(3, id="cancelled")
        await env.settle()
        await stopped.cancel("enough", actor="alice")
        await env.advance("2h")  # the deadline passes
        await env.advance("10m")
        await interrupted.start(1, id="interrupted")
        await cut_off.wait()
        os._exit(9)


def _write_somewhere() -> None:
    """Writes the log where nothing in it tells of the machine that did."""
    platform.node = lambda: "golden"
    leases.Machine.here = classmethod(lambda cls: cls("golden", "golden"))  # type: ignore[method-assign,assignment]
    told = error_info._traceback_of
    here = re.compile(r'File "[^"]*/((?:wfes|first_release)[^"]*)"')
    error_info._traceback_of = lambda exc: here.sub(r'File "\1"', told(exc))
    asyncio.run(write(Path("written.db")))


if __name__ == "__main__":
    if os.fork() == 0:
        _write_somewhere()
    os.wait()
    with sqlite3.connect("written.db") as written:
        written.execute("VACUUM INTO 'first_release.db'")
