"""Running the function of a transaction, and whose transaction its completion is appended to.

A turn is what the writer asks for a write transaction when an entry's place in its queue has come. `InTurn` runs the
function there and then, while the writer waits, within a bound; `Ahead` was run before, and brings its transaction.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from wfes import errors
from wfes.core import durations
from wfes.handler import functions

if TYPE_CHECKING:
    from wfes.core import events as e
    from wfes.handler.transaction import TransactionAsk
    from wfes.log.port import Lent, Log, WriteTransaction
    from wfes.runtime.values import Blobs, Sealed


class Failed(Exception):
    """The function failed: what it raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Lost(Exception):
    """The transaction is gone through no fault of the function, and what it wrote with it."""


class NotLent(Lost):
    """There is no transaction to be had at the moment: the function was not called."""


class Turn(Protocol):
    """Whose transaction a completion is appended to.

    Attributes:
        at: the completion's moment is not before this one, in microseconds.
        event: the completion, from ``begin`` on.
        blobs: the result's large values, from ``begin`` on.
    """

    at: int
    event: e.Event | None
    blobs: Blobs

    def begin(self, log: Log) -> WriteTransaction:
        """The write transaction to append the completion to. From the writer's thread; again if it was undone.

        Raises:
            Failed: the function failed; nothing of it is there.
            Lost: the transaction is gone.
            LogUnavailable: there is none to be had at the moment.
        """
        ...

    def drop(self) -> None:
        """It is not needed any more: lets go of what it holds."""
        ...

    def committed(self, event: e.Event) -> None:
        """The completion is in the log."""
        ...

    def turned_down(self, error: BaseException) -> None:
        """It could not be appended."""
        ...


class _Turn:
    def __init__(self, ask: TransactionAsk) -> None:
        self.ask = ask
        self.at = 0
        self.event: e.Event | None = None
        self.blobs: Blobs = ()

    def _complete(self, sealed: Sealed) -> None:
        now = self.ask.execution.host.clock.now()
        self.event = self.ask.completion(sealed, max(self.at, now))
        self.blobs = sealed.blobs

    def committed(self, event: e.Event) -> None:
        self.ask.committed(event)

    def turned_down(self, error: BaseException) -> None:
        self.ask.turned_down(error.error if isinstance(error, Failed) else error)


class InTurn(_Turn):
    """Runs the function in the writer's turn, for what is lent holds the write lock.

    Args:
        ask: the step.
        context: what the function runs in.
        seconds: how long it may take.
    """

    def __init__(self, ask: TransactionAsk, context: Context, seconds: float) -> None:
        super().__init__(ask)
        self._context = context
        own = None if ask.timeout is None else ask.timeout / durations.SECOND
        self._seconds = seconds if own is None else min(own, seconds)
        self._is_own_limit = own is not None and own < seconds

    def begin(self, log: Log) -> WriteTransaction:
        lent = log.lend()
        run = _Run(self.ask, self._context.copy(), lent)
        try:
            sealed = self.ask.sealed(run.result(self._seconds))
            lent.settle()
        except _OverTime:
            run.abandon()
            raise Failed(self._over_time()) from None
        except BaseException as error:
            run.abandon()
            raise Failed(_reason(lent, error)) from error
        try:
            self._complete(sealed)
            return lent.write()
        except BaseException:
            run.abandon()
            raise

    def _over_time(self) -> TimeoutError:
        ask = self.ask
        attempt = f"attempt {ask.attempt} of transaction {ask.path!r}"
        if self._is_own_limit:
            return TimeoutError(f"{attempt} exceeded its timeout of {durations.text(ask.timeout or 0)}")
        return TimeoutError(
            f"{attempt} took longer than {self._seconds:g}s: nobody else can write to the log meanwhile, so no "
            "more is allowed; do what takes long in a step of its own"
        )

    def drop(self) -> None:
        """It holds nothing outside the writer's turn."""


class _OverTime(Exception):
    """The function is still at work."""


