"""G8: looking at the past writes nothing and runs no step, with a database that cannot be written.

SQLite: the file's mode is 0444 and its folder's 0555, for a user who is not its owner, closed cleanly or while somebody
writes to it. PostgreSQL: a role that may only SELECT. What an order needs is refused at once, with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import corpus
import driver
import pytest
from click.testing import CliRunner
from pg_server import database
from places import content, put, tamper, url_of

from wfes import Engine, LogUnavailable, Status, Step, diff, workflow
from wfes.cli import main as wfes

NOBODY = 65_534
ARCHIVED = "archived-1"
WRITER = """
import asyncio, sys
from wfes import Engine

async def main():
    async with Engine(sys.argv[1], worker=False):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@workflow
async def short(step: Step) -> int:
    """One that is archived."""
    return await step("one", int, 1)


async def fill(folder: Path) -> None:
    """A log with every workflow of the corpus, and one instance in the archive."""
    async with Engine(url_of(folder), workflows=[short]) as engine:
        await (await short.start(id=ARCHIVED)).result()
        await engine.prune(older_than=timedelta(0))
    assert not await driver.drive(folder, list(driver.CASES))


async def look(url: str) -> None:
    """Everything that looks, on every instance; no step function may run."""
    corpus.use(Path(os.devnull) / "nobody")  # whoever calls a step's function now cannot note it, and fails
    async with Engine(url, workflows=[*corpus.WORKFLOWS, short], worker=False) as engine:
        rows = (await engine.instances(limit=1000)).items
        assert len(rows) > len(corpus.WORKFLOWS)
        first = await engine.get(rows[0].id)
        for row in rows:
            instance = await engine.get(row.id)
            events = await instance.history()
            assert [event async for event in instance.follow()] == events
            states = [await instance.at(event.version) for event in events]
            assert states[-1].status is instance.status
            await instance.diff(1, len(events))
            await diff(first, instance)
            assert (await instance.replay()).ok, row.workflow
        archived = await engine.get(ARCHIVED)
        assert (await archived.at(2)).status is Status.IN_PROGRESS
        for order in (archived.cancel, archived.pause, lambda: short.start(), lambda: engine.publish("e")):
            with pytest.raises(LogUnavailable, match="opened for reading alone") as caught:
                await asyncio.wait_for(order(), 2)
            assert caught.value.read_only


def ask(url: str) -> None:
    """The same on the command line."""

    def said(*words: str, code: int = 0) -> str:
        found = CliRunner().invoke(wfes, ["--url", url, *words])
        assert found.exit_code == code, (words, found.output)
        return found.output

    assert "completed" in said("ls")
    assert "WorkflowCompleted" in said("history", ARCHIVED)
    assert "one" in said("show", ARCHIVED)
    assert "as of" in said("show", ARCHIVED, "--at", "2")
    assert "output  - → 1" in said("diff", ARCHIVED, "--at", "2")
    assert "reading alone" in said("publish", "e", code=1)


@contextmanager
def as_nobody() -> Generator[None]:
    """As root: as a user whom no file belongs to, for the time being."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def fixed(folder: Path) -> Callable[[], dict[str, str]]:
    """Makes a folder and all in it read-only; gives what tells what is in it."""
    for path in folder.rglob("*"):
        path.chmod(0o444 if path.is_file() else 0o555)
    folder.chmod(0o555)

    def found() -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return found


def loosen(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("written", [False, True], ids=["closed", "while somebody has it open"])
def test_a_file_that_is_read_only(written: bool) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name) / "log"
        folder.mkdir()
        folder.parent.chmod(0o755)
        asyncio.run(fill(folder))
        ask_nothing = CliRunner().invoke(wfes, ["--help"])  # everything is imported while it can be read
        assert ask_nothing.exit_code == 0
        if written:
            command = [sys.executable, "-c", WRITER, url_of(folder)]
            writer = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
        stack.callback(loosen, folder)
        now = fixed(folder)
        before = now()
        with as_nobody():
            asyncio.run(look(url_of(folder)))
            ask(url_of(folder))
            with pytest.raises(LogUnavailable, match="read-only"):
                asyncio.run(opened_to_work(url_of(folder)))
        assert now() == before


async def opened_to_work(url: str) -> None:
    async with Engine(url, workflows=[short]):
        pass


def test_a_role_that_may_only_select(tmp_path: Path) -> None:
    with database() as url:
        put(tmp_path, url)
        asyncio.run(fill(tmp_path))
        for sql in (
            "CREATE ROLE looker LOGIN",
            "GRANT USAGE ON SCHEMA public TO looker",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker",
        ):
            tamper(tmp_path, sql)
        before = content(tmp_path)
        looker = as_role(url_of(tmp_path), "looker")
        asyncio.run(look(looker))
        ask(looker)
        with pytest.raises(LogUnavailable, match="lacks a right"):
            asyncio.run(opened_to_work(looker))
        assert content(tmp_path) == before
        tamper(tmp_path, "DROP OWNED BY looker")
        tamper(tmp_path, "DROP ROLE looker")


def as_role(url: str, role: str) -> str:
    """The same database as another role."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}@{rest.rpartition('@')[2]}"


def test_a_file_without_a_log_is_refused_as_ever() -> None:
    """There is nothing to read: what is said is why it cannot be made."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name) / "log"
        folder.mkdir()
        folder.parent.chmod(0o755)
        (folder / "log.db").touch()
        stack.callback(loosen, folder)
        fixed(folder)
        with as_nobody(), pytest.raises(LogUnavailable, match="read-only"):
            asyncio.run(opened_to_look(url_of(folder)))


async def opened_to_look(url: str) -> None:
    async with Engine(url, worker=False):
        pass
