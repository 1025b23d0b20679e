"""One quiet thread beside the event loop: it looks at the other workers, and at the loop itself.

Both must not depend on the loop: a loop blocked by a handler cannot report that, and a lock has to be looked at
even then; and a worker whose loop is blocked is alive, so the thread writes its heartbeat as well. The thread wakes
twice a second, and only while there is something to look at: other processes that share the log, or executions in
memory. It judges nothing by itself: what it saw goes to the loop as a `Sighting`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

from wfes.core.durations import SECOND
from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.runtime import leases
from wfes.runtime.claims import Work, orphans

_log = logging.getLogger("wfes")

TICK_SECONDS = 1.0
"""From when on a blocked loop is worth a warning, and how often the thread looks where no lock is to be seen."""
LOOK_SECONDS = 0.5
"""How often it looks at other workers' locks."""
UNSURE_SECONDS = 0.12
"""How soon it looks again where a worker seems to be dead."""
ORPHANS_LOOKS = 60
"""Every so many looks it also looks for owners that are not registered."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the thread saw of the other workers and their work.

    Attributes:
        census: who is dead, who is alive.
        orphaned: owners of instances that are registered no more.
        registered: this worker's own row is there.
        due: when the first instance that nobody owns is due, in microseconds.
    """

    census: leases.Census
    orphaned: tuple[str, ...]
    registered: bool
    due: int | None


class Lookout:
    """Reads the table of workers, judges them, and writes this worker's heartbeat. For one thread at a time.

    Attributes:
        beat_seconds: how often it is to look at least, for a heartbeat is only written then.
    """

    def __init__(
        self,
        log: Log,
        observer: leases.Observer,
        worker: str,
        work: Work,
        beat: Callable[[bool], None],
        lease: int = leases.LEASE_MICROS,
    ) -> None:
        """Makes it for one worker.

        Args:
            log: an open log.
            observer: judges the others.
            worker: this worker's id.
            work: what is to be done for this engine's workflows.
            beat: writes the heartbeat if it is time to; called with whether somebody needs it.
            lease: this worker's, in microseconds.
        """
        self.beat_seconds = lease / SECOND / leases.BEATS_A_LEASE
        self._log = log
        self._observer = observer
        self._worker = worker
        self._work = work
        self._beat = beat
        self._count = 0

    def look(self) -> Sighting:
        """Looks once.

        Raises:
            LogUnavailable: the log cannot be read now.
        """
        rows = self._log.read(leases.SELECT)
        census = self._observer.look(rows)
        registered = any(row[0] == self._worker for row in rows)
        if registered:
            self._beat(census.needs_beat)
        orphaned: tuple[str, ...] = ()
        if self._count % ORPHANS_LOOKS == 0:
            orphaned = tuple(id for id in orphans(self._log.read) if id != self._worker)
        self._count += 1
        others = bool(census.alive or census.dead)
        return Sighting(census, orphaned, registered, self._work.next_due(self._log.read) if others else None)


