"""The table of projections, ``wfes_projections``: what each one's rows in this database are of.

One row a projection, beside its rows and changed in the same transactions; and one more, under the name with the
suffix `NEXT`, while its rows are built anew beside the live ones. ``wfes_projection_tables`` says which tables were
made for which of them, in the transactions that make, rename and drop them: no other table is ever replaced or dropped.

Invariants: ``position`` says that every event up to it is in the rows and none behind it; whoever writes rows first
looks whether position and generation are still those it built on, so that two processes never apply an event twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

CREATE = """CREATE TABLE IF NOT EXISTS wfes_projections (
    name TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    position BIGINT,
    status TEXT NOT NULL,
    error TEXT,
    error_position BIGINT,
    updated_at BIGINT NOT NULL,
    generation INTEGER NOT NULL
)"""

CREATE_TABLES = """CREATE TABLE IF NOT EXISTS wfes_projection_tables (
    name TEXT PRIMARY KEY NOT NULL,
    projection TEXT NOT NULL
)"""

LIVE = "live"
BUILDING = "building"
STOPPED = "stopped"

_COLUMNS = "name, version, position, status, error, error_position, updated_at, generation"
_SELECT = f"SELECT {_COLUMNS} FROM wfes_projections"
_PUT = f"""INSERT INTO wfes_projections ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = excluded.position,
        status = excluded.status, error = excluded.error, error_position = excluded.error_position,
        updated_at = excluded.updated_at, generation = excluded.generation"""
_NOTE = "UPDATE wfes_projections SET position = ?, updated_at = ? WHERE name = ?"
_REMOVE = "DELETE FROM wfes_projections WHERE name = ?"
_OWNER = "SELECT projection FROM wfes_projection_tables WHERE name = ?"
_OWNED = "SELECT name FROM wfes_projection_tables WHERE projection = ? ORDER BY name"
_OWN = """INSERT INTO wfes_projection_tables (name, projection) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET projection = excluded.projection"""
_DISOWN = "DELETE FROM wfes_projection_tables WHERE name = ?"

Query = Callable[[str, Sequence[object] | Mapping[str, object]], Sequence[tuple[Any, ...]]]
"""Runs one statement in a transaction or a snapshot."""
Many = Callable[[str, Sequence[Sequence[object]]], None]
"""Runs one statement for many rows in a transaction."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table.

    Attributes:
        name: the projection's, with the suffix `NEXT` for rows that are being built.
        version: of the projection whose handlers made the rows.
        position: the checkpoint; None for a state projection, whose rows are always those of the log's head.
        status: `LIVE`, `BUILDING` or `STOPPED`.
        error: why it is stopped.
        error_position: the event that it stopped at.
        updated_at: when this row was changed, in microseconds since the Unix epoch.
        generation: rises whenever the tables are made anew; indexes are named by it.
    """

    name: str
    version: int
    position: int | None = None
    status: str = LIVE
    error: str | None = None
    error_position: int | None = None
    updated_at: int = 0
    generation: int = 1


def find(query: Query, name: str) -> Entry | None:
    """The row of a name, if there is one."""
    found = query(f"{_SELECT} WHERE name = ?", (name,))
    return Entry(*found[0]) if found else None


def entries(query: Query) -> list[Entry]:
    """All rows, by name."""
    return [Entry(*row) for row in query(f"{_SELECT} ORDER BY name", ())]


def put(query: Query, entry: Entry) -> None:
    """Writes a row."""
    query(
        _PUT,
        (
            entry.name,
            entry.version,
            entry.position,
            entry.status,
            entry.error,
            entry.error_position,
            entry.updated_at,
            entry.generation,
        ),
    )


def note(many: Many, notes: Sequence[tuple[int, int, str]]) -> None:
    """Moves checkpoints: position, moment and name of each."""
    many(_NOTE, notes)


def moved(entry: Entry, position: int, now: int) -> Entry:
    """The row with another checkpoint."""
    return replace(entry, position=position, updated_at=now)


def stopped(entry: Entry, position: int, error: str, now: int) -> Entry:
    """The row of a projection that failed at this position: what was before it is in the rows."""
    return replace(
        entry,
        position=position - 1,
        status=STOPPED,
        error=error,
        error_position=position,
        updated_at=now,
    )


def remove(query: Query, name: str) -> None:
    """Removes the row of a name, if there is one."""
    query(_REMOVE, (name,))


def owner(query: Query, table: str) -> str | None:
    """The projection that a table was made for; None: none of them."""
    found = query(_OWNER, (table,))
    return found[0][0] if found else None


def owned(query: Query, name: str) -> list[str]:
    """The tables that were made for a projection, or, with the suffix `NEXT`, for its rows that are being built."""
    return [row[0] for row in query(_OWNED, (name,))]


def own(query: Query, table: str, name: str) -> None:
    """Notes that a table is one of a projection's."""
    query(_OWN, (table, name))


def disown(query: Query, table: str) -> None:
    """Notes that there is no such table any more."""
    query(_DISOWN, (table,))
