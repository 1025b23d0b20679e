"""Verifying a log: does every history still consist of the bytes that were written?

Each stored event begins with the digest of the one before it (`wfes.core.chain`). `verify_log` and `verify_history`
compute all digests again from the stored bytes, those in archives included, and name the first event of a history that
was changed, removed, inserted, reordered or given to another instance.

What the chain alone cannot show: a change to the *last* event of a history that leaves it readable, since nothing
behind it carries its digest; an event put behind the last one as the engine itself would have done; a chain that was
computed anew from some event on; positions that events of different histories exchanged. A history whose end, or all
of which, was removed shows in `verify_log`, as positions of the log that nobody has, unless the rest was renumbered; in
`verify_history` it does not. For all of these a checkpoint is needed.

One pass reads the log in the order of its histories, page by page, and holds one digest, a bit for each position and
what is archived of one page. A history that does not come through it is read once more, whole, with what may have
happened meanwhile, and is looked into by `wfes.audit.breaks`; only then is the log searched for where its events are.

Invariants: nothing is written and no code of workflows runs; what is appended or archived meanwhile is no problem.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from eventsourcing.persistence import Notification

from wfes.audit.breaks import Elsewhere, Walk
from wfes.audit.findings import CHANGED, INSERTED, REMOVED, REORDERED, UNREADABLE, AuditReport, Problem
from wfes.audit.positions import Positions, shown
from wfes.audit.rows import TYPES, Rows, UnreadableName, plain
from wfes.core import chain
from wfes.core.events import CATALOGUE, HistoryArchived
from wfes.errors import ArchiveUnavailable, UnknownEvent, WfesError
from wfes.log import blocks
from wfes.log.application import decode
from wfes.log.port import Log

BROKEN_MAX = 1_000
"""So many broken histories are looked into."""

Progress = Callable[[int], object]
"""Told, from a thread, how many events were checked so far."""

_TOPIC = HistoryArchived.topic
_UNDECODABLE = (WfesError, ValueError, TypeError, AttributeError, KeyError)


def verify_log(log: Log, progress: Progress | None = None) -> AuditReport:
    """Verifies everything in a log. In a thread.

    Args:
        log: an open log, for reading alone or not.
        progress: told after each page.

    Raises:
        LogUnavailable: it cannot be read at all.
    """
    head = log.max_notification_id()
    scan = _Scan(log, progress)
    scan.run()
    problems, missing = _looked_into(log, list(scan.broken)[:BROKEN_MAX], scan.positions)
    further = max(0, len(scan.broken) - BROKEN_MAX)
    problems = [*scan.problems, *problems]
    if not scan.problems:  # else it did not come to the end
        problems += _unknown_positions(scan, head, log.max_notification_id(), missing, further)
    return AuditReport(scan.events, tuple(problems), scan.histories, further)


def verify_history(log: Log, stream: str) -> AuditReport:
    """Verifies one history. In a thread.

    Args:
        log: an open log.
        stream: whose; it is there.

    Raises:
        LogUnavailable: it cannot be read at all.
    """
    count = len(_History(log, stream, Elsewhere()).rows)
    problems, _ = _looked_into(log, [stream], Positions())
    return AuditReport(count, tuple(problems))


# -- the pass through the log -----------------------------------------------------------------------------------------


class _Scan:
    """One pass over a log in the order of histories."""

    def __init__(self, log: Log, progress: Progress | None) -> None:
        self._log = log
        self._rows = Rows(log)
        self._progress = progress
        self.events = self.histories = 0
        self.positions = Positions()
        self.broken: dict[str, None] = {}
        self.problems: list[Problem] = []
        self._stream: str = ""
        self._last: Notification | None = None
        self._tail = chain.GENESIS
        self._stones: dict[tuple[str, int], dict[str, HistoryArchived]] = {}

    def run(self) -> None:
        try:
            for page in self._rows.pages():
                self._check(page)
                self._check_archived()
                self.events += len(page)
                if self._progress is not None:
                    self._progress(self.events)
        except UnreadableName as error:
            text = f"{error}, is no text; nothing behind it was checked"
            self.problems.append(Problem(None, None, None, UNREADABLE, text))
        except sqlite3.Error as error:
            text = f"the database cannot be read: {error}; nothing behind that was checked"
            self.problems.append(Problem(None, None, None, UNREADABLE, text))
        self._end()

    def _check(self, page: Sequence[Notification]) -> None:
        # The digest of `chain.digest`, written out: a call for each event would be a tenth of the whole.
        stream, last, tail = self._stream, self._last, self._tail
        add, odd = self.positions.add, self._rows.odd
        for stored in page:
            id: Any = stored.originator_id
            version = stored.originator_version
            topic, state, position = stored.topic, stored.state, stored.id
            add(position)
            if id != stream or last is None:
                self._last = last
                self._end()
                stream = self._stream = cast(str, id)
                last, tail = None, chain.GENESIS
                self.histories += 1
                if not isinstance(id, str):
                    self._suspect()
                elif version != 1 and topic == _TOPIC:
                    tail = self._set_stone(stored)
                elif version != 1:
                    self._suspect()
            try:
                if last is not None and (version != last.originator_version + 1 or position <= last.id):
                    self._suspect()
                if not state.startswith(tail) or topic not in CATALOGUE or position in odd:
                    self._suspect()
                tail = sha256(f"{id}\n{version}\n{topic}\n".encode() + state).digest()
            except (TypeError, AttributeError, UnicodeError):
                self._suspect()
            last = stored
        self._last, self._tail = last, tail

    def _end(self) -> None:
        """The history is over: nothing vouches for its last event, so it has to be one at least."""
        if self._last is None:
            return
        try:
            decode(self._last)
        except _UNDECODABLE:
            self._suspect()
        self._last = None

    def _suspect(self) -> None:
        self.broken[self._stream] = None

    # -- what is archived ---------------------------------------------------------------------------------------------

    def _set_stone(self, stored: Notification) -> bytes:
        """Notes what is archived of a history; what the stone says is the digest of the last of it."""
        try:
            stone = decode(stored).event
            assert isinstance(stone, HistoryArchived)
            if stone.versions + 1 != stored.originator_version or stone.last >= stored.id:
                self._suspect()
            tail = bytes.fromhex(stone.digest)
        except _UNDECODABLE:
            self._suspect()
            return chain.GENESIS
        self._stones.setdefault((stone.file, stone.offset), {})[self._stream] = stone
        return tail

    def _check_archived(self) -> None:
        """Each block is read once; where it is not sound, once more for each history, to see whose is not."""
        archive = self._log.archive
        for stones in self._stones.values():
            seen: dict[object, int] = {}
            try:
                for found in blocks.histories(archive, stones):
                    if not self._seen(found, seen):
                        self.broken[str(found.originator_id)] = None
                self.events += sum(stone.versions for stone in stones.values())
            except _UNDECODABLE:
                for stream, stone in stones.items():
                    self._check_alone(stream, stone)
        self._stones.clear()

    def _check_alone(self, stream: str, stone: HistoryArchived) -> None:
        seen: dict[object, int] = {}
        try:
            in_order = [self._seen(found, seen) for found in blocks.history(self._log.archive, stream, stone)]
            self.events += len(in_order)
            if all(in_order):
                return
        except _UNDECODABLE:
            with suppress(*_UNDECODABLE):
                for found in blocks.unchecked(self._log.archive, stream, stone):
                    self._seen(found, seen)
                    self.events += 1
        self.broken[stream] = None

    def _seen(self, found: Notification, last: dict[object, int]) -> bool:
        """Notes an archived event's position; whether it is behind that of the one before it."""
        self.positions.add(found.id)
        before, last[found.originator_id] = last.get(found.originator_id, 0), found.id
        return found.id > before


