"""What callers ask for as part of a transaction of their own: `connection=`.

A command is checked against the log as of now and put into the outbox, as one row on the caller's own connection. It
takes no lock of the log: whoever keeps his transaction open keeps nobody waiting for it (on SQLite, where a file has
one write lock, he does so anyway). Once he has committed, the relay of any engine appends it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from wfes.core import decide
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.error_info import ErrorInfo
from wfes.core.evolve import fold
from wfes.core.state import InstanceState
from wfes.errors import (
    InsideHandler,
    InstanceNotFound,
    RequestNotPending,
    UnknownWorkflow,
    WfesError,
)
from wfes.handler import scope as scopes
from wfes.log.port import Caller, Log, Tx
from wfes.parts import Parts
from wfes.runtime.commands import REQUEST, Answer, Ask, Command, Publish, Start
from wfes.runtime.outbox import handed
from wfes.runtime.relay import RELAYED, from_json
from wfes.runtime.streams import event_stream, is_instance, workflow_stream
from wfes.views import moment

LIST_MAX = 1_000
"""How many commands of the outbox are listed at most."""
LOOK_SECONDS = 0.02
"""How often a start is looked for that is committed and about to be appended."""
APPEAR_SECONDS = 30.0
"""How long it is waited for."""

_OF_INSTANCE = "SELECT refused FROM wfes_outbox WHERE kind = 'start' AND id = ? ORDER BY number DESC LIMIT 1"
_ALL = "SELECT number, kind, id, at, refused FROM wfes_outbox ORDER BY number LIMIT ?"
_REFUSED = (
    "SELECT number, kind, id, at, refused FROM wfes_outbox WHERE refused IS NOT NULL ORDER BY number LIMIT ?"
)
_ONE = "SELECT number FROM wfes_outbox WHERE number = ? AND refused IS NOT NULL"


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A command that a caller committed with rows of his own, and that is not in the log.

    Attributes:
        number: Its place in the outbox.
        kind: `start`, `send`, `provide` or `publish`.
        id: The instance, or for `publish` the event's id, that it is about.
        at: When it was handed over.
        error: Why it was refused; None: it waits to be appended.
    """

    number: int
    kind: str
    id: str
    at: datetime
    error: ErrorInfo | None


class Handover:
    """Puts commands into the outbox of an engine's log."""

    def __init__(self, log: Log, parts: Parts) -> None:
        """Makes it.

        Args:
            log: The engine's log.
            parts: The engine's parts, for its clock, its loop and its instances.
        """
        self._log = log
        self._parts = parts

    async def start(self, command: Start, connection: object) -> InstanceState:
        """Hands a start over; gives the state that the instance will begin with, as version 0.

        An instance that has this id already is given as it is, if its workflow and input are the same.

        Raises:
            InstanceExists: The id is another workflow's, or has another input.
            UnknownWorkflow: Neither this engine nor the log knows the workflow.
        """
        caller = await self._caller(connection)
        existing = await self._parts.here(self._existing(command))
        if existing is not None:
            return existing
        now = self._parts.now()
        await caller.insert(handed(command, now))
        return _expected(command, now)

    async def perform(self, command: Command, connection: object) -> None:
        """Hands a command over, unless it would change nothing.

        Raises:
            WfesError: It would be refused as of now.
        """
        caller = await self._caller(connection)
        found = await self._parts.here(self._checked(command))
        if isinstance(found, InstanceNotFound):
            if not await caller.has_start(found.id):
                raise found
            found = command
        if found is not None:
            await caller.insert(handed(found, self._parts.now()))

    async def _caller(self, connection: object) -> Caller:
        scope = scopes.current()
        if scope is not None and scope.in_handler:
            raise InsideHandler(
                "a call with connection=",
                "a handler is run again, and must not use a connection; ask for it in a step's function, or use "
                "step.transaction",
            )
        self._parts.check_open()
        caller = self._log.caller(connection)
        await caller.check()
        return caller

    async def _existing(self, command: Start) -> InstanceState | None:
        try:
            state = await self._parts.histories.state(command.id)
        except InstanceNotFound:
            if not command.known and not self._log.select_events(workflow_stream(command.workflow), limit=1):
                raise UnknownWorkflow(command.workflow, command.others) from None
            return None
        command.check_same(state)
        return state

    async def _checked(self, command: Command) -> Command | InstanceNotFound | None:
        """The command to be handed over; None: it would change nothing; or whose start may not be in the log yet."""
        if isinstance(command, Answer):
            rows = self._log.read(REQUEST, (command.request,))
            if not rows:
                raise RequestNotPending(command.request, reason="answered, expired, withdrawn or never asked")
            command = command.make(rows[0])
        if isinstance(command, Ask):
            try:
                state = await self._parts.histories.state(command.instance)
            except InstanceNotFound as error:
                if isinstance(command.command, decide.Send):
                    return error
                raise
            decision = decide.decide(state, command.command, self._parts.now())
            if isinstance(decision, WfesError):
                raise decision
            return command if decision else None
        if isinstance(command, Publish):
            stream = event_stream(command.event, command.id)
            return None if self._log.select_events(stream, limit=1) else command
        return command

    # -- What became of it -------------------------------------------------------------------------------------------

    async def appeared(self, id: str) -> InstanceState:
        """The state of an instance whose start may be about to be appended. On the engine's loop.

        Raises:
            InstanceNotFound: No start of it is committed, or it was not appended within 30 s.
            WfesError: What its start was refused for.
        """
        if not is_instance(id):
            raise InstanceNotFound(id)
        until = asyncio.get_running_loop().time() + APPEAR_SECONDS
        while True:
            # In this order: a start leaves the outbox when it enters the log.
            rows = self._log.read(_OF_INSTANCE, (id,))
            try:
                return await self._parts.histories.state(id)
            except InstanceNotFound:
                if not rows or asyncio.get_running_loop().time() > until:
                    raise
                if rows[0][0] is not None:
                    raise from_json(rows[0][0]) from None
            await asyncio.sleep(LOOK_SECONDS)

    async def listed(self, *, refused: bool = False) -> list[HandedOver]:
        """What stands in the outbox, in order. On the engine's loop.

        Args:
            refused: Only what was refused.
        """
        found: list[HandedOver] = []
        for number, kind, id, at, reason in self._log.read(_REFUSED if refused else _ALL, (LIST_MAX,)):
            error = None if reason is None else ErrorInfo.of(from_json(reason))
            found.append(HandedOver(number, kind, id, moment(int(at)), error))
        return found


@dataclass(slots=True)
class Drop:
    """Removes a refused command from the outbox; a command of the writer's queue."""

    number: int

    def run(self, tx: Tx) -> Json:
        found = tx.query(_ONE, (self.number,), shows=())
        if found:
            tx.executemany(RELAYED, [(self.number,)])
        return bool(found)


def _expected(command: Start, now: int) -> InstanceState:
    """The state that an instance will begin with, as version 0: nothing of it is in the log yet."""
    started = e.WorkflowStarted(
        at=now,
        workflow=command.workflow,
        input=command.input,
        key=command.key,
        parent=command.parent,
        parent_path=command.parent_path,
        conversation=command.conversation,
        not_before=now + command.delay if command.delay else 0,
        deadline=None if command.deadline is None else now + command.deadline,
        tags=command.tags,
        seed=command.seed,
        actor=command.actor,
        cause=command.cause,
    )
    state = fold(command.id, [e.Recorded(command.id, 1, started)])
    state.version = 0
    return state
