"""The private event loop: one handler's tasks, driven by hand, synchronously.

Owns the ready queue, the timers and the tasks of one handler. `drain()` runs what is ready until nothing is; the
handler has then *settled*, and what it asks for next is a function of what it was given. The owner releases
results one at a time (a future's `set_result`, or `fire` for a timer) and drains after each.

Invariants:

- The loop never reads a clock: `time()` is what the owner set as `now`. It never waits and never blocks.
- Nothing runs outside `drain()` and `drop()`, and these are called from plain callbacks of the real loop (or
  without any loop), never inside a task: from 3.14 on a task cannot be entered from within another, silently.
- Callbacks run in the order they became ready; tasks and futures hash by number; timers are named by delay and
  number. So the same program given the same results in the same order takes the same path.
- What comes from outside (`wfes.handler.bridge`) enters by `arrive`, in the real loop's thread, outside
  of any drain, and is told to the owner by `wake`, once until the next drain.
- After `drop()` nothing of the handler runs again, anywhere: not by the queue, not by the garbage collector.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import itertools
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn, TypeVar

from wfes.errors import Suspended
from wfes.handler.tasks import PrivateFuture, PrivateTask, Trampoline, close_for_good, end_generator
from wfes.handler.timers import PrivateTimer, TimedLoop

__all__ = ["Drained", "PrivateLoop", "PrivateTask", "PrivateTimer"]

T = TypeVar("T")

_log = logging.getLogger("wfes")
_DROP_ROUNDS = 10
_DROP_BUDGET = 2_000

_ENSURE_FUTURE = {
    function.__code__
    for name in ("ensure_future", "_ensure_future")
    if (function := getattr(asyncio.tasks, name, None)) is not None
}
_AS_COMPLETED = ("as_completed", "_AsCompletedIterator.")
"""How the qualified names of `asyncio.as_completed`'s code begin, in every release."""


def _nobody() -> None:
    """Whom a loop wakes that was dropped."""


class Drained(enum.Enum):
    """How a `drain()` ended."""

    SETTLED = "settled"
    """Nothing is ready: the handler waits for what it asked for."""
    EXHAUSTED = "exhausted"
    """The budget is used up and callbacks are still ready."""


