"""``wfes_listeners``: who waits for an event of which name."""

from __future__ import annotations

from collections.abc import Mapping

from wfes.core.state import InstanceState
from wfes_projections.query import Read, Row


class Listeners:
    """The projection: one row an open listener."""

    name = "wfes_listeners"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_listeners (
            instance TEXT NOT NULL,
            path TEXT NOT NULL,
            event TEXT NOT NULL,
            key TEXT,
            PRIMARY KEY (instance, path)
        )""",
        "CREATE INDEX IF NOT EXISTS wfes_listeners_event ON wfes_listeners (event, key)",
    )
    upsert = """INSERT INTO wfes_listeners (instance, path, event, key) VALUES (?, ?, ?, ?)
        ON CONFLICT (instance, path) DO UPDATE SET event = excluded.event"""
    delete = "DELETE FROM wfes_listeners WHERE instance = ? AND path = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {
            (state.id, path): (state.id, path, wait.name, state.key)
            for path, wait in state.waits.items()
            if wait.kind == "listen"
        }


LISTENING = "SELECT DISTINCT instance FROM wfes_listeners WHERE event = ? ORDER BY instance"
LISTENING_WITH_KEY = (
    "SELECT DISTINCT instance FROM wfes_listeners WHERE event = ? AND key = ? ORDER BY instance"
)


def listening(read: Read, event: str, key: str | None = None) -> list[str]:
    """Ids of the instances with an open listener for the event (with ``key``: only those of that key)."""
    found = read(LISTENING, (event,)) if key is None else read(LISTENING_WITH_KEY, (event, key))
    return [row[0] for row in found]
