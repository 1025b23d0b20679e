"""The threads that synchronous step functions run in.

The standard library's pool is joined when the interpreter ends, so one stuck step would keep a process from ever
stopping after its grace. These threads are daemons: a clean stop waits for running steps as long as it said, and
what is still running then is cut off like by a crash, which the log shows as a cut-off attempt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS_MAX = 64
"""How many synchronous step functions run at a time in one engine; the others wait for a thread."""
IDLE_SECONDS = 30.0
"""How long a thread without work stays."""


class StepThreads(Executor):
    """At most so many daemon threads, started as they are needed, that leave again when there is nothing to do."""

    def __init__(self, max_threads: int = THREADS_MAX, name: str = "wfes-step") -> None:
        """Makes the pool; no thread is started yet."""
        self._max_threads = max_threads
        self._name = name
        self._changed = threading.Condition()
        self._queue: deque[tuple[Future[Any], Callable[[], None]]] = deque()
        self._threads = 0
        self._idle = 0
        self._number = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `fn` in a thread.

        Raises:
            RuntimeError: the pool was shut down.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            if self._closed:
                raise RuntimeError("this engine has stopped: no step function is started any more")
            self._queue.append((future, run))
            if self._idle >= len(self._queue):
                self._changed.notify()
            elif self._threads < self._max_threads:
                self._threads += 1
                self._number += 1
                name = f"{self._name}-{self._number}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Takes no more work. Running functions run on; `wait` is not supported, by design.

        Args:
            wait: ignored.
            cancel_futures: cancel what has not been started.
        """
        with self._changed:
            self._closed = True
            dropped = list(self._queue) if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()

    def _work(self) -> None:
        while (run := self._next()) is not None:
            run()
            # An idle thread must not keep the last call's arguments and result alive.
            del run

    def _next(self) -> Callable[[], Any] | None:
        with self._changed:
            while not self._queue:
                self._idle += 1
                woken = not self._closed and self._changed.wait(IDLE_SECONDS)
                self._idle -= 1
                if not woken and not self._queue:
                    self._threads -= 1
                    return None
            return self._queue.popleft()[1]