class PrivateLoop(TimedLoop):
    """The event loop one workflow handler runs on.

    Args:
        outside: The real loop, on which outside awaits are carried out. None (replay, simulation): they are
            counted and never complete.
        wake: Called in the real loop's thread, never inside `drain`, when something from outside has put work
            in the ready queue; at most once until the next drain.

    Attributes:
        now: What `time()` returns, in seconds; only the owner sets it. Best counted from the instance's start:
            near zero floats are fine enough for exact microseconds.
        exit: A `SystemExit` or `KeyboardInterrupt` that handler code raised, the first one, or None.
    """

    def __init__(self, outside: asyncio.AbstractEventLoop | None, *, wake: Callable[[], None]) -> None:
        super().__init__(outside)
        self.exit: BaseException | None = None
        self.drop_round = 0
        self.drop_error: type[BaseException] = Suspended
        self._wake = wake
        self._woken = False
        self._running = False
        self._thread = 0
        self._pending: dict[int, Trampoline] = {}
        self._task_numbers = itertools.count(1)
        self._stray_numbers = itertools.count(-1, -1)
        self._future_numbers = itertools.count(1)
        self._generator_numbers = itertools.count(1)
        self._generators: dict[int, weakref.ref[Any]] = {}
        self._exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    def __repr__(self) -> str:
        state = "dropped" if self._closed else f"{len(self._pending)} tasks, {len(self._ready)} ready"
        return f"<PrivateLoop of a workflow handler: {state}>"

    # -- the ready queue -------------------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Append `callback` to the ready queue; after a drop it is discarded."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Append `callback` to the ready queue from any thread, and wake the owner."""
        handle = asyncio.Handle(callback, args, self, context)
        if self._closed:
            return handle
        if self._running and self._thread == threading.get_ident():
            self._ready.append(handle)
        elif self.outside is None:
            self.arrive(handle)
        else:
            self.outside.call_soon_threadsafe(self.arrive, handle)
        return handle

    def arrive(self, handle: asyncio.Handle) -> None:
        """Take in work from outside: called in the real loop's thread."""
        self._ready.append(handle)
        if not (self._woken or self._running or self._closed):
            self._woken = True
            self._wake()

    @property
    def has_ready(self) -> bool:
        """Whether a `drain()` would run anything."""
        return bool(self._ready)

    def drain(self, budget: int = 200_000, outside_budget: int = 1_000) -> Drained:
        """Run ready callbacks until there are none.

        Args:
            budget: Callbacks at most.
            outside_budget: Callbacks at most while outside awaits are open, whose turn it then is.

        Returns:
            `SETTLED`, or `EXHAUSTED` if the budget is used up and callbacks are still ready.

        Raises:
            RuntimeError: Called from within itself or inside a running task.
        """
        self._woken = False
        ready = self._ready
        if not ready:
            return Drained.SETTLED
        previous = self._enter("drain")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generator_begun, finalizer=self._generator_abandoned)
        spent = 0
        handle: asyncio.Handle | None = None
        try:
            while ready:
                if spent >= outside_budget and (spent >= budget or self.outside_open):
                    return Drained.EXHAUSTED
                spent += 1
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._run()
                except (SystemExit, KeyboardInterrupt) as error:
                    if self.exit is None:
                        self.exit = error
            return Drained.SETTLED
        finally:
            handle = None  # an exception's traceback keeps this frame, which must not keep the last task
            sys.set_asyncgen_hooks(*hooks)
            self._leave(previous)

    def _enter(self, what: str) -> asyncio.AbstractEventLoop | None:
        previous = asyncio._get_running_loop()
        if self._running:
            raise RuntimeError(f"{what}() of {self!r} called from within its own drain()")
        if previous is not None and asyncio.current_task(previous) is not None:
            raise RuntimeError(
                f"{what}() of {self!r} called inside the task {asyncio.current_task(previous)!r}; "
                "call it from a plain callback of the loop (loop.call_soon) instead"
            )
        asyncio._set_running_loop(self)
        self._running = True
        self._thread = threading.get_ident()
        return previous

    def _leave(self, previous: asyncio.AbstractEventLoop | None) -> None:
        self._running = False
        asyncio._set_running_loop(previous)

    # -- tasks and futures -----------------------------------------------------------------------------------

    def create_future(self) -> PrivateFuture[Any]:
        """A future of this loop."""
        future: PrivateFuture[Any] = PrivateFuture(loop=self)
        future.number = next(self._future_numbers)
        return future

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **kwargs: Any
    ) -> PrivateTask[Any]:
        """Make a task of `coro`; it starts within the drain, never eagerly, whatever `kwargs` ask for.

        Raises:
            TypeError: `coro` is no coroutine, or one that `asyncio.as_completed` was given bare: such
                coroutines start in no fixed order.
            asyncio.CancelledError: The handler was dropped; `coro` has been closed.
        """
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        if sys._getframe(1).f_code in _ENSURE_FUTURE:
            _refuse_unordered(coro)
        return self._task(coro, next(self._task_numbers), name, context)

    def _task(
        self, coro: Coroutine[Any, Any, T], number: int, name: str | None, context: Context | None
    ) -> PrivateTask[T]:
        if self._closed:
            close_for_good(coro)
            raise self.drop_error()
        trampoline = Trampoline(coro, self, number, copy_context() if context is None else context)
        task: PrivateTask[T] = PrivateTask(trampoline, f"Task-{number}" if name is None else name)
        trampoline.task = task
        self._pending[number] = trampoline
        return task

    def forget(self, number: int) -> None:
        """A task's coroutine is over."""
        self._pending.pop(number, None)

    @property
    def pending_tasks(self) -> list[PrivateTask[Any]]:
        """The tasks whose coroutines are not over, in creation order."""
        return [trampoline.task for trampoline in self._pending.values() if trampoline.task is not None]

    # -- async generators ------------------------------------------------------------------------------------

    def _generator_begun(self, generator: Any) -> None:
        number = next(self._generator_numbers)
        self._generators[number] = weakref.ref(generator, lambda _: self._generators.pop(number, None))

    def _generator_abandoned(self, generator: Any) -> None:
        """Python's hook for a generator that is collected before its end: maybe in any thread, at any time."""
        if self._closed or self.drop_round:
            end_generator(generator, self.drop_error)
            return
        try:
            self.call_soon_threadsafe(self._close_generator, generator)
        except RuntimeError:  # the real loop is closed: nobody will drain any more
            end_generator(generator, self.drop_error)

    def _close_generator(self, generator: Any) -> None:
        # Numbered apart: a generator found by the cyclic collector must not shift the numbers of other tasks.
        _ = self._task(generator.aclose(), next(self._stray_numbers), "async-generator-close", None)

    # -- the end ---------------------------------------------------------------------------------------------

    @property
    def dropping(self) -> bool:
        """Whether the handler is being dropped or has been."""
        return self.drop_round > 0 or self._closed

    def drop(self, throw: type[BaseException] = Suspended) -> None:
        """End everything that belongs to the handler, now.

        Every task sees `throw` at the await where it stands, up to ten times if it goes on; then what is left is
        closed, with whatever that raises. Outside awaits are cancelled, timers forgotten, async generators
        closed, and the loop takes no further work. Idempotent.

        Args:
            throw: The class of the error the tasks see; a `CancelledError`, so that tasks end as cancelled.

        Raises:
            RuntimeError: Called from within `drain()` or inside a running task.
        """
        if self._closed:
            return
        if self._running:
            raise RuntimeError(f"drop() of {self!r} called from within its own drain()")
        self.drop_error = throw
        self._drop_timers()
        for self.drop_round in range(1, _DROP_ROUNDS + 1):
            if not self._pending:
                break
            self._suspend_waiting()
            self.drain(budget := _DROP_BUDGET + 10 * len(self._pending), budget)
            self._suspend_unreached()
            self.drain(budget, budget)
        self._close_rest()

    def close(self) -> None:
        """The same as `drop()`."""
        self.drop()

    def _suspend_waiting(self) -> None:
        """Wake every task that waits for a plain future; those who wait for tasks are woken by these.

        Cancelling the outermost of a nest of tasks would recurse through all of them.
        """
        for trampoline in list(self._pending.values())[::-1]:
            waiter = getattr(trampoline.task, "_fut_waiter", None)
            if (
                waiter is not None
                and not isinstance(waiter, asyncio.Task)
                and not hasattr(waiter, "_children")
            ):
                _cancel(waiter)

    def _suspend_unreached(self) -> None:
        """Cancel the tasks that the first half of the round did not reach (behind one that goes on)."""
        for trampoline in list(self._pending.values())[::-1]:
            if trampoline.seen != self.drop_round and trampoline.task is not None:
                _cancel(trampoline.task)

    def _close_rest(self) -> None:
        self.drop_round = max(self.drop_round, 1)
        self._closed = True
        self._ready = deque(maxlen=0)  # takes everything and keeps nothing
        self._wake = _nobody
        if not (self._pending or self._generators or self.outside_open or self._watched):
            return
        previous = self._enter("drop")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generator_begun, finalizer=self._generator_abandoned)
        try:
            for trampoline in list(self._pending.values())[::-1]:
                trampoline.context.run(close_for_good, trampoline.coro)
                trampoline.task = None
            self._pending.clear()
            for reference in list(self._generators.values())[::-1]:
                if (generator := reference()) is not None:
                    end_generator(generator, self.drop_error)
            self._generators.clear()
            self.drop_outside()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            self._leave(previous)

    # -- the rest of the interface ---------------------------------------------------------------------------

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debug mode would read clocks; it stays off."""

    def run_forever(self) -> NoReturn:
        raise RuntimeError("the event loop of a workflow handler cannot be run: await in the handler instead")

    def run_until_complete(self, future: Any) -> NoReturn:
        if asyncio.iscoroutine(future):
            future.close()
        raise RuntimeError("the event loop of a workflow handler cannot be run: await in the handler instead")

    def stop(self) -> NoReturn:
        raise RuntimeError(
            "the event loop of a workflow handler cannot be stopped: return from the handler instead"
        )

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"signal {sig}: signals belong to the application, not to a workflow handler")

    def remove_signal_handler(self, sig: int) -> bool:
        return False

    def set_default_executor(self, executor: Any) -> NoReturn:
        raise RuntimeError(
            f"default executor {executor!r}: a workflow handler uses that of the application's event loop; "
            "pass an executor to run_in_executor instead"
        )

    async def shutdown_asyncgens(self) -> None:
        """Nothing: the drop closes them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing: the executor is the real loop's."""

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: Any) -> None:
        if factory is not None:
            raise RuntimeError(
                f"task factory {factory!r}: the tasks of a workflow handler are made by its own loop, or a replay "
                "would take another path"
            )

    def get_exception_handler(self) -> Any:
        return self._exception_handler

    def set_exception_handler(self, handler: Any) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"a callable or None was expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what nobody caught, as an error if there is an exception, else as a warning."""
        message = context.get("message") or "unhandled exception in the event loop of a workflow handler"
        error = context.get("exception")
        details = "".join(
            f"\n{key}: {context[key]!r}" for key in sorted(context) if key not in ("message", "exception")
        )
        info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
        _log.log(logging.ERROR if info else logging.WARNING, "%s%s", message, details, exc_info=info)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.dropping:
            return  # a dropped handler's tasks are destroyed on purpose
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        try:
            self._exception_handler(self, context)
        except Exception as error:
            self.default_exception_handler(
                {"message": "unhandled error in exception handler", "exception": error, "context": context}
            )