def _unknown_positions(scan: _Scan, head: int, now: int, missing: int, further: int) -> list[Problem]:
    """Positions that no event has, beyond those that are known to be missing from histories."""
    problems: list[Problem] = []
    gaps = scan.positions.missing(head)
    count = sum(last - first + 1 for first, last in gaps)
    if count > missing and not further:
        text = f"{_events(count)} of the log stand in no history any more, at position {shown(gaps)}"
        if missing:
            text += f"; {missing:,} of them were told of"
        text += ": the end of a history was removed, or a whole one"
        problems.append(Problem(None, None, gaps[0][0], REMOVED, text))
    beyond = scan.positions.greatest
    if beyond > now:
        text = f"position {beyond} is beyond {now}, the last one that the log gave"
        problems.append(Problem(None, None, beyond, INSERTED, text))
    return problems


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


# -- looking into broken histories ------------------------------------------------------------------------------------


def _looked_into(log: Log, streams: Iterable[str], positions: Positions) -> tuple[list[Problem], int]:
    """What is wrong with these histories, and how many events are known to be missing from them."""
    elsewhere = Elsewhere()
    broken: list[str] = []
    for stream in streams:
        history = _History(log, stream, elsewhere)
        if history.problems:
            broken.append(stream)
        # What was archived after the pass had begun with it was not seen by the pass.
        for row in history.rows:
            positions.add(row.id)
    if broken and (elsewhere.links or elsewhere.gaps):
        _search(log, elsewhere)
    problems: list[Problem] = []
    missing = 0
    for stream in broken:
        history = _History(log, stream, elsewhere)
        problems += history.problems
        missing += history.missing
    return problems, missing


def _search(log: Log, elsewhere: Elsewhere) -> None:
    with suppress(UnreadableName):  # which is told of already
        for page in Rows(log).pages():
            for row in map(plain, page):
                if row is not None:
                    elsewhere.look(row)


