"""What an engine lets one do with schedules: list, pause, resume, trigger, backfill, remove them, read their history.

The scheduling half of `Engine`'s calls. A schedule is called as its workflow (further ones `workflow#2`, …, or
`workflow:name`); it is defined by the engine that is opened with its workflow, and ticks in every engine that has that
workflow and runs instances. Inside a handler each call that changes something is a recorded call.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson

from wfes.actor import asked_by
from wfes.calls import Calls, cause_here, checked_reason
from wfes.core.codec import Json
from wfes.core.schedules import ALL, ScheduleState
from wfes.definition import Workflow
from wfes.errors import UnknownSchedule
from wfes.handler import scope as scopes
from wfes.history import Viewer
from wfes.instance import Instance
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.queries import name_of
from wfes.runtime.commands import Command
from wfes.runtime.descriptions import described
from wfes.runtime.schedule_commands import (
    NAMES,
    STATE,
    BackfillSchedule,
    PauseSchedule,
    RemoveSchedule,
    ResumeSchedule,
    TriggerSchedule,
    ended_of,
    read_state,
)
from wfes.runtime.streams import schedule_stream
from wfes.runtime.ticks import ticks_of
from wfes.runtime.values import Values
from wfes.validation import shown
from wfes.views import Page, RecordedEvent, micros_of, moment

T = TypeVar("T")

UPCOMING_MAX = 10_000
"""How many ticks to come are told at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """A schedule as it stands.

    Attributes:
        name: What it is called.
        workflow: The workflow it starts.
        cron, timezone, overlap: As declared.
        input: The input of what it starts, as plain Python data.
        jitter: Each start is put off by up to that much.
        catch_up: `"latest"`, how old a missed tick may be that still runs, or None.
        paused: Whether it is held; `pause_reason` where one was given.
        next: When it ticks next; None while it is paused, or where there is no such tick.
        last_tick: The local time of the newest tick that started an instance, in ISO 8601; `last_at`: its moment.
        last_instance: The id of the newest instance it started, by a tick or otherwise.
        open: Ids of the instances it started that have not ended, the oldest first, at most 1,000.
        queued: How many ticks wait for these.
        backfills: How many backfills are not done.
        started, skipped, missed: How many ticks came to that.
    """

    name: str
    workflow: str
    cron: str
    timezone: str
    overlap: str
    input: Any
    jitter: timedelta
    catch_up: timedelta | str | None
    paused: bool
    pause_reason: str | None
    next: datetime | None
    last_tick: str | None
    last_at: datetime | None
    last_instance: str | None
    open: tuple[str, ...]
    queued: int
    backfills: int
    started: int
    skipped: int
    missed: int


