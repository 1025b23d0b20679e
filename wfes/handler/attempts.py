"""A step: its attempts, their time-outs and retries, and what a crash in the middle of one means.

Invariants: the function is called only when its ``StepStarted`` is on disk (G2); a result is sealed before it is
recorded, so what cannot be stored fails the step and never the log; a cut-off attempt is made again under the same
number and does not count.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from wfes import errors
from wfes.core import durations
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo, RecordedError, qualified_name
from wfes.core.retry import Retry
from wfes.core.types import ABSENT
from wfes.handler import functions
from wfes.handler.asks import Ask
from wfes.handler.scope import Scope, enter

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.runtime.clock import Cancellable

CUT_OFFS_MAX = 5
"""After so many cut-off attempts in a row the instance is paused."""

_NO_CONTEXT = Context()
_UNRETRIED = (errors.UnstorableValue, errors.PayloadTooLarge, errors.StateReadOnly)
_AS_THEMSELVES = {qualified_name(cls): cls for cls in (errors.UnstorableValue, errors.PayloadTooLarge)}


class _Exit:
    """What a function that raised ``SystemExit`` gave: no task of the real loop may raise it, or the loop ends."""

    __slots__ = ("error",)

    def __init__(self, error: SystemExit) -> None:
        self.error = error


async def _contained(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except SystemExit as error:
        return _Exit(error)


def _close_unbegun(work: Awaitable[Any], task: asyncio.Future[Any]) -> None:
    """A task that was cancelled before its first step never awaited its work, which would complain about that."""
    if task.cancelled() and inspect.iscoroutine(work):
        work.close()


class StepAsk(Ask):
    """A step asked for: a function to run until an attempt of it succeeds.

    Attributes:
        attempt: the attempt made now or next, 1, 2, …
        retry_at: while in backoff, when the next attempt is due, in microseconds.
        cut_offs: how often in a row this attempt was cut off by a crash or stop.
        begun: the attempt's ``StepStarted`` is on disk and its function has been called.
        suspended: its function was left while an inner wait was open; running it again is no new attempt.
    """

    kind = "step"
    is_start = True
    waits = False

    __slots__ = (
        "_left",
        "_since",
        "alarm",
        "args",
        "attempt",
        "begun",
        "context",
        "cut_offs",
        "fn",
        "index",
        "limit",
        "once",
        "retry",
        "retry_at",
        "returns",
        "scope",
        "suspended",
        "task",
        "thread",
        "timed_out",
        "timeout",
    )

    def __init__(
        self,
        execution: Execution,
        path: str,
        *,
        nested: bool,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        retry: Retry,
        timeout: int | None,
        returns: object,
        thread: bool,
        once: bool,
        index: int | None = None,
    ) -> None:
        super().__init__(execution, path, nested=nested)
        self.fn = fn
        self.args = args
        self.retry = retry
        self.timeout = timeout
        self.returns = returns
        self.thread = thread
        self.once = once
        self.index = index
        self.context: Context = copy_context()
        self.attempt = 1
        self.begun = False
        self.retry_at: int | None = None
        self.cut_offs = 0
        self.suspended = False
        self.task: asyncio.Future[Any] | None = None
        self.alarm: Cancellable | None = None
        self.limit: Cancellable | None = None
        self._left: int | None = None
        self._since = 0
        self.timed_out = False
        self.scope: Scope | None = None

    @property
    def is_running(self) -> bool:
        """Whether an attempt is being made in this process."""
        return self.task is not None

    def opening(self, at: int) -> e.Event:
        return e.StepStarted(at=at, path=self.path, attempt=self.attempt)

    def withdrawal(self, at: int) -> e.Event:
        return e.StepCancelled(at=at, path=self.path)

    def due(self) -> int | None:
        return self.retry_at

    # ------------------------------------------------------------------------------------------- replay

    def adopt(self, event: Any) -> None:
        if isinstance(event, e.StepAttemptFailed):
            self.attempt = event.attempt
            self.retry_at = event.retry_at
            return
        if event.attempt != self.attempt:
            self.cut_offs = 0
        self.attempt = event.attempt
        self.retry_at = None

    def resume(self) -> None:
        """Goes on after a replay that found it begun and not ended."""
        if self.retry_at is not None:
            self._back_off()
        elif self.suspended:
            self.suspended = False
            self.begin()
        elif self.once:
            interrupted = errors.StepInterrupted(self.path, self.attempt)
            self._fail(ErrorInfo.of(interrupted))
        elif self.cut_offs >= CUT_OFFS_MAX:
            self.execution.hold(
                "cut-offs",
                f"attempt {self.attempt} of step {self.path!r} was cut off {self.cut_offs} times in a row; "
                "it may be what crashes its worker. resume() lets it run again.",
            )
        else:
            self.execution.begin_attempt(self)

    # ------------------------------------------------------------------------------------------ running

    def begin(self) -> None:
        """Makes an attempt: its ``StepStarted`` is on disk."""
        execution = self.execution
        self.begun = True
        self.timed_out = False
        self.scope = scope = Scope(execution, self.path, self.attempt, self.index)
        context = self.context.copy()
        context.run(enter, scope)
        fn = self.fn
        values = (
            {"attempt": self.attempt} if self.index is None else {"attempt": self.attempt, "i": self.index}
        )
        extra = functions.filled(fn, len(self.args), values)
        loop = execution.host.loop
        if functions.is_async(fn):
            try:
                coro = context.run(fn, *self.args, **extra)
            except Exception as error:  # wrong arguments: no coroutine was made
                self._failed(error)
                return
        elif self.thread:
            coro = self._in_thread(context, extra)
        else:
            coro = self._on_loop(extra)
        task: asyncio.Future[Any] = loop.create_task(_contained(coro), context=context)
        self.task = task
        task.add_done_callback(self._finished)
        task.add_done_callback(partial(_close_unbegun, coro))
        self._left = self.timeout
        if not self.thread or functions.is_async(fn):
            self.run_clock()

    async def _in_thread(self, context: Context, extra: dict[str, Any]) -> Any:
        host = self.execution.host
        inner = context.copy()  # the task that awaits the thread is inside ``context`` itself

        attempt = self.attempt

        def call() -> Any:
            # Its time runs from here: waiting for a free thread is none of the function's doing.
            host.loop.call_soon_threadsafe(self._thread_began, attempt)
            try:
                return inner.run(self.fn, *self.args, **extra)
            except StopIteration as error:  # no future takes one
                raise RuntimeError("the function of a step raised StopIteration") from error

        result = await host.loop.run_in_executor(host.threads, call)
        return await result if inspect.isawaitable(result) else result

    def _thread_began(self, attempt: int) -> None:
        if attempt == self.attempt and not self.settled:
            self.run_clock()

    async def _on_loop(self, extra: dict[str, Any]) -> Any:
        result = self.fn(*self.args, **extra)
        return await result if inspect.isawaitable(result) else result

    def run_clock(self) -> None:
        """The attempt's own time runs on: its time-out is what is left from here."""
        if self._left is not None and self.limit is None and self.task is not None:
            clock = self.execution.host.clock
            self._since = clock.now()
            self.limit = clock.call_at(self._since + self._left, self._over_time)

    def stop_clock(self) -> None:
        """The function is at an inner wait, which does not count."""
        if self._left is not None and self.limit is not None:
            self.limit.cancel()
            self.limit = None
            self._left = max(0, self._left - (self.execution.host.clock.now() - self._since))

    def _over_time(self) -> None:
        self.limit = None
        if self.task is not None:
            self.timed_out = True
            self.task.cancel()

    def _finished(self, task: asyncio.Future[Any]) -> None:
        if task is not self.task:
            if not task.cancelled():
                task.exception()
            return
        self.task = None
        if self.limit is not None:
            self.limit.cancel()
            self.limit = None
        if task.cancelled():
            self._cancelled()
            return
        error = task.exception()
        if error is not None:
            self._failed(error)
        elif self.timed_out:  # it went on all the same
            self._cancelled()
        elif isinstance(result := task.result(), _Exit):
            self._failed(result.error)
        else:
            self._returned(result)

    def _cancelled(self) -> None:
        if self.timed_out:
            limit = durations.text(self.timeout or 0)
            self._failed(
                TimeoutError(f"attempt {self.attempt} of step {self.path!r} exceeded its timeout of {limit}")
            )
        elif not (self.withdrawn or self.settled or self.execution.is_ending):
            self._failed(RuntimeError(f"step {self.path!r} was cancelled from within its own function"))

    def _returned(self, value: Any) -> None:
        if self.withdrawn or self.execution.is_gone:
            return
        try:
            tree = self._sealed(value)
        except errors.WfesError as error:
            self._failed(error)
            return
        self.execution.settle(self, e.StepCompleted, {"attempt": self.attempt, "result": tree})

    def _sealed(self, value: Any) -> Any:
        if value is None or value is True or value is False:
            return value
        returns = self.returns
        if returns is ABSENT:
            returns = functions.return_type(self.fn)
        return self.execution.seal(value, f"the result of step {self.path!r}", returns)

    # ------------------------------------------------------------------------------------------ failing

    def _failed(self, error: BaseException) -> None:
        execution = self.execution
        if self.withdrawn or execution.is_gone:
            return
        if isinstance(error, asyncio.CancelledError):  # Suspended: its own execution is leaving
            return
        info = ErrorInfo.of(error)
        last = self.attempt >= self.retry.max_attempts
        if last or isinstance(error, _UNRETRIED) or self.retry.gives_up(info) or self._is_miscalled(error):
            self._fail(info)
            return
        delay = self.retry.delay_micros(self.attempt, random.random())
        at = execution.stamp()
        self.retry_at = at + delay
        execution.record(
            e.StepAttemptFailed(
                at=at, path=self.path, attempt=self.attempt, error=info.to_json(), retry_at=self.retry_at
            )
        )
        execution.forget_failures_under(self.path)
        self._back_off()

    def _is_miscalled(self, error: BaseException) -> bool:
        """Whether the function does not take these arguments: no attempt will ever do better."""
        return isinstance(error, TypeError) and not functions.takes(self.fn, self.args)

    def _fail(self, info: ErrorInfo) -> None:
        self.execution.settle(self, e.StepFailed, {"attempts": self.attempt, "error": info.to_json()})

    def _back_off(self) -> None:
        assert self.retry_at is not None
        self.execution.come_to_rest(self)
        self.alarm = self.execution.host.clock.call_at(self.retry_at, self._again)

    def _again(self) -> None:
        self.alarm = None
        if self.withdrawn or self.settled or self.execution.is_leaving:
            return
        self.execution.stir(self)
        self.attempt += 1
        self.retry_at = None
        self.cut_offs = 0
        self.execution.begin_attempt(self)

    def stay(self) -> None:
        if self.retry_at is not None:
            if self.alarm is not None:
                self.alarm.cancel()
            self._back_off()
        elif self.begun and not self.is_running:
            self.begin()

    def forget(self) -> None:
        super().forget()
        self.context = _NO_CONTEXT
        self.scope = None

    def halt(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.limit is not None:
            self.limit.cancel()
            self.limit = None
        if self.task is not None:
            self.task.cancel()

    # ------------------------------------------------------------------------------------------ outcome

    def outcome(self, event: Any) -> Any:
        if isinstance(event, e.StepCompleted):
            tree = event.result
            if tree is None or tree is True or tree is False:
                return tree
            returns = self.returns
            if returns is ABSENT and isinstance(tree, dict):
                returns = functions.return_type(self.fn)
            return self.execution.open_value(tree, returns)
        info = ErrorInfo.from_json(event.error)
        if info.type == "wfes.StepInterrupted":
            raise errors.StepInterrupted(self.path, event.attempts)
        raise _as_raised(self.path, event.attempts, info)


def _as_raised(path: str, attempts: int, info: ErrorInfo) -> Exception:
    """What a step that failed for good raises: itself for a value that cannot be stored, else ``StepError``."""
    cls = _AS_THEMSELVES.get(info.type)
    if cls is None:
        return errors.StepError(path, attempts, info)

    class Told(cls):  # type: ignore[valid-type,misc]
        def __str__(self) -> str:
            return info.message

    Told.__name__ = Told.__qualname__ = cls.__name__
    Told.__module__ = cls.__module__
    error: errors.WfesError = Told.__new__(Told)
    error.wait_path = path  # type: ignore[attr-defined]
    error.__cause__ = RecordedError(info)
    return error
