"""``wfes_forks``: which instances are forks of which.

The log says it in the fork's history; this is the same the other way round, so that an instance whose history is
archived knows its forks too, and nothing is written to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from wfes.core.state import InstanceState
from wfes_projections.query import Row


class Forks:
    """The projection: one row a fork, for ever."""

    name = "wfes_forks"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_forks (
            origin TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            fork TEXT NOT NULL,
            forked_at BIGINT NOT NULL,
            actor TEXT,
            PRIMARY KEY (origin, created_at, fork)
        )""",
    )
    upsert = """INSERT INTO wfes_forks (origin, created_at, fork, forked_at, actor) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO NOTHING"""
    delete = "DELETE FROM wfes_forks WHERE origin = ? AND created_at = ? AND fork = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        if state.forked_from is None or not state.forked_by:
            return {}
        actor = state.forked_by[0]
        key = (state.forked_from, state.created_at, state.id)
        return {key: (*key, state.forked_at, actor)}
