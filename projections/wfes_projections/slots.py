"""Limited concurrency: who holds a slot, who stands in the queue for one, and what the limits are.

An instance has a part in this from the moment its history says what it counts by, so the tables are empty, and cost
nothing, where no workflow has a limit. ``wfes_slots`` has one row an instance that has not ended; ``wfes_slot_counts``
sums up by workflow, field and value how many hold a slot and how many stand in the queue, which makes "is there room,
and for whom" a look into an index, however many are queued and however many values there are; ``wfes_slot_totals``
sums up by workflow and field, which tells whether every unfinished instance counts by the field it should.
``wfes_limits`` is what the newest definitions say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfes.core.events import WorkflowDefined
from wfes.core.state import InstanceState
from wfes_projections.query import Read, Row


class Limits:
    """The projection: one row a workflow with a limit. ``by_field`` is empty where all its instances count together."""

    name = "wfes_limits"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_limits (
            workflow TEXT PRIMARY KEY NOT NULL,
            slots BIGINT NOT NULL,
            by_field TEXT NOT NULL
        )""",
    )
    upsert = """INSERT INTO wfes_limits (workflow, slots, by_field) VALUES (?, ?, ?)
        ON CONFLICT (workflow) DO UPDATE SET slots = excluded.slots, by_field = excluded.by_field"""
    delete = forget = "DELETE FROM wfes_limits WHERE workflow = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {}

    def defined(self, event: WorkflowDefined) -> Sequence[Row]:
        if event.concurrency is None:
            return []
        return [(event.workflow, event.concurrency, event.concurrency_key or "")]


class Slots:
    """The projection: one row an unfinished instance that counts for a limit.

    ``queued`` is 1 where it waits for a slot and 2 where it has a place in the queue, but is not in it yet: its time,
    ``since``, has not come, or it is not known what it counts as (``by_value`` is NULL). Else it is 0.
    """

    name = "wfes_slots"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_slots (
            id TEXT PRIMARY KEY NOT NULL,
            workflow TEXT NOT NULL,
            by_field TEXT NOT NULL,
            by_value TEXT,
            queued INTEGER NOT NULL,
            since BIGINT NOT NULL,
            place BIGINT NOT NULL
        )""",
        """CREATE INDEX IF NOT EXISTS wfes_slots_queue ON wfes_slots (workflow, by_field, by_value, since, place, id)
            WHERE queued > 0""",
    )
    upsert = """INSERT INTO wfes_slots (id, workflow, by_field, by_value, queued, since, place)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET by_field = excluded.by_field, by_value = excluded.by_value,
            queued = excluded.queued, since = excluded.since, place = excluded.place"""
    delete = "DELETE FROM wfes_slots WHERE id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        slot = state.slot
        if slot is None or state.ended is not None:
            return {}
        queued = 0 if slot.granted or state.paused or state.cancel else 1 if slot.queued else 2
        row = (state.id, state.workflow, slot.by, slot.value, queued, slot.since, slot.place)
        return {(state.id,): row}


class SlotCounts:
    """The projection: how many hold a slot and how many stand in the queue, by workflow, field and value."""

    name = "wfes_slot_counts"
    version = 1
    summed = True
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_slot_counts (
            workflow TEXT NOT NULL,
            by_field TEXT NOT NULL,
            by_value TEXT NOT NULL,
            held BIGINT NOT NULL,
            queued BIGINT NOT NULL,
            PRIMARY KEY (workflow, by_field, by_value)
        )""",
        """CREATE INDEX IF NOT EXISTS wfes_slot_counts_queued ON wfes_slot_counts (workflow, by_field, held, by_value)
            WHERE queued > 0""",
    )
    upsert = """INSERT INTO wfes_slot_counts (workflow, by_field, by_value, held, queued) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (workflow, by_field, by_value) DO UPDATE SET
            held = wfes_slot_counts.held + excluded.held, queued = wfes_slot_counts.queued + excluded.queued"""
    delete = """DELETE FROM wfes_slot_counts
        WHERE workflow = ? AND by_field = ? AND by_value = ? AND held = 0 AND queued = 0"""

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        slot = state.slot
        if slot is None or slot.value is None or state.ended is not None:
            return {}
        queued = int(state.is_held and not (state.paused or state.cancel))
        if not (slot.granted or queued):
            return {}
        key = (state.workflow, slot.by, slot.value)
        return {key: (*key, int(slot.granted), queued)}


class SlotTotals:
    """The projection: how many unfinished instances count by which field, by workflow."""

    name = "wfes_slot_totals"
    version = 1
    summed = True
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_slot_totals (
            workflow TEXT NOT NULL,
            by_field TEXT NOT NULL,
            instances BIGINT NOT NULL,
            PRIMARY KEY (workflow, by_field)
        )""",
    )
    upsert = """INSERT INTO wfes_slot_totals (workflow, by_field, instances) VALUES (?, ?, ?)
        ON CONFLICT (workflow, by_field) DO UPDATE SET instances = wfes_slot_totals.instances + excluded.instances"""
    delete = "DELETE FROM wfes_slot_totals WHERE workflow = ? AND by_field = ? AND instances = 0"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        slot = state.slot
        if slot is None or state.ended is not None:
            return {}
        key = (state.workflow, slot.by)
        return {key: (*key, 1)}


HELD = "SELECT id, by_field, by_value FROM wfes_slots WHERE queued = 1 AND id IN ({})"


def held(read: Read, ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Which of these instances wait for a slot: id to the field it counts by and its value of it, as JSON text."""
    if not ids:
        return {}
    found = read(HELD.format(", ".join("?" * len(ids))), tuple(ids))
    return {row[0]: (row[1], row[2]) for row in found}
