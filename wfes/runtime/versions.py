"""Which labels of a workflow's code are newer than a worker's own.

The rule: a worker leaves alone what has last run under a label (``@workflow(version=)``) that is newer than its own.
Newer is what the log met later: labels need no order of their own, and a label that comes back is as old as it was.
So while a deployment is rolled out, and after it is rolled back, old code is not run on what new code has begun; new
code goes on with everything that is older, which is what a deployment is for. Without labels every worker takes
everything. Whatever the rule lets through, a replay that differs is held (G11).

An instance that this leaves to nobody is not lost: whoever lists instances or workers is told that no worker can run
it, and one whose label is as new takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfes.core import events as e
from wfes.log.application import decode
from wfes.log.port import Log
from wfes.runtime.streams import workflow_stream


class Versions:
    """The labels of some workflows, as the log met them.

    Attributes:
        newer: by workflow, the labels that are newer than the one known here; only where there are any.
    """

    def __init__(self, labels: Mapping[str, str | None]) -> None:
        """Makes it of this worker's own labels by workflow; None: it has none."""
        self._mine = {workflow: label for workflow, label in labels.items() if label is not None}
        self._met: dict[str, list[str]] = {workflow: [] for workflow in self._mine}
        self.newer: dict[str, tuple[str, ...]] = {}

    def load(self, log: Log) -> None:
        """Reads which labels the log has met.

        Raises:
            LogUnavailable: it cannot be read now.
        """
        for workflow in self._mine:
            for label in met(log, workflow):
                self._meet(workflow, label)

    def tell(self, event: e.WorkflowDefined) -> None:
        """A definition was recorded."""
        if event.version is not None and event.workflow in self._mine:
            self._meet(event.workflow, event.version)

    def _meet(self, workflow: str, label: str) -> None:
        labels = self._met[workflow]
        if label not in labels:
            labels.append(label)
            newer = newer_than(self._mine[workflow], labels)
            if newer:
                self.newer[workflow] = newer


def met(log: Log, workflow: str) -> list[str]:
    """The labels of a workflow in the order in which the log first met them.

    Raises:
        LogUnavailable: it cannot be read now.
    """
    labels: dict[str, None] = {}
    for stored in log.select_events(workflow_stream(workflow)):
        event = decode(stored).event
        if isinstance(event, e.WorkflowDefined) and event.version is not None:
            labels[event.version] = None
    return list(labels)


def newer_than(label: str, labels: Sequence[str]) -> tuple[str, ...]:
    """What comes behind a label; nothing, where it is not among them."""
    return tuple(labels[labels.index(label) + 1 :]) if label in labels else ()
