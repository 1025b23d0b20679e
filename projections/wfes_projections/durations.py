"""How long things took, as a sketch that merges: counts of durations by bins of one per cent.

The mapping of a duration to its bin is DDSketch's, and so is what is read off the bins; kept are the bins alone, as
whole numbers. So a sketch does not depend on the order in which durations came, two add up, and a quantile is off by no
more than ``ACCURACY`` of itself.

Bins lie in *bands* of ``BAND`` bins, a row each: what a step usually takes falls into one or two of them, and counting
one more touches one short row, however many bins there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

ACCURACY = 0.01
"""The greatest relative error of a quantile."""

BAND = 32
"""Bins in a band: a band reaches from one duration to about 1.9 times as much."""

_NOTHING = -1
"""The bin of a duration of zero microseconds, which has no logarithm; the bin of one is 0."""

_mapping = LogarithmicMapping(ACCURACY)
_key = _mapping.key


def place(micros: int) -> tuple[int, int]:
    """Where a duration counts: the band, and the bin within it."""
    return divmod(_key(micros) if micros > 0 else _NOTHING, BAND)


def quantiles(bands: Iterable[tuple[int, Sequence[int]]], wanted: Sequence[float]) -> list[int | None]:
    """Durations in microseconds below which these shares of all lie; None where there are none.

    Args:
        bands: bands with the counts of their bins, of one sketch or of several that are to be taken together.
        wanted: shares from 0 to 1.
    """
    store, zeros = DenseStore(), 0
    for band, bins in bands:
        for bin, count in enumerate(bins, band * BAND):
            if count and bin == _NOTHING:
                zeros += count
            elif count:
                store.add(bin, count)
    sketch = BaseDDSketch(_mapping, store, DenseStore(), zeros)
    values = [sketch.get_quantile_value(share) for share in wanted]
    return [None if value is None else round(value) for value in values]
