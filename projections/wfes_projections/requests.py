"""``wfes_requests``: the data requests that are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from wfes.core.state import InstanceState
from wfes_projections.paging import Condition, Index, Listing, Place, Span, count, estimate, one_of, page
from wfes_projections.query import Read, Row, check_limit

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
    version = 2
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
        "CREATE INDEX IF NOT EXISTS wfes_requests_since ON wfes_requests (since, id)",
        "CREATE INDEX IF NOT EXISTS wfes_requests_instance ON wfes_requests (instance, since, id)",
        "CREATE INDEX IF NOT EXISTS wfes_requests_workflow ON wfes_requests (workflow, since, id)",
        "CREATE INDEX IF NOT EXISTS wfes_requests_name ON wfes_requests (name, since, id)",
        """CREATE INDEX IF NOT EXISTS wfes_requests_conversation ON wfes_requests (conversation, since, id)
            WHERE conversation IS NOT NULL""",
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


LISTING = Listing(
    table="wfes_requests",
    moment="since",
    columns=("instance", "workflow", "name", "message", "schema", "path", "until", "conversation"),
    indexes=(Index(), Index(("instance",)), Index(("workflow",)), Index(("name",)), Index(("conversation",))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """What to look for; None: anything. ``now`` (microseconds) leaves out those whose time is over."""

    workflow: str | None = None
    conversation: str | None = None
    instance: str | None = None
    name: str | None = None
    now: int | None = None

    def conditions(self) -> list[Condition]:
        """What must hold of a row."""
        found = [
            one_of(column, value)
            for column, value in (
                ("workflow", self.workflow),
                ("conversation", self.conversation),
                ("instance", self.instance),
                ("name", self.name),
            )
            if value is not None
        ]
        if self.now is not None:
            found.append(Condition("", (self.now,), "(r.until IS NULL OR r.until > ?)"))
        return found


def find(
    read: Read, wanted: RequestFilter, *, cursor: Place | None = None, limit: int = 100
) -> tuple[list[RequestRecord], Place | None]:
    """A page, longest open first, and the place behind which the next one begins; None: there is no next one.

    Args:
        read: reads the rows.
        wanted: what to look for.
        cursor: the place that the page before gave.
        limit: how many at most; there may be fewer, even none, before the end.

    Raises:
        ValueError: the limit is out of bounds.
    """
    span = Span(newest=False, cursor=cursor)
    rows, behind = page(read, LISTING, wanted.conditions(), span, check_limit(limit))
    return [_record((*row[1:9], row[0], row[9])) for row in rows], behind


def total(read: Read, wanted: RequestFilter, *, exact: bool) -> tuple[int, bool]:
    """How many open requests there are like that, and whether the number is exact; else it is an estimate."""
    if exact:
        return count(read, LISTING, wanted.conditions(), Span()), True
    return estimate(read, LISTING, wanted.conditions(), Span())


def get(read: Read, id: str) -> RequestRecord | None:
    """An open request by its id."""
    found = read(f"SELECT {_COLUMNS} FROM wfes_requests WHERE id = ?", (id,))
    return _record(found[0]) if found else None


def _record(row: Row) -> RequestRecord:
    id, instance, workflow, name, message, schema, *rest = row
    return RequestRecord(id, instance, workflow, name, message, schema and orjson.loads(schema), *rest)
