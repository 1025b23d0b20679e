"""Waits: sleeps, listeners, requests, other instances."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import (
    ChildWorkflowError,
    Event,
    InstanceNotFound,
    InvalidData,
    InvalidInput,
    Request,
    RequestNotPending,
    Step,
    UnknownRequest,
    WaitTimeout,
    workflow,
)
from wfes.core import events as e
from wfes.core.decide import Cancel, Provide, Send
from wfes.simulation import START

SECOND = 1_000_000


class Payment(BaseModel):
    amount: int


def seconds(sim: Any) -> float:
    return float(sim.now - START) / SECOND


async def same_at_every_cut(sim: Any, id: str) -> None:
    expected = sim.output(id)
    for other in sim.cuts():
        await other.run()
        assert other.output(id) == expected, other.types(id)


# ------------------------------------------------------------------------------------------------ sleeps


def test_sleeps_last_exactly_and_are_durable(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[datetime]:
        first = step.now()
        await step.sleep("a", "1h30m")
        await step.sleep_until("b", first + timedelta(hours=2))
        await step.sleep_until("past", datetime(2001, 1, 1, tzinfo=UTC))
        await step.sleep("none", 0)
        return [first, step.now()]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        first, last = sim.output(id)
        assert last - first == timedelta(hours=2)
        assert seconds(sim) == 7200
        await same_at_every_cut(sim, id)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda step: step.sleep("z", -1), ValueError, "-1"),
        (lambda step: step.sleep("z", "soon"), ValueError, "soon"),
        (lambda step: step.sleep("z/a", 1), ValueError, "z/a"),
        (lambda step: step.sleep_until("z", datetime(2030, 1, 1)), ValueError, "2030"),
        (lambda step: step.sleep_until("z", "2030-01-01"), TypeError, "2030"),
        (lambda step: step.listen("z", timeout=-1), ValueError, "-1"),
        (lambda step: step.request("nope"), UnknownRequest, "nope"),
        (lambda step: step.request("ok", timeout="x"), ValueError, "x"),
        (lambda step: step.request("ok", name="a#b"), ValueError, "a#b"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_recorded(
    make_sim: Any, call: Any, error: type[Exception], named: str
) -> None:
    @workflow(requests={"ok": bool})
    async def wf(step: Step) -> str:
        try:
            await call(step)
        except error as raised:
            return str(raised)
        return "accepted"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert named in sim.output(id)
        assert sim.output(id) != "accepted"
        assert sim.types(id) == ["WorkflowStarted", "RunClaimed", "WorkflowCompleted"]

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ events


def test_events_sent_before_are_kept_and_consumed_in_order(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        await step.sleep("z", 10)
        found = [await step.listen("one", event="e"), await step.listen("other")]
        found += [await step.listen("two", event="e"), await step.listen("three", event="e")]
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        for payload in (1, 2):
            sim.do(id, Send(event="e", payload=payload))
        sim.do(id, Send(event="other", payload="o", id="once"))
        assert sim.do(id, Send(event="other", payload="o", id="once")) == []
        sim.later(20, lambda: sim.do(id, Send(event="e", payload=3)))
        await sim.run()
        assert sim.output(id) == [1, "o", 2, 3]
        for other in sim.cuts(first=12):
            await other.run()
            if other.now >= START + 20 * SECOND:
                assert other.output(id) == [1, "o", 2, 3]

    asyncio.run(main())


def test_two_listeners_of_one_event_get_one_each_in_the_order_they_were_opened(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        return list(await asyncio.gather(step.listen("a", event="e"), step.listen("b", event="e")))

    async def main() -> None:
        for linger in (500_000, 60_000_000):
            sim = make_sim(wf)
            sim.host.linger_micros = linger
            id = sim.start(wf)
            for k in (1, 2):
                sim.later(5 * k, lambda k=k, sim=sim, id=id: sim.do(id, Send(event="e", payload=k)))
            await sim.run()
            assert sim.output(id) == [1, 2]

    asyncio.run(main())


def test_payloads_of_typed_events_are_validated(make_sim: Any) -> None:
    paid = Event("paid", Payment)

    @workflow
    async def wf(step: Step) -> list[Any]:
        found: list[Any] = [(await step.listen("a", event=paid)).amount]
        try:
            await step.listen("b", event=paid)
        except InvalidData as error:
            found.append("paid" in str(error))
        found.append(await step.listen("c", event="number", returns=int))
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.host.engine.calls.send(id, paid, Payment(amount=3)).run(sim.log)
        sim.host.engine.calls.send(id, "paid", {"amount": "much"}).run(sim.log)
        sim.host.engine.calls.send(id, "number", 4).run(sim.log)
        with pytest.raises(InvalidData):
            sim.host.engine.calls.send(id, paid, {"amount": "much"})
        await sim.run()
        assert sim.output(id) == [3, True, 4]
        for other in sim.cuts(first=4):
            await other.run()
            assert other.output(id) == [3, True, 4]

    asyncio.run(main())


def test_an_event_and_a_timeout_race_and_one_wins(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        found: list[Any] = []
        for _ in range(2):
            try:
                found.append(await step.listen("e", timeout=10))
            except WaitTimeout as error:
                found.append([error.name, isinstance(error, TimeoutError)])
        return found

    async def main() -> None:
        outcomes = []
        for micros in (-1, 0, 1):
            for seed in range(4):
                sim = make_sim(wf, seed=seed)
                sim.host.linger_micros = 60 * SECOND
                id = sim.start(wf)

                def send(sim: Any = sim, id: str = id) -> None:
                    sim.do(id, Send(event="e", payload="came"))

                sim.host.clock.call_at(START + 10 * SECOND + micros, send)
                await sim.run()
                outcomes.append(sim.output(id))
                replay = sim.cut(len(sim.log.committed) - 1)
                await replay.run()
                assert replay.output(id) == sim.output(id)
        late = [["e", True], "came"], ["came", ["e#2", True]]
        assert all(outcome in late for outcome in outcomes)
        assert outcomes[0] == late[1]

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ requests


def test_requests_are_answered_by_type_under_their_own_names(make_sim: Any) -> None:
    price = Request("price", Payment)

    @workflow(requests={"approval": bool})
    async def wf(step: Step) -> list[Any]:
        first = await step.request("approval", "Really?")
        second = await step.request("approval", name="once more", timeout="1h")
        third = await step.request(price)
        return [first, second, third.amount]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)

        def answer(data: Any) -> None:
            (wait,) = sim.state(id).waits.values()
            sim.do(id, Provide(id=wait.target, data=data))
            with pytest.raises(RequestNotPending):
                sim.do(id, Provide(id=wait.target, data=data))

        sim.later(1, lambda: answer(True))
        sim.later(2, lambda: answer(False))
        sim.later(3, lambda: answer({"amount": 5}))
        await sim.run()
        assert sim.output(id) == [True, False, 5]
        first, second, third = sim.events(id, e.RequestIssued)
        assert (first.path, first.message, first.schema) == ("approval", "Really?", {"type": "boolean"})
        assert (second.path, second.name) == ("once more", "approval")
        assert second.until is not None
        assert third.schema["properties"]["amount"]["type"] == "integer"
        assert len({first.id, second.id, third.id}) == 3

    asyncio.run(main())


def test_a_request_expires_and_is_not_pending_then(make_sim: Any) -> None:
    @workflow(requests={"ok": bool})
    async def wf(step: Step) -> str:
        try:
            await step.request("ok", timeout=10)
        except WaitTimeout:
            await step.sleep("z", 10)
            return "late"
        return "in time"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        refused = []

        def answer() -> None:
            (issued,) = sim.events(id, e.RequestIssued)
            try:
                sim.do(id, Provide(id=issued.id, data=True))
            except RequestNotPending:
                refused.append(1)

        sim.host.clock.call_at(START + 10 * SECOND, answer)
        sim.later(15, answer)
        await sim.run()
        assert sim.output(id) == "late"
        assert len(refused) == 2

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ other instances


@workflow
async def child(how: str, step: Step) -> str:
    await step.sleep("z", 5)
    if how == "fail":
        step.fail("no")
    if how == "abort":
        step.abort("enough")
    return how


def test_waiting_for_an_instance_gives_its_outcome_whatever_that_is(make_sim: Any) -> None:
    @workflow
    async def wf(ids: list[str], step: Step, workflow: Any) -> list[Any]:
        found: list[Any] = []
        for id in ids:
            outcome = await step.wait_for_workflow("w", id)
            found.append([outcome.id == id, str(outcome.status), outcome.output, bool(outcome.error)])
        for wrong in ("nobody", workflow.id):
            try:
                await step.wait_for_workflow("x", wrong)
            except (InstanceNotFound, ValueError) as error:
                found.append(type(error).__name__)
        try:
            await step.wait_for_workflow("y", ids[-1], timeout=1)
        except WaitTimeout:
            found.append("late")
        return found

    async def main() -> None:
        sim = make_sim(wf, child)
        ids = [sim.start(child, how) for how in ("fine", "fail", "abort", "fine")]
        sim.do(ids[3], Cancel())
        ended = sim.start(wf, ids, delay=60)
        running = sim.start(wf, ids)
        await sim.run()
        expected = [
            [True, "completed", "fine", False],
            [True, "failed", None, True],
            [True, "aborted", None, False],
            [True, "cancelled", None, False],
            "InstanceNotFound",
            "ValueError",
        ]
        assert sim.output(running) == expected
        assert sim.output(ended) == expected
        await same_at_every_cut_of(sim, [running, ended])

    asyncio.run(main())


async def same_at_every_cut_of(sim: Any, ids: list[str]) -> None:
    for other in sim.cuts(first=8):
        await other.run()
        for id in ids:
            if id in other.log.streams:
                assert other.output(id) == sim.output(id)


def test_a_child_is_started_exactly_once_and_its_end_is_raised_where_it_did_not_complete(
    make_sim: Any,
) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        found: list[Any] = []
        for how in ("fine", "fail", "abort"):
            try:
                found.append(await step.execute_workflow(how, child, how))
            except ChildWorkflowError as error:
                found.append([str(error.status), bool(error.id), bool(error.error)])
        try:
            await step.execute_workflow("late", child, "late", timeout=2)
        except WaitTimeout:
            found.append("late")
        try:
            await step.execute_workflow("wrong", child, 5)
        except InvalidInput:
            found.append("wrong")
        return found

    async def main() -> None:
        sim = make_sim(wf, child)
        id = sim.start(wf)
        await sim.run()
        expected = ["fine", ["failed", True, True], ["aborted", True, False], "late", "wrong"]
        assert sim.output(id) == expected
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == expected
            assert len([s for s in other.log.streams if not s.startswith("$")]) == 5
            started = other.events(id, e.ChildStarted)
            assert [other.state(s.instance).parent for s in started] == [id] * 4

    asyncio.run(main())


def test_cancelling_a_parent_cancels_its_children_and_theirs(make_sim: Any) -> None:
    @workflow
    async def middle(step: Step) -> str:
        return await step.execute_workflow("child", child, "fine")

    @workflow
    async def wf(step: Step) -> list[str]:
        return list(await asyncio.gather(*(step.execute_workflow("m", middle) for _ in range(2))))

    async def main() -> None:
        sim = make_sim(wf, middle, child)
        id = sim.start(wf)
        sim.later(2, lambda: sim.do(id, Cancel(reason="why")))
        await sim.run()
        states = list(sim.log._states.values())
        assert len(states) == 5
        assert {str(s.status) for s in states} == {"cancelled"}
        assert {s.reason for s in states} == {"why"}
        assert seconds(sim) == 2

    asyncio.run(main())


def test_a_child_cancelled_by_itself_is_told_to_its_parent(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        try:
            return await step.execute_workflow("child", child, "fine")
        except ChildWorkflowError as error:
            return str(error.status)

    async def main() -> None:
        sim = make_sim(wf, child)
        id = sim.start(wf)
        sim.later(2, lambda: sim.do(sim.events(id, e.ChildStarted)[0].instance, Cancel()))
        await sim.run()
        assert sim.output(id) == "cancelled"

    asyncio.run(main())
