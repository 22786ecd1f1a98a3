"""Gates: the one command line, file walk, suppressions and verdict that every gate script shares."""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import sys
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate_names import Names

BACKEND = Path(__file__).resolve().parents[1]

CLEAN, VIOLATED, COULD_NOT_RUN = 0, 1, 2

# Every rule-id prefix and the gate it belongs to, so that a suppression of a rule nobody has is found.
PREFIXES = {
    "INIT": "check_init_hygiene",
    "LAYER": "check_layer_boundaries",
    "XDOM": "hoc_cross_domain_validator",
    "DRV": "check_driver_purity",
    "TXN": "check_transaction_boundaries",
    "SCOPE": "check_tenant_scope",
    "PURE": "hoc_l5_l6_purity_audit",
    "OPS": "check_operation_ownership",
    "HASH": "check_hash_coverage",
    "MIG": "alembic_migration_audit",
    "SIZE": "check_sizes",
}

_SUPPRESSION = re.compile(r"gate:\s*(?P<rule>[A-Z][A-Z0-9-]*[A-Z0-9])(?:\s+-\s+(?P<reason>(?:(?!gate:).)*))?")


class GateError(Exception):
    """Say that the gate could not run: bad root, nothing to check, or a file that cannot be read."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One broken rule at one place; `last_line` is where its statement (or function header) ends."""

    path: Path
    line: int
    rule: str
    message: str
    advisory: bool = False
    last_line: int = 0


@dataclass(frozen=True, slots=True)
class Suppression:
    """One `# gate: RULE-ID - reason` comment."""

    path: Path
    line: int
    rule: str
    reason: str

    @property
    def prefix(self) -> str:
        return self.rule.partition("-")[0]


@dataclass(frozen=True, eq=False)
class Module:
    """One parsed Python file: `relative` is its path below the root, `name` its dotted name."""

    path: Path
    relative: str
    name: str
    source: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Return the package that relative imports of this module start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def line_count(self) -> int:
        return len(self.source.splitlines())

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Return every node of the tree, outer ones first."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def names(self) -> Names:
        """Return what the names of this module stand for."""
        from gate_names import Names

        return Names(self)

    def violation(self, node: ast.AST | int, rule: str, message: str, *, advisory: bool = False) -> Violation:
        """Return a violation of `rule` at `node` (or line number) of this file."""
        if isinstance(node, int):
            return Violation(self.path, node, rule, message, advisory)
        line = getattr(node, "lineno", 1)
        last = getattr(node, "end_lineno", line)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            last = node.body[0].lineno - 1
        return Violation(self.path, line, rule, message, advisory, max(line, last))


