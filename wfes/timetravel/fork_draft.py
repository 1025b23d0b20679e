"""What the history of a fork begins with: the origin's events, as a change leaves them.

Pure: given the origin's events 1 to N and what is to be changed, it says what stands at each version in the fork, and
what the event behind them (`core.fork_events.HistoryForked`) says. The rule is one number, the *cut*: the first version
that a change makes void. Before it everything stays as it is, the changed outcomes among it; from it on, what the
handler did is void, for it would have gone on from other values, and its results go to a pool, by path. What came from
outside stays available. Without a change there is no cut, and a fork is the origin's history up to N, to the letter.

Why a pool and not a replay: a replay of changed values would have to end in a difference at the first step that is not
asked for any more. By path, the changed run takes what it still asks for, and leaves the rest.

Why void events stay, set aside (`EventVoided`), in their places: whatever names a version still does, and what the
pool has is found there; no row, no fold and no statistics takes them for something that happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.ids import derived_id
from wfes.core.state import InstanceState, Status
from wfes.core.voiding import meant, void
from wfes.errors import ForkRefused
from wfes.handler.nested import SUCCESSES

Json = Any
Copy = tuple[e.Event, e.Copied]

OPENINGS: dict[type[e.Event], str] = {
    e.StepStarted: "step",
    e.SleepScheduled: "sleep",
    e.ListenStarted: "listen",
    e.RequestIssued: "request",
    e.ChildStarted: "child",
    e.WaitStarted: "workflow",
}
"""What opens a path, and what is then there."""
ENDS = (*SUCCESSES, e.StepFailed, e.WaitTimedOut)
"""What gives the handler an outcome."""
NOT_INHERITED = (e.DeadlineChanged, e.SlotSought, e.SlotGranted)
"""What concerns the origin alone, wherever it stands."""
_OUTSIDE = (e.EventReceived, e.DataProvided, e.TargetEnded)
"""What is still there for a handler that goes another way."""
_DROPPABLE = (
    *OPENINGS,
    *ENDS,
    *_OUTSIDE[:2],
    e.StepAttemptFailed,
    e.TimerFired,
    e.CancelRequested,
    e.CancelDelivered,
    e.WorkflowPaused,
    e.WorkflowResumed,
)


@dataclass(slots=True, kw_only=True)
class Changes:
    """What is to be other than in the origin; values as sealed trees.

    Attributes:
        input: the input's tree, in a tuple; None: as it was.
        results: paths to the result that each is given.
        payloads: versions of received events or answers, to what each holds instead.
        dropped: versions left out.
        by_path: nothing is replayed; every result is used by path, as another code needs it.
        actor: who forks.
    """

    input: tuple[Json] | None = None
    results: Mapping[str, Json] = field(default_factory=dict[str, Json])
    payloads: Mapping[int, Json] = field(default_factory=dict[int, Json])
    dropped: frozenset[int] = frozenset()
    by_path: bool = False
    actor: str | None = None


@dataclass(slots=True)
class Draft:
    """A fork that could be made.

    Attributes:
        origin, at: whose history it begins with, up to which version.
        events: what stands at versions 1, 2, …; the first ``at`` of them in the origin's places.
        changed: versions that are not as they were.
        cut: the first void version; ``at + 1``: none.
        results, dues, taken: as in `HistoryForked`.
        away: paths of children that are void, and were not over when last heard of, to what `ChildStarted` said.
    """

    origin: str
    at: int
    events: list[e.Event]
    changed: frozenset[int]
    cut: int
    results: dict[str, int]
    dues: dict[str, int]
    taken: tuple[int, ...]
    away: dict[str, e.ChildStarted]
    actor: str | None = None

    @property
    def is_changed(self) -> bool:
        """Whether the fork does not stand where the origin stood."""
        return self.cut <= self.at or len(self.events) > self.at

    def copies(self) -> list[Copy]:
        """The events as they are appended."""
        changed = e.Copied(True, self.actor)
        plain = e.Copied()
        return [
            (event, changed if version in self.changed else plain)
            for version, event in enumerate(self.events, 1)
        ]

    def state(self) -> InstanceState:
        """The state that the events amount to."""
        state = InstanceState(self.origin)
        for version, event in enumerate(self.events, 1):
            evolve(state, event, version)
        return state

    def set_aside(self, event: e.Event) -> int:
        """Adds an outcome that is there from the beginning; its version."""
        self.events.append(void(event))
        version = len(self.events)
        self.changed = self.changed | {version}
        return version


def drafted(history: Sequence[e.Recorded], changes: Changes, later: Sequence[e.Recorded] = ()) -> Draft:
    """The fork of the instance with this history.

    Args:
        history: the origin's events 1 to N.
        changes: what is to be changed.
        later: the origin's events behind N, where paths may be found that are not known by N.

    Raises:
        ForkRefused: this cannot be changed so.
    """
    return _Drafting(history, changes, later).draft()


class _Drafting:
    """The making of one draft."""

    def __init__(self, history: Sequence[e.Recorded], changes: Changes, later: Sequence[e.Recorded]) -> None:
        self.origin = history[0].originator_id
        self.at = len(history)
        self.events: list[e.Event] = [recorded.event for recorded in history]
        self.later = [recorded.event for recorded in later]
        self.changes = changes
        self.changed: set[int] = set()
        self.cut = self.at + 1
        self.unpooled: set[int] = set()
        """Versions of outcomes that are not to be given again."""
        self.extra: list[tuple[str, list[e.Event]]] = []
        """By path, outcomes that are given before they are asked for; the last of each list is the outcome."""

    def refused(self, why: str) -> ForkRefused:
        return ForkRefused(self.origin, self.at, why)

    def draft(self) -> Draft:
        if self.changes.by_path:
            self._cut_at(2)
        self._start()
        for version in sorted(self.changes.dropped):
            self._drop(version)
        for path, tree in self.changes.results.items():
            self._give(path, tree)
        for version, tree in self.changes.payloads.items():
            self._alter(version, tree)
        return self._drawn_up()

    def _cut_at(self, version: int) -> None:
        self.cut = min(self.cut, version)

    def _start(self) -> None:
        started = self.events[0]
        assert isinstance(started, e.WorkflowStarted)
        given = self.changes.input
        if given is not None:
            self.changed.add(1)
            self._cut_at(2)
        self.events[0] = replace(
            started,
            input=started.input if given is None else given[0],
            key=None,
            generation=0,
            parent=None,
            parent_path=None,
            conversation=None,
            trigger=None,
            deadline=None,
            forked_from=self.origin,
            forked_at=self.at,
            slot_by=None,
            slot_value=None,
            slot_place=0,
        )

    # ------------------------------------------------------------------------------------------ looking

    def _walk(self) -> Iterator[tuple[int, Any]]:
        """Versions, and the events that stand or stood there."""
        for version, event in enumerate(self.events, 1):
            yield version, meant(event)

    def _given_in(self, received: int) -> tuple[int, Any] | None:
        """Where the handler was given what came from outside as this version."""
        for version, event in enumerate(self.events, 1):
            given = meant(self.events[event.version - 1]) if isinstance(event, e.ResultReused) else event
            if _named(given) == received:
                return version, given
        return None

    def _outcome(self, path: str) -> tuple[int, int] | None:
        """Where the last outcome of a path was given, and where it is recorded."""
        found: tuple[int, int] | None = None
        for version, event in self._walk():
            if isinstance(event, ENDS) and event.path == path:
                if isinstance(self.events[version - 1], e.EventVoided):
                    continue  # void in the origin itself, unless it was reused
                found = version, event.version if isinstance(event, e.ResultReused) else version
        return found

    def _around(self, path: str) -> None:
        """What the steps around a changed path gave is not given again: their functions run."""
        enclosing = set(_prefixes(path))
        for version, event in self._walk():
            if isinstance(event, ENDS) and event.path in enclosing:
                self.unpooled.add(version)

    # ----------------------------------------------------------------------------------------- changing

    def _replace(self, version: int, event: e.Event) -> None:
        stood = self.events[version - 1]
        self.events[version - 1] = void(event) if isinstance(stood, e.EventVoided) else event
        self.changed.add(version)

    def _give(self, path: str, tree: Json) -> None:
        """Gives a path another result, or its first one."""
        found = self._outcome(path)
        if found is None:
            self.extra.append((path, self._first_outcome(path, tree)))
            self._around(path)
            return
        given, version = found
        outcome: Any = meant(self.events[version - 1])
        match outcome:
            case e.StepCompleted():
                self._replace(version, replace(outcome, result=tree))
            case e.StepFailed():
                self._replace(
                    version,
                    e.StepCompleted(at=outcome.at, path=path, attempt=outcome.attempts, result=tree),
                )
            case e.ListenEnded(received=named) | e.RequestEnded(provided=named):
                self._replace_outside(named, tree)
            case e.ChildEnded(ended=named) | e.WaitEnded(ended=named):
                self._replace_outside(named, tree)
            case e.WaitTimedOut():
                raise self.refused(
                    f"the wait at {path!r} timed out as version {version}; fork at a version before that and give it "
                    "what it waits for"
                )
            case _:
                raise self.refused(
                    f"{path!r} is a {_noun(outcome)}, which has no result of a declared kind to change"
                )
        self._cut_at(given + 1)
        self._around(path)

    def _first_outcome(self, path: str, tree: Json) -> list[e.Event]:
        opening = self._opening(path)
        at = max(event.at for event in self.events)
        match opening:
            case e.StepStarted():
                return [e.StepCompleted(at=at, path=path, attempt=opening.attempt, result=tree)]
            case e.ListenStarted():
                return [
                    e.EventReceived(at=at, event=opening.event, payload=tree, actor=self.changes.actor),
                    e.ListenEnded(at=at, path=path, received=0),
                ]
            case e.RequestIssued():
                return [
                    e.DataProvided(at=at, path=path, data=tree, actor=self.changes.actor),
                    e.RequestEnded(at=at, path=path, provided=0),
                ]
            case e.ChildStarted() | e.WaitStarted():
                ended = e.TargetEnded(
                    at=at, path=path, instance=opening.instance, status=str(Status.COMPLETED), output=tree
                )
                cls = e.ChildEnded if isinstance(opening, e.ChildStarted) else e.WaitEnded
                return [ended, cls(at=at, path=path, ended=0)]
            case _:
                raise self.refused(f"{path!r} is a {_noun(opening)}, which has no result")

    def _opening(self, path: str) -> Any:
        known: set[str] = set()
        for event in (*(event for _, event in self._walk()), *map(meant, self.later)):
            found: Any = event
            if type(found) in OPENINGS or isinstance(found, (e.CallRecorded, e.ProgressRecorded)):
                if found.path == path:
                    return found
                known.add(found.path)
        raise self.refused(f"there is no step or wait {path!r} in its history{_like(path, known)}")

    def _replace_outside(self, version: int, tree: Json) -> None:
        stood: Any = meant(self.events[version - 1])
        match stood:
            case e.EventReceived():
                self._replace(version, replace(stood, payload=tree))
            case e.DataProvided():
                self._replace(version, replace(stood, data=tree))
            case e.TargetEnded():
                self._replace(version, replace(stood, status=str(Status.COMPLETED), output=tree, error=None))
            case _:
                raise self.refused(f"version {version} is {stood.topic}, which holds no value to change")

    def _alter(self, version: int, tree: Json) -> None:
        """Changes what came from outside as this version."""
        self._replace_outside(version, tree)
        found = self._given_in(version)
        if found is not None:
            given, event = found
            self._cut_at(given + 1)
            self._around(event.path)

    def _drop(self, version: int) -> None:
        """Leaves an event out: what follows from it is void."""
        stood: Any = self.events[version - 1]
        if not (stood.terminal or isinstance(stood, _DROPPABLE)):
            raise self.refused(
                f"version {version} is {stood.topic}, which cannot be dropped: it is none of what the handler asked "
                "for or was given"
            )
        self.events[version - 1] = void(stood, dropped=True)
        self.changed.add(version)
        self.unpooled.add(version)
        if isinstance(stood, (e.EventReceived, e.DataProvided)):
            found = self._given_in(version)
            if found is not None:
                self._cut_at(found[0])
                self.unpooled.add(found[0])
                self._around(found[1].path)
        elif isinstance(stood, e.CancelRequested):
            for later, event in self._walk():
                if later > version and isinstance(event, e.CancelDelivered) and event.kind == "cancel":
                    self._cut_at(later)
                    break
        elif stood.owner or stood.terminal:
            self._cut_at(version)
            path: str | None = getattr(stood, "path", None)
            if path is not None and not stood.terminal:
                self._around(path)
                if type(stood) in OPENINGS:
                    self._forget(path)

    def _forget(self, path: str) -> None:
        """What a path, and whatever lies in it, gave is not given again."""
        for version, event in self._walk():
            if isinstance(event, ENDS) and (event.path == path or event.path.startswith(path + "/")):
                self.unpooled.add(version)

    # --------------------------------------------------------------------------------------- drawing up

    def _drawn_up(self) -> Draft:
        results = self._pool()
        consumed = {
            named for version in results.values() if (named := _named(meant(self.events[version - 1])))
        }
        events = [
            void(event)
            if isinstance(event, NOT_INHERITED) or (version >= self.cut and self._is_void(version, consumed))
            else event
            for version, event in enumerate(self.events, 1)
        ]
        taken = tuple(
            sorted(
                named
                for named in consumed
                if isinstance(events[named - 1], e.EventReceived) and named < self.cut
            )
        )
        draft = Draft(
            self.origin,
            self.at,
            events,
            frozenset(self.changed),
            self.cut,
            results,
            self._dues(),
            taken,
            self._away(results),
            self.changes.actor,
        )
        for path, outcome in self.extra:
            self._add(draft, path, outcome)
        return draft

    def _is_void(self, version: int, consumed: set[int]) -> bool:
        return version in consumed or not isinstance(self.events[version - 1], _OUTSIDE)

    def _pool(self) -> dict[str, int]:
        """Paths whose outcome is void and can be given again, to its version."""
        pool: dict[str, int] = {}
        for version, event in self._walk():
            if version < self.cut:
                continue
            if isinstance(event, e.HistoryForked):
                # What the origin, a fork itself, had to give and has not.
                pool.update({path: at for path, at in event.results.items() if at not in self.unpooled})
            elif version in self.unpooled:
                pool.pop(getattr(event, "path", ""), None)
            elif isinstance(event, e.ResultReused):
                if event.version not in self.unpooled:
                    pool[event.path] = event.version
            elif isinstance(event, ENDS) and not isinstance(self.events[version - 1], e.EventVoided):
                if self._succeeded(event):
                    pool[event.path] = version
                else:
                    pool.pop(event.path, None)
        return pool

    def _succeeded(self, event: Any) -> bool:
        if isinstance(event, e.ChildEnded):
            ended = meant(self.events[event.ended - 1])
            return isinstance(ended, e.TargetEnded) and ended.status == Status.COMPLETED
        if isinstance(event, e.ProgressRecorded):
            return False  # there is nothing to be given, and what it says is made of what was changed
        return isinstance(event, SUCCESSES) and getattr(event, "error", None) is None

    def _dues(self) -> dict[str, int]:
        dues: dict[str, int] = {}
        for version, event in self._walk():
            if isinstance(event, e.HistoryForked) and version >= self.cut:
                dues.update(event.dues)
            elif isinstance(event, e.SleepScheduled) and version >= self.cut and version not in self.unpooled:
                dues[event.path] = event.until
            elif isinstance(event, (e.SleepEnded, e.WaitCancelled)):
                dues.pop(event.path, None)
        return dues

    def _away(self, results: dict[str, int]) -> dict[str, e.ChildStarted]:
        """Children started behind the cut whose end the handler was not given."""
        away: dict[str, e.ChildStarted] = {}
        for version, event in self._walk():
            if isinstance(event, e.ChildStarted) and version >= self.cut and version not in self.unpooled:
                away[event.path] = event
            elif isinstance(event, (e.ChildEnded, e.WaitTimedOut, e.WaitCancelled)):
                away.pop(event.path, None)
        return {path: child for path, child in away.items() if path not in results}

    @staticmethod
    def _add(draft: Draft, path: str, outcome: Sequence[e.Event]) -> None:
        *outside, end = outcome
        for event in outside:
            named = draft.set_aside(event)
            match end:
                case e.ListenEnded():
                    end = replace(end, received=named)
                case e.RequestEnded():
                    end = replace(end, provided=named)
                case e.ChildEnded() | e.WaitEnded():
                    end = replace(end, ended=named)
                case _:
                    """Names nothing from outside."""
        draft.results[path] = draft.set_aside(end)
        draft.dues.pop(path, None)


def add_end(draft: Draft, path: str, ended: e.TargetEnded) -> None:
    """Has a void child's end given to whoever asks for its path."""
    named = draft.set_aside(ended)
    draft.results[path] = draft.set_aside(e.ChildEnded(at=ended.at, path=path, ended=named))


