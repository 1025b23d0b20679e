"""Workflows that together use everything a handler can do, for tests that kill, stop and replay them.

Invariants: the outcome of each is the same whatever interrupts it, its sleeps are short, and every step function says
that it was called, by a line in the file ``calls``, before it does anything else. A handler that sees something that a
replay must not change keeps a trace of it and compares it with one that a step recorded; a difference fails it.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wfes import (
    ChildWorkflowError,
    Engine,
    Event,
    InstanceEnded,
    Request,
    RequestNotPending,
    Retry,
    Step,
    StepError,
    StepInterrupted,
    WaitTimeout,
    Workflow,
    workflow,
)
from wfes.ambient import current_engine
from wfes.handler import scope

QUICK = Retry(max_attempts=4, initial="20ms", factor=1.5, jitter=False)

calls = Path(os.devnull)
"""Where step functions note that they were called; set by whoever runs them."""


def use(path: Path) -> None:
    """Lets step functions of this process note their calls in this file."""
    global calls
    calls = path


def called() -> None:
    """Notes one call of a step's function: instance, path, attempt and process. Atomic, across processes."""
    here = scope.current()
    assert here is not None
    line = f"{here.execution.id} {here.path.replace(' ', '_')} {here.attempt} {os.getpid()}\n"
    fd = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def same(value: Any) -> Any:
    """Gives back what it got."""
    called()
    return value


async def same_async(value: Any) -> Any:
    """Gives back what it got, a moment later."""
    called()
    await asyncio.sleep(0.005)
    return value


async def slow(value: Any, seconds: float) -> Any:
    """Gives back what it got, that much later."""
    called()
    await asyncio.sleep(seconds)
    return value


def refuse(value: Any = None) -> None:
    """Fails."""
    called()
    raise LookupError(f"no {value}")


def fail_until(attempts: int, attempt: int) -> int:
    """Fails until it is called for the ``attempts``-th time."""
    called()
    if attempt < attempts:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


async def unchanged(step: Step, trace: list[Any]) -> None:
    """Fails unless the trace is the one that this place had when it was first reached."""
    recorded = await step("trace", same, list(trace))
    if recorded != trace:
        raise AssertionError(f"first {recorded}, on replay {trace}")


# ------------------------------------------------------------------------------------------- steps


@workflow
async def chain(number: int, step: Step) -> list[int]:
    """Steps one after another: in a thread, on the loop, async; the same name in a loop."""
    first = await step("thread", same, number)
    second = await step("loop", same, first + 1, thread=False)
    third = await step("async", same_async, second + 1)
    return [first, second, third, *[await step("again", same, i) for i in range(3)]]


@workflow(retry=QUICK)
async def flaky(number: int, step: Step) -> dict[str, Any]:
    """Retries with backoff, and a failure for good that the handler catches."""
    attempts = await step("later", fail_until, 3)
    try:
        await step("never", refuse, "luck", max_attempts=2)
    except StepError as error:
        return {
            "attempts": attempts,
            "step": error.step,
            "of": error.attempts,
            "lookup": error.matches(LookupError),
        }
    return {}


@workflow
async def nested(number: int, step: Step) -> int:
    """A step with steps inside, one of them with a wait and one with a step of its own."""

    async def innermost(value: int) -> int:
        called()
        leaf: int = await step("leaf", same, value)
        return leaf

    async def outer(value: int) -> int:
        called()
        one: int = await step("one", same, value)
        await step.sleep("pause", "60ms")
        two = await step("two", innermost, one + 1)
        return one + two

    last: int = await step("last", same, 1)
    return last + await step("outer", outer, number)


@workflow
async def once(number: int, step: Step) -> str:
    """A step that may run at most once."""
    try:
        return await step("only", slow, "done", 0.02, on_interrupt="fail")
    except StepInterrupted:
        return "interrupted"


@workflow
async def fan_out(number: int, step: Step) -> dict[str, Any]:
    """map, for_each and batch, with ids, failures collected and a bound on concurrency."""

    def odd(item: int) -> int:
        called()
        if item % 2:
            raise LookupError(str(item))
        return item * step.index

    def square(item: int) -> int:
        squared: int = same(item * item)
        return squared

    def numbered(batch: list[int], i: int) -> list[int]:
        return [*same([i, *batch])]

    squares = await step.map("square", range(6), square, concurrency=3)
    found = await step.map("odd", range(4), odd, max_attempts=1, on_error="collect", key=lambda i: f"k{i}")
    await step.for_each("each", ["a", "b"], same_async)
    await step.batch("batch", list(range(5)), numbered, batch_size=2)
    return {"squares": squares, "odd": [None if isinstance(f, StepError) else f for f in found]}


# ------------------------------------------------------------------------------------------- waits


