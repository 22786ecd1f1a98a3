"""Gate: every tenant table is governed or exempt with a reason, and every column is accounted for."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gate import Gate, GateError, Tree, Violation, clean_or_not, run
from gate_imports import module_at
from gate_probe import probe
from gate_tables import GLOBAL_TABLES

REGISTER = "docs/proof/statement-types.json"
CLASSES = ("BOUND", "CHAIN", "ERASABLE", "DERIVED", "LEASE", "TELEMETRY")
PROTECTED_SET = ("protected_salt", "protected_commit", "erased_fact_id")
INEXACT = {"Float", "FLOAT", "Double", "DOUBLE", "REAL", "JSON", "JSONB", "Numeric"}
RECOUNT = re.compile(r"\brecounted by (\w+)")
DERIVED = re.compile(r"\b(DERIVED|recount\w*)\b")
# Where the checks are registered: the keys of dictionaries whose names end in RECOUNTS.
RECOUNTS = "app.hoc_spine.coordinators.recounts"

ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
Found = dict[str, Any]


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every table and column that neither stands in a statement nor has a written reason."""
    tree.select("app/domains/*/tables.py", least=1)
    found = _probe(tree)
    checks = recounts(tree)
    for name, table in sorted(found["tables"].items()):
        place = _place(tree, table, name)
        if table["tenant"] or name not in GLOBAL_TABLES:
            yield from registered(found, name, place)
            yield from recounted(name, found["exempt"].get(name, ""), place, checks)
        if name in found["governed"]:
            yield from columns(found["governed"][name], table, name, place, set(found["standing"]))
            for column, reason in sorted(found["governed"][name]["unhashed"].items()):
                yield from recounted(f"{name}.{column}", reason, place, checks)
        yield from migrated(found, name, table, place)
    yield from types_once(tree, found)
    yield from committed_register(tree, found)


def _probe(tree: Tree) -> Found:
    try:
        found = probe(tree.root)
    except Exception as error:
        raise GateError(f"the tables of {tree.root} cannot be read: {error}") from error
    if not found["tables"]:
        raise GateError(f"nothing to check: no table is declared below {tree.root}")
    return found


def _place(tree: Tree, table: Found, name: str) -> tuple[Path, int]:
    """Return where a table is declared: the line that holds its name as a text."""
    module = module_at(tree, table["module"])
    if module is None:
        return tree.root / "app", 1
    for number, line in enumerate(module.source.splitlines(), start=1):
        if f'"{name}"' in line:
            return module.path, number
    return module.path, 1


def registered(found: Found, name: str, place: tuple[Path, int]) -> Iterator[Violation]:
    """Yield a tenant table that is neither governed nor exempt, or both, or exempt for no reason."""
    governed, exempt = name in found["governed"], found["exempt"].get(name)
    if governed == (exempt is not None):
        text = "both governed and exempt" if governed else "neither governed nor exempt"
        yield Violation(
            *place, "HASH-001", f"{name} is {text}; call exactly one of govern() and exempt() for it"
        )
    elif exempt is not None and len(exempt.split()) < 2:
        yield Violation(*place, "HASH-002", f"{name} is exempt without a reason; write one sentence")


def columns(
    entry: Found, table: Found, name: str, place: tuple[Path, int], standing: set[str]
) -> Iterator[Violation]:
    """Yield what is wrong with the columns of one governed table."""
    present = table["columns"]
    for kind in ("protected", "digests", "json", "unhashed"):
        for column in entry[kind]:
            if column not in present:
                text = f"{name}.{column} is listed under {kind} and does not exist; delete the entry"
                yield Violation(*place, "HASH-003", text)
    for column, reason in sorted(entry["unhashed"].items()):
        yield from unhashed(f"{name}.{column}", reason, place)
        if column in standing or column in entry["protected"] or column in entry["digests"]:
            text = f"{name}.{column} is unhashed and already accounted for otherwise; delete one entry"
            yield Violation(*place, "HASH-003", text)
    covered = (
        set(entry["hashed"])
        | set(entry["unhashed"])
        | standing
        | set(entry["protected"])
        | set(PROTECTED_SET)
    )
    for column in sorted(set(present) - covered):
        text = (
            f"{name}.{column} stands in no statement; hash it, or list it as unhashed with class and reason"
        )
        yield Violation(*place, "HASH-005", text)
    needed = set(PROTECTED_SET) if entry["protected"] else set()
    needed |= {"fact_id"} if entry["mode"] in {"APPEND", "HEAD"} else set()
    needed |= {"version"} if entry["mode"] == "HEAD" else set()
    for column in sorted(needed - set(present)):
        yield Violation(*place, "HASH-006", f"{name} ({entry['mode']}) has no column {column}; add it")
    for column in sorted(set(entry["hashed"]) & set(present)):
        if present[column] in INEXACT:
            text = f"{name}.{column} is {present[column]}, which has no exact text; store integers"
            yield Violation(*place, "HASH-007", text)
        if present[column] == "CanonicalText" and column not in {*entry["json"], *entry["digests"]}:
            text = (
                f"{name}.{column} holds canonical JSON and is hashed as a plain text; list it in json_columns"
            )
            yield Violation(*place, "HASH-007", text)


