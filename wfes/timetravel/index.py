"""`Index`: one instance's history folded once, so that its state at any version is near.

The fold's state is copied every few hundred events; a state is the copy before it and the few events in between, so it
is the fold itself that says what was, and nothing here knows an event's meaning. Steps that have ended are too many to
be copied: what the fold notes in its `done` is kept by path and version instead, and looked up when somebody asks.

Invariants: everything here is a copy of what the log says and can be dropped at any time; only small values are kept in
memory, larger ones are read again from their event; what is asked from several threads is answered one after another.
"""

from __future__ import annotations

import dataclasses
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.core.codec import Json, size_bound
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState as Folded
from wfes.core.state import StepState
from wfes.core.voiding import meant
from wfes.errors import UnknownMoment
from wfes.log.application import decode
from wfes.validation import shown
from wfes.views import micros_of, moment

if TYPE_CHECKING:
    from eventsourcing.persistence import Notification

    from wfes.history import Histories

SPACING = 500
"""Events between two copies of the state, at least."""
SPACING_MAX = 4_000
"""And at most: where much is open at a time, a copy is as dear as so many events."""
_BEGINS = frozenset({e.StepStarted, e.StepAttemptFailed})
SMALL_BYTES_MAX = 1_024
"""A step's result or error up to this size is kept in memory."""
KEPT_BYTES_MAX = 32 << 20
"""An archived history up to this size is kept as it is stored: to read one of its events means to read them all."""


