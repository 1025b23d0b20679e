"""Making the rows of the engine's own inline event projections complete, before its writer starts.

One transaction over the whole log, with its write lock held: nobody sees half, and nobody appends meanwhile. What
users write is built beside the old rows instead, by the follower, for theirs may take long.
"""

from __future__ import annotations

from collections.abc import Sequence

from wfes.log.application import decode
from wfes.log.archived import whole_log
from wfes.log.port import Log
from wfes.log.rows import Target
from wfes.subscription import registry, tables
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent, Surroundings
from wfes.subscription.projection import Projection
from wfes.subscription.registry import Entry
from wfes.subscription.table import DIALECTS
from wfes.subscription.tables import Tables


def complete(log: Log, projections: Sequence[Projection], around: Surroundings, now: int) -> list[str]:
    """Makes the rows of projections that are missing, or of another version, from the whole log.

    To be called after ``bring_up`` and before the writer starts, which makes up for what only lags behind.

    Args:
        log: the open log.
        projections: inline ones of the engine's own.
        around: shows events.
        now: microseconds since the Unix epoch.

    Returns:
        The names of what was made.

    Raises:
        Exception: whatever a handler raises; nothing is done. The engine cannot work without these rows.
    """
    if not _stale(log.read, projections):
        return []
    target = log.begin()
    try:
        made: list[str] = []
        for projection in projections:
            entry = registry.find(target.query, projection.name)
            if entry is None or entry.version != projection.version:
                generation = 1 if entry is None else entry.generation + 1
                _make(log, target, projection, around, generation)
                new = Entry(
                    projection.name,
                    projection.version,
                    target.head,
                    updated_at=now,
                    generation=generation,
                )
                registry.put(target.query, new)
                made.append(projection.name)
        if made:
            target.commit()
    finally:
        target.rollback()
    return made


def _stale(query: registry.Query, projections: Sequence[Projection]) -> bool:
    versions = {entry.name: entry.version for entry in registry.entries(query)}
    return any(versions.get(projection.name) != projection.version for projection in projections)


def _make(log: Log, target: Target, projection: Projection, around: Surroundings, generation: int) -> None:
    for row in projection.tables:
        target.query(f"DROP TABLE IF EXISTS {row.table.name}")
        for sql in row.table.create(DIALECTS[log.dialect], label=f"_{generation}"):
            target.query(sql)
        registry.own(target.query, row.table.name, projection.name)
    reading = Tables()
    reading.query = target.query
    rows = Rows(projection.tables, reading, empty=True)
    for stored in whole_log(log, topics=projection.topics, lenient=True):
        rows.begin()
        projection.handle(ProjectionEvent(decode(stored), around), rows)
    tables.write(rows, target.executemany)
