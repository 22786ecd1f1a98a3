"""The path table: fixed segments first, parameters by position, nothing for what is not there."""

from __future__ import annotations

import pytest

from app.api.path_table import PathTable


@pytest.fixture
def table() -> PathTable[str]:
    """A table with every kind of segment."""
    made: PathTable[str] = PathTable()
    for template in (
        "/a",
        "/a/{x}",
        "/a/fixed",
        "/a/fixed/{y}/end",
        "/a/{x}/{y}",
        "/tile/{level}/{number}",
        "/tile/{level}/{number}.p/{width}",
        "/tile/entries/{number}",
    ):
        made.put(template, template)
    return made


@pytest.mark.parametrize(
    ("path", "template", "values"),
    [
        ("/a", "/a", ()),
        ("/a/b", "/a/{x}", ("b",)),
        ("/a/fixed", "/a/fixed", ()),
        ("/a/fixed/b", "/a/{x}/{y}", ("fixed", "b")),
        ("/a/fixed/b/end", "/a/fixed/{y}/end", ("b",)),
        ("/tile/0/7", "/tile/{level}/{number}", ("0", "7")),
        ("/tile/0/7.p/3", "/tile/{level}/{number}.p/{width}", ("0", "7", "3")),
        ("/tile/0/7.p", "/tile/{level}/{number}", ("0", "7.p")),
        ("/tile/entries/7", "/tile/entries/{number}", ("7",)),
        ("/a/\x00", "/a/{x}", ("\x00",)),
        ("/a/\n", "/a/{x}", ("\n",)),
    ],
)
def test_the_most_exact_template_is_found(
    table: PathTable[str], path: str, template: str, values: tuple[str, ...]
) -> None:
    assert table.find(path) == (template, values)


@pytest.mark.parametrize(
    "path", ["", "/", "a", "//a", "/a/", "/a//b", "/a/b/", "/A", "/a/b/c/d", "/tile/0/.p/3"]
)
def test_nothing_else_is_found(table: PathTable[str], path: str) -> None:
    assert table.find(path) is None


def test_a_template_is_entered_once(table: PathTable[str]) -> None:
    with pytest.raises(ValueError, match="share the path"):
        table.put("/a/{other}", "x")
