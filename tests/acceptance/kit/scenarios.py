"""What child processes of tests do: ``python scenarios.py NAME FOLDER [WORD...]``.

A scenario is an async function of this module that takes the folder and the words. What it prints is for its test;
a file in the folder is how the test tells it to go on.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import corpus
from places import tamper, url_of

from wfes import Engine, Instance, LogUnavailable, RequestNotPending, Status, Step, workflow
from wfes.core.state import ACTIVE
from wfes.runtime import leases

SECONDS_MAX = 30.0


def spawn(name: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Starts a scenario in a child process."""
    return subprocess.Popen(
        [sys.executable, __file__, name, str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """This process's, with this folder on the path of imports, also where scripts do not bring theirs along."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def finished(child: subprocess.Popen[str]) -> str:
    """What a child printed, once it has ended well."""
    out, err = child.communicate(timeout=SECONDS_MAX)
    assert child.returncode == 0, f"it ended with {child.returncode}: {out}{err}"
    return out


async def file(path: Path) -> None:
    """Returns once the file is there."""
    limit = time.monotonic() + SECONDS_MAX
    while not path.exists():
        assert time.monotonic() < limit, f"no {path}"
        await asyncio.sleep(0.002)


def until(path: Path) -> None:
    """As ``file``, for code that is not async."""
    asyncio.run(file(path))


def die() -> None:
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------ crashes in a step


@workflow
async def two_steps(folder: str, step: Step) -> list[Any]:
    """The second step kills its process where the folder says so."""

    def second() -> int:
        corpus.called()
        if not Path(folder, "spare").exists():
            die()
        return step.attempt

    return [await step("first", corpus.same, 1), await step("second", second)]


async def crash_in_step(folder: Path) -> None:
    """Dies in the second step of ``two_steps``."""
    async with Engine(url_of(folder), workflows=[two_steps]):
        run = await two_steps.start(str(folder), id="run")
        await run.result()


# ----------------------------------------------------------------------------- dying when acknowledged


async def acknowledge(folder: Path, kind: str) -> None:
    """Makes one call of this kind and dies the moment it returns, after telling what it was about."""
    async with Engine(url_of(folder), workflows=corpus.WORKFLOWS) as engine:
        about = ""
        if kind in ("send", "pause", "resume", "cancel", "set_timeout"):
            run: Instance[Any] = await corpus.receiver.start(1)
        elif kind == "provide":
            run = await corpus.asker.start(1)
        elif kind == "retry":
            run = await corpus.failing.start(1)
        else:
            run = await corpus.child.start(1)
        match kind:
            case "start":
                run = await corpus.receiver.start(1)
            case "get_or_create":
                about = "k"
                run = await corpus.receiver.get_or_create(key="k", input=1)
            case "send":
                about = "s-1"
                await run.send("one", 1, id=about)
            case "publish":
                about = "e-1"
                await engine.publish("order.placed", 1, id=about)
            case "provide":
                about = await corpus.first_request(engine, run.id, "amount")
                await engine.provide(None, about, 3)
            case "cancel":
                await run.cancel()
            case "pause":
                await run.pause()
            case "resume":
                await run.pause()
                await run.resume()
            case "set_timeout":
                await run.set_timeout("1h")
            case _:
                while (await run.refresh()).status in ACTIVE:
                    await asyncio.sleep(0.005)
                await run.retry()
        os.write(1, f"{run.id} {about}\n".encode())
        die()


# --------------------------------------------------------------------------------------------- zombies


@workflow
async def owned(folder: str, step: Step) -> str:
    """A step that ends when its process is told to, and says which process ran it."""

    async def work() -> str:
        Path(folder, f"working-{role_here}").touch()
        await file(Path(folder, f"go-{role_here}"))
        return role_here

    done = await step("work", work, max_attempts=1)
    return f"{done}, {await step('after', corpus.same, 'after')}"


role_here = ""


async def zombie(folder: Path, role: str) -> None:
    """Role a is stopped in its step; role b does not see a's lock and takes over after a short lease."""
    global role_here
    role_here = role
    if role == "b":
        machine = leases.Machine("elsewhere", "another boot")
        leases.Machine.here = classmethod(lambda _: machine)  # type: ignore[assignment,method-assign]
    else:
        os.environ[leases.LEASE_VARIABLE] = "1s"
    async with Engine(url_of(folder), workflows=[owned]) as engine:
        run = await owned.start(str(folder), id="run")
        if role == "a":
            await file(folder / "working-b")
            worker = engine._parts._worker
            assert worker is not None
            while worker.running:
                await asyncio.sleep(0.002)
            (folder / "dropped-a").touch()
        print("result", await run.result(timeout=SECONDS_MAX))
        if role == "a":
            other = await owned.start(str(folder), id="another")
            print("another", await other.result(timeout=SECONDS_MAX))
        print("running", [row.id for row in await engine.instances(status=ACTIVE)])


# ------------------------------------------------------------------------------------------ many at once


@workflow
async def small(number: int, step: Step) -> int:
    """A little work, so that several processes have a share of many."""
    doubled: int = await step("double", corpus.same, number * 2)
    await step.sleep("nap", "10ms")
    more: int = await step("more", corpus.same_async, doubled + 1)
    return more


@workflow(requests={"answer": int})
async def question(number: int, step: Step) -> int:
    """Asks one thing."""
    answer: int = await step.request("answer")
    return answer


async def get_or_create_all(folder: Path, role: str, count: str) -> None:
    """That many callers at once want the one instance of a key."""
    async with Engine(url_of(folder), workflows=[small]):
        (folder / f"ready-{role}").touch()
        await file(folder / "go")
        runs = await asyncio.gather(*(small.get_or_create(key="one", input=7) for _ in range(int(count))))
        print(*sorted({run.id for run in runs}))


async def start_same(folder: Path, role: str, count: str) -> None:
    """That many callers at once start an instance of one id, and publish one event."""
    async with Engine(url_of(folder), workflows=[small, corpus.placed]) as engine:
        (folder / f"ready-{role}").touch()
        await file(folder / "go")
        calls = [small.start(7, id=f"id-{n}") for n in range(int(count))]
        await asyncio.gather(
            *calls, *(engine.publish("order.placed", n, id=f"e-{n}") for n in range(int(count)))
        )
        while (await engine.instances(status=ACTIVE)).items:
            await asyncio.sleep(0.01)


async def provide_all(folder: Path, role: str, request: str, count: str) -> None:
    """That many answers at once to one request; prints those that were told to have won."""
    async with Engine(url_of(folder), workflows=[question], worker=False) as engine:
        (folder / f"ready-{role}").touch()
        await file(folder / "go")

        async def answer(number: int) -> None:
            try:
                await engine.provide(None, request, number)
            except RequestNotPending:
                return
            print(number)

        base = 1_000 * int(role)
        await asyncio.gather(*(answer(base + n) for n in range(int(count))))


async def work_off(folder: Path, role: str, count: str) -> None:
    """Starts its half of the instances, and works until all are over."""
    async with Engine(url_of(folder), workflows=[small]) as engine:
        (folder / f"ready-{role}").touch()
        await file(folder / "go")
        await asyncio.gather(*(small.start(n, id=f"{role}-{n}") for n in range(int(count))))
        (folder / f"started-{role}").touch()
        other = "b" if role == "a" else "a"
        await file(folder / f"started-{other}")
        while (await engine.instances(status=ACTIVE, limit=1)).items:
            await asyncio.sleep(0.01)


@workflow
async def steady(number: int, step: Step) -> int:
    """Many small steps."""
    total: int = 0
    for index in range(number):
        total += await step("add", corpus.same_async, index)
    return total


async def full_disk(folder: Path, how: str) -> None:
    """No space is left while instances run; the engine says so, answers reads and goes on when there is some."""
    async with Engine(url_of(folder), workflows=[steady]) as engine:
        writer = engine._parts._writer
        assert writer is not None
        writer._command_timeout = 0.3
        runs = [await steady.start(40, id=f"run-{n}") for n in range(5)]
        while (await runs[0].refresh()).version < 12:
            await asyncio.sleep(0.002)
        lift = {"limit": _limit_files, "fill": _fill, "refuse": _refuse}[how](folder)
        while (trouble := writer.trouble) is None:
            await asyncio.sleep(0.002)
        print(trouble)
        for run in runs:
            await run.refresh()
            assert run.status == Status.IN_PROGRESS
            assert len(await run.history()) == run.version
        assert len(await engine.instances()) == 5
        try:
            await steady.start(1, id="refused")
        except LogUnavailable as error:
            print(error)
        else:
            raise AssertionError("a start was acknowledged without space for it")
        lift()
        for run in runs:
            assert await run.result(timeout=SECONDS_MAX) == sum(range(40))
        assert len(await engine.instances()) == 5
        assert await (await steady.start(3, id="after")).result(timeout=SECONDS_MAX) == 3
        assert writer.trouble is None


def _limit_files(folder: Path) -> Callable[[], object]:
    """Lets no file of this process grow any more."""
    largest = max(path.stat().st_size for path in folder.iterdir() if path.is_file())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _refuse(folder: Path) -> Callable[[], object]:
    """Lets a PostgreSQL server refuse every event as it does when its disk is full."""
    tamper(
        folder,
        "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device'; END $$",
    )
    tamper(folder, "CREATE TRIGGER no_space BEFORE INSERT ON wfes_events EXECUTE FUNCTION no_space()")
    return lambda: tamper(folder, "DROP TRIGGER no_space ON wfes_events")


def _fill(folder: Path) -> Callable[[], object]:
    """Leaves no space on the folder's file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler.unlink


async def hang(folder: Path) -> None:
    """Owns an instance whose step never ends here."""
    global role_here
    role_here = "a"
    async with Engine(url_of(folder), workflows=[owned]):
        run = await owned.start(str(folder), id="run")
        await run.result()


if __name__ == "__main__":
    _, name, place, *rest = sys.argv
    corpus.use(Path(place) / "calls")
    asyncio.run(globals()[name](Path(place), *rest))
