"""This worker among the others: its row, its lock, its heartbeat, and whom it takes for dead.

Owns the order of things that makes a lock trustworthy: lock, then row, then claims; and at the end everything
released, then the row, then the lock. What is dead or due is only reported; the worker decides what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Protocol

import orjson

from wfes.core.durations import SECOND
from wfes.errors import WfesError
from wfes.log.port import Log, Member, Tx
from wfes.log.presence import Hold, Presence
from wfes.runtime import leases
from wfes.runtime.claims import Work
from wfes.runtime.watch import Lookout, Sighting, Watch

_log = logging.getLogger("wfes")

SIGN_OFF_SECONDS = 2.0
"""How long the end of a worker waits for its row to be removed."""

Statements = Sequence[tuple[str, Sequence[object]]]


class Queue(Protocol):
    """What a worker needs of the writer."""

    workers: set[str]
    """Workers of this process: states of what they own stay in memory."""

    def submit(self, member: Member) -> None:
        """Puts a member into the queue; never blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Signature:
    """How a worker signs on.

    Attributes:
        worker: its id, never used before.
        name: the engine's name, for whoever lists workers.
        code: by workflow, what it runs.
        machine: where it runs.
        lease: how long its heartbeat may stay unchanged, in microseconds.
    """

    worker: str
    name: str | None
    code: Mapping[str, Any]
    machine: leases.Machine
    lease: int = leases.LEASE_MICROS


