"""A step in a transaction of the log: its function's rows and its completion are one commit, so it happens once.

Invariants: the function is called when its ``StepStarted`` is on disk, and its completion is released to the handler
only when that is committed. What undoes the completion (another owner, a lost connection, a commit that failed)
undoes the rows. Where what is lent holds the log's write lock, the function runs in the writer's turn, within a bound;
elsewhere it runs first, and the lock is taken only to append.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from wfes.core import durations
from wfes.core import events as e
from wfes.core.types import ABSENT
from wfes.errors import ForbiddenInTransaction
from wfes.handler import functions
from wfes.handler.attempts import CUT_OFFS_MAX, StepAsk, _close_unbegun, _contained
from wfes.handler.outbox import Entry
from wfes.handler.scope import Scope, enter
from wfes.handler.state import plain
from wfes.handler.turns import Ahead, InTurn, Lost, NotLent, Turn, run_ahead

if TYPE_CHECKING:
    from wfes.runtime.values import Sealed

AGAIN_MICROS = durations.SECOND // 4
"""How long after the database was away the function is run again."""


class TransactionAsk(StepAsk):
    """A step whose function is given a connection to the log's database.

    Attributes:
        committing: its completion is on its way into the log, and can be withdrawn no more.
    """

    commits_first = True

    __slots__ = ("committing", "turn")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, thread=True, once=False)
        self.committing = False
        self.turn: Turn | None = None

    @property
    def is_running(self) -> bool:
        return self.task is not None or self.committing

    @property
    def is_binding(self) -> bool:
        return self.committing

    def begin(self) -> None:
        execution = self.execution
        self.begun = True
        self.timed_out = False
        self.scope = Scope(execution, self.path, self.attempt, transaction=True)
        seconds = execution.host.log.lends_seconds
        if seconds is not None:
            self._commit(InTurn(self, self._entered(), seconds))
            return
        work = run_ahead(self)
        task: asyncio.Future[Any] = execution.host.loop.create_task(_contained(work), context=self._entered())
        self.task = task
        task.add_done_callback(self._finished)
        task.add_done_callback(partial(_close_unbegun, work))
        self._left = self.timeout
        self.run_clock()

    def _entered(self) -> Context:
        context = self.context.copy()
        assert self.scope is not None
        context.run(enter, self.scope)
        return context

    def filled(self) -> dict[str, Any]:
        """What the function's parameters that wfes fills are given."""
        return functions.filled(self.fn, len(self.args) + 1, {"attempt": self.attempt})

    def sealed(self, value: Any) -> Sealed:
        """The result, ready to be recorded. From any thread."""
        returns = functions.return_type(self.fn) if self.returns is ABSENT else self.returns
        where = f"the result of transaction {self.path!r}"
        return self.execution.host.values.seal(plain(value), where, returns)

    def completion(self, sealed: Sealed, at: int) -> e.Event:
        """What is recorded when the function is over."""
        return e.StepCompleted(at=at, path=self.path, attempt=self.attempt, result=sealed.tree)

    # ------------------------------------------------------------------------------------ into the log

    def _returned(self, value: Ahead) -> None:
        if self.withdrawn or self.execution.is_leaving:
            value.drop()
        else:
            self._commit(value)

    def _commit(self, turn: Turn) -> None:
        """Lets the completion be appended when its turn in the line has come."""
        self.committing = True
        self.turn = turn
        self.execution.line.put(lambda: self._emit(turn))
        self.execution.schedule()

    def _emit(self, turn: Turn) -> None:
        if self.withdrawn:
            turn.drop()
            self.turned_down(asyncio.CancelledError())
            return
        turn.at = self.execution.stamp()
        self.execution.line.add(Entry(None, self, blocks=True, turn=turn))

    def halt(self) -> None:
        super().halt()
        if self.turn is not None:
            self.turn.drop()

    def committed(self, event: Any) -> None:
        """Its completion is in the log, and is released next."""
        self.committing = False
        self.execution.active.discard(self)
        self.execution.nested.close(self.path)
        self.execution.line.not_before(event.at)

    def turned_down(self, error: BaseException) -> None:
        """Nothing of what its function wrote is there: it failed, or the database did."""
        self.committing = False
        execution = self.execution
        if execution.is_leaving:
            return
        if self.withdrawn:
            execution.unregister(self)
            execution.line.add(Entry(self.withdrawal(execution.stamp()), self))
        elif isinstance(error, Lost):
            clock = execution.host.clock
            self.alarm = clock.call_at(clock.now() + AGAIN_MICROS, self._once_more)
        else:
            self._failed(error)
        execution.schedule()

    def _once_more(self) -> None:
        self.alarm = None
        if not (self.withdrawn or self.settled or self.execution.is_leaving):
            self.begin()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, NotLent):
            self.turned_down(error)  # the database is away, for however long
        elif isinstance(error, Lost):
            if self.cut_offs < CUT_OFFS_MAX:
                self.cut_offs += 1
                self.turned_down(error)
            else:  # it may be what the function does that ends its connection: what that raised is told
                super()._failed(error.__cause__ or error)
        else:
            super()._failed(error)

    def _is_miscalled(self, error: BaseException) -> bool:
        if isinstance(error, ForbiddenInTransaction):
            return True
        return isinstance(error, TypeError) and not functions.takes(self.fn, (None, *self.args))
