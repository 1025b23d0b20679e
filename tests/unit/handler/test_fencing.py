"""G5: whoever lost an instance can record nothing more, even before it has been told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wfes import workflow
from wfes.core import events as e
from wfes.simulation import SimulatedHost


async def nothing() -> None:
    pass


@workflow
async def five(step: Any) -> str:
    for number in range(5):
        await step(f"s{number}", nothing)
    return "done"


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_an_owner_that_lost_its_instance_is_refused_by_the_log(after: int) -> None:
    async def main() -> list[e.Recorded]:
        host = SimulatedHost([five])
        start = host.engine.calls.start(five)
        start.run(host.log)

        def take_over(commits: int) -> None:
            if commits == after:
                state = host.log.state(start.id)
                assert state is not None
                claim = e.RunClaimed(at=host.clock.now(), worker="other", epoch=state.epoch + 1)
                host.log.append(start.id, [claim])

        host.interfere = take_over
        await host.run()
        assert start.id not in host.executions
        return host.log.history(start.id)

    history = asyncio.run(main())
    assert isinstance(history[-1].event, e.RunClaimed)
    assert history[-1].event.worker == "other"
