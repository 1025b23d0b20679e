"""Who works on a log: its workers, what they hold, and what no worker can run.

The calls of an engine about workers, from the rows the workers themselves keep. Who is dead is judged as workers judge
one another (`wfes.runtime.leases`), but at one glance: where only heartbeats tell, by this machine's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import orjson

from wfes.core.state import ACTIVE, Status
from wfes.instance import Instance
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.runtime import leases
from wfes.runtime.versions import met, newer_than
from wfes.views import InstanceRow, moment

GLANCE_SECONDS = 0.12
"""How long after the first look a lock that seems to be free is looked at again."""

_HELD = """SELECT worker, workflow, count(*) FROM wfes_work WHERE worker IS NOT NULL
    GROUP BY worker, workflow ORDER BY worker, workflow"""
_OPEN = "SELECT workflow, sum(instances) FROM wfes_instance_counts WHERE status IN ({}) GROUP BY workflow"
_RAN_UNDER = "SELECT version, count(*) FROM wfes_work WHERE workflow = ? AND version IN ({}) GROUP BY version"
_VERSIONS = "SELECT id, version FROM wfes_work WHERE id IN ({}) AND version IS NOT NULL"
_LIVING = sorted(str(status) for status in ACTIVE)
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCode:
    """What a worker runs of one workflow.

    Attributes:
        version: The author's label, `@workflow(version=)`.
        digest: A digest of the handler's source.
        python: The minor version of Python.
        wfes: The version of this library.
    """

    version: str | None = None
    digest: str | None = None
    python: str | None = None
    wfes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker of a log.

    Attributes:
        id: Its id, which no other ever has.
        status: `"running"`; `"draining"`: it claims nothing more, and finishes what it is at; `"dead"`: what it holds
            is about to be taken over, or waits for a worker that can run it.
        name: The engine's name.
        host, pid: Where it runs; None: not known, for a dead one whose row is gone.
        started_at: Since when.
        last_beat: Its last heartbeat by its own clock; None: nobody needed one, for its lock tells that it lives.
        holds: How many instances it has in memory, by workflow.
        code: What it runs, by workflow.
    """

    id: str
    status: str
    name: str | None = None
    host: str | None = None
    pid: int | None = None
    started_at: datetime | None = None
    last_beat: datetime | None = None
    holds: dict[str, int] = field(default_factory=dict[str, int])
    code: dict[str, WorkerCode] = field(default_factory=dict[str, WorkerCode])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """Instances that are not over and that no running worker can run.

    Attributes:
        workflow: Their workflow.
        version: The label they last ran under, where that is what no running worker has; None: no running worker knows
            the workflow.
        instances: How many there are.
    """

    workflow: str
    version: str | None
    instances: int


class Workers:
    """An engine's calls about workers."""

    _log: Log
    _parts: Parts

    async def workers(self) -> list[WorkerRow]:
        """Every worker of this log, on whatever machine, the longest at work first.

        Raises:
            LogUnavailable: The log cannot be read.
        """
        self._parts.check_open()
        now = self._parts.now()
        return await self._parts.here(asyncio.to_thread(_workers, self._log, now))

    async def unserved(self) -> list[Unserved]:
        """Which instances wait for a worker that there is none of: no running worker knows their workflow, or all that
        do have older code than they ran under.

        Raises:
            LogUnavailable: The log cannot be read.
        """
        known = _known(await self.workers())
        return await self._parts.here(asyncio.to_thread(_unserved, self._log, known))

    async def without_worker(self, instances: Iterable[InstanceRow | Instance[Any]]) -> set[str]:
        """Ids of those of these instances that no running worker can run; none of those that are over.

        Raises:
            LogUnavailable: The log cannot be read.
        """
        wanted = {each.id: each.workflow for each in instances if Status(each.status) in ACTIVE}
        if not wanted:
            return set()
        known = _known(await self.workers())
        return await self._parts.here(asyncio.to_thread(_without_worker, self._log, known, wanted))


