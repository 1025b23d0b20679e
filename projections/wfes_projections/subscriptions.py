"""``wfes_subscriptions``: which workflows a published event starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfes.core.events import WorkflowDefined
from wfes.core.state import InstanceState
from wfes_projections.query import Read, Row


class Subscriptions:
    """The projection: one row an event name in the newest definition of a workflow."""

    name = "wfes_subscriptions"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_subscriptions (
            event TEXT NOT NULL,
            workflow TEXT NOT NULL,
            deadline BIGINT,
            PRIMARY KEY (event, workflow)
        )""",
        "CREATE INDEX IF NOT EXISTS wfes_subscriptions_workflow ON wfes_subscriptions (workflow)",
    )
    upsert = """INSERT INTO wfes_subscriptions (event, workflow, deadline) VALUES (?, ?, ?)
        ON CONFLICT (event, workflow) DO UPDATE SET deadline = excluded.deadline"""
    delete = "DELETE FROM wfes_subscriptions WHERE event = ? AND workflow = ?"
    forget = "DELETE FROM wfes_subscriptions WHERE workflow = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {}

    def defined(self, event: WorkflowDefined) -> Sequence[Row]:
        return [(name, event.workflow, event.deadline) for name in dict.fromkeys(event.on)]


STARTED_BY = "SELECT workflow, deadline FROM wfes_subscriptions WHERE event = ? ORDER BY workflow"


def started_by(read: Read, event: str) -> list[tuple[str, int | None]]:
    """The workflows that the event starts, each with the bound on its instances' life in microseconds."""
    return [(row[0], row[1]) for row in read(STARTED_BY, (event,))]
