"""Reading instances from the log: their states, and their events as people see them.

Reads never change anything and run no user code. A short history is read on the spot, for a thread's round trip
costs more than the read; a long one is read in a thread, page by page, so that it never holds the event loop up.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from eventsourcing.persistence import Notification

from wfes.copies import copied, uses
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.core.voiding import meant
from wfes.errors import InstanceNotFound
from wfes.log.application import decode
from wfes.log.archived import stored_history, whole_history
from wfes.log.port import Log
from wfes.runtime.streams import is_instance
from wfes.runtime.values import Values
from wfes.views import RecordedEvent, micros_of, moment

PAGE = 500
"""Events read at once."""
DIRECT_MAX = 100
"""Events read on the event loop's own thread at most."""
EVERYTHING = 2**62
"""Events read at once where the whole rest of a history is in the archive."""
RUNS_MAX = 10_000
"""Instances whose current run a reader of the whole log remembers."""

Run = tuple[str | None, Any]
"""The worker and the code of the claim in force."""


class Histories:
    """Reads the streams of one log."""

    def __init__(self, log: Log, values: Values) -> None:
        self._log = log
        self._values = values

    def page(
        self, stream: str, after: int = 0, upto: int | None = None, limit: int = PAGE
    ) -> list[e.Recorded]:
        """At most `limit` events of a stream behind version `after`, wherever they are.

        Raises:
            ArchiveUnavailable: They are archived, and the archive cannot be read.
        """
        found = stored_history(self._log, stream, after=after, upto=upto, limit=limit)
        return [decode(stored) for stored in found]

    def rest(self, stream: str, after: int = 0, upto: int | None = None) -> list[e.Recorded]:
        """All events of a stream behind version `after`."""
        return [decode(stored) for page in self.stored(stream, after, upto) for stored in page]

    def stored(
        self, stream: str, after: int = 0, upto: int | None = None
    ) -> Iterator[Sequence[Notification]]:
        """All events of a stream behind version `after`, as they are stored, page by page.

        Raises:
            ArchiveUnavailable: They are archived, and the archive cannot be read.
        """
        # The archive is read from the beginning of a history each time: once is enough.
        limit = EVERYTHING if self._is_archived(stream) else PAGE
        while page := stored_history(self._log, stream, after=after, upto=upto, limit=limit):
            yield page
            if len(page) < PAGE or limit > PAGE:
                return
            after = page[-1].originator_version
            if page[0].originator_version + PAGE != after + 1 or self._is_archived(stream):
                limit = EVERYTHING

    def _is_archived(self, stream: str) -> bool:
        first = self._log.select_events(stream, limit=1)
        return bool(first) and first[0].originator_version > 1

    async def state(self, id: str, known: InstanceState | None = None) -> InstanceState:
        """An instance's state as of now.

        Args:
            id: The instance.
            known: An earlier state of it, which is consumed.

        Raises:
            InstanceNotFound: There is none.
        """
        # An id that begins with "$" names a stream of the engine's own, which is no instance.
        page: list[e.Recorded] = []
        if is_instance(id):
            version = 0 if known is None else known.version
            found = self._log.select_events(id, gt=version, limit=DIRECT_MAX)
            if found and found[0].originator_version > version + 1:
                return await asyncio.to_thread(self._state_of_archived, id, found)
            page = [decode(stored) for stored in found]
        if known is None:
            if not page:
                raise InstanceNotFound(id)
            known = InstanceState(id)
        state = _evolved(known, page)
        if len(page) < DIRECT_MAX:
            return state
        # A copy, for whoever holds the earlier state may look at it while the thread goes on.
        return await asyncio.to_thread(self._state_behind, copy.deepcopy(state))

    def _state_of_archived(self, id: str, stored: Sequence[Notification]) -> InstanceState:
        """Hollow where the archive cannot be read."""
        found = whole_history(stored, id, self._log.archive)
        return _evolved(InstanceState(id), [decode(each) for each in found])

    def _state_behind(self, state: InstanceState) -> InstanceState:
        while page := self.page(state.id, state.version):
            state = _evolved(state, page)
        return state

    async def recorded(
        self, id: str, after: int | datetime = 0, upto: int | datetime | None = None
    ) -> list[RecordedEvent]:
        """An instance's events behind version `after`, up to version `upto`, as people see them.

        A moment in the place of a version means the last event that was made by then.

        Raises:
            InstanceNotFound: There is no such instance.
            ArchiveUnavailable: It is archived, and the archive cannot be read.
        """
        last = None if isinstance(upto, datetime) else upto
        found = await asyncio.to_thread(self.rest, id, 0, last) if is_instance(id) else []
        if not found:
            if last is not None and last < 1:
                await self.state(id)
                return []
            raise InstanceNotFound(id)
        if isinstance(upto, datetime):
            found = found[: made_by(found, micros_of(upto, "upto"))]
        if isinstance(after, datetime):
            after = made_by(found, micros_of(after, "after"))
        viewer = Viewer(self, self._values)
        shown = await asyncio.to_thread(viewer.view, found, after)
        used = uses(found)
        if used:
            shown = [
                dataclasses.replace(each, copied=used[each.version]) if each.version in used else each
                for each in shown
            ]
        return shown

    def run_before(self, stream: str, version: int) -> Run:
        """The claim that was in force just before a version of an instance's history."""
        below = version
        while below > 1:
            found = self._log.select_events(stream, lte=below - 1, desc=True, limit=PAGE)
            if not found or (len(found) < PAGE and found[-1].originator_version > 1):
                found = stored_history(self._log, stream, upto=below - 1)[::-1]
            for stored in found:
                event = decode(stored).event
                if isinstance(event, e.RunClaimed):
                    return event.worker, event.code
                if isinstance(event, e.RunReleased) or event.terminal:
                    return None, None
            if len(found) < PAGE or found[-1].originator_version == 1:
                break
            below = found[-1].originator_version
        return None, None