@dataclass(slots=True)
class Tree:
    """The files below one root, parsed once, and which of them the gate has looked at."""

    root: Path
    # What another gate of the same process has parsed already.
    parsed: dict[Path, Module] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)

    def load(self, folder: str) -> None:
        """Parse every Python file below `folder`; raise GateError for one that cannot be read."""
        for path in walk(self.root / folder):
            relative = path.relative_to(self.root).as_posix()
            if relative not in self.modules:
                if path not in self.parsed:
                    self.parsed[path] = read_module(path, relative)
                self.modules[relative] = self.parsed[path]

    def select(self, *patterns: str, least: int = 0) -> list[Module]:
        """Return the files whose relative path matches a pattern; fewer than `least` raise GateError."""
        found = [m for key, m in sorted(self.modules.items()) if any(fnmatchcase(key, p) for p in patterns)]
        if len(found) < least:
            raise GateError(f"nothing to check: no file matches {' or '.join(patterns)} below {self.root}")
        self.looked_at.update(m.relative for m in found)
        return found

    def document(self, relative: str) -> Path:
        """Return the path of a document, which lies in the root or beside it (`backend/` and `docs/`)."""
        inside = self.root / relative
        return inside if inside.exists() else self.root.parent / relative

    def suppressions(self) -> Iterator[Suppression]:
        """Yield every suppression comment of the loaded files."""
        for module in self.modules.values():
            if "gate:" in module.source:
                yield from _suppressions_of(module)


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: `check` yields violations, `verdict` words the last line from the two counts."""

    name: str
    prefix: str
    summary: str
    check: Callable[[Tree], Iterable[Violation]]
    verdict: Callable[[int, int], str]
    folders: tuple[str, ...] = ("app",)
    options: Callable[[argparse.ArgumentParser], None] | None = None
    act: Callable[[Tree, argparse.Namespace], str | None] | None = None


def clean_or_not(blocking: int, advisory: int) -> str:
    """Word the verdict of the gates that answer CLEAN."""
    count = blocking + advisory
    return "CLEAN" if count == 0 else f"NOT CLEAN: {count} violations"


def walk(top: Path) -> Iterator[Path]:
    """Yield the Python files below `top`; a folder reached twice through symbolic links is read once."""
    seen: set[str] = set()
    for folder, names, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(n for n in names if n != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def read_module(path: Path, relative: str) -> Module:
    """Parse one file; raise GateError when it is unreadable, not UTF-8 or not Python."""
    try:
        source = path.read_bytes().decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarnings of the checked file are not ours to print
            tree = ast.parse(source, filename=relative)
    except UnicodeDecodeError as error:
        raise GateError(f"{path}:1: not UTF-8: {error.reason} at byte {error.start}") from None
    except SyntaxError as error:
        raise GateError(f"{path}:{error.lineno or 1}: not Python: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise GateError(f"{path}:1: cannot be read: {error}") from None
    name = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(path, relative, name, source, tree)


def _suppressions_of(module: Module) -> Iterator[Suppression]:
    # Comments come from the tokenizer, so the text "# gate:" inside a string suppresses nothing.
    for token in tokenize.generate_tokens(io.StringIO(module.source).readline):
        if token.type == tokenize.COMMENT and token.string.lstrip("# ").startswith("gate:"):
            for match in _SUPPRESSION.finditer(token.string):
                reason = (match["reason"] or "").strip(" ;")
                yield Suppression(module.path, token.start[0], match["rule"], reason)


def apply_suppressions(gate: Gate, tree: Tree, violations: Iterable[Violation]) -> list[Violation]:
    """Return the violations left, plus one for each suppression that is unused or gives no reason."""
    mine = [s for s in tree.suppressions() if s.prefix == gate.prefix]
    used: set[Suppression] = set()
    left: set[Violation] = set()
    for violation in violations:
        excuse = next((s for s in mine if s.reason and _excuses(s, violation)), None)
        if excuse is None:
            left.add(violation)
        else:
            used.add(excuse)
    for suppression in mine:
        rule, place = suppression.rule, (suppression.path, suppression.line)
        if not suppression.reason:
            text = f"the suppression of {rule} gives no reason; write `# gate: {rule} - why`"
            left.add(Violation(*place, "GATE-002", text))
        elif suppression not in used:
            left.add(
                Violation(
                    *place, "GATE-001", f"the suppression of {rule} suppresses nothing; delete the comment"
                )
            )
    return sorted(left)


def _excuses(suppression: Suppression, violation: Violation) -> bool:
    if (suppression.path, suppression.rule) != (violation.path, violation.rule):
        return False
    return violation.line <= suppression.line <= max(violation.line, violation.last_line)


def run(gate: Gate, argv: Sequence[str] | None = None, parsed: dict[Path, Module] | None = None) -> int:
    """Run one gate from the command line and return its exit code: 0 clean, 1 violations, 2 could not run.

    Gates that run one after the other over the same unchanged files may share what they `parsed`.
    """
    arguments = _parser(gate).parse_args(argv)
    root = Path(arguments.root).resolve()
    tree = Tree(root, {} if parsed is None else parsed)
    try:
        if not (root / "app").is_dir():
            raise GateError(f"{root} holds no folder app; name the folder that does with --root")
        for folder in gate.folders:
            tree.load(folder)
        if not any(key.startswith("app/") for key in tree.modules):
            raise GateError(f"nothing to check: {root / 'app'} holds no Python file")
        done = gate.act(tree, arguments) if gate.act else None
        if done is not None:
            print(done)
            return CLEAN
        violations = apply_suppressions(gate, tree, gate.check(tree))
    except GateError as error:
        return _could_not_run(gate, root, str(error), as_json=arguments.json)
    except Exception as error:  # noqa: BLE001 - a gate that breaks has judged nothing, and says so
        return _could_not_run(gate, root, f"{type(error).__name__}: {error}", as_json=arguments.json)
    return _report(gate, tree, violations, arguments)


def _parser(gate: Gate) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{gate.name}.py", description=gate.summary)
    parser.add_argument("--ci", action="store_true", help="print violations and verdict only")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--root", default=str(BACKEND), metavar="DIR", help="folder that holds app/")
    if gate.options is not None:
        gate.options(parser)
    return parser


def _report(gate: Gate, tree: Tree, violations: list[Violation], arguments: argparse.Namespace) -> int:
    advisory = sum(v.advisory for v in violations)
    verdict = gate.verdict(len(violations) - advisory, advisory)
    code = VIOLATED if violations else CLEAN
    if arguments.json:
        rows = [_as_json(v, tree.root) for v in violations]
        _print_json(gate, tree.root, code, verdict, scanned=len(tree.looked_at), violations=rows)
        return code
    for v in violations:
        print(f"{_shown(v.path)}:{v.line}: {v.rule} {v.message}")
    if not arguments.ci:
        print(f"{gate.name}: {len(tree.looked_at)} files looked at below {tree.root}")
    print(verdict)
    return code


def _could_not_run(gate: Gate, root: Path, message: str, *, as_json: bool) -> int:
    if as_json:
        _print_json(gate, root, COULD_NOT_RUN, "COULD NOT RUN", error=message)
    else:
        print(message, file=sys.stderr)
        print("COULD NOT RUN")
    return COULD_NOT_RUN


def _print_json(
    gate: Gate,
    root: Path,
    code: int,
    verdict: str,
    *,
    scanned: int = 0,
    violations: Sequence[object] = (),
    error: str | None = None,
) -> None:
    document = {
        "gate": gate.name,
        "root": str(root),
        "scanned": scanned,
        "violations": list(violations),
        "error": error,
        "verdict": verdict,
        "exit_code": code,
    }
    print(json.dumps(document, indent=2))


def _as_json(violation: Violation, root: Path) -> dict[str, object]:
    inside = violation.path.is_relative_to(root)
    return {
        "path": violation.path.relative_to(root).as_posix() if inside else str(violation.path),
        "line": violation.line,
        "rule": violation.rule,
        "message": violation.message,
        "blocking": not violation.advisory,
    }


def _shown(path: Path) -> str:
    # Below the working directory a path is shown relative to it, so that terminals and editors can open it.
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