@dataclass(slots=True)
class _Archived:
    """What of a history is archived, as far as it can be read."""

    events: list[Notification] = field(default_factory=list[Notification])
    stone: HistoryArchived | None = None
    problem: Problem | None = None


class _History:
    """One history as a whole, and what is wrong with it.

    Attributes:
        rows: its events.
        problems: what is wrong.
        missing: how many of its events are known to have left their positions.
    """

    def __init__(self, log: Log, stream: str, elsewhere: Elsewhere) -> None:
        self._stream = stream
        self.problems: list[Problem] = []
        reader = Rows(log)
        stored = _read(reader, stream)
        rows = [row for row in map(plain, stored) if row is not None]
        for each in stored:
            if plain(each) is None:
                self._add(each, CHANGED, "its version is no number", version=False)
        odd = {each.id: TYPES for each in stored if plain(each) is not each} | reader.odd
        archived = _archived(log, stream, rows)
        rows = [*archived.events, *rows]
        self.rows = rows
        hidden = archived.stone.versions if archived.problem is not None and archived.stone is not None else 0
        walk = Walk(stream, rows, elsewhere, start=hidden)
        walk.run()
        self.missing = walk.missing + hidden
        self.problems += walk.problems
        if archived.problem is not None:
            self.problems.append(archived.problem)
        if not self.problems:
            self._check_stone(rows, archived)
        if not self.problems:
            self._check_order(rows)
        self._check_readable(rows, odd)
        self.problems.sort(key=lambda problem: problem.version or 0)

    def _check_stone(self, rows: Sequence[Notification], archived: _Archived) -> None:
        stone, count = archived.stone, len(archived.events)
        if stone is None or archived.problem is not None:
            return
        said = (stone.versions, stone.digest, stone.first, stone.last)
        events = archived.events
        if said != (count, rows[count].state[: chain.SIZE].hex(), events[0].id, events[-1].id):
            text = "what it says of the events that were archived is not what the archive has"
            self._add(rows[count], CHANGED, text)

    def _check_order(self, rows: Sequence[Notification]) -> None:
        """Whether positions rise with versions; the one that was changed is the one without which they would."""
        for number in range(1, len(rows)):
            before, row = rows[number - 1], rows[number]
            if row.id > before.id:
                continue
            earlier = rows[number - 2].id if number > 1 else 0
            bad = before if earlier < row.id else row
            text = f"position {before.id} of version {before.originator_version} is behind "
            self._add(bad, REORDERED, f"{text}position {row.id} of version {row.originator_version}")

    def _check_readable(self, rows: Sequence[Notification], odd: Mapping[int, str]) -> None:
        told = {problem.version for problem in self.problems if problem.kind != REMOVED}
        for row in rows:
            if row.originator_version in told:
                continue
            if row.id in odd:
                self._add(row, CHANGED, odd[row.id])
                continue
            try:
                decode(row)
            except UnknownEvent as error:
                self._add(row, UNREADABLE, f"it was changed, or a newer release wrote it: {error}")
            except _UNDECODABLE as error:
                self._add(row, CHANGED, f"it is no event any more: {error}")

    def _add(self, row: Notification, kind: str, text: str, *, version: bool = True) -> None:
        number = row.originator_version if version else None
        self.problems.append(Problem(self._stream, number, row.id, kind, text))


def _read(reader: Rows, stream: str) -> list[Notification]:
    """All that stands in the log under this name."""
    found: list[Notification] = []
    with suppress(UnreadableName):
        for page in reader.pages(stream):
            own = [stored for stored in page if stored.originator_id == stream]
            found += own
            if len(own) < len(page):
                break
    again = next(reader.pages(stream), ())
    if found and again and again[0].id != found[0].id:
        # Archived meanwhile, between two pages perhaps: what is in the log now is all that counts.
        return [stored for stored in again if stored.originator_id == stream]
    return found


def _archived(log: Log, stream: str, rows: Sequence[Notification]) -> _Archived:
    found, file = _Archived(), ""
    if not rows or rows[0].originator_version == 1 or rows[0].topic != _TOPIC:
        return found
    try:
        event = decode(rows[0]).event
        assert isinstance(event, HistoryArchived)
        found.stone = event
        file = event.file
        events = map(plain, blocks.unchecked(log.archive, stream, event))
        found.events = [row for row in events if row is not None]
    except ArchiveUnavailable as error:
        found.problem = Problem(stream, 1, None, UNREADABLE, str(error))
    except _UNDECODABLE:
        return found  # the walk finds versions missing
    if found.problem is None and not found.events:
        text = f"none of its events is in {log.archive.where}/{file} where the log says"
        found.problem = Problem(stream, 1, None, REMOVED, text)
    return found