class _Run:
    """One run of a function on what is lent, waited for by the writer's thread."""

    def __init__(self, ask: TransactionAsk, context: Context, lent: Lent) -> None:
        self._ask = ask
        self._context = context
        self._lent = lent
        self._loop = ask.execution.host.loop
        self._future: Future[Any] = Future()
        self._task: asyncio.Task[None] | None = None
        self._is_abandoned = False

    def result(self, seconds: float) -> Any:
        """What the function returned; raises what it raised, or `_OverTime`."""
        until = time.monotonic() + seconds
        ask = self._ask
        if functions.is_async(ask.fn):
            call = partial(ask.fn, self._lent.asynchronous, *ask.args, **ask.filled())
            return self._awaited(call, until)
        call = partial(ask.fn, self._lent.connection, *ask.args, **ask.filled())
        # A thread of its own: to wait for a free one would keep the write lock for nothing.
        threading.Thread(target=self._call, args=(call,), name="wfes-transaction", daemon=True).start()
        value = self._waited(until)
        return self._awaited(lambda: value, until) if inspect.isawaitable(value) else value

    def _call(self, call: Callable[[], Any]) -> None:
        try:
            value = self._context.run(call)
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(value)

    def _awaited(self, call: Callable[[], Any], until: float) -> Any:
        self._future = Future()
        self._loop.call_soon_threadsafe(self._start, call)
        return self._waited(until)

    def _start(self, call: Callable[[], Any]) -> None:
        if self._is_abandoned:
            self._future.cancel()
            return
        self._task = self._loop.create_task(self._await(call), context=self._context)
        self._task.add_done_callback(self._ended)

    async def _await(self, call: Callable[[], Any]) -> None:
        try:
            value = await call()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit as well: no task of the loop may raise it
            self._future.set_exception(error)
        else:
            self._future.set_result(value)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._future.done():
            path = self._ask.path
            self._future.set_exception(
                RuntimeError(f"transaction {path!r} was cancelled from within its own function")
            )

    def _waited(self, until: float) -> Any:
        wait([self._future], max(0.0, until - time.monotonic()))
        is_over_time = time.monotonic() >= until
        if not self._future.done() or (is_over_time and self._future.exception() is not None):
            raise _OverTime  # or a statement of it was interrupted for that
        return self._future.result()

    def abandon(self) -> None:
        """Undoes what the function wrote; its connection is closed when it is no more at work on it."""
        self._is_abandoned = True
        self._lent.rollback()
        self._future.add_done_callback(lambda _: self._lent.close())
        if self._task is not None and not self._future.done():
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._task.cancel)


class Ahead(_Turn):
    """A function that was run already, in a transaction that holds no lock of the log.

    Args:
        ask: the step.
        lent: its transaction.
        sealed: what the function returned.
    """

    def __init__(self, ask: TransactionAsk, lent: Lent, sealed: Sealed) -> None:
        super().__init__(ask)
        self._lent = lent
        self._sealed = sealed
        self._lock = threading.Lock()
        self._is_used = False
        self._counts = True

    def begin(self, log: Log) -> WriteTransaction:
        if not self._use():
            raise Lost("what it wrote was undone before it could be committed")
        self._complete(self._sealed)
        try:
            return self._lent.write()
        except BaseException as error:
            self._lent.rollback()
            self._lent.close()
            if isinstance(error, errors.LogUnavailable):
                raise Lost(str(error)) from error
            raise

    def _use(self) -> bool:
        with self._lock:
            is_used, self._is_used = self._is_used, True
        return not is_used

    def drop(self) -> None:
        if self._use():
            undo(self._lent)
        if self._counts:
            self._counts = False
            self.ask.execution.host.lending.release()


def _reason(lent: Lent, error: BaseException) -> BaseException:
    """What to tell: what the function did that it must not, rather than how the database refused that."""
    reason = error.reason if isinstance(error, errors.ForbiddenInTransaction) else lent.refused
    if reason is None or not isinstance(error, Exception):
        return error
    # The public error and not the one that the database's own library would have raised: this one is recorded.
    return errors.ForbiddenInTransaction(reason).with_traceback(error.__traceback__)


def _give_back(borrowing: Future[Any]) -> None:
    """What was lent came too late."""
    if not borrowing.cancelled() and borrowing.exception() is None:
        undo(borrowing.result())


def undo(lent: Lent, running: Future[Any] | None = None) -> None:
    """Rolls back what is lent, in a thread, and closes it when the function is no more at work on it."""

    def end() -> None:
        lent.rollback()
        if running is None:
            lent.close()
        else:
            running.add_done_callback(lambda _: lent.close())

    threading.Thread(target=end, name="wfes-rollback", daemon=True).start()


async def run_ahead(ask: TransactionAsk) -> Ahead:
    """Runs the function in a transaction of its own.

    Raises:
        NotLent: there is no transaction to be had.
        Lost: the database ended it.
    """
    host = ask.execution.host
    await host.lending.acquire()
    try:
        return await _run_ahead(ask)
    except BaseException:
        host.lending.release()
        raise


async def _run_ahead(ask: TransactionAsk) -> Ahead:
    host = ask.execution.host
    loop, threads = host.loop, host.threads
    borrowing: Future[Any] = threads.submit(host.log.lend)
    try:
        lent = await asyncio.wrap_future(borrowing)
    except errors.LogUnavailable as error:
        raise NotLent(str(error)) from error
    except asyncio.CancelledError:
        borrowing.add_done_callback(_give_back)
        raise
    running: Future[Any] | None = None
    try:
        if functions.is_async(ask.fn):
            value = await ask.fn(lent.asynchronous, *ask.args, **ask.filled())
        else:
            call = partial(ask.fn, lent.connection, *ask.args, **ask.filled())
            running = threads.submit(copy_context().run, call)
            value = await asyncio.wrap_future(running)
            if inspect.isawaitable(value):
                value = await value
        await loop.run_in_executor(threads, lent.settle)
        return Ahead(ask, lent, ask.sealed(value))
    except BaseException as error:
        undo(lent, running)
        if isinstance(error, Exception):
            if lent.is_lost:
                raise Lost(str(error)) from error
            reason = _reason(lent, error)
            if reason is not error:
                raise reason from error
        raise
