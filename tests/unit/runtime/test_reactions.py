"""What follows at once from an event, in the same transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from wfes import Engine
from wfes.core import decide
from wfes.core import events as e
from wfes.log.port import Tx
from wfes.runtime.commands import Ask, RetryInstance, Start


class Append:
    def __init__(self, stream: str, *events: e.Event) -> None:
        self.stream = stream
        self.events = events

    def run(self, tx: Tx) -> Any:
        return tx.append(self.stream, self.events)


class Topics:
    def __init__(self, *streams: str) -> None:
        self.streams = streams

    def run(self, tx: Tx) -> Any:
        return [[r.event.topic for r in tx.history(stream)] for stream in self.streams]


class Last:
    def __init__(self, stream: str) -> None:
        self.stream = stream

    def run(self, tx: Tx) -> Any:
        event = tx.history(self.stream)[-1].event
        return e.body(event)


Perform = Callable[[Any], Coroutine[Any, Any, Any]]
CLAIM = e.RunClaimed(at=1, worker="w", epoch=1)


def on_a_log(test: Callable[[Perform], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with Engine("sqlite://", worker=False) as engine:

            async def perform(command: Any) -> Any:
                return await engine.perform("test", command)

            await perform(Start(id="target", workflow="w"))
            await perform(Start(id="waiter", workflow="w"))
            await perform(Append("target", CLAIM))
            await perform(Append("waiter", CLAIM))
            await test(perform)

    asyncio.run(main())


def test_an_end_wakes_every_waiter_once() -> None:
    async def test(perform: Perform) -> None:
        await perform(Append("waiter", e.WaitStarted(at=2, path="one", instance="target")))
        await perform(Append("waiter", e.ChildStarted(at=2, path="two", instance="target", workflow="w")))
        await perform(Append("target", e.WorkflowCompleted(at=3, output={"x": 1})))
        (topics,) = await perform(Topics("waiter"))
        assert topics[-2:] == ["TargetEnded", "TargetEnded"]
        assert await perform(Last("waiter")) == {
            "at": 3,
            "path": "two",
            "instance": "target",
            "status": "completed",
            "output": {"x": 1},
        }

    on_a_log(test)


def test_whoever_waits_keeps_the_first_end() -> None:
    async def test(perform: Perform) -> None:
        await perform(Append("waiter", e.WaitStarted(at=2, path="one", instance="target")))
        await perform(Append("target", e.WorkflowFailed(at=3, error={"t": "E", "m": "x"})))
        await perform(RetryInstance("target"))
        await perform(Append("target", CLAIM, e.WorkflowCompleted(at=5)))
        (topics,) = await perform(Topics("waiter"))
        assert topics.count("TargetEnded") == 1

    on_a_log(test)


def test_waiting_for_what_is_over_is_over_at_once() -> None:
    async def test(perform: Perform) -> None:
        await perform(Append("target", e.WorkflowAborted(at=3, reason="enough")))
        await perform(Append("waiter", e.WaitStarted(at=4, path="one", instance="target")))
        (topics,) = await perform(Topics("waiter"))
        assert topics[-2:] == ["WaitStarted", "TargetEnded"]
        assert (await perform(Last("waiter")))["status"] == "aborted"

    on_a_log(test)


def test_an_ended_or_withdrawn_waiter_gets_nothing() -> None:
    async def test(perform: Perform) -> None:
        await perform(Append("waiter", e.WaitStarted(at=2, path="one", instance="target")))
        await perform(Append("waiter", e.WaitCancelled(at=3, path="one")))
        await perform(Append("target", e.WorkflowCompleted(at=4)))
        (topics,) = await perform(Topics("waiter"))
        assert "TargetEnded" not in topics

    on_a_log(test)


def test_a_cancellation_that_arrives_is_passed_on_to_children_only() -> None:
    async def test(perform: Perform) -> None:
        await perform(Start(id="other", workflow="w"))
        await perform(Append("other", CLAIM))
        await perform(Append("waiter", e.ChildStarted(at=2, path="one", instance="target", workflow="w")))
        await perform(Append("waiter", e.WaitStarted(at=2, path="two", instance="other")))
        await perform(Ask("waiter", decide.Cancel(reason="no")))
        target, other = await perform(Topics("target", "other"))
        assert "CancelRequested" not in target
        await perform(Append("waiter", e.CancelDelivered(at=3, kind="cancel", reason="no")))
        target, other = await perform(Topics("target", "other"))
        assert target[-1] == "CancelRequested"
        assert "CancelRequested" not in other
        assert (await perform(Last("target")))["cause"]["instance"] == "waiter"

    on_a_log(test)


def test_a_time_out_leaves_children_alone() -> None:
    async def test(perform: Perform) -> None:
        await perform(Append("waiter", e.ChildStarted(at=2, path="one", instance="target", workflow="w")))
        await perform(Append("waiter", e.CancelDelivered(at=3, kind="timeout")))
        (target,) = await perform(Topics("target"))
        assert "CancelRequested" not in target

    on_a_log(test)
