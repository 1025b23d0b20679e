"""Ticks: compared with a model that walks over every minute of UTC, and with croniter's own nominal times."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wfes.core.durations import DAY, HOUR, MINUTE, SECOND
from wfes.core.schedules import ALL, Tick
from wfes.runtime.ticks import Ticks, ticks_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def shown(at: int) -> str:
    return (EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")


def due(cron: str, zone: str, start: str, end: str) -> list[tuple[str, str]]:
    return [(shown(t.at), t.name) for t in ticks_of(cron, zone).between(micros(start), micros(end))]


# -- The model -------------------------------------------------------------------------------------------------------


def model(cron: str, zone: str, start: int, end: int) -> list[Tick]:
    """Walks over the minutes of UTC (with margins) and looks whether croniter has each local one."""
    place = ZoneInfo(zone)
    matching = nominal_ticks(cron, start - 5 * DAY, end + 5 * DAY)
    elapsed = cron.split()[1].startswith("*")
    found: list[Tick] = []
    seen: set[datetime] = set()
    before: datetime | None = None
    at = start - 2 * DAY
    while at <= end + 2 * DAY:
        local = (EPOCH + timedelta(microseconds=at)).astimezone(place)
        naive = local.replace(tzinfo=None, fold=0)
        if before is not None and not elapsed:
            # Nominal minutes that were jumped over are due now.
            old = before
            step = before.replace(tzinfo=None) + timedelta(minutes=1)
            while step < naive:
                if step not in seen and step in matching:
                    found.append(Tick(at, step.replace(tzinfo=old.tzinfo).isoformat()))
                    seen.add(step)
                step += timedelta(minutes=1)
        if naive in matching and (elapsed or naive not in seen):
            seen.add(naive)
            found.append(Tick(at, local.isoformat()))
        before = fixed(local)
        at += MINUTE
    return [tick for tick in found if start <= tick.at <= end]


def nominal_ticks(cron: str, start: int, end: int) -> set[datetime]:
    found: set[datetime] = set()
    last = (EPOCH + timedelta(microseconds=end)).replace(tzinfo=None)
    iterator = croniter(cron, (EPOCH + timedelta(microseconds=start)).replace(tzinfo=None))
    while (tick := iterator.get_next(datetime)) <= last:
        found.add(tick)
    return found


def fixed(local: datetime) -> datetime:
    offset = local.utcoffset()
    assert offset is not None
    return local.replace(tzinfo=timezone(offset), fold=0)


CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Asia/Beirut", "2026-03-28T22:00"),
    ("Asia/Beirut", "2026-10-24T21:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00"),
    ("America/Sao_Paulo", "2018-02-18T02:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("UTC", "2024-02-28T23:00"),
]
MINUTES = ["0", "*", "*/15", "30", "59", "5,35", "10-20/3"]
HOURS = ["*", "*/2", "0", "1", "2", "3", "23", "0-3", "1,2,3", "22-1"]
DATES = ["* * *", "* * sun", "1 * *", "L * *", "29 2 *", "*/2 * *", "30 * sat", "25 10 *"]
crons = st.tuples(st.sampled_from(MINUTES), st.sampled_from(HOURS), st.sampled_from(DATES)).map(" ".join)
six_fields = st.tuples(crons, st.sampled_from(["0", "*/20", "7,8", "30"])).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(cron=crons, change=st.sampled_from(CHANGES), before=st.integers(0, 30), after=st.integers(0, 30))
@example("30 2 * * *", ("Europe/Berlin", "2026-03-29T01:00"), 2, 2)
@example("30 2 * * *", ("Europe/Berlin", "2026-10-25T01:00"), 2, 2)
@example("*/15 * * * *", ("Australia/Lord_Howe", "2026-04-04T15:00"), 2, 2)
@example("30 0 * * *", ("Asia/Beirut", "2026-03-28T22:00"), 2, 2)
@example("*/15 23 * * *", ("Asia/Beirut", "2026-10-24T21:00"), 2, 2)
@example("0 12 * * *", ("Pacific/Apia", "2011-12-30T10:00"), 2, 2)
def test_ticks_are_those_of_the_model(cron: str, change: tuple[str, str], before: int, after: int) -> None:
    zone, moment = change
    start, end = micros(moment) - before * HOUR, micros(moment) + after * HOUR
    assert list(ticks_of(cron, zone).between(start, end)) == model(cron, zone, start, end)


@settings(max_examples=150, deadline=None)
@given(
    cron=crons,
    change=st.sampled_from(CHANGES),
    starts=st.lists(st.integers(-40 * 60, 40 * 60), min_size=1, max_size=4),
)
def test_a_cursor_anywhere_goes_on_where_it_is(cron: str, change: tuple[str, str], starts: list[int]) -> None:
    """Behind each tick, and behind any moment, come exactly the later ones; counts, ends and bounds agree."""
    zone, moment = change
    ticks = ticks_of(cron, zone)
    start, end = micros(moment) - 30 * HOUR, micros(moment) + 30 * HOUR
    every = list(ticks.between(start, end))
    assert every == sorted(set(every))
    assert len({tick.name for tick in every}) == len(every)
    cursors = [(micros(moment) + minutes * MINUTE, ALL) for minutes in starts]
    for cursor in [*cursors, *every[:: max(1, len(every) // 8)]]:
        rest = [tick for tick in every if tick > cursor]
        assert list(itertools.islice(ticks.after(cursor), min(50, len(rest)))) == rest[:50]
        if cursor >= (start - 1, ALL):
            assert ticks.count(cursor, end) == len(rest)
            assert ticks.tail(cursor, end, 2) == rest[-2:]
            missed, latest = ticks.missed(cursor, end)
            assert (missed is None) is not bool(rest)
            if missed is not None:
                assert (missed.first, missed.last, missed.size) == (rest[0], rest[-1], len(rest))
            assert (0 if latest is None else latest.size) == max(0, len(rest) - 1)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]} {change[1]}")
@pytest.mark.parametrize("cron", ["*/15 * * * *", "*/20 0-3,22,23 * * *", "0 */1 * * *", "10 2 * * *"])
def test_a_change_is_passed_tick_by_tick_and_from_any_moment(cron: str, change: tuple[str, str]) -> None:
    zone, moment = change
    ticks = ticks_of(cron, zone)
    start, end = micros(moment) - 5 * HOUR, micros(moment) + 5 * HOUR
    every = list(ticks.between(start, end))
    for tick, following in itertools.pairwise(every):
        assert ticks.next(tick) == following
    for minutes in range(-150, 150, 7):
        cursor = (micros(moment) + minutes * MINUTE, ALL)
        assert list(ticks.upto(cursor, end)) == [tick for tick in every if tick > cursor]


@settings(max_examples=60, deadline=None)
@given(
    cron=six_fields | crons,
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),
)
def test_without_changes_they_are_croniters(cron: str, start: datetime) -> None:
    iterator = croniter(cron, start)
    expected = [iterator.get_next(datetime) for _ in range(30)]
    found = itertools.islice(ticks_of(cron, "UTC").after((micros(start.isoformat()), ALL)), 30)
    assert [tick.name for tick in found] == [moment.replace(tzinfo=UTC).isoformat() for moment in expected]


# -- Named cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("Europe/Berlin", "2026-03-29", [("2026-03-29T01:00:00Z", "2026-03-29T02:30:00+01:00")]),
        ("Europe/Berlin", "2026-10-25", [("2026-10-25T00:30:00Z", "2026-10-25T02:30:00+02:00")]),
        ("America/New_York", "2026-03-08", [("2026-03-08T07:00:00Z", "2026-03-08T02:30:00-05:00")]),
        ("America/New_York", "2026-11-01", [("2026-11-01T07:30:00Z", "2026-11-01T02:30:00-05:00")]),
        ("UTC", "2026-03-29", [("2026-03-29T02:30:00Z", "2026-03-29T02:30:00+00:00")]),
    ],
)
def test_half_past_two_every_day(zone: str, day: str, expected: list[tuple[str, str]]) -> None:
    assert due("30 2 * * *", zone, f"{day}T00:00", f"{day}T23:00") == expected


def test_several_ticks_of_one_gap_are_due_at_its_end_each_once() -> None:
    found = due("*/15 2,3 * * *", "Europe/Berlin", "2026-03-29T00:30", "2026-03-29T01:20")
    assert [name for _, name in found] == [
        "2026-03-29T02:00:00+01:00",
        "2026-03-29T02:15:00+01:00",
        "2026-03-29T02:30:00+01:00",
        "2026-03-29T02:45:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T03:15:00+02:00",
    ]
    assert {at for at, _ in found[:5]} == {"2026-03-29T01:00:00Z"}


def test_wildcard_hours_follow_elapsed_time() -> None:
    spring = due("0 * * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T02:00")
    assert [name[11:] for _, name in spring] == ["01:00:00+01:00", "03:00:00+02:00", "04:00:00+02:00"]
    autumn = due("0 * * * *", "Europe/Berlin", "2026-10-25T00:00", "2026-10-25T02:00")
    assert [name[11:] for _, name in autumn] == ["02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00"]
    assert [at[11:16] for at, _ in autumn] == ["00:00", "01:00", "02:00"]


def test_half_an_hour_at_lord_howe() -> None:
    assert due("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T15:00", "2026-10-04T15:00") == [
        ("2026-10-03T15:30:00Z", "2026-10-04T02:10:00+10:30")
    ]
    assert due("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", "2026-04-05T12:00") == [
        ("2026-04-04T14:45:00Z", "2026-04-05T01:45:00+11:00")
    ]


def test_a_day_that_apia_never_had() -> None:
    assert due("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00", "2011-12-31T12:00") == [
        ("2011-12-29T22:00:00Z", "2011-12-29T12:00:00-10:00"),
        ("2011-12-30T10:00:00Z", "2011-12-30T12:00:00-10:00"),
        ("2011-12-30T22:00:00Z", "2011-12-31T12:00:00+14:00"),
    ]


def test_leap_days_month_ends_and_seconds() -> None:
    leap = ticks_of("0 0 29 2 *", "UTC").after((micros("2024-03-01"), ALL))
    assert [next(leap).name[:10] for _ in range(2)] == ["2028-02-29", "2032-02-29"]
    ends = ticks_of("0 0 L * *", "UTC").after((micros("2024-01-01"), ALL))
    assert [next(ends).name[5:10] for _ in range(3)] == ["01-31", "02-29", "03-31"]
    assert [n[17:19] for _, n in due("* * * * * */20", "UTC", "2026-01-01T00:00:01", "2026-01-01T00:01")] == [
        "20",
        "40",
        "00",
    ]


def test_a_year_is_counted_without_being_walked() -> None:
    begin, end = (micros("2026-01-01") - 1, ALL), micros("2026-12-31T23:59:59")
    assert ticks_of("* * * * * *", "UTC").count(begin, end) == 365 * 86_400
    # An hour less and an hour more.
    berlin = (micros("2025-12-31T23:00") - 1, ALL), micros("2026-12-31T22:59:59")
    assert ticks_of("* * * * *", "Europe/Berlin").count(*berlin) == 365 * 1_440
    assert ticks_of("* 0-23 * * *", "Europe/Berlin").count(*berlin) == 365 * 1_440
    assert ticks_of("* * * * *", "UTC").count((end, ALL), end - DAY) == 0


def test_an_expression_that_ends() -> None:
    last = Ticks("0 0 1 1 *", "UTC")
    assert last.next((micros("9998-01-01"), ALL)) is None


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(ValueError, match="Europe/Nowhere"):
        ticks_of("* * * * *", "Europe/Nowhere")


def test_thousands_are_listed_quickly() -> None:
    ticks = ticks_of("* * * * *", "America/New_York")
    found = list(itertools.islice(ticks.after((micros("2026-03-01"), ALL)), 20_000))
    assert found[-1].at - found[0].at == 19_999 * 60 * SECOND
