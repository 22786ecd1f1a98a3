"""Docs: decision records are numbered, listed, and each names a check that exists."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, ROOT, read, rows

RECORDS = sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "README.md")


def test_numbers_have_no_gap() -> None:
    assert [path.name[:4] for path in RECORDS] == [f"{number:04}" for number in range(1, len(RECORDS) + 1)]


def test_the_index_lists_every_record_under_its_title_and_check() -> None:
    listed = rows(read("docs/decisions/README.md"), "#")
    assert [re.findall(r"\((.+)\)", row["#"])[0] for row in listed] == [path.name for path in RECORDS]
    for row, path in zip(listed, RECORDS, strict=True):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]}: {row['decision']}"), path.name
        assert row["enforced by"] in text, path.name


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_a_check_that_exists(path: object) -> None:
    text = path.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    named = re.findall(r"`(backend/(?:tests|scripts)/[\w/]+\.py)`", text)
    assert named, "name the test or gate that enforces it"
    assert [name for name in named if not (ROOT / name).is_file()] == []