@workflow
async def sleeper(number: int, step: Step) -> bool:
    """Sleeps for a time, until a time, and in the middle of something else."""
    began = step.now()
    await step.sleep("a while", "60ms")
    await step.sleep_until("a moment", began + timedelta(milliseconds=120))
    working = asyncio.ensure_future(step("meanwhile", slow, 1, 0.03))
    await step.sleep("beside", 0.05)
    await working
    return step.now() - began >= timedelta(milliseconds=170)


PAID = Event("paid", int)


@workflow
async def listener(number: int, step: Step) -> list[Any]:
    """Listens: in order, with a type, and in vain."""
    found: list[Any] = [await step.listen("paid", event=PAID), await step.listen("paid", event=PAID)]
    await step("between", same, found)
    found.append(await step.listen("said", returns=str))
    try:
        await step.listen("silence", timeout="50ms")
    except WaitTimeout:
        found.append("silence")
    return found


@workflow(requests={"approval": bool, "amount": int})
async def asker(number: int, step: Step) -> dict[str, Any]:
    """Asks two people at once, and a third in vain."""
    approval, amount = await asyncio.gather(
        step.request("approval", "Go on?"), step.request(Request("amount", int), name="how much")
    )
    await step("note", same, [approval, amount])
    try:
        await step.request("amount", "Nobody answers this", name="in vain", timeout="50ms")
    except WaitTimeout:
        return {"approval": approval, "amount": amount}
    return {}


# -------------------------------------------------------------------------------------------- ends


@workflow
async def failing(number: int, step: Step) -> None:
    """Fails by its own word."""
    await step("before", same, number)
    step.fail("not today")


@workflow
async def aborting(number: int, step: Step) -> None:
    """Is over, and that is no failure."""
    await step("before", same, number)
    step.abort("nothing to do")


@workflow
async def completing(number: int, step: Step, workflow: Any) -> int:
    """Completes in the middle."""
    workflow.complete(await step("before", same, number))
    raise AssertionError("a completed handler goes on")


@workflow
async def cancelled(number: int, step: Step) -> None:
    """Is cancelled from outside and cleans up."""
    try:
        await step("before", same, number)
        await step.listen("nothing")
    finally:
        await step("clean up", same_async, "cleaned")


@workflow(deadline="150ms")
async def overdue(number: int, step: Step) -> None:
    """Has a deadline that passes, and cleans up."""
    try:
        await step("before", same, number)
        await step.listen("nothing")
    finally:
        await step("clean up", same, "cleaned")


@workflow
async def bounded(number: int, step: Step) -> None:
    """Times out when somebody outside says so."""
    await step("before", same, number)
    await step.listen("nothing")


@workflow
async def retried(number: int, step: Step) -> list[int]:
    """Fails until its input's file exists, and goes on after a retry."""

    def needs_key(value: int) -> int:
        called()
        if not calls.with_suffix(".key").exists():
            raise FileNotFoundError("no key yet")
        return value

    first = await step("first", same, number)
    second = await step("second", needs_key, first + 1, max_attempts=1)
    return [first, second, await step("third", same, second + 1)]


@workflow
async def paused(number: int, step: Step) -> int:
    """Is paused and resumed from outside."""
    await step("before", same, number)
    await step.listen("go")
    return await step("after", same, number + 1)


# --------------------------------------------------------------------------------- state, progress


class Tally(BaseModel):
    """The state of a workflow."""

    total: int = 0
    names: list[str] = []


@workflow(state=Tally)
async def stateful(number: int, step: Step, state: Tally) -> dict[str, Any]:
    """Keeps state, which its steps read."""

    def read() -> int:
        called()
        return state.total

    for name in ("a", "b", "c"):
        state.total += await step("read", read) + number
        state.names = [*state.names, name]
        await step.progress(f"at {name}", percent=10.0, data={"total": state.total})
    await step.sleep("rest", "20ms")
    return {"total": state.total, "names": state.names, "read": await step("read", read)}


@workflow
async def chancy(number: int, step: Step) -> bool:
    """Time, chance and ids are the same on every replay."""
    trace: list[Any] = []
    for _ in range(3):
        trace += [step.now().isoformat(), step.random(), str(step.uuid())]
        await step("work", same_async, 1)
        await unchanged(step, trace)
    await step.sleep("nap", "20ms")
    await unchanged(step, trace)
    return len(set(map(str, trace[1::3]))) == 3


# ------------------------------------------------------------------------------------ plain asyncio


