"""The projection protocol.

A *state projection* says, as a pure function of an instance's state, which rows that instance has in its tables. It
is run inline: the writer compares the rows before and after each commit's events and writes the difference in that
same transaction, so an ordinary step touches no row, and a rebuild is that function over every fold of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from wfes.core.events import WorkflowDefined
from wfes.core.state import InstanceState

Row = tuple[Any, ...]


class StateProjection(Protocol):
    """One table whose rows are a function of instances' states.

    Attributes:
        name: the projection's and its table's name.
        version: raised whenever ``rows`` or the table changes; another version is rebuilt.
        upsert: statement that writes one row; its parameters are the row.
        delete: statement that removes one row; its parameters are the row's key.
    """

    name: str
    version: int
    upsert: str
    delete: str

    @property
    def create(self) -> Sequence[str]:
        """The ``CREATE TABLE/INDEX IF NOT EXISTS`` statements, one each."""
        ...

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        """The instance's rows by key: key -> whole row. Pure and quick.

        Must not depend on what an ordinary step changes (``wfes.log.rows.QUIET``): version, time of the last event,
        steps, fields, progress. The status, the waits, ``runnable_at()`` and what follows from them are fine; the
        owner, and with it ``runnable_at()``, only in an `OwnerProjection`.
        """
        ...


class OwnerProjection(StateProjection, Protocol):
    """A state projection whose rows depend on who owns the instance.

    The rows of others are not computed again for a claim or a release that leaves the status as it is.

    Attributes:
        owned: True; tells it from others.
    """

    owned: bool


class SumProjection(StateProjection, Protocol):
    """A state projection whose table holds sums over all instances, not each one's rows.

    ``rows(state)`` is what an instance adds: key -> the key and a whole number, or several. The table has one row a key
    with the sum of these, and none where all are 0. A commit writes the sum of its changes, one row a key.

    Attributes:
        summed: True; tells it from others.
        upsert: adds to a sum; its parameters are the key and the numbers, which may be negative.
        delete: removes a row whose sums are 0; its parameters are the key.
    """

    summed: bool


@runtime_checkable
class DefinitionProjection(Protocol):
    """A state projection that also has rows for the definitions of workflows.

    Attributes:
        forget: statement that removes all rows of one workflow; its parameter is the workflow's name.
    """

    upsert: str
    forget: str

    def defined(self, event: WorkflowDefined) -> Sequence[Row]:
        """The rows of a workflow's newest definition; they replace all that it had."""
        ...
