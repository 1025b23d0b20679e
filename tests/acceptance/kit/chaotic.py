"""The processes of a chaos run: a mother that forks workers in milliseconds, and the driver that commands them.

As a script, ``python chaotic.py FOLDER PARENT``, it is the mother. She reads orders from her standard input, a JSON
object a line, and answers each with a line: ``{"fork": KIND, ...}`` with the child's process id, ``{"reap": PID}`` with
how that child ended, once it has. A child that ends badly leaves why in the file ``failed-PID``. All of them end with
the mother, and she with whoever started her.

A worker's role is a dict: ``clock`` (seconds its clock is ahead of this machine's), ``elsewhere`` (it says that it runs
on a machine of its own, so that it is judged by its heartbeat, not by its lock).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import corpus
import driver
import market
import projected
import transacting
import witness

from wfes import (
    Engine,
    Instance,
    InstanceNotFound,
    LogUnavailable,
    Status,
    WorkflowAborted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTimedOut,
)
from wfes.core.state import ACTIVE
from wfes.log.open import wrapping
from wfes.runtime import leases
from wfes.runtime.clock import Clock, SystemClock

NAMES = sorted([*driver.CASES, *market.TURNS, "order", "order left"])
WORKFLOWS = [*corpus.WORKFLOWS, *market.WORKFLOWS]
PATIENCE_SECONDS = 0.1
AT_ONCE_MAX = 150


class Apart(Engine):
    """An engine whose clock is apart from the server's."""

    ahead_seconds = 0.0

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        ahead = round(self.ahead_seconds * 1e9)
        return SystemClock(loop, wall=lambda: time.time_ns() + ahead)


def proxied(folder: Path) -> str:
    """The log's URL by way of the proxy."""
    return (folder / "proxied").read_text()


# ---------------------------------------------------------------------------------------------- workers


async def work(folder: Path, role: dict[str, Any]) -> None:
    """Works until SIGTERM; where the server is away, comes back."""
    if role["elsewhere"]:
        machine = leases.Machine(f"host-{os.getpid()}", f"boot-{os.getpid()}")
        leases.Machine.here = classmethod(lambda _: machine)  # type: ignore[assignment,method-assign]
    corpus.use(folder / "calls")
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with wrapping(lambda log: witness.watching(folder, log)):
        while not ending.is_set():
            engine = Apart(proxied(folder), workflows=WORKFLOWS, projections=projected.ALL)
            engine.ahead_seconds = role["clock"]
            try:
                async with engine:
                    await ending.wait()
            except LogUnavailable as error:
                print(f"{os.getpid()} could not be opened: {error}", file=sys.stderr)
                await asyncio.sleep(PATIENCE_SECONDS)


# ----------------------------------------------------------------------------------------------- driver