class Schedules:
    """An engine's calls about schedules.

    Attributes:
        values: Where user values are opened.
        calls: Makes ids.
    """

    values: Values
    calls: Calls
    _log: Log
    _parts: Parts

    if TYPE_CHECKING:

        async def perform(self, name: str, command: Command) -> Json:
            """Performs a command."""
            ...

    async def schedules(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        *,
        paused: bool | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
    ) -> Page[ScheduleRow]:
        """Schedules by name, page by page; removed ones are not among them.

        Args:
            workflow: Only of this workflow or name.
            paused: Only paused ones, or only those that are not.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: The cursor belongs to another query, or the limit cannot be.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        self._parts.check_open()
        if at_least is not None:
            await self._parts.here(self._parts.reached(at_least))
        name = name_of(workflow)
        mark = hashlib.sha256(orjson.dumps([name, paused])).hexdigest()[:12]
        after = _place(cursor, mark)

        def read() -> Page[ScheduleRow]:
            # Imported here: the projections import the packages below the engine.
            from wfes_projections.schedules import select

            found, position = self._log.read_at(
                *cast(Any, select(workflow=name, paused=paused, after=after, limit=limit))
            )
            states = [read_state(row[0]) for row in found[:limit]]
            more = len(found) > limit
            return Page(
                [self._row(state) for state in states],
                _cursor(mark, states[-1].name) if more else None,
                position,
            )

        return await self._off_loop(read)

    async def schedule(self, name: str) -> ScheduleRow:
        """One schedule.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        self._parts.check_open()
        return await self._off_loop(lambda: self._row(self._read_schedule(name)))

    async def schedule_ticks(self, name: str, *, limit: int = 10) -> list[datetime]:
        """The next moments at which a schedule is due, whether it is paused or not; aware, in its own time zone.

        Args:
            name: The schedule.
            limit: How many, 1 to 10,000.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        if not 1 <= limit <= UPCOMING_MAX:
            raise ValueError(f"limit is {limit!r}; it must be 1 to {UPCOMING_MAX}")
        self._parts.check_open()

        def read() -> list[datetime]:
            state = self._read_schedule(name)
            definition = state.definition
            ticks = ticks_of(definition.cron, definition.timezone)
            behind = max(state.cursor, (self._parts.now(), ALL))
            return [moment(tick.at).astimezone(ticks.zone) for tick in islice(ticks.after(behind), limit)]

        return await self._off_loop(read)

    async def pause_schedule(self, name: str, *, reason: str | None = None, actor: str | None = None) -> None:
        """Holds a schedule: its ticks start nothing until it is resumed. Paused already: no-op.

        Args:
            name: The schedule.
            reason: Why; recorded with it.
            actor: Who asks.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        command = PauseSchedule(
            schedule=_named(name), reason=checked_reason(reason), actor=asked_by(actor), cause=cause_here()
        )
        await self.perform("pause_schedule", command)

    async def resume_schedule(self, name: str, *, actor: str | None = None) -> None:
        """Releases a schedule. The ticks of the pause are recorded as missed. Not paused: no-op.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        command = ResumeSchedule(schedule=_named(name), actor=asked_by(actor), cause=cause_here())
        await self.perform("resume_schedule", command)

    async def trigger_schedule(self, name: str, *, actor: str | None = None) -> Instance[Any]:
        """Starts an instance as a tick would, now: whatever its `overlap` says, and also while it is paused.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        scope = scopes.current()
        # A retried step's function asks for the same instance again, not for a second one.
        id = scope.derive_id() if scope is not None and not scope.in_handler else self.calls.new_id()
        command = TriggerSchedule(schedule=_named(name), id=id, actor=asked_by(actor), cause=cause_here())
        return Instance(cast(Any, self), described(await self.perform("trigger_schedule", command)))

    async def backfill_schedule(
        self, name: str, start: datetime, end: datetime, *, actor: str | None = None
    ) -> int:
        """Has the ticks from `start` to `end` start an instance each, as far as they have none yet.

        With `overlap="allow"` they run side by side, otherwise one after another, also while the schedule is paused.
        Ticks that are not due yet are left to their own time.

        Args:
            name: The schedule.
            start, end: Aware moments, both included.
            actor: Who asks.

        Returns:
            How many ticks lie in that time, those included that have an instance already.

        Raises:
            UnknownSchedule: There is none of this name.
            ValueError: `end` is before `start`, or one of them is naive.
        """
        first, last = micros_of(start, "start"), micros_of(end, "end")
        if last < first:
            raise ValueError(
                f"end is {end.isoformat()}, which is before start, {start.isoformat()}; it must not be"
            )
        command = BackfillSchedule(
            schedule=_named(name), start=first, end=last, actor=asked_by(actor), cause=cause_here()
        )
        return int((await self.perform("backfill_schedule", command))["ticks"])

    async def remove_schedule(
        self, name: str, *, reason: str | None = None, actor: str | None = None
    ) -> None:
        """Ends a schedule; what it started goes on. An engine opened with a workflow that declares it defines it again,
        and its ticks count from then on.

        Raises:
            UnknownSchedule: There is none of this name.
        """
        command = RemoveSchedule(
            schedule=_named(name), reason=checked_reason(reason), actor=asked_by(actor), cause=cause_here()
        )
        await self.perform("remove_schedule", command)

    async def schedule_history(
        self, name: str, after: int = 0, upto: int | None = None
    ) -> list[RecordedEvent]:
        """A schedule's events: its definitions, old and new, its ticks and what became of them, its pauses.

        Args:
            name: The schedule; also one that was removed.
            after, upto: Only events behind the one version, up to the other.

        Raises:
            UnknownSchedule: There never was one of this name.
        """
        self._parts.check_open()
        histories = self._parts.histories
        stream = schedule_stream(_named(name))

        def read() -> list[RecordedEvent]:
            found = histories.rest(stream, after, upto)
            if not found and not histories.page(stream, limit=1):
                raise self._unknown(name)
            return Viewer(histories, self.values).view(found)

        return await self._off_loop(read)

    # -- Inside ------------------------------------------------------------------------------------------------------

    async def _off_loop(self, read: Callable[[], T]) -> T:
        return await self._parts.here(asyncio.to_thread(read))

    def _unknown(self, name: str) -> UnknownSchedule:
        return UnknownSchedule(name, [str(row[0]) for row in self._log.read(NAMES)])

    def _read_schedule(self, name: str) -> ScheduleState:
        rows = self._log.read(STATE, (_named(name),))
        state = read_state(rows[0][0]) if rows else None
        if state is None or state.removed:
            raise self._unknown(name)
        return state

    def _row(self, state: ScheduleState) -> ScheduleRow:
        definition = state.definition
        catch_up = definition.catch_up
        ended = ended_of(self._log.read, state)
        return ScheduleRow(
            name=state.name,
            workflow=definition.workflow,
            cron=definition.cron,
            timezone=definition.timezone,
            overlap=definition.overlap,
            input=self.values.open(definition.input),
            jitter=timedelta(microseconds=definition.jitter),
            catch_up=timedelta(microseconds=catch_up) if isinstance(catch_up, int) else catch_up,
            paused=state.paused,
            pause_reason=state.pause_reason,
            next=self._next(state),
            last_tick=state.last_tick,
            last_at=moment(state.last_due),
            last_instance=state.last_instance,
            open=tuple(id for id in state.open if id not in ended),
            queued=len(state.queue),
            backfills=len(state.backfills),
            started=state.started,
            skipped=state.skipped,
            missed=state.missed,
        )

    def _next(self, state: ScheduleState) -> datetime | None:
        if not state.ticks:
            return None
        try:
            ticks = ticks_of(state.definition.cron, state.definition.timezone)
        except ValueError:
            return None  # a time zone that this machine does not know
        tick = ticks.next(max(state.cursor, (self._parts.now(), ALL)))
        return None if tick is None else moment(tick.at)


def _named(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name is {shown(name)}; it must be a schedule's name, a str")
    return name


def _cursor(mark: str, name: str) -> str:
    return urlsafe_b64encode(orjson.dumps([mark, name])).decode("ascii").rstrip("=")


def _place(cursor: object, mark: str) -> str | None:
    if cursor is None:
        return None
    try:
        if not isinstance(cursor, str):
            raise ValueError("no text")
        given, name = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        raise ValueError(f"cursor is {shown(cursor)}, which no page gave; pass a page's .cursor") from None
    if given != mark:
        raise ValueError(f"cursor is {shown(cursor)}, which belongs to a query with other filters")
    return str(name)
