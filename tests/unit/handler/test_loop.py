"""The private loop: order, timers, budgets, and dropping handlers in every odd state."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.errors import Suspended
from wfes.handler.loop import Drained, PrivateLoop, PrivateTask
from wfes.handler.tasks import _unclosable
from wfes.handler.timers import PrivateTimer


def new_loop(outside: asyncio.AbstractEventLoop | None = None) -> PrivateLoop:
    return PrivateLoop(outside, wake=lambda: None)


def run(main: Coroutine[Any, Any, Any], loop: PrivateLoop | None = None) -> Any:
    """Drive `main` to its end, firing timers in order of their time."""
    loop = new_loop() if loop is None else loop
    task = loop.create_task(main)
    for _ in range(10_000):
        assert loop.drain() is Drained.SETTLED
        if task.done():
            loop.drop()
            return task.result()
        fire_next(loop)
    raise AssertionError("does not end")


def fire_next(loop: PrivateLoop) -> PrivateTimer:
    timer = min(loop.pending_timers(), key=lambda timer: timer.when())
    loop.now = max(loop.now, timer.when())
    assert loop.fire(timer.delay, timer.number)
    return timer


# -- order and determinism -----------------------------------------------------------------------------------


def test_what_asyncio_offers_works() -> None:
    async def child(seconds: float, result: object = None) -> object:
        await asyncio.sleep(seconds)
        return result

    async def main() -> list[object]:
        seen: list[object] = []
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(i, i)) for i in range(3)]
        seen.append([task.result() for task in tasks])
        seen.append(await asyncio.gather(child(2, "a"), child(1, "b")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await child(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child(5), 1)
        ahead = [asyncio.create_task(child(seconds, seconds)) for seconds in (3, 1, 2)]
        seen.append([await done for done in asyncio.as_completed(ahead)])
        done, pending = await asyncio.wait(
            [asyncio.create_task(child(1)), asyncio.create_task(child(9))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        seen.append((len(done), len(pending)))
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        lock = asyncio.Lock()

        async def produce() -> None:
            for item in range(3):
                async with lock:
                    await queue.put(item)

        producer = asyncio.create_task(produce())
        seen.append([await queue.get() for _ in range(3)])
        await producer
        return seen

    assert run(main()) == [[0, 1, 2], ["a", "b"], [1, 2, 3], (1, 1), [0, 1, 2]]


def random_program(seed: int, depth: int) -> list[str]:
    """A random nest of asyncio's ways to wait; gives its trace."""
    choose = random.Random(seed)
    trace: list[str] = []

    async def node(name: str, level: int) -> str:
        trace.append(f"+{name}@{asyncio.get_running_loop().time():.3f}")
        try:
            await inner(name, level)
        except asyncio.CancelledError:
            trace.append(f"x{name}")
            if choose.random() < 0.3:
                await asyncio.sleep(0.01)
            raise
        except (TimeoutError, ValueError, BaseExceptionGroup) as error:
            trace.append(f"!{name} {type(error).__name__}")
        trace.append(f"-{name}")
        return name

    async def inner(name: str, level: int) -> None:
        if level == 0:
            await asyncio.sleep(choose.choice([0, 0.1, 0.1, 0.2]))
            if choose.random() < 0.2:
                raise ValueError(name)
            return
        names = [f"{name}.{i}" for i in range(choose.choice([1, 2, 3]))]
        # One child goes on down; below a certain width the others do too.
        levels = {child: level - 1 if child == names[0] or level < 6 else 0 for child in names}
        deep = level > 6  # where nothing ends before the bottom is reached
        match choose.randrange(7):
            case 0:
                await asyncio.gather(*(node(child, levels[child]) for child in names), return_exceptions=True)
            case 1:
                tasks = {asyncio.create_task(node(child, levels[child])) for child in names}
                done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                trace.extend(f"{task.get_name()} of {name}" for task in done)
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
            case 2:
                tasks = {asyncio.create_task(node(child, levels[child])) for child in names}
                trace.extend([f"{await next_done} completed" for next_done in asyncio.as_completed(tasks)])
            case 3:
                async with asyncio.TaskGroup() as group:
                    for child in names:
                        group.create_task(node(child, levels[child]))
                    if not deep and choose.random() < 0.3:
                        raise ValueError(name)
            case 4:
                task = asyncio.create_task(node(names[0], level - 1))
                await asyncio.sleep(0.15 if deep else choose.choice([0, 0.15]))
                task.cancel()
                await asyncio.wait([task])
            case 5:
                async with asyncio.timeout(choose.choice([0.15, 1] if deep else [0, 0.15, 1])):
                    await node(names[0], level - 1)
            case _:
                await asyncio.wait_for(node(names[0], level - 1), choose.choice([0.05, 0.15, 2]))

    loop = new_loop()
    run(node("0", depth), loop)
    loop.drop()
    return trace


