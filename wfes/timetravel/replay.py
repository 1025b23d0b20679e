"""Whether today's code reproduces what is recorded: one instance's history, run again, and what came of it.

Pure reading: no step's function is called, nothing is recorded, nothing is asked of the network. What a handler awaits
outside of its workflow (an HTTP call of its own, say) is not done either: the replay ends there, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.errors import UnknownMoment
from wfes.handler.difference import Difference, Place
from wfes.timetravel.rerun import Differs, Outside, Reached, Rerun
from wfes.validation import shown
from wfes.views import micros_of, moment

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.runtime.values import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What came of running a handler's code against a recorded history.

    Attributes:
        instance: the instance's id.
        workflow: its workflow's name.
        upto: the last event that was to be reproduced.
        reached: the last event that was.
        difference: where code and history part, or None.
        outside: the line at which the handler awaits something outside of its workflow, which a replay does not do:
            what comes behind it was not looked at. None where it does not.
    """

    instance: str
    workflow: str
    upto: int
    reached: int
    difference: Difference | None = None
    outside: Place | None = None

    @property
    def ok(self) -> bool:
        """Whether no difference was found."""
        return self.difference is None

    @property
    def complete(self) -> bool:
        """Whether every event asked for was reproduced."""
        return self.difference is None and self.reached >= self.upto

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        name = f"instance {self.instance} of {self.workflow}"
        if self.difference is not None:
            return f"{name}: differs behind {_events(self.reached)}\n{self.difference}"
        if not self.complete:
            return (
                f"{name}: reproduced up to version {self.reached} of {self.upto}; there the handler awaits something "
                f"outside of its workflow ({self.outside}), which a replay does not do"
            )
        return f"{name}: reproduced, {_events(self.upto)}"


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def replay(
    workflow: Workflow[Any, Any],
    history: Sequence[e.Recorded],
    values: Values,
    *,
    upto: int | datetime | None = None,
    workflows: Mapping[str, Workflow[Any, Any]] | None = None,
    url: str | None = None,
) -> ReplayReport:
    """Runs a workflow's handler against a recorded history; in a thread where no task of an event loop runs.

    Args:
        workflow: today's code.
        history: an instance's whole history.
        values: opens recorded values.
        upto: only as far as this version, or this aware moment; None: the whole history.
        workflows: definitions that the handler may name besides its own.
        url: the log's, where the history comes from one.

    Raises:
        UnknownMoment: there is no such version, or the instance was started later.
        ValueError: a naive moment.
    """
    id = history[0].originator_id
    version = version_of(id, history, upto)
    outcome = Rerun(workflow, id, history, values, upto=version, workflows=workflows, url=url).run()
    match outcome:
        case Differs(reached, difference):
            return ReplayReport(
                instance=id, workflow=workflow.name, upto=version, reached=reached, difference=difference
            )
        case Outside(reached, place):
            return ReplayReport(
                instance=id, workflow=workflow.name, upto=version, reached=reached, outside=place
            )
        case Reached(reached):
            return ReplayReport(instance=id, workflow=workflow.name, upto=version, reached=reached)
        case _:
            raise AssertionError(f"nobody stops a replay: {outcome}")


def version_of(id: str, history: Sequence[e.Recorded], asked: int | datetime | None) -> int:
    """The version that is meant: the last one by default, or at an aware moment.

    Raises:
        UnknownMoment: there is none.
        TypeError: it is neither a version nor a moment.
        ValueError: a naive moment.
    """
    last = history[-1].originator_version
    if asked is None:
        return last
    began = moment(history[0].event.at)
    if isinstance(asked, datetime):
        until = micros_of(asked, "upto")
        found = [recorded.originator_version for recorded in history if recorded.event.at <= until]
        if not found:
            raise UnknownMoment(id, asked, last, began)
        return max(found)
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise TypeError(f"upto is {shown(asked)}; it must be a version (1, 2, …) or an aware datetime")
    if not 1 <= asked <= last:
        raise UnknownMoment(id, asked, last, began)
    return asked
