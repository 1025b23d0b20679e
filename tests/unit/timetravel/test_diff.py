"""`inst.diff` and `wfes.diff`: where two histories part, what differs, and how that reads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Change, Engine, Retry, Step, StepError, UnknownMoment, diff, testing, workflow
from wfes.timetravel.diff_text import differences


class Order(BaseModel):
    items: list[str]
    fast: bool = True
    delay: float = 0.0


class Tally(BaseModel):
    total: int = 0


def refuse() -> None:
    raise ValueError("no card")


async def weigh(item: str, step: Step) -> int:
    return await step("inner", len, item)


@workflow(state=Tally, requests={"go": bool}, retry=Retry(max_attempts=2, initial="1ms"))
async def order(order: Order, step: Step, state: Tally) -> int:
    async def price(item: str) -> int:
        # Whichever is first: the other one's turn comes later.
        await asyncio.sleep(order.delay if item == order.items[0] else 0)
        return len(item)

    state.total = sum(await step.map("price", order.items, price))
    if not order.fast:
        await step.sleep("cool", "1ms")
        with suppress(StepError):
            await step("bad", refuse)
    await step.progress("priced", percent=50)
    if not await step.request("go", "Go?"):
        step.fail("not wanted")
    return state.total


async def over(env: testing.Environment, id: str, given: Order, answer: bool = True) -> Any:
    instance = await env.engine.start(order, given, id=id)
    await env.settle()
    await env.advance("1m")
    (request,) = (await env.engine.requests(instance=instance)).items
    await env.engine.provide(order, request, answer, actor="alice")
    await env.settle()
    return instance


def by_kind(changes: list[Change]) -> dict[tuple[str, str], Change]:
    return {(change.kind, change.path): change for change in changes}


def test_two_that_did_the_same_do_not_part() -> None:
    """In another order, at other times, on another engine."""

    async def main() -> None:
        async with testing.engine([order]) as env, testing.engine([order]) as other:
            a = await over(env, "a", Order(items=["tea", "cup"]))
            b = await over(other, "b", Order(items=["tea", "cup"], delay=0.0))
            found = await diff(a, b)
            assert not found
            assert (found.parting, found.changes) == (None, [])
            assert str(found).splitlines()[2:] == ["their histories do not part", "nothing differs"]
            assert (found.before.id, found.after.id) == ("a", "b")

    asyncio.run(main())


def test_the_order_of_what_ran_at_the_same_time_is_no_difference() -> None:
    async def main() -> None:
        @workflow
        async def race(slow: None, step: Step) -> None:
            async def wait(which: str) -> str:
                await asyncio.sleep(0.02 if which == first else 0)
                return which

            await step.map("run", ["a", "b"], wait)

        async with Engine("sqlite://", workflows=[race]):
            first = "a"
            one = await race.start(id="one")
            await one.result()
            first = "b"
            other = await race.start(id="other")
            await other.result()
            kinds = [[event.data.get("path") for event in await each.history()] for each in (one, other)]
            assert kinds[0] != kinds[1]
            assert not await diff(one, other)

    asyncio.run(main())


def test_where_they_part_and_what_differs() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            a = await over(env, "a", Order(items=["tea", "cup"]))
            b = await over(env, "b", Order(items=["tea", "kettle"], fast=False))
            found = await diff(a, b)
            assert found
            assert found.parting is not None
            assert found.parting.path == ""
            assert found.parting.before is not None
            assert found.parting.before.type == "WorkflowStarted"
            changes = by_kind(found.changes)
            assert changes["output", ""].before == 6
            assert changes["output", ""].after == 9
            assert (changes["state", "total"].before, changes["state", "total"].after) == (6, 9)
            assert found.steps.keys() == {"price/1", "bad"}
            assert found.steps["bad"].before is None
            assert found.steps["bad"].after.error.matches(ValueError)
            assert (found.steps["price/1"].before.result, found.steps["price/1"].after.result) == (3, 6)
            assert changes["wait", "cool"].after.kind == "sleep"
            lines = str(found).splitlines()
            assert 'input.items[1]  "cup" → "kettle"' in lines
            assert "input.fast  true → false" in lines
            assert "  ~ price/1  completed 3 → completed 6" in lines
            assert "  + bad  failed, 2 attempts: ValueError: no card" in lines
            assert "  + cool  sleep completed" in lines
            back = str(await diff(b, a)).splitlines()
            assert "  - bad  failed, 2 attempts: ValueError: no card" in back

    asyncio.run(main())


def test_an_answer_is_where_they_part() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            a = await over(env, "a", Order(items=["tea"]), True)
            b = await over(env, "b", Order(items=["tea"]), False)
            found = await diff(a, b)
            assert found.parting is not None
            assert found.parting.path == "go"
            assert found.parting.after is not None
            assert found.parting.after.type == "RequestEnded"
            changes = by_kind(found.changes)
            assert (changes["wait", "go"].before.result, changes["wait", "go"].after.result) == (True, False)
            assert changes["status", ""].after == "failed"
            assert changes["error", ""].after.message == "not wanted"
            text = str(found)
            assert "they part at go:" in text
            assert "~ go  request go completed true → request go completed false" in text

    asyncio.run(main())


def test_one_that_has_only_got_less_far_does_not_part() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            a = await over(env, "a", Order(items=["tea"]))
            b = await env.engine.start(order, Order(items=["tea"]), id="b")
            await env.settle()
            for found in (await diff(b, a), await diff(a, b), await diff(a, b, 4), await diff(a, b, 4, 5)):
                assert found.parting is None
                assert found.changes
                assert "their histories do not part" in str(found)

    asyncio.run(main())


def test_two_moments_of_one() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            a = await over(env, "a", Order(items=["tea"]))
            last = (await a.refresh()).version
            found = await a.diff(4, last)
            assert found.parting is None
            kinds = {change.kind for change in found.changes}
            assert kinds == {"status", "output", "state", "wait", "progress"}
            assert str(found).startswith("order a: version 4, 2030-01-01 00:00:00 UTC, in_progress → version")
            assert not await a.diff(last, last)
            assert (await a.diff(last, 4)).changes[0].after == "in_progress"
            assert (await a.diff(a.created_at, last)).before.status == "listening"
            with pytest.raises(UnknownMoment):
                await a.diff(1, last + 1)
            with pytest.raises(UnknownMoment):
                await a.diff(a.created_at - timedelta(seconds=1), last)
            with pytest.raises(TypeError):
                await a.diff(1, "x")

    asyncio.run(main())


def test_what_is_no_instance() -> None:
    async def main() -> None:
        async with testing.engine([order]) as env:
            a = await over(env, "a", Order(items=["tea"]))
            wrong: Any = "a"
            with pytest.raises(TypeError, match="compares instances, not 'a'"):
                await diff(a, wrong)

    asyncio.run(main())


def test_of_many_changes_the_first_are_written() -> None:
    async def main() -> None:
        @workflow
        async def many(number: int, step: Step) -> None:
            for each in range(number):
                await step("s", str, each, thread=False)

        async with testing.engine([many]):
            a, b = await many.start(1), await many.start(30)
            await a.result()
            await b.result()
            found = await diff(a, b)
            assert len(found.steps) == 29
            text = found.text(changes_max=5).splitlines()
            assert sum(line.startswith("  + s#") for line in text) == 5
            assert text[-1] == "  … and 24 more"
            assert "more" not in found.text(changes_max=100)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1, 1, []),
        (1, True, ["x"]),
        (1, 1.0, ["x"]),
        ({"a": 1}, {"a": 1, "b": None}, ["x.b"]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}, 4]}, ["x.a[1].b", "x.a[2]"]),
        ([], {}, ["x"]),
    ],
)
def test_places_at_which_values_differ(before: Any, after: Any, expected: list[str]) -> None:
    assert [place for place, _, _ in differences(before, after, "x")] == expected


def test_a_fork_parts_from_its_origin_where_it_was_changed() -> None:
    """What it was given of the origin's later outcomes, waits among them, is as it was there."""

    @workflow(requests={"go": bool})
    async def double(number: int, step: Step) -> int:
        first = await step("first", int, number, thread=False)
        go = await step.request("go")
        return await step("second", int, first + go, thread=False)

    async def main() -> None:
        async with testing.engine([double]) as env:
            origin = await double.start(3, id="origin")
            await env.settle()
            await double.provide((await env.engine.requests()).items[0], True)
            await origin.result()
            last = (await origin.refresh()).version
            same = await origin.fork(last - 3)
            await env.until(same.result())
            assert not await diff(origin, same)
            assert await same.at(4) == await origin.at(4)

            changed = await origin.fork(last, results={"first": 50})
            await env.until(changed.result())
            found = await diff(origin, changed)
            assert found.parting is not None
            assert found.parting.path == "first"
            assert found.parting.after is not None
            assert found.parting.after.data["result"] == 50
            assert [(change.kind, change.path) for change in found.changes] == [("step", "first")]

    asyncio.run(main())
