"""An activity's timeline: what is drawn where, as plain values; the template draws them.

One lane a step, in the order in which they began, and one for each wait and each event. Where nothing was done for so
long that the rest would be squeezed together, the idle time is drawn compressed and its length written. Positions are
per cent of the width, so that the drawing takes the width it is given while its texts keep their size.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import attrs

from engine.audit.folding import STEP_KINDS, began
from engine.audit.rows import Record
from engine.audit.wording import duration, error_type

MOST_LANES = 60
"""Lanes that are drawn; the table of steps has all."""

LANE_HEIGHT = 24
"""Pixels; the style sheet has the same."""

_IDLE_SHARE = 0.3
"""The share of the width from which on idle time is compressed."""

_SHORTEST_IDLE = 1.0
"""Seconds: shorter idle times are never compressed, since nobody wonders at them."""

_COMPRESSED_SHARE = 0.14
"""The share of the width that compressed idle time takes."""

_MOST_COMPRESSED = 5
_NARROWEST = 0.5
"""Per cent of the width that a bar has at least, so that it can be seen."""


@attrs.frozen(kw_only=True)
class Bar:
    """Something that took time: `kind` is `completed`, `failed` or `wait`; `again` after the first attempt."""

    x: float
    width: float
    kind: str
    again: bool
    title: str


@attrs.frozen(kw_only=True)
class Mark:
    """An event."""

    x: float
    title: str


@attrs.frozen(kw_only=True)
class Lane:
    """One line of the drawing."""

    label: str
    bars: Sequence[Bar]
    marks: Sequence[Mark]


@attrs.frozen(kw_only=True)
class Gap:
    """Idle time that is drawn compressed."""

    x: float
    width: float
    label: str


@attrs.frozen(kw_only=True)
class Boundary:
    """Where a run ended and another one began."""

    x: float
    label: str


@attrs.frozen(kw_only=True)
class Timeline:
    """A whole drawing."""

    lanes: Sequence[Lane]
    gaps: Sequence[Gap]
    boundaries: Sequence[Boundary]
    ticks: Sequence[tuple[float, str]]
    left_out: int
    summary: str

    @property
    def height(self) -> int:
        return len(self.lanes) * LANE_HEIGHT


class _Axis:
    """From instants to per cent of the width, with long idle times compressed."""

    def __init__(self, first: dt.datetime, last: dt.datetime, busy: Iterable[tuple[float, float]]) -> None:
        self.first = first
        self.length = max((last - first).total_seconds(), 1e-6)
        self.compressed = _compressed(_idle(busy, self.length), self.length)
        rest = self.length - sum(end - start for start, end in self.compressed)
        self._scale = (1 - _COMPRESSED_SHARE * len(self.compressed)) / max(rest, 1e-9)

    def at(self, instant: dt.datetime) -> float:
        return self.of((instant - self.first).total_seconds())

    def of(self, seconds: float) -> float:
        """Where so many seconds after the beginning are drawn."""
        seconds = min(max(seconds, 0.0), self.length)
        drawn, done = 0.0, 0.0
        for start, end in self.compressed:
            if seconds <= start:
                break
            drawn += (start - done) * self._scale
            drawn += _COMPRESSED_SHARE * min(1.0, (seconds - start) / (end - start))
            done = end
        return 100 * (drawn + max(0.0, seconds - done) * self._scale)

    def seconds(self, x: float) -> float | None:
        """How many seconds after the beginning are drawn at `x` per cent; `None` within compressed time."""
        drawn, done = 0.0, 0.0
        for start, end in self.compressed:
            to_start = drawn + (start - done) * self._scale
            if x / 100 <= to_start:
                break
            if x / 100 < to_start + _COMPRESSED_SHARE:
                return None
            drawn, done = to_start + _COMPRESSED_SHARE, end
        return done + (x / 100 - drawn) / self._scale


def _idle(busy: Iterable[tuple[float, float]], length: float) -> list[tuple[float, float]]:
    """The times within which nothing was done."""
    idle, reached = [], 0.0
    for start, end in sorted(busy):
        if start > reached:
            idle.append((reached, start))
        reached = max(reached, end)
    return [*idle, (reached, length)] if length > reached else idle


def _compressed(idle: Sequence[tuple[float, float]], length: float) -> list[tuple[float, float]]:
    """Which idle times are compressed: each that would take too large a share of what is left of the width."""
    chosen: list[tuple[float, float]] = []
    for start, end in sorted(idle, key=lambda gap: gap[0] - gap[1])[:_MOST_COMPRESSED]:
        rest = length - sum(b - a for a, b in chosen)
        share = (end - start) / rest * (1 - _COMPRESSED_SHARE * len(chosen))
        if end - start < _SHORTEST_IDLE or share <= _IDLE_SHARE:
            break
        chosen.append((start, end))
    return sorted(chosen)


_MARKS = {"event.emitted": "event on", "message.taken": "received a", "message.sent": "sent a"}
"""Records that are drawn as marks, and what is said of them before their name."""

_DRAWN = ("timer.set", "child.started", "message.replied", *_MARKS)
"""Records beside the attempts at steps that are drawn."""

_ENDS_OF_WAITS = ("timer.fired", "message.taken", "message.failed", "message.answered", "child.ended")


def timeline_of(records: Sequence[Record]) -> Timeline | None:
    """The drawing of an activity's records, in order; `None` where there is nothing to draw."""
    # What a fork took over was done by the original.
    records = [record for record in records if "copied" not in record.facts]
    acts = [record for record in records if record.kind in STEP_KINDS or record.kind in _DRAWN]
    if not acts:
        return None
    # A command that comes when the activity has ended is no part of what it did.
    first, last = records[0].at, max(record.at for record in records if not record.kind.startswith("command."))

    def since(instant: dt.datetime) -> float:
        return (instant - first).total_seconds()

    busy = [(since(began(record) if record.kind in STEP_KINDS else record.at), since(record.at)) for record in acts]
    axis = _Axis(first, last, busy)
    lanes = _lanes(records, axis, last)
    steps = sum(record.kind in STEP_KINDS for record in records)
    return Timeline(
        lanes=lanes[:MOST_LANES],
        gaps=[_gap(axis, start, end) for start, end in axis.compressed],
        boundaries=_boundaries(records, axis),
        ticks=[(x, _tick(seconds)) for x in (0, 25, 50, 75, 100) if (seconds := axis.seconds(x)) is not None],
        left_out=max(0, len(lanes) - MOST_LANES),
        summary=f"{steps} attempts at steps within {duration(axis.length)}; the table of steps says the same in words",
    )


