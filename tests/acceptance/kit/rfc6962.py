"""Merkle trees straight from the definitions of RFC 6962, section 2.1, shared with nothing of the product.

MTH, PATH and PROOF are the RFC's recursive definitions over a list of inputs; ``from_path`` and ``from_proof`` follow
the same recursion to compute roots from a proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def cut(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


class Inputs:
    """D[0:n]: any of its slices has the RFC's hashes and proofs; what was worked out once is kept."""

    def __init__(self, inputs: Sequence[bytes]) -> None:
        self.inputs = inputs
        self._known: dict[tuple[int, int], bytes] = {}

    def mth(self, n: int, start: int = 0) -> bytes:
        """MTH(D[start:start+n])."""
        if n == 0:
            return sha(b"")
        if (start, n) not in self._known:
            k = cut(n)
            self._known[start, n] = (
                sha(b"\x00", self.inputs[start])
                if n == 1
                else sha(b"\x01", self.mth(k, start), self.mth(n - k, start + k))
            )
        return self._known[start, n]

    def path(self, m: int, n: int, start: int = 0) -> list[bytes]:
        """PATH(m, D[start:start+n])."""
        if n == 1:
            return []
        k = cut(n)
        if m < k:
            return [*self.path(m, k, start), self.mth(n - k, start + k)]
        return [*self.path(m - k, n - k, start + k), self.mth(k, start)]

    def proof(self, m: int, n: int) -> list[bytes]:
        """PROOF(m, D[0:n])."""
        return self._subproof(m, n, 0, True)

    def _subproof(self, m: int, n: int, start: int, whole: bool) -> list[bytes]:
        if m == n:
            return [] if whole else [self.mth(n, start)]
        k = cut(n)
        if m <= k:
            return [*self._subproof(m, k, start, whole), self.mth(n - k, start + k)]
        return [*self._subproof(m - k, n - k, start + k, False), self.mth(k, start)]


def from_path(leaf: bytes, m: int, n: int, path: Sequence[bytes]) -> bytes:
    """The root that the hash of leaf m in a tree of n leads to with this PATH."""
    if n == 1:
        assert not path
        return leaf
    *inner, last = path
    k = cut(n)
    if m < k:
        return sha(b"\x01", from_path(leaf, m, k, inner), last)
    return sha(b"\x01", last, from_path(leaf, m - k, n - k, inner))


def from_proof(
    old_root: bytes, m: int, n: int, proof: Sequence[bytes], whole: bool = True
) -> tuple[bytes, bytes]:
    """The roots of the trees of m and of n that this PROOF leads to."""
    if m == n:
        (found,) = (old_root,) if whole else proof
        return found, found
    *inner, last = proof
    k = cut(n)
    if m <= k:
        old, new = from_proof(old_root, m, k, inner, whole)
        return old, sha(b"\x01", new, last)
    old, new = from_proof(old_root, m - k, n - k, inner, False)
    return sha(b"\x01", last, old), sha(b"\x01", last, new)
