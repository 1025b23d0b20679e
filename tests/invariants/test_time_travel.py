"""`at(N)` is the state that the instance had, live, when N was its last event. G8: and looking writes nothing.

Observed is what the writer's own state said at the very moment each event was appended; the steps that had ended by
then are those of a fold of the first N events by itself, without copies and caches. With copies after every few events,
so that each of these short histories has many.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import corpus
import driver
import histories
import pytest
from places import url_of

import wfes.log.transaction
import wfes.simulation
from wfes import Engine, InstanceState
from wfes.core import events as e
from wfes.core.evolve import evolve, fold
from wfes.core.state import InstanceState as Folded
from wfes.core.state import StepState
from wfes.history import Histories
from wfes.log.application import body_bytes
from wfes.log.memory import MemoryLog
from wfes.runtime.values import Values
from wfes.snapshot import Snapshot
from wfes.timetravel import index as indexes
from wfes.timetravel.index import Index
from wfes.timetravel.past import step_view

Observed = dict[tuple[str, int], Folded]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(indexes, "SPACING", 3)
    monkeypatch.setattr(indexes, "SMALL_BYTES_MAX", 40)


def observing(seen: Observed) -> Callable[[Folded, e.Event, int], Folded]:
    """What stands in for the fold where events are appended: takes note of every state."""

    def noted(state: Folded, event: e.Event, version: int) -> Folded:
        found = evolve(state, event, version)
        seen[state.id, version] = copy.deepcopy(found)
        return found

    return noted


def facts(snapshot: Snapshot[Any]) -> dict[str, Any]:
    """Everything in a snapshot that people see."""
    names = (
        "version",
        "status",
        "workflow",
        "key",
        "input",
        "output",
        "error",
        "reason",
        "state",
        "tags",
        "parent",
    )
    more = ("created_at", "updated_at", "deadline", "waiting_for", "progress", "conversation")
    return {name: getattr(snapshot, name) for name in (*names, *more)}


def steps_of(state: Folded) -> dict[str, StepState]:
    """The steps of a detailed state: those that are open count."""
    return {**(state.done or {}), **state.steps}


async def checked(engine: Engine, id: str, seen: Observed) -> int:
    """Compares every version of an instance; how many there are."""
    instance = await engine.get(id)
    events = await instance.history()
    recorded = engine._parts.histories.rest(id)
    latest = max(event.at for event in events)
    assert (await instance.at(latest + timedelta(days=1))).version == len(events)
    highest = events[0].at
    for event in events:
        then = await instance.at(event.version)
        live = seen[id, event.version]
        assert facts(then) == facts(Snapshot(engine, live)), (id, event.version)
        expected = steps_of(fold(id, recorded[: event.version], detailed=True))
        views = {path: step_view(step, engine.values) for path, step in expected.items()}
        assert dict(then.steps) == views
        assert len(then.steps) == len(views)
        assert {path for path, view in views.items() if view.ended_at is None} == set(live.steps)
        highest = max(highest, event.at)
        assert then.at == highest
        by_time = await instance.at(highest)
        same = [
            other.version for other in events if max(each.at for each in events[: other.version]) <= highest
        ]
        assert by_time.version == same[-1]
    return len(events)


def test_every_version_of_every_workflow_of_the_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live, on each of the databases; afterwards, where it is archived, from the archive."""
    seen: Observed = {}
    monkeypatch.setattr(wfes.log.transaction, "evolve", observing(seen))

    async def main() -> None:
        assert not await driver.drive(folder, list(driver.CASES))
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, worker=False) as engine:
            rows = (await engine.instances(limit=1000)).items
            assert {row.workflow for row in rows} == {workflow.name for workflow in corpus.WORKFLOWS}
            head = engine._log.max_notification_id()
            before = {row.id: await checked(engine, row.id, seen) for row in rows}
            assert engine._log.max_notification_id() == head
            monkeypatch.setattr(wfes.log.transaction, "evolve", evolve)
            pruned = await engine.prune(older_than=timedelta(0))
            assert pruned.instances
            seen.update({(row.id, before[row.id] + 1): _tombstone(engine, row.id) for row in rows})
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, worker=False) as engine:
            assert sum([await checked(engine, row.id, seen) for row in rows]) > sum(before.values())

    asyncio.run(main())


def _tombstone(engine: Engine, id: str) -> Folded:
    return fold(id, engine._parts.histories.rest(id))


@pytest.mark.parametrize("seed", range(12))
def test_every_version_of_random_logs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disturbed, cut off and gone on with."""
    seen: Observed = {}
    monkeypatch.setattr(wfes.simulation, "evolve", observing(seen))
    log = stored(histories.random_log(seed))
    values = Values(lambda _: None)
    for id in {recorded.originator_id for recorded in _in(log) if not recorded.originator_id.startswith("$")}:
        index = Index(id, Histories(log, values))
        index.catch_up()
        history = Histories(log, values).rest(id)
        for version in range(1, len(history) + 1):
            state = index.state(version)
            expected = fold(id, history[:version], detailed=True)
            assert slim(state) == slim(seen.get((id, version), expected)) == slim(expected)
            assert shown(index.steps(state)) == shown(steps_of(expected))


def shown(steps: Mapping[str, StepState]) -> dict[str, StepState]:
    """What people see of steps: how often they were cut off on their way is told by their events."""
    return {path: dataclasses.replace(step, cut_offs=0) for path, step in steps.items()}


def slim(state: Folded) -> Folded:
    """Without what a copy of the state leaves out."""
    return dataclasses.replace(state, done=None, inbox={}, seen=set(), last_failures={}, voided={})


def stored(recorded: list[e.Recorded]) -> MemoryLog:
    """A log in memory that holds these events."""
    log = MemoryLog()
    log.open([])
    write = log.begin()
    write.insert(
        [
            (
                number,
                each.originator_id,
                each.originator_version,
                each.event.topic,
                bytes(32) + body_bytes(each.event),
            )
            for number, each in enumerate(recorded, 1)
        ]
    )
    write.commit()
    return log


def _in(log: MemoryLog) -> list[e.Recorded]:
    from wfes.log.application import decode

    return [decode(found) for found in log.select_notifications(0, 1_000_000)]


def test_states_are_equal_by_their_contents(folder: Path) -> None:
    async def main() -> None:
        assert not await driver.drive(folder, ["chain"])
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, worker=False) as engine:
            instance = await engine.get((await engine.instances()).items[0].id)
            a, b = await instance.at(5), await instance.at(6)
            assert isinstance(a, InstanceState)
            assert a == await instance.at(5)
            assert a != b
            assert a != "something else"

    asyncio.run(main())
