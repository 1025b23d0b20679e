"""Commands: what callers ask of the log, decided and appended inside the writer's transaction.

A command is an object whose ``run(tx)`` reads, decides and appends, or refuses with a ``WfesError`` before it has
appended anything. It gives a JSON tree, so that the same object can be a member of the writer's queue by itself
(`Submission`) or be run inside a handler's transaction as a recorded call, whose result replays read from the log.

Invariants: a command decides on the states of its own transaction only, so it never conflicts; it may be run again
if the transaction has to be repeated, and starts afresh then; uniqueness (of ids, generations of a key, published
events) rests on the log, never on a row.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wfes.core import decide, ids
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.evolve import fold
from wfes.core.state import ACTIVE, InstanceState, Status
from wfes.errors import (
    InstanceExists,
    InstanceNotFound,
    KeyInUse,
    RequestNotPending,
    UnknownWorkflow,
    WfesError,
)
from wfes.log.port import Tx
from wfes.runtime.admission import Limit, has_room, limit_of
from wfes.runtime.descriptions import description, same_tree
from wfes.runtime.streams import event_stream, key_stream, workflow_stream
from wfes.runtime.values import Blobs

LISTENERS = "SELECT DISTINCT instance FROM wfes_listeners WHERE event = ? ORDER BY instance"
LISTENERS_OF_KEY = (
    "SELECT DISTINCT instance FROM wfes_listeners WHERE event = ? AND key = ? ORDER BY instance"
)
REQUEST = "SELECT id, instance, workflow, name FROM wfes_requests WHERE id = ?"
OF_KEY = "SELECT id FROM wfes_instances WHERE workflow = ? AND key = ?"
LOOKED_AT_MAX = 8
"""From how many instances of a key on their rows say which of the older ones are worth a look."""
ASSIGNMENTS_FIRST = 20
"""How far back a key's stream is read at first."""
SUBSCRIBED = "SELECT workflow, deadline FROM wfes_subscriptions WHERE event = ? ORDER BY workflow"


class Command(Protocol):
    """Something a caller asks for."""

    def run(self, tx: Tx) -> Json:
        """Reads, decides and appends; gives what the caller gets as a JSON tree.

        Raises:
            WfesError: it is refused; nothing was appended.
        """
        ...


class Submission:
    """A command as a member of the writer's queue; its result resolves a future."""

    __slots__ = ("command", "future")

    withdrawable = True
    """Somebody waits for it, so it is given back where the log stays in trouble."""

    def __init__(self, command: Command, future: asyncio.Future[Any]) -> None:
        self.command = command
        self.future = future

    @property
    def streams(self) -> tuple[str, ...]:
        """Instances that the command will look at, and are hardly in memory."""
        return (self.command.id,) if isinstance(self.command, Start) else ()

    def run(self, tx: Tx) -> Json:
        return self.command.run(tx)

    def done(self, result: Json) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


