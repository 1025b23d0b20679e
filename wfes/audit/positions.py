"""Which positions of a log were seen: a bit each, so that a missing one shows.

A log's positions leave no gaps but what was archived, whose events keep theirs. So what was removed at the end of a
history, or with a whole history, shows as positions that nobody has, unless the rest was renumbered.
"""

from __future__ import annotations

_BITS = 16
_SIZE = 1 << _BITS
_SHOWN_MAX = 8


class Positions:
    """A set of positions; about a bit of memory each."""

    def __init__(self) -> None:
        """Makes an empty one."""
        self._chunks: dict[int, bytearray] = {}
        self.add(0)  # No event has it; with it the first chunk can be full like any other.

    def add(self, position: int) -> None:
        """Notes a position."""
        chunk = self._chunks.get(position >> _BITS)
        if chunk is None:
            chunk = self._chunks[position >> _BITS] = bytearray(_SIZE >> 3)
        chunk[(position & (_SIZE - 1)) >> 3] |= 1 << (position & 7)

    @property
    def greatest(self) -> int:
        """The greatest of them, 0 if there is none."""
        number = max(self._chunks)
        return _members(self._chunks[number], number << _BITS)[-1]

    def missing(self, upto: int) -> list[tuple[int, int]]:
        """The stretches of positions from 1 to `upto` that nobody has, each with its ends."""
        found: list[tuple[int, int]] = []
        expected = 1
        for number in sorted(self._chunks):
            chunk, base = self._chunks[number], number << _BITS
            # Where all are there only the ends matter.
            full = chunk.count(0xFF) == len(chunk)
            for position in (base, base + _SIZE - 1) if full else _members(chunk, base):
                if full and expected == base + 1:
                    expected = position
                if position > upto:
                    break
                if position > expected:
                    found.append((expected, position - 1))
                expected = max(expected, position + 1)
        if expected <= upto:
            found.append((expected, upto))
        return found


def shown(stretches: list[tuple[int, int]]) -> str:
    """Stretches for people."""
    parts = [str(first) if first == last else f"{first} to {last}" for first, last in stretches[:_SHOWN_MAX]]
    return ", ".join(parts) + (", …" if len(stretches) > _SHOWN_MAX else "")


def _members(chunk: bytearray, base: int) -> list[int]:
    return [
        base + (number << 3) + bit
        for number, byte in enumerate(chunk)
        if byte
        for bit in range(8)
        if byte >> bit & 1
    ]
