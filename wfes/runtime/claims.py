"""Claiming instances: the members of the writer's queue that take them, and the statements they read by.

A claim is decided and appended in one transaction on the state as it is there, so two workers that see the same row
never both get it: the second finds an owner and takes nothing. The rows of the projection ``wfes_work`` only say where
looking is worth it.

Invariants: a batch takes at most as many instances as the worker has room for, and stops early where the histories
it reads grow long, because the write lock is held meanwhile; ``progressed`` is False where asking again at once
would find the same, so that a row that can never be claimed makes no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wfes.core import events as e
from wfes.core.decide import Claim, decide
from wfes.log.port import Row, Tx
from wfes.runtime import leases

Json = Any
Read = Callable[[str, Sequence[object]], list[Row]]
"""``Log.read`` or ``Tx.query``."""

CLAIMS_MAX = 200
"""Most instances one transaction claims."""
TAKEOVERS_MAX = 50
"""Most instances of a dead worker that one transaction claims, so that all living workers get a share."""
EVENTS_MAX = 20_000
"""About how many events of histories one transaction reads."""

ORPHANS = """SELECT DISTINCT worker FROM wfes_work WHERE worker IS NOT NULL
    AND worker NOT IN (SELECT id FROM wfes_workers)"""
"""Owners that are not registered."""


@dataclass(frozen=True, slots=True)
class WorkQueries:
    """The statements on ``wfes_work`` for some workflows.

    Attributes:
        workflows: the names, which are the first parameters of each statement.
        next_due: when the first instance that nobody owns may be claimed.
        runnable: ids of those that may be claimed at a moment, longest due first.
        owned: ids of those a worker owns.
    """

    workflows: tuple[str, ...]
    next_due: str
    runnable: str
    owned: str

    @classmethod
    def of(cls, workflows: Sequence[str]) -> WorkQueries:
        """The statements for these workflows."""
        known = f"workflow IN ({', '.join('?' * len(workflows))})"
        free = f"{known} AND worker IS NULL AND runnable_at"
        return cls(
            tuple(workflows),
            f"SELECT runnable_at FROM wfes_work WHERE {free} IS NOT NULL ORDER BY runnable_at LIMIT 1",
            f"SELECT id FROM wfes_work WHERE {free} <= ? ORDER BY runnable_at LIMIT ?",
            f"SELECT id FROM wfes_work WHERE {known} AND worker = ? LIMIT ?",
        )

    def due(self, read: Read) -> int | None:
        """When the first unowned instance is due, in microseconds; None: none is."""
        rows = read(self.next_due, self.workflows)
        return int(rows[0][0]) if rows else None


@dataclass(slots=True)
class Claimed:
    """What a claim took.

    Attributes:
        histories: the whole history of each instance claimed, the claim included.
        more: there is probably more to claim at once.
        progressed: something was claimed or ended.
        next_due: when the first instance that nobody owns is due, in microseconds.
        cleared: dead workers that own nothing any more.
    """

    histories: list[list[e.Recorded]] = field(default_factory=list[list[e.Recorded]])
    more: bool = False
    progressed: bool = False
    next_due: int | None = None
    cleared: list[str] = field(default_factory=list[str])


class ClaimRunnable:
    """Claims what dead workers own, then what nobody owns and is runnable."""

    def __init__(
        self,
        worker: str,
        codes: Mapping[str, Json],
        queries: WorkQueries,
        limit: int,
        dead: Sequence[str],
        done: Callable[[Claimed], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Makes the member.

        Args:
            worker: who claims.
            codes: by workflow, what it runs.
            queries: the statements for these workflows.
            limit: how many instances there is room for.
            dead: workers that are dead.
            done: gets what was claimed, on the event loop's thread.
            failed: gets the error, on the event loop's thread.
        """
        self._worker = worker
        self._codes = codes
        self._queries = queries
        self._limit = min(limit, CLAIMS_MAX)
        self._dead = dead
        self.done = done
        self.failed = failed

    def run(self, tx: Tx) -> Claimed:
        claimed = Claimed()
        budget = _Budget(self._limit)
        for dead in self._dead:
            self._take_over(tx, dead, budget, claimed)
        if budget.left:
            wanted = budget.left
            rows = tx.query(self._queries.runnable, (*self._queries.workflows, tx.now, wanted))
            if self._take(tx, rows, None, budget, claimed) or len(rows) == wanted:
                claimed.more = True
        else:
            claimed.more = True
        claimed.next_due = self._queries.due(tx.query)
        return claimed

    def _take_over(self, tx: Tx, dead: str, budget: _Budget, claimed: Claimed) -> None:
        wanted = min(budget.left, TAKEOVERS_MAX)
        if wanted:
            rows = tx.query(self._queries.owned, (*self._queries.workflows, dead, wanted))
            if self._take(tx, rows, dead, budget, claimed) or len(rows) == wanted:
                claimed.more = True
        if not tx.query("SELECT 1 FROM wfes_work WHERE worker = ? LIMIT 1", (dead,)):
            if tx.query("SELECT 1 FROM wfes_workers WHERE id = ?", (dead,)):
                tx.query(leases.DELETE, (dead,))
            claimed.cleared.append(dead)

    def _take(
        self, tx: Tx, rows: Sequence[Row], dead: str | None, budget: _Budget, claimed: Claimed
    ) -> bool:
        """Claims these instances; True if it stopped before the last one."""
        for (id,) in rows:
            if not budget.left:
                return True
            state = tx.state(id)
            if state is None:
                continue
            command = Claim(worker=self._worker, code=self._codes[state.workflow], dead=dead)
            decision = decide(state, command, tx.now)
            # Claim is never refused: it gives no event where there is nothing to claim.
            if not isinstance(decision, list) or not decision:
                continue
            tx.append(id, decision)
            claimed.progressed = True
            if isinstance(decision[-1], e.RunClaimed):
                history = tx.history(id)
                claimed.histories.append(history)
                budget.spend(len(history))
        return False


class _Budget:
    """How many more instances a batch may claim."""

    def __init__(self, instances: int) -> None:
        self.left = instances
        self._events = EVENTS_MAX

    def spend(self, events: int) -> None:
        """Takes one instance with a history of so many events off."""
        self._events -= events
        self.left = self.left - 1 if self._events > 0 else 0


class Rows:
    """A member that runs statements on operational rows."""

    def __init__(
        self,
        statements: Sequence[tuple[str, Sequence[object]]],
        done: Callable[[None], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Makes the member of statements and their parameters."""
        self._statements = statements
        self.done = done
        self.failed = failed

    def run(self, tx: Tx) -> None:
        for sql, params in self._statements:
            tx.query(sql, params)