class Driver:
    """Starts instances, does to each what its case says, waits for all ends, and notes what it was told."""

    def __init__(self, folder: Path, engine: Engine, *, count: int, seconds: float) -> None:
        self._folder = folder
        self._engine = engine
        self._count = count
        self._pause = seconds / count
        self._acks = driver.Acks(folder / "acks")
        self._refused = driver.Acks(folder / "refused")
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self.refusals = 0
        self.resumed = 0

    async def drive(self) -> None:
        """Returns when every instance is over."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                await self._places.acquire()
                group.create_task(self._life(number))
                await asyncio.sleep(began + number * self._pause - time.monotonic())
        while await self._patiently(self._busy):
            await asyncio.sleep(0.1)

    def _wrong(self, text: str) -> None:
        """Notes at once what is wrong: nobody can say whether this process will end by itself."""
        with (self._folder / "wrong").open("a") as file:
            file.write(f"{json.dumps(text)}\n")

    async def _busy(self) -> bool:
        """Whether an instance is not over; one that was held after five cut-offs in a row is resumed."""
        for row in (await self._engine.instances(status=Status.PAUSED)).items:
            run = await self._engine.get(row.id)
            if not _is_cut_off(run):
                self._wrong(f"{row.id} is held: {run.reason}")
            await run.resume()
            self.resumed += 1
        return bool((await self._engine.instances(status=ACTIVE, limit=1)).items)

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Its result; it is made again where the log could not be reached."""
        while True:
            try:
                return await call()
            except LogUnavailable:
                self.refusals += 1
                await asyncio.sleep(PATIENCE_SECONDS)
            except AssertionError:
                # What a case waits for has not come in time: its worker may be stopped.
                await asyncio.sleep(PATIENCE_SECONDS)

    async def _once(self, kind: str, name: str, call: Callable[[str], Awaitable[Any]]) -> Any:
        """As `_patiently`, with another id each time: what was refused must not have happened."""
        for attempt in range(1_000):
            id = f"{name}.{attempt}" if attempt else name
            try:
                return await call(id)
            except LogUnavailable:
                self.refusals += 1
                self._refused(kind, id)
                await asyncio.sleep(PATIENCE_SECONDS)
        raise AssertionError(f"{kind} {name} is always refused")

    async def _life(self, number: int) -> None:
        try:
            await self._live(number)
        except Exception as error:
            self._wrong(f"{number}: {''.join(traceback.format_exception(error))}")
        finally:
            self._places.release()

    async def _live(self, number: int) -> None:
        name = NAMES[number % len(NAMES)]
        if number % 5 == 0:
            await self._publish(number)
        if name in driver.CASES:
            await self._case(name, number)
        elif name in market.TURNS:
            await self._turn(name, number)
        else:
            await self._order(number, leaves=name == "order left")

    async def _case(self, name: str, number: int) -> None:
        case = driver.CASES[name]
        run: Instance[Any] = await self._once(
            "start", f"{name}-{number}", lambda id: case.workflow.start(case.number, id=id)
        )
        self._acks("start", run.id)
        if case.outside is not None:
            outside = case.outside
            await self._patiently(lambda: outside(self._engine, run, self._acks))
        output: Any = None
        error = ""
        try:
            output = await self._patiently(lambda: self._end(run))
        except (WorkflowFailed, WorkflowCancelled, WorkflowAborted, WorkflowTimedOut) as end:
            error = str(end)
        await self._patiently(run.refresh)
        if run.status != case.status or (run.status == Status.COMPLETED and output not in case.outputs):
            self._wrong(f"{run.id}: {run.status} {output!r} {error}, not {case.status} {case.outputs!r}")

    async def _turn(self, name: str, number: int) -> None:
        turn = market.TURNS[name]
        run: Instance[Any] = await self._once(
            "start", f"{name}-{number}", lambda id: turn.workflow.start(turn.given(number), id=id)
        )
        self._acks("start", run.id)
        output = await self._patiently(lambda: self._end(run))
        if output != turn.output(number):
            self._wrong(f"{run.id}: {output!r}, not {turn.output(number)!r}")

    async def _order(self, number: int, *, leaves: bool) -> None:
        """An order that its customer makes in a transaction of his own."""
        id = f"o-{number}"
        url = proxied(self._folder)
        if not await self._patiently(lambda: market.trade(url, id, number, leaves=leaves)):
            return
        self._acks("start", id)
        run: Instance[Any] = await self._patiently(lambda: self._there(id))
        output = await self._patiently(lambda: self._end(run))
        follow: Instance[Any] = await self._patiently(lambda: self._engine.get(output[2]))
        found = [output[0], *output[1], output[3], await self._patiently(lambda: self._end(follow))]
        if found != ["first", "flaky", "plain", "beside", number, "followed"]:
            self._wrong(f"{id} gave {found}")

    async def _there(self, id: str) -> Instance[Any]:
        """The instance that somebody relays before long."""
        while True:
            try:
                return await self._engine.get(transacting.order, id)
            except InstanceNotFound:
                await asyncio.sleep(0.05)

    async def _publish(self, number: int) -> None:
        async def publish(id: str) -> None:
            await self._engine.publish("order.placed", number, id=id)
            self._acks("publish", id, id)

        await self._once("publish", f"placed-{number}", publish)

    async def _end(self, run: Instance[Any]) -> Any:
        """Its result. A held instance is resumed meanwhile: its driver waits for it."""
        while True:
            try:
                return await run.result(timeout=2)
            except TimeoutError:
                await run.refresh()
                if run.status == Status.PAUSED and _is_cut_off(run):
                    await run.resume()
                    self.resumed += 1


def _is_cut_off(run: Instance[Any]) -> bool:
    """Whether an instance is held because so many workers died with it."""
    return any(words in (run.reason or "") for words in ("was cut off", "workers in a row died"))


async def _opened(folder: Path) -> Engine:
    while True:
        engine = Engine(proxied(folder), workflows=WORKFLOWS, worker=False)
        try:
            await engine.open()
        except LogUnavailable:
            await asyncio.sleep(PATIENCE_SECONDS)
        else:
            return engine


async def drive(folder: Path, role: dict[str, Any]) -> None:
    """Drives; tells what was wrong in the file ``outcome``."""
    corpus.use(folder / "calls")
    with wrapping(lambda log: witness.watching(folder, log)):
        engine = await _opened(folder)
        try:
            driving = Driver(folder, engine, count=role["count"], seconds=role["seconds"])
            await driving.drive()
            told = {"refusals": driving.refusals, "resumed": driving.resumed}
            (folder / "outcome").write_text(json.dumps(told))
        finally:
            await engine.close()


# ----------------------------------------------------------------------------------------------- mother


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork(folder: Path, order: dict[str, Any]) -> int:
    mother = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _end_with_parent(mother)
        random.seed(os.getpid())
        function = drive if order["fork"] == "driver" else work
        asyncio.run(function(folder, order))
        code = 0
    except BaseException:
        (folder / f"failed-{os.getpid()}").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _main() -> None:
    folder = Path(sys.argv[1])
    _end_with_parent(int(sys.argv[2]))
    # A worker that is asked to end before it listens for that hears of it once it does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for line in sys.stdin:
        order = json.loads(line)
        if "fork" in order:
            answer = _fork(folder, order)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    _main()