@pytest.mark.parametrize("depth", [3, 6, 40, 200])
def test_a_program_takes_the_same_path_every_time(depth: int) -> None:
    for seed in range(40 if depth < 10 else 8):
        first = random_program(seed, depth)
        ballast = [object() for _ in range(seed * 37)]  # objects lie elsewhere in memory the second time
        assert random_program(seed, depth) == first
        assert depth < 10 or any(line.count(".") > depth - 7 for line in first)
        del ballast


def test_the_path_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "import importlib.util, sys, hashlib\n"
        f"spec = importlib.util.spec_from_file_location('programs', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(hashlib.sha256(repr([module.random_program(s, 5) for s in range(60)]).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(digests) == 1


def test_sets_of_tasks_and_futures_iterate_by_creation_number() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(6)]
        numbers = [task.number for task in tasks if isinstance(task, PrivateTask)]
        assert numbers == [2, 3, 4, 5, 6, 7]
        assert [hash(task) for task in tasks] == numbers
        assert [task.get_name() for task in tasks] == [f"Task-{number}" for number in numbers]
        assert [*set(tasks)] == sorted(tasks, key=hash)
        assert tasks[0] != tasks[1]
        assert asyncio.all_tasks() >= set(tasks)
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        assert [hash(future) for future in futures] == sorted(hash(future) for future in futures)
        await asyncio.gather(*tasks)

    run(main())


def test_a_task_is_what_asyncio_says_it_is() -> None:
    async def main() -> None:
        async def named() -> None:
            await asyncio.sleep(1)

        coro = named()
        task = asyncio.create_task(coro, name="mine")
        await asyncio.sleep(0)
        assert task.get_coro() is coro
        assert "named" in repr(task)
        assert task.get_stack()[0].f_code.co_name == "named"
        assert asyncio.current_task() is not task
        await task

    run(main())


def test_contexts_are_honoured() -> None:
    variable = contextvars.ContextVar("variable", default="outer")
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        loop.call_soon(lambda: seen.append(variable.get()), context=context)
        loop.call_soon(lambda: seen.append(variable.get()))
        loop.call_later(1, lambda: seen.append(variable.get()), context=context)

        async def child() -> None:
            seen.append(variable.get())

        await asyncio.create_task(child(), context=context)
        await asyncio.sleep(2)

    run(main())
    assert seen == ["inner", "outer", "inner", "inner"]


# -- as_completed --------------------------------------------------------------------------------------------


