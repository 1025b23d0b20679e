"""The log's Merkle tree, against RFC 6962's own definitions and published examples."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import rfc6962
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes.audit import check, tree
from wfes.audit.check import NotProven, leaf_bytes, parse_leaf, verify_consistency, verify_inclusion
from wfes.audit.tree import TILE_BYTES, Frontier, Tile, TiledNodes, leaf_hash

SIZE = 1000
INPUTS = [f"event {index}".encode() for index in range(SIZE)]
REFERENCE = rfc6962.Inputs(INPUTS)
LEAVES = [rfc6962.sha(b"\x00", each) for each in INPUTS]

# The leaves, roots and proofs that implementations of Certificate Transparency are tested with.
EXAMPLE = [
    bytes.fromhex(text)
    for text in [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
]
EXAMPLE_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
FIRST_OF_EIGHT = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]
SIX_TO_EIGHT = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


class Stored(dict[tuple[int, int], bytes]):
    """Tiles, as a table keeps them."""

    def keep(self, tiles: Sequence[Tile]) -> None:
        for level, number, hashes in tiles:
            before = self.get((level, number), b"")
            assert hashes.startswith(before), "a tile only grows"
            assert len(before) < len(hashes) <= TILE_BYTES, "a tile is handed out when it has changed"
            self[level, number] = hashes

    def tile(self, level: int, number: int) -> bytes:
        return self.get((level, number), b"")


def grown(leaves: Sequence[bytes], at_once: int = 100) -> tuple[Frontier, Stored]:
    edge, stored = Frontier(), Stored()
    for start in range(0, len(leaves), at_once):
        stored.keep(edge.extend(leaves[start : start + at_once]))
    return edge, stored


NODES = TiledNodes(grown(LEAVES)[1])


def hexed(hashes: Sequence[bytes]) -> list[str]:
    return [each.hex() for each in hashes]


# -- Published examples -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    edge, stored = grown([rfc6962.sha(b"\x00", each) for each in EXAMPLE[:size]], 1)
    assert edge.root().hex() == EXAMPLE_ROOTS[size]
    assert tree.root(TiledNodes(stored), size).hex() == EXAMPLE_ROOTS[size]
    assert rfc6962.Inputs(EXAMPLE).mth(size).hex() == EXAMPLE_ROOTS[size], "the reference of these tests"


def test_published_proofs() -> None:
    nodes = TiledNodes(grown([rfc6962.sha(b"\x00", each) for each in EXAMPLE])[1])
    assert hexed(tree.inclusion(nodes, 0, 8)) == FIRST_OF_EIGHT
    assert hexed(tree.consistency(nodes, 6, 8)) == SIX_TO_EIGHT


# -- Every size, against the RFC's definitions ------------------------------------------------------


def test_the_root_of_every_size() -> None:
    edge, stored = Frontier(), Stored()
    for size in range(SIZE + 1):
        assert edge.size == size
        assert edge.root() == REFERENCE.mth(size) == tree.root(NODES, size)
        stored.keep(edge.extend(LEAVES[size : size + 1]))


def test_inclusion_in_trees_of_every_size() -> None:
    chance = random.Random(1)
    for size in range(1, SIZE + 1):
        if size <= 40:
            indices = set(range(size))
        else:
            indices = {0, size - 1, *(chance.randrange(size) for _ in range(4))}
        for index in indices:
            path = tree.inclusion(NODES, index, size)
            assert path == REFERENCE.path(index, size)
            assert rfc6962.from_path(LEAVES[index], index, size, path) == REFERENCE.mth(size)
            verify_inclusion(index, size, LEAVES[index], path, REFERENCE.mth(size))


def test_consistency_of_trees_of_every_size() -> None:
    chance = random.Random(2)
    for new in range(1, SIZE + 1):
        if new <= 40:
            olds = set(range(1, new + 1))
        else:
            olds = {1, new - 1, 1 << chance.randrange(new.bit_length()), chance.randrange(1, new)}
        for old in olds:
            proof = tree.consistency(NODES, old, new)
            old_root, new_root = REFERENCE.mth(old), REFERENCE.mth(new)
            assert proof == REFERENCE.proof(old, new)
            assert rfc6962.from_proof(old_root, old, new, proof) == (old_root, new_root)
            verify_consistency(old, new, proof, old_root, new_root)


def test_three_levels_of_tiles() -> None:
    leaves = [index.to_bytes(32) for index in range(2 * 65536 + 300)]
    edge, stored = grown(leaves, 50_000)
    assert {level for level, _ in stored} == {0, 1, 2}
    count = len(leaves)
    assert sum(map(len, stored.values())) < 32.2 * count
    path = tree.inclusion(TiledNodes(stored), 70_000, count)
    assert rfc6962.from_path(leaves[70_000], 70_000, count, path) == edge.root()
    assert Frontier.resume(count, stored).root() == edge.root()


# -- Appending --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.integers(0, 600), max_size=6))
def test_how_leaves_are_grouped_does_not_matter(groups: list[int]) -> None:
    size = min(sum(groups), SIZE)
    edge, stored, done = Frontier(), Stored(), 0
    for group in groups:
        if group % 2:  # as a process that starts anew
            edge = Frontier.resume(done, stored)
        part = LEAVES[done : done + group]
        stored.keep(edge.extend(part))
        done += len(part)
    assert (edge.size, edge.root()) == (size, REFERENCE.mth(size))
    assert stored == grown(LEAVES[:size])[1]


@settings(max_examples=30)
@given(st.integers(0, SIZE))
def test_a_tree_is_taken_up_where_an_older_one_ended(size: int) -> None:
    _, stored = grown(LEAVES)
    edge = Frontier.resume(size, stored)
    assert edge.root() == REFERENCE.mth(size)
    edge.extend(LEAVES[size:])
    assert edge.root() == REFERENCE.mth(SIZE)


def test_missing_tiles_are_named() -> None:
    _, stored = grown(LEAVES)
    with pytest.raises(LookupError, match=r"tile 3 of level 0 .* has 232 hashes stored, not 233"):
        Frontier.resume(SIZE + 1, stored)
    del stored[0, 1]
    with pytest.raises(LookupError, match=r"tile 1 of level 0 .* has 0 hashes stored, not 256"):
        tree.inclusion(TiledNodes(stored), 300, SIZE)


def test_leaves_of_a_wrong_size_are_refused() -> None:
    edge = Frontier()
    with pytest.raises(ValueError, match="33 bytes"):
        edge.extend([bytes(33)])
    assert edge.size == 0


def test_impossible_proofs_are_refused() -> None:
    with pytest.raises(ValueError, match="index is 5; in a tree of 5 leaves it must be from 0 to 4"):
        tree.inclusion(NODES, 5, 5)
    with pytest.raises(ValueError, match="older tree has 6 leaves; it must have from 0 to 5"):
        tree.consistency(NODES, 6, 5)


# -- What does not verify ---------------------------------------------------------------------------


def damaged(hashes: Sequence[bytes], chance: random.Random) -> list[bytes]:
    """A proof that is not quite this one."""
    kind = chance.randrange(4) if hashes else 0
    at = chance.randrange(len(hashes) + (kind == 0))
    changed = list(hashes)
    if kind == 0:
        changed.insert(at, bytes(32))
    elif kind == 1:
        del changed[at]
    elif kind == 2:
        changed[at] = bytes([changed[at][0] ^ 1 << chance.randrange(8)]) + changed[at][1:]
    else:
        changed = [*changed[at + 1 :], *changed[: at + 1]]
        if changed == list(hashes):
            changed.append(changed[0])
    return changed


@settings(max_examples=150)
@given(st.integers(1, SIZE), st.data())
def test_a_changed_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path, root = REFERENCE.path(index, size), REFERENCE.mth(size)
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    wrong = [
        (index, size, LEAVES[index], damaged(path, chance), root),
        (index, size, LEAVES[index - 1] if size > 1 else bytes(32), path, root),
        (index, size, LEAVES[index], path, REFERENCE.mth(size - 1)),
        (size, size, LEAVES[index], path, root),
        (-1, size, LEAVES[index], path, root),
    ]
    if size > 1:
        wrong.append(((index + 1) % size, size, LEAVES[index], path, root))
    for arguments in wrong:
        with pytest.raises(NotProven):
            verify_inclusion(*arguments)


@settings(max_examples=150)
@given(st.integers(1, SIZE), st.data())
def test_a_changed_consistency_proof_is_refused(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    proof, old_root, new_root = REFERENCE.proof(old, new), REFERENCE.mth(old), REFERENCE.mth(new)
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    for arguments in [
        (old, new, damaged(proof, chance), old_root, new_root),
        (old, new, proof, REFERENCE.mth(old - 1), new_root),
        (old, new, proof, old_root, REFERENCE.mth(new - 1)),
        (new + 1, new, proof, old_root, new_root),
    ]:
        with pytest.raises(NotProven):
            verify_consistency(*arguments)


def test_a_proof_holds_for_the_size_it_was_made_for_only() -> None:
    # Each of these leads to the root that is given; only the number of its hashes tells that the size is wrong.
    four, eight = REFERENCE.mth(4), REFERENCE.mth(8)
    for size, made_for, root, told in (8, 4, four, "2 hashes: too few"), (4, 8, eight, "3 hashes: too many"):
        with pytest.raises(NotProven, match=told):
            verify_inclusion(0, size, LEAVES[0], REFERENCE.path(0, made_for), root)
    for size, made_for, root, told in (8, 4, four, "1 hashes: too few"), (4, 8, eight, "2 hashes: too many"):
        with pytest.raises(NotProven, match=told):
            verify_consistency(2, size, REFERENCE.proof(2, made_for), REFERENCE.mth(2), root)


def test_trees_that_need_no_proof() -> None:
    verify_consistency(0, 7, [], check.EMPTY_ROOT, REFERENCE.mth(7))
    verify_consistency(7, 7, [], REFERENCE.mth(7), REFERENCE.mth(7))
    with pytest.raises(NotProven, match="two pasts"):
        verify_consistency(7, 7, [], REFERENCE.mth(7), REFERENCE.mth(8))
    with pytest.raises(NotProven, match="is empty"):
        verify_consistency(4, 7, [], REFERENCE.mth(4), REFERENCE.mth(7))


# -- Leaves -----------------------------------------------------------------------------------------

places = st.integers(1, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
leaves = st.tuples(places, texts, places, texts, st.binary(max_size=40))


@given(leaves)
def test_a_leaf_covers_all_of_an_event(leaf: tuple[int, str, int, str, bytes]) -> None:
    data = leaf_bytes(*leaf)
    assert parse_leaf(data) == leaf  # so no two events have the same bytes
    assert leaf_hash(*leaf) == rfc6962.sha(b"\x00", data)


def test_the_bytes_of_a_leaf_are_what_they_always_were() -> None:
    numbers = "0000000000000007" + "0000000000000002" + "00000004" + "00000007"
    texts = "a-\N{LATIN SMALL LETTER E WITH ACUTE}Started".encode()
    data = leaf_bytes(7, "a-\N{LATIN SMALL LETTER E WITH ACUTE}", 2, "Started", b"\x01\x02")
    assert data == bytes.fromhex(numbers) + texts + b"\x01\x02"


def test_what_is_not_a_leaf_is_refused() -> None:
    data = leaf_bytes(7, "order", 2, "Started", b"")
    for end in range(len(data)):
        with pytest.raises(check.Malformed):
            parse_leaf(data[:end])
    with pytest.raises(check.Malformed, match="not UTF-8"):
        parse_leaf(data.replace(b"order", b"\xff" * 5))