# -- Starting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker of this process that has room for the instance to be started.

    Attributes:
        worker: the worker's id.
        code: what it will run it with, as `RunClaimed.code`.
    """

    worker: str
    code: Json


@dataclass(slots=True, kw_only=True)
class Start:
    """Starts an instance with an input already validated and sealed.

    An instance that has this id already is the result if it is of the same workflow and has the same input.

    Attributes:
        delay, deadline: microseconds from the start.
        known: the engine knows the workflow; else the log must, and its deadline is taken from there.
        others: the workflows that the engine knows instead, for the error.
        derived: the id was made of the caller's own place, so an instance that has it is this start's own.
        claim: who is to run it at once, where nothing delays it.
        counts_as: the field that the workflow's concurrency is limited by, as the caller knows it, and this input's
            value of it.
        state: after ``run``: the instance's state, the command's own.
        history: after ``run``: its whole history, where ``claim`` took it; else empty.
    """

    id: str
    workflow: str
    input: Json = None
    blobs: Blobs = ()
    key: str | None = None
    delay: int = 0
    deadline: int | None = None
    tags: tuple[str, ...] = ()
    conversation: str | None = None
    parent: str | None = None
    parent_path: str | None = None
    trigger: Json = None
    seed: str = ""
    actor: str | None = None
    cause: Json = None
    known: bool = True
    others: tuple[str, ...] = ()
    derived: bool = False
    claim: Claim | None = None
    counts_as: tuple[str, str] | None = None
    state: InstanceState | None = field(default=None, init=False)
    history: list[e.Recorded] = field(default_factory=list[e.Recorded], init=False)

    def run(self, tx: Tx) -> Json:
        self.state = None
        self.history = []
        existing = tx.state(self.id)
        if existing is not None:
            self.check_same(existing)
            self.state = copy.deepcopy(existing)
            return description(existing, new=False)
        deadline = self.deadline
        if not self.known:
            deadline = _defined(tx, self.workflow, self.others).deadline
        return self._create(tx, deadline)

    def check_same(self, existing: InstanceState) -> None:
        """Raises `InstanceExists` where the instance that has this id is another's than this start's."""
        if existing.workflow != self.workflow:
            raise InstanceExists(self.id, existing.workflow)
        if existing.hollow and not self.derived:
            raise InstanceExists(self.id, existing.workflow, "its input is in an archive that cannot be read")
        if not self.derived and not same_tree(existing.input, self.input):
            raise InstanceExists(self.id, existing.workflow, "its input is another")

    def _create(self, tx: Tx, deadline: int | None) -> Json:
        now = tx.now
        generation = 0
        if self.key is not None:
            generation = tx.append(
                key_stream(self.workflow, self.key), [e.KeyAssigned(at=now, instance=self.id)]
            )
        limit = limit_of(tx, self.workflow)
        value = None if limit is None else self._slot_value(limit)
        claim = None if self.delay else self.claim
        if claim is not None and limit is not None:
            claim = None if value is None or not has_room(tx, self.workflow, limit, value) else claim
        for digest, content in self.blobs:
            tx.put_blob(digest, content)
        events: list[e.Event] = [
            e.WorkflowStarted(
                at=now,
                workflow=self.workflow,
                input=self.input,
                key=self.key,
                generation=generation,
                parent=self.parent,
                parent_path=self.parent_path,
                conversation=self.conversation,
                trigger=self.trigger,
                not_before=now + self.delay if self.delay else 0,
                deadline=None if deadline is None else now + deadline,
                tags=self.tags,
                seed=self.seed,
                slot_by=None if limit is None else limit.by,
                slot_value=value,
                slot_place=0 if limit is None else tx.position + 1,
                actor=self.actor,
                cause=self.cause,
            )
        ]
        if claim is not None:
            events.append(e.RunClaimed(at=now, worker=claim.worker, epoch=1, code=claim.code))
        tx.append(self.id, events)
        history = [e.Recorded(self.id, version, event) for version, event in enumerate(events, 1)]
        if len(history) > 1:
            self.history = history
        self.state = fold(self.id, history)
        return description(self.state, new=True)

    def _slot_value(self, limit: Limit) -> str | None:
        """What it counts as; None: the caller does not know, or knows another field than the newest definition."""
        if not limit.by:
            return ""
        return self.counts_as[1] if self.counts_as is not None and self.counts_as[0] == limit.by else None


@dataclass(slots=True)
class GetOrCreate:
    """The newest instance of a workflow and key that has one of these statuses, else the one ``start`` makes.

    Newest is what the key's stream names last; a retried instance is named there again.
    """

    start: Start
    statuses: frozenset[Status]

    @property
    def state(self) -> InstanceState | None:
        """After ``run``: the instance's state."""
        return self.start.state

    def run(self, tx: Tx) -> Json:
        self.start.state = None
        self.start.history = []
        assert self.start.key is not None
        found = _newest_of_key(tx, self.start.workflow, self.start.key, self.statuses)
        if found is None:
            return self.start.run(tx)
        self.start.state = copy.deepcopy(found)
        return description(found, new=False)


