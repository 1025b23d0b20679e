"""`Snapshot`: an instance as of one of its versions, for people.

What a handle and a look into the past have in common. It is made of a folded state, which is the snapshot's own from
then on; values are decoded when they are looked at, with the workflow's types where the engine knows the workflow.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from wfes.concurrency import held_reason
from wfes.core.codec import ABSENT, Json
from wfes.core.error_info import ErrorInfo
from wfes.core.state import InstanceState, Status
from wfes.outcomes import check_known
from wfes.views import ProgressView, Wait, moment

if TYPE_CHECKING:
    from wfes.engine import Engine

Out_co = TypeVar("Out_co", covariant=True)


class Snapshot(Generic[Out_co]):
    """One instance as it is at one of its versions."""

    __slots__ = ("_engine", "_state")

    def __init__(self, engine: Engine, state: InstanceState) -> None:
        """Makes one.

        Args:
            engine: Whose values and workflows are used to show it.
            state: What it shows; the snapshot's own from here on.
        """
        self._engine = engine
        self._state = state

    @property
    def id(self) -> str:
        """Its id."""
        return self._state.id

    @property
    def workflow(self) -> str:
        """The name of its workflow."""
        return self._state.workflow

    @property
    def key(self) -> str | None:
        """What it is about, as given at its start."""
        return self._state.key

    @property
    def status(self) -> Status:
        """Where it is in its life."""
        return self._state.status

    @property
    def input(self) -> Any:
        """Its input."""
        check_known(self._state)
        definition = self._engine.workflow(self.workflow)
        return self._opened(self._state.input, ABSENT if definition is None else definition.input_type)

    @property
    def output(self) -> Out_co | None:
        """What it returned, once it is completed; else None."""
        check_known(self._state)
        if self._state.ended is not Status.COMPLETED:
            return None
        return cast("Out_co | None", self._output(self._state.output))

    @property
    def error(self) -> ErrorInfo | None:
        """What failed it, or None."""
        check_known(self._state)
        return None if self._state.error is None else ErrorInfo.from_json(self._state.error)

    @property
    def reason(self) -> str | None:
        """Why it was paused, cancelled, aborted or timed out, where that was said; why it is held, where it is pending
        because its workflow's `concurrency=` has no slot free."""
        state = self._state
        if state.slot is not None and state.status is Status.PENDING and state.is_held:
            return held_reason(state.slot.by, state.slot.value)
        return state.pause_reason if state.paused else state.reason

    @property
    def state(self) -> Any:
        """Its recorded state, as the workflow's `state` model; a dict where this engine does not know the workflow;
        None where it has none."""
        check_known(self._state)
        fields = self._state.fields
        definition = self._engine.workflow(self.workflow)
        model = None if definition is None else definition.state_type
        if model is None:
            return {name: self._opened(tree, ABSENT) for name, tree in fields.items()} or None
        declared = model.model_fields
        changed = {
            name: self._opened(tree, declared[name].annotation)
            for name, tree in fields.items()
            if name in declared
        }
        return model().model_copy(update=changed)

    @property
    def tags(self) -> tuple[str, ...]:
        """The labels given at its start."""
        return tuple(self._state.tags)

    @property
    def created_at(self) -> datetime:
        """When it was started, or forked."""
        return moment(self._state.created_at)

    @property
    def updated_at(self) -> datetime:
        """When its last event was made; of an archived history: when it ended."""
        return moment(self._state.at if self._state.archived is None else self._state.status_since)

    @property
    def deadline(self) -> datetime | None:
        """When it times out, or None."""
        return moment(self._state.deadline)

    @property
    def parent(self) -> str | None:
        """The id of the instance that started it, or None."""
        return self._state.parent

    @property
    def conversation(self) -> str | None:
        """The conversation it belongs to, or None."""
        return self._state.conversation

    @property
    def forked_from(self) -> str | None:
        """The id of the instance whose history its own begins with, where it is a fork; else None."""
        return self._state.forked_from

    @property
    def forked_at(self) -> int:
        """Up to which version of that; 0 where it is no fork."""
        return self._state.forked_at

    @property
    def version(self) -> int:
        """The number of its last event."""
        return self._state.version

    @property
    def waiting_for(self) -> list[Wait]:
        """What it waits for, in the order it began to."""
        waits = [
            Wait(wait.kind, wait.name, moment(wait.since), moment(wait.until))
            for wait in self._state.waits.values()
        ]
        timers = self._state.timers.items()
        waits.extend(Wait("timer", "timer", moment(due - delay), moment(due)) for (delay, _), due in timers)
        return waits

    @property
    def progress(self) -> ProgressView | None:
        """The last progress checkpoint, or None."""
        last = self._state.progress
        if last is None:
            return None
        return ProgressView(last.message, last.percent, self._opened(last.data, ABSENT), moment(last.at))

    def _output(self, tree: Json) -> Any:
        definition = self._engine.workflow(self.workflow)
        return self._opened(tree, ABSENT if definition is None else definition.output_type)

    def _opened(self, tree: Json, type_: Any) -> Any:
        try:
            return self._engine.values.open(tree, type_)
        except ValueError:
            # Recorded under another declaration than today's: shown as the plain data it is.
            return self._engine.values.open(tree)
