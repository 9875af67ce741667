"""The transparency log: entries, leaves, and the RFC 6962 Merkle tree over them, kept while records are appended.

A record becomes an *entry* (one RFC 8785 object), the entry a *leaf*, and the leaves a *tree*, whose root stands on the
last record of each commit. In memory are only the tree's peaks (one hash for each set bit of its size) and the tiles
being filled; full tiles of 256 hashes are handed out to be stored, from level 1 up. The exact format, for those who
write a verifier of their own, is in `docs/reference/log.md`.

Sources: RFC 6962 section 2.1 (tree and its hashes), RFC 8785 (canonical JSON), C2SP tlog-tiles (tiles).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from json.encoder import encode_basestring
from typing import TypeAlias

quoted = encode_basestring
"""A text as a JSON string, in the form of RFC 8785: nothing is escaped that need not be."""

TILE_HEIGHT = 8
TILE_SIZE = 1 << TILE_HEIGHT
SALT_SIZE = 16
HASH_SIZE = 32
EMPTY_CHAIN = bytes(HASH_SIZE)
"""h(0) of a stream's hash chain."""

Tile: TypeAlias = tuple[int, int, bytes]
"""A full tile: its level, its index within the level, its 256 hashes in a row."""


def commitment(salt: bytes, data: str) -> bytes:
    """What the entry says of `data`: SHA-256 of the salt and of the stored text."""
    return sha256(salt + data.encode()).digest()


def entry(
    seq: int,
    stream: str,
    kind: str,
    name: str | None,
    path: str | None,
    run: int | None,
    at: str,
    by: str | None,
    facts: str,
    committed: bytes | None,
) -> bytes:
    """The record as one RFC 8785 object, in UTF-8.

    Args:
        committed: the commitment to `data` (or, where it was erased, `digest`); `None` where there never was any.

    The keys stand in their canonical order. `kind` and `at` are the engine's own and need no escape.
    """
    return (
        f'{{"at":"{at}","by":{"null" if by is None else quoted(by)},'
        f'"data":{"null" if committed is None else f"{chr(34)}{committed.hex()}{chr(34)}"},'
        f'"facts":{quoted(facts)},"kind":"{kind}","name":{"null" if name is None else quoted(name)},'
        f'"path":{"null" if path is None else quoted(path)},"run":{"null" if run is None else run},'
        f'"seq":{seq},"stream":{quoted(stream)}}}'
    ).encode()


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962's hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962's hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def chained(chain: bytes, leaf: bytes) -> bytes:
    """The next value of a stream's hash chain: h(k) = SHA-256(h(k-1) ‖ leaf of the k-th)."""
    return sha256(chain + leaf).digest()


class Tree:
    """An RFC 6962 Merkle tree that only grows.

    Each leaf costs two hashes on average; a root costs one for each set bit of the size but one.
    """

    __slots__ = ("_peaks", "_rows", "size")

    def __init__(self) -> None:
        self.size = 0
        # One peak for each set bit of `size`, from the highest down: the roots of the perfect trees it is made of.
        self._peaks: list[bytes] = []
        # Row k (k >= 1) holds the roots of perfect trees of height 8k that fill the next tile of level k.
        self._rows: list[list[bytes]] = [[], []]

    @classmethod
    def restore(cls, tiles: Iterable[bytes], leaves: Iterable[bytes]) -> Tree:
        """The tree as it was, from what is stored of it.

        Args:
            tiles: the hashes of the full tiles of level 1, in order.
            leaves: the leaves that come after those tiles, in order.
        """
        tree = cls()
        for tile in tiles:
            for at in range(0, len(tile), HASH_SIZE):
                tree._grow(tile[at : at + HASH_SIZE], TILE_HEIGHT)
        for leaf in leaves:
            tree.append(leaf)
        return tree

    def append(self, leaf: bytes) -> list[Tile]:
        """Add a leaf; returns the tiles that it fills, nearly always none."""
        if not self.size & 1:
            self._peaks.append(leaf)
            self.size += 1
            return []
        return self._grow(leaf, 0)

    def _grow(self, subtree: bytes, height: int) -> list[Tile]:
        filled: list[Tile] = []
        rest = self.size >> height
        self.size += 1 << height
        if height:
            self._collect(subtree, height, filled)
        while rest & 1:
            subtree = node_hash(self._peaks.pop(), subtree)
            rest >>= 1
            height += 1
            if not height % TILE_HEIGHT:
                self._collect(subtree, height, filled)
        self._peaks.append(subtree)
        return filled

    def _collect(self, subtree: bytes, height: int, filled: list[Tile]) -> None:
        level = height // TILE_HEIGHT
        while len(self._rows) <= level:
            self._rows.append([])
        row = self._rows[level]
        row.append(subtree)
        if len(row) == TILE_SIZE:
            filled.append((level, (self.size >> (height + TILE_HEIGHT)) - 1, b"".join(row)))
            row.clear()

    def root(self) -> bytes:
        """The tree's root; of the empty tree, SHA-256 of nothing."""
        peaks = self._peaks
        if not peaks:
            return sha256(b"").digest()
        root = peaks[-1]
        for peak in reversed(peaks[:-1]):
            root = node_hash(peak, root)
        return root


def covered_by_tiles(size: int) -> int:
    """How many leaves, from the first on, stand under full stored tiles in a tree of this size."""
    tile = TILE_SIZE << TILE_HEIGHT
    return size // tile * tile
