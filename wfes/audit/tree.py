"""The Merkle tree of RFC 6962 over the whole log, grown at its end and read for proofs.

The leaf at index ``i`` is the event at position ``i + 1`` of the log; ``check.leaf_bytes`` says what of it is hashed.

Invariants:
- Only complete subtrees are stored: such a hash never changes again, whatever is appended. Everything else (roots,
  proofs) is worked out from them, for the newest tree and for every older one.
- They are stored in *tiles*: the hashes of up to 256 neighbours, one behind the other, of every eighth level only. What
  lies between is folded from a tile when it is asked for. This is 32.1 bytes an event instead of 64, one row for 256
  events instead of 511, and the layout of `c2sp.org/tlog-tiles`. A tile that is not full yet is replaced by a longer
  one that begins with the same bytes.
- `Frontier` keeps of the tree what appending needs: the one unfinished tile of each level.

Nothing here reads a clock or a database: tiles come through the port ``Tiles`` and are handed back as values.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, Protocol

from wfes.audit.check import EMPTY_ROOT, HASH_BYTES, parent_hash
from wfes.audit.check import leaf_hash as leaf_hash

TILE_LEVELS = 8
TILE_WIDTH = 1 << TILE_LEVELS
TILE_BYTES = TILE_WIDTH * HASH_BYTES
_TILES_CACHED = 64


class Tile(NamedTuple):
    """Some neighbouring hashes, to be stored under their level and number; they replace those stored there before.

    Attributes:
        level: 0 for the leaves, 1 for the subtrees of 256 leaves, 2 for those of 65,536, …
        number: How many tiles stand before it on its level.
        hashes: 1 to 256 hashes of 32 bytes, one behind the other.
    """

    level: int
    number: int
    hashes: bytes


class Tiles(Protocol):
    """Where tiles are stored."""

    def tile(self, level: int, number: int) -> bytes:
        """The hashes last stored under this level and number, empty if there are none."""
        ...


class Nodes(Protocol):
    """What roots and proofs are worked out from."""

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over the ``2**level`` leaves from ``index * 2**level`` on.

        Raises:
            LookupError: it is not there.
        """
        ...


def fold(hashes: bytes) -> bytes:
    """The root of a complete subtree.

    Args:
        hashes: One behind the other; how many of them must be a power of two.
    """
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 2 * HASH_BYTES)]
        )
    return hashes


class Frontier:
    """The right edge of a tree: takes leaves, gives back the tiles to store and the root.

    Used by one thread. After an error of the storage, go on with a new one from ``resume``.

    >>> edge = Frontier()
    >>> leaf = leaf_hash(1, "order-1", 1, "Started", bytes(32) + b"{}")
    >>> edge.extend([leaf]) == [Tile(level=0, number=0, hashes=leaf)]
    True
    >>> edge.size, edge.root() == leaf
    (1, True)
    """

    def __init__(self) -> None:
        self._size = 0
        self._edges: list[bytes] = []

    @classmethod
    def resume(cls, size: int, tiles: Tiles) -> Frontier:
        """The edge of the tree with the first ``size`` leaves of those whose tiles are stored.

        Args:
            size: How many leaves it has: all that are stored, or fewer.
            tiles: Where they are stored; one tile of each level is read.

        Raises:
            LookupError: a tile is missing, or shorter than it must be.
        """
        frontier = cls()
        frontier._size = size
        level = 0
        while count := size >> TILE_LEVELS * level:
            number, width = divmod(count, TILE_WIDTH)
            frontier._edges.append(_read(tiles, level, number, width) if width else b"")
            level += 1
        return frontier

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    def extend(self, leaves: Iterable[bytes]) -> list[Tile]:
        """Appends leaves.

        Args:
            leaves: Their hashes, in order.

        Returns:
            Every tile that is new or longer now; full ones never come again.
        """
        hashes = b"".join(leaves)
        if len(hashes) % HASH_BYTES:
            raise ValueError(
                f"the leaves' hashes have {len(hashes)} bytes together; each must have {HASH_BYTES}"
            )
        changed: list[Tile] = []
        before, level = self._size, 0
        self._size += len(hashes) // HASH_BYTES
        while hashes:
            if level == len(self._edges):
                self._edges.append(b"")
            hashes = self._edges[level] + hashes
            first = before >> TILE_LEVELS * (level + 1)
            tiles = [
                Tile(level, first + count, hashes[at : at + TILE_BYTES])
                for count, at in enumerate(range(0, len(hashes), TILE_BYTES))
            ]
            changed += tiles
            self._edges[level] = b"" if len(tiles[-1].hashes) == TILE_BYTES else tiles.pop().hashes
            hashes = b"".join([fold(tile.hashes) for tile in tiles])
            level += 1
        return changed

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        found: bytes | None = None
        for edge in self._edges:
            end = len(edge)
            while (
                end
            ):  # the complete subtrees of this level, from the right and smallest to the left and largest
                width = end & -end
                found = _joined(fold(edge[end - width : end]), found)
                end -= width
        return EMPTY_ROOT if found is None else found