class Viewer:
    """Shows the events of any number of streams, each in order, with the run that each belongs to."""

    def __init__(self, histories: Histories, values: Values) -> None:
        self._histories = histories
        self._values = values
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def view(self, events: Iterable[e.Recorded], after: int = 0) -> list[RecordedEvent]:
        """The events as people see them; those up to version `after` are passed over, but followed."""
        shown: list[RecordedEvent] = []
        for recorded in events:
            run = self._run_of(recorded)
            if recorded.originator_version > after:
                shown.append(self._shown(recorded, run))
        return shown

    def _run_of(self, recorded: e.Recorded) -> Run:
        stream, event = recorded.originator_id, recorded.event
        if isinstance(event, e.RunClaimed):
            run: Run = (event.worker, event.code)
            self._remember(stream, run)
            return run
        if not event.owner and not event.terminal:
            return None, None
        known = self._runs.get(stream)
        run = self._histories.run_before(stream, recorded.originator_version) if known is None else known
        self._remember(stream, (None, None) if isinstance(event, e.RunReleased) or event.terminal else run)
        return run

    def _remember(self, stream: str, run: Run) -> None:
        self._runs[stream] = run
        self._runs.move_to_end(stream)
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)

    def _shown(self, recorded: e.Recorded, run: Run) -> RecordedEvent:
        event = recorded.event
        return RecordedEvent(
            position=recorded.position,
            instance=recorded.originator_id,
            version=recorded.originator_version,
            at=moment(event.at),
            type=event.topic,
            data=plain_data(event, self._values),
            actor=_actor(recorded),
            worker=run[0],
            code=run[1],
            cause=getattr(event, "cause", None),
            copied=copied(recorded),
        )


def _actor(recorded: e.Recorded) -> str | None:
    """Who asked for it, or changed it where it is a changed copy."""
    if recorded.copied is not None and recorded.copied.changed:
        return recorded.copied.actor
    return getattr(recorded.event, "actor", None)


def plain_data(event: e.Event, values: Values) -> dict[str, Any]:
    """An event's own fields by name, as people see them: user values as plain Python values, errors as `ErrorInfo`,
    moments as `datetime`."""
    data: dict[str, Any] = {}
    for field in dataclasses.fields(event):
        name = field.name
        if name not in _APART:
            data[name] = _plain(event, name, getattr(event, name), values)
    return data


def _plain(event: e.Event, name: str, value: Any, values: Values) -> Any:
    if value is None:
        return None
    if name in _MOMENTS or (name in _SPAN and isinstance(event, e.HistoryArchived)):
        return None if name == "not_before" and not value else moment(int(value))
    if name in _DURATIONS or (name == "catch_up" and isinstance(value, int)):
        return timedelta(microseconds=value)
    if name == "body" and isinstance(event, e.EventVoided):
        return plain_data(meant(event), values)
    if name == "dues":
        dues: dict[str, int] = value
        return {path: moment(due) for path, due in dues.items()}
    if name == "former":
        return {field: _plain(event, field, part, values) for field, part in value.items()}
    if isinstance(event, e.CallRecorded):
        return value
    if name == "error":
        return ErrorInfo.from_json(value)
    if name == "changes":
        return {field: values.open(tree) for field, tree in value.items()}
    return values.open(value) if name in _VALUES else value


_APART = frozenset({"at", "actor", "cause"})
_MOMENTS = frozenset({"until", "retry_at", "deadline", "due", "not_before", "start", "end"})
_DURATIONS = frozenset({"delay", "jitter", "lifetime"})
_SPAN = frozenset({"created", "ended"})
_VALUES = frozenset({"input", "output", "result", "data", "payload"})


def made_by(events: Iterable[e.Recorded], micros: int) -> int:
    """How many events of a history, from its first on, were made by then; a clock that went back makes none earlier."""
    number = 0
    for recorded in events:
        if recorded.event.at > micros:
            break
        number += 1
    return number


def _evolved(state: InstanceState, events: Sequence[e.Recorded]) -> InstanceState:
    for recorded in events:
        state = evolve(state, recorded.event, recorded.originator_version)
    return state
