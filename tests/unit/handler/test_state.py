"""Recorded state: who may write it, when it is recorded, what a replay makes of it."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from wfes import Step, StepError, workflow
from wfes.core import events as e


class Basket(BaseModel):
    items: list[str] = []
    total: float = 0
    extra: Any = None


def test_changes_are_recorded_with_the_next_event_and_replayed(make_sim: Any) -> None:
    @workflow(state=Basket)
    async def wf(step: Step, state: Basket) -> list[Any]:
        seen: list[Any] = [list(state.items), state.total]
        state.items.append("tea")
        state.total = 3
        await step("a", lambda: 1)
        state.items = [*state.items, "cup"]
        await step.sleep("z", "1h")
        state.total += 1
        return [*seen, state.items, state.total]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == [[], 0, ["tea", "cup"], 4]
        assert sim.state(id).fields == {"items": ["tea", "cup"], "total": 4.0}
        changes = [event.changes for event in sim.events(id, e.StateChanged)]
        assert changes == [{"items": ["tea"], "total": 3}, {"items": ["tea", "cup"]}, {"total": 4}]
        types = sim.types(id)
        assert types.index("StateChanged") < types.index("StepStarted")
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == sim.output(id)
            assert [x.changes for x in other.events(id, e.StateChanged)] == changes, other.types(id)

    asyncio.run(main())


def test_each_instance_has_defaults_of_its_own(make_sim: Any) -> None:
    @workflow(state=Basket)
    async def wf(step: Step, state: Basket) -> list[str]:
        state.items.append("tea")
        await step("a", lambda: 1)
        return state.items

    async def main() -> None:
        sim = make_sim(wf)
        ids = [sim.start(wf) for _ in range(3)]
        await sim.run()
        assert [sim.output(id) for id in ids] == [["tea"]] * 3

    asyncio.run(main())


def test_step_functions_read_and_do_not_write(make_sim: Any) -> None:
    @workflow(state=Basket)
    async def wf(step: Step, state: Basket) -> list[Any]:
        state.items.append("tea")

        async def assigns() -> None:
            state.total = 5

        def assigns_in_thread() -> None:
            state.total = 5

        def mutates() -> list[str]:
            state.items.append("mine")
            return state.items

        async def deletes() -> None:
            del state.total

        found: list[Any] = []
        for fn in (assigns, assigns_in_thread, deletes):
            try:
                await step("w", fn)
            except StepError as error:
                found.append([error.error.type, error.attempts])
        found.append(await step("r", lambda: (state.items, state.total)))
        found.append(await step("m", mutates))
        return [*found, state.items, state.total]

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        refused = ["wfes.StateReadOnly", 1]
        assert sim.output(id) == [refused] * 3 + [(["tea"], 0), ["tea"], ["tea"], 0]
        assert len(sim.events(id, e.StateChanged)) == 1
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == sim.output(id)

    asyncio.run(main())


def test_a_value_that_cannot_be_stored_fails_the_instance_and_names_the_field(make_sim: Any) -> None:
    ran: list[int] = []

    @workflow(state=Basket)
    async def wf(step: Step, state: Basket) -> None:
        state.extra = object()
        await step("a", lambda: ran.append(1))

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        kind, message = sim.error(id)
        assert kind == "wfes.UnstorableValue"
        assert "state.extra" in message
        assert not ran

    asyncio.run(main())


def test_what_is_assigned_before_an_end_is_recorded(make_sim: Any) -> None:
    @workflow(state=Basket)
    async def wf(how: str, step: Step, state: Basket) -> None:
        state.total = 9
        if how == "fail":
            step.fail("no")
        if how == "raise":
            raise ValueError

    async def main() -> None:
        for how in ("return", "raise", "fail"):
            sim = make_sim(wf)
            id = sim.start(wf, how)
            await sim.run()
            assert sim.state(id).fields.get("total") == 9, how

    asyncio.run(main())
