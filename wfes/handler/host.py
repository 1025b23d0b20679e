"""What an execution needs of whoever runs it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.log.port import Member
    from wfes.runtime.clock import Clock
    from wfes.runtime.values import Values


class Lender(Protocol):
    """What a transaction needs of a log; ``wfes.log.port.Log`` has it."""

    @property
    def lends_seconds(self) -> float | None: ...
    def lend(self) -> Any: ...


class Host(Protocol):
    """What an execution needs of the worker that runs it."""

    @property
    def reads_only(self) -> bool:
        """Whether it only runs a handler against its history: nothing else may come of what the handler asks for."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def log(self) -> Lender: ...
    @property
    def lending(self) -> asyncio.Semaphore: ...
    @property
    def worker(self) -> str: ...
    @property
    def values(self) -> Values: ...
    @property
    def engine(self) -> Any: ...
    @property
    def threads(self) -> Executor: ...
    @property
    def linger_micros(self) -> int: ...

    def submit(self, member: Member) -> None:
        """Puts a member into the writer's queue."""
        ...

    def left(self, execution: Execution) -> None:
        """The execution has left memory."""
        ...
