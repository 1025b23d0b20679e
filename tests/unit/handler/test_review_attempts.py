"""Attempts around pauses, releases that are taken back, and threads that are not free."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wfes import Engine, Step, workflow
from wfes.core import events as e
from wfes.simulation import SimulatedHost


def test_an_attempt_held_by_a_pause_is_made_once_and_after_its_start_is_on_disk() -> None:
    """The pause ends while the release it led to is on its way: the release is taken back."""
    calls: list[int] = []
    stage = 0

    async def main() -> None:
        nonlocal stage
        gate = asyncio.Event()

        async def flaky() -> None:
            history = host.log.history(start.id)
            calls.append(sum(isinstance(r.event, e.StepStarted) and r.event.path == "a" for r in history))
            if len(calls) == 1:
                raise ValueError("once")
            for _ in range(3):
                await asyncio.sleep(0)

        @workflow(timeout=None)
        async def both(step: Any) -> str:
            await asyncio.gather(step("a", flaky), step("b", gate.wait))
            return "done"

        host = SimulatedHost([both])
        start = host.engine.calls.start(both)
        start.run(host.log)

        def pause(_: int) -> None:
            nonlocal stage
            if not stage and any(
                isinstance(r.event, e.StepAttemptFailed) for r in host.log.history(start.id)
            ):
                stage = 1
                host.log.append(start.id, [e.WorkflowPaused(at=host.clock.now())])

        host.interfere = pause
        submit = host.submit

        def resume_before(member: Any) -> None:
            nonlocal stage
            released = any(isinstance(x.event, e.RunReleased) for x in getattr(member, "entries", ()))
            if stage == 1 and released:
                stage = 2
                host.log.append(start.id, [e.WorkflowResumed(at=host.clock.now())])
            submit(member)

        host.submit = resume_before  # type: ignore[method-assign]
        await host.run()
        gate.set()
        await host.run()
        assert isinstance(host.log.history(start.id)[-1].event, e.WorkflowCompleted)

    asyncio.run(main())
    assert stage == 2
    assert calls == [1, 2]


def test_waiting_for_a_free_thread_is_not_the_attempt_s_time() -> None:
    async def main() -> None:
        open_gate = threading.Event()
        called: list[int] = []

        def occupy(item: int) -> int:
            called.append(item)
            assert open_gate.wait(20)
            return item

        @workflow
        async def crowded(step: Step) -> list[int]:
            return await step.map("m", range(3), occupy, concurrency=3, timeout=5, max_attempts=1)

        host = SimulatedHost([crowded])
        pool = host.threads = ThreadPoolExecutor(1)
        start = host.engine.calls.start(crowded)
        start.run(host.log)
        host.begin(start.id)
        for _ in range(2_000):
            await asyncio.sleep(0.001)
            if called:
                break
        execution = host.executions[start.id]
        limited = [ask.path for ask in execution.active if ask.limit is not None]
        assert called == [0]
        assert limited == ["m/0"]
        open_gate.set()
        for _ in range(5_000):
            await asyncio.sleep(0.001)
            if start.id not in host.executions:
                break
        assert isinstance(host.log.history(start.id)[-1].event, e.WorkflowCompleted)
        pool.shutdown()

    asyncio.run(main())


def test_what_a_listener_was_given_is_not_kept_in_memory() -> None:
    async def main() -> None:
        @workflow
        async def listening(step: Step) -> int:
            return sum([len(await step.listen("text")) for _ in range(20)])

        async with Engine("sqlite://", workflows=[listening]) as engine:
            run = await listening.start()
            for _ in range(19):
                await run.send("text", "x" * 100)
            worker = engine._parts._worker
            assert worker is not None
            execution: Any = worker._executions.running[run.id]
            for _ in range(2_000):
                history = await run.history()
                if sum(event.type == "ListenEnded" for event in history) == 19:
                    break
                await asyncio.sleep(0.002)
            assert not execution.inbox._events
            await run.send("text", "x" * 100)
            assert await run.result(timeout=20) == 2_000

    asyncio.run(main())