def unhashed(column: str, reason: str, place: tuple[Path, int]) -> Iterator[Violation]:
    """Yield an unhashed column without a class or a reason."""
    label, _, why = reason.partition(" ")
    if label.rstrip(":,;") not in CLASSES or len(why.split()) < 2:
        text = (
            f"{column} is unhashed as {reason!r}; begin with one of {', '.join(CLASSES)} and give the reason"
        )
        yield Violation(*place, "HASH-004", text)


def recounts(tree: Tree) -> set[str]:
    """Return the names of the recount checks that are registered."""
    module = module_at(tree, RECOUNTS)
    if module is None:
        return set()
    tree.looked_at.add(module.relative)
    named = [(_targets(node), node.value) for node in module.tree.body if isinstance(node, ASSIGNMENTS)]
    return {
        key.value
        for targets, value in named
        if isinstance(value, ast.Dict) and any(target.endswith("RECOUNTS") for target in targets)
        for key in value.keys
        if isinstance(key, ast.Constant)
    }


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def recounted(subject: str, reason: str, place: tuple[Path, int], checks: set[str]) -> Iterator[Violation]:
    """Yield what is derived and names no check that recounts it, or one that is not registered."""
    if not DERIVED.search(reason):
        return
    named = RECOUNT.search(reason)
    if named is None:
        text = f"{subject} is DERIVED and names no recount check; write `DERIVED ... recounted by <check>`"
        yield Violation(*place, "HASH-004", text)
    elif named[1] not in checks:
        text = f"{subject} is recounted by {named[1]}, which {RECOUNTS} does not register; write it"
        yield Violation(*place, "HASH-011", text)


def migrated(found: Found, name: str, table: Found, place: tuple[Path, int]) -> Iterator[Violation]:
    """Yield a difference between the declared columns and the migrated ones, on either dialect."""
    missing = [
        dialect for dialect, schema in sorted(found["schemas"].items()) if name not in schema["tables"]
    ]
    if missing:
        yield Violation(
            *place, "HASH-008", f"{name} is made by no migration on {' and '.join(missing)}; write one"
        )
        return
    for dialect, schema in sorted(found["schemas"].items()):
        made = schema["tables"][name]["columns"]
        for column in sorted(set(made) ^ set(table["columns"])):
            side = "only in the migrations" if column in made else "in no migration"
            yield Violation(*place, "HASH-008", f"{name}.{column} is {side} on {dialect}; make both agree")


def types_once(tree: Tree, found: Found) -> Iterator[Violation]:
    """Yield a statement type that two tables claim."""
    owner: dict[str, str] = {}
    for name, entry in sorted(found["governed"].items()):
        for kind in entry["types"]:
            if kind in owner:
                place = _place(tree, found["tables"][name], name)
                text = f"type {kind} belongs to {owner[kind]} and to {name}; give one of them another type"
                yield Violation(*place, "HASH-009", text)
            owner[kind] = name


def committed_register(tree: Tree, found: Found) -> Iterator[Violation]:
    """Yield each type whose member set differs from the committed register."""
    path = tree.document(REGISTER)
    mend = "bump the type's v if rows exist, then run this gate with --write"
    if not path.exists():
        yield Violation(
            path, 1, "HASH-010", "the register of statement types is missing; run this gate with --write"
        )
        return
    try:
        committed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GateError(f"{path}:1: not JSON: {error}") from error
    current = json.loads(found["types_text"])
    for kind in sorted({*committed, *current}):
        if committed.get(kind) != current.get(kind):
            line = _line_of(path, f'"{kind}"')
            yield Violation(
                path, line, "HASH-010", f"the members of {kind} are not the committed ones; {mend}"
            )


def _line_of(path: Path, text: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, start=1) if text in line), 1)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the option that regenerates the committed register."""
    parser.add_argument("--write", action="store_true", help=f"write {REGISTER} from the code, check nothing")


def act(tree: Tree, arguments: argparse.Namespace) -> str | None:
    """Write the register when asked to; return the line to print, or None to go on and check."""
    if not arguments.write:
        return None
    path = tree.document(REGISTER)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_probe(tree)["types_text"], encoding="utf-8")
    return f"wrote {path}"


GATE = Gate("check_hash_coverage", "HASH", "Check that every governed column is hashed or excused.", check,
            clean_or_not, options=options, act=act)  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(GATE))