def renamed(draft: Draft, state: InstanceState, id: str) -> list[e.Event]:
    """The draft's events with the ids that open requests have in a fork of this id; what is closed is as it was.

    Args:
        draft: the fork.
        state: what its events amount to.
        id: the fork's id.
    """
    events = list(draft.events)
    for path, wait in state.waits.items():
        opening = events[wait.version - 1]
        if isinstance(opening, e.RequestIssued) and not wait.ready:
            new = derived_id(id, "fork", path, str(wait.version))
            events[wait.version - 1] = replace(opening, id=new)
    return events


def _named(event: Any) -> int:
    match event:
        case e.ListenEnded(received=version) | e.RequestEnded(provided=version):
            return version
        case e.ChildEnded(ended=version) | e.WaitEnded(ended=version):
            return version
        case _:
            return 0


def _prefixes(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


_NOUNS: dict[type[e.Event], str] = {
    e.SleepEnded: "sleep",
    e.SleepScheduled: "sleep",
    e.CallRecorded: "recorded call",
    e.ProgressRecorded: "progress checkpoint",
}


def _noun(event: e.Event) -> str:
    return _NOUNS.get(type(event), event.topic)


def _like(path: str, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(path, known, n=3)
    some = close or sorted(known)[:5]
    return f"; there is {', '.join(map(repr, some))}" if some else "; it has asked for nothing yet"
