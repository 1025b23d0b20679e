"""Admission: who gets a slot where a workflow's concurrency is limited.

An instance of such a workflow stands in the queue from its start (or its retry) until it is granted a slot, which it
holds until it ends. That is recorded, and everything else is read off what is recorded: who holds and who waits are
rows written with the events themselves, so nothing can leak, whoever dies when.

Invariants:

* A slot is granted only inside a write transaction that has counted who holds one, under the limit that the newest
  definition in the log says: all workers agree, and at most that many are held from then on. A limit that was lowered
  takes nothing away; nobody is admitted until it fits.
* First come first served among those that count together, by the moment of the start (of the delayed start's own
  moment); those that count apart do not wait for each other.
* Where the limit is new, or counts by another field than before, every unfinished instance is noted as what it counts
  as now, some in each transaction, before anybody else is admitted.
* Nothing here looks at more than it admits: the rows say which queues have room, and who is first in them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wfes.concurrency import slot_value
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.state import ACTIVE, InstanceState
from wfes.errors import WfesError
from wfes.log.port import Row, Tx
from wfes.runtime.values import Values

if TYPE_CHECKING:
    from wfes.definition import Workflow

_log = logging.getLogger("wfes")

Read = Callable[[str, Sequence[object]], list[Row]]
"""``Log.read`` or ``Tx.query``."""

ADMITTED_MAX = 500
"""Most slots that one transaction grants."""
SOUGHT_MAX = 200
"""Most instances that one transaction notes as what they count as now."""

_LIMITS = "SELECT workflow, slots, by_field FROM wfes_limits"
_DEFINED = frozenset({e.WorkflowDefined})
_QUEUES = """SELECT t.workflow, t.by_field, (
        SELECT 1 FROM wfes_slot_counts AS c
        WHERE c.workflow = t.workflow AND c.by_field = t.by_field AND c.queued > 0 LIMIT 1
    ), CASE WHEN l.by_field = t.by_field THEN (
        SELECT 1 FROM wfes_slot_counts AS c
        WHERE c.workflow = t.workflow AND c.by_field = t.by_field AND c.queued > 0 AND c.held < l.slots LIMIT 1
    ) ELSE 1 END
    FROM wfes_slot_totals AS t LEFT JOIN wfes_limits AS l ON l.workflow = t.workflow"""
_ROOM = """SELECT by_value, held FROM wfes_slot_counts
    WHERE workflow = ? AND by_field = ? AND queued > 0 AND held < ? ORDER BY held, by_value LIMIT ?"""
_HELD = "SELECT held FROM wfes_slot_counts WHERE workflow = ? AND by_field = ? AND by_value = ?"
_QUEUE = """SELECT id FROM wfes_slots
    WHERE workflow = ? AND by_field = ? AND by_value = ? AND queued > 0 AND since <= ?
    ORDER BY since, place, id LIMIT ?"""
_UNKNOWN = """SELECT id FROM wfes_slots
    WHERE workflow = ? AND by_field = ? AND by_value IS NULL AND queued > 0 AND since <= ? LIMIT ?"""
_RELEASED = """SELECT id FROM wfes_slots
    WHERE workflow = ? AND by_field = ? AND by_value IS NOT NULL AND queued > 0 AND since <= ? LIMIT ?"""
_UNSETTLED = f"""SELECT 1 WHERE
    (SELECT COALESCE(SUM(instances), 0) FROM wfes_instance_counts WHERE workflow = ?
        AND status IN ({", ".join(repr(str(status)) for status in sorted(ACTIVE))}))
    <> (SELECT COALESCE(SUM(instances), 0) FROM wfes_slot_totals WHERE workflow = ? AND by_field = ?)"""
_STRAYS = """SELECT work.id FROM wfes_work AS work
    LEFT JOIN wfes_slots AS slot ON slot.id = work.id AND slot.by_field = ?
    WHERE work.workflow = ? AND work.id > ? AND slot.id IS NULL ORDER BY work.id LIMIT ?"""


class Limit(NamedTuple):
    """So many slots, for each value of the input's field ``by``; empty: for all instances together."""

    slots: int
    by: str


def limit_of(tx: Tx, workflow: str) -> Limit | None:
    """The limit of a workflow by its newest definition, None where it has none; asked once a transaction."""
    for name, slots, by in tx.query(_LIMITS, shows=_DEFINED):
        if name == workflow:
            return Limit(slots, by)
    return None


def has_room(tx: Tx, workflow: str, limit: Limit, value: str) -> bool:
    """Whether an instance started now that counts as ``value`` may have a slot at once, nobody being before it."""
    by = limit.by
    held = tx.query(_HELD, (workflow, by, value))
    if held and held[0][0] >= limit.slots:
        return False
    # Who counts as what is not known yet stands before it, as far as anybody knows.
    if tx.query(_QUEUE, (workflow, by, value, tx.now, 1)) or tx.query(_UNKNOWN, (workflow, by, tx.now, 1)):
        return False
    return not _unsettled(tx, workflow, limit)


def _unsettled(tx: Tx, workflow: str, limit: Limit) -> bool:
    """Whether some unfinished instance does not count by the limit's field yet."""
    return bool(tx.query(_UNSETTLED, (workflow, workflow, limit.by)))


