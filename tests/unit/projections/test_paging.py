"""A walk through all pages gives what a plain filter over all rows gives, in order, whatever happens between pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes.core.state import Status
from wfes_projections import counts, instances, paging, requests
from wfes_projections.counts import Counts
from wfes_projections.instances import InstanceFilter, InstanceRecord, Instances, InstanceTags
from wfes_projections.query import Row
from wfes_projections.requests import RequestFilter, RequestRecord, Requests

STATUSES = (Status.PENDING, Status.COMPLETED, Status.FAILED)


class Table:
    """The tables of instances, written as the writer does, and the same in a dict."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.records: dict[str, InstanceRecord] = {}
        for projection in (Instances(), InstanceTags(), Counts(), Requests()):
            for sql in projection.create:
                self.connection.execute(sql)

    def read(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        return self.connection.execute(sql, params).fetchall()

    def put(self, record: InstanceRecord) -> None:
        """Writes an instance, new or with another status."""
        old = self.records.get(record.id)
        self.records[record.id] = record
        tags = orjson.dumps(record.tags).decode() if record.tags else None
        self.connection.execute(
            Instances.upsert,
            (
                record.id,
                record.workflow,
                record.key,
                record.status,
                record.created_at,
                record.updated_at,
                record.parent,
                record.conversation,
                tags,
            ),
        )
        places = [(tag, record.created_at, record.id) for tag in record.tags]
        self.connection.executemany(InstanceTags.upsert, places)
        if old is not None:
            self.connection.execute(Counts.upsert, (old.workflow, old.status, -1))
            self.connection.execute(Counts.delete, (old.workflow, old.status))
        self.connection.execute(Counts.upsert, (record.workflow, record.status, 1))

    def fitting(self, wanted: InstanceFilter, *, newest: bool = True) -> list[InstanceRecord]:
        """What there is, by going through everything."""
        return sorted(
            (record for record in self.records.values() if fits(record, wanted)),
            key=lambda record: (record.created_at, record.id),
            reverse=newest,
        )

    def walk(
        self, wanted: InstanceFilter, *, newest: bool, limit: int, bounded: bool = False
    ) -> Iterator[list[InstanceRecord]]:
        """Page after page, until the end; with something to do between two."""
        cursor: tuple[int, str] | None = None
        while True:
            found, behind = instances.find(
                self.read, wanted, cursor=cursor, newest=newest, limit=limit, bounded=bounded
            )
            assert len(found) <= limit
            yield found
            if behind is None:
                return
            assert behind != cursor, "a page that goes on gets further"
            cursor = behind


def fits(record: InstanceRecord, wanted: InstanceFilter) -> bool:
    for name in ("workflow", "key", "conversation", "parent"):
        value = getattr(wanted, name)
        if value is not None and getattr(record, name) != value:
            return False
    if wanted.statuses is not None and record.status not in wanted.statuses:
        return False
    if wanted.created_after is not None and record.created_at < wanted.created_after:
        return False
    if wanted.created_before is not None and record.created_at >= wanted.created_before:
        return False
    return set(wanted.tags) <= set(record.tags)


@contextmanager
def small_bounds(scanned: int) -> Generator[None]:
    """Within, a page looks at so few rows that bounds are met all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "SCAN_MAX", scanned)
        patch.setattr(paging, "COUNTED_MAX", 4)
        patch.setattr(paging, "SAMPLED_MAX", 4)
        yield


ids = st.text("abÿ\U00010000", min_size=1, max_size=4)
moments = st.integers(0, 6)
maybe = st.none() | st.sampled_from("xy")
tags = st.lists(st.sampled_from("tuv"), unique=True, max_size=3).map(tuple)
records = st.builds(
    InstanceRecord,
    id=ids,
    workflow=st.sampled_from(["one", "two"]),
    key=maybe,
    status=st.sampled_from([status.value for status in STATUSES]),
    created_at=moments,
    updated_at=moments,
    parent=maybe,
    conversation=maybe,
    tags=tags,
)
tables = st.lists(records, max_size=40, unique_by=lambda record: record.id)
filters = st.builds(
    InstanceFilter,
    workflow=st.none() | st.sampled_from(["one", "two", "none"]),
    statuses=st.none() | st.lists(st.sampled_from(STATUSES), max_size=4),
    key=maybe,
    tags=tags,
    conversation=maybe,
    parent=maybe,
    created_after=st.none() | moments,
    created_before=st.none() | moments,
)


@settings(max_examples=300, deadline=None)
@given(tables, filters, st.booleans(), st.integers(1, 7), st.integers(1, 12), st.booleans())
def test_all_pages_together_are_what_fits(
    given: list[InstanceRecord],
    wanted: InstanceFilter,
    newest: bool,
    limit: int,
    scanned: int,
    bounded: bool,
) -> None:
    table = Table()
    with closing(table.connection), small_bounds(scanned):
        for record in given:
            table.put(record)
        pages = table.walk(wanted, newest=newest, limit=limit, bounded=bounded)
        found = [record for page in pages for record in page]
        assert found == table.fitting(wanted, newest=newest)
        assert instances.total(table.read, wanted, exact=True) == (len(found), True)
        estimated, exact = instances.total(table.read, wanted, exact=False)
        assert estimated >= 0
        assert estimated == len(found) or not exact


@settings(max_examples=300, deadline=None)
@given(
    tables,
    filters,
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 8),
    st.lists(st.lists(records, max_size=6), max_size=8),
)
def test_what_fits_all_along_is_seen_exactly_once(
    given: list[InstanceRecord],
    wanted: InstanceFilter,
    newest: bool,
    limit: int,
    scanned: int,
    changes: list[list[InstanceRecord]],
) -> None:
    table = Table()
    with closing(table.connection), small_bounds(scanned):
        for record in given:
            table.put(record)
        steady = {record.id for record in table.fitting(wanted)}
        ever = set(steady)
        seen: list[str] = []
        left, none = iter(changes), list[InstanceRecord]()
        for page in table.walk(wanted, newest=newest, limit=limit):
            seen.extend(record.id for record in page)
            for record in next(left, none):
                known = table.records.get(record.id)
                # Of an instance only the status changes.
                table.put(
                    record
                    if known is None
                    else replace(known, status=record.status, updated_at=record.updated_at)
                )
            fitting = {record.id for record in table.fitting(wanted)}
            steady &= fitting
            ever |= fitting
        assert len(set(seen)) == len(seen), "none twice"
        assert steady <= set(seen), "none missed"
        assert set(seen) <= ever, "none that never fitted"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            RequestRecord,
            id=ids,
            instance=st.sampled_from("ij"),
            workflow=st.sampled_from(["one", "two"]),
            name=st.sampled_from("no"),
            message=st.none(),
            schema=st.none(),
            path=st.just("p"),
            until=st.none() | moments,
            since=moments,
            conversation=maybe,
        ),
        max_size=30,
        unique_by=lambda record: record.id,
    ),
    st.builds(
        RequestFilter,
        workflow=st.none() | st.sampled_from(["one", "none"]),
        conversation=maybe,
        instance=st.none() | st.sampled_from("ij"),
        name=st.none() | st.sampled_from("no"),
        now=st.none() | moments,
    ),
    st.integers(1, 4),
    st.integers(1, 8),
)
def test_all_pages_of_requests(
    given: list[RequestRecord], wanted: RequestFilter, limit: int, scanned: int
) -> None:
    table = Table()
    fields = (
        "id",
        "instance",
        "workflow",
        "name",
        "message",
        "schema",
        "path",
        "until",
        "since",
        "conversation",
    )
    with closing(table.connection), small_bounds(scanned):
        for record in given:
            table.connection.execute(Requests.upsert, [getattr(record, name) for name in fields])
        fitting = [
            record
            for record in sorted(given, key=lambda record: (record.since, record.id))
            if all(
                getattr(wanted, name) in (None, getattr(record, name))
                for name in ("workflow", "conversation", "instance", "name")
            )
            and (wanted.now is None or record.until is None or record.until > wanted.now)
        ]
        found: list[RequestRecord] = []
        cursor = None
        while True:
            page, behind = requests.find(table.read, wanted, cursor=cursor, limit=limit)
            found += page
            if behind is None:
                break
            cursor = behind
        assert found == fitting
        assert requests.total(table.read, wanted, exact=True) == (len(found), True)
        estimated, exact = requests.total(table.read, wanted, exact=False)
        assert estimated == len(found) or not exact


# ----------------------------------------------------------------------------------------- statements

SERVED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["created"]),
    ({"created_after": 5}, ["created"]),
    ({"created_before": 5}, ["created"]),
    ({"workflow": "w"}, ["workflow_status"] * len(Status)),
    ({"statuses": ["failed"]}, ["status"]),
    ({"statuses": ["failed", "paused"]}, ["status"] * 2),
    ({"workflow": "w", "statuses": ["failed"]}, ["workflow_status"]),
    ({"workflow": "w", "statuses": ["failed", "paused"]}, ["workflow_status"] * 2),
    ({"key": "k"}, ["key"]),
    ({"workflow": "w", "key": "k"}, ["workflow_key"]),
    ({"parent": "p"}, ["parent"]),
    ({"conversation": "c"}, ["conversation_status"] * len(Status)),
    ({"conversation": "c", "statuses": ["failed"]}, ["conversation_status"]),
    ({"tags": ["t"]}, ["tag"]),
    ({"key": "k", "created_after": 5, "created_before": 9}, ["key"]),
]


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize(("asked", "used"), SERVED)
def test_a_named_filter_is_read_from_its_index_in_order(
    asked: dict[str, Any], used: list[str], newest: bool, analyzed: bool
) -> None:
    table = Table()
    with closing(table.connection):
        for number in range(200 if analyzed else 0):
            # Statistics that would lead a planner astray: a key and a tag of all, a status of none but one.
            status = "failed" if number == 7 else "completed"
            table.put(InstanceRecord(f"i{number}", "w", "k", status, number, 0, None, "c", ("t",)))
        if analyzed:
            table.connection.execute("ANALYZE")
        plans: list[list[str]] = []

        def read(sql: str, params: Any = ()) -> list[Row]:
            plans.append([row[3] for row in table.read(f"EXPLAIN QUERY PLAN {sql}", params)])
            return table.read(sql, params)

        for cursor in (None, (7, "i7")):
            plans.clear()
            instances.find(read, InstanceFilter(**asked), cursor=cursor, newest=newest)
            (plan,) = plans
            assert not [line for line in plan if "TEMP B-TREE" in line], plan
            looked = [line for line in plan if line.startswith(("SEARCH", "SCAN"))]
            if used == ["tag"]:
                assert [line.split()[1] for line in looked] == ["d", "r"], plan
                assert "sqlite_autoindex_wfes_instance_tags_1 (tag=?" in looked[0]
                assert looked[1].endswith("(id=?)")
            else:
                assert [line.split("wfes_instances_")[1].split()[0] for line in looked] == used, plan
            if cursor is not None:
                place = f"(created_at,id){'<' if newest else '>'}(?,?)"
                assert all(place in line for line in looked if " d " in line or used != ["tag"]), plan


def test_a_walk_looks_at_no_more_rows_than_its_bound() -> None:
    table = Table()
    with closing(table.connection), small_bounds(50):
        for number in range(1000):
            table.put(
                InstanceRecord(f"i{number:04}", "w", "k", "completed", number, 0, "p", None, ("t", "u"))
            )
        table.put(InstanceRecord("last", "w", "k", "failed", 2000, 0, "p", None, ("t", "u")))
        tested = 0

        def count(one: object) -> int:
            nonlocal tested
            tested += 1
            return int(one == "w")

        table.connection.create_function("tested", 1, count)
        test = paging.Condition("", (), "tested(r.workflow) = 0")
        wanted = InstanceFilter(key="k", tags=["t"])
        found, behind = paging.page(
            table.read, instances.LISTING, [*wanted.conditions(), test], paging.Span(), 100
        )
        assert found == []
        assert behind == (951, "i0951")
        assert tested == 50
        # Of several ranges together, too: that of the failed ones would reach to the end.
        tested = 0
        wanted = InstanceFilter(statuses=["completed", "failed"])
        found, behind = paging.page(
            table.read, instances.LISTING, [*wanted.conditions(), test], paging.Span(), 100
        )
        assert (found, behind) == ([], (975, "i0975"))
        assert tested == 26
        # The status of one row gets to the end at once.
        wanted = InstanceFilter(key="k", tags=["t"], statuses=["failed"])
        assert [record.id for record in instances.find(table.read, wanted)[0]] == ["last"]
        assert instances.find(table.read, wanted)[1] is None


def test_an_estimate_of_many_is_about_right() -> None:
    table = Table()
    with closing(table.connection), small_bounds(50):
        for number in range(2000):
            key = "k" if number % 4 else None
            table.put(
                InstanceRecord(f"i{number:04}", "w", key, "completed", number * 10, 0, None, None, ("t",))
            )
        number, exact = instances.total(table.read, InstanceFilter(key="k"), exact=False)
        assert not exact
        assert 1000 < number < 2250
        number, exact = instances.total(table.read, InstanceFilter(key="k", tags=["t"]), exact=False)
        assert not exact
        assert 1000 < number < 2250
        assert instances.total(table.read, InstanceFilter(workflow="w"), exact=False) == (2000, True)
        assert instances.total(table.read, InstanceFilter(statuses=["failed"]), exact=False) == (0, True)
        assert counts.counts(table.read) == [("w", "completed", 2000)]
        assert counts.counts(table.read, "v") == []


def test_limits_are_checked() -> None:
    table = Table()
    with closing(table.connection):
        for limit in (0, 1001):
            with pytest.raises(ValueError, match=f"limit is {limit}; it must be 1 to 1000"):
                instances.find(table.read, InstanceFilter(), limit=limit)
            with pytest.raises(ValueError, match=f"limit is {limit}; it must be 1 to 1000"):
                requests.find(table.read, RequestFilter(), limit=limit)
