"""``wfes_instance_counts``: how many instances each workflow has in each status, always at hand.

A sum kept inline: a commit adds what its instances changed. It counts what ``wfes_instances`` lists, in the same
transaction, so that both always agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfes.core.state import InstanceState
from wfes_projections.query import Conditions, Read, Row


class Counts:
    """The projection: one row a workflow and status that has any instance."""

    name = "wfes_instance_counts"
    version = 1
    summed = True
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_instance_counts (
            workflow TEXT NOT NULL,
            status TEXT NOT NULL,
            instances BIGINT NOT NULL,
            PRIMARY KEY (workflow, status)
        )""",
    )
    upsert = """INSERT INTO wfes_instance_counts (workflow, status, instances) VALUES (?, ?, ?)
        ON CONFLICT (workflow, status) DO UPDATE SET instances = wfes_instance_counts.instances + excluded.instances"""
    delete = "DELETE FROM wfes_instance_counts WHERE workflow = ? AND status = ? AND instances = 0"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        status = state.status.value
        return {(state.workflow, status): (state.workflow, status, 1)}


def counts(read: Read, workflow: str | None = None) -> list[tuple[str, str, int]]:
    """Workflow, status and how many instances, of all workflows or of one, in that order."""
    where = Conditions()
    if workflow is not None:
        where.add("workflow = ?", workflow)
    return read(
        f"SELECT workflow, status, instances FROM wfes_instance_counts {where} ORDER BY workflow, status",
        where.params,
    )


def total(read: Read, workflow: str | None = None, statuses: Sequence[str] | None = None) -> int:
    """How many instances there are, of one workflow or with one of these statuses, if so."""
    return sum(
        instances for _, status, instances in counts(read, workflow) if statuses is None or status in statuses
    )
