"""The corpus without a database or real time: its workflows on a simulated log, from any point of a recorded history.

What comes from outside is taken from the history and comes again when nothing else can go on. What was published has no
subscribers here, which no outcome of the corpus depends on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import corpus

from wfes import Status
from wfes.core import decide as d
from wfes.core import events as e
from wfes.handler import scope as scopes
from wfes.handler.loop import PrivateLoop
from wfes.history import plain_data
from wfes.instance import Instance
from wfes.runtime.streams import key_stream
from wfes.simulation import SimulatedClock, SimulatedHost, SimulatedLog
from wfes.timetravel.recording import Recording
from wfes.timetravel.stand_in import ReadingEngine


class _Log(SimulatedLog):
    """Answers what the corpus's calls ask of rows."""

    def query(
        self,
        sql: str,
        params: Sequence[object] | Mapping[str, object] = (),
        *,
        shows: Collection[type[e.Event]] | None = None,
    ) -> list[tuple[Any, ...]]:
        if "waiters" in sql or "wfes_limits" in sql:
            return super().query(sql, params, shows=shows)
        if "wfes_requests" in sql:
            (wanted,) = list(params)
            return [
                (wanted, state.id, state.workflow, wait.name)
                for state in self._states.values()
                for wait in state.waits.values()
                if wait.kind == "request" and wait.target == wanted
            ]
        return []


class _Engine(ReadingEngine):
    """As much of an engine as handlers and step functions of the corpus ask."""

    def __init__(self, host: Simulated) -> None:
        super().__init__(host.workflows, host.values, SimpleNamespace(now=host.clock.now), None)  # type: ignore[arg-type]
        self._simulated = host

    async def perform(self, name: str, command: Any, connection: object = None) -> Any:
        scope = scopes.current()
        if scope is not None and scope.in_handler:
            return await scope.call(name, command)
        result = command.run(self._simulated.log)
        self._simulated.tell()
        return result

    async def get(self, workflow: Any, id: str | None = None) -> Instance[Any]:
        state = self._simulated.log.state(id or workflow)
        assert state is not None
        return Instance(self, state)  # type: ignore[arg-type]

    async def history(self, id: str, after: Any = 0, upto: Any = None) -> list[Any]:
        return [
            SimpleNamespace(type=r.event.topic, data=plain_data(r.event, self.values))
            for r in self._simulated.log.history(id)
        ]


class _Asyncio:
    """Asyncio for the corpus's functions, whose sleeps take simulated time."""

    def __init__(self, host: Simulated) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        if isinstance(asyncio.get_running_loop(), PrivateLoop):
            await asyncio.sleep(seconds)
            return
        over = asyncio.Event()
        self._host.clock.call_at(self._host.clock.now() + round(seconds * 1e6), over.set)
        await over.wait()


def _committed_at(recorded: e.Recorded, events: Sequence[e.Recorded]) -> int:
    """The last position up to which an event's transaction reaches: a call's record follows its effect, and the end of
    what is waited for follows the wait, where it had ended before."""
    event = recorded.event
    cause: Any = getattr(event, "cause", None)
    if cause is not None and "path" not in cause:
        records = (e.CallRecorded, e.ChildStarted)
        for other in events:
            if (
                other.position > recorded.position
                and other.originator_id == cause["instance"]
                and isinstance(other.event, records)
            ):
                return other.position
    if isinstance(event, e.TargetEnded):
        for other in events:
            if other.position == recorded.position - 1 and isinstance(other.event, e.WaitStarted):
                return other.position
    return recorded.position


class Simulated(SimulatedHost):
    """Runs workflows of the corpus on what a family of instances has recorded up to a position."""

    def __init__(self, family: Sequence[Recording], position: int) -> None:
        events = sorted((each for one in family for each in one.history), key=lambda each: each.position)
        before = [each for each in events if _committed_at(each, events) <= position]
        clock = SimulatedClock(max(each.event.at for each in before))
        super().__init__(corpus.WORKFLOWS, clock=clock, log=_Log(clock))
        setattr(corpus, "asyncio", _Asyncio(self))  # noqa: B010 - it is a module\'s name, not an attribute that types know
        self.engine: Any = _Engine(self)
        for one in family:
            known = [each for each in before if each.originator_id == one.id]
            if known:
                self.log.load(one.id, known)
                if one.started.key is not None:
                    assigned = e.KeyAssigned(at=one.started.at, instance=one.id)
                    self.log.append(key_stream(one.started.workflow, one.started.key), [assigned])
        self._to_come = [each for each in events if each not in before and not each.event.owner]

    async def run_to_end(self, id: str) -> tuple[Status, Any]:
        """Goes on until an instance has ended; its end."""
        for state in list(self.log._states.values()):
            if state.worker is not None and state.ended is None:
                self.begin(state.id)
        await self.run()
        while self._wants_more(id):
            assert self._to_come, f"{id} waits, and nothing more comes from outside"
            self._again(self._to_come.pop(0))
            await self.run()
        ended = self.log.state(id)
        assert ended is not None
        return ended.status, self.values.open(ended.output)

    def _wants_more(self, id: str) -> bool:
        state = self.log.state(id)
        if state is None or state.ended is None:
            return True
        return state.ended is Status.FAILED and any(
            isinstance(each.event, e.WorkflowRetried) for each in self._to_come
        )

    def _again(self, recorded: e.Recorded) -> None:
        """Something that came from outside comes again, if it still means something."""
        state = self.log.state(recorded.originator_id)
        command: Any
        match recorded.event:
            case e.WorkflowStarted():
                if state is None and recorded.event.parent is None:
                    self.log.append(recorded.originator_id, [recorded.event])
                return
            case e.EventReceived(event=name, payload=payload, id=id, cause=None):
                command = d.Send(event=name, payload=payload, id=id)
            case e.DataProvided(path=path, data=data, cause=None):
                if state is None or path not in state.waits:
                    return
                command = d.Provide(id=str(state.waits[path].target), data=data)
            case e.CancelRequested(reason=reason, cause=None):
                command = d.Cancel(reason=reason)
            case e.DeadlineChanged(deadline=deadline):
                command = d.SetDeadline(deadline=deadline)
            case e.WorkflowPaused(held=None, reason=reason):
                command = d.Pause(reason=reason)
            case e.WorkflowResumed():
                command = d.Resume()
            case e.WorkflowRetried():
                command = d.Retry()
            case _:
                return
        if state is None:
            return
        decision = d.decide(state, command, self.clock.now())
        if isinstance(decision, list) and decision:
            self.log.append(recorded.originator_id, decision)
            self.tell()