def _newest_of_key(
    tx: Tx, workflow: str, key: str, statuses: Collection[Status], behind: str | None = None
) -> InstanceState | None:
    """The state of the newest instance of a key that has one of these statuses.

    Args:
        behind: only instances that the key's stream names behind its newest mention of this one.
    """
    looked_at: set[str] = set()
    likely: set[str] | None = None
    for id in _named_newest_first(tx, key_stream(workflow, key)):
        if id == behind:
            return None
        if id in looked_at or (likely is not None and id not in likely):
            continue
        looked_at.add(id)
        if likely is None and len(looked_at) > LOOKED_AT_MAX:
            likely = _likely(tx, workflow, key, statuses)
        found = tx.state(id)
        if found is not None and found.status in statuses:
            return found
        if likely is not None and likely <= looked_at:
            return None
    return None


def _likely(tx: Tx, workflow: str, key: str, statuses: Collection[Status]) -> set[str]:
    """Instances whose rows have one of the statuses: saves folding the whole past of a key that is used daily."""
    names = sorted(map(str, statuses))
    sql = f"{OF_KEY} AND status IN ({', '.join('?' * len(names))})"
    return {str(row[0]) for row in tx.query(sql, (workflow, key, *names))}


def _named_newest_first(tx: Tx, stream: str) -> Iterator[str]:
    """The instances that a key's stream names, newest first.

    Almost always one of the first is asked for, and everybody waits for this transaction: so the stream is read from
    its end, each time further back. What is read again thereby is a third of what is new at most.
    """
    above, depth = tx.version(stream), ASSIGNMENTS_FIRST
    newest = above
    while above:
        start = max(0, newest - depth)
        for recorded in reversed(tx.history(stream, start)[: above - start]):
            if isinstance(recorded.event, e.KeyAssigned):
                yield recorded.event.instance
        above = start
        depth *= 4


def _defined(tx: Tx, workflow: str, others: tuple[str, ...] = ()) -> e.WorkflowDefined:
    """The newest definition of a workflow in the log.

    Raises:
        UnknownWorkflow: no engine on this log ever had it.
    """
    history = tx.history(workflow_stream(workflow))
    newest = history[-1].event if history else None
    if not isinstance(newest, e.WorkflowDefined):
        raise UnknownWorkflow(workflow, others)
    return newest


# -- To one instance -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ask:
    """A command of the core to one instance."""

    instance: str
    command: decide.Command
    blobs: Blobs = ()

    def run(self, tx: Tx) -> Json:
        state = tx.state(self.instance)
        if state is None:
            raise InstanceNotFound(self.instance)
        decision = decide.decide(state, self.command, tx.now)
        if isinstance(decision, WfesError):
            raise decision
        version = state.version
        if decision:
            for digest, content in self.blobs:
                tx.put_blob(digest, content)
            version = tx.append(self.instance, decision)
        return {"id": self.instance, "version": version, "new": bool(decision)}


@dataclass(slots=True)
class Answer:
    """An answer to a request that is known by its id alone: looked up in the transaction, where it is or is not open.

    Attributes:
        request: the request's id.
        make: makes the command of what is known of the open request; refuses data that does not fit.
    """

    request: str
    make: Callable[[Sequence[Any]], Ask]

    def run(self, tx: Tx) -> Json:
        rows = tx.query(REQUEST, (self.request,))
        if not rows:
            raise RequestNotPending(self.request, reason="answered, expired, withdrawn or never asked")
        return self.make(rows[0]).run(tx)


