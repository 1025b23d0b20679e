"""Claiming instances: the members of the writer's queue that take them, and the statements they read by.

A claim is decided and appended in one transaction on the state as it is there, so two workers that see the same row
never both get it: the second finds an owner and takes nothing. The rows of the projection ``wfes_work`` only say where
looking is worth it.

Invariants: a batch takes at most as many instances as the worker has room for, and stops early where the histories
it reads grow long, because the write lock is held meanwhile; ``progressed`` is False where asking again at once
would find the same, so that a row that can never be claimed makes no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from wfes.core import events as e
from wfes.core.decide import Claim, decide
from wfes.core.state import InstanceState
from wfes.log.port import Row, Tx
from wfes.runtime import leases
from wfes.runtime.admission import Admission
from wfes.runtime.versions import Versions

Json = Any
Read = Callable[[str, Sequence[object]], list[Row]]
"""``Log.read`` or ``Tx.query``."""

CLAIMS_MAX = 200
"""Most instances one transaction claims."""
TAKEOVERS_MAX = 50
"""Most instances of a dead worker that one transaction claims, so that the others get their turn."""
OWNED_MAX = 5_000
"""Most instances of a dead worker that one transaction looks at."""
EVENTS_MAX = 20_000
"""About how many events of histories one transaction reads."""

_DUE = """SELECT column1, (
        SELECT runnable_at FROM wfes_work WHERE workflow = column1 AND runnable_at IS NOT NULL
        ORDER BY runnable_at LIMIT 1
    ) FROM (VALUES {}) AS given"""
_DUE_OLDER = """SELECT runnable_at FROM wfes_work WHERE workflow = ? AND runnable_at IS NOT NULL{}
    ORDER BY runnable_at LIMIT 1"""
_RUNNABLE = """SELECT runnable_at, id FROM wfes_work WHERE workflow = ? AND runnable_at <= ?{}
    ORDER BY runnable_at LIMIT ?"""
_OWNED = """SELECT id FROM wfes_work WHERE worker = ? AND workflow IN ({}){}
    ORDER BY id LIMIT ?"""
_NOT_NEWER = " AND (version IS NULL OR version NOT IN ({}))"
_OTHER_OR_NOT_NEWER = " AND (workflow <> ? OR version IS NULL OR version NOT IN ({}))"
_OWNS_SOMETHING = "SELECT 1 FROM wfes_work WHERE worker = ? LIMIT 1"
_ORPHANS = """SELECT DISTINCT worker FROM wfes_work WHERE worker IS NOT NULL
    AND worker NOT IN (SELECT id FROM wfes_workers)"""


class Work:
    """What is to be done for some workflows, read from the rows of the projection ``wfes_work``.

    Each workflow is looked at by itself, for then the index gives the first few without reading the others.
    """

    def __init__(
        self,
        workflows: Collection[str],
        admission: Admission | None = None,
        versions: Versions | None = None,
    ) -> None:
        """Makes it.

        Args:
            workflows: their names.
            admission: how instances are admitted where their number is limited.
            versions: which instances are for workers with newer code; None: none.
        """
        self._names = list(workflows)
        self.admission = admission
        self.versions = versions or Versions({})
        self._due_sql = _DUE.format(", ".join(["(?)"] * len(self._names)))

    def next_due(self, read: Read) -> int | None:
        """When the first instance that nobody owns may be claimed, in microseconds; perhaps a past moment."""
        return self.look(read)[0]

    def look(self, read: Read) -> tuple[int | None, bool]:
        """As `next_due`, and whether any instance waits for a slot."""
        queueing, admits = (False, False) if self.admission is None else self.admission.look(read)
        if admits:
            return 0, queueing
        return min((due for _, due in self._due(read) if due is not None), default=None), queueing

    def _due(self, read: Read) -> list[Row]:
        """Each workflow with when its first instance that nobody owns may be claimed."""
        found = read(self._due_sql, self._names) if self._names else []
        if not self.versions.newer:
            return found
        return [
            (workflow, self._due_older(read, workflow, newer) if (newer := self._newer(workflow)) else due)
            for workflow, due in found
        ]

    @staticmethod
    def _due_older(read: Read, workflow: str, newer: Sequence[str]) -> int | None:
        found = read(_DUE_OLDER.format(_NOT_NEWER.format(_marks(newer))), (workflow, *newer))
        return found[0][0] if found else None

    def _newer(self, workflow: str) -> tuple[str, ...]:
        return self.versions.newer.get(workflow, ())

    def runnable(self, read: Read, now: int, limit: int) -> list[str]:
        """Ids of the instances that may be claimed at ``now``, longest due first."""
        found: list[Row] = []
        for workflow, due in self._due(read):
            if due is not None and due <= now:
                newer = self._newer(workflow)
                older = _NOT_NEWER.format(_marks(newer)) if newer else ""
                found.extend(read(_RUNNABLE.format(older), (workflow, now, *newer, limit)))
        found.sort()
        return [str(id) for _, id in found[:limit]]

    def owned(self, read: Read, worker: str, limit: int) -> list[str]:
        """Ids of instances of these workflows that a worker owns, but for those that ran under newer code."""
        if not self._names:
            return []
        older = ""
        params: list[object] = [worker, *self._names]
        for workflow, newer in self.versions.newer.items():
            older += _OTHER_OR_NOT_NEWER.format(_marks(newer))
            params += [workflow, *newer]
        found = read(_OWNED.format(_marks(self._names), older), (*params, limit))
        return [str(id) for (id,) in found]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def owns_something(read: Read, worker: str) -> bool:
    """Whether a worker owns an instance, of whatever workflow."""
    return bool(read(_OWNS_SOMETHING, (worker,)))


def orphans(read: Read) -> list[str]:
    """Owners of instances that are not registered as workers."""
    return [str(id) for (id,) in read(_ORPHANS, ())]


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what a dead worker owned: one of ``of`` about equal ones, by the instances' ids.

    Each living worker takes its own part, all at once and without asking another, so none takes nearly all. What is
    left after a while, because somebody is full, slow or dead too, is for whoever comes.
    """

    rank: int = 0
    of: int = 1

    def has(self, id: str) -> bool:
        """Whether an instance belongs to it."""
        return self.of == 1 or crc32(id.encode()) % self.of == self.rank