class Index:
    """See the module's text. Safe to use from any thread; reads the log while it is asked.

    Attributes:
        id: The instance.
        version: How far its history is folded.
    """

    def __init__(self, id: str, histories: Histories) -> None:
        """Makes one; nothing is read yet.

        Args:
            id: The instance.
            histories: Whom its history is read by.
        """
        self.id = id
        self._histories = histories
        self._lock = threading.RLock()
        self._done = _Done()
        self._head = Folded(id, done=self._done)
        self._done.state = self._head
        self._times = array("q")
        self._copies: list[tuple[Folded, dict[str, _Flat]]] = [(Folded(id), {})]
        """States, and the steps that were open in them, apart: flat, as what has ended in `_Done`."""
        self._at: list[int] = [0]
        self._kept: Sequence[Notification] | None = None
        self._bytes = 0

    @property
    def version(self) -> int:
        return self._head.version

    # -- Reading -----------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Folds what was recorded since.

        Raises:
            ArchiveUnavailable: The history is archived, and the archive cannot be read.
        """
        with self._lock:
            whole: Sequence[Notification] = ()
            for page in self._histories.stored(self.id, self.version):
                for stored in page:
                    self._bytes += len(stored.state)
                    self._fold(decode(stored))
                if page[0].originator_version == 1:
                    whole = page
            self._keep(whole)

    def _keep(self, whole: Sequence[Notification]) -> None:
        is_whole = len(whole) == self.version
        if is_whole and self._head.archived is not None and self._bytes <= KEPT_BYTES_MAX:
            self._kept = whole

    def _fold(self, recorded: e.Recorded) -> None:
        event, version = recorded.event, recorded.originator_version
        if type(event) in _BEGINS:
            self._done.began(event.path, version)  # type: ignore[attr-defined]
        state = self._head
        steps, ended = len(state.steps), self._done.noted
        evolve(state, event, version)
        if len(state.steps) < steps and self._done.noted == ended:
            self._done.is_complete = False
        self._times.append(state.at)
        since = version - self._at[-1]
        if since >= SPACING:
            is_open = len(state.steps) + len(state.waits) + len(state.timers)
            if since >= min(is_open, SPACING_MAX):
                self._copies.append(
                    (_copy(state, {}), {path: _flat(step) for path, step in state.steps.items()})
                )
                self._at.append(version)

    def events(self, after: int, upto: int) -> Iterator[e.Recorded]:
        """The events between two versions."""
        if self._kept is None and self._head.archived is not None and self._bytes <= KEPT_BYTES_MAX:
            # It may have been archived since it was folded.
            self._keep([stored for page in self._histories.stored(self.id) for stored in page])
        if self._kept is not None and upto <= len(self._kept):
            yield from map(decode, self._kept[after:upto])
            return
        for page in self._histories.stored(self.id, after, upto):
            yield from map(decode, page)

    # -- Asking ------------------------------------------------------------------------------------------------------

    def state(self, version: int) -> Folded:
        """The state after the event of this version, a copy; what it says of ended steps is in `steps`."""
        with self._lock:
            if version == self.version:
                return _copy(
                    self._head, {path: StepState(*_flat(step)) for path, step in self._head.steps.items()}
                )
            before, steps = self._copies[bisect_right(self._at, version) - 1]
            state = _copy(before, {path: StepState(*flat) for path, flat in steps.items()})
            for recorded in self.events(state.version, version):
                state = evolve(state, recorded.event, recorded.originator_version)
            return state

    def steps(self, state: Folded) -> Steps:
        """Every step as it was then.

        Args:
            state: What `state` gave.
        """
        return Steps(self, self._done, state)

    def version_of(self, asked: int | datetime) -> int:
        """The version that a version or a moment means: of a moment, the last event's that was made by then.

        Raises:
            UnknownMoment: There is no such version, or the instance was started later.
            ValueError: The moment is naive.
            TypeError: It is neither.
        """
        if isinstance(asked, datetime):
            version = bisect_right(self._times, micros_of(asked, "the moment"))
            if not version:
                raise UnknownMoment(self.id, asked, self.version, moment(self._times[0]))
            return version
        if isinstance(asked, bool) or not isinstance(asked, int):
            raise TypeError(f"a moment is a version (int) or an aware datetime, not {shown(asked)}")
        if not 1 <= asked <= self.version:
            raise UnknownMoment(self.id, asked, self.version, moment(self._times[0]))
        return asked


class Steps(Mapping[str, StepState]):
    """The steps of an instance as they were at one version, by path, in the order in which they first began."""

    def __init__(self, index: Index, done: _Done, state: Folded) -> None:
        self._index = index
        self._done = done
        self._open = state.steps
        self._version = state.version
        self._length: int | None = None

    def __getitem__(self, path: str) -> StepState:
        step = self._open.get(path)
        if step is not None:
            return step
        ended, version = self._done.find(path, self._version)
        if ended is None:
            raise KeyError(path)
        return (
            ended if ended.result is not _LARGE and ended.error is not _LARGE else self._whole(ended, version)
        )

    def _whole(self, step: StepState, version: int) -> StepState:
        (recorded,) = self._index.events(version - 1, version)
        event: Any = recorded.event
        if isinstance(event, e.ResultReused):  # what was given stands where it was recorded
            (recorded,) = self._index.events(event.version - 1, event.version)
            event = meant(recorded.event)
        return dataclasses.replace(
            step, result=getattr(event, "result", None), error=getattr(event, "error", None)
        )

    def __contains__(self, path: object) -> bool:
        return path in self._open or self._done.find(str(path), self._version)[0] is not None

    def __iter__(self) -> Iterator[str]:
        for path in self._done.begun(self._version):
            if path in self:
                yield path

    def __len__(self) -> int:
        if self._length is None:
            begun = self._done.begun(self._version)
            self._length = len(begun) if self._done.is_complete else sum(1 for _ in self)
        return self._length

    def token(self, path: str) -> object:
        """Something that two moments of this instance have in common exactly where they have the step alike."""
        step = self._open.get(path)
        if step is not None:
            return dataclasses.astuple(step)
        ended, version = self._done.find(path, self._version)
        return None if ended is None else version


class _Done(dict[str, StepState]):
    """Takes what the fold notes of steps that have ended, and keeps it by version; holds nothing as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Folded("")
        self._order: list[str] = []
        """Every step's path, as they began."""
        self._began = array("q")
        self._ended: dict[str, tuple[Any, ...]] = {}
        """By path, for each end: its version and the step; flat, which spares the garbage collector 50,000 objects."""
        self.noted = 0
        """How many times something was noted."""
        self.is_complete = True
        """Whether every step that began is open or has ended: none has been made undone."""

    def began(self, path: str, version: int) -> None:
        """Notes that a step is there from this version on, if it was not before."""
        if path not in self._ended:
            self._ended[path] = ()
            self._order.append(path)
            self._began.append(version)

    def __setitem__(self, path: str, step: StepState) -> None:
        version = self.state.version
        self.began(path, version)
        result = _LARGE if _is_large(step.result) else step.result
        # The error of one that was cancelled stands in an earlier event than its end.
        error = _LARGE if step.status == "failed" and _is_large(step.error) else step.error
        about = version, step.status, step.attempts, step.started_at, step.ended_at, result, error
        self._ended[path] += about
        self.noted += 1

    def __delitem__(self, path: str) -> None:
        self._ended[path] += (self.state.version, *_NONE)
        self.is_complete = False

    def pop(self, path: str, *default: Any) -> Any:
        """Notes that from this version on the step counts as never made."""
        found = self.find(path, self.state.version)[0]
        if found is None:
            if not default:
                raise KeyError(path)
            return default[0]
        del self[path]
        return found

    def get(self, path: str, default: Any = None) -> Any:
        found = self.find(path, self.state.version)[0]
        return default if found is None else found

    def __contains__(self, path: object) -> bool:
        return self.get(str(path)) is not None

    def find(self, path: str, version: int) -> tuple[StepState | None, int]:
        """How the step had ended by this version, and in which."""
        noted = self._ended.get(path, ())
        for place in range(len(noted) - _NOTED, -1, -_NOTED):
            if noted[place] <= version:
                status, *rest = noted[place + 1 : place + _NOTED]
                return (None if status is None else StepState(status, *rest)), noted[place]
        return None, 0

    def begun(self, version: int) -> Sequence[str]:
        """The paths of the steps that had begun by this version."""
        return self._order[: bisect_right(self._began, version)]


_NOTED = 7
"""How many values `_Done` notes of one end of a step."""
_NONE = (None,) * (_NOTED - 1)


class _Large:
    def __repr__(self) -> str:
        return "<to be read from its event>"


_LARGE: Json = _Large()


def _is_large(tree: Json) -> bool:
    return tree is not None and size_bound(tree) > SMALL_BYTES_MAX


def _copy(state: Folded, steps: dict[str, StepState]) -> Folded:
    """The state with these steps, without what only grows and no moment is asked for."""
    return dataclasses.replace(
        state,
        slot=None if state.slot is None else dataclasses.replace(state.slot),
        steps=steps,
        waits={path: dataclasses.replace(wait) for path, wait in state.waits.items()},
        timers=dict(state.timers),
        fields=dict(state.fields),
        done=None,
        inbox={},
        seen=set(),
        last_failures={},
    )


_Flat = tuple[Any, ...]


def _flat(step: StepState) -> _Flat:
    """What a step is made of; made by hand, for there may be thousands."""
    return (
        step.status,
        step.attempts,
        step.started_at,
        step.ended_at,
        step.result,
        step.error,
        step.retry_at,
        step.cut_offs,
    )