class TiledNodes:
    """``Nodes`` from stored tiles. Keeps the tiles last read: make one for a proof, or for several of one moment."""

    def __init__(self, tiles: Tiles) -> None:
        self._tiles = tiles
        self._tile = lru_cache(_TILES_CACHED)(tiles.tile)

    def node(self, level: int, index: int) -> bytes:
        """See ``Nodes``."""
        tile_level, height = divmod(level, TILE_LEVELS)
        number, first = divmod(index << height, TILE_WIDTH)
        last = first + (1 << height)
        hashes = self._tile(tile_level, number)
        if len(hashes) < last * HASH_BYTES:
            raise _short(tile_level, number, last, hashes)
        return fold(hashes[first * HASH_BYTES : last * HASH_BYTES])


def root(nodes: Nodes, size: int) -> bytes:
    """The root of the tree over the first ``size`` leaves.

    Raises:
        LookupError: ``nodes`` lacks one that is needed.
    """
    return _subtree(nodes, 0, size) if size else EMPTY_ROOT


def inclusion(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """The proof that a leaf is in the tree over the first ``size`` leaves (RFC 6962, 2.1.1).

    Args:
        nodes: The tree's; only complete subtrees are asked for.
        index: The leaf's, from 0.
        size: How many leaves the tree has.

    Raises:
        ValueError: the tree has no such leaf.
        LookupError: ``nodes`` lacks one that is needed.
    """
    if not 0 <= index < size:
        raise ValueError(f"the index is {index}; in a tree of {size} leaves it must be from 0 to {size - 1}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_subtree(nodes, middle, high))
            high = middle
        else:
            path.append(_subtree(nodes, low, middle))
            low = middle
    return path[::-1]


def consistency(nodes: Nodes, old_size: int, new_size: int) -> list[bytes]:
    """The proof that the newer tree begins with the leaves of the older one (RFC 6962, 2.1.2).

    Args:
        nodes: The newer tree's; only complete subtrees are asked for.
        old_size: How many leaves the older tree has.
        new_size: How many the newer one has.

    Returns:
        The hashes; none where the older tree is empty, or as large as the newer one.

    Raises:
        ValueError: the older tree is the larger one.
        LookupError: ``nodes`` lacks one that is needed.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(
            f"the older tree has {old_size} leaves; it must have from 0 to {new_size}, as the newer one"
        )
    path: list[bytes] = []
    low, high = 0, new_size
    while 0 < old_size < high:
        middle = low + _split(high - low)
        if old_size <= middle:
            path.append(_subtree(nodes, middle, high))
            high = middle
        else:
            path.append(_subtree(nodes, low, middle))
            low = middle
    if low:  # not the whole older tree, whose root the verifier has
        path.append(_subtree(nodes, low, high))
    return path[::-1]


def _subtree(nodes: Nodes, low: int, high: int) -> bytes:
    """The hash over the leaves from ``low`` to before ``high``, a subtree as RFC 6962 cuts them."""
    found: bytes | None = None
    while low < high:  # from the right: the complete subtrees that ``high``'s lowest bits stand for
        level = (high - low & low - high).bit_length() - 1
        high -= 1 << level
        found = _joined(nodes.node(level, high >> level), found)
    assert found is not None
    return found


def _joined(left: bytes, right: bytes | None) -> bytes:
    return left if right is None else parent_hash(left, right)


def _split(count: int) -> int:
    """The largest power of two below ``count``: where RFC 6962 cuts a tree in two."""
    return 1 << (count - 1).bit_length() - 1


def _read(tiles: Tiles, level: int, number: int, width: int) -> bytes:
    hashes = tiles.tile(level, number)
    if len(hashes) < width * HASH_BYTES:
        raise _short(level, number, width, hashes)
    return hashes[: width * HASH_BYTES]


def _short(level: int, number: int, width: int, hashes: bytes) -> LookupError:
    return LookupError(
        f"tile {number} of level {level} of the log's tree has {len(hashes) // HASH_BYTES} hashes stored, not {width}: "
        "the tree was not extended so far, or the stored tree was changed"
    )
