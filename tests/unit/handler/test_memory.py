"""What an execution leaves behind when it has left memory: nothing, not even work for the garbage collector."""

# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from wfes import Step, workflow


def test_an_execution_that_has_left_is_freed_at_once(make_sim: Any) -> None:
    @workflow
    async def wf(how: str, step: Step) -> str:
        async def double(number: int) -> int:
            return 2 * number

        await step("work", double, 4)
        await step.map("many", range(3), double)
        await step.sleep("nap", "1h")
        if how == "timer":
            await asyncio.sleep(1)
        if how == "fail":
            step.fail("as wanted")
        return how

    def freed(how: str, status: str) -> None:
        async def main() -> None:
            sim = make_sim(wf)
            executions: list[weakref.ref[Any]] = []
            left = sim.host.left

            def note(execution: Any) -> None:
                executions.append(weakref.ref(execution))
                left(execution)

            sim.host.left = note
            id = sim.start(wf, how)
            await sim.run()
            assert sim.state(id).status == status
            assert len(executions) >= 2  # it left memory while it slept
            await asyncio.sleep(0)
            assert [execution() for execution in executions] == [None] * len(executions)

        gc.collect()
        gc.disable()
        try:
            asyncio.run(main())
        finally:
            gc.enable()

    freed("plain", "completed")
    freed("timer", "completed")
    freed("fail", "failed")
