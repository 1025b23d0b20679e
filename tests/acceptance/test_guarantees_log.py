"""The guarantees G9 and G10, by name; and that each of all eleven is shown on every database by tests of its name."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import corpus
import projected
import pytest
from checks import broken_chains, stored_events, unlike_rebuilt, wrong_rows
from eventsourcing.persistence import Notification
from places import url_of

import wfes
from wfes import Engine
from wfes.log.archived import whole_log
from wfes.log.open import open_log

HERE = Path(__file__)
ROOT = HERE.parents[2]
DATABASES = {"sqlite", "postgresql"}
FILES = ("test_guarantees.py", HERE.name)
OF_ONE_DATABASE = {
    "test_g7_a_wall_clock_that_jumps": "where the engine's own clock counts: with PostgreSQL it is the server's",
    "test_g7_by_the_server_s_clock": "where a server's clock counts",
}
"""Tests that say something about one kind of database only, and why."""


@pytest.fixture(autouse=True)
def noted(tmp_path: Path) -> None:
    corpus.use(tmp_path / "calls")


async def everything_that_can_be_asked(
    engine: Engine, after: Callable[[str], Awaitable[None]], *, delay: str = "1h"
) -> None:
    """One call of each kind that changes something; `after` is told of each when it has returned."""
    waiting = await corpus.receiver.start(1, id="waiting", key="k", tags=["x"])
    await after("start")
    await corpus.receiver.get_or_create(key="k", input=1)
    await corpus.receiver.start(1, id="later", delay=delay)
    await after("get_or_create")
    await waiting.send("one", 1, id="s-1")
    await after("send")
    await engine.publish("order.placed", 1, id="p-1")
    await after("publish")
    asking = await corpus.asker.start(1, id="asking")
    await engine.provide(corpus.asker, await corpus.first_request(engine, "asking", "approval"), True)
    await after("provide")
    await waiting.pause("for a moment")
    await after("pause")
    await waiting.resume()
    await after("resume")
    await waiting.set_timeout("1h")
    await after("set_timeout")
    failing = await corpus.failing.start(1, id="failing")
    with pytest.raises(wfes.WorkflowFailed):
        await failing.result(timeout=20)
    await failing.retry()
    await after("retry")
    for run in (waiting, asking, await engine.get("later")):
        await run.cancel("enough")
        await after("cancel")
    for run in (waiting, asking):
        with pytest.raises(wfes.WorkflowCancelled):
            await run.result(timeout=20)
    with pytest.raises(wfes.WorkflowFailed):
        await failing.result(timeout=20)
    done = [await workflow.start(1) for workflow in (corpus.chain, corpus.nested, corpus.parent)]
    await asyncio.gather(*[run.result(timeout=20) for run in done])
    await after("result")


# ------------------------------------------------------------------------------------------------- G9


def test_g9_no_event_is_ever_changed_or_removed(folder: Path) -> None:
    """G9: whatever is asked, what was in the log stays there byte for byte; only retention moves histories away, and
    leaves one tombstone each with the hash of its last event."""
    seen: list[Notification] = []

    async def main() -> None:
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, projections=projected.ALL) as engine:

            async def after(what: str) -> None:
                now = stored_events(folder)
                assert now[: len(seen)] == seen, f"{what} changed what was recorded before"
                seen[:] = now

            await everything_that_can_be_asked(engine, after)
            await engine.rebuild_projection("kit-steps")
            await engine.rebuild_projection("wfes_instances")
            await after("rebuild_projection")
        async with Engine(url_of(folder), worker=False) as engine:
            await after("close")
            pruned = await engine.prune(older_than=0)
            assert pruned.instances > 5

    asyncio.run(main())
    assert broken_chains(seen) == []
    tombs = [stored for stored in stored_events(folder) if stored.topic == "HistoryArchived"]
    assert len({stored.originator_id for stored in tombs}) == len(tombs) > 5
    log = open_log(url_of(folder))
    log.open(())
    try:
        whole = list(whole_log(log))
    finally:
        log.close()
    assert whole[: len(seen)] == seen
    assert broken_chains(whole) == []


# ------------------------------------------------------------------------------------------------ G10


def test_g10_every_projection_equals_its_rebuild(folder: Path) -> None:
    """G10: every projection, rebuilt from log and archives, equals the live one, before and after retention."""

    async def nothing(what: str) -> None:
        pass

    async def main() -> None:
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, projections=projected.ALL) as engine:
            await everything_that_can_be_asked(engine, nothing)
            assert await unlike_rebuilt(engine) == []
            await engine.prune(older_than=0)
            assert await unlike_rebuilt(engine) == []
            names: list[str] = [status.name for status in await engine.projections()]
            assert {"kit-steps", "kit-lives", "wfes_instances", "wfes_timers", "wfes_statistics"} <= {
                *names
            }, names
            for name in names:
                await engine.rebuild_projection(name)
            assert await unlike_rebuilt(engine) == []

    asyncio.run(main())
    log = open_log(url_of(folder))
    log.open(())
    try:
        assert wrong_rows(folder, list(whole_log(log))) == []
    finally:
        log.close()


# ------------------------------------------------------------------------------------------ all of them


@pytest.fixture(scope="module")
def collected() -> dict[str, set[str]]:
    """The databases that each test of a guarantee runs on, as pytest itself finds them."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    files = [str(HERE.with_name(name)) for name in FILES]
    out = subprocess.run([*words, *files], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    found: dict[str, set[str]] = {}
    for name, given in re.findall(r"::(test_g\d+_\w+)(?:\[(.*)\])?$", out, re.MULTILINE):
        found.setdefault(name, set()).update(DATABASES & {*given.split("-")})
    return found


@pytest.mark.parametrize("guarantee", range(1, 12), ids=lambda number: f"G{number}")
def test_each_guarantee_is_shown_on_every_database(collected: dict[str, set[str]], guarantee: int) -> None:
    """By the same named tests, but for what can be said about one kind of database only."""
    tests = {name: where for name, where in collected.items() if name.startswith(f"test_g{guarantee}_")}
    everywhere = {name for name, where in tests.items() if where == DATABASES}
    assert everywhere, f"nothing shows G{guarantee} on every database"
    assert tests.keys() - everywhere <= OF_ONE_DATABASE.keys()
