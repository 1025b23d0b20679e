"""What an engine lets its handles read of one instance: its history, what it was at any moment, what it does now.

Nothing here changes the log or runs user code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TYPE_CHECKING, cast

from wfes.core.events import Event, WorkflowRetried, WorkflowStarted
from wfes.errors import EngineNotOpen, InstanceNotFound, UnknownWorkflow
from wfes.history import PAGE, Viewer
from wfes.parts import Parts
from wfes.runtime.streams import is_instance
from wfes.runtime.values import Values
from wfes.stream import checked_position
from wfes.views import RecordedEvent

if TYPE_CHECKING:
    from wfes.engine import Engine
    from wfes.timetravel.index import Index
    from wfes.timetravel.past import InstanceState
    from wfes.timetravel.replay import ReplayReport

PAUSE_SECONDS = 0.02
"""How long who follows one instance waits at least, after a look that found nothing."""


class Looking:
    """An engine's calls about one instance's past, for handles.

    Attributes:
        values: Where user values are opened.
    """

    values: Values
    _parts: Parts

    async def history(
        self, id: str, after: int | datetime = 0, upto: int | datetime | None = None
    ) -> list[RecordedEvent]:
        """An instance's events; see `Instance.history`."""
        self._parts.check_open()
        first = after if isinstance(after, datetime) else checked_position(after)
        return await self._parts.here(self._parts.histories.recorded(id, first, upto))

    async def at(self, id: str, moment: int | datetime) -> InstanceState:
        """What an instance was at an earlier moment; see `Instance.at`."""
        self._parts.check_open()
        engine = cast("Engine", self)
        return await self._parts.here(asyncio.to_thread(self._parts.pasts.at, engine, id, moment))

    async def replay(self, id: str, upto: int | datetime | None = None) -> ReplayReport:
        """Runs an instance's handler against its recorded history; see `Instance.replay`."""
        from wfes.timetravel.replay import replay  # not before it is asked for

        self._parts.check_open()
        if not is_instance(id):
            raise InstanceNotFound(id)
        found = await self._parts.here(asyncio.to_thread(self._parts.histories.rest, id))
        if not found:
            raise InstanceNotFound(id)
        started = found[0].event
        assert isinstance(started, WorkflowStarted)
        engine = cast("Engine", self)
        workflow = engine.workflow(started.workflow)
        if workflow is None:
            raise UnknownWorkflow(started.workflow, engine.workflows)
        return await asyncio.to_thread(
            replay, workflow, found, self.values, upto=upto, workflows=engine.workflows, url=engine.url
        )

    async def follow(self, id: str, after: int = 0) -> AsyncGenerator[RecordedEvent]:
        """An instance's events as they come, until it is over; see `Instance.follow`."""
        self._parts.check_open()
        histories, positions = self._parts.histories, self._parts.positions
        version = checked_position(after)
        viewer = Viewer(histories, self.values)
        over: bool | None = None
        while not positions.is_closed():
            # Asked before reading: what is committed meanwhile is read by the next turn.
            head = positions.head
            try:
                page = await self._parts.here(asyncio.to_thread(histories.page, id, version))
                if not page and over is None:
                    state = await self._parts.here(histories.state(id))
                    over = state.is_over and state.version <= version
                shown = viewer.view(page)
            except Exception:
                # A log that is closed while it is read says so in many ways.
                if positions.is_closed():
                    return
                raise
            for recorded, event in zip(page, shown, strict=True):
                over = _is_over(recorded.event, over)
                version = recorded.originator_version
                yield event
            if len(page) >= PAGE:
                continue
            if over:
                return
            if not page:
                # Others write, too: for each of their commits one short look, but not more often than this.
                await asyncio.sleep(PAUSE_SECONDS)
            try:
                await self._parts.here(positions.reached(head + 1))
            except EngineNotOpen:
                return

    async def past(self, id: str) -> Index:
        """An instance's whole past, for whoever compares moments of it."""
        self._parts.check_open()
        return await self._parts.here(asyncio.to_thread(self._parts.pasts.index, id))


def _is_over(event: Event, known: bool | None) -> bool | None:
    if event.terminal:
        return True
    return False if isinstance(event, WorkflowRetried) else known
