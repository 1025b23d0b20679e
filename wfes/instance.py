"""`Instance`: a handle on one instance, with a snapshot of it.

The snapshot is as of when the handle was made or last refreshed (`wfes.snapshot`). What a handle asks of the instance
goes to its engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

from wfes.core.codec import ABSENT
from wfes.core.durations import Duration
from wfes.core.state import InstanceState as Folded
from wfes.errors import OutsideHandler
from wfes.handler import scope as scopes
from wfes.names import Event
from wfes.outcomes import output_tree
from wfes.snapshot import Out_co, Snapshot
from wfes.views import ForkRow, RecordedEvent

if TYPE_CHECKING:
    from wfes.audit.findings import AuditReport
    from wfes.engine import Engine
    from wfes.runtime.commands import Command
    from wfes.timetravel.diff import Diff
    from wfes.timetravel.fork_plan import ForkPlan
    from wfes.timetravel.past import InstanceState
    from wfes.timetravel.replay import ReplayReport


class Instance(Snapshot[Out_co]):
    """One instance of a workflow.

    Engines make these; two handles are equal if they are of the same instance.
    """

    __slots__ = ("_known_at",)

    def __init__(self, engine: Engine, state: Folded, known_at: int = -1) -> None:
        """Makes a handle.

        Args:
            engine: Whom it asks.
            state: The snapshot; the handle's own from here on.
            known_at: The log position from which on the engine has heard of every end since this snapshot; -1: none.
        """
        super().__init__(engine, state)
        self._known_at = known_at

    def __repr__(self) -> str:
        return f"<Instance {self.id!r} of {self.workflow!r}: {self.status}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Instance):
            return NotImplemented
        same: Instance[Any] = cast("Instance[Any]", other)
        return self.id == same.id and self._engine.url == same._engine.url

    def __hash__(self) -> int:
        return hash(self.id)

    # -- Reading -----------------------------------------------------------------------------------------------------

    async def refresh(self) -> Instance[Out_co]:
        """Reads the snapshot afresh; returns this same handle.

        Raises:
            InstanceNotFound: It was started with `connection=`, and that transaction is not committed.
        """
        known = self._state if self._state.version else None
        self._state = await self._engine.read_state(self.id, known)
        self._known_at = -1
        return self

    async def result(self, timeout: Duration | None = None) -> Out_co:
        """The output, once the instance is completed.

        Args:
            timeout: Duration to wait at most; the instance goes on afterwards.

        Raises:
            WorkflowFailed: It failed.
            WorkflowCancelled: It was cancelled.
            WorkflowAborted: It was aborted by its own handler.
            WorkflowTimedOut: It timed out.
            TimeoutError: It was not over in time.
            EngineNotOpen: The engine was closed meanwhile.
        """
        scope = scopes.current()
        if scope is not None and scope.execution.id == self.id:
            raise ValueError(f"instance {self.id!r} cannot wait for its own result")
        if not self._state.version:
            await self.refresh()
        end = await self._engine.end(self.id, self.workflow, timeout, self._known_at)
        return cast(Out_co, self._output(output_tree(self.id, self.workflow, end)))

    async def history(
        self, after: int | datetime = 0, upto: int | datetime | None = None
    ) -> list[RecordedEvent]:
        """Its events in order.

        Args:
            after: Only those with a version above this, or made after this aware moment.
            upto: Only those with a version up to this, or made by this aware moment.

        Raises:
            ValueError: A moment is naive, or `after` is negative.
        """
        await self._appeared()
        return await self._engine.history(self.id, after, upto)

    async def at(self, moment: int | datetime) -> InstanceState:
        """Everything as it was after one of its events. No code of the workflow runs.

        The first call folds the whole history; from then on any moment of it is near.

        Args:
            moment: The event's version; or an aware moment, which means the last event that was made by then.

        Raises:
            UnknownMoment: It has no such version, or was started later; a `LookupError`.
            ValueError: The moment is naive.
            ArchiveUnavailable: It is archived, and the archive cannot be read.
        """
        await self._appeared()
        return await self._engine.at(self.id, moment)

    async def diff(self, a: int | datetime, b: int | datetime) -> Diff:
        """What changed between two moments, each as in `at`; `wfes.diff` compares two instances.

        Args:
            a: The moment to start from.
            b: The other one; usually a later one.

        Raises:
            UnknownMoment: It has no such version, or was started later; a `LookupError`.
            ValueError: A moment is naive.
        """
        from wfes.timetravel.diff import diff

        return await diff(self, self, a, b)

    async def follow(self, after: int = 0) -> AsyncGenerator[RecordedEvent]:
        """Its events in order, then live; ends when it is over, or when the engine is closed.

        Args:
            after: Only those with a version above this.
        """
        await self._appeared()
        async for event in self._engine.follow(self.id, after):
            yield event

    async def fork_plan(
        self,
        at: int | datetime,
        *,
        input: Any = ABSENT,
        results: Mapping[str, Any] | None = None,
        events: Mapping[int, Mapping[str, Any] | None] | None = None,
        by_path: bool = False,
    ) -> ForkPlan:
        """What `fork` with these arguments would make: what is kept, what is changed, what runs again. Makes nothing.

        Raises:
            ForkRefused: It cannot be forked so; the message says why.
            InvalidInput: The input does not fit the workflow's input type.
        """
        from wfes.timetravel.fork import Wanted

        await self._appeared()
        wanted = Wanted(at=at, input=input, results=results, events=events, by_path=by_path)
        return await self._engine.fork_plan(self.id, wanted)

    async def forks(self) -> list[ForkRow]:
        """Its forks, the oldest first; at most 1,000. `forked_from` is the other way round."""
        return await self._engine.forks(self.id)

    async def _appeared(self) -> None:
        if not self._state.version:
            await self.refresh()  # its start was handed over, and may not have been appended yet

    async def replay(self, upto: int | datetime | None = None) -> ReplayReport:
        """Runs the handler's code as it is now against the recorded history: does it still do what it did?

        No step's function is called and nothing is recorded. Awaits of something outside of the workflow (an HTTP call
        straight from the handler) are not made: the replay ends there, and the report says so.

        Args:
            upto: Only as far as this version or aware moment.

        Raises:
            UnknownWorkflow: This engine does not know its workflow.
            UnknownMoment: There is no such version, or it was started later.
        """
        if not self._state.version:
            await self.refresh()
        return await self._engine.replay(self.id, upto)

    async def verify(self) -> AuditReport:
        """Computes the hash chain of its history again, from the stored bytes: was anything changed since then?

        A change to the last event that leaves it readable, a removed end, and a chain that was computed anew, cannot
        be seen so.

        Returns:
            A report, true in a condition if nothing is wrong.

        Raises:
            InstanceNotFound: There is no such instance.
            LogUnavailable: The log cannot be read.
        """
        return await self._engine.verify(self.id)

    # -- Commands ----------------------------------------------------------------------------------------------------

    async def _perform(self, name: str, command: Command) -> None:
        await self._appeared()
        await self._engine.perform(name, command)

    async def cancel(self, reason: str | None = None, *, actor: str | None = None) -> None:
        """Interrupts it: it ends as cancelled. Nothing happens if it is over already.

        Args:
            reason: Why; told to the handler and kept.
            actor: Who asks.
        """
        command = self._engine.calls.cancel(self.id, reason, actor=actor)
        await self._perform("cancel", command)

    async def set_timeout(
        self, in_: Duration | None = None, at: datetime | None = None, *, actor: str | None = None
    ) -> None:
        """Lets it time out at that moment, not earlier, whatever was said before.

        Args:
            in_: A duration from now.
            at: An aware moment in the future; exactly one of the two is given.
            actor: Who asks.

        Raises:
            TypeError: Not exactly one of `in_` and `at`.
            ValueError: `at` is naive or has passed.
            InstanceEnded: It is over.
        """
        command = self._engine.calls.set_timeout(self.id, in_, at, actor=actor)
        await self._perform("set_timeout", command)

    async def send(
        self,
        event: str | Event[Any],
        payload: Any = None,
        *,
        id: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> None:
        """Sends it an event, which is kept until the handler listens for it.

        Args:
            event: The event's name or `Event`.
            payload: What comes with it.
            id: The same id twice counts once.
            actor: Who sends.
            connection: A database connection of your own, whose transaction it becomes part of; see
                `Workflow.start`.

        Raises:
            InvalidData: The payload does not fit the `Event`'s type.
            InstanceEnded: It is over.
        """
        command = self._engine.calls.send(self.id, event, payload, id=id, actor=actor)
        if connection is not None:
            await self._engine.perform("send", command, connection)
        else:
            await self._perform("send", command)

    async def pause(self, reason: str | None = None, *, actor: str | None = None) -> None:
        """Holds it: no new step starts until `resume`.

        Raises:
            InstanceEnded: It is over.
        """
        command = self._engine.calls.pause(self.id, reason, actor=actor)
        await self._perform("pause", command)

    async def resume(self, *, actor: str | None = None) -> None:
        """Releases it from a pause; nothing happens if it is not paused.

        Raises:
            InstanceEnded: It is over.
        """
        command = self._engine.calls.resume(self.id, actor=actor)
        await self._perform("resume", command)

    async def retry(self, *, actor: str | None = None) -> None:
        """Lets a failed or timed-out instance go on where it was; nothing happens while it is not over.

        Raises:
            InstanceEnded: It completed, was cancelled or was aborted.
            KeyInUse: A newer active instance has its key.
        """
        command = self._engine.calls.retry(self.id, self.workflow, actor=actor)
        await self._perform("retry", command)

    async def fork(
        self,
        at: int | datetime,
        *,
        input: Any = ABSENT,
        results: Mapping[str, Any] | None = None,
        events: Mapping[int, Mapping[str, Any] | None] | None = None,
        by_path: bool = False,
        actor: str | None = None,
        id: str | None = None,
    ) -> Instance[Out_co]:
        """A new instance whose history begins with this one's up to a version, changed as asked, and which runs then.

        Nothing that has a result runs again. What comes after the first changed result is void in the fork: its
        results are given by path to whatever the changed run asks for; what it does not ask for stays unused. Open
        requests get new ids, sleeps keep their due time, children that have not ended are started anew. Key, parent,
        conversation, schedule and deadline are not inherited.

        Args:
            at: The last version that the fork begins with; or an aware moment: the last event made by then.
            input: Another input.
            results: Paths of steps and waits to the results that they are to have instead, or to have at all.
            events: Versions to what is changed there: `{"payload": value}` of an `EventReceived`, `{"data": value}`
                of a `DataProvided`, `{"result": value}`, `{"output": value}`, `{"input": value}`; None drops the event
                and makes void what followed from it.
            by_path: Replay nothing, and give every result by path: for a fork that other code runs.
            actor: Who forks.
            id: The fork's id; an existing one is the result if it is a fork of the same instance and version.

        Raises:
            ForkRefused: It cannot be forked there, or not so; the message says why.
            InvalidInput: The input does not fit the workflow's input type.
            InstanceExists: The id is another instance's.
            NotSupported: Called in a handler; a step's function may.
        """
        from wfes.timetravel.fork import Wanted

        await self._appeared()
        wanted = Wanted(at=at, input=input, results=results, events=events, by_path=by_path, actor=actor)
        return Instance(self._engine, await self._engine.fork(self.id, wanted, id))

    def complete(self, output: Any = None) -> NoReturn:
        """Ends this instance as completed, from inside its own handler; the rest of the handler does not run.

        Args:
            output: What it gives, of the workflow's output type.

        Raises:
            OutsideHandler: Called anywhere else.
        """
        scope = scopes.current()
        if scope is None or scope.execution.id != self.id:
            raise OutsideHandler(
                "complete()", f"instance {self.id!r} can be completed by its own handler alone"
            )
        if not scope.in_handler:
            raise OutsideHandler(
                "complete()", f"step {scope.path!r} can return a value for the handler to act on"
            )
        scope.complete(output)
        raise AssertionError("a completed handler goes on")