Known = Mapping[str, Sequence[str | None]]
"""By workflow, the labels of the running workers that know it; None: a worker without a label."""


def _known(workers: Iterable[WorkerRow]) -> Known:
    found: dict[str, list[str | None]] = {}
    for worker in workers:
        if worker.status == "running":
            for workflow, code in worker.code.items():
                found.setdefault(workflow, []).append(code.version)
    return found


def _workers(log: Log, now: int) -> list[WorkerRow]:
    rows = log.read(leases.SELECT_WHOLE)
    dead = _dead(log, rows, now)
    holds: dict[str, dict[str, int]] = {}
    for worker, workflow, number in log.read(_HELD):
        holds.setdefault(worker, {})[workflow] = number
    found: list[WorkerRow] = []
    for id, host, _boot, _beat, _locked, _lease, draining, code, name, pid, started_at, beat_at in rows:
        status = "dead" if id in dead else "draining" if draining else "running"
        beaten: int | None = beat_at
        found.append(
            WorkerRow(
                id=id,
                status=status,
                name=name,
                host=host,
                pid=pid,
                started_at=moment(int(started_at)),
                last_beat=moment(beaten),
                holds=holds.pop(id, {}),
                code={workflow: _code(given) for workflow, given in orjson.loads(code).items()},
            )
        )
    found.extend(WorkerRow(id=id, status="dead", holds=held) for id, held in holds.items())
    return found


def _code(given: Any) -> WorkerCode:
    tree = cast("dict[str, str]", given) if isinstance(given, dict) else {}
    return WorkerCode(**{name: tree.get(name) for name in ("version", "digest", "python", "wfes")})


def _dead(log: Log, rows: Sequence[Sequence[Any]], now: int) -> set[str]:
    """Who will do nothing any more, at one glance."""
    presence = log.presence()
    if presence is None:
        return set()
    observer = leases.Observer("", leases.Machine.here(), presence)
    census = observer.look(rows)
    if census.unsure:
        time.sleep(GLANCE_SECONDS)
        census = observer.look(rows)
    dead = set(census.dead)
    if not presence.certain:
        # There each of them beats all the time.
        for row in rows:
            registered, started_at, beat_at = leases.Registered.of(row), row[10], row[11]
            if now - max(started_at, beat_at or 0) > 2 * registered.lease_micros:
                dead.add(registered.id)
    return dead


def _too_new(log: Log, known: Known, workflow: str) -> tuple[str, ...]:
    """Labels that are newer than that of any running worker of this workflow."""
    mine = known[workflow]
    if None in mine:
        return ()
    labels = met(log, workflow)
    newest = max((labels.index(label) for label in mine if label in labels), default=len(labels))
    return newer_than(labels[newest], labels) if newest < len(labels) else ()


def _unserved(log: Log, known: Known) -> list[Unserved]:
    found: list[Unserved] = []
    for workflow, number in sorted(log.read(_OPEN.format(_marks(_LIVING)), _LIVING)):
        if workflow not in known:
            if number:
                found.append(Unserved(workflow=workflow, version=None, instances=int(number)))
        elif newer := _too_new(log, known, workflow):
            for version, ran in log.read(_RAN_UNDER.format(_marks(newer)), (workflow, *newer)):
                found.append(Unserved(workflow=workflow, version=version, instances=ran))
    return found


def _without_worker(log: Log, known: Known, wanted: Mapping[str, str]) -> set[str]:
    found = {id for id, workflow in wanted.items() if workflow not in known}
    for workflow in {*wanted.values()} & known.keys():
        newer = _too_new(log, known, workflow)
        if not newer:
            continue
        ids = [id for id, its in wanted.items() if its == workflow]
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            ran = log.read(_VERSIONS.format(_marks(some)), some)
            found.update(id for id, version in ran if version in newer)
    return found


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
