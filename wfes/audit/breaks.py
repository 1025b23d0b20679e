"""What is wrong with one history whose chain does not hold: which event is the first bad one, and what became of it.

A digest covers an event's place, its type and all that is stored of it, and stands in the next event. So where event
N + 1 carries another digest than N has, N is what was changed, unless another event claims N's place, or N + 1's own
link was. `Walk` goes through the history once and names each break by the first of these that can be shown:

1. an event says that it follows the one before last: what stands between was *inserted*;
2. it says that it follows an event of another history: it was *re-attributed*;
3. another event of this history says that it follows here: they were *reordered*;
4. the next event vouches for this one: its predecessor was *changed*; or vouches for it with the right link: its link
   was; or under a later number: those before it were *removed*, and the rest renumbered.

Invariants: pure; it goes on behind each break, so later ones are found as well. Where nothing behind an event vouches
for anything (the last two of a history) the text says what else it could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eventsourcing.persistence import Notification

from wfes.audit.findings import CHANGED, INSERTED, REATTRIBUTED, REMOVED, REORDERED, Problem
from wfes.core import chain
from wfes.core.events import CATALOGUE
from wfes.errors import UnknownEvent
from wfes.log.application import decode

RENUMBERED_MAX = 32
"""By how much events are tried to have been renumbered."""
_ALIKE_BITS = 64
"""Two digests that differ in fewer bits are one digest, changed: two of different events differ in about 128."""

Place = tuple[str, int]
"""A stream and a version in it."""


@dataclass(slots=True)
class Gap:
    """A place in a history whose event is not there.

    Attributes:
        place: the place.
        digest: what the event's digest is to be, where its successor is there.
    """

    place: Place
    digest: bytes | None


@dataclass(slots=True)
class Elsewhere:
    """What a look through the whole log is asked for, and what it found.

    Attributes:
        links: digests; whose they are is asked for.
        gaps: by the digest that the missing event carries, the places that miss it.
        homes: by digest, the event that has it.
        strays: by the place that misses an event, where it stands instead.
    """

    links: set[bytes] = field(default_factory=set[bytes])
    gaps: dict[bytes, list[Gap]] = field(default_factory=dict[bytes, list[Gap]])
    homes: dict[bytes, Place] = field(default_factory=dict[bytes, Place])
    strays: dict[Place, Place] = field(default_factory=dict[Place, Place])

    def look(self, stored: Notification) -> None:
        """Looks at an event of the log."""
        stream, version = str(stored.originator_id), stored.originator_version
        found = chain.digest(stream, version, stored.topic, stored.state)
        if found in self.links:
            self.homes[found] = (stream, version)
        for gap in self.gaps.get(stored.state[: chain.SIZE], ()):
            if gap.place == (stream, version):
                continue
            there = chain.digest(*gap.place, stored.topic, stored.state)
            if gap.digest == there or (gap.digest is None and stored.state[: chain.SIZE] != chain.GENESIS):
                self.strays[gap.place] = (stream, version)


class Walk:
    """Goes through one history.

    Attributes:
        problems: what is wrong, in order.
        missing: how many events are known not to be there.
        tail: the digest of the last event.
    """

    def __init__(
        self, stream: str, rows: Sequence[Notification], elsewhere: Elsewhere, *, start: int = 0
    ) -> None:
        """Makes one.

        Args:
            stream: whose history.
            rows: its events by version.
            elsewhere: what is known of the rest of the log; what is to be looked for is added to it.
            start: how many events stand somewhere that cannot be read; the first row's link is taken as right then.
        """
        self.problems: list[Problem] = []
        self.missing = 0
        self.tail = rows[0].state[: chain.SIZE] if start and rows else chain.GENESIS
        self._stream = stream
        self._rows = rows
        self._elsewhere = elsewhere
        self._claims = {row.state[: chain.SIZE]: number for number, row in enumerate(rows)}
        """By link, the row that says that it follows there."""
        self._tail_before: bytes | None = None
        self._true = self._stored = start
        """What the last sound event's version was when it was written, and the last row's as it stands now."""
        self._before: Notification | None = None
        self._replaced = False
        """Whether something else stands where the next event's predecessor stood."""
        self._moved: set[int] = set()
        self._foreign: dict[int, int] = {}
        """Rows that are not of this place, each with its problem."""

    def run(self) -> None:
        """Finds all there is."""
        for number, row in enumerate(self._rows):
            if number in self._moved:
                self._stored = max(self._stored, row.originator_version)
                continue
            self._take(number, row)

    def _take(self, number: int, row: Notification) -> None:
        following = self._rows[number + 1] if number + 1 < len(self._rows) else None
        step = row.originator_version - self._stored
        if row.state[: chain.SIZE] == self.tail:
            if step > 1:
                self._numbered_wrong(row, following)
            else:
                self._accept(row, self._true + 1)
        elif step != 1:
            self._at_gap(number, row, step)
        else:
            self._unlinked(number, row, following)

    # -- where a number is missing ------------------------------------------------------------------------------------

    def _numbered_wrong(self, row: Notification, following: Notification | None) -> None:
        first, version = self._true + 1, row.originator_version
        if self._vouched(row, version, following):
            self._removed(row, first, version - 1, "and what is behind them was chained anew")
            self._accept(row, version)
            return
        text = f"event {first} of this history stands as version {version}, with none between"
        self._add(row, REORDERED, text, version=first)
        self._accept(row, first)

    def _at_gap(self, number: int, row: Notification, step: int) -> None:
        if self._is_from_elsewhere(number, row):
            return
        if step < 1:
            self._add(row, INSERTED, "no event of a history has such a number")
            self._put_aside(number, row)
            return
        link = row.state[: chain.SIZE]
        while (other := self._claims.get(self.tail)) is not None and self.tail != link and other != number:
            if other in self._moved:
                break
            self._put_back(other)
        if self.tail == link:
            self._accept(row, self._true + 1)
        else:
            shift = self._stored - self._true
            self._gone(row, self._true + 1, row.originator_version - shift - 1)
            self._accept(row, row.originator_version - shift)

    def _gone(self, row: Notification, first: int, last: int) -> None:
        place = (self._stream, first)
        stray = self._elsewhere.strays.get(place)
        if stray is not None:
            text = f"the event stands in {stray[0]} as version {stray[1]}"
            self._add(None, REATTRIBUTED, text, version=first)
            first += 1
        elif first <= last:
            expected = row.state[: chain.SIZE] if first == last else None
            self._elsewhere.gaps.setdefault(self.tail, []).append(Gap(place, expected))
        if first <= last:
            self._removed(row, first, last)

    def _removed(self, row: Notification, first: int, last: int, more: str = "") -> None:
        self.missing += last - first + 1
        what = "the event is missing" if first == last else f"versions {first} to {last} are missing"
        text = f"{what}; version {row.originator_version} comes next" + (f", {more}" if more else "")
        self._add(None, REMOVED, text, version=first)

    # -- where the chain does not hold --------------------------------------------------------------------------------

    def _unlinked(self, number: int, row: Notification, following: Notification | None) -> None:
        link = row.state[: chain.SIZE]
        if self._before is not None and link == self._tail_before:
            text = "the event behind it follows on the one before it"
            self._add(self._before, INSERTED, text)
            self._accept(row, self._true)
        elif self._is_from_elsewhere(number, row) or self._is_out_of_order(number, row):
            pass
        elif self._replaced:
            # What stood between is gone, which was said of what stands there now.
            self.missing += 1
            self._accept(row, row.originator_version - self._stored + self._true + 1)
        elif self._vouched(row, self._true + 1, following):
            self._changed_before(row)
            self._accept(row, self._true + 1)
        elif following is not None and self._digest(row, self._true + 1, self.tail) == _link(following):
            self._add(row, CHANGED, "what it says of its predecessor was changed")
            self._accept(row, self._true + 1)
            self.tail = _link(following)
        elif (removed := self._renumbered(row, following)) is not None:
            self._removed(
                row, self._true + 1, self._true + removed, "and the versions behind them were renumbered"
            )
            self._accept(row, self._true + removed + 1)
        else:
            self._unvouched(number, row, following)

    def _unvouched(self, number: int, row: Notification, following: Notification | None) -> None:
        link = row.state[: chain.SIZE]
        home = self._elsewhere.homes.get(link)
        if home is not None:
            self._add(row, INSERTED, f"the event that stands here says that it is behind version {home[1]}")
            self._put_aside(number, row)
            return
        if not is_readable(row):
            self._add(row, CHANGED, "it is no event any more")
        elif self._before is None or _apart(link, self.tail) < _ALIKE_BITS:
            self._add(row, CHANGED, "what it says of its predecessor was changed")
        else:
            self._elsewhere.links.add(link)
            if following is None:
                self._changed_before(row, "; or that, which is the last one")
            else:
                self._changed_before(row)
        self._accept(row, self._true + 1)

    def _changed_before(self, row: Notification, more: str = "") -> None:
        if self._before is None:
            self._add(row, CHANGED, "it begins the history, and says that another event was before it")
            return
        text = f"its bytes are not those that version {row.originator_version} says it follows{more}"
        self._add(self._before, CHANGED, text)

    def _is_from_elsewhere(self, number: int, row: Notification) -> bool:
        link = row.state[: chain.SIZE]
        home = self._elsewhere.homes.get(link)
        if home is not None and home[0] != self._stream:
            text = f"the event that stands here belongs to {home[0]}, behind version {home[1]}"
            self._add(row, REATTRIBUTED, text)
            self._put_aside(number, row)
            return True
        if link == chain.GENESIS and self._true:
            self._add(row, INSERTED, "it is the first event of a history, and stands in the midst of one")
            self._put_aside(number, row)
            return True
        if home is None:
            self._elsewhere.links.add(link)
        return False

    def _is_out_of_order(self, number: int, row: Notification) -> bool:
        """Whether another row says that it follows on the last sound event; all such are put where they belong."""
        other = self._claims.get(self.tail)
        if other is None or other == number or other in self._moved:
            return False
        if other == number + 1:
            self._add(row, INSERTED, "the event behind it follows on the one before it")
            self._put_aside(number, row)
            return True
        link = row.state[: chain.SIZE]
        while other is not None and other not in self._moved and other != number and self.tail != link:
            self._put_back(other)
            other = self._claims.get(self.tail)
            if other is not None and other >= number:
                break
        if link == self.tail:
            self._accept(row, self._true + 1)
        else:
            self._foreign[number] = -1
            self._put_aside(number, row)
            self._replaced = False
        return True

    def _renumbered(self, row: Notification, following: Notification | None) -> int | None:
        """How many events were removed before it, if it and those behind it were renumbered then."""
        for removed in range(1, RENUMBERED_MAX):
            if self._vouched(row, self._true + 1 + removed, following):
                return removed
        return None

    # -- going on -----------------------------------------------------------------------------------------------------

    def _accept(self, row: Notification, true: int) -> None:
        """The row is the event that was written as this version."""
        self._tail_before, self.tail = self.tail, self._digest(row, true)
        self._true, self._stored = true, row.originator_version
        self._before = row
        self._replaced = False

    def _put_aside(self, number: int, row: Notification) -> None:
        """The row is not of this place; the last problem says so, if there is one."""
        self._foreign.setdefault(number, len(self.problems) - 1)
        self._stored = max(self._stored, row.originator_version)
        self._replaced = True

    def _put_back(self, other: int) -> None:
        """The next event in order stands elsewhere in this history."""
        row, true = self._rows[other], self._true + 1
        text = f"event {true} of this history stands as version {row.originator_version}"
        problem = Problem(self._stream, true, row.id, REORDERED, text)
        known = self._foreign.get(other, -1)
        if known >= 0:
            there = self.problems[known]
            self.problems[known] = Problem(self._stream, there.version, there.position, REORDERED, text)
        else:
            self.problems.append(problem)
        self._moved.add(other)
        self._tail_before, self.tail = self.tail, self._digest(row, true)
        self._true, self._before = true, row

    def _vouched(self, row: Notification, version: int, following: Notification | None) -> bool:
        return following is not None and self._digest(row, version) == _link(following)

    def _digest(self, row: Notification, version: int, link: bytes | None = None) -> bytes:
        state = row.state if link is None else link + row.state[chain.SIZE :]
        return chain.digest(self._stream, version, row.topic, state)

    def _add(self, row: Notification | None, kind: str, text: str, *, version: int | None = None) -> None:
        number = version if version is not None or row is None else row.originator_version
        position = None if row is None else row.id
        if self.problems and (self.problems[-1].version, self.problems[-1].kind) == (number, kind):
            return  # It is told of already, for another reason.
        self.problems.append(Problem(self._stream, number, position, kind, text))


def is_readable(row: Notification) -> bool:
    """Whether what is stored is an event, as far as that shows by itself."""
    try:
        decode(row)
    except UnknownEvent:
        return row.topic not in CATALOGUE  # of a newer release, perhaps
    except (ValueError, TypeError, AttributeError, KeyError):
        return False
    return True


def _link(row: Notification) -> bytes:
    return row.state[: chain.SIZE]


def _apart(one: bytes, other: bytes) -> int:
    """In how many bits they differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()
