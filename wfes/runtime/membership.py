"""This worker among the others: its row, its lock, its heartbeat, and whom it takes for dead.

Owns the order of things that makes a lock trustworthy: lock, then row, then claims; and at the end everything
released, then the row, then the lock. What is dead or due is only reported; the worker decides what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Protocol

import orjson

from wfes.errors import WfesError
from wfes.log.port import Log, Member, Tx
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
    """

    worker: str
    name: str | None
    code: Mapping[str, Any]
    machine: leases.Machine


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


class Membership:
    """A worker's place among the workers of a log. For the event loop's thread."""

    def __init__(
        self,
        log: Log,
        writer: Queue,
        now: Callable[[], int],
        work: Work,
        signature: Signature,
        report: Callable[[Sequence[str], int | None], object],
    ) -> None:
        """Makes it; `sign_on` registers.

        Args:
            log: an open log.
            writer: its writer.
            now: the wall clock in microseconds.
            work: what is to be done for this engine's workflows.
            signature: who signs on.
            report: called with the workers newly found dead and the moment the next instance is due (microseconds;
                None: not known), when something about the other workers has changed.
        """
        self._log = log
        self._writer = writer
        self._now = now
        self._work = work
        self._me = signature
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._directory = leases.lock_directory(log.url)
        self._lock: leases.WorkerLock | None = None
        self._watch: Watch | None = None
        self._beaten_at: float | None = None

    async def sign_on(self, busy: Callable[[], bool], handlers: Mapping[CodeType, str]) -> list[str]:
        """Registers, and begins to watch the others and the event loop.

        Args:
            busy: whether executions are in memory, for the warning about a blocked loop; from any thread.
            handlers: the code of handlers, to name the workflow in that warning.

        Returns:
            The workers that are dead.

        Raises:
            LogUnavailable: this process cannot lock a file beside the database, or the log could not be written for
                as long as a command waits.
        """
        worker = self._me.worker
        lookout = None
        dead: list[str] = []
        if self._directory is not None:
            self._lock = leases.WorkerLock(self._directory, worker)
            observer = leases.Observer(worker, self._me.machine, self._directory)
            lookout = Lookout(self._log, observer, worker, self._work)
        try:
            await self._write(self._registration(), withdrawable=True)
            if lookout is not None and self._directory is not None:
                sighting = lookout.look()
                dead = [*sighting.census.dead, *sighting.orphaned]
                leases.sweep(self._directory, [str(row[0]) for row in self._log.read(leases.SELECT)])
        except BaseException:
            self._free_lock()
            raise
        self._writer.workers.add(worker)
        # A program that drops its event loop without a stop must not keep its instances from others.
        self._watch = Watch(self._loop, lookout, self._sighted, busy, handlers, self._leave_lock)
        self._watch.start()
        return dead

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

    def stop_watching(self) -> None:
        """Ends the watching thread."""
        if self._watch is not None:
            self._watch.stop()

    def wake(self) -> None:
        """An execution is in memory: the event loop is to be watched."""
        if self._watch is not None:
            self._watch.wake()

    def bury(self, dead: str) -> None:
        """Removes the lock file of a worker whose row is gone."""
        if self._directory is not None:
            leases.lock_path(self._directory, dead).unlink(missing_ok=True)

    def _free_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _leave_lock(self) -> None:
        """Frees the lock and leaves its file: the row is still there, and a free lock says that nobody is behind it."""
        if self._lock is not None:
            self._lock.forget()
            self._lock = None

    def _registration(self) -> Statements:
        me = self._me
        locked = int(self._lock is not None)
        code = orjson.dumps(me.code).decode()
        place = (me.machine.host, me.machine.boot, os.getpid())
        return [(leases.INSERT, (me.worker, me.name, *place, self._now(), locked, code))]

    def _write(self, statements: Statements, *, withdrawable: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._writer.submit(RowsMember(statements, future, withdrawable=withdrawable))
        return future

    def _write_later(self, statements: Statements) -> None:
        # Whether it worked is seen at the next look.
        self._write(statements).add_done_callback(lambda future: future.cancelled() or future.exception())

    def _sighted(self, sighting: Sighting) -> None:
        """What the watching thread saw, on the loop's thread."""
        if self._lock is None:
            return
        census = sighting.census
        if not sighting.registered:
            # Somebody who could not see the lock took this worker for dead. What was taken over stays so.
            self._write_later(self._registration())
        if (census.needs_beat or not self._lock.in_place) and self._beat_is_due():
            self._beaten_at = self._loop.time()
            self._write_later([(leases.BEAT, (self._me.worker,))])
        due = sighting.due
        if not census.alive and not census.dead:
            # The last of the others has left, perhaps with instances that are to go on here.
            due = self._now()
        self._report([*census.dead, *sighting.orphaned], due)

    def _beat_is_due(self) -> bool:
        return self._beaten_at is None or self._loop.time() - self._beaten_at >= leases.BEAT_SECONDS