class Admission:
    """Admits the instances of some workflows.

    Args:
        workflows: by name; only their instances are admitted, by whoever can run them.
        values: opens inputs.
    """

    def __init__(self, workflows: Mapping[str, Workflow[Any, Any]], values: Values) -> None:
        self._workflows = workflows
        self._values = values
        self._swept: dict[str, str] = {}
        """By workflow: up to which id its instances were looked at. Forgotten with the process, and begun again."""

    # -- Looking -----------------------------------------------------------------------------------------------------

    def look(self, read: Read) -> tuple[bool, bool]:
        """Whether any instance of these workflows stands in a queue, and whether one of them can be admitted now."""
        queues = self._queues(read)
        return bool(queues), any(admits for _, _, admits in queues)

    def _queues(self, read: Read) -> list[tuple[str, str, bool]]:
        """Each of these workflows in whose queues somebody stands, with the field they count by, and whether there is
        anything to do about it: room, or a limit that is another one now."""
        return [
            (workflow, by, bool(admits))
            for workflow, by, queued, admits in read(_QUEUES, ())
            if queued and workflow in self._workflows
        ]

    # -- Admitting ---------------------------------------------------------------------------------------------------

    def admit(self, tx: Tx) -> bool:
        """Grants slots as far as there is room, to whoever is first; True if anything was appended."""
        before = tx.position
        for workflow, by, admits in self._queues(tx.query):
            if not admits:
                continue
            limit = limit_of(tx, workflow)
            if limit is None:
                self._grant(tx, tx.query(_RELEASED, (workflow, by, tx.now, ADMITTED_MAX)))
            elif _unsettled(tx, workflow, limit):
                self._sweep(tx, workflow, limit)
            elif self._known(tx, workflow, limit):
                self._fill(tx, workflow, limit)
        return tx.position != before

    def _known(self, tx: Tx, workflow: str, limit: Limit) -> bool:
        """Whether everybody in the queue is known by what it counts as; notes some of those that were not.

        Otherwise somebody who came later could be admitted before them.
        """
        rows = tx.query(_UNKNOWN, (workflow, limit.by, tx.now, SOUGHT_MAX))
        for (id,) in rows:
            state = tx.state(str(id))
            if state is not None:
                self._seek(tx, state, limit)
        return len(rows) < SOUGHT_MAX

    def _fill(self, tx: Tx, workflow: str, limit: Limit) -> None:
        first: list[Row] = []
        for value, held in tx.query(_ROOM, (workflow, limit.by, limit.slots, ADMITTED_MAX)):
            room = min(limit.slots - held, ADMITTED_MAX - len(first))
            if room <= 0:
                break
            first.extend(tx.query(_QUEUE, (workflow, limit.by, value, tx.now, room)))
        self._grant(tx, first)

    @staticmethod
    def _grant(tx: Tx, rows: Sequence[Row]) -> None:
        for (id,) in rows:
            tx.append(str(id), [e.SlotGranted(at=tx.now)])

    def _sweep(self, tx: Tx, workflow: str, limit: Limit) -> None:
        """Notes some of the instances that do not count by the limit's field as what they count as."""
        after = self._swept.pop(workflow, "")
        rows = tx.query(_STRAYS, (limit.by, workflow, after, SOUGHT_MAX))
        if not rows and after:
            rows = tx.query(_STRAYS, (limit.by, workflow, "", SOUGHT_MAX))
        for (id,) in rows:
            state = tx.state(str(id))
            if state is not None and not self._seek(tx, state, limit):
                return
        if rows:
            self._swept[workflow] = str(rows[-1][0])

    # -- What nobody has noted ---------------------------------------------------------------------------------------

    def passes(self, tx: Tx, state: InstanceState) -> bool:
        """Whether an instance that has not run since its start or retry may be claimed as far as limits go.

        Where not, it is put into the queue: its time has come, or what it counts as was not known at its start.
        """
        slot = state.slot
        if (slot is not None and slot.granted) or (state.deadline is not None and state.deadline <= tx.now):
            return True
        limit = limit_of(tx, state.workflow)
        if limit is not None:
            self._seek(tx, state, limit)
            # A cancellation of it needs no slot, so that is decided at once.
            return state.cancel > 0 and state.slot is not None
        if slot is not None:
            tx.append(state.id, [e.SlotGranted(at=tx.now)])
            return False
        return True

    def _seek(self, tx: Tx, state: InstanceState, limit: Limit) -> bool:
        """Notes an instance as what it counts as; False if that cannot be known now."""
        slot = state.slot
        value = None if slot is None or slot.by != limit.by else slot.value
        if value is None:
            value = self._value(state.workflow, state.input, limit.by)
        if value is None:
            return False
        if slot is None or not slot.queued or slot.by != limit.by or slot.value != value:
            tx.append(state.id, [e.SlotSought(at=tx.now, by=limit.by, value=value)])
        return True

    def _value(self, workflow: str, tree: Json, by: str) -> str | None:
        if not by:
            return ""
        definition = self._workflows[workflow]
        try:
            if not definition.has_input:
                return slot_value(None, by)
            return slot_value(self._values.open(tree, definition.input_type), by)
        except ValueError:
            return slot_value(
                None, by
            )  # It does not fit, so the handler will not run; it counts as one without.
        except WfesError as error:
            _log.warning("what an instance of workflow %r counts as cannot be known now: %s", workflow, error)
            return None