@dataclass(slots=True)
class RetryInstance:
    """Lets a failed or timed-out instance go on, unless a newer active one has its key.

    Attributes:
        lifetime: its deadline from now, in microseconds.
        known: the engine knows the workflow; else its newest definition in the log says the deadline.
    """

    instance: str
    actor: str | None = None
    cause: Json = None
    lifetime: int | None = None
    known: bool = True

    def run(self, tx: Tx) -> Json:
        state = tx.state(self.instance)
        if state is None:
            raise InstanceNotFound(self.instance)
        lifetime = self.lifetime
        if not self.known and tx.version(workflow_stream(state.workflow)):
            lifetime = _defined(tx, state.workflow).deadline
        command = decide.Retry(lifetime=lifetime, actor=self.actor, cause=self.cause)
        decision = decide.decide(state, command, tx.now)
        if isinstance(decision, WfesError):
            raise decision
        version = state.version
        if decision:
            self._take_key_back(tx, state)
            version = tx.append(self.instance, decision)
        return {"id": self.instance, "version": version, "new": bool(decision)}

    def _take_key_back(self, tx: Tx, state: InstanceState) -> None:
        if state.key is None:
            return
        newer = _newest_of_key(tx, state.workflow, state.key, ACTIVE, behind=self.instance)
        if newer is not None:
            raise KeyInUse(state.key, state.workflow, newer.id)
        tx.append(
            key_stream(state.workflow, state.key),
            [e.KeyAssigned(at=tx.now, instance=self.instance, retried=True)],
        )


# -- To whoever it concerns ------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Publish:
    """Publishes an event once: to every open listener for it, and to every workflow it starts.

    Attributes:
        key: only instances of this key get it; what it starts has it as well.
    """

    event: str
    id: str
    payload: Json = None
    blobs: Blobs = ()
    key: str | None = None
    actor: str | None = None
    cause: Json = None

    def run(self, tx: Tx) -> Json:
        stream = event_stream(self.event, self.id)
        if tx.version(stream):
            return {"id": self.id, "new": False}
        for digest, content in self.blobs:
            tx.put_blob(digest, content)
        # Read before anything is appended: what this very event starts is no listener of it.
        listeners = self._listeners(tx)
        starts = tx.query(SUBSCRIBED, (self.event,))
        tx.append(
            stream,
            [
                e.EventPublished(
                    at=tx.now,
                    event=self.event,
                    payload=self.payload,
                    key=self.key,
                    id=self.id,
                    actor=self.actor,
                    cause=self.cause,
                )
            ],
        )
        source = {"event": self.event, "id": self.id}
        received = e.EventReceived(
            at=tx.now, event=self.event, payload=self.payload, actor=self.actor, cause=source
        )
        for instance in listeners:
            tx.append(instance, [received])
        for workflow, deadline in starts:
            self._start(workflow, deadline, source).run(tx)
        return {"id": self.id, "new": True}

    def _listeners(self, tx: Tx) -> Sequence[str]:
        if self.key is None:
            rows = tx.query(LISTENERS, (self.event,))
        else:
            rows = tx.query(LISTENERS_OF_KEY, (self.event, self.key))
        return [str(row[0]) for row in rows]

    def _start(self, workflow: str, deadline: int | None, source: Json) -> Start:
        id = ids.derived_id("event", self.event, self.id, workflow)
        return Start(
            id=id,
            workflow=workflow,
            input=self.payload,
            key=self.key,
            trigger=source,
            seed=id,
            actor=self.actor,
            cause=source,
            deadline=deadline,
            derived=True,
        )


@dataclass(slots=True)
class Define:
    """Records the definitions that differ from the newest ones in the log."""

    definitions: Sequence[e.WorkflowDefined]

    def run(self, tx: Tx) -> Json:
        changed: list[str] = []
        for definition in self.definitions:
            stream = workflow_stream(definition.workflow)
            history = tx.history(stream)
            if history and _without_time(history[-1].event) == _without_time(definition):
                continue
            tx.append(stream, [definition])
            changed.append(definition.workflow)
        return changed


def _without_time(event: e.Event) -> dict[str, Any]:
    tree = e.body(event)
    del tree["at"]
    return tree
