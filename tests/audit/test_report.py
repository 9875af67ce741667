"""The report tells the whole journal in one file that nothing in it can turn against its reader."""

from __future__ import annotations

import base64
import datetime as dt
import io
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.audit import Ledger, report, write_report
from engine.audit.rows import Record
from engine.audit.templates import visible
from engine.audit.timeline import timeline_of
from engine.audit.wording import LONGEST, duration, payload

MADE_AT = dt.datetime(2026, 11, 23, 9, 0, tzinfo=dt.UTC)


def report_of(journal: Path) -> str:
    output = io.StringIO()
    with Ledger.open(journal) as ledger:
        write_report(ledger, output, generated_at=MADE_AT)
    return output.getvalue()


VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """What a browser makes of the report: its elements, its texts, and whether all that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())
        if tag in ("td", "th", "dt", "dd", "p", "li"):
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key == name]


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(report_of(written))


# --------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    "told",
    [
        "Verified All 28 records are as they were recorded",
        "Incomplete: 2 of 4 activities had not ended",
        "Not sealed.",
        "orders.fulfil 3 1 1 1",
        "order-2 orders.fulfil, asked by bob",
        "orders.CardDeclined card declined",
        "the card ends with 1111",
        'File "orders.py", line 7, in charge',
        "The history holds step charge The code asked for step refund "
        "Mend the code so that it fits what was done, then: playbill resume",
        "only the shop may start orders please deploy@orders-1, process 4711",
        "orders.us.late for subscriber mailer, event event-2",
        "smtplib.SMTPServerDisconnected connection closed",
        "mallory 0 1",
        "2 attempts",
        "ConnectionError: connection reset by peer",
        '{"payment": "p-1"}',
        "Why web checkout",
        "Key customer-7",
        "engine.opened version 0.1.0",
        "All in UTC",
    ],
)
def test_it_tells_what_the_journal_holds(page: Page, told: str) -> None:
    assert told in page.text


async def _supervision(script: Any) -> None:
    """Something of everything that befalls the engine's tree."""
    fault = {"type": "ZeroDivisionError", "message": "a <b>fault</b>", "traceback": "File 'mailer.py', in send"}
    mailer, attached = "/subscribers/mailer", {"patterns": ["#"], "after": 0}
    await script.record(mailer, "subscriber.attached", name="mailer", facts=attached, begins="subscriber")
    for restarts in range(2):
        facts = {"error": fault["type"], "restarts": restarts}
        await script.record(mailer, "actor.crashed", name=mailer, facts=facts, data={"error": fault})
        await script.record(mailer, "actor.restarted", name=mailer, facts={"restarts": restarts + 1})
    stalled = {"seconds": 2.5, "task": "pack"}
    stack = {"stack": "File 'orders.py', in <pack>"}
    await script.record("/engine", "actor.stalled", name="/activities/order-1", facts=stalled, data=stack)
    await script.record("/engine", "actor.overdue", name="/activities/order-2", facts=stalled, data=stack)
    given_up = {"child": "mailer", "restarts": 2, "error": fault["type"]}
    await script.record("/engine", "supervisor.escalated", name="/subscribers", facts=given_up, data={"error": fault})


@pytest.fixture
def supervised(tmp_path: Path, write_journal: Callable[..., None]) -> Page:
    path = tmp_path / "supervised.db"
    write_journal(path, _supervision)
    return Page(report_of(path))


@pytest.mark.parametrize(
    "told",
    [
        "Path Crashes Restarts Escalations Stalls Overdue",
        "/ 0 0 0 0 0",
        "/activities 0 0 0 1 1",
        "/subscribers 0 0 1 0 0",
        "/subscribers/mailer 2 2 0 0 0",
        "/activities/order-1 actor.stalled",
        "seconds 2.5, task pack",
        "File 'orders.py', in <pack>",
        "ZeroDivisionError a <b>fault</b>",
        "File 'mailer.py', in send",
        "/subscribers supervisor.escalated",
        "child mailer",
    ],
)
def test_it_tells_what_befell_the_engine_s_tree(supervised: Page, told: str) -> None:
    assert told in supervised.text


def test_a_tree_to_which_nothing_happened_is_shown_as_such(page: Page) -> None:
    assert "/subscribers/mailer 0 0 0 0 0" in page.text
    assert "No actor crashed, and none held up the others." in page.text


def test_crashes_of_activities_are_counted_together(tmp_path: Path, write_journal: Callable[..., None]) -> None:
    async def crashes(script: Any) -> None:
        for id in ("a", "b"):
            await script.start(id)
            facts = {"generation": 0, "error": "X", "origins": [], "superseded": [], "retry_at": script.ago(0)}
            await script.record(id, "activity.crashed", name="orders.fulfil", run=1, facts=facts)

    path = tmp_path / "crashed.db"
    write_journal(path, crashes)
    text = Page(report_of(path)).text
    assert "/activities 2 2 0 0 0" in text
    assert "No actor crashed" not in text


