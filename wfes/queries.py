"""Lists of instances and of open requests, page by page, from the inline projections' rows.

A page reflects one position of the log and says which. A cursor is opaque: it names the last item of the page before
and the query it belongs to, so that it stays right while rows come and go and cannot be used with other filters.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, cast

import orjson

from wfes.calls import checked_statuses, checked_tags
from wfes.core.state import Status
from wfes.definition import Workflow
from wfes.instance import Instance
from wfes.log.port import Log, Row
from wfes.validation import is_a, shown
from wfes.views import DataRequest, InstanceRow, Page, micros_of, moment

LIMIT_MAX = 1_000

# The projections are imported inside the methods: they import the packages below the engine, so a program that
# imports them first would meet itself half loaded.


class Lists:
    """Runs the lists' queries on one log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def _read(self, query: tuple[str, Sequence[object]]) -> tuple[list[Row], int]:
        return await asyncio.to_thread(self._log.read_at, *query)

    async def instances(
        self,
        *,
        workflow: Workflow[Any, Any] | str | None,
        status: Status | str | Iterable[Status | str] | None,
        key: str | None,
        tags: Iterable[str] | None,
        conversation: str | None,
        parent: Instance[Any] | str | None,
        created_after: datetime | None,
        created_before: datetime | None,
        limit: int,
        cursor: str | None,
        order: str,
    ) -> Page[InstanceRow]:
        """A page of instances, as `Engine.instances` documents it."""
        from wfes_projections import instances as projection

        if order not in ("newest", "oldest"):
            raise ValueError(f"order is {order!r}; it must be 'newest' or 'oldest'")
        checked_limit(limit)
        filters = {
            "workflow": name_of(workflow),
            "statuses": None if status is None else sorted(checked_statuses(status)),
            "key": key,
            "tags": checked_tags(tags),
            "conversation": conversation,
            "parent": parent.id if isinstance(parent, Instance) else parent,
            "created_after": None if created_after is None else micros_of(created_after, "created_after"),
            "created_before": None if created_before is None else micros_of(created_before, "created_before"),
            "newest": order == "newest",
        }
        cursors = _Cursors("instances", filters)
        wanted: Any = {**filters, "limit": limit, "cursor": cursors.read(cursor)}
        rows, position = await self._read(projection.select(projection.InstanceFilter(**wanted)))
        found = [projection.record(row) for row in rows]
        return Page(
            [
                InstanceRow(
                    id=row.id,
                    workflow=row.workflow,
                    key=row.key,
                    status=Status(row.status),
                    created_at=moment(row.created_at),
                    updated_at=moment(row.updated_at),
                    parent=row.parent,
                    conversation=row.conversation,
                    tags=row.tags,
                )
                for row in found[:limit]
            ],
            cursors.made(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None,
            position,
        )

    async def requests(
        self,
        *,
        workflow: Workflow[Any, Any] | str | None,
        conversation: str | None,
        instance: Instance[Any] | str | None,
        name: str | None,
        now: int,
        limit: int,
        cursor: str | None,
    ) -> Page[DataRequest]:
        """A page of open requests, as `Engine.requests` documents it; `now` in microseconds."""
        from wfes_projections import requests as projection

        checked_limit(limit)
        filters = {
            "workflow": name_of(workflow),
            "conversation": conversation,
            "instance": instance.id if isinstance(instance, Instance) else instance,
            "name": name,
        }
        cursors = _Cursors("requests", filters)
        wanted: Any = {**filters, "now": now, "limit": limit, "cursor": cursors.read(cursor)}
        rows, position = await self._read(projection.select(**wanted))
        found = [projection.record(row) for row in rows]
        return Page(
            [
                DataRequest(
                    id=row.id,
                    instance=row.instance,
                    workflow=row.workflow,
                    name=row.name,
                    message=row.message,
                    schema=row.schema,
                    step=row.path,
                    deadline=moment(row.until),
                    created_at=moment(row.since),
                    conversation=row.conversation,
                )
                for row in found[:limit]
            ],
            cursors.made(found[limit - 1].since, found[limit - 1].id) if len(found) > limit else None,
            position,
        )


class _Cursors:
    """The cursors of one query: the last item's moment and id, and a digest of what the query filters by."""

    def __init__(self, what: str, filters: dict[str, Any]) -> None:
        told = orjson.dumps([what, filters], option=orjson.OPT_SORT_KEYS)
        self._digest = hashlib.sha256(told).hexdigest()[:12]

    def made(self, at: int, id: str) -> str:
        """The cursor behind an item."""
        return urlsafe_b64encode(orjson.dumps([self._digest, at, id])).decode("ascii").rstrip("=")

    def read(self, cursor: object) -> tuple[int, str] | None:
        """The place a cursor names.

        Raises:
            ValueError: No page of this query gave it.
        """
        if cursor is None:
            return None
        try:
            if not isinstance(cursor, str):
                raise ValueError("no text")
            given, at, id = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except (ValueError, TypeError):
            raise ValueError(
                f"cursor is {shown(cursor)}, which no page gave; pass a page's .cursor"
            ) from None
        if given != self._digest:
            raise ValueError(
                f"cursor is {shown(cursor)}, which belongs to a query with other filters or order"
            )
        return int(at), str(id)


def checked_limit(limit: object) -> None:
    """Raises `TypeError` or `ValueError` where a page cannot be that long."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit is {shown(limit)}; it must be a whole number")
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit is {limit!r}; it must be 1 to {LIMIT_MAX}; further pages come with cursor=")


def name_of(workflow: object) -> str | None:
    """A workflow's name, given as itself or as its name.

    Raises:
        TypeError: It is neither.
    """
    if workflow is None or isinstance(workflow, str):
        return workflow
    if is_a(workflow, Workflow):
        return cast("Workflow[Any, Any]", workflow).name
    raise TypeError(f"workflow is {shown(workflow)}; it must be a Workflow or a workflow's name")
