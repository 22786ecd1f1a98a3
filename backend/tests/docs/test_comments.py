"""Docs: what a comment or docstring sends its reader to is in the repository."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

BACKEND = ROOT / "backend"
SOURCES = sorted(
    path
    for folder in ("alembic", "app", "benchmarks", "scripts", "tests")
    for path in (BACKEND / folder).rglob("*.py")
    if not {"fixtures", "docs"} & set(path.parts)
)
NAMED = re.compile(r"\b([a-z]+) page(?:'s|,? (?:sections? )?\d)")
FOLDER = re.compile(r"docs/[\w/.-]+\.(?:md|json)\b")


def cited(text: str) -> set[str]:
    """Return the pages that a text names and that are not there."""
    pages = {f"docs/{name}.md" for name in NAMED.findall(text)} | set(FOLDER.findall(text))
    return {page for page in pages if not (ROOT / page).is_file()}


def test_a_page_that_is_cited_exists() -> None:
    found = {path.relative_to(BACKEND).as_posix(): cited(path.read_text("utf-8")) for path in SOURCES}
    assert SOURCES
    assert {path: pages for path, pages in found.items() if pages} == {}


def test_a_page_that_is_not_there_is_found() -> None:
    assert cited("Checks 13 and 14 (proof page, 4.2).") == {"docs/proof.md"}
    assert cited("the order is that of the page, section 5") == {"docs/the.md"}
    assert cited("see docs/nowhere.md") == {"docs/nowhere.md"}
    assert cited(f"see docs/{next(DOCS.glob('*.md')).name}") == set()
