"""What retention needs: which histories wait to be archived, which are, and how long each workflow's stay.

``wfes_ended`` has a row as long as an ended instance's events are in the log, ``wfes_archived`` from then on, and
``wfes_retention`` one for every workflow whose newest definition bounds the time between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfes.core.events import WorkflowDefined
from wfes.core.state import InstanceState
from wfes_projections.query import Row


class Ended:
    """The projection: one row an ended instance whose events are in the log, by workflow and end."""

    name = "wfes_ended"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_ended (
            workflow TEXT NOT NULL,
            ended_at BIGINT NOT NULL,
            id TEXT NOT NULL,
            PRIMARY KEY (workflow, ended_at, id)
        )""",
    )
    upsert = "INSERT INTO wfes_ended (workflow, ended_at, id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    delete = "DELETE FROM wfes_ended WHERE workflow = ? AND ended_at = ? AND id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        if state.ended is None or state.archived is not None:
            return {}
        row = (state.workflow, state.status_since, state.id)
        return {row: row}


class Archived:
    """The projection: one row an archived instance, with the positions its events had in the log."""

    name = "wfes_archived"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_archived (
            id TEXT PRIMARY KEY NOT NULL,
            file TEXT NOT NULL,
            first_position BIGINT NOT NULL,
            last_position BIGINT NOT NULL
        )""",
        "CREATE INDEX IF NOT EXISTS wfes_archived_last ON wfes_archived (last_position)",
    )
    upsert = """INSERT INTO wfes_archived (id, file, first_position, last_position) VALUES (?, ?, ?, ?)
        ON CONFLICT DO NOTHING"""
    delete = "DELETE FROM wfes_archived WHERE id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        if state.archived is None:
            return {}
        return {(state.id,): (state.id, state.archived[0], *state.archived_span)}


class Retentions:
    """The projection: one row a workflow with a retention, in microseconds."""

    name = "wfes_retention"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_retention (
            workflow TEXT PRIMARY KEY NOT NULL,
            retention BIGINT NOT NULL
        )""",
    )
    upsert = """INSERT INTO wfes_retention (workflow, retention) VALUES (?, ?)
        ON CONFLICT (workflow) DO UPDATE SET retention = excluded.retention"""
    delete = forget = "DELETE FROM wfes_retention WHERE workflow = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {}

    def defined(self, event: WorkflowDefined) -> Sequence[Row]:
        return [] if event.retention is None else [(event.workflow, event.retention)]
