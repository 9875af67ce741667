"""The log's tiles and tree in the file: where tiles fill, and on each side of that over closings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from engine.journal import SQLiteJournal
from tests.journal.journals import opened, rows, subtree_roots, tree_root

TILE = 65_536
"""The records below one tile of level 1: 256 hashes, each of 256 leaves."""


def leaves(path: Path) -> list[bytes]:
    return [leaf for (leaf,) in rows(path, "SELECT leaf FROM records ORDER BY seq")]


def expected_tiles(leaves: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
    nodes = subtree_roots(leaves, 256)
    return [(1, n, b"".join(nodes[256 * n : 256 * (n + 1)])) for n in range(len(nodes) // 256)]


def stored_tiles(path: Path) -> list[tuple[int, int, bytes]]:
    return rows(path, "SELECT level, n, hashes FROM tiles ORDER BY level, n")


async def grow(journal: SQLiteJournal, size: int) -> None:
    """Append until the journal has so many records; some thousands a commit."""
    append, seq = journal.append, journal.last_seq
    await journal.durable(seq)
    while seq < size:
        for _ in range(min(10_000, size - seq)):
            seq = append("/engine", "definition.registered")
        await journal.durable(seq)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal that was closed one record before its first tile, reopened there, closed with the record that fills it,
    reopened, and then grown beyond the second in one commit."""
    path = tmp_path_factory.mktemp("tiles") / "journal.db"

    async def make() -> None:
        async with opened(path) as journal:
            await grow(journal, TILE - 1)
        assert stored_tiles(path) == []
        async with opened(path) as journal:  # its `engine.opened` fills the tile
            assert journal.last_seq == TILE
        assert [row[:2] for row in stored_tiles(path)] == [(1, 0)]
        async with opened(path) as journal:
            await grow(journal, 2 * TILE - 1)
            for _ in range(3):
                last = journal.append("/engine", "definition.registered", data='"beyond"')
            await journal.durable(last)

    trio.run(make)
    return path


def test_tiles_hold_what_an_independent_computation_gives(long: Path) -> None:
    hashes = leaves(long)
    assert len(hashes) == 2 * TILE + 2
    tiles = expected_tiles(hashes)
    assert [tile[:2] for tile in tiles] == [(1, 0), (1, 1)]
    assert stored_tiles(long) == tiles


def test_roots_around_full_tiles_are_those_of_an_independent_computation(long: Path) -> None:
    hashes = leaves(long)
    roots = dict(rows(long, "SELECT seq, root FROM records WHERE root IS NOT NULL"))
    around = [seq for seq in roots if abs(seq - TILE) <= 1 or abs(seq - 2 * TILE) <= 2]
    assert around == [TILE - 1, TILE, TILE + 1, 2 * TILE - 1, 2 * TILE + 2]
    for seq in around:
        assert roots[seq] == tree_root(hashes[:seq]), seq


async def test_a_journal_that_is_reopened_beyond_its_tiles_goes_on_with_its_tree(long: Path) -> None:
    async with opened(long) as journal:
        await journal.durable(journal.append("/engine", "definition.registered"))
        size = journal.last_seq
    hashes = leaves(long)
    assert len(hashes) == size == 2 * TILE + 4
    assert rows(long, "SELECT root FROM records WHERE seq = ?", size) == [(tree_root(hashes),)]
    assert stored_tiles(long) == expected_tiles(hashes)
