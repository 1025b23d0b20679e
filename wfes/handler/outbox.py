"""Owner events on their way into the log.

An execution adds entries in the order it decides them and flushes them as one member of the writer's queue; several
members may be under way at once. Inside the transaction a member is *fenced* if somebody else owns the instance,
*refused* if an earlier one of the same execution was, and in *conflict* if an event from outside that the execution
had not seen takes one of its entries back (``core.decide.voids``). Any other event from outside just stands before
it. After a conflict all that has not been committed comes back, in order, to be decided again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.core.decide import voids
from wfes.errors import WfesError
from wfes.handler import refusal
from wfes.handler.turns import Failed, Lost, Turn

if TYPE_CHECKING:
    from wfes.handler.asks import Ask
    from wfes.handler.execution import Execution
    from wfes.log.port import Log, Tx, WriteTransaction


class Verdict(Enum):
    """What became of a member."""

    COMMITTED = "committed"
    CONFLICT = "conflict"
    REFUSED = "refused"
    FENCED = "fenced"


class Entry:
    """One owner event, or the effect whose outcome it will be.

    Attributes:
        event: the event; where there is an effect, what it gave, once it ran.
        ask: the ask it opens or ends, if it is about one.
        effect: runs in the transaction and gives the event.
        opens: whether it is the ask's opening.
        refusal: what the effect of an opening refused with, as a tree; then nothing is recorded by this entry.
        blocks: whether nothing may be released before it is committed.
        turn: whose transaction it is committed in, by itself; the event is known then.
    """

    __slots__ = ("ask", "blobs", "blocks", "effect", "event", "opens", "refusal", "turn")

    def __init__(
        self,
        event: e.Event | None,
        ask: Ask | None = None,
        *,
        effect: Callable[[Any], e.Event] | None = None,
        opens: bool = False,
        blocks: bool = False,
        blobs: tuple[tuple[str, bytes], ...] = (),
        turn: Turn | None = None,
    ) -> None:
        self.event = event
        self.ask = ask
        self.effect = effect
        self.opens = opens
        self.refusal: dict[str, Any] | None = None
        self.blocks = blocks
        self.blobs = blobs
        self.turn = turn

    def is_voided_by(self, newer: e.Event) -> bool:
        """Whether an unseen event from outside takes it back."""
        if self.turn is not None:
            return False
        if self.effect is not None:
            return isinstance(newer, e.WorkflowPaused)
        assert self.event is not None
        return voids(newer, self.event, getattr(self.ask, "event", None))


class Outbox:
    """The entries of one execution that are not committed yet."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._pending: list[Entry] = []
        self._sent: deque[_OwnerAppend] = deque()
        self._generation = 1
        self.refused = 0
        self.refuser: _OwnerAppend | None = None
        self.not_before = 0
        """When the last transaction was completed: what was stamped while it was under way stands behind it in the log.
        The writer's thread's."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is committed."""
        return not self._pending and not self._sent

    def add(self, entry: Entry) -> None:
        """Puts an entry behind the others."""
        self._pending.append(entry)

    def flush(self) -> None:
        """Hands what has been added to the writer, as one member; what has a transaction of its own, by itself."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        first = 0
        for place, entry in enumerate(pending):
            if entry.turn is not None:
                self._send(_OwnerAppend, pending[first:place])
                self._send(_OwnTransaction, [entry])
                first = place + 1
        self._send(_OwnerAppend, pending[first:] if first else pending)

    def _send(self, kind: type[_OwnerAppend], entries: list[Entry]) -> None:
        if entries:
            member = kind(self, self._execution, entries, self._generation)
            self._sent.append(member)
            self._execution.host.submit(member)

    def committed(self, member: _OwnerAppend) -> None:
        """A member is in the log."""
        first = self._sent.popleft()
        assert first is member, "members of one execution commit in order"
        self._execution.committed(member.entries)

    def turned_down(self, member: _OwnerAppend) -> None:
        """A member with a transaction of its own is not in the log, and what it blocked goes on without it."""
        self._sent.remove(member)
        self._execution.line.blocks -= 1

    def conflict(self) -> None:
        """Takes back everything that is not committed and has it decided again."""
        self._generation += 1
        entries = [entry for member in self._sent for entry in member.entries] + self._pending
        self._sent.clear()
        self._pending = []
        self._execution.redecide(entries)

    def clear(self) -> None:
        """Forgets everything: the execution is over."""
        self._pending = []

    def let_go(self) -> None:
        """Its execution has left: nothing more is flushed."""
        self._sent.clear()
        self.refuser = None
        del self._execution


class _OwnerAppend:
    """A member of the writer's queue: entries of one execution."""

    __slots__ = ("_execution", "_generation", "_outbox", "_seen", "entries")

    def __init__(self, outbox: Outbox, execution: Execution, entries: list[Entry], generation: int) -> None:
        self._outbox = outbox
        self._execution = execution
        self._generation = generation
        self._seen = execution.known
        self.entries = entries

    def run(self, tx: Tx) -> Verdict:
        execution = self._execution
        outbox = self._outbox
        if self._is_refused:
            return Verdict.REFUSED
        state = tx.state(execution.id)
        if state is None or state.worker != execution.host.worker or state.epoch != execution.epoch:
            return Verdict.FENCED
        if state.outside > self._seen and self._is_voided(tx):
            outbox.refused = self._generation
            outbox.refuser = self
            return Verdict.CONFLICT
        if outbox.refuser is self:  # the transaction was repeated, and things look better now
            outbox.refused = self._generation - 1
            outbox.refuser = None
        events: list[e.Event] = []
        for entry in self.entries:
            for digest, content in entry.blobs:  # whatever becomes of the entry: they may be another one's
                tx.put_blob(digest, content)
            if entry.effect is not None and not self._take_effect(entry, tx):
                continue
            assert entry.event is not None
            if entry.event.at < outbox.not_before:
                entry.event = replace(entry.event, at=outbox.not_before)
            events.append(entry.event)
        if events:
            tx.append(execution.id, events)
        return Verdict.COMMITTED

    @property
    def _is_refused(self) -> bool:
        """Whether an earlier member of the same execution was in conflict."""
        outbox = self._outbox
        return outbox.refused >= self._generation and outbox.refuser is not self

    @staticmethod
    def _take_effect(entry: Entry, tx: Tx) -> bool:
        assert entry.effect is not None
        entry.refusal = None
        try:
            entry.event = entry.effect(tx)
        except WfesError as error:
            entry.refusal = refusal.to_tree(error)
            return False
        return True

    def _is_voided(self, tx: Tx) -> bool:
        newer = [r.event for r in tx.history(self._execution.id, self._seen) if not r.event.owner]
        return any(entry.is_voided_by(event) for entry in self.entries for event in newer)

    def done(self, result: Verdict) -> None:
        if self._execution.is_gone:
            return
        match result:
            case Verdict.COMMITTED:
                self._outbox.committed(self)
            case Verdict.CONFLICT:
                self._outbox.conflict()
            case Verdict.FENCED:
                self._execution.fence()
            case Verdict.REFUSED:
                """Comes back with the conflict that refused it."""

    def failed(self, error: Exception) -> None:
        if not self._execution.is_gone:
            self._execution.broken(error)


