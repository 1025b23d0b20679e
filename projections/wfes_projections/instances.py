"""``wfes_instances``: every instance with what one looks for it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from wfes.core.state import InstanceState
from wfes_projections.query import Conditions, Row, check_limit

_COLUMNS = "id, workflow, key, status, created_at, updated_at, parent, conversation, tags"


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One row: times in microseconds; ``updated_at`` is when the status last changed."""

    id: str
    workflow: str
    key: str | None
    status: str
    created_at: int
    updated_at: int
    parent: str | None
    conversation: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFilter:
    """What to look for; None: anything. ``tags``: all of these. Times in microseconds: at or after, before.

    ``cursor``: creation time and id of the last row of the page before. ``newest``: newest first, else oldest first.
    """

    workflow: str | None = None
    statuses: Sequence[str] | None = None
    key: str | None = None
    tags: Sequence[str] = ()
    conversation: str | None = None
    parent: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    cursor: tuple[int, str] | None = None
    newest: bool = True
    limit: int = 100


class Instances:
    """The projection: one row an instance, for ever."""

    name = "wfes_instances"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_instances (
            id TEXT PRIMARY KEY NOT NULL,
            workflow TEXT NOT NULL,
            key TEXT,
            status TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            updated_at BIGINT NOT NULL,
            parent TEXT,
            conversation TEXT,
            tags TEXT
        )""",
        "CREATE INDEX IF NOT EXISTS wfes_instances_created ON wfes_instances (created_at, id)",
        "CREATE INDEX IF NOT EXISTS wfes_instances_status ON wfes_instances (workflow, status, created_at, id)",
        "CREATE INDEX IF NOT EXISTS wfes_instances_key ON wfes_instances (key) WHERE key IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS wfes_instances_parent ON wfes_instances (parent) WHERE parent IS NOT NULL",
        """CREATE INDEX IF NOT EXISTS wfes_instances_conversation ON wfes_instances (conversation)
            WHERE conversation IS NOT NULL""",
    )
    upsert = f"""INSERT INTO wfes_instances ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at"""
    delete = "DELETE FROM wfes_instances WHERE id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        tags = orjson.dumps(state.tags).decode() if state.tags else None
        return {
            (state.id,): (
                state.id,
                state.workflow,
                state.key,
                state.status.value,
                state.created_at,
                state.status_since,
                state.parent,
                state.conversation,
                tags,
            )
        }


def select(wanted: InstanceFilter) -> tuple[str, list[object]]:
    """The query for a page, for ``Log.read_at``; ``record`` makes its rows readable.

    It asks for one row more than ``limit``, which tells whether there is another page.

    Raises:
        ValueError: the limit is out of bounds.
    """
    where = Conditions()
    for column, value in (
        ("workflow", wanted.workflow),
        ("key", wanted.key),
        ("conversation", wanted.conversation),
        ("parent", wanted.parent),
    ):
        if value is not None:
            where.add(f"{column} = ?", value)
    if wanted.statuses is not None:
        where.one_of("status", [str(status) for status in wanted.statuses])
    for tag in wanted.tags:
        where.add("EXISTS (SELECT 1 FROM json_each(wfes_instances.tags) WHERE value = ?)", tag)
    if wanted.created_after is not None:
        where.add("created_at >= ?", wanted.created_after)
    if wanted.created_before is not None:
        where.add("created_at < ?", wanted.created_before)
    if wanted.cursor is not None:
        where.add(f"(created_at, id) {'<' if wanted.newest else '>'} (?, ?)", *wanted.cursor)
    order = "DESC" if wanted.newest else "ASC"
    sql = f"SELECT {_COLUMNS} FROM wfes_instances {where} ORDER BY created_at {order}, id {order} LIMIT ?"
    return sql, [*where.params, check_limit(wanted.limit) + 1]


def record(row: Row) -> InstanceRecord:
    """A row that ``select`` found."""
    id, workflow, key, status, created_at, updated_at, parent, conversation, tags = row
    return InstanceRecord(
        id,
        workflow,
        key,
        status,
        created_at,
        updated_at,
        parent,
        conversation,
        tuple(orjson.loads(tags)) if tags else (),
    )
