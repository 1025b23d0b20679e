"""Finding a page of a long table in bounded time, whatever it is asked for.

A *listing* is a table whose rows have a place in time, ``(moment, id)``, and indexes that each begin with some columns
and go on with the place. A query is a set of conditions that must all hold. Where an index begins with exactly the
columns asked for, a page is read from it and nothing else is touched. A column that an index has and nobody asked for
is no obstacle if it has few values: the ranges of all its values are merged, as are those of several values asked for.

Any other query walks the one index in which it gets furthest, tests the other conditions row by row, and stops after
``SCAN_MAX`` rows of it: its page may be short, or empty, with a place where the next one goes on. How far that is, is
found first, by skipping so many entries of each index that could serve.

The statements leave a planner no choice: a condition that is tested is written so that no index can serve it, and the
order of a join is fixed. They are standard SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from wfes_projections.query import Read, Row

SCAN_MAX = 2_000
"""How many rows of an index one page looks at."""
COUNTED_MAX = 5_000
"""How many entries of an index an estimate counts; beyond, it goes by how dense they lie in time."""
WINDOWS = 8
"""From how many moments on it looks at them, where it walks one range of an index."""
WINDOWS_MIN = 4
"""The same in each of several ranges."""
SAMPLED_MAX = 500
"""How many rows an estimate tests."""

Place = tuple[int, str]
"""Where a row stands in its list: its moment in microseconds, and its id."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing asked for.

    Attributes:
        column: what an index that serves it has; empty: none does.
        values: any of these.
        test: the same as SQL on a row ``r``, with a ``?`` a value, of a form that no index can serve.
    """

    column: str
    values: tuple[object, ...]
    test: str


def one_of(column: str, *values: object) -> Condition:
    """That a text column has one of these values."""
    # An expression, not a column: it hides the column from the planner.
    return Condition(column, values, f"(r.{column} || '') IN ({', '.join('?' * len(values))})")


@dataclass(frozen=True, slots=True)
class Index:
    """The columns it begins with, before the place; it may lie on a table of its own, called ``d``, beside the rows."""

    columns: tuple[str, ...] = ()
    beside: str = ""

    @property
    def alias(self) -> str:
        return "d" if self.beside else "r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A table that is listed.

    Attributes:
        table: its name.
        moment: its column of the moment; the other part of the place is ``id``.
        columns: what is read of a row besides its place.
        indexes: the indexes there are.
        domains: the columns that have few values, and all of these.
    """

    table: str
    moment: str
    columns: tuple[str, ...]
    indexes: tuple[Index, ...]
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The part of a list that is looked at, in the list's order.

    Attributes:
        after, before: moments in microseconds: at or after, before; None: any.
        newest: whether the newest come first.
        cursor: begins behind this place.
        end: ends with this place.
    """

    after: int | None = None
    before: int | None = None
    newest: bool = True
    cursor: Place | None = None
    end: Place | None = None

    def sql(self, moment: str, id: str) -> tuple[list[str], list[object]]:
        """Conditions on the place, at most one a side, and their parameters."""
        texts: list[str] = []
        params: list[object] = []
        place = f"({moment}, {id})"
        low, high = (self.end, self.cursor) if self.newest else (self.cursor, self.end)
        if low is not None:
            texts.append(f"{place} {'>=' if self.newest else '>'} (?, ?)")
            params += low
        elif self.after is not None:
            texts.append(f"{moment} >= ?")
            params.append(self.after)
        if high is not None:
            texts.append(f"{place} {'<' if self.newest else '<='} (?, ?)")
            params += high
        elif self.before is not None:
            texts.append(f"{moment} < ?")
            params.append(self.before)
        return texts, params

    def only(self, *, end: Place | None) -> Span:
        """The same up to this place."""
        return Span(after=self.after, before=self.before, newest=self.newest, cursor=self.cursor, end=end)

    def whole(self, *, newest: bool = True) -> Span:
        """The same from its beginning to its end, in this order."""
        return Span(after=self.after, before=self.before, newest=newest)


@dataclass(frozen=True, slots=True)
class Drive:
    """One way to answer: an index, its ranges, and what is left to be tested.

    Attributes:
        index: the index.
        ranges: for each range the values of the index's columns.
        rest: the conditions that it does not serve.
    """

    listing: Listing
    index: Index
    ranges: tuple[tuple[object, ...], ...]
    rest: tuple[Condition, ...]

    def select(
        self, what: str, span: Span, range_: tuple[object, ...], *, rows: bool
    ) -> tuple[str, list[object]]:
        """A statement over one range of the index, without an order; ``rows``: of whole rows that pass the tests."""
        alias, beside, table = self.index.alias, self.index.beside, self.listing.table
        tables = f"{beside} AS d" if beside else f"{table} AS r"
        texts: list[str] = [f"{alias}.{column} = ?" for column in self.index.columns]
        params: list[object] = list(range_)
        if rows and beside:
            tables += f" CROSS JOIN {table} AS r"
            texts.append("r.id = d.id")
        placed, places = span.sql(f"{alias}.{self.listing.moment}", f"{alias}.id")
        texts += placed
        params += places
        if rows:
            for condition in self.rest:
                texts.append(condition.test)
                params += condition.values
        return f"SELECT {what} FROM {tables}{_where(texts)}", params

    def place(self) -> str:
        """The columns of the place."""
        return f"{self.index.alias}.{self.listing.moment}, {self.index.alias}.id"

    def page(self, span: Span, limit: int, *, bounded: bool = False) -> tuple[str, list[object]]:
        """The statement for so many rows, in the span's order: the place, then the other columns.

        Args:
            span: where they are looked for.
            limit: how many at most.
            bounded: whether each range by itself gives no more than that: for a planner that would else sort all rows
                of all ranges. One that merges the ranges as they are ordered is only held up by it.
        """
        what = ", ".join([self.place(), *(f"r.{column}" for column in self.listing.columns)])
        parts: list[str] = []
        params: list[object] = []
        for range_ in self.ranges:
            text, more = self.select(what, span, range_, rows=True)
            if bounded and len(self.ranges) > 1:
                text = f"SELECT * FROM ({text} {_order(span)} LIMIT ?) AS s"
                more.append(limit)
            parts.append(text)
            params += more
        return f"{' UNION ALL '.join(parts)} {_order(span)} LIMIT ?", [*params, limit]

    def reach(self, read: Read, span: Span, entries: int) -> Place | None:
        """How far one gets by looking at about so many entries of the index; None: to the end."""
        nearest: Place | None = None
        skipped = max(1, entries // len(self.ranges)) - 1
        for range_ in self.ranges:
            text, params = self.select(self.place(), span, range_, rows=False)
            found = read(f"{text} {_order(span)} LIMIT 2 OFFSET ?", [*params, skipped])
            if len(found) == 2:
                place: Place = found[0][0], found[0][1]
                if nearest is None or _before(place, nearest, newest=span.newest):
                    nearest = place
        return nearest


def drives(listing: Listing, conditions: Sequence[Condition]) -> list[Drive]:
    """The ways to answer; none of which serves only a part of what another one serves."""
    found: list[Drive] = []
    for index in listing.indexes:
        options: list[list[Condition | None]] = []
        for column in index.columns:
            serving: list[Condition | None] = [given for given in conditions if given.column == column]
            options.append(serving or ([None] if column in listing.domains else []))
        for chosen in product(*options):
            served = [given for given in chosen if given is not None]
            if index.columns and not served:
                continue
            values = [
                listing.domains[column] if given is None else given.values
                for column, given in zip(index.columns, chosen, strict=True)
            ]
            rest = tuple(given for given in conditions if given not in served)
            found.append(Drive(listing, index, tuple(product(*values)), rest))
    return [drive for drive in found if not any(set(other.rest) < set(drive.rest) for other in found)]


def best(read: Read, given: Sequence[Drive], span: Span) -> tuple[Drive, Place | None]:
    """The drive that gets furthest, and how far; None: to the end of what is asked for."""
    serving = [drive for drive in given if not drive.rest]
    if serving:
        return min(serving, key=lambda drive: len(drive.ranges)), None
    furthest: tuple[Drive, Place] | None = None
    for drive in given:
        reached = drive.reach(read, span, SCAN_MAX)
        if reached is None:
            return drive, None
        if furthest is None or _before(furthest[1], reached, newest=span.newest):
            furthest = drive, reached
    assert furthest is not None, "a listing has an index of the place alone"
    return furthest


def page(
    read: Read,
    listing: Listing,
    conditions: Sequence[Condition],
    span: Span,
    limit: int,
    *,
    bounded: bool = False,
) -> tuple[list[Row], Place | None]:
    """The rows of a page, and the place behind which the next one begins; None: there is nothing behind.

    The rows are complete up to that place. There may be fewer than ``limit`` of them, even none, before the end.
    Reading in one snapshot is not necessary: whatever comes or goes between two reads, no row that was there all the
    time is passed over. ``bounded``: as `Drive.page` has it.
    """
    if _impossible(conditions):
        return [], None
    drive, end = best(read, drives(listing, conditions), span)
    rows = read(*drive.page(span.only(end=end), limit + 1, bounded=bounded))
    if len(rows) > limit:
        return rows[:limit], (rows[limit - 1][0], rows[limit - 1][1])
    return rows, end


def count(read: Read, listing: Listing, conditions: Sequence[Condition], span: Span) -> int:
    """How many rows there are, exactly, however long that takes."""
    if _impossible(conditions):
        return 0
    whole = span.whole()
    drive, _ = best(read, drives(listing, conditions), whole)
    total = 0
    for range_ in drive.ranges:
        ((number,),) = read(*drive.select("count(*)", whole, range_, rows=bool(drive.rest)))
        total += number
    return total


def estimate(read: Read, listing: Listing, conditions: Sequence[Condition], span: Span) -> tuple[int, bool]:
    """About how many rows there are, in bounded time, and whether that is exact.

    Of a long range it looks at parts: how dense the entries lie in time, and how many at both ends pass the tests.
    """
    if _impossible(conditions):
        return 0, True
    drive, _ = best(read, drives(listing, conditions), span.whole())
    total, exact = 0.0, True
    share = len(drive.ranges)
    for range_ in drive.ranges:
        size, counted = _size(read, drive, span, range_, max(2, COUNTED_MAX // share))
        if size and drive.rest:
            passed, sampled = _sample(read, drive, span, range_, max(2, SAMPLED_MAX // share))
            # A range of which each end's sample is all of it was looked at twice.
            counted = counted and size <= sampled / 2
            size *= passed / sampled
        exact &= counted
        total += size
    return round(total), exact


def _size(
    read: Read, drive: Drive, span: Span, range_: tuple[object, ...], entries: int
) -> tuple[float, bool]:
    """How many entries a range has, and whether that is exact.

    One with more than so many entries is looked at from several moments on: entries for the time they take.
    """
    moment = f"{drive.index.alias}.{drive.listing.moment}"

    def ends(order: str, start: int | None, limit: int) -> tuple[int, int, int]:
        given = Span(after=span.after if start is None else start, before=span.before)
        text, params = drive.select(f"{moment} AS at", given, range_, rows=False)
        text = f"SELECT count(*), min(at), max(at) FROM ({text} ORDER BY {moment} {order} LIMIT ?) AS s"
        ((number, first, last),) = read(text, [*params, limit])
        return number, first, last

    number, earliest, _ = ends("ASC", None, entries)
    if number < entries:
        return number, True
    _, _, latest = ends("DESC", None, 1)
    windows = max(WINDOWS_MIN, WINDOWS // len(drive.ranges))
    seen, took = 0, 0
    for window in range(windows):
        start = earliest + (latest - earliest) * window // windows
        number, _, last = ends("ASC", start, max(2, entries // windows))
        seen += number
        took += last - start
    return max(float(entries), seen * (latest - earliest) / took if took else 0.0), False


def _sample(
    read: Read, drive: Drive, span: Span, range_: tuple[object, ...], entries: int
) -> tuple[int, int]:
    """How many rows at both ends of a range pass the tests, and how many were looked at."""
    tests = " AND ".join(given.test for given in drive.rest)
    values = [value for given in drive.rest for value in given.values]
    plain = Drive(drive.listing, drive.index, drive.ranges, ())
    passed = sampled = 0
    for newest in (True, False):
        text, params = plain.select("r.*", span.whole(), range_, rows=True)
        text = f"{text} ORDER BY {drive.index.alias}.{drive.listing.moment} {'DESC' if newest else 'ASC'} LIMIT ?"
        ((all_, good),) = read(
            f"SELECT count(*), sum(CASE WHEN {tests} THEN 1 ELSE 0 END) FROM ({text}) AS r",
            [*values, *params, entries // 2],
        )
        sampled += all_
        passed += good or 0
    return passed, sampled


def _impossible(conditions: Sequence[Condition]) -> bool:
    """Whether one of no values is asked for."""
    return any(given.column and not given.values for given in conditions)


def _before(one: Place, other: Place, *, newest: bool) -> bool:
    return one > other if newest else one < other


def _order(span: Span) -> str:
    direction = "DESC" if span.newest else "ASC"
    return f"ORDER BY 1 {direction}, 2 {direction}"


def _where(texts: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(texts)}" if texts else ""