class StepCall:
    """An awaitable with a number, as `step(...)` gives."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number

    def __await__(self) -> Generator[Any, Any, Any]:
        yield from asyncio.sleep(1).__await__()
        return self.number


class Unnumbered:
    def __await__(self) -> Generator[Any, Any, None]:
        yield from asyncio.sleep(1).__await__()


def test_as_completed_takes_tasks_and_step_calls() -> None:
    async def main() -> list[object]:
        return [await done for done in asyncio.as_completed([StepCall(2), StepCall(1)])]

    assert run(main()) == [1, 2]


@pytest.mark.parametrize("make", [lambda: asyncio.sleep(1), Unnumbered])
def test_as_completed_refuses_what_starts_in_no_fixed_order(make: Callable[[], Any]) -> None:
    async def main() -> None:
        list(asyncio.as_completed([make()]))

    with pytest.raises(TypeError, match=r"as_completed.*no fixed order.*asyncio\.create_task"):
        run(main())


def test_gather_of_coroutines_is_not_refused() -> None:
    async def main() -> Any:
        return await asyncio.gather(
            asyncio.sleep(1, "a"), StepCall(3), asyncio.wait_for(asyncio.sleep(1, "b"), 9)
        )

    assert run(main()) == ["a", 3, "b"]


# -- timers --------------------------------------------------------------------------------------------------


def test_timers_are_named_by_delay_and_number() -> None:
    loop = new_loop()
    loop.now = 1000.5
    for delay in (0.2, 1.0, 0.2):
        loop.call_later(delay, int)
    loop.call_at(1000.7, int)
    assert [(timer.delay, timer.number) for timer in loop.new_timers()] == [
        (200_000, 1),
        (1_000_000, 1),
        (200_000, 2),
        (200_000, 3),
    ]
    assert loop.new_timers() == []
    assert len(loop.pending_timers()) == 4


@given(st.floats(0, 4e9), st.integers(1, 10**9))
def test_the_name_of_a_timer_does_not_depend_on_when_it_is_made(now: float, micros: int) -> None:
    loop = new_loop()
    loop.now = now
    loop.call_later(micros / 1e6, int)
    loop.call_at(loop.time() + micros / 1e6, int)
    assert [(timer.delay, timer.number) for timer in loop.new_timers()] == [(micros, 1), (micros, 2)]


def test_delays_are_rounded_up() -> None:
    loop = new_loop()
    loop.call_later(1e-9 * 1500, int)
    loop.call_later(1 / 3, int)
    assert [timer.delay for timer in loop.new_timers()] == [2, 333_334]


def test_the_past_is_soon_and_the_far_future_is_bounded() -> None:
    loop = new_loop()
    loop.now = 50
    called: list[str] = []
    loop.call_at(49, called.append, "past")
    loop.call_later(0, called.append, "zero")
    loop.call_later(-1, called.append, "negative")
    assert loop.new_timers() == []
    loop.drain()
    assert called == ["past", "zero", "negative"]
    loop.call_later(float("inf"), int)
    assert loop.new_timers()[0].delay < 2**62
    with pytest.raises(ValueError, match="nan"):
        loop.call_later(float("nan"), int)


def test_firing_and_cancelling() -> None:
    loop = new_loop()
    called: list[int] = []
    first = loop.call_later(1, called.append, 1)
    second = loop.call_later(1, called.append, 2)
    assert loop.new_timers() == [first, second]
    first.cancel()
    unseen = loop.call_later(1, called.append, 3)
    unseen.cancel()
    assert loop.new_timers() == []
    assert loop.cancelled_timers() == [first]
    assert loop.cancelled_timers() == []
    assert not loop.fire(1_000_000, 1)
    assert not loop.fire(7, 1)
    assert loop.fire(1_000_000, 2)
    assert not loop.fire(1_000_000, 2)
    loop.drain()
    assert called == [2]
    assert loop.pending_timers() == []
    second.cancel()
    assert loop.cancelled_timers() == []


def test_time_is_what_the_owner_says() -> None:
    loop = new_loop()
    loop.now = 17.25
    assert loop.time() == 17.25


# -- draining ------------------------------------------------------------------------------------------------


def test_budgets() -> None:
    async def endless() -> None:
        while True:
            await asyncio.sleep(0)

    loop = new_loop()
    _ = loop.create_task(endless())
    assert loop.drain(500) is Drained.EXHAUSTED
    assert loop.drain(500, 10) is Drained.EXHAUSTED
    assert loop.has_ready
    loop.drop()
    assert loop.drain() is Drained.SETTLED


def test_the_outside_budget_counts_while_something_outside_is_open() -> None:
    steps = 0

    async def endless() -> None:
        nonlocal steps
        _ = asyncio.get_running_loop().run_in_executor(None, int)
        while True:
            steps += 1
            await asyncio.sleep(0)

    loop = new_loop()
    _ = loop.create_task(endless())
    assert loop.drain(10_000, 100) is Drained.EXHAUSTED
    assert steps == 100
    loop.drop()


def test_drain_restores_what_it_found() -> None:
    hooks = sys.get_asyncgen_hooks()

    async def main() -> asyncio.AbstractEventLoop:
        assert sys.get_asyncgen_hooks() != hooks
        assert asyncio.get_running_loop().is_running()
        return asyncio.get_running_loop()

    loop = new_loop()
    assert run(main(), loop) is loop
    assert not loop.is_running()
    assert sys.get_asyncgen_hooks() == hooks
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_drained_from_a_callback_of_a_real_loop() -> None:
    async def main() -> None:
        real = asyncio.get_running_loop()
        loop = new_loop(real)
        seen = real.create_future()

        async def handler() -> str:
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
            return "done"

        def callback() -> None:
            task = loop.create_task(handler())
            loop.drain()
            assert asyncio.get_running_loop() is real
            seen.set_result(task.result())

        real.call_soon(callback)
        assert await seen == "done"
        loop.call_soon(int)
        with pytest.raises(RuntimeError, match="plain callback"):
            loop.drain()

    asyncio.run(main())


def test_drain_and_drop_within_a_drain_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PrivateLoop)
        loop.call_soon(int)
        with pytest.raises(RuntimeError, match="its own drain"):
            loop.drain()
        with pytest.raises(RuntimeError, match="its own drain"):
            loop.drop()
        with pytest.raises(RuntimeError, match="cannot be run"):
            loop.run_until_complete(asyncio.sleep(0))
        with pytest.raises(RuntimeError, match="cannot be run"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="cannot be stopped"):
            loop.stop()
        with pytest.raises(RuntimeError, match="task factory"):
            loop.set_task_factory(int)

    run(main())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exits_are_kept(error: BaseException) -> None:
    async def main() -> None:
        raise error

    loop = new_loop()
    task = loop.create_task(main())
    others: list[int] = []
    loop.call_soon(others.append, 1)
    assert loop.drain() is Drained.SETTLED
    assert loop.exit is error
    assert others == [1]
    assert task.exception() is error


def test_wakes_once_until_the_next_drain() -> None:
    woken: list[int] = []
    loop = PrivateLoop(None, wake=lambda: woken.append(1))
    loop.call_soon_threadsafe(int)
    loop.call_soon_threadsafe(int)
    assert len(woken) == 1
    loop.drain()
    loop.call_soon_threadsafe(loop.call_soon_threadsafe, int)
    assert len(woken) == 2
    assert loop.drain() is Drained.SETTLED
    assert len(woken) == 2
    loop.call_soon(int)
    assert len(woken) == 2


def test_call_soon_threadsafe_from_a_thread() -> None:
    async def main() -> None:
        real = asyncio.get_running_loop()
        arrived = real.create_future()

        def wake() -> None:
            assert threading.current_thread() is threading.main_thread()
            loop.drain()

        loop = PrivateLoop(real, wake=wake)
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(arrived.set_result, 5))
        thread.start()
        assert await arrived == 5
        thread.join()

    asyncio.run(main())


def test_errors_nobody_retrieved_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ValueError("lost")

    loop = new_loop()
    loop.call_soon(loop.create_task, failing())  # nobody keeps the task
    loop.call_soon(int, "not a number")
    loop.drain()
    gc.collect()
    assert [record.name for record in caplog.records] == ["wfes", "wfes"]
    assert "lost" in caplog.text
    assert "not a number" in caplog.text
    seen: list[dict[str, Any]] = []

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append(context)

    loop.set_exception_handler(handle)
    loop.call_soon(int, "x")
    loop.drain()
    assert isinstance(seen[0]["exception"], ValueError)


def test_an_abandoned_async_generator_is_closed_on_the_loop() -> None:
    seen: list[str] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main() -> None:
        async for _ in generator():
            break
        numbered = asyncio.create_task(asyncio.sleep(0))
        assert isinstance(numbered, PrivateTask)
        assert numbered.number == 2
        await numbered
        await asyncio.sleep(1)
        assert seen == ["closed"]

    run(main())


# -- dropping ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing dropped makes noise, then or when it is collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()
    assert "destroyed but it is pending" not in caplog.text


def started(main: Coroutine[Any, Any, Any]) -> PrivateLoop:
    loop = new_loop()
    _ = loop.create_task(main)
    loop.drain()
    return loop


def test_every_task_sees_suspended_where_it_stands() -> None:
    seen: list[tuple[str, str]] = []

    async def watch(name: str, awaitable: Any) -> None:
        try:
            await awaitable
            seen.append((name, "went on"))
        except BaseException as error:
            seen.append((name, type(error).__name__))
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared = asyncio.create_task(watch("leaf", loop.create_future()))
        await asyncio.gather(
            watch("sleep", asyncio.sleep(5)),
            watch("gather", asyncio.gather(loop.create_future(), shared, return_exceptions=True)),
            watch("wait", asyncio.wait([shared])),
            watch("shield", asyncio.shield(shared)),
            watch("wait_for", asyncio.wait_for(loop.create_future(), 9)),
            watch("lock", asyncio.Event().wait()),
            return_exceptions=True,
        )
        seen.append(("main", "went on"))

    loop = started(main())
    loop.drop()
    assert {name for name, _ in seen} == {"leaf", "sleep", "gather", "wait", "shield", "wait_for", "lock"}
    assert {what for _, what in seen} == {"Suspended"}
    assert loop.is_closed()
    assert loop.dropping
    assert loop.pending_timers() == []
    assert not loop.pending_tasks


def test_a_task_that_never_ran_does_not_begin() -> None:
    async def main() -> None:
        raise AssertionError

    loop = new_loop()
    _ = loop.create_task(main())
    loop.drop()
    assert not loop.pending_tasks


def test_finally_may_await_and_go_on() -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            with pytest.raises(Suspended):
                await asyncio.sleep(1)
            seen.append("again")

    started(main()).drop()
    assert seen == ["cleaned up", "again"]


def test_swallowing_has_no_effect() -> None:
    seen: list[int] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append(1)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stubborn())
            await stubborn()

    loop = started(main())
    loop.drop()
    assert len(seen) == 20
    assert not loop.pending_tasks


def test_a_coroutine_that_cannot_be_ended_is_kept_and_named(caplog: pytest.LogCaptureFixture) -> None:
    mortal = False

    async def undying() -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except BaseException:
                if mortal:
                    raise

    started(undying()).drop()
    assert "undying" in caplog.text
    assert "never resumed" in caplog.text
    mortal = True
    while _unclosable:
        _unclosable.pop().close()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, BaseException, GeneratorExit])
def test_closing_may_raise_anything(error: type[BaseException]) -> None:
    async def main() -> None:
        while True:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass
            except GeneratorExit:
                raise error from None

    loop = started(main())
    loop.drop()
    assert not loop.pending_tasks


def test_system_exit_while_being_dropped() -> None:
    async def main() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            sys.exit(4)

    loop = started(main())
    loop.drop()
    assert isinstance(loop.exit, SystemExit)


def test_open_async_generators_are_closed() -> None:
    seen: list[str] = []

    async def generator(name: str) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append(f"{name} closing")
            try:
                await asyncio.sleep(1)
            except BaseException as error:
                seen.append(f"{name} {type(error).__name__}")
                raise

    held: list[AsyncIterator[int]] = [generator("held")]

    async def main() -> None:
        await anext(held[0])
        async for _ in generator("looped"):
            await asyncio.sleep(1)

    started(main()).drop()
    assert set(seen) == {"held closing", "held Suspended", "looped closing", "looped Suspended"}


@pytest.mark.parametrize("depth", [10, 2000])
def test_deep_nests_are_dropped(depth: int) -> None:
    suspended = 0

    async def nest(level: int) -> None:
        nonlocal suspended
        try:
            if level:
                await asyncio.create_task(nest(level - 1))
            else:
                await asyncio.get_running_loop().create_future()
        except Suspended:
            suspended += 1
            raise

    loop = started(nest(depth))
    loop.drop()
    assert suspended == depth + 1
    assert not loop.pending_tasks


def test_tasks_waiting_for_each_other_are_dropped() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def wait_for_other(index: int) -> None:
        await asyncio.sleep(0)
        await tasks[index]

    async def main() -> None:
        tasks.extend(asyncio.create_task(wait_for_other(1 - index)) for index in range(2))
        await asyncio.wait(tasks)

    loop = started(main())
    loop.drop()
    assert not loop.pending_tasks


def test_cleanup_that_starts_tasks_ends() -> None:
    begun: list[int] = []

    async def child() -> None:
        begun.append(1)

    async def main() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.gather(child(), child())

    loop = started(main())
    loop.drop()
    assert begun == []
    assert not loop.pending_tasks


def test_a_dropped_loop_takes_no_work() -> None:
    loop = started(asyncio.sleep(1))
    loop.drop()
    loop.drop()
    loop.close()
    called: list[int] = []
    loop.call_soon(called.append, 1)
    loop.call_soon_threadsafe(called.append, 1)
    loop.call_later(5, called.append, 1)
    assert loop.pending_timers() == []
    assert loop.new_timers() == []
    assert not loop.fire(1_000_000, 1)
    assert loop.drain() is Drained.SETTLED
    assert called == []
    with pytest.raises(Suspended):
        _ = loop.create_task(asyncio.sleep(1))
    assert loop.outside_open == 0


def test_closing_code_may_call_the_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await asyncio.sleep(1)
            except GeneratorExit:
                assert asyncio.get_running_loop() is loop
                loop.call_soon(int)
                with pytest.raises(Suspended):
                    _ = asyncio.create_task(asyncio.sleep(1))
                raise
            except asyncio.CancelledError:
                continue

    started(main()).drop()


def test_errors_of_dropped_tasks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            raise ValueError("in cleanup")

    async def main() -> None:
        _ = asyncio.create_task(failing())
        _ = asyncio.create_task(failing())
        await failing()

    with caplog.at_level(logging.DEBUG, "wfes"):
        started(main()).drop()
        gc.collect()
    assert caplog.records == []


def test_many_loops_share_a_process() -> None:
    """The first tasks of thousands of handlers have one number, and still do not slow each other down."""
    loops = [started(asyncio.sleep(1)) for _ in range(3000)]
    assert {task.number for loop in loops for task in loop.pending_tasks} == {1}
    for loop in loops:
        loop.drop()