@workflow(retry=QUICK)
async def racer(number: int, step: Step) -> list[str]:
    """gather, TaskGroup, wait, wait_for, timeout, as_completed, asyncio.sleep: who wins is recorded."""
    trace: list[Any] = []

    async def note(name: str, awaitable: Any) -> Any:
        value = await awaitable
        trace.append(name)
        return value

    await asyncio.gather(*[note(f"g{i}", step("gathered", slow, i, 0.01 * (i % 2))) for i in range(4)])
    await unchanged(step, trace)
    async with asyncio.TaskGroup() as group:
        for i in range(3):
            group.create_task(note(f"t{i}", step("grouped", same_async, i)))
    try:
        async with asyncio.timeout(0.03):
            await note("long", step("long", slow, 1, 0.4))
    except TimeoutError:
        trace.append("timeout")
    try:
        await asyncio.wait_for(note("event", step.listen("never")), 0.02)
    except TimeoutError:
        trace.append("wait_for")
    await unchanged(step, trace)
    tasks = [asyncio.ensure_future(note(f"w{i}", step("waited", slow, i, 0.01 + 0.1 * i))) for i in range(2)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    trace.append([len(done), len(pending)])
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for next_one in asyncio.as_completed([step("completed", slow, i, 0.01 * (3 - i)) for i in range(3)]):
        trace.append(await next_one)  # noqa: PERF401
    await note("slept", asyncio.sleep(0.05))
    await unchanged(step, trace)
    return sorted(
        {name for name in trace if isinstance(name, str)} & {"timeout", "wait_for", "slept", "g0", "t2"}
    )


# ---------------------------------------------------------------------------------- other instances


@workflow
async def child(number: int, step: Step) -> int:
    """Another's child."""
    await step.sleep("nap", "20ms")
    if number < 0:
        step.fail("negative")
    return await step("double", same, number * 2)


@workflow
async def parent(number: int, step: Step) -> list[Any]:
    """Children, one of which fails."""
    one, two = await asyncio.gather(
        step.execute_workflow("one", child, number),
        step.execute_workflow("two", child, number + 1, key="second"),
    )
    try:
        await step.execute_workflow("bad", child, -1)
    except ChildWorkflowError as error:
        return [one, two, str(error.status)]
    return []


@workflow(on="order.placed")
async def placed(number: int, step: Step) -> int:
    """Starts when an order is placed."""
    return await step("take", same, number)


@workflow
async def receiver(number: int, step: Step) -> list[Any]:
    """Waits to be sent two things."""
    return [await step.listen("one"), await step.listen("two")]


@workflow
async def caller(number: int, step: Step) -> dict[str, Any]:
    """Recorded calls and steps to other instances."""
    other = await receiver.start(number)
    keyed = await receiver.get_or_create(key=f"of {other.id}", input=number)
    again = await receiver.get_or_create(key=f"of {other.id}", input=number)
    await other.send("one", number)
    await step.send("send", other.id, "two", number + 1)
    await keyed.send("one", 1, id="the one")
    await keyed.send("one", 1, id="the one")
    outcome = await step.wait_for_workflow("wait", other)
    await keyed.cancel("enough")
    lost = await step.wait_for_workflow("lost", keyed.id, timeout="30s")
    try:
        await other.send("one", 3)
        refused = False
    except InstanceEnded:
        refused = True
    engine = current_engine()
    await engine.publish("order.placed", number, id=f"by {other.id}")
    await step.publish("publish", "nobody.listens", number)
    return {
        "same": keyed.id == again.id,
        "output": outcome.output,
        "lost": str(lost.status),
        "refused": refused,
    }


@workflow
async def starter(number: int, step: Step) -> list[Any]:
    """Starts another in a step, which a retry of that step does not start twice."""

    async def start(attempt: int) -> str:
        called()
        other = await child.start(number)
        if attempt < 2:
            raise ConnectionError("after the start")
        return other.id

    id = await step("start", start, retry=QUICK)
    outcome = await step.wait_for_workflow("wait", id)
    return [outcome.output, str(outcome.status)]


@workflow
async def provider(number: int, step: Step) -> Any:
    """Answers another's requests: the first answer counts, the second is refused."""
    other = await asker.start(number)
    refused = 0
    for name, answer in (("approval", False), ("amount", 3), ("amount", 4)):
        request = await step(f"find {name} {answer}", find_request, other.id, name)
        try:
            await current_engine().provide(asker, request, answer)
        except RequestNotPending:
            refused += 1
    outcome = await step.wait_for_workflow("wait", other)
    return [outcome.output, refused]


async def find_request(instance: str, name: str) -> str:
    """The id of a request, as it was first seen."""
    called()
    engine = current_engine()
    return await first_request(engine, instance, name)


async def first_request(engine: Engine, instance: str, name: str) -> str:
    """The id of an instance's request of this name, open or answered; waits until it was asked."""
    for _ in range(2_000):
        for event in await (await engine.get(instance)).history():
            if event.type == "RequestIssued" and event.data["name"] == name:
                return str(event.data["id"])
        await asyncio.sleep(0.005)
    raise AssertionError(f"request {name!r} was not asked")


WORKFLOWS: list[Workflow[Any, Any]] = [
    value for value in list(globals().values()) if isinstance(value, Workflow)
]
