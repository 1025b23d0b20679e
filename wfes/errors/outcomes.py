"""How an instance ended, told to whoever awaits its result."""

from __future__ import annotations

from wfes.core.error_info import ErrorInfo, RecordedError
from wfes.errors.base import WfesError, because


class _Outcome(WfesError):
    """The instance did not complete.

    Attributes:
        id: The instance's id.
        workflow: Its workflow, where it is known.
        error: What ended it, where an exception did.
        reason: Why it ended, where it was said.
    """

    _ended = "did not complete"

    def __init__(
        self,
        id: str,
        error: ErrorInfo | None = None,
        *,
        workflow: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__()
        self.id = id
        self.error = error
        self.workflow = workflow
        self.reason = reason
        if error is not None:
            self.__cause__ = RecordedError(error)

    def __str__(self) -> str:
        owner = f" of workflow {self.workflow!r}" if self.workflow else ""
        why = because(self.error if self.reason is None else self.reason)
        return f"instance {self.id!r}{owner} {self._ended}{why}"


class WorkflowFailed(_Outcome):
    """The instance failed: its handler raised, or called `step.fail`."""

    _ended = "failed"


class WorkflowCancelled(_Outcome):
    """The instance was cancelled."""

    _ended = "was cancelled"


class WorkflowAborted(_Outcome):
    """The instance was aborted by its own handler, which is not a failure."""

    _ended = "was aborted"


class WorkflowTimedOut(_Outcome):
    """The instance timed out.

    Not a `TimeoutError`: that is what `Instance.result(timeout=...)` raises while the instance is not over.
    """

    _ended = "timed out"
