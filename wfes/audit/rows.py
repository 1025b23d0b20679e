"""Reading rows that somebody may have tampered with: what a database without types kept in a column, and text that is
none, must not hide the event, nor those behind it.

Invariants: a row comes out as one whose digest can be computed, or as one that has no place at all; what had to be
made of it is known, for that alone shows that it was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eventsourcing.persistence import Notification

from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.log.statements import statement

PAGE = 2_000
"""Events read at once."""
BEFORE_ALL = -(2**63)
"""Before the first version of any history, those that nobody gave included."""


class UnreadableName(Exception):
    """The name of a history is no text, so that nobody can say where the next one begins."""


class Rows:
    """Reads a log in the order of histories and versions.

    Attributes:
        odd: positions of rows that could be read only as bytes.
    """

    def __init__(self, log: Log) -> None:
        """Makes one on an open log."""
        self._log = log
        self.odd: set[int] = set()

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

    def _page(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        while True:
            try:
                return self._log.select_by_stream(stream, version, limit)
            except WfesError:
                raise
            except Exception:
                # One value that is no text makes the whole page unreadable: shorter ones lead up to it.
                if self._log.dialect != "sqlite":
                    raise
                limit //= 2
                if not limit:
                    return self._as_bytes(stream, version)

    def _as_bytes(self, stream: str, version: int) -> Sequence[Notification]:
        found = self._log.read(statement("sqlite", "select_as_bytes"), {"stream": stream, "version": version})
        rows: list[Notification] = []
        for name, number, topic, state, position in found:
            try:
                id = name.decode()
            except UnicodeError as error:
                where = f"behind version {version} of {stream}" if stream else "at the beginning"
                raise UnreadableName(f"the name {name!r} {where}, at position {position}") from error
            self.odd.add(position)
            rows.append(Notification(id, number, topic.decode(errors="backslashreplace"), state, position))
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
