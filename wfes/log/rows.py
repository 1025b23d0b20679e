"""Inline rows: projections kept up to date inside the append's own transaction.

Rows of an instance are computed before and after a transaction's events, and the difference is written. Events in
``QUIET`` that leave the status alone change no row, so the rows of an instance that only runs steps are not even
computed. What a projection is says ``wfes.subscription``, which also makes its tables and rebuilds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from wfes.core import events as e
from wfes.core.state import InstanceState

if TYPE_CHECKING:
    from wfes.subscription.state import DefinitionProjection, StateProjection

Row = tuple[Any, ...]
QUIET: frozenset[type[e.Event]] = frozenset(
    {
        e.StepStarted,
        e.StepCompleted,
        e.StepAttemptFailed,
        e.StepFailed,
        e.StepCancelled,
        e.ResultReused,
        e.StateChanged,
        e.PatchDecided,
        e.ProgressRecorded,
        e.CallRecorded,
    }
)
"""Events that change no row of an instance as long as its status stays."""

OWNERSHIP: frozenset[type[e.Event]] = frozenset({e.RunClaimed, e.RunReleased})
"""Events that change rows of projections with a true attribute ``owned`` alone, as long as the status stays."""

OWN = "$"
"""What the engine's own streams begin with."""

Rows = tuple[Mapping[Row, Row], ...]
"""An instance's rows, one mapping a projection."""


_NONE: Mapping[Row, Row] = {}


class Target(Protocol):
    """Where rows are written: an open write transaction."""

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]: ...

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None: ...


class InlineRows:
    """Computes and writes the rows of a fixed set of projections."""

    def __init__(self, projections: Sequence[StateProjection]) -> None:
        self.projections = tuple(projections)
        self.nothing: Rows = tuple(_NONE for _ in self.projections)
        """The rows of an instance that does not exist."""
        defining: list[Any] = [given for given in self.projections if hasattr(given, "defined")]
        self._defining: list[DefinitionProjection] = defining
        self._owned = [
            (index, given) for index, given in enumerate(self.projections) if getattr(given, "owned", False)
        ]
        self._summing = {
            index for index, given in enumerate(self.projections) if getattr(given, "summed", False)
        }

    def rows(self, state: InstanceState) -> Rows:
        """The instance's rows."""
        # Most have none; one empty mapping for all keeps the garbage collector's rounds short.
        return tuple([projection.rows(state) or _NONE for projection in self.projections])

    def owned(self, state: InstanceState, before: Rows) -> Rows:
        """The instance's rows where nothing has changed since ``before`` but who owns it."""
        rows = list(before)
        for index, projection in self._owned:
            rows[index] = projection.rows(state) or _NONE
        return tuple(rows)

    def write(self, target: Target, changes: Iterable[tuple[Rows, Rows]]) -> None:
        """Writes the differences between the rows before and after, one statement a projection."""
        pairs = list(changes)
        for index, projection in enumerate(self.projections):
            if index in self._summing:
                _add_up(target, projection, [(before[index], after[index]) for before, after in pairs])
                continue
            gone: list[Row] = []
            new: list[Row] = []
            for before, after in pairs:
                old, now = before[index], after[index]
                if old is now or old == now:
                    continue
                if old:
                    gone.extend([key for key in old if key not in now])
                if now:
                    new.extend([row for key, row in now.items() if old.get(key) != row])
            if gone:
                target.executemany(projection.delete, gone)
            if new:
                target.executemany(projection.upsert, new)

    def define(self, target: Target, event: e.WorkflowDefined) -> None:
        """Replaces the rows of a workflow's definition."""
        for projection in self._defining:
            target.query(projection.forget, (event.workflow,))
            if rows := projection.defined(event):
                target.executemany(projection.upsert, rows)


def _add_up(
    target: Target, projection: StateProjection, pairs: Iterable[tuple[Mapping[Row, Row], Mapping[Row, Row]]]
) -> None:
    """Adds what changed to a projection's sums: one row a key, however many instances changed."""
    sums: dict[Row, list[int]] = {}

    def add(rows: Mapping[Row, Row], sign: int) -> None:
        for key, row in rows.items():
            numbers = row[len(key) :]
            found = sums.setdefault(key, [0] * len(numbers))
            for index, number in enumerate(numbers):
                found[index] += sign * number

    for before, after in pairs:
        if before != after:
            add(before, -1)
            add(after, 1)
    if added := [(*key, *numbers) for key, numbers in sums.items() if any(numbers)]:
        target.executemany(projection.upsert, added)
    if emptied := [key for key, numbers in sums.items() if min(numbers) < 0]:
        target.executemany(projection.delete, emptied)
