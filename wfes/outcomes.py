"""How an instance ended, as its waiters get it: the output's tree, or the error that says so."""

from __future__ import annotations

from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.error_info import ErrorInfo
from wfes.core.state import InstanceState, Status
from wfes.errors import (
    ArchiveUnavailable,
    WorkflowAborted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTimedOut,
)


def ended(state: InstanceState) -> e.Event | None:
    """The event that ended an instance, as far as its state tells it; None while it is not over.

    Raises:
        ArchiveUnavailable: It is archived, and the archive cannot be read.
    """
    at = state.at
    check_known(state)
    match state.ended:
        case None:
            return None
        case Status.COMPLETED:
            return e.WorkflowCompleted(at=at, output=state.output)
        case Status.FAILED:
            return e.WorkflowFailed(at=at, error=state.error, path=state.failed_path)
        case Status.ABORTED:
            return e.WorkflowAborted(at=at, reason=state.reason)
        case Status.CANCELLED:
            return e.WorkflowCancelled(at=at, reason=state.reason)
        case _:
            return e.WorkflowTimedOut(at=at, reason=state.reason)


def check_known(state: InstanceState) -> None:
    """Raises `ArchiveUnavailable` where all that is known is what the log says about an archived instance."""
    if state.hollow:
        file = state.archived[0] if state.archived is not None else ""
        raise ArchiveUnavailable(
            file,
            f"of this {state.status} instance of workflow {state.workflow!r} only what the log itself says is "
            "known; the file must be in the folder named like the log's file with .archive behind it, as it was "
            "written",
            state.id,
        )


def output_tree(id: str, workflow: str, end: e.Event) -> Json:
    """The tree of the output.

    Raises:
        WorkflowFailed: The instance failed.
        WorkflowAborted: It was aborted by its own handler.
        WorkflowCancelled: It was cancelled.
        WorkflowTimedOut: It timed out.
    """
    match end:
        case e.WorkflowCompleted():
            return end.output
        case e.WorkflowFailed():
            error = None if end.error is None else ErrorInfo.from_json(end.error)
            raise WorkflowFailed(id, error, workflow=workflow)
        case e.WorkflowAborted():
            raise WorkflowAborted(id, workflow=workflow, reason=end.reason)
        case e.WorkflowCancelled():
            raise WorkflowCancelled(id, workflow=workflow, reason=end.reason)
        case e.WorkflowTimedOut():
            raise WorkflowTimedOut(id, workflow=workflow, reason=end.reason)
        case _:
            raise AssertionError(f"{end.topic} ends nothing")
