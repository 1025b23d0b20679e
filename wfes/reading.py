"""What an engine lets one read of its whole log: lists of instances and open requests, and the stream of events.

The reading half of `Engine`'s calls. Nothing here changes the log or runs user code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from typing import Any

from wfes.core.state import Status
from wfes.definition import Workflow
from wfes.instance import Instance
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.queries import Lists, Total
from wfes.runtime.values import Values
from wfes.stream import checked_position, checked_topics, recorded_events
from wfes.views import DataRequest, InstanceCounts, InstanceRow, Page, RecordedEvent


class Reading:
    """An engine's calls that read the whole log.

    Attributes:
        values: Where user values are opened.
    """

    values: Values
    _log: Log
    _parts: Parts
    _lists: Lists

    async def instances(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        status: Status | str | Iterable[Status | str] | None = None,
        key: str | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        parent: Instance[Any] | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        order: str = "newest",
        at_least: int | None = None,
        total: Total | None = "estimate",
    ) -> Page[InstanceRow]:
        """Instances, page by page; all filters given must hold.

        Every page comes in bounded time. A filter alone, or workflow with status, workflow with key, or conversation
        with status, each also within a span of time, fills its pages. Any other combination looks at a bounded number
        of instances and gives those that fit: its page may be shorter than `limit`, or empty, with a cursor that goes
        on. Only a cursor of None is the end.

        Pages stay right while instances come and go: what fits all along is seen exactly once.

        Args:
            workflow: Only of this workflow or name.
            status: Only with this status, or one of these.
            key: Only of this key.
            tags: Only with all of these tags.
            conversation: Only of this conversation.
            parent: Only those started by this instance or id.
            created_after: Only those started at or after this aware moment.
            created_before: Only those started before this aware moment.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            order: `"newest"` or `"oldest"` first.
            at_least: Waits until the page reflects this log position, whichever process wrote it.
            total: How `Page.total` is found. `"estimate"`: exact where that is cheap (no filter, workflow, status or
                both; few instances), otherwise about right (`Page.total_exact` tells). `"exact"`: counted, however
                long that takes. None: not at all.

        Raises:
            TypeError: A filter is of the wrong type.
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        await self._reached(at_least)
        return await self._parts.here(
            self._lists.instances(
                workflow=workflow,
                status=status,
                key=key,
                tags=tags,
                conversation=conversation,
                parent=parent,
                created_after=created_after,
                created_before=created_before,
                limit=limit,
                cursor=cursor,
                order=order,
                total=total,
            )
        )

    async def counts(
        self, workflow: Workflow[Any, Any] | str | None = None, *, at_least: int | None = None
    ) -> InstanceCounts:
        """How many instances each workflow has in each status: exact, and always at hand.

        Args:
            workflow: Only of this workflow or name.
            at_least: Waits until the counts reflect this log position.

        Raises:
            TypeError: The workflow is neither.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        await self._reached(at_least)
        return await self._parts.here(self._lists.counts(workflow))

    async def requests(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        conversation: str | None = None,
        *,
        instance: Instance[Any] | str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
        total: Total | None = "estimate",
    ) -> Page[DataRequest]:
        """Open data requests, those open longest first, page by page; all filters given must hold.

        Every page comes in bounded time. With several filters it may be shorter than `limit`, or empty, with a cursor
        that goes on. Only a cursor of None is the end.

        Args:
            workflow: Only of instances of this workflow or name.
            conversation: Only of this conversation.
            instance: Only of this instance or id.
            name: Only of this declared name.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position, whichever process wrote it.
            total: How `Page.total` is found, as in `instances`.

        Raises:
            TypeError: A filter is of the wrong type.
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        await self._reached(at_least)
        return await self._parts.here(
            self._lists.requests(
                workflow=workflow,
                conversation=conversation,
                instance=instance,
                name=name,
                now=self._parts.now(),
                limit=limit,
                cursor=cursor,
                total=total,
            )
        )

    async def _reached(self, position: int | None) -> None:
        self._parts.check_open()
        if position is not None:
            await self._parts.here(self._parts.reached(checked_position(position, "at_least")))

    def events(
        self, after: int | None = None, topics: Iterable[str] | str | None = None
    ) -> AsyncGenerator[RecordedEvent]:
        """The whole log in order, then live; ends when the engine is closed.

        Args:
            after: Only what stands behind this position; None: from the beginning.
            topics: Only events of these names.

        Raises:
            ValueError: There is no such event or position.
        """
        return recorded_events(
            self._log,
            self._parts.histories,
            self.values,
            self._parts.positions,
            checked_position(after),
            checked_topics(topics),
        )