def _tick(seconds: float) -> str:
    return f"+{duration(seconds)}" if seconds > 0 else "0"


def _gap(axis: _Axis, start: float, end: float) -> Gap:
    x = axis.of(start)
    return Gap(x=x, width=axis.of(end) - x, label=duration(end - start))


def _lanes(records: Sequence[Record], axis: _Axis, last: dt.datetime) -> list[Lane]:
    lanes: dict[str, tuple[str, list[Bar], list[Mark]]] = {}
    over = {record.path: record for record in records if record.kind in _ENDS_OF_WAITS}
    ended = {record.facts.get("id"): record for record in records if record.kind == "child.ended"}
    for record in records:
        if record.path is None:
            continue
        if record.kind in STEP_KINDS:
            _, bars, _ = lanes.setdefault(record.path, (record.path, [], []))
            bars.append(_attempt(axis, record, again=bool(bars)))
        elif record.kind == "timer.set":
            end = over[record.path].at if record.path in over else last
            title = f"{record.path}: waited {duration((end - record.at).total_seconds())}"
            _, bars, _ = lanes.setdefault(record.path, (record.path, [], []))
            bars.append(_bar(axis, record.at, end, "wait", title))
        elif record.kind == "child.started":
            _, bars, _ = lanes.setdefault(record.path, (record.path, [], []))
            bars.append(_child(axis, record, ended.get(record.facts.get("id")), last))
        elif record.kind == "event.emitted":
            _, _, marks = lanes.setdefault(record.path, (record.name or record.path, [], []))
            marks.append(Mark(x=axis.at(record.at), title=f"event on {record.name}"))
        elif record.kind in _MARKS or record.kind == "message.replied":
            _, _, marks = lanes.setdefault(record.path, (record.path, [], []))
            name = (record.name or "message").rpartition(".")[2]
            marks.append(Mark(x=axis.at(record.at), title=f"{_MARKS.get(record.kind, 'answered a')} {name}"))
    return [Lane(label=label, bars=bars, marks=marks) for label, bars, marks in lanes.values()]


def _attempt(axis: _Axis, record: Record, *, again: bool) -> Bar:
    start = began(record)
    kind = "failed" if record.kind == "step.failed" or record.facts.get("error") else "completed"
    took = duration((record.at - start).total_seconds())
    number = record.facts.get("attempt", 1)
    return _bar(axis, start, record.at, kind, f"{record.path}, attempt {number}: {kind} after {took}", again=again)


def _child(axis: _Axis, started: Record, ended: Record | None, last: dt.datetime) -> Bar:
    """A child, from its start until its parent knew of its end."""
    id = started.facts.get("id", "")
    if ended is None:
        return _bar(axis, started.at, last, "wait", f"child {id}: begun")
    status = str(ended.facts.get("status", ""))
    kind = "completed" if status == "completed" else "failed"
    took = duration((ended.at - started.at).total_seconds())
    return _bar(axis, started.at, ended.at, kind, f"child {id}: {status} after {took}")


def _bar(axis: _Axis, start: dt.datetime, end: dt.datetime, kind: str, title: str, *, again: bool = False) -> Bar:
    left, right = axis.at(start), axis.at(end)
    width = max(right - left, _NARROWEST)
    return Bar(x=min(left, 100 - width), width=width, kind=kind, again=again, title=title)


def _boundaries(records: Sequence[Record], axis: _Axis) -> list[Boundary]:
    found = []
    for record in records:
        if record.kind == "activity.crashed":
            found.append(Boundary(x=axis.at(record.at), label=f"crashed: {error_type(record.facts.get('error', ''))}"))
        elif record.kind == "activity.resumed":
            found.append(Boundary(x=axis.at(record.at), label=f"run {record.run or '?'} resumed"))
        elif record.kind == "activity.blocked":
            found.append(Boundary(x=axis.at(record.at), label="blocked"))
        elif record.kind == "activity.retried":
            found.append(Boundary(x=axis.at(record.at), label="retried"))
        elif record.kind == "activity.continued":
            found.append(Boundary(x=axis.at(record.at), label="went on as new"))
    return found
