"""A connection to PostgreSQL that lasts: workers' advisory locks, and hints of commits by LISTEN and NOTIFY.

One thread owns it. It waits on the connection's socket, so it notices at once that the connection is gone, and asks
the server for an answer every two seconds, so it notices as well that it has silently died. Either way it connects
again and takes again what it held. The server frees the locks of a connection that ends, however it ends.

Where a pooler gives every transaction another connection, there is no session to rest on. Such a pooler shows in the
identity it gives a connection, which is not the server process's own; then nothing is locked or listened to here, and
workers are known by their heartbeats, commits by polling.

A lock's *era* is the moment the server was started: after a restart every lock is free and says nothing until its
worker has taken it again.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import select
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from wfes.errors import LogUnavailable
from wfes.log.postgres_connection import BEGIN_WRITE, Connection, ReadDatastore, connected
from wfes.log.postgres_sql import own, translated
from wfes.log.presence import Beat

PING_SECONDS = 2.0
"""How often the server is asked for a sign of life."""
ANSWER_SECONDS = 2.0
"""How long it may take to answer."""
RETRY_MIN_SECONDS = 0.05
RETRY_MAX_SECONDS = 1.0
LOCK_AGAIN_SECONDS = 0.1
"""How often a lock is asked for again that a connection of before still holds."""
DOUBT_SECONDS = 2.0
"""How long others' locks say nothing when this connection was cut and is back: what cut it may have cut theirs."""
HINT_SECONDS = 0.01
"""Hints are at least so far apart."""


