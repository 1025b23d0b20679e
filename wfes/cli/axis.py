"""Time as columns of text: linear while something is going on, long idle stretches cut down to one column.

A workflow may work for milliseconds and wait for months; drawn to scale, its work would vanish. Pure, and knows nothing
of terminals.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

Span = tuple[float, float]
"""From when to when, in seconds."""

IDLE_SHARE = 0.25
"""An idle stretch is cut if it is longer than this share of the time in which something was going on."""
IDLE_SECONDS_MIN = 0.25
"""And longer than this."""
COLUMNS_PER_GAP = 6
"""So many columns there are at least for each stretch that is cut."""


@dataclass(frozen=True, slots=True)
class Gap:
    """An idle stretch that was cut: the column that stands for it, and how long it took in seconds."""

    column: int
    seconds: float


class Axis:
    """Maps seconds since the beginning to columns.

    Attributes:
        columns: How many there are.
        gaps: What was cut, in order.
    """

    def __init__(self, whole: float, busy: Iterable[Span], columns: int) -> None:
        """Makes it.

        Args:
            whole: How many seconds there are in all.
            busy: When something was going on; may overlap.
            columns: How many columns there are, at least 1.
        """
        self.columns = columns
        self._whole = max(whole, 1e-6)
        cut = self._cut(merged(busy), columns)
        visible = self._whole - sum(end - start for start, end in cut)
        scale = max(columns - len(cut), 1) / max(visible, 1e-9)
        # Where each linear stretch begins: in seconds, and on the axis.
        self._starts = [0.0]
        self._places = [0.0]
        self._scale = scale
        self._cuts = cut
        self.gaps: list[Gap] = []
        for start, end in cut:
            place = self._places[-1] + (start - self._starts[-1]) * scale
            self.gaps.append(Gap(min(int(place + 0.5), columns - 1), end - start))
            self._starts.append(end)
            self._places.append(int(place + 0.5) + 1.0)

    def _cut(self, busy: list[Span], columns: int) -> list[Span]:
        worked = sum(end - start for start, end in busy)
        if not worked:
            return []
        edges = [0.0, *(edge for span in busy for edge in span), self._whole]
        idle = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]
        shortest = max(worked * IDLE_SHARE, IDLE_SECONDS_MIN)
        long = [(start, end) for start, end in idle if end - start > shortest]
        long.sort(key=lambda span: span[0] - span[1])
        return sorted(long[: max(columns // COLUMNS_PER_GAP, 1)])

    def column(self, seconds: float) -> int:
        """The column of a moment."""
        stretch = bisect_right(self._starts, seconds) - 1
        place = self._places[max(stretch, 0)] + (seconds - self._starts[max(stretch, 0)]) * self._scale
        if 0 <= stretch < len(self._cuts) and seconds > self._cuts[stretch][0]:
            return self.gaps[stretch].column
        return min(max(int(place), 0), self.columns - 1)

    def cells(self, span: Span) -> range:
        """The columns that a span covers, at least one."""
        first, last = self.column(span[0]), self.column(span[1])
        # A span that ends where the next begins leaves that column to it.
        stop = last + 1 if last == first or span[1] >= self._whole else last
        return range(first, max(stop, first + 1))


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch as one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