class RowsMember:
    """A member of the writer's queue that runs statements on operational rows."""

    def __init__(
        self, statements: Statements, future: asyncio.Future[None], *, withdrawable: bool = False
    ) -> None:
        """Makes the member of statements and their parameters.

        Args:
            statements: SQL and parameters.
            future: gets the outcome.
            withdrawable: somebody waits for it, and is told after a time that the log is in trouble.
        """
        self._statements = statements
        self._future = future
        self.withdrawable = withdrawable

    def run(self, tx: Tx) -> None:
        for sql, params in self._statements:
            tx.query(sql, params)

    def done(self, result: None) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def failed(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class _Beat:
    """A heartbeat as a member of the writer's queue. At most one is on its way."""

    def __init__(self) -> None:
        self.sql = ""
        self.params: Sequence[object] = ()
        self.is_queued = False

    def run(self, tx: Tx) -> None:
        tx.query(self.sql, self.params)

    def done(self, result: None) -> None:
        self.is_queued = False

    def failed(self, error: Exception) -> None:
        self.is_queued = False  # whether it worked is seen at the next look


class Heart:
    """Writes a worker's heartbeat, from the watching thread: a worker whose event loop is blocked is alive."""

    def __init__(
        self, writer: Queue, now: Callable[[], int], worker: str, presence: Presence, hold: Hold, lease: int
    ) -> None:
        """Makes it; the row that was registered speaks of the hold's era.

        Args:
            writer: writes it where the log does not offer to.
            now: the wall clock in microseconds.
            worker: whose heart it is.
            presence: what the log offers.
            hold: this worker's lock.
            lease: in microseconds.
        """
        self._writer = writer
        self._now = now
        self._worker = worker
        self._presence = presence
        self._hold = hold
        self._pause = lease / SECOND / leases.BEATS_A_LEASE
        self._beaten_at: float | None = None
        self._beat = _Beat()
        self.era = hold.era

    def beat(self, needed: bool) -> None:
        """Beats if it is time to, and at once where others would look at the wrong lock.

        Args:
            needed: somebody judges this worker by its heartbeat.

        Raises:
            LogUnavailable: it cannot be written now.
        """
        era = self._hold.era
        at = time.monotonic()
        is_due = self._beaten_at is None or at - self._beaten_at >= self._pause
        if era == self.era and not (is_due and (needed or not self._hold.is_held)):
            return
        params = (self._now(), era, self._worker)
        if not self._presence.tell((leases.BEAT, params)) and not self._beat.is_queued:
            self._beat.sql, self._beat.params, self._beat.is_queued = leases.BEAT, params, True
            self._writer.submit(self._beat)
        self._beaten_at = at
        self.era = era


class Membership:
    """A worker's place among the workers of a log. For the event loop's thread."""

    def __init__(
        self,
        log: Log,
        writer: Queue,
        now: Callable[[], int],
        work: Work,
        signature: Signature,
        report: Callable[[Sighting], object],
        lost: Callable[[], object],
    ) -> None:
        """Makes it; `sign_on` registers.

        Args:
            log: an open log.
            writer: its writer.
            now: the wall clock in microseconds.
            work: what is to be done for this engine's workflows.
            signature: who signs on.
            report: called, from a plain callback of the loop, with what was seen of the other workers when something
                about them has changed.
            lost: called, from a plain callback of the loop, when somebody took this worker for dead.
        """
        self._log = log
        self._writer = writer
        self._now = now
        self._work = work
        self._me = signature
        self._report = report
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._presence = log.presence()
        self._hold: Hold | None = None
        self._watch: Watch | None = None

    async def sign_on(self, busy: Callable[[], bool], handlers: Mapping[CodeType, str]) -> Sighting | None:
        """Registers, and begins to watch the others and the event loop.

        Args:
            busy: whether executions are in memory, for the warning about a blocked loop; from any thread.
            handlers: the code of handlers, to name the workflow in that warning.

        Returns:
            What the first look saw; None: there is nobody to be seen.

        Raises:
            LogUnavailable: this process cannot take a lock, or the log could not be written for as long as a command
                waits.
        """
        worker = self._me.worker
        presence, lookout, sighting = self._presence, None, None
        if presence is not None:
            self._hold = await asyncio.to_thread(presence.hold, worker)
            heart = Heart(self._writer, self._now, worker, presence, self._hold, self._me.lease)
            observer = leases.Observer(worker, self._me.machine, presence, workflows=self._me.code)
            lookout = Lookout(self._log, observer, worker, self._work, heart.beat, self._me.lease)
        try:
            await self._write(self._registration(), withdrawable=True)
            if lookout is not None and presence is not None:
                sighting = await asyncio.to_thread(lookout.look)
                registered = [str(row[0]) for row in self._log.read(leases.SELECT)]
                await asyncio.to_thread(presence.sweep, registered)
        except BaseException:
            self._free_lock()
            raise
        self._writer.workers.add(worker)
        # A program that drops its event loop without a stop must not keep its instances from others.
        self._watch = Watch(self._loop, lookout, self._sighted, busy, handlers, self._leave_lock)
        self._watch.start()
        return sighting

    def drain(self) -> None:
        """Tells whoever looks that this worker claims nothing more."""
        self._write_later([(leases.DRAIN, (self._me.worker,))])

    async def sign_off(self) -> None:
        """Stops watching, removes the row and frees the lock."""
        self.stop_watching()
        try:
            async with asyncio.timeout(SIGN_OFF_SECONDS):
                await self._write([(leases.DELETE, (self._me.worker,))])
        except (TimeoutError, WfesError) as error:
            reason = str(error) or "the log gave no answer"
            _log.warning("worker %s could not sign off: %s", self._me.worker, reason)
            self._leave_lock()
        finally:
            self._writer.workers.discard(self._me.worker)
            self._free_lock()

    def desert(self) -> None:
        """Stops watching and frees the lock: nobody is behind the row any more, if it is there."""
        self.stop_watching()
        self._writer.workers.discard(self._me.worker)
        self._leave_lock()

    def stop_watching(self) -> None:
        """Ends the watching thread."""
        if self._watch is not None:
            self._watch.stop()

    def wake(self) -> None:
        """An execution is in memory: the event loop is to be watched."""
        if self._watch is not None:
            self._watch.wake()

    def bury(self, dead: str) -> None:
        """Removes what a worker whose row is gone has left behind."""
        if self._presence is not None:
            self._presence.bury(dead)

    def _free_lock(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _leave_lock(self) -> None:
        """Frees the lock, not its traces: the row is still there, and a free lock says that nobody is behind it."""
        if self._hold is not None:
            self._hold.forget()
            self._hold = None

    def _registration(self) -> Statements:
        me = self._me
        era = 0 if self._hold is None else self._hold.era
        code = orjson.dumps(me.code).decode()
        place = (me.machine.host, me.machine.boot, os.getpid())
        return [(leases.INSERT, (me.worker, me.name, *place, self._now(), era, code, me.lease))]

    def _write(self, statements: Statements, *, withdrawable: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._writer.submit(RowsMember(statements, future, withdrawable=withdrawable))
        return future

    def _write_later(self, statements: Statements) -> None:
        # Whether it worked is seen at the next look.
        self._write(statements).add_done_callback(lambda future: future.cancelled() or future.exception())

    def _sighted(self, sighting: Sighting) -> None:
        """What the watching thread saw, on the loop's thread."""
        if self._hold is None:
            return
        if sighting.registered:
            self._report(sighting)
        else:
            self._lost()
