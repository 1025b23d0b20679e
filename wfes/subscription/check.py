"""Comparing live rows with what the log makes of them: rebuilt must equal live, row for row.

The rows are made anew in a temporary database up to the very position that the live ones reflect; then both are read in
the order of their keys, side by side, page by page. Nothing is changed, and memory is bounded.

Invariants: what is compared is of one moment, whatever is written meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wfes.log.port import Log, Tx
from wfes.subscription import registry
from wfes.subscription.feed import Feed
from wfes.subscription.folding import Folding
from wfes.subscription.projection import Projection
from wfes.subscription.registry import Entry
from wfes.subscription.runner import Around, Failure, Runner
from wfes.subscription.state import StateProjection
from wfes.subscription.stores import Params, Row, Store, Target, View
from wfes.subscription.swap import columns_of, key_of
from wfes.subscription.table import DIALECTS, SQLITE

T = TypeVar("T")

SHOWN_MAX = 10
"""Differences that a report tells of."""
_PAGE = 5_000

Query = Callable[[str, Sequence[object]], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not as the log says.

    Attributes:
        table: The table.
        key: The row's key, column by column.
        live: The row as it is, column by column; None: it is missing.
        rebuilt: The row as it should be; None: it should not be there.
    """

    table: str
    key: dict[str, Any]
    live: dict[str, Any] | None
    rebuilt: dict[str, Any] | None

    def __str__(self) -> str:
        where = f"{self.table} {', '.join(f'{name}={value!r}' for name, value in self.key.items())}"
        if self.live is None:
            return f"{where}: missing; should be {self.rebuilt}"
        if self.rebuilt is None:
            return f"{where}: should not be there; is {self.live}"
        names = [name for name in self.live if self.live[name] != self.rebuilt[name]]
        changed = ", ".join(f"{name} is {self.live[name]!r}, not {self.rebuilt[name]!r}" for name in names)
        return f"{where}: {changed}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of a projection found; readable as text.

    Attributes:
        name, version: The projection.
        position: The log position that both sides reflect.
        rows: How many rows are live.
        rebuilt: How many there should be.
        missing, extra, different: How many rows are not there, should not be there, or have other values.
        differences: The first of them.
    """

    name: str
    version: int
    position: int
    rows: int = 0
    rebuilt: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def ok(self) -> bool:
        """Whether every row is as the log says."""
        return not (self.missing or self.extra or self.different)

    def __str__(self) -> str:
        head = f"projection {self.name!r} (version {self.version}) at position {self.position:,}: "
        if self.ok:
            return f"{head}{self.rows:,} rows, all as the log says"
        counts = (
            f"{self.rows:,} rows live, {self.rebuilt:,} rebuilt; {self.missing:,} missing, {self.extra:,} too many, "
            f"{self.different:,} different"
        )
        lines = [head + counts, *(f"  {difference}" for difference in self.differences)]
        hidden = self.missing + self.extra + self.different - len(self.differences)
        if hidden > 0:
            lines.append(f"  and {hidden:,} more")
        return "\n".join(lines)


class CannotCheck(Exception):
    """The rows cannot be made anew.

    Attributes:
        failure: the handler that raised.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


class ScratchStore:
    """A temporary database for one thread: in memory as long as it is small, else in a file that nobody sees."""

    url = "a temporary database"
    dialect = SQLITE

    def __init__(self) -> None:
        self.tx: Tx | None = None
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")

    def open(self) -> None:
        """Nothing: it is open."""

    def close(self) -> None:
        """Everything in it is gone."""
        self._connection.close()

    def exists(self) -> bool:
        """It is there until it is closed."""
        return True

    @contextmanager
    def snapshot(self) -> Generator[View]:
        yield self

    def write(self, work: Callable[[Target], T]) -> T:
        self._connection.execute("BEGIN")
        try:
            return work(self)
        finally:
            self._connection.execute("COMMIT")

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        self._connection.executemany(sql, params)

    def moved(self, name: str, position: int | None) -> None:
        """Nothing: nobody follows these rows."""


def check(
    projection: Projection,
    store: Store,
    log: Log,
    around: Around,
    reflected: Callable[[Entry], int],
) -> CheckReport:
    """Compares a projection's rows with what log and archives make of it.

    Args:
        projection: whose rows.
        store: where they are.
        log: the open log.
        around: shows events.
        reflected: up to which position the rows reflect the log that are of this entry.

    Raises:
        CannotCheck: a handler raised.
        LookupError: it has no rows.
        LogUnavailable, ArchiveUnavailable: something cannot be read.
    """
    scratch = ScratchStore()
    try:
        runner = _rebuilt(projection, scratch, log, around)
        with store.snapshot() as view:
            entry = _entry(projection, view)
        # Most of it outside the snapshot, which holds the database up while it lasts.
        _run_to(runner, reflected(entry))
        with store.snapshot() as view:
            entry = _entry(projection, view)
            position = reflected(entry) if projection.inline else entry.position or 0
            _run_to(runner, position)
            report = _Report(projection.name, projection.version, position)
            for row in projection.tables:
                table = row.table
                report.compare(
                    table.name,
                    [column.name for column in table.columns],
                    table.key,
                    view.query,
                    scratch.query,
                )
            return report.made()
    finally:
        scratch.close()


