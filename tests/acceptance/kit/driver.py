"""Runs the corpus on one log as a program would: starts, asks, answers, and notes what was acknowledged.

Everything done from outside may be done again after a crash, so ``drive`` on a log that a killed process left behind
goes on where that one was, and at the end every instance is over. What was acknowledged is noted in a file the moment
a call returns; ``kit.checks`` compares it with the log.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import projected
from places import url_of

from wfes import (
    Engine,
    Instance,
    InstanceEnded,
    RequestNotPending,
    Status,
    Workflow,
    WorkflowAborted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTimedOut,
)
from wfes.core.state import ACTIVE

SECONDS_MAX = 40.0


class Acks:
    """What was acknowledged so far: kind, instance, and what the call was about. Survives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before = read_acks(path)

    def __call__(self, kind: str, instance: str, about: str = "") -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, (json.dumps([kind, instance, about]) + "\n").encode())
        finally:
            os.close(fd)

    def has(self, kind: str, instance: str, about: str = "") -> bool:
        """Whether an earlier process noted this."""
        return (kind, instance, about) in self.before


def read_acks(path: Path) -> list[tuple[str, str, str]]:
    """What is noted in this file; a line that a kill cut off was not noted."""
    if not path.exists():
        return []
    text = path.read_text()
    return [tuple(json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


Outside = Callable[[Engine, Instance[Any], Acks], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """A workflow with an input, what is done to it from outside, and how it must end."""

    workflow: Workflow[Any, Any]
    number: int
    status: str
    outputs: tuple[Any, ...] = (None,)
    outside: Outside | None = None


async def seen(engine: Engine, id: str, type: str, path: str | None = None) -> None:
    """Returns once such an event stands in the instance's history, or the instance is over."""
    for _ in range(10_000):
        run = await engine.get(id)
        for event in await run.history():
            if event.type == type and path in (None, event.data.get("path")):
                return
        if run.status not in ACTIVE:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{id}: no {type} {path or ''}")


async def _listener(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    for id, event, payload in (("p1", "paid", 1), ("p2", "paid", 2), ("s1", "said", "hi")):
        await run.send(event, payload, id=id)
        acks("send", run.id, id)
        await asyncio.sleep(0.02)


async def _asker(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    for name, answer in (("amount", 3), ("approval", True)):
        request = await corpus.first_request(engine, run.id, name)
        try:
            await engine.provide(corpus.asker, request, answer)
            acks("provide", run.id, request)
        except RequestNotPending:
            pass  # An earlier process did it and was killed before it could note that.


async def _cancelled(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    await seen(engine, run.id, "StepCompleted", "before")
    await run.cancel("enough", actor="a test")
    acks("cancel", run.id)


async def _bounded(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    if not acks.has("set_timeout", run.id):
        try:
            await run.set_timeout("150ms")
            acks("set_timeout", run.id)
        except InstanceEnded:
            pass


async def _retried(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    while (await run.refresh()).status in ACTIVE and not acks.has("retry", run.id):
        await asyncio.sleep(0.01)
    if run.status == Status.FAILED:
        corpus.calls.with_suffix(".key").touch()
        await run.retry()
        acks("retry", run.id)


async def _paused(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    try:
        if not acks.has("resume", run.id):
            await run.pause("a moment")
            acks("pause", run.id)
            await run.send("go", id="go")
            acks("send", run.id, "go")
            await asyncio.sleep(0.03)
            await run.resume()
            acks("resume", run.id)
    except InstanceEnded:
        pass


async def _publishing(engine: Engine, run: Instance[Any], acks: Acks) -> None:
    await engine.publish("order.placed", 7, id=f"order of {run.id}")
    acks("publish", run.id, f"order of {run.id}")
    found = await engine.get_or_create(corpus.child, key="k", input=5, statuses=tuple(Status))
    acks("get_or_create", found.id, "k")


CASES: dict[str, Case] = {
    "chain": Case(corpus.chain, 1, "completed", ([1, 2, 3, 0, 1, 2],), _publishing),
    "flaky": Case(corpus.flaky, 1, "completed", ({"attempts": 3, "step": "never", "of": 2, "lookup": True},)),
    "nested": Case(corpus.nested, 4, "completed", (10,)),
    "once": Case(corpus.once, 1, "completed", ("done", "interrupted")),
    "fan_out": Case(
        corpus.fan_out, 1, "completed", ({"squares": [0, 1, 4, 9, 16, 25], "odd": [0, None, 4, None]},)
    ),
    "sleeper": Case(corpus.sleeper, 1, "completed", (True,)),
    "listener": Case(corpus.listener, 1, "completed", ([1, 2, "hi", "silence"],), _listener),
    "asker": Case(corpus.asker, 1, "completed", ({"approval": True, "amount": 3},), _asker),
    "failing": Case(corpus.failing, 1, "failed"),
    "aborting": Case(corpus.aborting, 1, "aborted"),
    "completing": Case(corpus.completing, 9, "completed", (9,)),
    "cancelled": Case(corpus.cancelled, 1, "cancelled", outside=_cancelled),
    "overdue": Case(corpus.overdue, 1, "timed_out"),
    "bounded": Case(corpus.bounded, 1, "timed_out", outside=_bounded),
    "retried": Case(corpus.retried, 1, "completed", ([1, 2, 3],), _retried),
    "paused": Case(corpus.paused, 1, "completed", (2,), _paused),
    "stateful": Case(corpus.stateful, 2, "completed", ({"total": 14, "names": ["a", "b", "c"], "read": 14},)),
    "chancy": Case(corpus.chancy, 1, "completed", (True,)),
    "racer": Case(corpus.racer, 1, "completed", (["g0", "slept", "t2", "timeout", "wait_for"],)),
    "parent": Case(corpus.parent, 3, "completed", ([6, 8, "failed"],)),
    "caller": Case(
        corpus.caller,
        5,
        "completed",
        ({"same": True, "output": [5, 6], "lost": "cancelled", "refused": True},),
    ),
    "starter": Case(corpus.starter, 2, "completed", ([4, "completed"],)),
    "provider": Case(corpus.provider, 1, "completed", ([{"approval": False, "amount": 3}, 1],)),
}

GROUPS: tuple[tuple[str, ...], ...] = (
    ("chain", "flaky", "nested", "once", "fan_out", "stateful"),
    ("sleeper", "listener", "asker", "chancy", "racer", "paused"),
    ("failing", "aborting", "completing", "cancelled", "overdue", "bounded", "retried"),
    ("parent", "caller", "starter", "provider"),
)
"""Cases that share a log in a crash test."""


async def _run(engine: Engine, id: str, acks: Acks) -> list[Any]:
    case = CASES[id]
    if acks.has("start", id):
        await engine.get(id)  # InstanceNotFound: an acknowledged start was lost.
    run = await case.workflow.start(case.number, id=id)
    acks("start", id)
    if case.outside is not None:
        await case.outside(engine, run, acks)
    try:
        output: Any = await run.result(timeout=SECONDS_MAX)
        return [Status.COMPLETED, output, ""]
    except (WorkflowFailed, WorkflowCancelled, WorkflowAborted, WorkflowTimedOut) as end:
        return [(await run.refresh()).status, None, str(end)]


async def drive(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """Runs these cases to their ends, on what an earlier process left in the folder.

    Returns:
        What is wrong with each outcome that is not the expected one.
    """
    corpus.use(folder / "calls")
    acks = Acks(folder / "acks")
    wrong: dict[str, Any] = {}
    everything = Engine(url_of(folder), workflows=corpus.WORKFLOWS, projections=projected.ALL)
    async with everything as engine:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                outcomes = await asyncio.gather(*(_run(engine, id, acks) for id in ids))
                while active := (await engine.instances(status=ACTIVE)).items:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            active = (await engine.instances(status=ACTIVE)).items
            for row in active:
                run = await engine.get(row.id)
                wrong[row.id] = f"not over: {run.status}, waiting for {run.waiting_for}, {run.error}"
            return wrong or {"": "the driver did not end"}
    for id, (status, output, error) in zip(ids, outcomes, strict=True):
        case = CASES[id]
        if status != case.status or (status == Status.COMPLETED and output not in case.outputs):
            wrong[id] = f"{status} {output!r} {error}, not {case.status} {case.outputs!r}"
    return wrong
