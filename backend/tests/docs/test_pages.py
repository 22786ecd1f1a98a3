"""Docs: links resolve, files that are named exist, and so do commands, targets, routes and settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli.program import cli
from app.settings import Settings
from tests.docs.pages import DOCS, NAMES, README, ROOT, anchors, fences, links, read, spans

pytestmark = pytest.mark.parametrize("page", NAMES)

# Variables of other programs: compose's port, and what only the tests read.
FOREIGN_VARIABLES = {"HOC_PORT", "HOC_TEST_DATABASE_URL", "HOC_TEST_REDIS_URL"}
# The committed document, which `make check` compares with the product.
METHODS = {
    (method.upper(), re.sub(r"\{[^}]*\}", "{}", path))
    for path, entry in json.loads(read("docs/openapi.json"))["paths"].items()
    for method in entry
}
SHAPES = {shape for _, shape in METHODS}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(text: str) -> list[str]:
    """Return the command lines of a page: its code spans, and the lines of its shell blocks."""
    shell = "\n".join(fences(text, "sh")).replace("\\\n", " ")
    return [*spans(text), *(line.partition("  # ")[0].strip() for line in shell.splitlines())]


def test_every_link_leads_somewhere(page: str) -> None:
    for target in links(read(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        place = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


def test_every_page_can_be_reached_from_the_readme(page: str) -> None:
    reached: set[Path] = set()
    waiting = [README]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        reached.add(current)
        waiting += [
            (current.parent / target.partition("#")[0]).resolve()
            for target in links(current.read_text(encoding="utf-8"))
            if target.partition("#")[0].endswith(".md")
        ]
    assert ROOT / page in reached


def test_every_file_that_is_named_exists(page: str) -> None:
    named = [span for span in spans(read(page)) if re.fullmatch(r"[\w.]+(/[\w.*-]+)+/?", span)]
    for name in named:
        if name.split("/")[0] not in (
            "backend",
            "app",
            "docs",
            "api",
            "hoc_spine",
            "kernel",
            "tests",
            "engines",
        ):
            continue
        bases = (ROOT, ROOT / "backend", ROOT / "backend/app", ROOT / "backend/app/domains/policies")
        assert any(list(base.glob(name.rstrip("/"))) for base in bases), name


def test_every_command_of_hoc_exists(page: str) -> None:
    for line in commands(read(page)):
        for call in re.findall(r"(?:^|\(|&& )hoc ((?:[a-z]|--)[^|)&;]*)", line):
            check_call(call.split())


def check_call(words: list[str]) -> None:
    """Assert that a command line of `hoc` names commands and options that exist."""
    command: Any = typer.main.get_command(cli)
    given = list(words)
    while (below := getattr(command, "commands", None)) and given and not given[0].startswith("-"):
        name = given.pop(0)
        assert name in below, f"hoc {' '.join(words)}"
        command = below[name]
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in given if word.startswith("--") and word not in known | {"--help"}]
    assert unknown == [], f"hoc {' '.join(words)}"


def test_every_target_of_make_exists(page: str) -> None:
    for line in commands(read(page)):
        for target in re.findall(r"(?:^|&& )make ([a-z]+)", line):
            assert target in TARGETS, line


def test_every_route_exists(page: str) -> None:
    text = read(page)
    for span in spans(text):
        for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[^\s?`]*)", span):
            shape = re.sub(r"\{[^}]*\}", "{}", path)
            whole = shape.startswith(("/api/v1", "/healthz", "/readyz", "/v1/"))
            full = shape if whole else f"/api/v1{shape}"
            assert (method, full) in METHODS, span
        if re.fullmatch(r"/api/v1/[a-z/]+", span):
            assert any(shape.startswith(span) for shape in SHAPES), span
    for block in fences(text, "sh"):
        for path in re.findall(r"\$api(/[^\s']*)", block):
            assert f"/api/v1{re.sub(r'[$][a-z_]+', '{}', path)}" in SHAPES, path


def test_every_setting_that_is_named_exists(page: str) -> None:
    known = {f"HOC_{name.upper()}" for name in Settings.model_fields} | FOREIGN_VARIABLES
    named = set(re.findall(r"\bHOC_[A-Z][A-Z0-9_]*[A-Z0-9]\b", read(page)))
    assert named <= known


def test_no_page_names_a_place_on_somebodys_machine(page: str) -> None:
    assert re.findall(r"(?:/home|/Users|/root|/tmp|/work)/\S+|[A-Z]:\\\S+", read(page)) == []


def test_every_page_is_below_docs_or_the_readme(page: str) -> None:
    assert (ROOT / page) == README or (ROOT / page).is_relative_to(DOCS)
