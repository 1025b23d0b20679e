"""The one transaction that makes a fork: there is a whole fork, or none.

Decided on the states of that transaction: whether the id is free, whether a child that the copied part started has
ended since, what a slot of the workflow's limited concurrency calls for. The copies cause nothing; what is open is the
fork's own from here on: requests under new ids, children of its own where the origin's have not ended, waits for other
instances told at once where those have ended.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.ids import derived_id
from wfes.core.state import InstanceState, OpenWait, Status
from wfes.errors import InstanceExists
from wfes.log.port import Tx
from wfes.runtime.admission import Limit, limit_of
from wfes.runtime.commands import Start
from wfes.runtime.descriptions import description
from wfes.runtime.reactions import look_at_target
from wfes.runtime.streams import workflow_stream
from wfes.runtime.values import Blobs
from wfes.timetravel.fork_draft import Draft, add_end, renamed


@dataclass(slots=True, kw_only=True)
class Fork:
    """Makes a fork.

    Attributes:
        id: the fork's.
        draft: what its history begins with.
        before: the state that the draft amounts to, worked out before the transaction, for long histories take a while.
        blobs: large values among the changes.
        counts_as: the field that the workflow's concurrency is limited by, as the caller knows it, and the input's
            value of it.
        state: after ``run``: the fork's state.
    """

    id: str
    draft: Draft
    before: InstanceState
    blobs: Blobs = ()
    counts_as: tuple[str, str] | None = None
    actor: str | None = None
    cause: Json = None
    state: InstanceState | None = field(default=None, init=False)

    def run(self, tx: Tx) -> Json:
        self.state = None
        existing = tx.state(self.id)
        if existing is not None:
            self._check_same(existing)
            self.state = copy.deepcopy(existing)
            return description(existing, new=False)
        draft = copy.copy(self.draft)
        draft.events, draft.results = list(draft.events), dict(draft.results)
        self._take_ends(tx, draft)
        before = self.before
        draft.events = renamed(draft, before, self.id)
        children = self._replace_children(tx, draft, before)
        limit = limit_of(tx, before.workflow)
        place = tx.position + 1
        for digest, content in self.blobs:
            tx.put_blob(digest, content)
        tx.append_copies(self.id, draft.copies())
        tx.append(self.id, [self._forked(tx, draft, before, limit, place)])
        after = tx.state(self.id)
        assert after is not None
        for path, wait in list(after.waits.items()):
            if wait.kind in ("child", "workflow") and not wait.ready and path not in children:
                look_at_target(tx, self.id, path, wait.target)
        for start in children.values():
            start.run(tx)
        self.state = copy.deepcopy(after)
        return description(after, new=True)

    def _check_same(self, existing: InstanceState) -> None:
        draft = self.draft
        if existing.forked_from != draft.origin or existing.forked_at != draft.at:
            raise InstanceExists(
                self.id, existing.workflow, f"it is not the fork of {draft.origin!r} at {draft.at}"
            )

    def _forked(
        self, tx: Tx, draft: Draft, before: InstanceState, limit: Limit | None, place: int
    ) -> e.HistoryForked:
        event = e.HistoryForked(
            at=tx.now,
            origin=draft.origin,
            forked_at=draft.at,
            results=draft.results,
            dues=draft.dues,
            taken=draft.taken,
            changed=draft.is_changed,
            over=before.ended is not None,
            actor=self.actor,
            cause=self.cause,
        )
        if limit is None or before.ended is not None:
            return event
        return replace(event, slot_by=limit.by, slot_value=self._slot_value(limit), slot_place=place)

    def _slot_value(self, limit: Limit) -> str | None:
        if not limit.by:
            return ""
        return self.counts_as[1] if self.counts_as is not None and self.counts_as[0] == limit.by else None

    # ------------------------------------------------------------------------------------------ children

    @staticmethod
    def _take_ends(tx: Tx, draft: Draft) -> None:
        """A child behind the cut that has completed meanwhile is kept as it ended."""
        for path, started in draft.away.items():
            child = tx.state(started.instance)
            if child is not None and child.ended is Status.COMPLETED and not child.hollow:
                at = max(child.status_since, started.at)
                ended = e.TargetEnded(
                    at=at, path=path, instance=child.id, status=str(child.ended), output=child.output
                )
                add_end(draft, path, ended)

    def _replace_children(self, tx: Tx, draft: Draft, before: InstanceState) -> dict[str, Start]:
        """Gives each open child that has not ended a successor of its own; their starts by path."""
        starts: dict[str, Start] = {}
        for path, wait in before.waits.items():
            if wait.kind != "child" or wait.ready or path in draft.results:
                continue
            child = tx.state(wait.target or "")
            if child is None or child.ended is not None:
                continue
            start = self._successor(tx, path, wait, child)
            opening: Any = draft.events[wait.version - 1]
            draft.events[wait.version - 1] = replace(opening, instance=start.id)
            starts[path] = start
        return starts

    def _successor(self, tx: Tx, path: str, wait: OpenWait, child: InstanceState) -> Start:
        id = derived_id(self.id, "fork", path, str(wait.version))
        counts_as = None
        if child.slot is not None and child.slot.value is not None:
            counts_as = child.slot.by, child.slot.value
        return Start(
            id=id,
            workflow=child.workflow,
            input=child.input,
            key=child.key,
            tags=child.tags,
            parent=self.id,
            parent_path=child.parent_path,
            seed=id,
            actor=self.actor,
            cause={"instance": self.id, "version": self.draft.at + 1},
            known=not tx.version(workflow_stream(child.workflow)),
            derived=True,
            counts_as=counts_as,
        )
