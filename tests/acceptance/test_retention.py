"""Archiving, with processes that are killed in the middle of it and others that do it at the same time."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import orjson
import pytest
from checks import broken_chains, wrong_rows
from eventsourcing.persistence import Notification
from places import DATABASES, archives, copied, placed, url_of
from scenarios import environment

from wfes import Engine, Step, workflow
from wfes.log.archived import stored_history, whole_log
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes.runtime.streams import is_instance

KIT = Path(__file__).parent / "kit"
INSTANCES = 12
SECONDS_MAX = 30.0
TORN = (0, 1, 23, 500, 700, 1_200, 2_000, 2_500)
"""After how many bytes a process dies that writes to the archive."""


@workflow
async def ship(number: int, step: Step) -> int:
    """Ends at once, but for a few that wait."""
    found = await step("add", lambda: number + 1)
    if number >= INSTANCES:
        await step.listen("go")
    return found


@pytest.fixture(scope="module", params=DATABASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A log with instances that have ended, and three that have not."""
    with placed(tmp_path_factory.mktemp("made"), request.param) as folder:
        make(folder)
        yield folder


def make(folder: Path) -> None:
    async def main() -> None:
        async with Engine(url_of(folder), workflows=[ship]) as engine:
            runs = [await ship.start(number, id=f"i{number}") for number in range(INSTANCES + 3)]
            for run in runs[:INSTANCES]:
                await run.result(timeout=20)
            while [row.id for row in await engine.instances(status="in_progress")]:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def spawn(folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(KIT / "prunes.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **environ},
    )


def ended(child: subprocess.Popen[str]) -> int | None:
    """How many histories a process archived; None: it was killed."""
    out, err = child.communicate(timeout=SECONDS_MAX)
    if child.returncode == -signal.SIGKILL:
        return None
    assert child.returncode == 0, out + err
    return int(out)


def opened(folder: Path) -> Log:
    log = open_log(url_of(folder))
    log.open(())
    return log


def events(folder: Path) -> list[Notification]:
    log = opened(folder)
    try:
        return list(whole_log(log))
    finally:
        log.close()


def check(folder: Path, before: list[Notification], archived: int) -> None:
    """Nothing is lost, nothing is there twice, and so many histories are archived."""
    now = events(folder)
    assert now[: len(before)] == before
    assert {stored.topic for stored in now[len(before) :]} <= {"HistoryArchived"}
    assert len(now) == len(before) + archived
    assert broken_chains(now) == []
    assert wrong_rows(folder, now) == []
    log = opened(folder)
    try:
        for stream in {str(stored.originator_id) for stored in now}:
            if is_instance(stream):
                history = [stored for stored in now if stored.originator_id == stream]
                assert list(stored_history(log, stream)) == history
    finally:
        log.close()


def lines_of(folder: Path) -> list[tuple[str, int]]:
    """Instance and version of every line of the archive, as any program reads it."""
    found: list[tuple[str, int]] = []
    for file in sorted(archives(folder).glob("*.gz")):
        for line in gzip.decompress(file.read_bytes()).splitlines():
            event = orjson.loads(line)
            found.append((event["instance"], event["version"]))
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit(made: Path, tmp_path: Path, when: str) -> None:
    before = events(made)
    for number in range(1, 10):
        with copied(made, tmp_path / str(number)) as folder:
            done = ended(spawn(folder, WFES_FAULT=f"kill:{when}:{number}"))
            committed = 4 * (number - 1 if when == "before" else number)
            if done is not None:
                assert (number, done) == (4, INSTANCES)
                return
            check(folder, before, committed)
            assert ended(spawn(folder)) == INSTANCES - committed
            check(folder, before, INSTANCES)
            # What was written and not committed is there once more, and nobody asks for it.
            twice = {instance for (instance, _), times in Counter(lines_of(folder)).items() if times == 2}
            assert len(twice) == (4 if when == "before" else 0)
    pytest.fail("it never ended before its last commit")


@pytest.mark.timeout(120)
def test_killed_while_writing_to_the_archive(made: Path, tmp_path: Path) -> None:
    before = events(made)
    # What is written is the same whatever the database; what is made of it afterwards is not.
    for torn in TORN if url_of(made).startswith("sqlite") else TORN[1::3]:
        with copied(made, tmp_path / str(torn)) as folder:
            assert ended(spawn(folder, WFES_TORN=str(torn))) is None
            done = len([s for s in events(folder) if s.topic == "HistoryArchived"])
            check(folder, before, done)
            assert ended(spawn(folder)) == INSTANCES - done
            check(folder, before, INSTANCES)
            assert set(Counter(lines_of(folder)).values()) <= {1, 2}
            (file,) = archives(folder).glob("*.gz")
            zcat = shutil.which("zcat")
            if zcat is not None:
                found = subprocess.run([zcat, file], capture_output=True)
                assert (found.returncode, found.stderr) == (0, b"")


def test_several_processes_at_once(made: Path, tmp_path: Path) -> None:
    before = events(made)
    with copied(made, tmp_path / "log") as folder:
        children = [spawn(folder) for _ in range(3)]
        done = [ended(child) for child in children]
        assert sum(number or 0 for number in done) == INSTANCES
        check(folder, before, INSTANCES)
        assert set(Counter(lines_of(folder)).values()) == {1}
