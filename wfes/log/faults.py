"""A log that fails on purpose: the fault kit of the Log port, for tests.

``FaultyLog`` wraps any log and lets a ``Fault`` happen at chosen commits. Only commits that append events count, from 1
on, so that a test which walks over "every commit boundary" means the same boundaries on each run.

Nothing of this is active unless a program asks for it: either it wraps a log itself, or it calls ``installed`` around
the code that opens an engine. A child process of a test gets its fault in the environment variable ``WFES_FAULT``,
which only ``installed`` reads, and only when it is called without one:

    with faults.installed():          # WFES_FAULT="kill:before:17"
        asyncio.run(main())

A fault is written ``KIND:COMMIT`` or ``KIND:FIRST-LAST`` (both included; nothing after the dash: for ever):

* ``kill:before:N``, ``kill:after:N``: the process kills itself with SIGKILL right before or after that commit;
* ``fail:N``: the commit does not happen, and says so;
* ``lost:N``: the commit happens, but its answer is lost: it raises;
* ``full:N``: no space is left: the transaction's insert fails, and so does the commit;
* ``away:N``: the database cannot be reached: the transaction cannot even be begun, and each try counts as a commit;
* ``slow:N:SECONDS``: the commit takes that much longer.

Several are separated by commas.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import Notification

from wfes.errors import LogUnavailable
from wfes.log.open import wrapping
from wfes.log.port import Caller, Lent, Log, Row, Snapshot, StoredRow, WriteTransaction
from wfes.log.presence import Hints, Presence

VARIABLE = "WFES_FAULT"
_KINDS = ("kill", "fail", "lost", "full", "away", "slow")
_FOR_EVER = 2**62


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at the commits ``first`` to ``last``, counted from 1.

    ``when`` is ``before`` or ``after`` for a kill; ``seconds`` how much longer a slow commit takes.
    """

    kind: str
    first: int
    last: int
    when: str = "before"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"the fault {self.kind!r} is none of {', '.join(_KINDS)}")
        if self.when not in ("before", "after"):
            raise ValueError(f"a kill is before or after a commit, not {self.when!r}")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault that a text such as ``"kill:before:17"`` means.

        Raises:
            ValueError: it means none.
        """
        kind, *rest = text.strip().split(":")
        try:
            when = rest.pop(0) if kind == "kill" else "before"
            first, dash, last = rest.pop(0).partition("-")
            seconds = float(rest.pop(0)) if kind == "slow" else 0.0
            end = int(first) if not dash else int(last) if last else _FOR_EVER
            if rest:
                raise ValueError(f"{':'.join(rest)!r} is too much")
            return cls(kind, int(first), end, when, seconds)
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{text!r} is no fault: {error}; such as kill:before:17, lost:3, full:4-6, slow:2:0.5 are"
            ) from error

    def at(self, commit: int) -> bool:
        """Whether it happens at this commit."""
        return self.first <= commit <= self.last


class FaultyWrite:
    """A write transaction some of whose calls fail."""

    def __init__(self, write: WriteTransaction, log: FaultyLog) -> None:
        self._write = write
        self._log = log
        self._appends = False

    @property
    def head(self) -> int:
        return self._write.head

    @property
    def others(self) -> bool:
        return self._write.others

    @property
    def broken(self) -> bool:
        return self._write.broken

    def news(
        self, after: int, topics: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[Notification]:
        return self._write.news(after, topics, limit)

    def history(self, stream: str, after: int = 0, limit: int | None = None) -> Sequence[Notification]:
        return self._write.history(stream, after, limit)

    def histories(self, streams: Sequence[str], events_max: int) -> Mapping[str, Sequence[StoredRow]]:
        return self._write.histories(streams, events_max)

    def last(self, stream: str) -> Notification | None:
        return self._write.last(stream)

    def insert(self, rows: Sequence[StoredRow]) -> None:
        self._appends = True
        if self._log.due("full"):
            self._log.tried()
            raise self._log.error("no space is left on the disk (injected)")
        self._write.insert(rows)

    def delete_history(self, stream: str, upto: int) -> None:
        self._write.delete_history(stream, upto)

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        return self._write.query(sql, params)

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        self._write.executemany(sql, params)

    def together(self) -> AbstractContextManager[None]:
        return self._write.together()

    def put_blob(self, sha256: str, content: bytes) -> None:
        self._write.put_blob(sha256, content)

    def get_blob(self, sha256: str) -> bytes | None:
        return self._write.get_blob(sha256)

    def commit(self) -> None:
        if not self._appends:
            self._write.commit()
            return
        log = self._log
        if log.due("kill", "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        if slow := log.due("slow"):
            time.sleep(slow.seconds)
        if log.due("fail"):
            self._write.rollback()
            log.tried()
            raise log.error("the commit failed (injected)")
        self._write.commit()
        if log.due("kill", "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        lost = log.due("lost")
        log.tried()
        if lost:
            raise log.error("the connection broke before the answer came (injected)")

    def rollback(self) -> None:
        self._write.rollback()


class FaultyLent:
    """What is lent by a log with faults."""

    def __init__(self, lent: Lent, log: FaultyLog) -> None:
        self.connection = lent.connection
        self.asynchronous = lent.asynchronous
        self.settle = lent.settle
        self.rollback = lent.rollback
        self.close = lent.close
        self._lent = lent
        self._log = log

    @property
    def is_lost(self) -> bool:
        return self._lent.is_lost

    @property
    def refused(self) -> str | None:
        return self._lent.refused

    def write(self) -> WriteTransaction:
        if self._log.due("away"):
            self._log.tried()
            self._lent.rollback()
            self._lent.close()
            raise self._log.error("it cannot be reached (injected)")
        return FaultyWrite(self._lent.write(), self._log)


class FaultyLog:
    """A log around another, with faults.

    Attributes:
        commits: how many commits of events were tried so far.
        inner: the log inside.
        faults: may be changed at any time: remove one, and the log is well again.
    """

    def __init__(self, inner: Log, *faults: Fault | str) -> None:
        self.inner = inner
        self.url = inner.url
        self.dialect = inner.dialect
        self.lends_seconds = inner.lends_seconds
        self.archive = inner.archive
        self.commits = 0
        self.faults = [Fault.parse(given) if isinstance(given, str) else given for given in faults]

    def due(self, kind: str, when: str = "before") -> Fault | None:
        """The fault of this kind that the commit now due has."""
        number = self.commits + 1
        return next(
            (
                fault
                for fault in self.faults
                if fault.kind == kind and fault.when == when and fault.at(number)
            ),
            None,
        )

    def tried(self) -> None:
        """Counts a commit that was tried."""
        self.commits += 1

    def error(self, reason: str) -> LogUnavailable:
        """What a fault raises."""
        return LogUnavailable(self.url, reason, retryable=True)

    def open(self, statements: Sequence[str]) -> None:
        self.inner.open(statements)

    def open_to_read(self) -> bool:
        return self.inner.open_to_read()

    def close(self) -> None:
        self.inner.close()

    def begin(self) -> WriteTransaction:
        if self.due("away"):
            self.tried()
            raise self.error("it cannot be reached (injected)")
        return FaultyWrite(self.inner.begin(), self)

    def lend(self) -> Lent:
        if self.due("away"):
            self.tried()
            raise self.error("it cannot be reached (injected)")
        return FaultyLent(self.inner.lend(), self)

    def caller(self, connection: object) -> Caller:
        return self.inner.caller(connection)

    def handed_over(self) -> bool:
        return self.inner.handed_over()

    def changed(self) -> bool:
        return self.inner.changed()

    def select_events(
        self,
        originator_id: str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        return self.inner.select_events(originator_id, gt=gt, lte=lte, desc=desc, limit=limit)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        return self.inner.select_notifications(
            start, limit, stop, topics, inclusive_of_start=inclusive_of_start
        )

    def select_by_stream(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        return self.inner.select_by_stream(stream, version, limit)

    def max_notification_id(self) -> int:
        return self.inner.max_notification_id()

    def topics(self) -> set[str]:
        return self.inner.topics()

    def read(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        return self.inner.read(sql, params)

    def read_at(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        return self.inner.read_at(sql, params)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return self.inner.snapshot()

    def get_blob(self, sha256: str) -> bytes | None:
        return self.inner.get_blob(sha256)

    def presence(self) -> Presence | None:
        return self.inner.presence()

    def hints(self, wake: Callable[[], None]) -> Hints | None:
        return self.inner.hints(wake)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def installed(text: str | None = None) -> Generator[None]:
    """Within the block, every log that is opened by its URL has these faults.

    Args:
        text: faults separated by commas; None: those of the environment variable ``WFES_FAULT``, if it is set.

    Raises:
        ValueError: the text means no fault.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    faults = [Fault.parse(part) for part in text.split(",") if part.strip()]

    def wrap(log: Log) -> Log:
        return FaultyLog(log, *faults)

    if not faults:
        yield
        return
    with wrapping(wrap):
        yield
