"""An engine in a thread of its own, for code that is not async; and calls into an engine's loop from any thread.

The thread's loop does nothing else, so a program's own blocking never holds workflows up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.errors import EngineNotOpen, WfesError
from wfes.validation import shown

if TYPE_CHECKING:
    from wfes.engine import Engine

T = TypeVar("T")


class Host:
    """The thread of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._main, name=f"wfes-{engine.name or 'engine'}", daemon=True
        )

    def start(self) -> None:
        """Opens the engine in the thread; raises what opening it raised."""
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Closes the engine and ends the thread; raises what closing it raised."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._opened.done():
                self._failure = error
            else:
                self._opened.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._engine.open()
        self._opened.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await self._engine.close()


def call(
    loop: asyncio.AbstractEventLoop | None,
    thread: int,
    coroutine: Coroutine[Any, Any, T],
    timeout: Duration | None,
) -> T:
    """Runs a coroutine on an engine's loop from another thread, in a copy of this context, and waits for it.

    Args:
        loop: The engine's loop; None: it is not open.
        thread: That loop's thread, as `threading.get_ident` names it.
        coroutine: What to run.
        timeout: Duration to wait at most.

    Raises:
        TypeError: It is no coroutine.
        EngineNotOpen: The engine is not open.
        WfesError: This is the loop's own thread, which would wait for itself.
        TimeoutError: It took longer; it is cancelled.
    """
    if not inspect.iscoroutine(cast(object, coroutine)):
        raise TypeError(f"call takes a coroutine such as checkout.start(order), not {shown(coroutine)}")
    try:
        micros = None if timeout is None else durations.micros(timeout, "timeout")
        if loop is None or loop.is_closed():
            raise EngineNotOpen("this engine is not open, so nothing can be called in it")
        if thread == threading.get_ident():
            raise WfesError(
                "engine.call is for other threads; in the engine's own thread await the coroutine"
            )
    except BaseException:
        coroutine.close()
        raise
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(None if micros is None else micros / durations.SECOND)
    except concurrent.futures.CancelledError:
        raise EngineNotOpen("the engine was closed while this call was waiting") from None
    except TimeoutError:
        if future.done():
            # The coroutine's own.
            raise
        future.cancel()
        raise TimeoutError(f"the call was not done within {durations.text(micros or 0)}") from None
    except BaseException:
        future.cancel()
        raise
