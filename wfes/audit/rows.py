"""Reading rows that somebody may have tampered with: what a database without types kept in a column, and text that is
none, must not hide the event, nor those behind it.

Invariants: a row comes out as one whose digest can be computed, or as one that has no place at all; what had to be
made of it is known, for that alone shows that it was changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from eventsourcing.persistence import Notification

from wfes.log.port import Log
from wfes.log.statements import statement

PAGE = 2_000
"""Events read at once."""
BEFORE_ALL = -(2**63)
"""Before the first version of any history, those that nobody gave included."""
TYPES = "it is stored as values of other types"
_IN_MEMORY = "sqlite://"


class UnreadableName(Exception):
    """The name of a history is no text, so that nobody can say where the next one begins."""


class Rows:
    """Reads a log in the order of histories and versions.

    SQLite keeps names and versions twice, in the table and in its index, and reads whichever is at hand; here both are
    read, for in a damaged or edited file they may differ.

    Attributes:
        odd: by position, what is wrong with how a row is stored.
    """

    def __init__(self, log: Log) -> None:
        """Makes one on an open log."""
        self._log = log
        self._page = (
            self._of_file if log.dialect == "sqlite" and log.url != _IN_MEMORY else log.select_by_stream
        )
        self.odd: dict[int, str] = {}

    def pages(self, stream: str = "", version: int = BEFORE_ALL) -> Iterator[Sequence[Notification]]:
        """Everything behind a place, page by page.

        Raises:
            LogUnavailable: the log cannot be read.
            UnreadableName: what comes next cannot be named; what was before it was given.
        """
        while page := self._page(stream, version, PAGE):
            yield page
            # What the database has there, whatever it is: the next page begins behind it.
            last: Any = page[-1]
            stream, version = last.originator_id, last.originator_version

    def _of_file(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        while True:
            place = {"stream": stream, "version": version}
            try:
                found = self._log.read(statement("sqlite", "select_stored"), {**place, "limit": limit})
                return [self._row(*row) for row in found]
            except sqlite3.OperationalError:
                # One value that is no text makes the whole page unreadable: shorter ones lead up to it.
                limit //= 2
                if not limit:
                    return self._as_bytes(place)

    def _row(
        self, id: Any, version: Any, topic: Any, state: Any, position: int, entry: Any, number: Any
    ) -> Notification:
        if id != entry or version != number:
            self.odd[position] = f"the table has it as version {version} of {id}, its index as this"
        return Notification(entry, number, topic, state, position)

    def _as_bytes(self, place: dict[str, Any]) -> Sequence[Notification]:
        rows: list[Notification] = []
        found = self._log.read(statement("sqlite", "select_as_bytes"), place)
        for name, version, topic, state, position, entry, number in found:
            try:
                id = entry.decode()
            except UnicodeError as error:
                stream = place["stream"]
                where = f"behind version {place['version']} of {stream}" if stream else "at the beginning"
                raise UnreadableName(f"the name {entry!r} {where}, at position {position}") from error
            self.odd[position] = TYPES
            shown = name.decode(errors="backslashreplace")
            rows.append(
                self._row(
                    shown, version, topic.decode(errors="backslashreplace"), state, position, id, number
                )
            )
        return rows


def plain(stored: Notification) -> Notification | None:
    """The row with values of the right types, the very same if it had them; None: its version is no number."""
    id: Any = stored.originator_id
    version: Any = stored.originator_version
    topic: Any = stored.topic
    state: Any = stored.state
    if not isinstance(version, int):
        return None
    if isinstance(state, bytes) and isinstance(topic, str) and isinstance(id, str):
        return stored
    if not isinstance(state, bytes):
        state = str(state).encode(errors="surrogateescape")
    return Notification(str(id), version, str(topic), state, stored.id)
