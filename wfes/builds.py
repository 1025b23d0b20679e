"""Rebuilds at work in an engine: a thread each, how far each one is, and who waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.subscription.building import Build, Built, Cancelled, Join, Progress
from wfes.subscription.following import Follow
from wfes.subscription.runner import Around

logger = logging.getLogger("wfes.projections")


class Builds:
    """The rebuilds of one engine. Safe to use from any thread.

    Args:
        log: the open log.
        around: makes what shows events, for one thread.
        now: the engine's clock, microseconds since the Unix epoch.
        told: called from a thread when a rebuild is over or has got further.
    """

    def __init__(
        self,
        log: Log,
        around: Callable[[], Around],
        now: Callable[[], int],
        told: Callable[[], None],
    ) -> None:
        self._log = log
        self._around = around
        self._now = now
        self._told = told
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[threading.Thread, Future[Built]]] = {}
        self._parts: dict[str, float] = {}

    def start(
        self,
        follow: Follow,
        *,
        anew: bool,
        done: Callable[[Follow], None],
        join: Join | None,
        progress: Progress | None = None,
    ) -> Future[Built]:
        """Begins to build a projection's rows, or gives the build that is under way.

        Args:
            follow: the projection.
            anew: from the beginning, even if the rows are of its version.
            done: called from the thread when the rows were swapped.
            join: for an inline projection, what lets it take part again.
            progress: called from the thread with positions: how many are done, and of how many.
        """
        name = follow.projection.name

        def further(position: int, head: int) -> None:
            self._parts[name] = position / head if head else 1.0
            if progress is not None:
                progress(position, head)

        with self._lock:
            known = self._running.get(name)
            if known is not None and not known[1].done():
                return known[1]
            future: Future[Built] = Future()
            build = Build(
                follow.projection,
                follow.store,
                self._log,
                self._around(),
                self._now,
                stopping=self._stopping,
                anew=anew,
                progress=further,
                join=join,
            )
            thread = threading.Thread(
                target=self._run,
                args=(build, follow, done, future),
                name=f"wfes-rebuild-{name}",
                daemon=True,
            )
            self._running[name] = thread, future
            self._parts[name] = 0.0
        thread.start()
        return future

    def _run(
        self, build: Build, follow: Follow, done: Callable[[Follow], None], future: Future[Built]
    ) -> None:
        name = follow.projection.name
        try:
            built = build.run()
            if built.failure is None:
                done(follow)
            else:
                failure = built.failure
                logger.error(
                    "projection %r cannot be built anew: its handler raised at position %d, %s: %s; the rows there are "
                    "stay as they are",
                    name,
                    failure.position,
                    failure.event,
                    failure.error,
                    exc_info=failure.raised,
                )
            future.set_result(built)
        except Cancelled as error:
            future.set_exception(error)
        except WfesError as error:
            logger.error("projection %r cannot be built anew: %s", name, error)
            future.set_exception(error)
        except Exception as error:
            logger.exception("projection %r cannot be built anew", name)
            future.set_exception(error)
        finally:
            self._parts.pop(name, None)
            self._told()

    def part(self, name: str) -> float | None:
        """How much of a rebuild under way here is done, 0 to 1; None: there is none."""
        return self._parts.get(name)

    @property
    def quiet(self) -> bool:
        """Whether none is under way."""
        return not self._parts

    async def stop(self) -> None:
        """Cuts off what is under way; another engine, or the next time, goes on with it."""
        self._stopping.set()
        for thread, _ in list(self._running.values()):
            await asyncio.to_thread(thread.join)
