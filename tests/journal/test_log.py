"""The transparency log against implementations that are not ours: rfc8785 for entries, pymerkle for the tree."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from engine.journal.log import (
    HASH_SIZE,
    SALT_SIZE,
    TILE_SIZE,
    Tree,
    chained,
    commitment,
    covered_by_tiles,
    entry,
    leaf_hash,
    node_hash,
)

# No surrogates: no journal can hold them, and RFC 8785 refuses them.
texts = st.text(st.characters(exclude_categories=["Cs"]))
optional = st.none() | texts
numbers = st.integers(1, 2**53 - 1)


@given(
    seq=numbers,
    stream=texts,
    name=optional,
    path=optional,
    run=st.none() | numbers,
    by=optional,
    facts=texts,
    committed=st.none() | st.binary(min_size=32, max_size=32),
)
def test_an_entry_is_what_rfc_8785_makes_of_the_record(
    seq: int,
    stream: str,
    name: str | None,
    path: str | None,
    run: int | None,
    by: str | None,
    facts: str,
    committed: bytes | None,
) -> None:
    kind, at = "step.completed", "2026-11-23T18:55:19.123456Z"
    expected = rfc8785.dumps(
        {
            "seq": seq,
            "stream": stream,
            "kind": kind,
            "name": name,
            "path": path,
            "run": run,
            "at": at,
            "by": by,
            "facts": facts,
            "data": None if committed is None else committed.hex(),
        }
    )
    assert entry(seq, stream, kind, name, path, run, at, by, facts, committed) == expected


def test_an_entry_has_its_ten_keys_always() -> None:
    whole = json.loads(entry(1, "/engine", "journal.created", None, None, None, "2026", None, "{}", None))
    assert sorted(whole) == ["at", "by", "data", "facts", "kind", "name", "path", "run", "seq", "stream"]
    assert whole["facts"] == "{}"


def test_a_commitment_hides_the_data_behind_its_salt() -> None:
    assert commitment(b"s" * SALT_SIZE, "é") == sha256(b"s" * SALT_SIZE + b"\xc3\xa9").digest()
    assert commitment(b"s" * SALT_SIZE, "null") != commitment(b"t" * SALT_SIZE, "null")


def test_leaves_nodes_and_chains_are_hashed_apart() -> None:
    left, right = os.urandom(HASH_SIZE), os.urandom(HASH_SIZE)
    assert leaf_hash(left + right) == sha256(b"\x00" + left + right).digest()
    assert node_hash(left, right) == sha256(b"\x01" + left + right).digest()
    assert chained(left, right) == sha256(left + right).digest()


def test_the_empty_tree_has_the_root_of_rfc_6962() -> None:
    assert Tree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_roots_are_those_of_an_independent_tree() -> None:
    tree, peer = Tree(), InmemoryTree(algorithm="sha256")
    # pymerkle 7 calls it `get_root`, those before `get_state`.
    root_of_peer = getattr(peer, "get_root", None) or peer.get_state
    for number in range(300):
        what = f"entry {number}".encode()
        tree.append(leaf_hash(what))
        peer.append_entry(what)
        assert tree.root() == root_of_peer(), number


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(root_of(leaves[:half]), root_of(leaves[half:]))


@pytest.fixture(scope="module")
def leaves() -> list[bytes]:
    return [sha256(number.to_bytes(4, "big")).digest() for number in range(140_000)]


def test_full_tiles_hold_the_roots_of_256_subtrees(leaves: list[bytes]) -> None:
    tree = Tree()
    tiles = [tile for leaf in leaves for tile in tree.append(leaf)]
    assert [(level, n, len(hashes)) for level, n, hashes in tiles] == [(1, 0, 8192), (1, 1, 8192)]
    for _, n, hashes in tiles:
        for at in (0, 1, 255):
            first = (n * TILE_SIZE + at) * TILE_SIZE
            assert hashes[at * HASH_SIZE : (at + 1) * HASH_SIZE] == root_of(leaves[first : first + TILE_SIZE])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 65_537, 131_072, 140_000])
def test_a_tree_is_restored_as_it_was_from_tiles_and_leaves(leaves: list[bytes], size: int) -> None:
    tree = Tree()
    tiles = [tile for leaf in leaves[:size] for tile in tree.append(leaf)]
    covered = covered_by_tiles(size)
    assert covered == TILE_SIZE * TILE_SIZE * len(tiles)
    restored = Tree.restore([hashes for _, _, hashes in tiles], leaves[covered:size])
    assert (restored.size, restored.root()) == (size, tree.root())
    for leaf in leaves[size : size + 600]:
        assert restored.append(leaf) == tree.append(leaf)
    assert restored.root() == tree.root()


def test_the_example_of_the_reference_page_is_right(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "log.md").read_text(encoding="utf-8")
    committed = commitment(bytes(range(SALT_SIZE)), '{"args":[3]}')
    what = entry(4, "order-1", "activity.started", "orders.fulfil", None, 1, "2026-11-23T08:00:02.000000Z", None,
                 '{"generation":0}', committed)  # fmt: skip
    for told in (committed.hex(), what.decode(), leaf_hash(what).hex()):
        assert told in page
