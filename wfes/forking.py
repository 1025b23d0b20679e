"""What an engine lets its handles do about forks: make one, say what it would be, name those there are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from wfes.actor import asked_by
from wfes.calls import cause_here
from wfes.core import ids
from wfes.core.codec import Json
from wfes.core.state import InstanceState
from wfes.errors import InstanceNotFound, NotSupported
from wfes.handler import scope as scopes
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.runtime.streams import is_instance
from wfes.views import ForkRow, moment

if TYPE_CHECKING:
    from wfes.engine import Engine
    from wfes.timetravel.fork import Prepared, Wanted
    from wfes.timetravel.fork_plan import ForkPlan

_FORKS = """SELECT fork, forked_at, created_at, actor FROM wfes_forks WHERE origin = ?
    ORDER BY created_at, fork LIMIT ?"""
FORKS_MAX = 1_000
"""Most forks of one instance that are named."""


class Forking:
    """An engine's calls about forks, for handles."""

    _log: Log
    _parts: Parts

    async def fork(self, origin: str, wanted: Wanted, id: str | None = None) -> InstanceState:
        """Makes a fork; see `Instance.fork`."""
        from wfes.timetravel.fork_command import Fork  # not before it is asked for

        engine = cast("Engine", self)
        scope = scopes.current()
        if scope is not None and scope.in_handler:
            raise NotSupported(
                "fork() cannot be called in a handler, which would read another history at each replay; call it in a "
                "step's function"
            )
        actor = asked_by(wanted.actor)
        if id is not None:
            ids.check_id(id)
        else:
            id = engine.calls.new_id() if scope is None else scope.derive_id()
        found = await self._prepared(origin, wanted, actor)
        command = Fork(
            id=id,
            draft=found.draft,
            before=found.state,
            blobs=found.blobs,
            counts_as=found.counts_as,
            actor=actor,
            cause=cause_here(),
        )
        result: Json = await engine.perform("fork", command)
        if command.state is None:
            return await engine.read_state(str(result["id"]))
        return command.state

    async def fork_plan(self, origin: str, wanted: Wanted) -> ForkPlan:
        """What a fork would be; see `Instance.fork_plan`."""
        from wfes.core.state import ACTIVE
        from wfes.timetravel.fork_plan import plan_of

        found = await self._prepared(origin, wanted, asked_by(wanted.actor))
        ended: set[str] = set()
        for wait in found.state.waits.values():
            if wait.kind == "child" and wait.target is not None:
                child = await self._parts.here(self._parts.histories.state(wait.target))
                if child.status not in ACTIVE:
                    ended.add(wait.target)
        return plan_of(found.draft, found.later, frozenset(ended))

    async def forks(self, origin: str) -> list[ForkRow]:
        """The forks of an instance; see `Instance.forks`."""
        self._parts.check_open()
        rows = await asyncio.to_thread(self._log.read, _FORKS, (origin, FORKS_MAX))
        return [
            ForkRow(id=str(id), at=int(at), created_at=moment(int(created)), actor=actor)
            for id, at, created, actor in rows
        ]

    async def _prepared(self, origin: str, wanted: Wanted, actor: str | None) -> Prepared:
        from dataclasses import replace

        from wfes.timetravel.fork import prepared

        self._parts.check_open()
        engine = cast("Engine", self)
        if not is_instance(origin):
            raise InstanceNotFound(origin)
        history = await self._parts.here(asyncio.to_thread(self._parts.histories.rest, origin))
        if not history:
            raise InstanceNotFound(origin)
        started: Any = history[0].event
        return await asyncio.to_thread(
            prepared,
            history,
            replace(wanted, actor=actor),
            engine.values,
            engine.workflow(started.workflow),
            engine.workflows,
            engine.url,
        )
