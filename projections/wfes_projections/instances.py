"""``wfes_instances``: every instance with what one looks for it by, and ``wfes_instance_tags``: their tags.

What one asks for by itself, and the common pairs, have an index that begins with it and goes on with the place in the
list. There is none of ``(workflow, created_at)`` or ``(conversation, created_at)``: statuses are few, so the ranges of
all statuses in the index that has the status too are merged, and the writer is spared an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from wfes.core.state import InstanceState, Status
from wfes_projections import counts
from wfes_projections.paging import Condition, Index, Listing, Place, Span, count, estimate, one_of, page
from wfes_projections.query import Read, Row, check_limit

_COLUMNS = "id, workflow, key, status, created_at, updated_at, parent, conversation, tags"
_HAS_TAG = """EXISTS (SELECT 1 FROM wfes_instance_tags AS t
    WHERE t.tag = ? AND t.created_at = r.created_at AND t.id = r.id)"""


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
    """What to look for; None: anything. ``tags``: all of these. Times in microseconds: at or after, before."""

    workflow: str | None = None
    statuses: Sequence[str] | None = None
    key: str | None = None
    tags: Sequence[str] = ()
    conversation: str | None = None
    parent: str | None = None
    created_after: int | None = None
    created_before: int | None = None

    def conditions(self) -> list[Condition]:
        """What must hold of a row, apart from its moment."""
        found = [
            one_of(column, value)
            for column, value in (
                ("workflow", self.workflow),
                ("key", self.key),
                ("conversation", self.conversation),
                ("parent", self.parent),
            )
            if value is not None
        ]
        if self.statuses is not None:
            found.append(one_of("status", *dict.fromkeys(map(str, self.statuses))))
        found.extend(Condition("tag", (tag,), _HAS_TAG) for tag in dict.fromkeys(self.tags))
        return found


class Instances:
    """The projection: one row an instance, for ever."""

    name = "wfes_instances"
    version = 2
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
        "CREATE INDEX IF NOT EXISTS wfes_instances_status ON wfes_instances (status, created_at, id)",
        """CREATE INDEX IF NOT EXISTS wfes_instances_workflow_status
            ON wfes_instances (workflow, status, created_at, id)""",
        """CREATE INDEX IF NOT EXISTS wfes_instances_key ON wfes_instances (key, created_at, id)
            WHERE key IS NOT NULL""",
        """CREATE INDEX IF NOT EXISTS wfes_instances_workflow_key ON wfes_instances (workflow, key, created_at, id)
            WHERE key IS NOT NULL""",
        """CREATE INDEX IF NOT EXISTS wfes_instances_parent ON wfes_instances (parent, created_at, id)
            WHERE parent IS NOT NULL""",
        """CREATE INDEX IF NOT EXISTS wfes_instances_conversation_status
            ON wfes_instances (conversation, status, created_at, id) WHERE conversation IS NOT NULL""",
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


class InstanceTags:
    """The projection: one row an instance's tag, for ever."""

    name = "wfes_instance_tags"
    version = 1
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_instance_tags (
            tag TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            id TEXT NOT NULL,
            PRIMARY KEY (tag, created_at, id)
        )""",
    )
    upsert = "INSERT INTO wfes_instance_tags (tag, created_at, id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    delete = "DELETE FROM wfes_instance_tags WHERE tag = ? AND created_at = ? AND id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        if not state.tags:
            return {}
        return {(tag, state.created_at, state.id): (tag, state.created_at, state.id) for tag in state.tags}


LISTING = Listing(
    table="wfes_instances",
    moment="created_at",
    columns=("workflow", "key", "status", "updated_at", "parent", "conversation", "tags"),
    indexes=(
        Index(),
        Index(("status",)),
        Index(("workflow", "status")),
        Index(("key",)),
        Index(("workflow", "key")),
        Index(("parent",)),
        Index(("conversation", "status")),
        Index(("tag",), beside="wfes_instance_tags"),
    ),
    domains={"status": tuple(status.value for status in Status)},
)


def find(
    read: Read,
    wanted: InstanceFilter,
    *,
    cursor: Place | None = None,
    newest: bool = True,
    limit: int = 100,
    bounded: bool = False,
) -> tuple[list[InstanceRecord], Place | None]:
    """A page, and the place behind which the next one begins; None: there is no next one.

    Args:
        read: reads the rows.
        wanted: what to look for.
        cursor: the place that the page before gave.
        newest: newest first, else oldest first.
        limit: how many at most; there may be fewer, even none, before the end.
        bounded: whether the database needs each of several ranges bounded, as `Drive.page` has it; PostgreSQL does,
            SQLite merges them.

    Raises:
        ValueError: the limit is out of bounds.
    """
    span = Span(after=wanted.created_after, before=wanted.created_before, newest=newest, cursor=cursor)
    rows, behind = page(read, LISTING, wanted.conditions(), span, check_limit(limit), bounded=bounded)
    return [_record(row) for row in rows], behind


def total(read: Read, wanted: InstanceFilter, *, exact: bool) -> tuple[int, bool]:
    """How many instances there are like that, and whether the number is exact.

    It is exact and costs nothing for a workflow, statuses, both or neither. Otherwise it costs a bounded time and may
    be an estimate, unless ``exact`` asks for counting.
    """
    conditions, span = wanted.conditions(), Span(after=wanted.created_after, before=wanted.created_before)
    timeless = span.after is None and span.before is None
    if timeless and all(given.column in ("workflow", "status") for given in conditions):
        return counts.total(read, wanted.workflow, wanted.statuses), True
    if exact:
        return count(read, LISTING, conditions, span), True
    return estimate(read, LISTING, conditions, span)


def _record(row: Row) -> InstanceRecord:
    created_at, id, workflow, key, status, updated_at, parent, conversation, tags = row
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
