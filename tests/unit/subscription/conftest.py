"""Logs with histories in them, and a database whose commits fail on purpose."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wfes.core import chain
from wfes.core import events as e
from wfes.errors import LogUnavailable
from wfes.log.application import body_bytes
from wfes.log.faults import FaultyLog
from wfes.log.open import open_log, wrapping
from wfes.log.port import Log, StoredRow, WriteTransaction

AT = 1_900_000_000_000_000
"""When the histories begin, in microseconds since the Unix epoch."""


def write_histories(url: str, first: int, instances: int, steps: int = 3) -> int:
    """Writes finished instances of two workflows; returns the log's newest position."""
    log = open_log(url)
    log.open([])
    target = log.begin()
    position = target.head
    rows: list[StoredRow] = []
    for number in range(first, first + instances):
        stream, at, prev = f"i-{number:06d}", AT + number * 3_600_000_000, chain.GENESIS
        history: list[e.Event] = [
            e.WorkflowStarted(
                at=at, workflow=("checkout", "other")[number % 2], input=number, key=f"k{number}"
            ),
            e.RunClaimed(at=at, worker="w", epoch=1),
        ]
        for step in range(steps):
            history.append(e.StepStarted(at=at, path=f"s{step}", attempt=1))
            history.append(e.StepCompleted(at=at, path=f"s{step}", result=step))
        history.append(e.WorkflowCompleted(at=at, output={"total": number}))
        for version, event in enumerate(history, 1):
            position += 1
            stored = prev + body_bytes(event)
            rows.append((position, stream, version, event.topic, stored))
            prev = chain.digest(stream, version, event.topic, stored)
    target.insert(rows)
    target.commit()
    log.close()
    return position


@pytest.fixture
def histories() -> Callable[..., int]:
    return write_histories


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


class ShakyWrite:
    """A write transaction whose commit may fail, or be lost, whatever it wrote."""

    def __init__(self, write: WriteTransaction, log: ShakyLog) -> None:
        self._write = write
        self._log = log

    def commit(self) -> None:
        log = self._log
        log.tries += 1
        if log.tries == log.at and log.kind == "fail":
            self._write.rollback()
            raise LogUnavailable(log.url, "the commit failed (injected)", retryable=True)
        self._write.commit()
        if log.tries == log.at and log.kind == "lost":
            raise LogUnavailable(log.url, "the answer was lost (injected)", retryable=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._write, name)


class ShakyLog(FaultyLog):
    """A log one of whose commits goes wrong, counted over all of them.

    Attributes:
        kind: `fail`: it does not happen; `lost`: it does, and says otherwise.
        at: which one, from 1 on.
        tries: how many there were.
    """

    def __init__(self, inner: Log, kind: str, at: int) -> None:
        super().__init__(inner)
        self.kind = kind
        self.at = at
        self.tries = 0

    def begin(self) -> Any:
        return ShakyWrite(self.inner.begin(), self)


@contextmanager
def shaken(kind: str, at: int) -> Generator[list[ShakyLog]]:
    """Within the block, every log that is opened has such a commit."""
    made: list[ShakyLog] = []

    def wrap(log: Log) -> Any:
        made.append(ShakyLog(log, kind, at))
        return made[-1]

    with wrapping(wrap):
        yield made


@pytest.fixture
def shaky() -> Callable[[str, int], Any]:
    return shaken
