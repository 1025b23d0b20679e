"""``wfes_schedules``: every schedule as its stream tells it, one row each.

Inline, for a tick is decided on this row inside the transaction that starts its instance: a stream with a year of
ticks need not be read for that. The next tick is not in the row: rules for daylight saving change with the machine's
time zone data, and a row must not remember an old answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wfes.core import schedules as core
from wfes.core.schedules import ScheduleState
from wfes.runtime.streams import SCHEDULE_PREFIX
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on
from wfes.subscription.table import Row
from wfes_projections.query import LIMIT_MAX, Conditions, check_limit


class ScheduleRecord(Row, table="wfes_schedules", key="name", indexes=[("workflow", "name")]):
    """A schedule: what lists ask for, and the whole state as ``wfes.core.schedules.to_json`` makes it."""

    name: str
    workflow: str
    paused: bool
    removed: bool
    state: dict[str, Any]


class Schedules(Projection):
    """The projection."""

    name = "wfes_schedules"
    version = 1
    tables = (ScheduleRecord,)
    inline = True

    @on(*sorted(event.topic for event in core.EVENTS))
    def changed(self, event: ProjectionEvent, rows: Rows) -> None:
        """The state moves on."""
        name = event.instance.removeprefix(SCHEDULE_PREFIX)
        row = rows.get(ScheduleRecord, name)
        state = ScheduleState(name) if row is None else core.from_json(row.state)
        core.evolve_schedule(state, event.event, event.version)
        rows.put(
            ScheduleRecord(
                name=name,
                workflow=state.definition.workflow,
                paused=state.paused,
                removed=state.removed,
                state=core.to_json(state),
            )
        )


def select(
    *,
    workflow: str | None = None,
    paused: bool | None = None,
    after: str | None = None,
    limit: int = LIMIT_MAX,
) -> tuple[str, Sequence[object]]:
    """The query for the states of schedules that are not removed, by name: one more than ``limit``, if there is one.

    Args:
        workflow: only of this workflow.
        paused: only paused ones, or only others.
        after: only those whose name sorts behind this.
        limit: how many.
    """
    conditions = Conditions()
    conditions.add("removed = 0")
    if workflow is not None:
        conditions.add("workflow = ?", workflow)
    if paused is not None:
        conditions.add("paused = ?", int(paused))
    if after is not None:
        conditions.add("name > ?", after)
    sql = f"SELECT state FROM wfes_schedules {conditions} ORDER BY name LIMIT {check_limit(limit) + 1}"
    return sql, conditions.params