def check_states(log: Log, projection: StateProjection) -> CheckReport:
    """Compares a state projection's rows with the states of all instances.

    Args:
        log: the open log.
        projection: whose rows.

    Raises:
        LogUnavailable, ArchiveUnavailable: something cannot be read.
    """
    scratch = ScratchStore()
    try:
        for sql in projection.create:
            scratch.query(sql)
        folding = Folding(log, [projection])
        position = log.max_notification_id()
        folding.fill(position, scratch.write)
        feed = Feed(log)

        def go_on(position: int, head: int) -> int:
            while position < head:
                events, upto = feed.read(position, head)
                folding.catch_up(scratch, events, position, upto, log.select_events)
                position = upto
            return position

        # Most of it outside the snapshot, which holds the database up while it lasts.
        position = go_on(position, log.max_notification_id())
        with log.snapshot() as view:
            position = go_on(position, view.position)
            report = _Report(projection.name, projection.version, position)
            name = projection.name
            dialect = DIALECTS[log.dialect]
            columns = columns_of(view.query, dialect, name)
            report.compare(name, columns, key_of(view.query, dialect, name), view.query, scratch.query)
            return report.made()
    finally:
        scratch.close()


def _entry(projection: Projection, view: View) -> Entry:
    entry = registry.find(view.query, projection.name)
    if entry is None or entry.version != projection.version:
        made = "no rows yet" if entry is None else f"rows of version {entry.version}"
        raise LookupError(
            f"projection {projection.name!r} version {projection.version} has {made}; nothing to check"
        )
    return entry


def _rebuilt(projection: Projection, scratch: ScratchStore, log: Log, around: Around) -> Runner:
    scratch.query(registry.CREATE)
    entry = Entry(projection.name, projection.version, 0)
    registry.put(scratch.query, entry)
    for row in projection.tables:
        for sql in row.table.create(SQLITE):
            scratch.query(sql)
    return Runner(projection, scratch, log, around, entry, empty=True, now=lambda: 0)


def _run_to(runner: Runner, position: int) -> None:
    while runner.position < position:
        runner.read(position)
        if runner.full or runner.failure is not None or runner.position >= position:
            runner.write()
        if runner.failure is not None:
            raise CannotCheck(runner.failure)


class _Report:
    """A report in the making."""

    def __init__(self, name: str, version: int, position: int) -> None:
        self._name = name
        self._version = version
        self._position = position
        self._counts = {"rows": 0, "rebuilt": 0, "missing": 0, "extra": 0, "different": 0}
        self._differences: list[Difference] = []

    def compare(
        self, table: str, columns: Sequence[str], key: Sequence[str], live: Query, rebuilt: Query
    ) -> None:
        """Compares one table, a row at a time, both sides in the order of the key."""
        places = [list(columns).index(name) for name in key]
        one, other = _ordered(live, table, columns, key), _ordered(rebuilt, table, columns, key)
        left, right = next(one, None), next(other, None)
        while left is not None or right is not None:
            before = None if left is None else tuple(left[place] for place in places)
            after = None if right is None else tuple(right[place] for place in places)
            missing = before is None or (after is not None and after < before)
            extra = not missing and (after is None or (before is not None and before < after))
            self._counts["rows"] += not missing
            self._counts["rebuilt"] += not extra
            if missing or extra or left != right:
                self._counts["missing" if missing else "extra" if extra else "different"] += 1
                found = after if missing else before
                assert found is not None
                self._tell(
                    Difference(
                        table,
                        dict(zip(key, found, strict=True)),
                        None if missing or left is None else dict(zip(columns, left, strict=True)),
                        None if extra or right is None else dict(zip(columns, right, strict=True)),
                    )
                )
            if not missing:
                left = next(one, None)
            if not extra:
                right = next(other, None)

    def _tell(self, difference: Difference) -> None:
        if len(self._differences) < SHOWN_MAX:
            self._differences.append(difference)

    def made(self) -> CheckReport:
        """The report."""
        return CheckReport(
            self._name, self._version, self._position, differences=self._differences, **self._counts
        )


def _ordered(query: Query, table: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[Row]:
    """All rows of a table in the order of their keys, read page by page."""
    listed, keys = ", ".join(columns), ", ".join(key)
    places = [list(columns).index(name) for name in key]
    marks = ", ".join("?" * len(key))
    last: list[object] = []
    while True:
        where = f"WHERE ({keys}) > ({marks}) " if last else ""
        page = query(f"SELECT {listed} FROM {table} {where}ORDER BY {keys} LIMIT {_PAGE}", last)
        yield from page
        if len(page) < _PAGE:
            return
        last = [page[-1][place] for place in places]
