"""Ticks: the moments at which a schedule is due.

croniter says on which days an expression ticks, as it reads the fields of the date; the times of such a day are its
hours, minutes and seconds. Both are *nominal*: what a clock on the wall of that place shows. Which moment a nominal
time is, is decided here, for a place may skip an hour or have it twice:

* Where the hour field is *fixed* (it does not begin with `*`), every nominal time is one tick. In a skipped hour it is
  due at the end of the gap; in a repeated one it is due the first time.
* Where the hour field is a *wildcard*, ticks follow elapsed time: nominal times in a gap do not exist, and those of a
  repeated hour come twice.

Invariants: a tick's name is its nominal time with its offset from UTC (in a gap: the offset before it), so no two ticks
of an expression have the same name; ticks are ordered by due moment and name, strictly; nothing here reads a clock.
Times that lie in the same gap are due at the same moment, and only their names tell them apart.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from wfes.core.durations import DAY, HOUR, MINUTE, SECOND
from wfes.core.moments import MOMENT_MAX
from wfes.core.schedules import ALL, Cursor, Missed, Tick

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_ONE_DAY = timedelta(days=1)
_SHIFT_MAX = 2 * _ONE_DAY
"""More than any place has ever skipped or repeated at once."""
_LOOK_BACK = (MINUTE, HOUR, DAY, 32 * DAY, 367 * DAY, 9 * 366 * DAY, 41 * 366 * DAY)
"""How far back the last tick is looked for, one after the other."""
_WILDCARD = "*"


@lru_cache(maxsize=1_000)
def ticks_of(cron: str, zone: str) -> Ticks:
    """The ticks of a cron expression in a time zone.

    Args:
        cron: five fields, or six with seconds last; checked by `wfes.schedule`.
        zone: an IANA name.

    Raises:
        ValueError: this machine knows no such zone, or the expression cannot be read.
    """
    return Ticks(cron, zone)


@dataclass(frozen=True, slots=True)
class _Place:
    """A nominal time as it is in a zone: its moments in microseconds, and their offsets."""

    first: int
    offset: timedelta
    second: int | None = None
    second_offset: timedelta | None = None
    gap: bool = False


class Ticks:
    """The ticks of one expression in one zone, in order."""

    def __init__(self, cron: str, zone: str) -> None:
        """See `ticks_of`."""
        fields = cron.split()
        try:
            self.zone = ZoneInfo(zone)
            # The date's fields alone: midnight of each day that ticks.
            self._days = " ".join(["0", "0", *fields[2:5]])
            expanded = croniter.expand(cron)[0]
            self._minutes = _numbers(expanded[0], 60)
            self._hours = _numbers(expanded[1], 24)
            self._seconds = _numbers(expanded[5], 60) if len(expanded) > 5 else [0]
        except (LookupError, OSError, CroniterError) as error:
            raise ValueError(f"schedule {cron!r} in time zone {zone!r} cannot be read: {error}") from error
        self.elapsed = fields[1].startswith(_WILDCARD)
        """Whether its ticks follow elapsed time."""

    # -- Asking --------------------------------------------------------------------------------------------------

    def after(self, cursor: Cursor) -> Iterator[Tick]:
        """Every tick behind the cursor, in order, as far as there are any."""
        pending: deque[Tick] = deque()
        for nominal in self._nominal(self._begin(cursor)):
            place = self._place(nominal)
            if place.first > MOMENT_MAX:
                return
            first = Tick(place.first, _name(nominal, place.offset))
            while pending and pending[0] < first:
                yield pending.popleft()
            if not (place.gap and self.elapsed) and first > cursor:
                yield first
            if self.elapsed and place.second is not None and place.second_offset is not None:
                again = Tick(place.second, _name(nominal, place.second_offset))
                if again > cursor:
                    pending.append(again)
        yield from pending

    def next(self, cursor: Cursor) -> Tick | None:
        """The first tick behind the cursor."""
        return next(self.after(cursor), None)

    def between(self, start: int, end: int) -> Iterator[Tick]:
        """The ticks due from `start` to `end`, both included; microseconds."""
        return self.upto((start - 1, ALL), end)

    def upto(self, cursor: Cursor, end: int) -> Iterator[Tick]:
        """The ticks behind the cursor that are due at `end` or before."""
        return itertools.takewhile(lambda tick: tick.at <= end, self.after(cursor))

    def tail(self, cursor: Cursor, end: int, size: int = 1) -> list[Tick]:
        """The last ticks behind the cursor that are due at `end` or before, at most `size` of them, in order."""
        found: deque[Tick] = deque()
        for back in _LOOK_BACK:
            start = max(cursor, (end - back, ALL))
            found = deque(self.upto(start, end), maxlen=size)
            if len(found) == size or start == cursor:
                break
        return list(found)

    def missed(self, cursor: Cursor, end: int) -> tuple[Missed | None, Missed | None]:
        """The ticks behind the cursor that are due at `end` or before, and the same without the last of them."""
        first = self.next(cursor)
        if first is None or first.at > end:
            return None, None
        tail = self.tail(cursor, end, 2)
        if len(tail) == 1:
            return Missed(first, first, 1), None
        size = self.count(cursor, end)
        return Missed(first, tail[1], size), Missed(first, tail[0], size - 1)

    def count(self, cursor: Cursor, end: int) -> int:
        """How many ticks behind the cursor are due at `end` or before; quick for long times, too."""
        if (end, ALL) <= cursor:
            return 0
        first, last = self._local(cursor[0]), self._local(end)
        total = 0
        for day in self._each_day(first.date() - _SHIFT_MAX):
            if day > last.date() + _SHIFT_MAX:
                break
            if first.date() + _ONE_DAY < day < last.date() - _ONE_DAY and self._is_plain(day):
                total += len(self._times)
            else:
                total += sum(cursor < tick and tick.at <= end for tick in self._of_day(day))
        return total

    # -- Nominal times ---------------------------------------------------------------------------------------------

    @cached_property
    def _times(self) -> list[int]:
        """The nominal times of a day that ticks, in seconds."""
        return [
            (hour * 60 + minute) * 60 + second
            for hour in self._hours
            for minute in self._minutes
            for second in self._seconds
        ]

    def _begin(self, cursor: Cursor) -> datetime:
        """A nominal time before that of every tick behind the cursor, or its own, and not much earlier."""
        at, name = cursor
        # Of the same gap some may be decided and some not: only the name tells.
        named = _nominal_of(name)
        local = self._local(at)
        start = local if named is None else min(local, named)
        if self.elapsed:
            # In a repeated hour those before this nominal time come again.
            place = self._place(start)
            if place.second is not None:
                start -= (place.second - place.first) * _MICROSECOND
        return start

    def _nominal(self, start: datetime) -> Iterator[datetime]:
        """The nominal times from `start` on."""
        times = self._times
        for day in self._each_day(start.date()):
            midnight = datetime(day.year, day.month, day.day)
            begin = bisect_left(times, (start - midnight).total_seconds()) if day == start.date() else 0
            for seconds in itertools.islice(times, begin, None):
                yield midnight + timedelta(seconds=seconds)

    def _each_day(self, start: date) -> Iterator[date]:
        """The days that tick, from `start` on."""
        before = datetime(start.year, start.month, start.day) - timedelta(seconds=1)
        days = croniter(self._days, before)
        while True:
            try:
                found: datetime = days.get_next(datetime)
            except (CroniterError, OverflowError, ValueError):
                return  # no more of them, or beyond the last year of a datetime
            if found.year > 9998:
                return
            yield found.date()

    def _of_day(self, day: date) -> Iterator[Tick]:
        midnight = datetime(day.year, day.month, day.day)
        for seconds in self._times:
            nominal = midnight + timedelta(seconds=seconds)
            place = self._place(nominal)
            if not (place.gap and self.elapsed):
                yield Tick(place.first, _name(nominal, place.offset))
            if self.elapsed and place.second is not None and place.second_offset is not None:
                yield Tick(place.second, _name(nominal, place.second_offset))

    # -- The zone --------------------------------------------------------------------------------------------------

    def _local(self, at: int) -> datetime:
        return (_EPOCH + at * _MICROSECOND).astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, nominal: datetime, fold: int) -> timedelta:
        offset = nominal.replace(tzinfo=self.zone, fold=fold).utcoffset()
        assert offset is not None
        return offset

    def _place(self, nominal: datetime) -> _Place:
        before, after = self._offset(nominal, 0), self._offset(nominal, 1)
        first = _micros(nominal - before)
        if before == after:
            return _Place(first, before)
        if before > after:
            return _Place(first, before, _micros(nominal - after), after)
        return _Place(self._gap_end(_micros(nominal - after), first), before, gap=True)

    def _gap_end(self, low: int, high: int) -> int:
        """The moment between these two at which the offset changes; microseconds."""
        before = self._offset_at(low)
        below, above = low // SECOND, high // SECOND
        while above - below > 1:
            middle = (below + above) // 2
            if self._offset_at(middle * SECOND) == before:
                below = middle
            else:
                above = middle
        return above * SECOND

    def _offset_at(self, at: int) -> timedelta:
        offset = (_EPOCH + at * _MICROSECOND).astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset

    def _is_plain(self, day: date) -> bool:
        """Whether nothing is skipped or repeated around this day."""
        midnight = datetime(day.year, day.month, day.day)
        places = {
            self._offset(moment, fold)
            for moment in (midnight, midnight + _ONE_DAY / 2, midnight + _ONE_DAY)
            for fold in (0, 1)
        }
        return len(places) == 1


def _numbers(field: Sequence[int | str], size: int) -> list[int]:
    if _WILDCARD in field:
        return list(range(size))
    return sorted({int(value) for value in field})


def _name(nominal: datetime, offset: timedelta) -> str:
    return nominal.replace(tzinfo=timezone(offset)).isoformat()


def _nominal_of(name: str) -> datetime | None:
    if not name or name == ALL:
        return None
    return datetime.fromisoformat(name).replace(tzinfo=None)


def _micros(naive: datetime) -> int:
    return (naive - _NAIVE_EPOCH) // _MICROSECOND