@dataclass(slots=True)
class Claimed:
    """What a claim took.

    Attributes:
        histories: the whole history of each instance claimed, the claim included.
        more: there is probably more to claim at once.
        left: some of what could be claimed was left to others.
        progressed: something was claimed or ended.
        next_due: when the first instance that nobody owns is due, in microseconds.
        queueing: some instance waits for a slot of its workflow's limited concurrency.
        cleared: dead workers that own nothing any more.
        foreign: dead workers that own only instances of workflows that are not known here.
    """

    histories: list[list[e.Recorded]] = field(default_factory=list[list[e.Recorded]])
    more: bool = False
    left: bool = False
    progressed: bool = False
    next_due: int | None = None
    queueing: bool = False
    cleared: list[str] = field(default_factory=list[str])
    foreign: list[str] = field(default_factory=list[str])


class ClaimRunnable:
    """Claims what dead workers own, then what nobody owns and is runnable."""

    def __init__(
        self,
        worker: str,
        codes: Mapping[str, Json],
        work: Work,
        limit: int,
        dead: Mapping[str, Share],
        done: Callable[[Claimed], object],
        failed: Callable[[Exception], object],
        *,
        among: int = 1,
        at_least: int = 1,
    ) -> None:
        """Makes the member.

        Args:
            worker: who claims.
            codes: by workflow, what it runs.
            work: what is to be done for these workflows.
            limit: how many instances there is room for.
            dead: workers that are dead, and which part of what they own is for this worker.
            done: gets what was claimed, on the event loop's thread.
            failed: gets the error, on the event loop's thread.
            among: how many workers are to share what is runnable now; only this one's part is claimed.
            at_least: but so many, where there are.
        """
        self._worker = worker
        self._codes = codes
        self._work = work
        self._limit = min(limit, CLAIMS_MAX)
        self._dead = dead
        self._done = done
        self._failed = failed
        self._among = among
        self._at_least = at_least

    def done(self, result: Claimed) -> None:
        self._done(result)

    def failed(self, error: Exception) -> None:
        self._failed(error)

    def run(self, tx: Tx) -> Claimed:
        claimed = Claimed()
        budget = _Budget(self._limit)
        for dead, share in self._dead.items():
            self._take_over(tx, dead, share, budget, claimed)
        admission = self._work.admission
        if admission is not None and admission.admit(tx):
            claimed.more = claimed.progressed = True
        if budget.left:
            wanted = budget.left
            ids = self._work.runnable(tx.query, tx.now, wanted * self._among)
            mine = ids[: min(max(-(-len(ids) // self._among), self._at_least), wanted)]
            claimed.left = len(mine) < len(ids)
            if self._take(tx, mine, None, budget, claimed) or len(mine) == wanted:
                claimed.more = True
        else:
            claimed.more = True
        claimed.next_due, claimed.queueing = self._work.look(tx.query)
        return claimed

    def _take_over(self, tx: Tx, dead: str, share: Share, budget: _Budget, claimed: Claimed) -> None:
        wanted = min(budget.left, TAKEOVERS_MAX)
        if not wanted:
            claimed.more = True
            return
        ids = self._work.owned(tx.query, dead, OWNED_MAX)
        mine = [id for id in ids if share.has(id)][:wanted]
        if self._take(tx, mine, dead, budget, claimed) or len(mine) == wanted:
            claimed.more = True
        elif len(ids) > len(mine):
            """The rest is for others, for a while."""
        elif owns_something(tx.query, dead):
            claimed.foreign.append(dead)
        else:
            tx.query(leases.DELETE, (dead,))
            claimed.cleared.append(dead)

    def _take(self, tx: Tx, ids: Sequence[str], dead: str | None, budget: _Budget, claimed: Claimed) -> bool:
        """Claims these instances; True if it stopped before the last one."""
        histories = tx.histories(ids, budget.events) if ids else {}
        commands: dict[str, Claim] = {}
        for id in ids:
            history = histories.get(id)
            if history is None:
                continue
            state = tx.state(id)
            assert state is not None
            if not state.ran and not self._admitted(tx, state, claimed):
                continue
            command = commands.get(state.workflow)
            if command is None:
                code = self._codes[state.workflow]
                command = commands[state.workflow] = Claim(worker=self._worker, code=code, dead=dead)
            decision = decide(state, command, tx.now)
            # Claim is never refused: it gives no event where there is nothing to claim.
            if not isinstance(decision, list) or not decision:
                continue
            position = tx.position + 1
            version = tx.append(id, decision)
            claimed.progressed = True
            if isinstance(decision[0], e.RunClaimed):
                history.append(e.Recorded(id, version, decision[0], position))
                claimed.histories.append(history)
                budget.instances -= 1
        budget.events -= sum(map(len, histories.values()))
        return budget.events <= 0 and len(histories) < len(ids)

    def _admitted(self, tx: Tx, state: InstanceState, claimed: Claimed) -> bool:
        """Whether it may run as far as its workflow's limit goes; else it was put into the queue."""
        admission = self._work.admission
        if admission is None:
            return True
        version = state.version
        passes = admission.passes(tx, state)
        if not passes and state.version != version:
            claimed.more = claimed.progressed = True
        return passes


class _Budget:
    """What a batch may still take: so many instances, and about so many events of their histories."""

    def __init__(self, instances: int) -> None:
        self.instances = instances
        self.events = EVENTS_MAX

    @property
    def left(self) -> int:
        """How many more instances may be claimed."""
        return self.instances if self.events > 0 else 0
