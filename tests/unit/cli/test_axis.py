"""Time as columns."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wfes.cli.axis import Axis, merged

times = st.floats(0, 1e7, allow_nan=False)
spans = st.lists(st.tuples(times, times).map(lambda pair: (min(pair), max(pair))), max_size=20)


@given(spans, st.integers(1, 200), st.lists(times, max_size=20))
def test_time_never_runs_backwards_and_stays_on_the_axis(
    busy: list[tuple[float, float]], columns: int, moments: list[float]
) -> None:
    whole = max([1.0, *(end for _, end in busy), *moments])
    axis = Axis(whole, busy, columns)
    at = [axis.column(moment) for moment in sorted([0.0, *moments, *(start for start, _ in busy), whole])]
    assert at == sorted(at)
    assert all(0 <= column < columns for column in at)
    for span in busy:
        cells = axis.cells(span)
        assert len(cells) >= 1
        assert 0 <= cells[0] <= cells[-1] < columns
    assert [gap.column for gap in axis.gaps] == sorted(gap.column for gap in axis.gaps)


@given(spans)
def test_merged_spans_lie_apart_and_cover_the_same(found: list[tuple[float, float]]) -> None:
    one = merged(found)
    assert all(before[1] < after[0] for before, after in pairwise(one))
    for start, end in found:
        assert any(first <= start and end <= last for first, last in one)


def test_a_long_idle_stretch_is_one_column() -> None:
    """A second's work, a month's wait, a second's work."""
    month = 30 * 86_400.0
    axis = Axis(month + 2, [(0, 1), (month + 1, month + 2)], 21)
    (gap,) = axis.gaps
    assert (gap.column, gap.seconds) == (10, month)
    assert list(axis.cells((0, 1))) == list(range(10))
    assert list(axis.cells((month + 1, month + 2))) == list(range(11, 21))
    assert next(iter(axis.cells((1, month + 1)))) == 10


def test_short_pauses_are_drawn_to_scale() -> None:
    assert Axis(10, [(0, 4), (5, 10)], 50).gaps == []
    assert Axis(0.004, [(0.002, 0.004)], 50).gaps == []


def test_nothing_but_waits_is_drawn_to_scale() -> None:
    axis = Axis(100, [], 10)
    assert axis.gaps == []
    assert [axis.column(at) for at in (0, 50, 100)] == [0, 5, 9]
