"""``wfes_waiters``: which instances wait for the end of which."""

from __future__ import annotations

from collections.abc import Mapping

from wfes.core.state import InstanceState
from wfes_projections.query import Read, Row


class Waiters:
    """The projection: one row an open wait for a child or another instance that has not ended yet."""

    name = "wfes_waiters"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_waiters (
            target TEXT NOT NULL,
            waiter TEXT NOT NULL,
            path TEXT NOT NULL,
            PRIMARY KEY (target, waiter, path)
        )""",
    )
    upsert = "INSERT INTO wfes_waiters (target, waiter, path) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    delete = "DELETE FROM wfes_waiters WHERE target = ? AND waiter = ? AND path = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {
            (wait.target, state.id, path): (wait.target, state.id, path)
            for path, wait in state.waits.items()
            if wait.kind in _KINDS and not wait.ready
        }


_KINDS = frozenset({"child", "workflow"})

OF = "SELECT waiter, path FROM wfes_waiters WHERE target = ? ORDER BY waiter, path"


def waiters(read: Read, target: str) -> list[tuple[str, str]]:
    """Instance and path of every wait for the end of ``target``."""
    return [(row[0], row[1]) for row in read(OF, (target,))]
