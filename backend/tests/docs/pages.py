"""Docs tests: the pages, and what can be read from their text: tables, fenced blocks, code spans, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    """Return the text of a page of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [found["body"] for found in _FENCE.finditer(text) if found["language"] == language]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """Return the code spans of a page, without its fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[str]:
    """Return the targets of a page's links."""
    return re.findall(r"\[[^\]\n]*\]\(([^)\s]+)\)", prose(text))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Yield the tables of a page, each as its rows by column name."""
    for block in re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        head, ruler, *body = lines
        assert set("".join(ruler)) <= set("-: "), f"a table without a head: {head}"
        for cells in body:
            assert len(cells) == len(head), f"{len(cells)} cells under {head}: {cells}"
        yield [dict(zip(head, cells, strict=True)) for cells in body]


def rows(text: str, column: str) -> list[dict[str, str]]:
    """Return the rows of every table whose first column has this name."""
    return [row for table in tables(text) for row in table if next(iter(row)) == column]


def word(cell: str) -> str:
    """Return the text of a cell that begins with one code span."""
    found = re.match(r"`([^`]+)`", cell)
    assert found is not None, f"no code span: {cell}"
    return found[1]
