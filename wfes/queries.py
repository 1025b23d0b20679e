"""Lists of instances and of open requests, page by page, from the inline projections' rows.

A page reflects one position of the log and says which; its items and its total are read in one snapshot. A cursor is
opaque: it names the place up to which the page before has everything, and the query it belongs to, so that it stays
right while rows come and go and cannot be used with other filters.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeVar, cast

import orjson

from wfes.calls import checked_statuses, checked_tags
from wfes.concurrency import held_reason
from wfes.core.ids import flaw
from wfes.core.state import Status
from wfes.definition import Workflow
from wfes.instance import Instance
from wfes.log.port import Log, Snapshot
from wfes.validation import is_a, shown
from wfes.views import DataRequest, InstanceCounts, InstanceRow, Page, micros_of, moment

T = TypeVar("T")

LIMIT_MAX = 1_000
Total = Literal["estimate", "exact"]
"""How a list's total is found: `"exact"` counts, however long that takes."""

_MOMENT_BITS = 63

# The projections are imported inside the methods: they import the packages below the engine, so a program that
# imports them first would meet itself half loaded.


class Lists:
    """Runs the lists' queries on one log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def _read(self, read: Callable[[Snapshot], T]) -> T:
        def run() -> T:
            with self._log.snapshot() as snapshot:
                return read(snapshot)

        return await asyncio.to_thread(run)

    async def counts(self, workflow: Workflow[Any, Any] | str | None) -> InstanceCounts:
        """Counts, as `Engine.counts` documents them."""
        from wfes_projections import counts as projection

        name = name_of(workflow)

        def read(snapshot: Snapshot) -> InstanceCounts:
            found: dict[str, dict[Status, int]] = {}
            for its_workflow, status, number in projection.counts(snapshot.query, name):
                found.setdefault(its_workflow, {})[Status(status)] = number
            return InstanceCounts(found, snapshot.position)

        return await self._read(read)

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
        total: Total | None,
    ) -> Page[InstanceRow]:
        """A page of instances, as `Engine.instances` documents it."""
        from wfes_projections import instances as projection
        from wfes_projections import slots

        if order not in ("newest", "oldest"):
            raise ValueError(f"order is {order!r}; it must be 'newest' or 'oldest'")
        checked_limit(limit)
        checked_total(total)
        filters: dict[str, Any] = {
            "workflow": name_of(workflow),
            "statuses": None if status is None else sorted(checked_statuses(status)),
            "key": checked_text(key, "key"),
            "tags": sorted(checked_tags(tags)),
            "conversation": checked_text(conversation, "conversation"),
            "parent": _id_of(parent, "parent"),
            "created_after": None if created_after is None else micros_of(created_after, "created_after"),
            "created_before": None if created_before is None else micros_of(created_before, "created_before"),
        }
        newest = order == "newest"
        # SQLite merges several ranges as they are ordered; PostgreSQL sorts all of their rows, unless each is bounded.
        bounded = self._log.dialect != "sqlite"
        cursors = _Cursors("instances", {**filters, "newest": newest})
        place = cursors.read(cursor)
        wanted = projection.InstanceFilter(**filters)

        def read(snapshot: Snapshot) -> Page[InstanceRow]:
            found, behind = projection.find(
                snapshot.query, wanted, cursor=place, newest=newest, limit=limit, bounded=bounded
            )
            pending = [row.id for row in found if row.status == Status.PENDING]
            reasons = {id: held_reason(*why) for id, why in slots.held(snapshot.query, pending).items()}
            items = [
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
                    reason=reasons.get(row.id),
                )
                for row in found
            ]
            count = total and partial(projection.total, snapshot.query, wanted, exact=total == "exact")
            return _page(items, cursors, place, behind, snapshot.position, count)

        return await self._read(read)

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
        total: Total | None,
    ) -> Page[DataRequest]:
        """A page of open requests, as `Engine.requests` documents it; `now` in microseconds."""
        from wfes_projections import requests as projection

        checked_limit(limit)
        checked_total(total)
        filters: dict[str, Any] = {
            "workflow": name_of(workflow),
            "conversation": checked_text(conversation, "conversation"),
            "instance": _id_of(instance, "instance"),
            "name": checked_text(name, "name"),
        }
        cursors = _Cursors("requests", filters)
        place = cursors.read(cursor)
        wanted = projection.RequestFilter(**filters, now=now)

        def read(snapshot: Snapshot) -> Page[DataRequest]:
            found, behind = projection.find(snapshot.query, wanted, cursor=place, limit=limit)
            items = [
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
                for row in found
            ]
            count = total and partial(projection.total, snapshot.query, wanted, exact=total == "exact")
            return _page(items, cursors, place, behind, snapshot.position, count)

        return await self._read(read)


def _page(
    items: list[T],
    cursors: _Cursors,
    before: tuple[int, str] | None,
    behind: tuple[int, str] | None,
    position: int,
    count: Callable[[], tuple[int, bool]] | None,
) -> Page[T]:
    """A page between two places, None where the list begins and ends; `count` gives its total and its exactness."""
    cursor = None if behind is None else cursors.made(*behind)
    if count is None:
        return Page(items, cursor, position)
    if before is None and behind is None:
        return Page(items, cursor, position, len(items), True)
    number, exact = count()
    return Page(items, cursor, position, number if exact else max(number, len(items)), exact)


class _Cursors:
    """The cursors of one query: a place, as moment and id, and a digest of what the query filters by."""

    def __init__(self, what: str, filters: dict[str, Any]) -> None:
        told = orjson.dumps([what, filters], option=orjson.OPT_SORT_KEYS)
        self._digest = hashlib.sha256(told).hexdigest()[:12]

    def made(self, at: int, id: str) -> str:
        """The cursor behind a place."""
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
            if type(at) is not int or at.bit_length() > _MOMENT_BITS or not isinstance(id, str):
                raise ValueError("no place")
        except (ValueError, TypeError):
            raise ValueError(
                f"cursor is {shown(cursor)}, which no page gave; pass a page's .cursor"
            ) from None
        if given != self._digest:
            raise ValueError(
                f"cursor is {shown(cursor)}, which belongs to a query with other filters or order"
            )
        return at, id


def checked_limit(limit: object) -> None:
    """Raises `TypeError` or `ValueError` where a page cannot be that long."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit is {shown(limit)}; it must be a whole number")
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit is {limit!r}; it must be 1 to {LIMIT_MAX}; further pages come with cursor=")


