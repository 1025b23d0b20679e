"""Forks: what is kept, what is changed, what runs again, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from checks import unlike_rebuilt
from pydantic import BaseModel

from wfes import (
    Concurrency,
    Engine,
    ForkRefused,
    InstanceExists,
    InstanceNotFound,
    InvalidInput,
    NotSupported,
    Retry,
    Status,
    Step,
    StepInterrupted,
    WfesError,
    Workflow,
    workflow,
)
from wfes.core import events as e
from wfes.testing import engine as virtual
from wfes.timetravel.fork import Wanted

calls: list[tuple[Any, ...]] = []


class Price(BaseModel):
    amount: int
    currency: str = "EUR"


def look_up(item: str) -> Price:
    calls.append(("look_up", item))
    return Price(amount=10)


def ship(amount: int) -> str:
    calls.append(("ship", amount))
    return f"shipped for {amount}"


@workflow(requests={"approval": bool})
async def order(item: str, step: Step) -> dict[str, Any]:
    """Price, ask, wait, ship."""
    price = await step("price", look_up, item)
    approved = await step.request("approval", f"{price.amount}?")
    await step.sleep("cool off", "1h")
    sent = await step("ship", ship, price.amount)
    return {"amount": price.amount, "approved": approved, "sent": sent}


async def done(engine: Engine) -> Any:
    """An order that is completed."""
    run = await engine.start(order, "tea", tags=["a"], key="k", actor="bob")
    await answered(engine, run.id, True)
    await run.result()
    calls.clear()
    return await run.refresh()


async def answered(engine: Engine, instance: str, data: Any) -> str:
    for _ in range(2_000):
        for request in (await engine.requests()).items:
            if request.instance == instance:
                await engine.provide(None, request, data)
                return request.id
        await asyncio.sleep(0.001)
    raise AssertionError("nothing was asked")


async def version_of(run: Any, type: str, path: str | None = None) -> int:
    for event in await run.history():
        if event.type == type and path in (None, event.data.get("path")):
            return int(event.version)
    raise AssertionError(type)


def running(test: Any, *workflows: Workflow[Any, Any]) -> None:
    async def main() -> None:
        async with virtual(workflows or [order]) as env:
            engine = env.engine
            ahead = asyncio.create_task(env.clock.run_ahead())
            await test(engine)
            ahead.cancel()
            assert await unlike_rebuilt(engine) == []
            assert not await held(engine)

    asyncio.run(main())


async def held(engine: Engine) -> list[Any]:
    """What was paused by the engine itself, and why."""
    found: list[Any] = []
    head = (await engine.instances()).position
    async for event in engine.events():
        if event.type == "WorkflowPaused" and event.data["held"]:
            found.append(event.data)
        if event.position >= head:
            break
    return found


# ---------------------------------------------------------------------------------------------- unchanged


def test_a_fork_is_an_instance_of_its_own() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        before = await run.history()
        fork = await run.fork(await version_of(run, "SleepScheduled"), actor="alice", id="mine")
        assert (fork.id, fork.forked_from) == ("mine", run.id)
        assert (fork.key, fork.parent, fork.conversation, fork.deadline) == (None, None, None, None)
        assert fork.tags == ("a",)
        assert fork.waiting_for == (await run.at(fork.forked_at)).waiting_for
        assert await fork.result() == run.output
        assert calls == [("ship", 10)]
        history = await fork.history()
        at = fork.forked_at
        assert [event.copied for event in history] == ["kept"] * at + [None] * (len(history) - at)
        assert [(x.type, x.at, x.data) for x in history[1:at]] == [
            (x.type, x.at, x.data) for x in before[1:at]
        ]
        assert (history[at].type, history[at].actor) == ("HistoryForked", "alice")
        assert history[0].actor == "bob"
        assert await run.history() == before
        (row,) = await run.forks()
        assert (row.id, row.at, row.actor, row.created_at) == ("mine", at, "alice", fork.created_at)
        assert (await fork.replay()).ok

    running(test)


def test_by_time_and_after_the_end() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        history = await run.history()
        fork = await run.fork(history[3].at + timedelta(microseconds=1))
        assert fork.forked_at >= 4
        end = await run.fork(run.version)
        assert (end.status, end.output) == (Status.COMPLETED, run.output)
        assert await end.result() == run.output
        assert await run.fork(run.version, id=end.id) == end  # the same once more

    running(test)


def test_open_requests_get_new_ids_and_sleeps_keep_their_time() -> None:
    async def test(engine: Engine) -> None:
        run = await engine.start(order, "tea")
        while not (await engine.requests()).items:
            await asyncio.sleep(0.001)
        fork = await run.fork((await run.refresh()).version)
        mine, other = (await engine.requests(limit=10)).items
        assert {mine.instance, other.instance} == {run.id, fork.id}
        assert mine.id != other.id
        assert await answered(engine, fork.id, False)
        assert (await fork.result())["approved"] is False
        assert (await run.refresh()).status == Status.LISTENING
        await answered(engine, run.id, True)
        await run.result()
        asleep = await run.at(await version_of(run, "SleepScheduled"))
        second = await run.fork(asleep.version)
        assert second.waiting_for == asleep.waiting_for

    running(test)


# ------------------------------------------------------------------------------------------------ changed


def test_a_changed_result() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        at = await version_of(run, "SleepEnded")
        fork = await run.fork(at, results={"price": {"amount": 7}}, actor="alice")
        assert await fork.result() == {"amount": 7, "approved": True, "sent": "shipped for 7"}
        assert calls == [("ship", 7)]
        history = await fork.history()
        assert [(x.version, x.type, x.actor) for x in history if x.copied == "changed"] == [
            (4, "StepCompleted", "alice")
        ]
        assert {x.data["event"] for x in history if x.copied == "reused"} == {"RequestEnded", "SleepEnded"}
        assert (await fork.replay()).ok
        assert "given by path" in str(await run.fork_plan(at, results={"price": Price(amount=7)}))

    running(test)


def test_results_that_are_not_reached_are_marked() -> None:
    @workflow
    async def branches(way: int, step: Step) -> str:
        way = await step("way", abs, way)
        return await step(f"branch {way}", ship, way)

    async def test(engine: Engine) -> None:
        run = await engine.start(branches, 1)
        await run.result()
        fork = await run.fork((await run.refresh()).version, results={"way": 2})
        assert await fork.result() == "shipped for 2"
        assert [x.copied for x in await fork.history() if x.type == "EventVoided"] == [
            "void",
            "unused",
            "void",
        ]
        assert set((await fork.at((await fork.refresh()).version)).steps) == {"way", "branch 2"}

    running(test, branches)


def test_a_changed_input_and_by_path() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        fork = await run.fork(run.version, input="cups")
        assert fork.input == "cups"
        assert await fork.result() == run.output
        assert calls == []
        fork = await run.fork(await version_of(run, "RequestEnded"), by_path=True)
        assert await fork.result() == run.output
        assert calls == [("ship", 10)]
        assert (await fork.replay()).ok

    running(test)


def test_progress_is_made_anew() -> None:
    @workflow
    async def reports(number: int, step: Step) -> None:
        await step.progress(f"has {number}")
        await step.listen("go")

    async def test(engine: Engine) -> None:
        run = await engine.start(reports, 1)
        while not run.waiting_for:
            await run.refresh()
        fork = await run.fork(run.version, input=2)
        while not fork.waiting_for:
            await asyncio.sleep(0.001)
            await fork.refresh()
        assert run.progress is not None
        assert fork.progress is not None
        assert (run.progress.message, fork.progress.message) == ("has 1", "has 2")

    running(test, reports)


def test_changed_and_dropped_events() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        given = await version_of(run, "DataProvided")
        with pytest.raises(ForkRefused, match=f"data of version {given} does not fit"):
            await run.fork(run.version, events={given: {"data": "perhaps"}})
        fork = await run.fork(run.version, events={given: {"data": False}})
        assert (await fork.result())["approved"] is False
        assert calls == []
        fork = await run.fork(run.version, events={given: None})
        await answered(engine, fork.id, False)
        assert (await fork.result())["approved"] is False
        fork = await run.fork(run.version, events={await version_of(run, "StepCompleted", "ship"): None})
        await fork.result()
        assert calls == [("ship", 10)]

    running(test)


def test_what_was_consumed_for_a_result_is_nobody_elses() -> None:
    @workflow
    async def twice(number: int, step: Step) -> list[Any]:
        found: list[Any] = [await step("first", abs, number)]
        found.append(await step.listen("one", event="x"))
        found.append(await step.listen("two", event="x"))
        return found

    async def test(engine: Engine) -> None:
        run = await engine.start(twice, 1, delay="1h")
        await run.send("x", "a")
        await run.send("x", "b")
        assert await run.result() == [1, "a", "b"]
        await run.refresh()
        sent = [event.version for event in await run.history() if event.type == "EventReceived"]
        fork = await run.fork(run.version, results={"first": 9}, events={sent[1]: None})
        while fork.status in (Status.PENDING, Status.IN_PROGRESS):
            await asyncio.sleep(0.001)
            await fork.refresh()
        await fork.send("x", "c")
        assert await fork.result() == [9, "a", "c"]
        assert (await fork.replay()).ok

    running(test, twice)


def test_results_given_before_they_are_asked_for() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        fork = await run.fork(2, results={"price": Price(amount=1), "ship": "by hand", "approval": True})
        assert await fork.result() == {"amount": 1, "approved": True, "sent": "by hand"}
        assert calls == []
        asked = await run.fork(await version_of(run, "RequestIssued"), results={"approval": False})
        assert (await engine.requests()).items == []
        assert (await asked.result())["approved"] is False

    running(test)


def test_a_failed_step() -> None:
    async def broken() -> int:
        calls.append(("broken",))
        raise LookupError("no")

    @workflow
    async def fails(step: Step) -> int:
        await step("before", ship, 1)
        return await step("broken", broken, max_attempts=2) + 1

    async def test(engine: Engine) -> None:
        run = await engine.start(fails)
        with pytest.raises(WfesError):
            await run.result()
        await run.refresh()
        calls.clear()
        mended = await run.fork(run.version, results={"broken": 1})
        assert await mended.result() == 2
        assert calls == []
        again = await run.fork(await version_of(run, "StepAttemptFailed"))
        with pytest.raises(WfesError, match="no"):
            await again.result()
        assert calls == [("broken",)]
        ended = await run.fork(run.version)
        assert ended.status == Status.FAILED
        await ended.retry()
        with pytest.raises(WfesError):
            await (await ended.refresh()).result()

    running(test, fails)


def test_nested_steps() -> None:
    @workflow
    async def nests(step: Step) -> Any:
        async def outer() -> list[Any]:
            calls.append(("outer",))
            return [await step("one", ship, 1), await step("two", ship, 2)]

        return await step("outer", outer)

    async def test(engine: Engine) -> None:
        run = await engine.start(nests)
        await run.result()
        calls.clear()
        await run.refresh()
        fork = await run.fork(run.version, results={"outer/one": "changed"})
        assert await fork.result() == ["changed", "shipped for 2"]
        assert calls == [("outer",)]
        assert (await fork.replay()).ok

    running(test, nests)


# --------------------------------------------------------------------------------- others it has to do with


@workflow
async def child(number: int, step: Step) -> int:
    """Waits to be told."""
    return number + int(await step.listen("go"))


@workflow
async def parent(number: int, step: Step) -> int:
    """Waits for a child."""
    told: int = await step.execute_workflow("child", child, number)
    return told


def test_children() -> None:
    async def test(engine: Engine) -> None:
        run = await engine.start(parent, 1)
        while not run.waiting_for:
            await run.refresh()
        (one,) = (await engine.instances(child)).items
        unfinished = await run.fork(run.version)
        rows = {row.id: row for row in (await engine.instances(child)).items}
        (new,) = rows.keys() - {one.id}
        assert rows[new].parent == unfinished.id
        await (await engine.get(new)).send("go", 10)
        assert await unfinished.result() == 11
        assert (await (await engine.get(one.id)).refresh()).status == Status.LISTENING
        await (await engine.get(one.id)).send("go", 1)
        assert await run.result() == 2
        kept = await run.fork(await version_of(run, "ChildStarted"))
        assert await kept.result() == 2
        assert len((await engine.instances(child)).items) == 2
        plan = await run.fork_plan(await version_of(run, "ChildStarted"))
        assert [part.note for part in plan.parts] == ["its child has ended since"]

    running(test, parent, child)


def test_limited_concurrency_counts_a_fork() -> None:
    class By(BaseModel):
        who: str

    @workflow(concurrency=Concurrency(1, key="who"))
    async def limited(by: By, step: Step) -> str:
        await step.listen("go")
        return by.who

    async def test(engine: Engine) -> None:
        run = await engine.start(limited, By(who="a"))
        while not run.waiting_for:
            await run.refresh()
        fork = await run.fork(run.version)
        assert fork.status == Status.PENDING
        assert "concurrency is limited" in str(fork.reason)
        other = await run.fork(run.version, input=By(who="b"))
        await other.send("go")
        assert await other.result() == "b"
        await run.send("go")
        await fork.send("go")
        assert await run.result() == await fork.result() == "a"

    running(test, limited)


def test_at_most_once_and_interruptions() -> None:
    async def slow() -> str:
        await asyncio.sleep(0.01)
        return "done"

    @workflow
    async def once(step: Step) -> str:
        try:
            return await step("only", slow, on_interrupt="fail")
        except StepInterrupted:
            return "interrupted"
        finally:
            await step("clean up", ship, 0)

    async def test(engine: Engine) -> None:
        run = await engine.start(once)
        assert await run.result() == "done"
        await run.refresh()
        fork = await run.fork(await version_of(run, "StepStarted", "only"))
        assert await fork.result() == "done"

    running(test, once)


def test_a_cancelled_one_goes_on_without_its_cancellation() -> None:
    async def test(engine: Engine) -> None:
        run = await engine.start(order, "tea")
        while not (await engine.requests()).items:
            await asyncio.sleep(0.001)
        await run.cancel("enough")
        with pytest.raises(WfesError):
            await run.result()
        await run.refresh()
        as_it_was = await run.fork(await version_of(run, "CancelRequested"))
        with pytest.raises(WfesError):
            await as_it_was.result()
        going_on = await run.fork(run.version, events={await version_of(run, "CancelRequested"): None})
        await answered(engine, going_on.id, True)
        assert (await going_on.result())["approved"] is True

    running(test)


def test_it_counts_once() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        await engine.statistics()
        for at in (3, 5, run.version):
            fork = await run.fork(at)
            if fork.waiting_for or at == 3:
                await answered(engine, fork.id, True)
            await fork.result()
        position = (await engine.instances()).position
        found = (await engine.statistics(order, at_least=position)).value.workflows["order"]
        assert (found.started, found.completed) == (3, 3)
        assert found.steps["price"].started == 2  # its origin's, and the one that was open at 3
        assert found.steps["ship"].completed == 3

    running(test)


def test_large_values_are_shared() -> None:
    async def large() -> str:
        return "x" * 2_000_000

    @workflow
    async def heavy(step: Step) -> int:
        return len(await step("large", large))

    async def test(engine: Engine) -> None:
        run = await engine.start(heavy)
        assert await run.result() == 2_000_000
        await run.refresh()
        fork = await run.fork(4)
        assert await fork.result() == 2_000_000
        fork = await run.fork(run.version, results={"large": "y" * 3_000_000})
        assert await fork.result() == 3_000_000
        fork = await run.fork(run.version, by_path=True)
        assert await fork.result() == 2_000_000
        assert (await fork.at((await fork.refresh()).version)).steps["large"].result == "x" * 2_000_000

    running(test, heavy)


def test_what_is_looked_at_later() -> None:
    """A result that is too large to be kept at hand, given by path; an origin that is archived, and its forks."""

    async def text() -> str:
        return "x" * 5_000

    @workflow
    async def heavy(step: Step) -> int:
        return len(await step("large", text))

    async def test(engine: Engine) -> None:
        run = await engine.start(heavy)
        await run.result()
        await run.refresh()
        fork = await run.fork(run.version, by_path=True)
        assert await fork.result() == 5_000
        assert (await fork.at((await fork.refresh()).version)).steps["large"].result == "x" * 5_000
        versions = run.version
        assert (await engine.prune(heavy, older_than=0)).instances == 2
        await run.refresh()
        for at in (run.version, versions, 4):
            again = await run.fork(at)
            assert again.forked_at == min(at, versions)
            assert await again.result() == 5_000
        assert len(await run.forks()) == 4
        second = await fork.fork((await fork.refresh()).version, results={"large": "yy"})
        assert await second.result() == 2

    running(test, heavy)


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("at", "changes", "words"),
    [
        (0, {}, "versions 1 to"),
        (99, {}, "versions 1 to"),
        (datetime(2000, 1, 1, tzinfo=UTC), {}, "started later"),
        (8, {"results": {"prize": 1}}, "no step or wait 'prize'.*'price'"),
        (8, {"results": {"price": "much"}}, "the result of 'price' does not fit"),
        (8, {"results": {"approval": "perhaps"}}, "the result of 'approval' does not fit"),
        (8, {"results": {"cool off": 1}}, "sleep, which has no result"),
        (8, {"events": {12: None}}, "no version 12 in what the fork begins with"),
        (8, {"events": {2: None}}, "RunClaimed, which cannot be dropped"),
        (8, {"events": {1: None}}, "WorkflowStarted, which cannot be dropped"),
        (8, {"events": {3: {"path": "x"}}}, "StepStarted; nothing of it can be changed"),
        (8, {"events": {4: {"attempt": 2}}}, "only its 'result' can"),
    ],
)
def test_refused(at: Any, changes: dict[str, Any], words: str) -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        position = (await engine.instances()).position
        with pytest.raises(ForkRefused, match=words):
            await run.fork(at, **changes)
        with pytest.raises(ForkRefused, match=words):
            await run.fork_plan(at, **changes)
        assert (await engine.instances()).position == position

    running(test)


def test_wrong_arguments() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        with pytest.raises(InvalidInput):
            await run.fork(3, input=object())
        for arguments in (
            {"at": "3"},
            {"at": True},
            {"at": 3, "results": ["price"]},
            {"at": 3, "results": {1: 2}},
            {"at": 3, "events": {"1": None}},
            {"at": 4, "events": {4: 7}},
            {"at": 3, "actor": 7},
        ):
            with pytest.raises(TypeError):
                await run.fork(**arguments)
        with pytest.raises(ForkRefused, match="aware"):
            await run.fork(datetime(2030, 1, 1))
        await run.fork(3, id="mine")
        with pytest.raises(InstanceExists):
            await run.fork(4, id="mine")
        with pytest.raises(InstanceExists):
            await run.fork(4, id=run.id)
        with pytest.raises(InstanceNotFound):
            await engine.fork("nobody", Wanted(at=1))

    running(test)


def test_a_fork_of_a_fork_begins_behind_what_it_begins_with() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        fork = await run.fork(5, results={"price": {"amount": 3}})
        with pytest.raises(
            ForkRefused, match=f"versions 1 to 6 belong together, for it is a fork of {run.id!r}"
        ):
            await fork.fork(5)
        await answered(engine, fork.id, True)
        await fork.result()
        second = await fork.fork((await fork.refresh()).version, results={"ship": "by hand"})
        assert (await second.result())["sent"] == "by hand"
        assert second.forked_from == fork.id
        assert [row.id for row in await run.forks()] == [fork.id]

    running(test)


def test_in_a_handler_it_is_refused_and_in_a_step_it_is_made_once() -> None:
    @workflow
    async def forker(id: str, step: Step) -> list[str]:
        async def make(attempt: int) -> str:
            run = await order.get(id)
            fork = await run.fork(3)
            if attempt == 1:
                raise ConnectionError
            return fork.id

        try:
            await (await order.get(id)).fork(3)
        except NotSupported as error:
            return [str(error), await step("make", make, retry=Retry(initial="1ms"))]
        raise AssertionError("it was made")

    async def test(engine: Engine) -> None:
        run = await done(engine)
        told, id = await (await engine.start(forker, run.id)).result()
        assert "step's function" in told
        assert [row.id for row in await run.forks()] == [id]

    running(test, order, forker)


def test_what_the_copies_were_is_in_the_log_as_it_was() -> None:
    async def test(engine: Engine) -> None:
        run = await done(engine)
        fork = await run.fork(5)
        raw = engine._parts.histories.rest(fork.id)
        assert all(recorded.copied == e.Copied() for recorded in raw[:5])
        assert isinstance(raw[5].event, e.HistoryForked)
        assert raw[5].copied is None

    running(test)
