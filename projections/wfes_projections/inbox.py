"""``wfes_inbox``: events that an instance has received and no listener has consumed.

A row stands from ``EventReceived`` to the ``ListenEnded`` that names it, while the instance is not over. What an
instance that failed or timed out had not consumed is kept aside, in ``wfes_inbox_kept``, and is back when it is
retried: its next run finds it. The rows equal ``InstanceState.inbox`` of every instance that is not over.
"""

from __future__ import annotations

from typing import Any

from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row


class InboxRow(
    Row,
    table="wfes_inbox",
    key=["instance", "version"],
    indexes=[["received_at", "instance", "version"], ["workflow", "received_at", "instance", "version"]],
):
    """One event that waits: ``version`` is its number in the instance's history, the moment in microseconds."""

    instance: str
    version: int
    workflow: str
    event: str
    received_at: int
    actor: str | None = None
    id: str | None = None


class KeptRow(Row, table="wfes_inbox_kept", key=["instance", "version"]):
    """The same, of an instance that is over and can be retried."""

    instance: str
    version: int
    workflow: str
    event: str
    received_at: int
    actor: str | None = None
    id: str | None = None


class Inbox(Projection):
    """Events that wait to be consumed."""

    name = "wfes_inbox"
    version = 1
    tables = (InboxRow, KeptRow)

    @on("EventReceived")
    def received(self, event: ProjectionEvent, rows: Rows) -> None:
        """It waits."""
        got: Any = event.event
        rows.put(
            InboxRow(
                event.instance, event.version, event.workflow or "", got.event, got.at, got.actor, got.id
            )
        )

    @on("ListenEnded")
    def consumed(self, event: ProjectionEvent, rows: Rows) -> None:
        """A listener has it."""
        taken: Any = event.event
        rows.delete(InboxRow, event.instance, taken.received)

    @on("HistoryForked")
    def forked(self, event: ProjectionEvent, rows: Rows) -> None:
        """What was consumed for a result that is given by path is consumed."""
        for version in event.event.taken:  # type: ignore[attr-defined]
            rows.delete(InboxRow, event.instance, version)

    @on("WorkflowCompleted", "WorkflowAborted", "WorkflowCancelled")
    def ended(self, event: ProjectionEvent, rows: Rows) -> None:
        """Nobody will listen any more."""
        for row in rows.find(InboxRow, instance=event.instance):
            rows.delete(InboxRow, row.instance, row.version)

    @on("WorkflowFailed", "WorkflowTimedOut")
    def failed(self, event: ProjectionEvent, rows: Rows) -> None:
        """Nobody listens, unless it is retried."""
        for row in rows.find(InboxRow, instance=event.instance):
            rows.delete(InboxRow, row.instance, row.version)
            rows.put(_as(KeptRow, row))

    @on("WorkflowRetried")
    def retried(self, event: ProjectionEvent, rows: Rows) -> None:
        """It goes on with what it had not consumed."""
        for row in rows.find(KeptRow, instance=event.instance):
            rows.delete(KeptRow, row.instance, row.version)
            rows.put(_as(InboxRow, row))

    @on("HistoryArchived")
    def archived(self, event: ProjectionEvent, rows: Rows) -> None:
        """Its history has left the log: it will not be retried."""
        for row in rows.find(KeptRow, instance=event.instance):
            rows.delete(KeptRow, row.instance, row.version)

    @query
    def waiting(
        self,
        rows: Reader,
        *,
        workflow: str | None = None,
        instance: str | None = None,
        event: str | None = None,
        behind: tuple[int, str, int] | None = None,
        limit: int = 100,
    ) -> list[InboxRow]:
        """Events that wait, the longest waiting first.

        Args:
            workflow: only for this workflow's instances.
            instance: only for this one.
            event: only of this name.
            behind: moment (microseconds), instance and version of the last one known.
            limit: so many at most.
        """
        texts: list[str] = []
        params: dict[str, Any] = {}
        for name, value in (("workflow", workflow), ("instance", instance), ("event", event)):
            if value is not None:
                texts.append(f"{name} = :{name}")
                params[name] = value
        if behind is not None:
            texts.append("(received_at, instance, version) > (:at, :behind, :version)")
            params["at"], params["behind"], params["version"] = behind
        return rows.select(
            InboxRow, " AND ".join(texts), order="received_at, instance, version", limit=limit, **params
        )


def _as(kind: Any, row: InboxRow | KeptRow) -> Any:
    return kind(row.instance, row.version, row.workflow, row.event, row.received_at, row.actor, row.id)
