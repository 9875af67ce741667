"""Each record against its leaf.

A record that fits its leaf is as it was when the leaf was made. One that does not was altered, or stands in another
place than it was recorded in: its own number is part of its leaf, so a record that was moved fits its leaf under the
number it had. Where all records from some place on fit under numbers one higher or lower, something before them was
inserted or removed and the rest renumbered; where two fit under each other's, they were swapped.

What else a record has to hold (16 bytes of salt, an instant of 27 characters, a known kind…) is looked at too: a record
whose leaf was made anew fits its leaf, whatever it holds.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, cast

import attrs
import orjson

from engine.audit.checks.findings import Findings
from engine.audit.checks.scan import Row, Unreadable
from engine.journal.kinds import KINDS
from engine.journal.log import HASH_SIZE, SALT_SIZE, entry, leaf_hash

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII).fullmatch
_KNOWN = frozenset(KINDS)

# Whether `before` has to be there depends on the records before, which `chains` knows.
_REQUIRED = {
    kind.kind: frozenset(name for name in kind.facts if not name.endswith("?")) - {"before"} for kind in KINDS.values()
}
"""The facts that each record of a kind has."""

_FARTHEST = 1000
"""How far records are looked for that were moved or renumbered."""

_SEARCHES = 100
"""How many records at most are looked for so far; it costs some milliseconds each."""

_MISFITS = 64
"""How many altered records at most are compared with one another, to find swapped ones."""


@attrs.define
class _Run:
    """Records in a row that fit their leaves under numbers other than theirs, lower by `shift`."""

    first: int
    last: int
    shift: int


def leaf_of(row: Row, seq: int) -> bytes | None:
    """The leaf of what a record holds, as record `seq`; `None` where it holds what no record can."""
    _, stream, kind, name, path, run, at, by, facts, data, salt, digest, _, _ = row
    try:
        committed = digest if data is None else sha256(salt + data.encode()).digest()
        return leaf_hash(entry(seq, stream, kind, name, path, run, at, by, facts, committed))
    except (TypeError, AttributeError, UnicodeEncodeError):
        return None


class LeafCheck:
    """Looks at one record after the other."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._expected = 1
        self._shift = 0
        self._searches = 0
        self._runs: list[_Run] = []
        self._misfits: list[Row] = []
        self._second = ""

    def check(self, row: Row) -> tuple[dict[str, Any] | None, bytes | None]:
        """Look at the next record.

        Returns:
            Its facts, where they can be relied upon; and the leaf that it should have, where that is not the one that
            stands on it.
        """
        seq = row[0]
        if seq != self._expected:
            self._missing(self._expected, seq - 1)
        self._expected = seq + 1
        leaf = leaf_of(row, seq - self._shift)
        fits = leaf == row[12]
        if not fits:
            fits = self._is_moved(row)
        elif self._shift:
            self._moved(seq, self._shift)
        facts = _object(row[8])
        # Nearly all records are as they should be: one look suffices, and only the rest are gone through.
        lacking = _lacking(row[2], facts)
        faults = [] if fits and facts is not None and self._is_sound(row) else self._faults(row, facts)
        if lacking:
            faults.append(f"its facts lack {', '.join(sorted(lacking))}")
        if not fits:
            self._misfit(row, faults)
            return None, leaf
        for fault in faults:
            self._findings.add("records that hold what no record holds", seq, fault)
        if lacking:
            self._findings.doubt(seq, row[1])
        return (None if self._shift or lacking else facts), None

    def lost(self, part: Unreadable) -> None:
        """Take note that records cannot be read."""
        if part.first > self._expected:
            self._missing(self._expected, part.first - 1)
        self._expected = part.last + 1
        self._findings.incomplete = True
        what = f"{_it_up_to(part.first, part.last)} cannot be read ({part.why})"
        self._findings.add("records that cannot be read", part.first, what + self._findings.consequence())

    def _missing(self, first: int, last: int) -> None:
        self._findings.incomplete = True
        what = f"{_it_up_to(first, last)} {'is' if first == last else 'are'} missing: removed from the journal"
        self._findings.add("records that are missing", first, what + self._findings.consequence())

    # ------------------------------------------------------------------------------------------------ moved records

    def _is_moved(self, row: Row) -> bool:
        """Whether a record that does not fit its leaf here fits it under another number; takes note of it."""
        seq, leaf = row[0], row[12]
        for shift in self._shifts():
            if seq - shift >= 1 and leaf_of(row, seq - shift) == leaf:
                self._shift = shift
                if shift:
                    self._moved(seq, shift)
                return True
        return False

    def _shifts(self) -> Iterator[int]:
        if self._shift:
            yield 0
        if self._searches < _SEARCHES:
            self._searches += 1
            for distance in range(1, _FARTHEST + 1):
                yield self._shift + distance
                yield self._shift - distance

    def _moved(self, seq: int, shift: int) -> None:
        self._findings.incomplete = True
        if self._runs and self._runs[-1].shift == shift and self._runs[-1].last == seq - 1:
            self._runs[-1].last = seq
        else:
            self._runs.append(_Run(seq, seq, shift))

    # ------------------------------------------------------------------------------------------------ altered records

    def _misfit(self, row: Row, faults: list[str]) -> None:
        seq = row[0]
        self._findings.doubt(seq, row[1])
        if len(self._misfits) < _MISFITS and not faults:
            self._misfits.append(row)
        else:
            self._altered(seq, faults)

    def _altered(self, seq: int, faults: list[str]) -> None:
        what = "it does not fit its leaf: the record, or the leaf that stands on it, was altered after it was recorded"
        self._findings.add("records that do not fit their leaves", seq, "; ".join([what, *faults]))

    def finish(self) -> None:
        """Say what became of the records that were moved or altered, once all have been seen."""
        swapped: set[int] = set()
        for row in self._misfits:
            if row[0] not in swapped:
                other = self._partner(row)
                if other is None:
                    self._altered(row[0], [])
                else:
                    swapped |= {row[0], other}
                    self._swapped(row[0], other)
        single = {run.first: run for run in self._runs if run.first == run.last}
        for run in self._runs:
            partner = single.get(run.first - run.shift)
            if run.first in single and partner is not None and partner.first - partner.shift == run.first:
                if run.first < partner.first:
                    self._swapped(run.first, partner.first)
            else:
                self._renumbered(run)

    def _partner(self, row: Row) -> int | None:
        """The altered record that stands in this one's place, and this one in its."""
        for other in self._misfits:
            if other[0] != row[0] and leaf_of(row, other[0]) in (row[12], other[12]):
                return cast(int, other[0])
        return None

    def _swapped(self, first: int, second: int) -> None:
        low, high = sorted((first, second))
        after = self._findings.consequence() if self._findings.incomplete else ""
        self._findings.add("records that were swapped", low, f"it and record {high} were swapped{after}")

    def _renumbered(self, run: _Run) -> None:
        count, way = abs(run.shift), "later" if run.shift > 0 else "earlier"
        done = "inserted before them" if run.shift > 0 else "removed before them, and the rest renumbered"
        what = (
            f"{_it_up_to(run.first, run.last)} stand{'s' if run.first == run.last else ''} {count} "
            f"{'place' if count == 1 else 'places'} {way} than recorded: "
            f"{count} {'record was' if count == 1 else 'records were'} {done}"
        )
        what += self._findings.consequence()
        self._findings.add("records that stand in other places than recorded", run.first, what)

    # ------------------------------------------------------------------------------------------------ single columns

    def _is_sound(self, row: Row) -> bool:
        """Whether a record that fits its leaf, and so has texts where they belong, is as it should be in all else."""
        seq, _, kind, _, _, run, at, _, _, data, salt, digest, _, root = row
        return (
            kind in _KNOWN
            and seq != 1
            and (run is None or type(run) is int)
            and type(at) is str
            and at[:20] == self._second
            and len(at) == 27
            and at[19:].isascii()
            and at[20:26].isdigit()
            and at[26] == "Z"
            and (root is None or _is_hash(root))
            and (
                digest is None and type(salt) is bytes and len(salt) == SALT_SIZE if data is not None else salt is None
            )
            and (digest is None or _is_hash(digest))
        )

    def _faults(self, row: Row, facts: dict[str, Any] | None) -> list[str]:
        """What a record holds that no record can."""
        seq, stream, kind, name, path, run, at, by, _, data, salt, digest, leaf, root = row
        faults: list[str] = []
        if kind not in _KNOWN:
            faults.append(f"its kind {kind!r} is none of Playbill's")
        if run is not None and type(run) is not int:
            faults.append(f"its run is {run!r}, no integer")
        if data is None:
            if salt is not None or (digest is not None and not _is_hash(digest)):
                faults.append("it has no data, but a salt, or a digest that is none")
        elif digest is not None or type(salt) is not bytes or len(salt) != SALT_SIZE:
            faults.append("it has data, and not just 16 bytes of salt beside it")
        if not self._is_instant(at):
            faults.append(f"its instant {at!r} is none of RFC 3339 in UTC with microseconds")
        if not _is_hash(leaf) or not (root is None or _is_hash(root)):
            faults.append("its leaf or its root are not 32 bytes")
        for column, value in (("stream", stream), ("name", name), ("path", path), ("by", by)):
            if type(value) is not str and (value is not None or column == "stream"):
                faults.append(f"its {column} is no text")
        if facts is None:
            faults.append("its facts are no JSON object")
        if seq == 1 and (kind != "journal.created" or facts is None or not isinstance(facts.get("id"), str)):
            faults.append("the first record is not `journal.created` with the journal's id")
        return faults

    def _is_instant(self, at: object) -> bool:
        """Whether a text is an instant; its second needs no second look in the records that follow."""
        if not (isinstance(at, str) and _INSTANT(at)):
            return False
        try:
            dt.datetime.fromisoformat(at)
        except ValueError:
            return False
        self._second = at[:20]
        return True


def _object(text: object) -> dict[str, Any] | None:
    if not isinstance(text, str):
        return None
    try:
        facts = orjson.loads(text)
    except ValueError:
        return None
    return facts if type(facts) is dict else None


def _lacking(kind: object, facts: dict[str, Any] | None) -> frozenset[str]:
    """The facts that a record of this kind should have, and has not."""
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if facts is None or required is None or required <= facts.keys():
        return frozenset()
    return required - facts.keys()


def _is_hash(value: object) -> bool:
    return type(value) is bytes and len(value) == HASH_SIZE


def _it_up_to(first: int, last: int) -> str:
    """What is said with the first of these records."""
    return "it" if first == last else f"it and the records up to {last}"
