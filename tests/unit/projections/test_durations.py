"""The sketch of durations: within one per cent of the exact quantile, the same in any order, and it adds up."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from wfes_projections.durations import ACCURACY, BAND, place, quantiles

micros = st.one_of(st.integers(0, 50), st.integers(0, 10**7), st.integers(0, 10**15))
SHARES = (0.0, 0.5, 0.95, 0.99, 1.0)


def sketch(durations: list[int]) -> list[tuple[int, list[int]]]:
    bands: dict[int, list[int]] = {}
    for duration in durations:
        band, bin = place(duration)
        bands.setdefault(band, [0] * BAND)[bin] += 1
    return list(bands.items())


@given(st.lists(micros, min_size=1, max_size=60))
def test_quantiles_are_within_the_accuracy(durations: list[int]) -> None:
    ordered = sorted(durations)
    for share, found in zip(SHARES, quantiles(sketch(durations), SHARES), strict=True):
        exact = ordered[int(share * (len(ordered) - 1))]
        assert found is not None
        assert abs(found - exact) <= ACCURACY * exact + 0.5 + 1e-6 * exact, (share, exact, found)


@given(st.lists(micros, max_size=30), st.lists(micros, max_size=30), st.randoms(use_true_random=False))
def test_two_add_up_in_any_order(first: list[int], second: list[int], random: Random) -> None:
    together = first + second
    random.shuffle(together)
    assert quantiles(sketch(first) + sketch(second), SHARES) == quantiles(sketch(together), SHARES)


def test_nothing_has_no_quantiles() -> None:
    assert quantiles([], SHARES) == [None] * len(SHARES)


def test_what_takes_no_time_takes_no_time() -> None:
    assert quantiles(sketch([0, 0, 0, 10]), (0.5, 1.0)) == [0, 10]


def test_bands_hold_what_lies_close_together() -> None:
    usual = [Random(1).randrange(900, 1_100) for _ in range(1_000)]
    assert len(Counter(place(duration)[0] for duration in usual)) <= 2
    assert len({place(10**n)[0] for n in range(18)}) <= 65