class Watch:
    """The thread. `start`, `wake` and `stop` are for the event loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lookout: Lookout | None,
        sighted: Callable[[Sighting], object],
        busy: Callable[[], bool],
        handlers: Mapping[CodeType, str],
        deserted: Callable[[], object],
    ) -> None:
        """Makes the thread; `start` starts it.

        Args:
            loop: the event loop to watch, whose thread makes this call.
            lookout: what looks at other workers; None where there can be none.
            sighted: gets each sighting that differs from the last or is urgent, on the loop's thread.
            busy: whether anything runs on the loop that could block it; from any thread.
            handlers: the code of handlers, to name the workflow in a warning.
            deserted: called in the thread, as its last act, if the loop was closed without a clean stop.
        """
        self._deserted = deserted
        self._loop = loop
        self._lookout = lookout
        self._sighted = sighted
        self._busy = busy
        self._blockage = Blockage(loop, threading.get_ident(), handlers)
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._last: Sighting | None = None
        self._thread = threading.Thread(target=self._run, name="wfes-watch", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to watch; it may sleep for good while there was nothing."""
        if not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """Ends the thread, without waiting for it."""
        self._closed.set()
        self._wake.set()

    def _run(self) -> None:
        pause = TICK_SECONDS if self._lookout is None else LOOK_SECONDS
        while not self._closed.is_set():
            if self._lookout is None and not self._busy():
                self._wake.clear()
                if not self._busy():
                    self._blockage.reset()
                    self._wake.wait()
            if self._closed.wait(pause):
                return
            try:
                pause = self._tick()
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
            if self._loop.is_closed():
                self._deserted()
                return

    def _tick(self) -> float:
        """Looks once; how many seconds to wait for the next time."""
        if self._busy():
            self._blockage.check()
        else:
            self._blockage.reset()
        if self._lookout is None:
            return TICK_SECONDS
        try:
            sighting = self._lookout.look()
        except WfesError:
            return LOOK_SECONDS  # The writer says when the log is in trouble; the next look will tell more.
        census = sighting.census
        urgent = census.dead or sighting.orphaned or not sighting.registered
        if urgent or sighting != self._last:
            self._last = sighting
            self._loop.call_soon_threadsafe(self._sighted, sighting)
        if census.unsure:
            return UNSURE_SECONDS
        pause = LOOK_SECONDS if census.locks else TICK_SECONDS
        if census.patience_nanos is not None:
            pause = min(pause, max(census.patience_nanos / 1e9, UNSURE_SECONDS))
        return min(pause, self._lookout.beat_seconds)


class Blockage:
    """Notices an event loop that answers nothing for a second, and who blocks it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, thread: int, handlers: Mapping[CodeType, str]
    ) -> None:
        """Makes it for a loop that runs in the thread of this identity."""
        self._loop = loop
        self._thread = thread
        self._handlers = handlers
        self._asked = 0.0
        self._pending = False
        self._warned = False

    def reset(self) -> None:
        """Nothing is to be watched for now."""
        self._pending = self._warned = False

    def check(self) -> None:
        """Asks the loop for a sign of life; warns, once a blockage, if the last one did not come for a second."""
        if not self._pending:
            self._asked = time.monotonic()
            self._pending = True
            self._loop.call_soon_threadsafe(self._answer)
            return
        late = time.monotonic() - self._asked
        if self._warned:
            return
        if late > TICK_SECONDS * 2:
            # This thread came late itself: the whole process was stopped, or starved.
            self._asked = time.monotonic()
        elif late >= TICK_SECONDS * 0.9:
            self._warned = True
            _log.warning(
                "the event loop is blocked for %.1f s already by %s; every workflow and the whole program "
                "wait for it. Call blocking functions as steps (plain functions run in a thread)",
                late,
                self._culprit(),
            )

    def _answer(self) -> None:
        self._pending = self._warned = False

    def _culprit(self) -> str:
        frame = sys._current_frames().get(self._thread)
        return culprit(frame, self._handlers)


_PACKAGE = str(Path(__file__).resolve().parent.parent)
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def culprit(frame: FrameType | None, handlers: Mapping[CodeType, str]) -> str:
    """Names whoever runs in this frame: the innermost code of the user's own, and the workflow it belongs to."""
    if frame is None:
        return "something unknown"
    where = ""
    workflow = ""
    innermost = frame.f_code
    line = frame.f_lineno
    at: FrameType | None = frame
    while at is not None and not workflow:
        code = at.f_code
        if not where and not code.co_filename.startswith((_PACKAGE, *_LIBRARIES, "<")):
            where = f"{code.co_qualname} ({code.co_filename}:{at.f_lineno})"
        if code in handlers:
            workflow = f" in the handler of workflow {handlers[code]!r}"
        at = at.f_back
    return (where or f"{innermost.co_qualname} ({innermost.co_filename}:{line})") + workflow
