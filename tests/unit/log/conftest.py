"""A writer on a log, driven by plain functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import pytest

from wfes.core import events as e
from wfes.log.faults import FaultyLog
from wfes.log.open import open_log
from wfes.log.port import Log, Tx
from wfes.log.writer import Batch, Writer
from wfes.subscription.rebuild import bring_up
from wfes_projections import inline


class Call:
    """A member that runs a function and resolves a future."""

    def __init__(self, function: Callable[[Tx], Any], told: list[object], *, withdrawable: bool) -> None:
        self.function = function
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.told = told
        self.withdrawable = withdrawable

    def run(self, tx: Tx) -> Any:
        return self.function(tx)

    def done(self, result: Any) -> None:
        self.told.append(result)
        if not self.future.cancelled():
            self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        self.told.append(error)
        if not self.future.cancelled():
            self.future.set_exception(error)


class Bench:
    """A writer on a log, within a running event loop.

    Attributes:
        told: outcomes and news in the order in which they were told.
    """

    def __init__(self, log: Log, **options: Any) -> None:
        self.log = log
        self.told: list[object] = []
        self.now = 1_000_000
        options.setdefault("projections", inline())
        self.writer = Writer(log, clock=self.clock, deliver=self.told.append, **options)
        self.writer.start(asyncio.get_running_loop())

    def clock(self) -> int:
        self.now += 1
        return self.now

    def submit(self, function: Callable[[Tx], Any], *, withdrawable: bool = False) -> asyncio.Future[Any]:
        """Queues a function."""
        call = Call(function, self.told, withdrawable=withdrawable)
        self.writer.submit(call)
        return call.future

    def append(self, stream: str, *events: e.Event, withdrawable: bool = False) -> asyncio.Future[Any]:
        """Queues an append."""
        return self.submit(lambda tx: tx.append(stream, events), withdrawable=withdrawable)

    async def start(self, id: str, worker: str | None = "w") -> None:
        """Starts an instance, claimed by a worker."""
        events: list[e.Event] = [e.WorkflowStarted(at=1, workflow="wf")]
        if worker is not None:
            events.append(e.RunClaimed(at=1, worker=worker, epoch=1))
        await self.append(id, *events)

    @property
    def batches(self) -> list[Batch]:
        """What was delivered."""
        return [told for told in self.told if isinstance(told, Batch)]

    @property
    def positions(self) -> list[int]:
        """Positions of the notable events delivered."""
        return [recorded.position for batch in self.batches for recorded in batch.events]

    def stop(self) -> None:
        self.writer.stop()


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Polls until true, with a limit."""
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not become true in time"
        await asyncio.sleep(0.002)


class Run(Protocol):
    """Runs an async test on a bench."""

    def __call__(self, test: Callable[[Bench], Awaitable[None]], *faults: str, **options: Any) -> None: ...


def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "sqlite://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/log.db"
        case _:
            url: str = request.getfixturevalue("postgres_url")
            return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _url(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a log that several processes may open."""
    return _url(request, tmp_path)


@pytest.fixture
def log(url: str) -> Generator[FaultyLog]:
    log = FaultyLog(open_log(url))
    log.open([])
    bring_up(log, inline())
    yield log
    log.close()


@pytest.fixture
def run(log: FaultyLog) -> Run:
    def run(test: Callable[[Bench], Awaitable[None]], *faults: str, **options: Any) -> None:
        async def main() -> None:
            log.faults = FaultyLog(log, *faults).faults
            log.commits = 0
            bench = Bench(log, **options)
            try:
                await test(bench)
            finally:
                bench.stop()

        asyncio.run(main())

    return run


@pytest.fixture
def make_bench() -> Callable[[Log], Bench]:
    """Opens a log and makes a writer on it, within a running event loop."""

    def make(log: Log) -> Bench:
        log.open([])
        bring_up(log, inline())
        return Bench(log)

    return make


@pytest.fixture(name="until")
def until_() -> Callable[[Callable[[], object]], Awaitable[None]]:
    return until
