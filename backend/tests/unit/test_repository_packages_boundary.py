"""The boundary to a phase memory: no name of the repository slice is one of its words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import app.db.catalogue  # noqa: F401 - loads the tables
from app.db.metadata import metadata

APP = Path(__file__).resolve().parents[2] / "app"
SLICE = (
    "domains/repository/**/*.py",
    "hoc_spine/handlers/repository*.py",
    "hoc_spine/coordinators/repository_*.py",
    "api/routes/repository*.py",
)
WORDS = {
    "retention", "decay", "compact", "compaction", "activation", "preference", "forget", "ttl", "salience",
    "recall_score",
}  # fmt: skip
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def forbidden(name: str) -> bool:
    """Tell whether a part of a name, or two parts that follow one another, is such a word."""
    parts = _HUMP.sub("_", name).lower().strip("_").split("_")
    return not WORDS.isdisjoint([*parts, *("_".join(pair) for pair in pairwise(parts))])


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the functions, parameters, classes, fields and members that a module names."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def modules() -> list[Path]:
    """Return the modules of the slice."""
    return sorted(path for pattern in SLICE for path in APP.glob(pattern))


def test_the_scan_knows_the_words() -> None:
    for name in ("retention_days", "DecayRate", "auto_compact", "set_ttl", "recall_score", "RecallScore"):
        assert forbidden(name), name
    for name in ("recall", "score", "compactly", "little", "title", "settled", "references"):
        assert not forbidden(name), name
    assert len(modules()) > 40


def test_no_function_or_field_of_the_slice_has_such_a_name() -> None:
    found = [
        f"{path.relative_to(APP)}: {name}"
        for path in modules()
        for name in names(ast.parse(path.read_text(encoding="utf-8")))
        if forbidden(name)
    ]
    assert found == []


def test_no_column_of_the_slice_has_such_a_name() -> None:
    source = (APP / "domains/repository/tables.py").read_text(encoding="utf-8")
    tables = {table.name for table in metadata.sorted_tables if f'"{table.name}"' in source}
    assert {"context_items", "operation_runs", "artifacts"} <= tables
    columns = [f"{name}.{column.name}" for name in tables for column in metadata.tables[name].columns]
    assert [column for column in columns if forbidden(column.replace(".", "_"))] == []


def test_no_module_of_the_slice_can_reach_a_network() -> None:
    reaching = {"socket", "http", "urllib", "httpx", "requests", "asyncio", "ssl", "ftplib", "subprocess"}
    found = [
        f"{path.relative_to(APP)}: {name}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imported(node)
        if name.split(".")[0] in reaching
    ]
    assert found == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
