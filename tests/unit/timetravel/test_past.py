"""`inst.at`, `inst.follow` and `inst.history` by time, and what an engine keeps at hand for them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import (
    Engine,
    InstanceNotFound,
    InstanceState,
    RecordedEvent,
    Status,
    Step,
    StepView,
    UnknownMoment,
    testing,
    workflow,
)
from wfes.core import chain
from wfes.core import events as e
from wfes.log.application import body_bytes
from wfes.log.archive import FileArchive
from wfes.log.memory import MemoryLog
from wfes.timetravel import index as indexes
from wfes.timetravel import past as pasts


class Tally(BaseModel):
    count: int = 0


class Order(BaseModel):
    items: list[str]


@workflow(state=Tally, requests={"go": bool})
async def order(order: Order, step: Step, state: Tally) -> int:
    for item in order.items:
        state.count += await step("weigh", len, item, thread=False)
    await step.progress("weighed", percent=50)
    await step.request("go")
    await step.sleep("rest", "1h")
    return state.count


async def started() -> Any:
    return await order.start(Order(items=["tea", "cup"]), id="o")


def run(test: Any) -> None:
    asyncio.run(test)


def test_everything_is_as_it_was() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            instance = await started()
            await env.settle()
            (request,) = (await env.engine.requests()).items
            asked = (await instance.refresh()).version
            await order.provide(request, True, actor="alice")
            await env.advance("1h")
            assert await instance.result() == 6

            first = await instance.at(1)
            assert (first.version, first.status, dict(first.steps)) == (1, Status.PENDING, {})
            assert first.input == Order(items=["tea", "cup"])
            assert first.state == Tally()
            assert first.at == first.created_at

            then = await instance.at(asked)
            assert isinstance(then, InstanceState)
            assert then.status is Status.LISTENING
            assert then.state == Tally(count=6)
            assert [(wait.kind, wait.name) for wait in then.waiting_for] == [("request", "go")]
            assert then.progress is not None
            assert (then.progress.message, then.progress.percent) == ("weighed", 50)
            assert list(then.steps) == ["weigh", "weigh#2"]
            view = then.steps["weigh"]
            assert isinstance(view, StepView)
            assert (view.status, view.attempts, view.result, view.error) == ("completed", 1, 3, None)
            assert view.ended_at is not None
            assert view.started_at <= view.ended_at
            assert "weigh#3" not in then.steps
            with pytest.raises(KeyError):
                then.steps["weigh#3"]
            assert then.output is None

            last = await instance.at((await instance.refresh()).version)
            assert (last.status, last.output, last.waiting_for) == (Status.COMPLETED, 6, [])
            assert repr(last) == f"<InstanceState 'o' of 'order' at {last.version}: completed>"

    run(main())


def test_by_time() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            began = datetime(2030, 1, 1, tzinfo=UTC)  # where virtual time begins
            await env.advance("1h")
            instance = await started()
            await env.settle()
            (request,) = (await env.engine.requests()).items
            await env.advance("1h")
            before = (await instance.refresh()).version
            await order.provide(request, True)
            await env.advance("1h")
            await instance.result()

            half = began + timedelta(hours=1, minutes=30)
            assert (await instance.at(half)).version == before
            assert (await instance.at(began + timedelta(days=9))).status is Status.COMPLETED
            with pytest.raises(UnknownMoment, match="was not there at 2030-01-01T00:30:00"):
                await instance.at(began + timedelta(minutes=30))
            with pytest.raises(ValueError, match="naive"):
                await instance.at(datetime(2030, 1, 1))

            upto = await instance.history(upto=half)
            assert [event.version for event in upto] == list(range(1, before + 1))
            rest = await instance.history(after=half)
            assert rest[0].version == before + 1
            assert len(upto) + len(rest) == (await instance.refresh()).version
            assert await instance.history(upto=began) == []
            with pytest.raises(ValueError, match="naive"):
                await instance.history(after=datetime(2030, 1, 1))

    run(main())


@pytest.mark.parametrize("asked", [0, -1, 99])
def test_a_version_that_there_is_not(asked: int) -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            instance = await started()
            await env.settle()
            with pytest.raises(LookupError, match=rf"has no version {asked}: its versions are 1 to \d+$"):
                await instance.at(asked)

    run(main())


@pytest.mark.parametrize("asked", [True, "3", None, 1.5])
def test_what_is_no_moment(asked: Any) -> None:
    async def main() -> None:
        async with testing.engine([order]):
            instance = await started()
            with pytest.raises(TypeError, match=r"version .* or an aware datetime"):
                await instance.at(asked)

    run(main())


def test_an_instance_that_there_is_not() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            with pytest.raises(InstanceNotFound):
                await env.engine.at("nobody", 1)
            with pytest.raises(InstanceNotFound):
                await env.engine.at("$workflow/order", 1)
            with pytest.raises(InstanceNotFound):
                async for _ in env.engine.follow("nobody"):
                    pass

    run(main())


# ------------------------------------------------------------------------------------------------ follow


def test_follow_gives_what_was_and_what_comes_and_ends_with_the_instance() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            instance = await started()
            await env.settle()
            (request,) = (await env.engine.requests()).items
            seen: list[RecordedEvent] = []

            async def follow() -> None:
                async for event in instance.follow():
                    seen.extend([event])

            following = asyncio.create_task(follow())
            while len(seen) < (await instance.refresh()).version:
                await asyncio.sleep(0.001)
            assert not following.done()
            await order.provide(request, True)
            await env.advance("1h")
            await following
            assert seen == await instance.history()
            assert seen[-1].type == "WorkflowCompleted"
            assert [event.version async for event in instance.follow(after=3)] == [
                event.version for event in seen[3:]
            ]
            assert [event async for event in instance.follow(after=seen[-1].version)] == []

    run(main())


def test_follow_ends_when_the_engine_is_closed() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            instance = await started()
            await env.settle()
            seen: list[int] = []

            async def follow() -> None:
                async for event in instance.follow():
                    seen.extend([event.version])

            following = asyncio.create_task(follow())
            while len(seen) < (await instance.refresh()).version:
                await asyncio.sleep(0.001)
        await asyncio.wait_for(following, 10)

    run(main())


def test_follow_goes_on_where_a_failed_one_is_retried_meanwhile() -> None:
    attempts = 0

    async def main() -> None:
        nonlocal attempts

        @workflow
        async def fickle(step: Step) -> str:
            async def work() -> str:
                nonlocal attempts
                attempts += 1
                if attempts == 1:
                    raise LookupError("not yet")
                return "done"

            return await step("work", work, max_attempts=1)

        async with testing.engine([fickle]) as env:
            instance = await fickle.start()
            await env.settle()
            assert (await instance.refresh()).status is Status.FAILED
            await instance.retry()
            types = [event.type async for event in instance.follow()]
            assert types[-1] == "WorkflowCompleted"
            assert "WorkflowFailed" in types
            steps = (await instance.at(5)).steps
            assert (await instance.refresh()).status is Status.COMPLETED
            failed = next(view for view in steps.values())
            assert failed.error is None or failed.error.matches(LookupError)

    run(main())


# ------------------------------------------------------------------------------------------------ what is kept


def stored(id: str, events: list[e.Event], position: int = 0) -> list[Any]:
    rows: list[Any] = []
    prev = chain.GENESIS
    for version, event in enumerate(events, 1):
        state = prev + body_bytes(event)
        rows.append((position + version, id, version, event.topic, state))
        prev = chain.digest(id, version, event.topic, state)
    return rows


def chained(steps: int) -> list[e.Event]:
    found: list[e.Event] = [e.WorkflowStarted(at=1, workflow="w"), e.RunClaimed(at=2, worker="w", epoch=1)]
    for number in range(steps):
        found.append(e.StepStarted(at=3 + number, path=f"s{number}"))
        found.append(e.StepCompleted(at=3 + number, path=f"s{number}", result="x" * number))
    return found


def test_only_so_many_histories_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasts, "INDEXED_EVENTS_MAX", 50)
    from wfes.history import Histories
    from wfes.runtime.values import Values

    log = MemoryLog()
    log.open([])
    write = log.begin()
    position = 0
    for id in "abc":
        rows = stored(id, chained(10), position)
        write.insert(rows)
        position += len(rows)
    write.commit()
    kept = pasts.Pasts(Histories(log, Values(lambda _: None)))
    first = kept.index("a")
    assert kept.index("a") is first
    kept.index("b")
    assert kept.index("a") is first
    kept.index("c")
    assert kept.index("a") is first
    assert kept.index("b").version == 22
    with pytest.raises(InstanceNotFound):
        kept.index("d")


def test_a_history_that_is_archived_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from the archive once, not for every question."""
    monkeypatch.setattr(indexes, "SPACING", 4)
    reads: list[str] = []
    read = FileArchive.read

    def counted(self: FileArchive, file: str, offset: int, length: int) -> Any:
        reads.append(file)
        return read(self, file, offset, length)

    monkeypatch.setattr(FileArchive, "read", counted)

    @workflow
    async def many(step: Step) -> None:
        for number in range(20):
            await step("s", str, number, thread=False)

    async def main() -> None:
        async with Engine(f"sqlite:///{tmp_path}/log.db", workflows=[many]) as engine:
            instance = await many.start(id="m")
            await instance.result()
            before = [await instance.at(version) for version in range(1, 30)]
            await engine.prune(older_than=timedelta(0))
            reads.clear()
            after = [await instance.at(version) for version in range(1, 30)]
            assert before == after
            assert len(reads) <= 2
            newest = await instance.at(datetime.now(UTC))
            assert newest.status is Status.COMPLETED
            assert newest.version == (await instance.refresh()).version

    run(main())


def test_steps_that_a_fold_forgets() -> None:
    """What an event makes undone is not there from then on, and was there before."""
    from wfes.history import Histories
    from wfes.runtime.values import Values

    log = MemoryLog()
    log.open([])
    write = log.begin()
    forked = e.HistoryForked(at=9, origin="o", forked_at=5, results={"b": 99}, changed=True)
    events = [*chained(1), e.StepStarted(at=5, path="b"), e.StepStarted(at=6, path="c"), forked]
    write.insert(stored("a", events))
    write.commit()
    index = indexes.Index("a", Histories(log, Values(lambda _: None)))
    index.catch_up()
    assert [*index.steps(index.state(6))] == ["s0", "b", "c"]
    assert len(index.steps(index.state(6))) == 3
    assert [*index.steps(index.state(7))] == ["s0", "c"]
    assert len(index.steps(index.state(7))) == 2
