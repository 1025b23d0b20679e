"""Plain asyncio in handlers, what comes from outside, and leaving memory."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wfes import Step, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Pause, Resume, Send
from wfes.errors import Suspended
from wfes.simulation import START

SECOND = 1_000_000


async def until_ended(sim: Any, *ids: str) -> None:
    """Runs on while threads and outside I/O take real time."""
    for _ in range(2_000):
        await sim.run()
        if all(sim.state(id).ended for id in ids):
            return
        await asyncio.sleep(0.001)
    raise AssertionError([sim.types(id) for id in ids])


# ------------------------------------------------------------------------------------------------ asyncio


def test_races_between_steps_have_the_same_winner_on_every_replay(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        async def work(name: str, length: float) -> str:
            await sim.work(length)
            return name

        def call(name: str, length: float) -> Any:
            return asyncio.create_task(waited(step(name, work, name, length)))

        tasks = [call("slow", 3), call("quick", 1), call("middle", 2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        found: list[Any] = [sorted(t.result() for t in done), len(pending)]
        found.append([await t for t in asyncio.as_completed(tasks)])
        try:
            found.append(await asyncio.wait_for(call("late", 9), 2))
        except TimeoutError:
            found.append("timeout")
        try:
            async with asyncio.timeout(2):
                await asyncio.sleep(1)
                found.append(await step("in time", work, "in time", 0.5))
        except TimeoutError:
            found.append("timeout")
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(waited(step(n, work, n, 0.1))) for n in "xy"]
        found.append([t.result() for t in made])
        return found

    async def waited(call: Any) -> Any:
        return await call

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        out = sim.output(id)
        assert out == [["quick"], 2, ["quick", "middle", "slow"], "timeout", "in time", ["x", "y"]]
        late = next(n for n, r in enumerate(live.log.committed) if getattr(r.event, "path", "") == "late")
        for sim in live.cuts(first=late + 2):
            await sim.run()
            assert sim.output(id)[:3] == out[:3]
            assert sim.output(id)[5] == out[5]
        sim = live.cut(len(live.log.committed) - 1)
        await sim.run()
        assert sim.output(id) == out

    asyncio.run(main())


def test_step_calls_go_into_gather_and_as_completed_and_bare_coroutines_do_not(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        found: list[Any] = list(await asyncio.gather(step("a", lambda: 1), step("b", lambda: 2)))
        found += [await first for first in asyncio.as_completed([step("c", lambda: 3), step("d", lambda: 4)])]

        async def own() -> int:
            return 1

        bare = own()
        try:
            found += [await first for first in asyncio.as_completed([bare])]
        except TypeError as error:
            found.append("own" in str(error))
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        for other in (sim, *sim.cuts()):
            await other.run()
            assert sorted(other.output(id)[:4]) == [1, 2, 3, 4]
            assert other.output(id)[4] is True

    asyncio.run(main())


def test_plain_timers_outlive_memory_and_crashes_and_are_never_early(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> str:
        try:
            async with asyncio.timeout(3600):
                await asyncio.gather(asyncio.sleep(100), step.listen("never"))
        except TimeoutError:
            await asyncio.sleep(1)
            return "late"
        return "none"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == "late"
        assert START + 3601 * SECOND <= sim.now < START + 3602 * SECOND
        fired = [x.delay for x in sim.events(id, e.TimerFired)]
        assert fired == [100 * SECOND, 3600 * SECOND, SECOND]
        assert sim.events(id, e.TimerScheduled)
        assert sim.events(id, e.RunReleased)
        for other in sim.cuts():
            await other.run()
            assert other.output(id) == "late"
            assert START + 3601 * SECOND <= other.now < START + 3602 * SECOND

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ outside


def test_outside_awaits_are_done_again_on_each_run(make_sim: Any) -> None:
    calls: list[str] = []

    @workflow(timeout=None)
    async def wf(step: Step) -> list[Any]:
        def look(name: str) -> str:
            calls.append(name)
            return name

        found: list[Any] = [await asyncio.to_thread(look, "thread")]
        found.append(await step("a", lambda: 1))
        outside = sim.host.loop.create_future()
        sim.host.loop.call_later(0.001, lambda: outside.done() or outside.set_result("future"))
        found.append(await outside)
        found.append(await step("b", lambda: 2))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        found.append((await reader.readline()).decode())
        writer.close()
        await writer.wait_closed()
        found += await asyncio.gather(step("c", lambda: 3), asyncio.to_thread(look, "beside"))
        return found

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    sim: Any = None
    port = 0

    async def main() -> None:
        nonlocal sim, port
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await until_ended(sim, id)
        expected = ["thread", 1, "future", 2, "hello\n", 3, "beside"]
        assert sim.output(id) == expected
        assert calls == ["thread", "beside"]
        for sim in live.cuts():
            calls.clear()
            await until_ended(sim, id)
            assert sim.output(id) == expected, sim.types(id)
            assert len(sim.events(id, e.StepCompleted)) == 3
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_outside_failures_reach_the_handler(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[str]:
        found = []

        def fails() -> None:
            raise KeyError("k")

        try:
            await asyncio.to_thread(fails)
        except KeyError:
            found.append("thread")
        try:
            await asyncio.open_connection("127.0.0.1", 1)
        except OSError:
            found.append("connection")
        return found

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await until_ended(sim, id)
        assert sim.output(id) == ["thread", "connection"]

    asyncio.run(main())


def test_a_cancellation_reaches_an_outside_await(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> None:
        outside.append(sim.host.loop.create_future())
        try:
            await outside[-1]
        finally:
            await step("undo", lambda: outside.append("undone"))

    outside: list[Any] = []
    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf)
        sim.later(1, lambda: sim.do(id, Cancel()))
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        assert outside[0].cancelled()
        assert outside[1:] == ["undone"]

    asyncio.run(main())


@pytest.mark.parametrize("command", [Cancel(), None], ids=["cancel", "deadline"])
def test_an_outside_await_that_hangs_in_a_replay_ends_all_the_same(make_sim: Any, command: Any) -> None:
    hang = False

    @workflow(deadline="1h")
    async def wf(step: Step) -> str:
        if hang:
            await sim.host.loop.create_future()
        await step("a", lambda: 1)
        await step.sleep("z", 10)
        return "done"

    sim: Any = None

    async def main() -> None:
        nonlocal sim, hang
        live = sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        n = next(n for n, r in enumerate(live.log.committed) if isinstance(r.event, e.SleepEnded))
        hang = True
        sim = live.cut(n)
        if command is not None:
            sim.later(5, lambda: sim.do(id, command))
        await sim.run()
        status = "cancelled" if command is not None else "timed_out"
        assert str(sim.state(id).status) == status, sim.types(id)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ memory


def test_a_waiting_handler_is_dropped_and_its_cleanup_sees_suspended(make_sim: Any) -> None:
    log: list[str] = []

    @workflow
    async def wf(step: Step) -> str:
        try:
            log.append("run")
            await step.sleep("z", 100)
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        finally:
            try:
                await step("after", lambda: log.append("after"))
            except BaseException as error:
                log.append(f"step: {type(error).__name__}")
                raise
        return "done"

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        assert sim.output(id) == "done"
        assert log == ["run", "Suspended", "step: Suspended", "run", "after"]
        assert issubclass(Suspended, asyncio.CancelledError)
        assert not issubclass(Suspended, Exception)

    asyncio.run(main())


def test_short_sleeps_need_no_replay_and_long_ones_leave_memory(make_sim: Any) -> None:
    runs: list[int] = []

    @workflow
    async def wf(length: float, step: Step) -> None:
        runs.append(1)
        await step.sleep("z", length)

    async def main() -> None:
        for length, expected in ((0.4, 1), (60, 2)):
            runs.clear()
            sim = make_sim(wf)
            id = sim.start(wf, length)
            await sim.run()
            sim.output(id)
            assert len(runs) == expected == len(sim.events(id, e.RunClaimed))

    asyncio.run(main())


def test_what_arrives_while_it_leaves_memory_is_not_lost(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[Any]:
        async def outer() -> Any:
            return await step.listen("in", event="e")

        return list(await asyncio.gather(step.listen("a", event="e"), step("outer", outer)))

    async def main() -> None:
        for turns in range(10):
            for linger in (500_000, 5_000_000):
                sim = make_sim(wf, seed=turns)
                id = sim.start(wf)

                def send(sim: Any = sim, id: str = id, turns: int = turns) -> None:
                    sim.host._later(turns, lambda: sim.do(id, Send(event="e", payload=1)))
                    sim.host._later(turns + 1, lambda: sim.do(id, Send(event="e", payload=2)))

                sim.host.clock.call_at(START + linger, send)
                await sim.run()
                assert sorted(sim.output(id)) == [1, 2]
                assert not sim.events(id, e.StepAttemptFailed), (turns, linger)

    asyncio.run(main())


def test_threads_of_steps_and_of_the_handler_do_not_mix_up_where_they_belong(make_sim: Any) -> None:
    @workflow
    async def wf(name: str, step: Step) -> list[str]:
        def where() -> str:
            from wfes.handler.scope import current

            scope = current()
            assert scope is not None
            return f"{scope.execution.id == ids[name]} {scope.path or '-'}"

        found = await asyncio.gather(
            step("a", where),
            step("b", where, thread=False),
            asyncio.to_thread(where),
            step.map("m", [1], lambda _: where()),
        )
        return [*found[:3], *found[3], threading.current_thread().name[:4]]

    ids: dict[str, str] = {}

    async def main() -> None:
        sim = make_sim(wf)
        with ThreadPoolExecutor(4) as threads:
            sim.host.threads = threads
            for name in "xyz":
                ids[name] = sim.start(wf, name)
            await until_ended(sim, *ids.values())
        for id in ids.values():
            assert sim.output(id) == ["True a", "True b", "True -", "True m/0", "Main"]

    asyncio.run(main())


def test_a_clean_stop_lets_running_steps_finish_and_starts_none(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[int]:
        async def slow() -> int:
            await sim.work(5)
            return 1

        return [await step("a", slow), await step("b", lambda: 2)]

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        for grace in (True, False):
            sim = make_sim(wf)
            id = sim.start(wf)
            sim.later(1, lambda id=id, sim=sim: sim.host.executions[id].stop())
            if not grace:
                sim.later(2, lambda id=id, sim=sim: sim.host.executions[id].abandon())
            await sim.run()
            assert sim.output(id) == [1, 2]
            starts = [x.path for x in sim.events(id, e.StepStarted)]
            assert starts == (["a", "b"] if grace else ["a", "a", "b"])
            assert len(sim.events(id, e.RunClaimed)) == 2

    asyncio.run(main())


def test_a_fenced_execution_records_nothing_more(make_sim: Any) -> None:
    ran: list[str] = []

    @workflow
    async def wf(step: Step) -> str:
        await step("a", sim.work, 5)
        await step("b", lambda: ran.append("b"))
        return "done"

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        sim = make_sim(wf)
        id = sim.start(wf)

        def take_over() -> None:
            state = sim.state(id)
            claim = e.RunClaimed(at=sim.now, worker="another", epoch=state.epoch + 1, code={})
            sim.log.append(id, [claim])

        sim.later(1, take_over)
        await sim.run()
        assert sim.types(id)[-1] == "RunClaimed"
        assert not ran
        assert not sim.host.executions

    asyncio.run(main())


def test_pausing_and_resuming_over_and_over_loses_nothing(make_sim: Any) -> None:
    @workflow
    async def wf(step: Step) -> list[int]:
        async def outer() -> int:
            await step.sleep("in", 3)
            return await step("deep", lambda: 1)

        found = await asyncio.gather(step("outer", outer), *(step("s", sim.work, k / 3) for k in range(9)))
        return [x or 0 for x in found]

    sim: Any = None

    async def main() -> None:
        nonlocal sim
        for linger in (100_000, 500_000, 50_000_000):
            sim = make_sim(wf)
            sim.host.linger_micros = linger
            id = sim.start(wf)
            for k in range(8):
                sim.later(k * 0.5, lambda id=id, sim=sim: sim.state(id).ended or sim.do(id, Pause()))
                sim.later(k * 0.5 + 0.3, lambda id=id, sim=sim: sim.state(id).ended or sim.do(id, Resume()))
            await sim.run()
            assert sim.output(id) == [1] + [0] * 9
            done = [x.path for x in sim.events(id, e.StepCompleted)]
            assert len(done) == len(set(done)) == 11
            assert not sim.events(id, e.StepAttemptFailed)

    asyncio.run(main())
