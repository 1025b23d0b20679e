"""Transactions in random programs, cut off behind every commit: one row for each completion, in the same order.

Beside the crash: conflicts with events from outside, and handlers that cancel.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wfes import Retry, Step, workflow
from wfes.core import decide
from wfes.core import events as e

FIXTURE = [HealthCheck.function_scoped_fixture]
"""It is a class, the same for every example."""
QUICK = Retry(initial=0.001, max="1ms")


def put(connection: list[Any], what: str, fails: int, attempt: int) -> str:
    connection.append(what)
    if attempt <= fails:
        raise ValueError("not yet")
    return what


async def put_async(connection: list[Any], what: str, fails: int, attempt: int) -> str:
    await asyncio.sleep(0)
    return put(connection, what, fails, attempt)


program = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["plain", "async", "step", "inside"]), st.integers(0, 2)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=3,
)


def made(program_: list[list[tuple[str, int]]]) -> Any:
    @workflow(name="made", retry=QUICK)
    async def made(step: Step) -> list[Any]:
        async def one(name: str, kind: str, fails: int) -> Any:
            async def outer() -> str:
                return str(await step.transaction("inner", put, f"{name}/inner", fails))

            match kind:
                case "plain":
                    return await step.transaction(name, put, name, fails)
                case "async":
                    return await step.transaction(name, put_async, name, fails)
                case "inside":
                    return await step(name, outer)
                case _:
                    return await step(name, lambda: name)

        given: list[Any] = []
        for place, group in enumerate(program_):
            names = [(f"{place}-{number}", kind, fails) for number, (kind, fails) in enumerate(group)]
            given.extend(await asyncio.gather(*(one(*each) for each in names)))
        return given

    return made


@settings(max_examples=40, deadline=None, suppress_health_check=FIXTURE)
@given(program, st.integers(0, 1_000))
def test_one_row_for_each_completion_whatever_is_cut_off(
    make_sim: Any, program_: list[list[tuple[str, int]]], seed: int
) -> None:
    transactions = {
        f"{place}-{number}" + ("/inner" if kind == "inside" else "")
        for place, group in enumerate(program_)
        for number, (kind, _) in enumerate(group)
        if kind != "step"
    }

    async def main() -> None:
        sim = make_sim(made(program_), seed=seed)
        id = sim.start(sim.workflows[0])
        counted: dict[int, int] = {}

        def count(number: int) -> None:
            counted[len(sim.log.committed)] = len(sim.log.rows)

        sim.host.interfere = count
        await sim.run()
        output = sim.output(id)
        assert sorted(sim.log.rows) == sorted(transactions)
        for world in sim.cuts(2):
            before = _rows_of(world, id, transactions)
            await world.run()
            assert world.output(id) == output
            # What is in the log already is not written again.
            assert sorted(before + world.log.rows) == sorted(transactions)
        for length, rows in counted.items():
            assert len(_rows_of(sim.cut(length), id, transactions)) == rows

    asyncio.run(main())


def _rows_of(world: Any, id: str, transactions: set[str]) -> list[str]:
    completed = world.events(id, e.StepCompleted)
    return [event.path for event in completed if event.path in transactions]


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE)
@given(st.integers(1, 12), st.integers(0, 1_000), st.sampled_from(["pause", "cancel", "send"]))
def test_what_comes_from_outside_meanwhile_tears_nothing(
    make_sim: Any, commit: int, seed: int, what: str
) -> None:
    program_ = [[("plain", 1), ("async", 0)], [("inside", 0), ("step", 0)], [("plain", 0)]]

    async def main() -> None:
        sim = make_sim(made(program_), seed=seed)
        id = sim.start(sim.workflows[0])
        command: Any = {
            "pause": decide.Pause(),
            "cancel": decide.Cancel(),
            "send": decide.Send(event="news"),
        }[what]

        def interfere(number: int) -> None:
            if number == commit and sim.state(id).ended is None:
                sim.do(id, command)

        sim.host.interfere = interfere
        await sim.run()
        if what == "pause" and sim.state(id).paused:
            sim.do(id, decide.Resume())
            await sim.run()
        assert sim.state(id).ended is not None
        expected = {"0-0", "0-1", "1-0/inner", "2-0"}
        assert sorted(sim.log.rows) == sorted(_rows_of(sim, id, expected))
        if what != "cancel":
            assert set(sim.log.rows) == expected

    asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE)
@given(st.integers(1, 12), st.integers(0, 1_000))
def test_whoever_was_taken_over_commits_no_row(make_sim: Any, commit: int, seed: int) -> None:
    """G5: its rows go with its completions, which are refused."""
    program_ = [[("plain", 1), ("async", 0)], [("inside", 0), ("step", 0)], [("plain", 0)]]

    async def main() -> None:
        sim = make_sim(made(program_), seed=seed)
        id = sim.start(sim.workflows[0])
        taken: list[int] = []

        def interfere(number: int) -> None:
            state = sim.state(id)
            if number >= commit and state.ended is None and state.worker is not None and not taken:
                claim = e.RunClaimed(at=sim.now, worker="another", epoch=state.epoch + 1, code={})
                sim.log.append(id, [claim])
                taken.append(len(sim.log.rows))

        sim.host.interfere = interfere
        await sim.host.run()
        expected = {"0-0", "0-1", "1-0/inner", "2-0"}
        assert sorted(sim.log.rows) == sorted(_rows_of(sim, id, expected))
        if taken:
            assert len(sim.log.rows) == taken[0]

    asyncio.run(main())