def test_an_altered_journal_is_called_altered_with_every_problem(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET data = '{}' WHERE seq = 5")
    database.execute("DELETE FROM publications")
    text = Page(report_of(journal)).text
    assert "Altered" in text
    assert "2 problems were found" in text
    assert "Record 5 it does not fit its leaf" in text
    assert "table publications, row id 'event-2'" in text


def test_a_journal_that_cannot_be_read_to_the_end_has_its_verdict(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET facts = 'no JSON' WHERE kind = 'activity.failed'")
    text = Page(report_of(journal)).text
    assert "Altered" in text
    assert "What could not be read" in text
    assert "cannot be read" in text


@pytest.mark.parametrize(
    "facts", ["{}", '{"command":"start","started":5,"event":[],"to":{},"tags":3,"attempt":{}}', "[]"]
)
@pytest.mark.parametrize("kind", ["command.%", "activity.%", "step.%", "delivery.%", "event.%", "engine.%", "%"])
def test_whatever_stands_in_the_facts_there_is_a_report(
    journal: Path, database: sqlite3.Connection, kind: str, facts: str
) -> None:
    database.execute("UPDATE records SET facts = ? WHERE kind LIKE ?", (facts, kind))
    page = Page(report_of(journal))
    assert "Altered" in page.text
    assert page.open == []


def test_an_empty_journal_has_a_report(tmp_path: Path, write_journal: Callable[..., None]) -> None:
    write_journal(tmp_path / "empty.db")
    text = Page(report_of(tmp_path / "empty.db")).text
    assert "Nothing: no activity failed" in text
    assert "There are no activities." in text


def test_the_same_journal_gives_the_same_bytes(written: Path) -> None:
    assert report_of(written) == report_of(written)


def test_a_file_is_replaced_only_by_a_whole_report(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = journal.with_name("report.html")
    output.write_text("the one before")
    with Ledger.open(journal) as ledger:
        with monkeypatch.context() as broken:
            broken.setattr(report, "timeline_of", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                write_report(ledger, output)
        assert output.read_text() == "the one before"
        write_report(ledger, str(output))
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list(journal.parent.glob("*.part"))


def test_a_report_is_for_its_owner_alone(journal: Path) -> None:
    output = journal.with_name("report.html")
    output.write_text("the one before")
    output.chmod(0o644)
    with Ledger.open(journal) as ledger:
        write_report(ledger, output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "kept" / "report.html")
    with Ledger.open(journal) as ledger:
        write_report(ledger, link)
    assert link.is_symlink()
    assert "</html>" in (tmp_path / "kept" / "report.html").read_text(encoding="utf-8")


def test_a_pipe_is_written_into_and_stays(journal: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    with Ledger.open(journal) as ledger:
        write_report(ledger, pipe)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert told[0].rstrip().endswith("</html>")


def unpacked(page: Page, text: str) -> str:
    blocks = re.findall(r'<script type="text/plain" class="packed"[^>]*>([^<]*)</script>', text)
    return "".join(zlib.decompress(base64.b64decode(block), wbits=-15).decode() for block in blocks)


def test_many_activities_are_packed_and_say_the_same(
    written: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_STATIC", 3)
    monkeypatch.setattr(report, "_BLOCK", 2)
    text = report_of(written)
    packed = Page(text)
    assert [(packed.attributes("data-first"), packed.attributes("data-last"))] == [(["1", "3"], ["2", "4"])]
    assert not [attributes for tag, attributes in packed.elements if attributes.get("class") == "activity"]
    sections = Page(unpacked(packed, text))
    assert sections.attributes("id") == ["a-1", "a-2", "a-3", "a-4"]
    assert sections.text in page.text


# ------------------------------------------------------------------------------------------------ what it never lets in


def test_the_policy_allows_its_own_style_and_script_and_nothing_else(written: Path) -> None:
    text = report_of(written)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    allowed = dict(part.split(" ", 1) for part in policy.replace("&#39;", "'").split("; "))
    for name in ("style", "script"):
        (inlined,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(sha256(inlined.encode()).digest()).decode()
        assert allowed.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert allowed == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}


def test_it_is_whole_and_fetches_nothing(page: Page) -> None:
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "link", "iframe", "object", "embed", "base", "a:href"})
    assert all(link.startswith("#") for link in page.attributes("href"))
    names = {key for _, attributes in page.elements for key in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src", "srcset", "action")]


def test_its_links_lead_somewhere(page: Page) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.attributes("href")} <= set(ids)
    assert {label for value in page.attributes("aria-labelledby") for label in value.split()} <= set(ids)


def test_every_table_has_a_caption_and_its_headings_a_scope(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "</title></style><!--",
    "line\u2028separator\u2029and\x00NUL",
    "abc\u202egnp.exe\u2066isolated",
    "zero\u200bwidth\ufeff",
    "مرحبا بالعالم",
    "👩\u200d🚀",
]


async def _hostile(script: Any) -> None:
    from engine.journal import ENGINE_STREAM

    for number, text in enumerate(HOSTILE):
        id = f"{text[:60]}#{number}"
        await script.start(id, text, by=text, key=text, tags={text: text})
        error = {"type": text, "message": text, "notes": [text], "traceback": text}
        facts = {"generation": 0, "attempt": 1, "started": script.ago(1), "error": text, "origins": [], "final": True}
        await script.record(id, "step.failed", name=text, path=f"{text}#1", run=1, facts=facts,
                            data={"args": [text, {text: text}], "error": error})  # fmt: skip
        emitted = {"generation": 0, "id": f"{text}{number}", "key": text}
        await script.record(id, "event.emitted", name=f"topic.{number}", path=f"emit#{number}", run=1, facts=emitted,
                            data={"data": text})  # fmt: skip
        ended = {"generation": 0, "error": text, "origins": [], "open": [], "acted_upon": [], "why": text}
        await script.record(id, "activity.failed", name=text, run=1, facts=ended, data={"error": error})
        denied = {"command": "start", "via": text, "origin": text, "target": id, "rule": text}
        await script.record(ENGINE_STREAM, "command.denied", name=text, by=text, facts=denied, data={"reason": text})
    await script.start("long")
    await script.complete("long", {"text": "x" * 1_000_000, "deep": [[[["y" * 500]]]]})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, write_journal: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("journals") / "hostile.db"
    write_journal(path, _hostile)
    return path


def test_texts_of_users_stay_texts(hostile: Path, page: Page) -> None:
    text = report_of(hostile)
    found = Page(text)
    assert found.open == []
    assert not [tag for tag, _ in found.elements if tag in ("img", "bdo", "iframe")]
    assert [tag for tag, _ in found.elements].count("script") == 1
    names = {key for _, attributes in found.elements for key in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src")]
    for hostile_text in HOSTILE:
        assert " ".join(visible(hostile_text).split()) in found.text


def test_what_cannot_be_seen_is_shown(hostile: Path) -> None:
    text = report_of(hostile)
    body = text[text.index("<body>") :]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200b\ufeff]", body)
    assert "abc\\u202egnp.exe\\u2066isolated" in body
    assert "👩\u200d🚀" in body


def test_long_texts_are_cut_and_say_so(hostile: Path) -> None:
    text = report_of(hostile)
    assert len(text) < 700_000
    assert re.search(r"… 99[0-9],\d{3} more characters", Page(text).text)


@pytest.fixture(scope="module")
def browser() -> str:
    """Chromium: what $CHROMIUM names, or the first on the path."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for name in names if name and (path := shutil.which(name)) is not None), None)
    if found is None:
        pytest.skip("no Chromium on the path, and none named by $CHROMIUM")
    return found


@attrs.frozen
class Looked:
    """What a browser made of a page: its document afterwards, what it logged, and the addresses that it asked for."""

    document: str
    log: str
    asked_for: set[str]


BY_THE_PAGE = 101845102
"""How Chromium's log of its network marks what a page asks for (`blink_resource_loader`). It asks for things itself."""


def looked_at(browser: str, page: Path, folder: Path, *options: str, fragment: str = "") -> Looked:
    requests = folder / "requests.json"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={requests}",
               "--dump-dom", *options, f"{page.as_uri()}{fragment}"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    asked = rf'"traffic_annotation":{BY_THE_PAGE},"url":"([^"]*)"'
    return Looked(ran.stdout, ran.stderr, set(re.findall(asked, requests.read_text(encoding="utf-8"))))


def test_a_browser_runs_nothing_but_its_own_script_and_asks_for_nothing(
    browser: str, hostile: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.html"
    output.write_text(report_of(hostile), encoding="utf-8")
    looked = looked_at(browser, output, tmp_path, fragment="#a-2")
    assert "Content Security Policy" not in looked.log
    assert "CONSOLE" not in looked.log
    assert looked.asked_for == set()
    assert '<body class="scripted">' in looked.document
    assert re.search(r'<details class="activity" id="a-2" open="">', looked.document)


def test_a_browser_that_is_asked_for_something_is_found_out(browser: str, tmp_path: Path) -> None:
    # Else the test above would pass whatever the report asks for.
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/missing.png"><script>console.log("heard")</script>')
    looked = looked_at(browser, page, tmp_path)
    assert looked.asked_for == {"http://127.0.0.1:9/missing.png"}
    assert "CONSOLE" in looked.log


# -------------------------------------------------------------------------------------------------------------- wording


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 ms"), (0.0000031, "0.0031 ms"), (0.0042, "4.2 ms"), (0.25, "250 ms"), (0.9996, "1 s"), (1.5, "1.5 s"),
        (12.34, "12.3 s"), (59.96, "1 min"), (185, "3 min 5 s"), (3600, "1 h"), (7440, "2 h 4 min"), (86_400, "1 d"),
        (266_400, "3 d 2 h"), (-2, "-2 s"),
    ],
)  # fmt: skip
def test_lengths_of_time_are_told_in_two_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_long_payload_is_cut() -> None:
    shown = payload(["x" * 10_000])
    assert len(shown.text) == LONGEST
    assert shown.left_out > 0
    assert payload({"a": 1}).inline


# ------------------------------------------------------------------------------------------------------------ timelines


def act(seq: int, seconds: float, kind: str, path: str | None = None, *, took: float = 0.0, **facts: Any) -> Record:
    at = MADE_AT + dt.timedelta(seconds=seconds)
    begun = (at - dt.timedelta(seconds=took)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Record(
        seq=seq,
        stream="a",
        kind=kind,
        name="x",
        path=path,
        run=1,
        at=at,
        by=None,
        facts={"started": begun, **facts},
        data=None,
    )


def test_a_timeline_has_a_lane_a_step_with_a_bar_an_attempt() -> None:
    line = timeline_of(
        [
            act(1, 0, "command.accepted"),
            act(2, 4, "step.failed", "charge", took=2),
            act(3, 8, "step.completed", "charge", took=2),
            act(4, 10, "step.completed", "pack", took=1),
        ]
    )
    assert line is not None
    assert [lane.label for lane in line.lanes] == ["charge", "pack"]
    first, second = line.lanes[0].bars
    assert (first.kind, first.again, second.kind, second.again) == ("failed", False, "completed", True)
    assert (first.x, first.width) == (pytest.approx(20), pytest.approx(20))
    assert (second.x, second.width) == (pytest.approx(60), pytest.approx(20))
    assert line.gaps == []


def test_a_timeline_shows_messages_and_children() -> None:
    line = timeline_of(
        [
            act(1, 0, "command.accepted"),
            act(2, 1, "timer.set", "receive"),
            act(3, 5, "message.taken", "receive"),
            act(4, 5, "child.started", "ship", id="a/ship"),
            act(5, 9, "child.ended", "ship", id="a/ship", status="failed"),
            act(6, 9, "child.started", "pack", id="a/pack"),
            act(7, 10, "activity.failed"),
        ]
    )
    assert line is not None
    received, ship, pack = line.lanes
    assert received.bars[0].title == "receive: waited 4 s"
    assert [mark.title for mark in received.marks] == ["received a x"]
    assert [(bar.kind, bar.title) for bar in ship.bars] == [("failed", "child a/ship: failed after 4 s")]
    assert [(bar.kind, bar.title) for bar in pack.bars] == [("wait", "child a/pack: begun")]


def test_long_idle_times_are_compressed_and_told() -> None:
    line = timeline_of(
        [
            act(1, 0, "command.accepted"),
            act(2, 2, "step.completed", "charge", took=2),
            act(3, 2, "timer.set", "sleep"),
            act(4, 7202, "timer.fired", "sleep"),
            act(5, 7204, "step.completed", "pack", took=2),
        ]
    )
    assert line is not None
    (gap,) = line.gaps
    assert (gap.label, gap.width) == ("2 h", pytest.approx(14))
    assert [bar.width for lane in line.lanes for bar in lane.bars] == [
        pytest.approx(43), pytest.approx(14), pytest.approx(43)
    ]  # fmt: skip
    assert [label for _, label in line.ticks] == ["0", "+1.16 s", "+2 h", "+2 h"]


def bars_of(records: list[Record]) -> Iterator[tuple[float, float]]:
    line = timeline_of(records)
    assert line is not None
    yield from ((bar.x, bar.width) for lane in line.lanes for bar in lane.bars)


def test_nothing_is_drawn_beyond_the_edge_and_all_can_be_seen() -> None:
    records = [
        act(1, 0, "command.accepted"),
        *(act(n, n * 50, "step.completed", f"s{n}", took=1e-6) for n in range(2, 40)),
    ]
    for x, width in bars_of(records):
        assert 0 <= x <= 100 - width
        assert width >= 0.5


def test_a_clock_that_went_back_breaks_no_timeline() -> None:
    records = [
        act(1, 0, "command.accepted"),
        act(2, -50, "step.completed", "a", took=3),
        act(3, 1, "step.completed", "b", took=1),
    ]
    assert all(0 <= x <= 100 for x, _ in bars_of(records))


def test_an_activity_without_steps_has_no_timeline() -> None:
    assert timeline_of([act(1, 0, "command.accepted")]) is None