def _cancel(waiter: asyncio.Future[Any]) -> None:
    try:
        waiter.cancel()
    except Exception as error:  # RecursionError: a nest too deep to cancel from outside is ended from inside
        _log.debug("cancelling %s: %r", type(waiter).__name__, error)


def _refuse_unordered(coro: Any) -> None:
    """Refuse a coroutine that `asyncio.as_completed` took out of a set of coroutines."""
    ensuring = sys._getframe(2)
    frame = ensuring.f_back
    while frame is not None and frame.f_globals is ensuring.f_globals:
        if frame.f_code.co_qualname.startswith(_AS_COMPLETED):
            break
        frame = frame.f_back
    else:
        return
    subject = coro
    state = getattr(coro, "gi_frame", None) or getattr(coro, "cr_frame", None)
    if state is not None and state.f_code.co_name == "_wrap_awaitable":
        subject = state.f_locals["awaitable"]
    if isinstance(getattr(subject, "number", None), int) and not _hashes_by_id(subject):
        return
    name = getattr(subject, "__qualname__", repr(subject))
    coro.close()
    if inspect.iscoroutine(subject):
        subject.close()
    raise TypeError(
        f"asyncio.as_completed() in a workflow handler was given the coroutine {name}: bare coroutines start in no "
        "fixed order, so a replay would take another path; make tasks of them first: "
        "as_completed([asyncio.create_task(...), ...])"
    )


def _hashes_by_id(subject: object) -> bool:
    hashing: object = type(subject).__hash__
    return hashing is object.__hash__
