"""What stands in for the engine and the worker while a handler is run against its history, reading only.

Invariants: nothing is submitted, no clock is read and nothing is called back at a time, no other event loop is there.
A call that the history records (a start, a send, …) becomes an ask that the history answers; everything else that a
handler could ask of an engine, such as a list of instances, is an await of something outside, which never completes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NoReturn, cast

from wfes import ambient
from wfes.calls import Calls
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.evolve import fold
from wfes.errors import WfesError
from wfes.handler import scope as scopes
from wfes.handler.loop import PrivateLoop
from wfes.instance import Instance
from wfes.runtime.descriptions import described

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.handler.execution import Execution
    from wfes.runtime.values import Values


class RecordedClock:
    """Shows the moment of the history that the walk has come to; nothing is ever due by it."""

    def __init__(self, now: int) -> None:
        self.moment = now
        """Microseconds since the Unix epoch."""

    def now(self) -> int:
        """The recorded moment."""
        return self.moment

    def call_at(self, due: int, callback: Callable[[], object]) -> _NeverCalled:
        """Never calls back."""
        return _NeverCalled()

    def call_at_wall(self, due: int, callback: Callable[[], object]) -> _NeverCalled:
        """Never calls back."""
        return _NeverCalled()


class _NeverCalled:
    __slots__ = ()

    def cancel(self) -> None:
        """There is nothing to take back."""


class Turns:
    """Where an execution asks for its turns: kept until they are taken, and dropped, for a walk takes none."""

    def __init__(self) -> None:
        self._asked: deque[Callable[[], object]] = deque(maxlen=1)

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Notes that a turn was asked for."""
        self._asked.append(callback)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """As `call_soon`."""
        self._asked.append(callback)


class _NoThreads(Executor):
    """No step's function is called, so there is none to run one in."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> NoReturn:
        raise WfesError("a replay runs no step function")


class ReadingHost:
    """As much of a worker as an execution needs that only reads its history.

    Attributes:
        reads_only: what an engine looks at that a handler calls by name.
    """

    reads_only = True
    linger_micros = 0
    worker = "replay"

    def __init__(
        self,
        workflows: Mapping[str, Workflow[Any, Any]],
        values: Values,
        clock: RecordedClock,
        url: str | None,
    ) -> None:
        self.clock = clock
        self.values = values
        self.engine = ReadingEngine(workflows, values, clock, url)
        self.threads: Executor = _NoThreads()
        self.log: Any = None
        self.lending: Any = None
        # Its tasks and futures are never made: those of the handler belong to the private loop.
        self.loop = cast(asyncio.AbstractEventLoop, Turns())

    def submit(self, member: object) -> NoReturn:
        """Refuses: a replay records nothing."""
        raise WfesError("a replay records nothing")

    def left(self, execution: Execution) -> None:
        """It was dropped."""


class ReadingEngine:
    """As much of an engine as a handler sees, in a replay.

    Attributes:
        url: the log's, where the history comes from one; else None.
    """

    name = "replay"
    is_open = True

    def __init__(
        self,
        workflows: Mapping[str, Workflow[Any, Any]],
        values: Values,
        clock: RecordedClock,
        url: str | None,
    ) -> None:
        self.url = url
        self.workflows = workflows
        self.values = values
        self.calls = Calls(workflows, values, clock.now)

    def __getattr__(self, name: str) -> Any:
        """Anything else that an engine can be asked: an await of something outside."""
        if name.startswith("_"):
            raise AttributeError(name)
        return _outside

    def enter_context(self) -> None:
        """Makes this the current engine of a handler's fresh context."""
        ambient.enter(cast(Any, self))

    def running_instance(self, execution: Execution) -> Instance[Any]:
        """What a handler's parameter `workflow` gets."""
        started = e.Recorded(execution.id, 1, execution.started)
        return Instance(cast(Any, self), fold(execution.id, [started]))

    def workflow(self, name: str) -> Workflow[Any, Any] | None:
        """The definition of a workflow."""
        return self.workflows.get(name)

    async def perform(self, name: str, command: Any, connection: object = None) -> Json:
        """A recorded call."""
        scope = scopes.current()
        assert scope is not None
        return await scope.call(name, command)

    async def start(self, workflow: Any, input: Any = None, *, connection: Any = None, **options: Any) -> Any:
        """A recorded start."""
        command = self.calls.start(workflow, input, **options)
        return self._described(await self.perform("start", command), command.input)

    async def get_or_create(
        self, workflow: Any, *, key: str, statuses: Any, connection: Any = None, **options: Any
    ) -> Any:
        """A recorded get-or-create."""
        command = self.calls.get_or_create(workflow, key=key, statuses=statuses, **options)
        return self._described(await self.perform("get_or_create", command), command.start.input)

    async def provide(
        self, workflow: Any, request: Any, data: Any, *, actor: str | None = None, connection: Any = None
    ) -> None:
        """A recorded answer."""
        await self.perform("provide", self.calls.provide(request, data, workflow=workflow, actor=actor))

    async def publish(
        self, event: Any, payload: Any = None, *, connection: Any = None, **options: Any
    ) -> None:
        """A recorded publication."""
        await self.perform("publish", self.calls.publish(event, payload, **options))

    def _described(self, tree: Json, input: Json) -> Instance[Any]:
        return Instance(cast(Any, self), described(tree, input))


async def _outside(*args: object, **kwargs: object) -> Any:
    """Awaits for ever, as something outside does in a replay."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PrivateLoop)
    return await loop.bridge(None)