class _Void(Exception):
    """A member with a transaction of its own is not to be committed."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class _OwnTransaction(_OwnerAppend):
    """A member of the writer's queue: one entry that is committed in a transaction with others' rows."""

    @property
    def _turn(self) -> Turn:
        turn = self.entries[0].turn
        assert turn is not None
        return turn

    def begin(self, log: Log) -> WriteTransaction:
        if self._is_refused:
            return log.begin()
        if self._execution.is_gone:
            raise Lost("its execution has left")
        return self._turn.begin(log)

    def run(self, tx: Tx) -> Verdict:
        self.entries[0].event = self._turn.event
        verdict = super().run(tx)
        if verdict is not Verdict.COMMITTED:
            raise _Void(verdict)  # undoes the others' rows as well
        for digest, content in self._turn.blobs:
            tx.put_blob(digest, content)
        event = self.entries[0].event
        if event is not None:
            self._outbox.not_before = max(self._outbox.not_before, event.at)
        return verdict

    def done(self, result: Verdict) -> None:
        event = self._turn.event
        if not self._execution.is_gone and event is not None:
            self._turn.committed(event)
        self._turn.drop()
        super().done(result)

    def failed(self, error: Exception) -> None:
        if isinstance(error, _Void):
            if error.verdict is not Verdict.REFUSED:  # else it comes back, and is tried again
                self._turn.drop()
            super().done(error.verdict)
            return
        if not isinstance(error, (Failed, Lost)):
            super().failed(error)
        elif not self._execution.is_gone:
            self._outbox.turned_down(self)
            self._turn.turned_down(error)
        self._turn.drop()


class SetAside:
    """A member that pauses an instance which this process cannot run, and lets go of it."""

    __slots__ = ("_epoch", "_id", "_report", "_worker")

    def __init__(self, worker: str, id: str, epoch: int, report: str) -> None:
        self._worker = worker
        self._id = id
        self._epoch = epoch
        self._report = report

    def run(self, tx: Tx) -> None:
        state = tx.state(self._id)
        if state is None or state.worker != self._worker or state.epoch != self._epoch:
            return
        at = max(tx.now, state.at)
        paused = e.WorkflowPaused(at=at, reason=self._report, held="defect")
        tx.append(self._id, [paused, e.RunReleased(at=at)])

    def done(self, result: Any) -> None:
        """Nobody waits for it."""

    def failed(self, error: Exception) -> None:
        """The log is gone too: whoever opens it again takes the instance over."""
