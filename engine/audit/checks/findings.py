"""What verification has found so far.

One cause should be one problem, since whoever reads a thousand lines reads none. So each check says only the first of
what follows from one another, and of problems of one sort only so many are kept, and the rest counted.
"""

from __future__ import annotations

from engine.audit.rows import Problem

KEPT = 1000
"""Problems of one sort that are named one by one."""


class Findings:
    """Problems, and the records that other checks cannot rely upon.

    Attributes:
        problems: what was found, in that order.
        doubtful: the `seq` of records that are not what was recorded.
        doubtful_streams: the streams that those stand in.
        incomplete: whether records are missing, cannot be read, or stand in other places than they were recorded in.
        crowded: whether there are more doubtful records than are kept in mind. The tree, which is made of the leaves,
            can be compared all the same.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.doubtful: set[int] = set()
        self.doubtful_streams: set[str] = set()
        self.incomplete = False
        self.crowded = False
        self._told = False
        self._counts: dict[str, int] = {}

    def add(self, sort: str, seq: int | None, what: str) -> None:
        """Add a problem.

        Args:
            sort: what it has in common with others; shown where there are too many of them.
            seq: the record that it is about, where it is about one.
            what: what is wrong.
        """
        count = self._counts[sort] = self._counts.get(sort, 0) + 1
        if count <= KEPT:
            self.problems.append(Problem(seq, what))

    def doubt(self, seq: int, stream: object) -> None:
        """Have other checks not report what follows from this record."""
        if len(self.doubtful) < KEPT:
            self.doubtful.add(seq)
            self.doubtful_streams.add(str(stream))
        else:
            self.crowded = True

    def consequence(self) -> str:
        """What cannot be said any more where records are missing or moved; to be told once, with the first of them."""
        if self._told:
            return ""
        self._told = True
        return "; so the roots after it and the derived tables could not be compared"

    def finish(self) -> list[Problem]:
        """All problems: those of records first, by `seq`; last a line for each sort that had too many."""
        ordered = sorted(self.problems, key=lambda problem: (problem.seq is None, problem.seq or 0))
        for sort, count in self._counts.items():
            if count > KEPT:
                ordered.append(Problem(None, f"{count - KEPT} more problems of this sort: {sort}"))
        return ordered
