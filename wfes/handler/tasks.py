"""Tasks and futures of a handler, and the trampoline that stands between a task and its coroutine.

Invariants:

- Tasks and futures of one loop hash by their creation number, so every set of them iterates alike in
  every run of the same handler. Equality stays identity.
- A task drives its coroutine only through its `Trampoline`. What the coroutine yields is looked at once:
  a future of another loop is replaced by a private one (`PrivateLoop.bridge`), everything else passes.
- A handler being dropped sees the drop error once per round at whatever await each of its tasks stands,
  whether the task is woken by a value, an exception or a cancellation. So neither
  `gather(return_exceptions=True)` nor a swallowed cancellation makes dropped code go on as if nothing had been.
- A coroutine is never left to the garbage collector half run: its `finally` blocks would run in somebody
  else's drain. `close_for_good` ends it now, or keeps it for ever and says so.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from wfes.handler.loop import PrivateLoop

T = TypeVar("T")

_log = logging.getLogger("wfes")
_CLOSE_ATTEMPTS = 50
_unclosable: list[Any] = []
"""Coroutines that swallow every attempt to end them: kept alive, so that they never run again."""

_spread = itertools.count(1)


class PrivateFuture(asyncio.Future[T]):
    """A future of a private loop; hashes by its creation number."""

    number: int = 0

    def __hash__(self) -> int:
        return self.number


class PrivateTask(asyncio.Task[T]):
    """A task of a private loop; hashes by its creation number (1, 2, … per loop).

    While asyncio registers the task in its process-wide set the number is a process-wide one: the first
    tasks of thousands of handlers would otherwise all meet in one slot of that set.
    """

    number: int

    def __init__(self, trampoline: Trampoline, name: str | None) -> None:
        self.number = next(_spread)
        super().__init__(trampoline, loop=trampoline.loop, name=name, context=trampoline.context)
        self.number = trampoline.number

    def __hash__(self) -> int:
        return self.number

    def get_coro(self) -> Any:
        """The coroutine the task was made of, as asyncio gives it."""
        trampoline: Any = super().get_coro()
        return trampoline.coro


class Trampoline(Coroutine[Any, Any, Any]):
    """What a task drives in place of its coroutine.

    A class rather than a generator because asyncio, anyio and the debugger look at the `cr_` attributes.
    """

    __slots__ = ("context", "coro", "loop", "number", "seen", "task")

    def __init__(
        self, coro: Coroutine[Any, Any, Any], loop: PrivateLoop, number: int, context: Context
    ) -> None:
        self.coro = coro
        self.loop = loop
        self.number = number
        self.context = context
        self.seen = 0
        """The round of the drop whose error this coroutine has seen last."""
        self.task: PrivateTask[Any] | None = None

    def send(self, value: Any) -> Any:
        loop = self.loop
        if self.seen != loop.drop_round:
            return self.throw(loop.drop_error())
        try:
            yielded = self.coro.send(value)
        except BaseException:
            self._finished()
            raise
        if yielded is None:
            return None
        try:
            if yielded._loop is loop:
                return yielded
        except AttributeError:
            pass
        return self._foreign(yielded)

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any:
        loop = self.loop
        error: BaseException = typ if val is None and isinstance(typ, BaseException) else _raised(typ, val)
        if loop.drop_round and (self.seen != loop.drop_round or isinstance(error, asyncio.CancelledError)):
            self.seen = loop.drop_round
            if not isinstance(error, loop.drop_error):
                error = loop.drop_error()
        try:
            yielded = self.coro.throw(error)
        except BaseException:
            self._finished()
            raise
        finally:
            del error, typ, val  # its traceback holds this frame, which must not hold it
        if yielded is None or getattr(yielded, "_loop", None) is loop:
            return yielded
        return self._foreign(yielded)

    def close(self) -> None:
        self._finished()
        self.coro.close()

    def __await__(self) -> Any:
        return self.coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coro, name)  # `__name__` and `__qualname__`, for whoever describes the task

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self.coro, "cr_running", getattr(self.coro, "gi_running", False)))

    @property
    def cr_suspended(self) -> bool:
        return bool(getattr(self.coro, "cr_suspended", getattr(self.coro, "gi_suspended", False)))

    @property
    def cr_frame(self) -> Any:
        return getattr(self.coro, "cr_frame", getattr(self.coro, "gi_frame", None))

    @property
    def cr_code(self) -> Any:
        return getattr(self.coro, "cr_code", getattr(self.coro, "gi_code", None))

    @property
    def cr_await(self) -> Any:
        return getattr(self.coro, "cr_await", getattr(self.coro, "gi_yieldfrom", None))

    @property
    def cr_origin(self) -> Any:
        return getattr(self.coro, "cr_origin", None)

    def _finished(self) -> None:
        self.loop.forget(self.number)
        self.task = None  # or task and trampoline would keep each other alive

    def _foreign(self, yielded: Any) -> Any:
        """Replace a future of another loop; what is no such future passes for the task to refuse."""
        if not getattr(yielded, "_asyncio_future_blocking", False):
            return yielded
        loop = self.loop
        try:
            owner = yielded.get_loop()
            if owner is loop:
                return yielded
            bridged = loop.bridge(yielded)
        except Exception as error:
            return self.throw(error)
        yielded._asyncio_future_blocking = False
        bridged._asyncio_future_blocking = True
        return bridged


def _raised(typ: Any, val: Any) -> BaseException:
    if isinstance(val, BaseException):
        return val
    error = typ() if val is None else typ(val)
    assert isinstance(error, BaseException)
    return error


def close_for_good(coro: Any) -> None:
    """End `coro` now, whatever it does about it: nothing it raises leaves, and it never runs again.

    A coroutine that awaits while it is being closed is closed again, up to 50 times; one that still goes on is
    kept referenced for ever, with a warning that names it.
    """
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            coro.close()
            return
        except BaseException:  # its own cleanup failing; SystemExit too must not stop the drop
            if getattr(coro, "cr_frame", getattr(coro, "gi_frame", None)) is None:
                return
    _unclosable.append(coro)
    _log.warning("%r goes on awaiting although its handler was dropped; it is never resumed", coro)


def end_generator(generator: Any, error: type[BaseException]) -> None:
    """Close an async generator of a dropped handler; whatever it awaits in its cleanup raises `error`."""
    if generator.ag_frame is None:
        return
    closing = generator.aclose()
    step = closing.send
    value: Any = None
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            step(value)
        except BaseException:  # StopIteration: closed; anything else: its cleanup failed, and it is over too
            if generator.ag_frame is None:
                return
            closing = generator.aclose()
            step, value = closing.send, None
        else:
            step, value = closing.throw, error()
    _unclosable.append((generator, closing))
    _log.warning("%r goes on awaiting although its handler was dropped; it is never resumed", generator)
