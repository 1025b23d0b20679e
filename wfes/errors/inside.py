"""Errors that handler code sees; and `Suspended`, which is none."""

from __future__ import annotations

import asyncio

from wfes.core import durations
from wfes.core.error_info import ErrorInfo, RecordedError
from wfes.errors.base import WfesError, because


class StepError(WfesError):
    """The step failed for good.

    Attributes:
        step: The step's path.
        attempts: How many attempts were made.
        error: What the last attempt raised.
    """

    def __init__(self, step: str, attempts: int, error: ErrorInfo) -> None:
        super().__init__()
        self.step = step
        self.attempts = attempts
        self.error = error
        self.__cause__ = RecordedError(error)

    def matches(self, *kinds: type[BaseException]) -> bool:
        """Whether the last attempt raised one of these classes or a subclass, judged by name."""
        return self.error.matches(*kinds)

    def __str__(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"step {self.step!r} failed after {times}: {self.error}"


class StepInterrupted(WfesError):
    """An attempt of the step was cut off and the step may run at most once.

    Attributes:
        step: The step's path.
        attempt: The number of the attempt that was cut off.
    """

    def __init__(self, step: str, attempt: int = 1) -> None:
        super().__init__()
        self.step = step
        self.attempt = attempt

    def __str__(self) -> str:
        return (
            f"attempt {self.attempt} of step {self.step!r} was cut off by a crash or a stop"
            ' and is not run again (on_interrupt="fail"); whether it took effect is unknown'
        )


class WaitTimeout(WfesError, TimeoutError):
    """What was waited for did not come in time.

    Attributes:
        name: The path of the listen, request or wait.
        timeout: The limit in microseconds, where it is known.
    """

    def __init__(self, name: str, timeout: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.timeout = timeout

    def __str__(self) -> str:
        limit = "in time" if self.timeout is None else f"within {durations.text(self.timeout)}"
        return f"{self.name!r} was not answered {limit}"


class ChildWorkflowError(WfesError):
    """A child workflow did not complete.

    Attributes:
        status: How it ended: "failed", "cancelled", "aborted" or "timed_out".
        id: The child's id.
        error: What failed it, where something did.
        workflow: The child's workflow, where it is known.
        reason: Why it was cancelled or aborted, where it was said.
    """

    def __init__(
        self,
        status: str,
        id: str,
        error: ErrorInfo | None = None,
        *,
        workflow: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__()
        self.status = status
        self.id = id
        self.error = error
        self.workflow = workflow
        self.reason = reason
        if error is not None:
            self.__cause__ = RecordedError(error)

    def __str__(self) -> str:
        owner = f" of workflow {self.workflow!r}" if self.workflow else ""
        why = because(self.reason if self.error is None else self.error)
        return f"child instance {self.id!r}{owner} ended as {self.status}{why}"


class Suspended(asyncio.CancelledError):
    """The handler leaves memory; it is run again from its top when what it waits for is there."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.args)) or (type(self).__doc__ or "").partition("\n")[0]
