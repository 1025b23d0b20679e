"""``wfes_requests``: the data requests that are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from wfes.core.state import InstanceState
from wfes_projections.query import Conditions, Read, Row, check_limit

_COLUMNS = "id, instance, workflow, name, message, schema, path, until, since, conversation"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One row: times in microseconds; ``schema`` is a JSON Schema or None."""

    id: str
    instance: str
    workflow: str
    name: str
    message: str | None
    schema: Any
    path: str
    until: int | None
    since: int
    conversation: str | None


class Requests:
    """The projection: one row an open, unanswered request."""

    name = "wfes_requests"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_requests (
            id TEXT PRIMARY KEY NOT NULL,
            instance TEXT NOT NULL,
            workflow TEXT NOT NULL,
            name TEXT NOT NULL,
            message TEXT,
            schema TEXT,
            path TEXT NOT NULL,
            until BIGINT,
            since BIGINT NOT NULL,
            conversation TEXT
        )""",
        "CREATE INDEX IF NOT EXISTS wfes_requests_instance ON wfes_requests (instance)",
        "CREATE INDEX IF NOT EXISTS wfes_requests_since ON wfes_requests (since, id)",
    )
    upsert = f"""INSERT INTO wfes_requests ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET until = excluded.until"""
    delete = "DELETE FROM wfes_requests WHERE id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        return {
            (wait.target,): (
                wait.target,
                state.id,
                state.workflow,
                wait.name,
                wait.message,
                None if wait.schema is None else orjson.dumps(wait.schema).decode(),
                path,
                wait.until,
                wait.since,
                state.conversation,
            )
            for path, wait in state.waits.items()
            if wait.kind == "request" and not wait.ready
        }


def select(
    *,
    workflow: str | None = None,
    conversation: str | None = None,
    instance: str | None = None,
    name: str | None = None,
    now: int | None = None,
    cursor: tuple[int, str] | None = None,
    limit: int = 100,
) -> tuple[str, list[object]]:
    """The query for a page of open requests, longest open first, for ``Log.read_at``; ``record`` reads its rows.

    ``now`` (microseconds) leaves out those whose time is over. It asks for one row more than ``limit``, which tells
    whether there is another page.

    Raises:
        ValueError: the limit is out of bounds.
    """
    where = Conditions()
    for column, value in (
        ("workflow", workflow),
        ("conversation", conversation),
        ("instance", instance),
        ("name", name),
    ):
        if value is not None:
            where.add(f"{column} = ?", value)
    if now is not None:
        where.add("(until IS NULL OR until > ?)", now)
    if cursor is not None:
        where.add("(since, id) > (?, ?)", *cursor)
    sql = f"SELECT {_COLUMNS} FROM wfes_requests {where} ORDER BY since, id LIMIT ?"
    return sql, [*where.params, check_limit(limit) + 1]


def get(read: Read, id: str) -> RequestRecord | None:
    """An open request by its id."""
    found = read(f"SELECT {_COLUMNS} FROM wfes_requests WHERE id = ?", (id,))
    return record(found[0]) if found else None


def record(row: Row) -> RequestRecord:
    """A row that ``select`` found."""
    id, instance, workflow, name, message, schema, *rest = row
    return RequestRecord(id, instance, workflow, name, message, schema and orjson.loads(schema), *rest)
