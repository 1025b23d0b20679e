"""Forks of everything: of every workflow of the corpus at every event, and what a log with all of them must show.

* Before anything runs, the fork is what its origin was: the same status, steps, waits, state, progress.
* Run to its end, with what came from outside for the origin, it ends as the origin did; no step that has a result runs
  again; every projection equals its rebuild, and the hash chains hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import checks
import corpus
import projected
import pytest
from driver import CASES, GROUPS, drive
from places import DATABASES, placed, url_of

from wfes import ACTIVE, Engine, Instance, InstanceEnded, Status
from wfes.core import events as e
from wfes.core.evolve import fold
from wfes.core.state import InstanceState

SECONDS_MAX = 40.0
OWN = {
    "id",
    "version",
    "at",
    "created_at",
    "asked_at",
    "status_since",
    "outside",
    "worker",
    "afresh",
    "fruitless",
}
"""What of a state is a fork's own."""
NOT_INHERITED = {"key", "generation", "parent", "parent_path", "trigger", "deadline", "slot"}
FORKS = {"forked_from", "forked_at", "forked_by"}


def comparable(state: InstanceState) -> dict[str, Any]:
    """A state without what is each instance's own, and its open waits without the ids they are known by."""
    tree = {
        name: value
        for name, value in dataclasses.asdict(state).items()
        if name not in OWN | NOT_INHERITED | FORKS
    }
    tree["waits"] = {
        path: {**wait, "target": None, "ready": bool(wait["ready"]), "ready_status": None}
        for path, wait in tree["waits"].items()
    }
    for step in tree["steps"].values():
        step["cut_offs"] = 0
    return tree


async def feed(engine: Engine, fork: Instance[Any], rest: list[e.Event]) -> None:
    """Gives a fork what came to its origin from outside later on."""
    for event in rest:
        match event:
            case e.EventReceived(event=name, id=id):
                await fork.send(name, engine.values.open(event.payload), id=id)
            case e.DataProvided(path=path):
                while True:
                    open_requests = {
                        r.step: r for r in (await engine.requests(limit=1000)).items if r.instance == fork.id
                    }
                    if path in open_requests:
                        break
                    await asyncio.sleep(0.01)
                await engine.provide(None, open_requests[path], engine.values.open(event.data))
            case e.CancelRequested():
                while (await fork.refresh()).status is not Status.LISTENING and fork.status in ACTIVE:
                    await asyncio.sleep(0.01)
                await fork.cancel("enough")
            case e.WorkflowResumed():
                await fork.resume()
            case e.WorkflowRetried():
                while (await fork.refresh()).status in ACTIVE:
                    await asyncio.sleep(0.01)
                with suppress(InstanceEnded):  # what it failed for is there by now
                    await fork.retry()
            case _:
                """Not from outside, or nothing that its end depends on."""


def as_the_origin(id: str, at: int, history: list[e.Event]) -> bool:
    """Whether a fork at this version ends as its origin did.

    A deadline is not inherited; and what asks other instances for something finds these over by now.
    """
    if id in ("caller", "provider"):
        return at == len(history)
    if id not in ("overdue", "bounded"):
        return True
    return any(isinstance(event, e.CancelDelivered) for event in history[:at])


@pytest.mark.parametrize(
    ("database", "group"),
    [("sqlite", group) for group in range(len(GROUPS))]
    + [(database, group) for database in DATABASES if database != "sqlite" for group in (2, 3)],
)
def test_every_workflow_at_every_event(tmp_path: Path, database: str, group: int) -> None:
    ids = GROUPS[group]
    with placed(tmp_path, database) as folder:
        assert asyncio.run(drive(folder, ids)) == {}
        histories = checks.histories_of(checks.stored_events(folder))
        origins = {id: histories[id] for id in ids}
        forks = asyncio.run(_forked(folder, origins))
        asyncio.run(_run(folder, origins, forks))
        assert checks.problems_of(folder) == []


async def _forked(folder: Path, origins: dict[str, list[e.Recorded]]) -> dict[str, tuple[str, int]]:
    """Forks everywhere, where nothing can run; each fork is what its origin was."""
    forks: dict[str, tuple[str, int]] = {}
    async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, worker=False) as engine:
        for id, history in origins.items():
            origin = await engine.get(id)
            for at in range(1, len(history) + 1):
                fork = await origin.fork(at, actor="a test")
                forks[fork.id] = id, at
                was, now = await origin.at(at), await fork.at(at)
                assert (now.steps, now.state, now.progress) == (was.steps, was.state, was.progress)
                assert fork.status == was.status, (id, at)
                copied = checks.histories_of(checks.stored_events(folder))[fork.id] if at % 7 == 0 else None
                if copied is not None:
                    before = comparable(fold(id, history[:at], detailed=True))
                    assert comparable(fold(fork.id, copied[: at + 1], detailed=True)) == before, (id, at)
            assert [row.at for row in await origin.forks()] == list(range(1, len(history) + 1))
    return forks


async def _run(folder: Path, origins: dict[str, list[e.Recorded]], forks: dict[str, tuple[str, int]]) -> None:
    """Runs all forks to their ends, which are their origins'."""
    calls = Counter(checks.calls_in(folder / "calls"))
    async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, projections=projected.ALL) as engine:
        events = {id: [recorded.event for recorded in history] for id, history in origins.items()}
        runs = {fork: await engine.get(fork) for fork in forks}
        async with asyncio.timeout(SECONDS_MAX):
            await asyncio.gather(*(feed(engine, runs[f], events[id][at:]) for f, (id, at) in forks.items()))
            for fork, (id, at) in forks.items():
                run = await runs[fork].refresh()
                if not as_the_origin(id, at, events[id]):
                    await run.cancel()
                    continue
                while (await run.refresh()).status in ACTIVE:
                    await asyncio.sleep(0.005)
                case = CASES[id]
                assert run.status == case.status, (id, at, run.error, run.reason)
                assert run.status != Status.COMPLETED or run.output in case.outputs, (id, at, run.output)
            while others := (await engine.instances(status=ACTIVE)).items:
                for row in others:  # whom a fork started and did not end
                    await (await engine.get(row.id)).cancel()
                await asyncio.sleep(0.01)
    for fork, path, _attempt in Counter(checks.calls_in(folder / "calls")) - calls:
        if fork in forks:
            id, at = forks[fork]
            done = {
                event.path.replace(" ", "_")
                for event in events[id][:at]
                if isinstance(event, e.StepCompleted)
            }
            assert path not in done, (id, at, path)
