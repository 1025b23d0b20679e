"""What a projection reads of the log: bounded pages in the order of positions, from any position on.

Invariants: a page says up to where everything of its topics has been given, so that a reader is as far as the log also
where nothing concerned it; what has left the log for the archives comes from there, at its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from eventsourcing.persistence import Notification

from wfes.core.events import Recorded
from wfes.log.application import decode
from wfes.log.archived import missed, whole_log
from wfes.log.port import Log

PAGE = 2_000
"""Events of a page at most."""
WINDOW = 50_000
"""Positions of a page at most: where few events are of the topics, a read still ends soon."""


class Feed:
    """Reads a log on, page by page.

    Args:
        log: an open log.
        topics: only events of these; none: of all.
        page: events of a page at most.
    """

    def __init__(self, log: Log, topics: Sequence[str] = (), page: int = PAGE) -> None:
        self._log = log
        self._topics = tuple(topics)
        self._page = page
        self._whole: Iterator[Notification] | None = None
        self._whole_end = 0
        self._at = -1

    def read(self, after: int, head: int) -> tuple[list[Recorded], int]:
        """The next events behind a position, and the position up to which these are all.

        Args:
            after: the position.
            head: the log's newest position, or an earlier one: nothing behind it is read.

        Raises:
            LogUnavailable, ArchiveUnavailable: the log, or an archive, cannot be read.
            UnknownEvent: a newer release wrote an event.
        """
        if head <= after:
            return [], after
        if self._whole is not None and self._at == after:
            return self._read_whole(self._whole, head)
        self._whole = None
        stop = min(head, after + WINDOW)
        stored = self._log.select_notifications(
            after, self._page, stop, self._topics, inclusive_of_start=False
        )
        # Only now: what left the log before this page was read is known.
        if missed(self._log, after):
            self._whole_end = self._log.max_notification_id()
            self._whole = whole_log(self._log, after, self._topics, upto=self._whole_end)
            return self._read_whole(self._whole, head)
        upto = stored[-1].id if len(stored) == self._page else stop
        return [decode(each) for each in stored], upto

    def _read_whole(self, whole: Iterator[Notification], head: int) -> tuple[list[Recorded], int]:
        events = [decode(each) for each in islice(whole, self._page)]
        upto = self._whole_end
        if len(events) == self._page:
            upto = self._at = events[-1].position
        else:
            # What came after the iterator was made is read from the log again.
            self._whole = None
        if upto > head:
            self._whole = None
            return [recorded for recorded in events if recorded.position <= head], head
        return events, upto
