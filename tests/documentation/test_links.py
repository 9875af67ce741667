"""Every link between the pages leads to a page that is there, and every anchor to a heading of it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.documentation import pages

INDEX = pages.CHECKOUT / "docs" / "README.md"


def links_of(page: Path) -> list[str]:
    """The targets of a page's links that lead to files of the checkout, or within the page."""
    prose = re.sub(r"`[^`\n]+`", "", pages.prose_of(page))
    targets = re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as renderers make them: the second of one name ends in -1."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", pages.prose_of(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


@pytest.mark.parametrize("page", pages.ALL, ids=lambda page: str(page.relative_to(pages.CHECKOUT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


def test_the_index_leads_to_every_page_of_the_documentation() -> None:
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links_of(INDEX)}
    written = {page for page in pages.ALL if page.is_relative_to(INDEX.parent)} - {INDEX}
    assert written - linked == set()


def test_anchors_are_those_that_renderers_make(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `dead_letters`, a table\n\n```\n# no heading\n```\n\n## Twice\n\n## Twice\n\n## [a](b.md) c.d\n")
    assert anchors_of(page) == {"dead_letters-a-table", "twice", "twice-1", "a-cd"}
    page.write_text("[a](b.md#c) `[x](y.md)` [web](https://x.org) [here](#d)\n\n```\n[z](z.md)\n```\n")
    assert links_of(page) == ["b.md#c", "#d"]