def checked_total(total: object) -> None:
    """Raises `ValueError` where a total cannot be found that way."""
    if total not in ("estimate", "exact", None):
        raise ValueError(f"total is {shown(total)}; it must be 'estimate', 'exact' or None")


def checked_text(value: object, what: str) -> str | None:
    """`value`, if it is a text or None.

    Raises:
        TypeError: It is something else.
        ValueError: It can be in no log.
    """
    if value is None or isinstance(value, str):
        return _findable(value, what)
    raise TypeError(f"{what} is {shown(value)}; it must be a str")


def _findable(value: str | None, what: str) -> str | None:
    if value is not None and (found := flaw(value)) is not None:
        raise ValueError(f"{what} is {shown(value)}; it must not hold {found}")
    return value


def _id_of(instance: object, what: str) -> str | None:
    if is_a(instance, Instance):
        return cast("Instance[Any]", instance).id
    if instance is None or isinstance(instance, str):
        return _findable(instance, what)
    raise TypeError(f"{what} is {shown(instance)}; it must be an Instance or an instance's id")


def name_of(workflow: object) -> str | None:
    """A workflow's name, given as itself or as its name.

    Raises:
        TypeError: It is neither.
        ValueError: It can be in no log.
    """
    if workflow is None or isinstance(workflow, str):
        return _findable(workflow, "workflow")
    if is_a(workflow, Workflow):
        return cast("Workflow[Any, Any]", workflow).name
    raise TypeError(f"workflow is {shown(workflow)}; it must be a Workflow or a workflow's name")
