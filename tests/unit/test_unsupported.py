"""What this release does not have is refused or said, never silently left out; what cannot run is set aside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wfes import Engine, NotSupported, Status, Step, workflow
from wfes.handler.execution import Execution


@workflow
async def agent(step: Step, execute: Any) -> None:
    pass


@workflow
async def plain(step: Step) -> str:
    return "done"


def test_a_parameter_that_nothing_fills_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"'agent'.*execute"):
        Engine("sqlite://", workflows=[agent])


def test_an_instance_that_this_process_cannot_run_is_paused_and_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[plain]):
            with monkeypatch.context() as patched:

                def defect(self: Execution) -> None:
                    raise RuntimeError("a defect")

                patched.setattr(Execution, "_take_turn", defect)
                run = await plain.start()
                while (await run.refresh()).status is not Status.PAUSED:
                    await asyncio.sleep(0.005)
                assert "a defect" in str([event.data for event in await run.history()])
            await run.resume()
            assert await run.result() == "done"

    asyncio.run(main())