class Session:
    """The connection and its thread; started with the first lock or listener. Safe to use from any thread."""

    def __init__(self, url: str, connect: Mapping[str, Any], name: str, pooled: bool = False) -> None:
        """Makes it; nothing is connected yet.

        Args:
            url: what errors call the log.
            connect: what `psycopg.connect` is given.
            name: what tells this log from others in the same database.
            pooled: it is known that a pooler stands between.
        """
        self._url = url
        self._connect = {**connect, "tcp_user_timeout": round(ANSWER_SECONDS * 1_000)}
        self._name = name
        self._channel = channel(name)
        self._me = secrets.token_hex(4)
        self._changed = threading.Condition()
        self._locks: dict[str, bool] = {}
        """Workers whose locks are wanted, and whether each is held."""
        self._unlock: list[str] = []
        self._wake: Callable[[], None] | None = None
        self._hinted = False
        self._tried = False
        """Whether the first attempt to connect is over, well or not."""
        self.pooled = pooled
        self.listening = False
        self.era = 0
        self._doubtful_until = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._reader, self._writer = os.pipe()
        _sessions.add(self)
        os.set_blocking(self._writer, False)
        os.set_blocking(self._reader, False)

    # -------------------------------------------------------------------------------- from any thread

    @property
    def is_doubtful(self) -> bool:
        """Whether the connection is cut, or was a moment ago."""
        return time.monotonic() < self._doubtful_until

    def lock(self, worker: str) -> None:
        """Wants the lock of a worker; waits until it is held, or known that it cannot be."""
        with self._changed:
            self._locks[worker] = False
            self._begin()
            self._poke()
            self._changed.wait_for(
                lambda: self._locks.get(worker, True) or self.pooled or (self._tried and not self.era),
                ANSWER_SECONDS * 2,
            )

    def holds(self, worker: str) -> bool:
        """Whether the lock is held now."""
        return self._locks.get(worker, False)

    def unlock(self, worker: str) -> None:
        """Frees the lock of a worker."""
        with self._changed:
            if self._locks.pop(worker, None) and not self._closed:
                self._unlock.append(worker)
                self._poke()
                self._changed.wait_for(lambda: worker not in self._unlock, ANSWER_SECONDS)

    def listen(self, wake: Callable[[], None]) -> None:
        """Calls `wake`, from the session's thread, when another process hints that it has committed."""
        with self._changed:
            self._wake = wake
            self._begin()
            self._poke()

    def hint(self) -> None:
        """Tells the others, soon, that something was committed."""
        if self.listening and not self._hinted:
            self._hinted = True
            self._poke()

    def close(self) -> None:
        """Ends the connection and its thread. Safe to call twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._poke()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS * 2)
            if self._thread.is_alive():
                return
        os.close(self._writer)
        os.close(self._reader)

    def let_go(self) -> None:
        """In a forked child: closes its hold on the parent's socket, or the parent's locks would outlive the parent."""
        connection, self._connection = self._connection, None
        self._closed = True
        if connection is not None and not connection.closed:
            with suppress(OSError):
                os.close(connection.fileno())

    def _begin(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="wfes-session", daemon=True)
            self._thread.start()

    def _poke(self) -> None:
        with suppress(BlockingIOError, OSError):
            os.write(self._writer, b".")

    # ------------------------------------------------------------------------------ the session's thread

    def _run(self) -> None:
        pause = RETRY_MIN_SECONDS
        while not self._closed:
            began = time.monotonic()
            # Whoever writes or reads says what is wrong; here it is only tried again.
            with suppress(psycopg.Error, LogUnavailable, TimeoutError, OSError):
                self._serve()
            self._lose()
            if time.monotonic() - began > RETRY_MAX_SECONDS:
                pause = RETRY_MIN_SECONDS
            self._wait(None, pause)
            pause = min(pause * 2, RETRY_MAX_SECONDS)

    def _lose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            if self.era:
                self._doubtful_until = math.inf
        with self._changed:
            self.listening = False
            self._unlock.clear()
            self._locks = dict.fromkeys(self._locks, False)
            self._tried = True
            self._changed.notify_all()

    def _serve(self) -> None:
        if self.pooled:
            self._idle()
            return
        connection = self._connection = connected(self._url, self._connect)
        ((era, backend),) = self._ask(own("session"))
        assert era is not None
        assert backend is not None
        self.pooled = int(backend) != connection.info.backend_pid
        if self.pooled:
            self.era = 0
            connection.close()
            self._connection = None
            self._idle()
            return
        self.era = int(era)
        if self._doubtful_until:
            self._doubtful_until = time.monotonic() + DOUBT_SECONDS
        listens = False
        told = asked = 0.0
        while not self._closed:
            if self._wake is not None and not listens:
                self._ask(f"LISTEN {self._channel}".encode())
                listens = self.listening = True
                self._wake()  # what was committed before it listened
            missing = self._lock_and_unlock()
            now = time.monotonic()
            if self._hinted and now - told >= HINT_SECONDS:
                self._hinted = False
                self._ask(f"NOTIFY {self._channel}, '{self._me}'".encode())
                told = asked = now
            elif now - asked >= PING_SECONDS:
                self._ask(b"SELECT 1")
                asked = now
            timeout = max(asked + PING_SECONDS - time.monotonic(), 0.0)
            if missing:
                timeout = min(timeout, LOCK_AGAIN_SECONDS)
            if self._hinted:
                timeout = min(timeout, HINT_SECONDS)
            if self._wait(connection, timeout):
                connection.pgconn.consume_input()
            self._hear(connection)

    def _idle(self) -> None:
        """There is nothing to rest on: waits for the end."""
        with self._changed:
            self._changed.notify_all()
        while not self._closed:
            self._wait(None, None)

    def _lock_and_unlock(self) -> bool:
        """Takes what is wanted and frees what is not; whether something is still missing."""
        with self._changed:
            wanted = [worker for worker, held in self._locks.items() if not held]
            done = list(self._unlock)
        for worker in done:
            self._ask(f"SELECT pg_advisory_unlock({lock_key(self._name, worker)})".encode())
        missing = False
        for worker in wanted:
            ((held,),) = self._ask(f"SELECT pg_try_advisory_lock({lock_key(self._name, worker)})".encode())
            with self._changed:
                if worker in self._locks:
                    self._locks[worker] = held == b"t"
                elif held == b"t":
                    self._unlock.append(worker)
                missing = missing or held != b"t"
        if wanted or done:
            with self._changed:
                for worker in done:
                    self._unlock.remove(worker)
                self._changed.notify_all()
        return missing

    def _wait(self, connection: Connection | None, timeout: float | None) -> bool:
        """Waits for the socket, a wish, or the time; whether it was the socket."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1_000)}
        if self._reader in ready:
            with suppress(BlockingIOError):
                os.read(self._reader, 4_096)
        return connection is not None and connection.fileno() in ready

    def _ask(self, sql: bytes) -> list[tuple[bytes | None, ...]]:
        """One statement and its rows, within a bound: a server that is gone may never answer."""
        connection = self._connection
        assert connection is not None
        pgconn = connection.pgconn
        pgconn.send_query(sql)
        limit = time.monotonic() + ANSWER_SECONDS
        rows: list[tuple[bytes | None, ...]] = []
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        while True:
            pgconn.flush()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._hear(connection)
                    return rows
                if result.status == ExecStatus.FATAL_ERROR:
                    raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
                rows += [
                    tuple(result.get_value(row, column) for column in range(result.nfields))
                    for row in range(result.ntuples)
                ]
            left = limit - time.monotonic()
            if left <= 0 or not poll.poll(left * 1_000):
                raise TimeoutError("the server does not answer")
            pgconn.consume_input()

    def _hear(self, connection: Connection) -> None:
        heard = False
        while (notify := connection.pgconn.notifies()) is not None:
            heard = heard or notify.extra.decode() != self._me
        if heard and self._wake is not None:
            self._wake()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _let_go() -> None:
    for session in list(_sessions):
        session.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class AdvisoryLocks:
    """The port's Presence on a session's advisory locks."""

    certain = False

    def __init__(self, session: Session, reads: ReadDatastore, name: str) -> None:
        """Makes it.

        Args:
            session: holds this process's locks.
            reads: where others' locks are looked at.
            name: what tells this log from others in the same database.
        """
        self._session = session
        self._reads = reads
        self._name = name

    def hold(self, worker: str) -> SessionHold:
        self._session.lock(worker)
        return SessionHold(self._session, worker)

    def look(self, workers: Mapping[str, int]) -> Mapping[str, bool]:
        if self._session.is_doubtful:
            return {}
        rows = self._reads.read(lambda connection: connection.execute(own("advisory_locks")).fetchall())
        era = rows[0][0]
        held = {row[1] for row in rows}
        return {
            worker: lock_key(self._name, worker) not in held for worker, its in workers.items() if its == era
        }

    def tell(self, beat: Beat) -> bool:
        sql, params = beat
        # Those connections are for reading, unless a transaction says otherwise. Nothing has to wait for the disk.
        begin = BEGIN_WRITE + b"; SET LOCAL synchronous_commit = off"
        with self._reads.reading(lambda connection: (connection, connection.execute(begin))) as (
            connection,
            _,
        ):
            connection.execute(translated(sql), params)
            connection.execute(b"COMMIT")
        return True

    def bury(self, worker: str) -> None:
        """The server has freed its lock, and nothing else is left."""

    def sweep(self, registered: Collection[str]) -> None:
        """Nothing is left by anybody."""


class SessionHold:
    """The port's Hold: a session's advisory lock."""

    def __init__(self, session: Session, worker: str) -> None:
        self._session = session
        self._worker = worker

    @property
    def era(self) -> int:
        session = self._session
        return session.era if session.holds(self._worker) else 0

    @property
    def is_held(self) -> bool:
        return self._session.holds(self._worker)

    def release(self) -> None:
        self._session.unlock(self._worker)

    def forget(self) -> None:
        self._session.unlock(self._worker)


class SessionHints:
    """The port's Hints on a session's LISTEN and NOTIFY."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def heard(self) -> bool:
        return self._session.listening

    def send(self) -> None:
        self._session.hint()


def lock_key(name: str, worker: str) -> int:
    """The number of a worker's advisory lock, a signed 64-bit integer."""
    return _number(f"{name}/{worker}")


def channel(name: str) -> str:
    """Where commits to the log of this name are told."""
    return f"wfes_{_number(name) & (1 << 64) - 1:x}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
