"""What an instance was at any moment: `InstanceState`, as `inst.at()` gives it, and where those come from.

Invariants: no code of the user's runs and nothing is written; a state is of exactly one version, and the same however
often it is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfes.core.error_info import ErrorInfo
from wfes.core.state import InstanceState as Folded
from wfes.core.state import StepState
from wfes.errors import InstanceNotFound
from wfes.runtime.streams import is_instance
from wfes.snapshot import Snapshot
from wfes.timetravel.index import Index, Steps
from wfes.views import moment

if TYPE_CHECKING:
    from wfes.engine import Engine
    from wfes.history import Histories
    from wfes.runtime.values import Values

INDEXED_EVENTS_MAX = 200_000
"""How many events the histories may have together that an engine keeps at hand; the last one looked at always is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step as it was at some moment.

    Attributes:
        status: `started`, `backoff` (an attempt failed, and another one will be made), `suspended` (its function was
            left, because a wait inside it is long), `completed`, `failed` or `cancelled`.
        attempts: The number of its last attempt.
        result: What its function returned, as plain data; None unless it is completed.
        error: What failed it, or its last attempt; None if nothing did.
        started_at: When its first attempt began.
        ended_at: When it was over, or None.
    """

    status: str
    attempts: int
    result: Any = None
    error: ErrorInfo | None = None
    started_at: datetime
    ended_at: datetime | None = None


class StepViews(Mapping[str, StepView]):
    """An instance's steps at some moment by path, in the order they began; each is made when it is looked at."""

    __slots__ = ("_steps", "_values")

    def __init__(self, steps: Steps, values: Values) -> None:
        self._steps = steps
        self._values = values

    def __getitem__(self, path: str) -> StepView:
        return step_view(self._steps[path], self._values)

    def __contains__(self, path: object) -> bool:
        return path in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"<{len(self)} steps>"


def step_view(step: StepState, values: Values) -> StepView:
    """A step for people."""
    return StepView(
        status=step.status,
        attempts=step.attempts,
        result=values.open(step.result),
        error=None if step.error is None else ErrorInfo.from_json(step.error),
        started_at=moment(step.started_at),
        ended_at=moment(step.ended_at),
    )


class InstanceState(Snapshot[Any]):
    """An instance as it was after one event of its history; what `inst.at()` gives.

    It has what a handle has of the instance (`.status`, `.input`, `.output`, `.error`, `.state`, `.waiting_for`,
    `.progress`, `.version`, …), all as of then, and its steps. Values are decoded when they are looked at. Two are
    equal if everything in them but the instance's id is.
    """

    __slots__ = ("_steps",)

    def __init__(self, engine: Engine, state: Folded, steps: Steps) -> None:
        """Engines make these.

        Args:
            engine: Whose values and workflows are used to show it.
            state: The folded state of then.
            steps: The steps of then.
        """
        super().__init__(engine, state)
        self._steps = steps

    def __repr__(self) -> str:
        return f"<InstanceState {self.id!r} of {self.workflow!r} at {self.version}: {self.status}>"

    @property
    def at(self) -> datetime:
        """When its last event was made: the latest of its events' times."""
        return moment(self._state.at)

    @property
    def steps(self) -> Mapping[str, StepView]:
        """Every step by path, in the order they began."""
        return StepViews(self._steps, self._engine.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InstanceState):
            return NotImplemented
        return self._compared() == other._compared() and dict(self.steps) == dict(other.steps)

    __hash__ = None  # type: ignore[assignment]

    def _compared(self) -> tuple[Any, ...]:
        state = self._state
        about = (
            state.version,
            state.at,
            state.status,
            state.workflow,
            state.input,
            state.output,
            state.error,
        )
        return *about, self.reason, state.fields, self.waiting_for, self.progress


class Pasts:
    """The histories that an engine keeps at hand, those looked at last; see `wfes.timetravel.index`.

    Safe to use from any thread.
    """

    def __init__(self, histories: Histories) -> None:
        """Makes it.

        Args:
            histories: Whom histories are read by.
        """
        self._histories = histories
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, Index] = OrderedDict()

    def index(self, id: str) -> Index:
        """An instance's history up to now. May take a second where it is long, so not for an event loop's thread.

        Raises:
            InstanceNotFound: There is none.
            ArchiveUnavailable: It is archived, and the archive cannot be read.
        """
        if not is_instance(id):
            # An id that begins with "$" names a stream of the engine's own, which is no instance.
            raise InstanceNotFound(id)
        with self._lock:
            index = self._indexes.setdefault(id, Index(id, self._histories))
            self._indexes.move_to_end(id)
        index.catch_up()
        with self._lock:
            if not index.version:
                self._indexes.pop(id, None)
                raise InstanceNotFound(id)
            events = sum(each.version for each in self._indexes.values())
            while events > INDEXED_EVENTS_MAX and len(self._indexes) > 1:
                events -= self._indexes.popitem(last=False)[1].version
        return index

    def at(self, engine: Engine, id: str, asked: int | datetime) -> InstanceState:
        """An instance's state at a version or moment; as `index`, and as `Index.version_of`."""
        index = self.index(id)
        state = index.state(index.version_of(asked))
        return InstanceState(engine, state, index.steps(state))
