"""Gate: drivers are SQL on a connection handed in, for one tenant, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_impure
import gate_tables
from gate import Gate, Module, Tree, Violation, run
from gate_names import COMPUTED, Names, attribute_uses, literal

DRIVERS = ("app/domains/*/drivers/*.py", "app/domains/*/drivers.py")
TRANSACTION = {"commit", "rollback", "begin", "begin_nested", "begin_twophase", "savepoint"}
OPENERS = {
    "create_engine", "create_async_engine", "engine_from_config", "sessionmaker", "async_sessionmaker",
    "scoped_session", "Session", "AsyncSession", "connect", "raw_connection",
}  # fmt: skip
# Calls whose text argument becomes SQL as it stands.
SQL_TEXT = {"text", "TextClause", "exec_driver_sql", "literal_column", "DDL", "prefix_with", "suffix_with"}
EXECUTES = {"execute", "scalars", "scalar", "executemany", "executescript"}
SQL_START = re.compile(
    r"^\s*(SELECT|INSERT\s+(INTO|OR)|UPDATE\s+\S+\s+SET|DELETE\s+FROM|WITH\s+\w+\s+AS|CREATE|DROP|ALTER|TRUNCATE"
    r"|MERGE|PRAGMA|GRANT|SET\s+LOCAL|ORDER\s+BY|WHERE\s|FROM\s)",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every impurity of every driver module."""
    drivers = tree.select(*DRIVERS, least=1)
    globals_ = {t.origin for t in gate_tables.declared_tables(tree) if not t.tenant}
    for module in drivers:
        names = module.names
        yield from transactions_and_openers(module, names)
        yield from signatures(module, names, globals_)
        for node, deed in gate_impure.impure_uses(module, names):
            yield module.violation(
                node, "DRV-004", f"{deed}; a driver gets times, ids and settings as arguments"
            )
        yield from built_sql(module, names)


def transactions_and_openers(module: Module, names: Names) -> Iterator[Violation]:
    """Yield transaction words (any receiver) and whatever opens a connection, session or engine."""
    for node, receiver, word in attribute_uses(module.tree):
        if not (isinstance(receiver, ast.Attribute) and receiver.attr in {"c", "columns"}):
            yield from _said(module, node, word)
        if word == COMPUTED and "conn" in ast.unparse(receiver):
            text = "asks the connection for an attribute that nobody can read here; write its name"
            yield module.violation(node, "DRV-001", text)
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom):
            for item in node.names:
                yield from _said(module, node, item.name)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in OPENERS and not names.all_origins(node.func):  # an imported one is said above
                yield from _said(module, node, node.func.id)
        elif isinstance(node, ast.keyword) and node.arg == "isolation_level":
            yield from _said(module, node.value, "begin")


def _said(module: Module, node: ast.AST, word: str) -> Iterator[Violation]:
    if word in TRANSACTION:
        text = f"says {word} or sets how it works; the spine owns the transaction of this connection"
        yield module.violation(node, "DRV-001", text)
    elif word in OPENERS:
        yield module.violation(node, "DRV-002", f"opens by {word}; use the connection handed in")


def signatures(module: Module, names: Names, globals_: set[str]) -> Iterator[Violation]:
    """Yield public functions whose first parameter is no connection or that take no tenant by keyword."""
    for function, method in public_functions(module.tree):
        positional = [*function.args.posonlyargs, *function.args.args][1 if method else 0 :]
        if not positional or positional[0].arg != "connection":
            text = (
                f"{function.name} does not take `connection` first; a driver works on a connection handed in"
            )
            yield module.violation(function, "DRV-003", text)
        if "tenant_id" in {a.arg for a in function.args.kwonlyargs} or _only_global(
            function, names, globals_
        ):
            continue
        text = (
            f"{function.name} does not take `tenant_id` by keyword (after `*`); a driver works for one tenant"
        )
        yield module.violation(function, "DRV-006", text)


def public_functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Yield (function, whether it is a method) for what other modules may call."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield member, True


def _only_global(function: Function, names: Names, globals_: set[str]) -> bool:
    """Tell whether every table the function names belongs to no tenant (gate_tables.GLOBAL_TABLES)."""
    origins = {origin for node in ast.walk(function) for origin in names.all_origins(node)}
    used = {origin for origin in origins if ".tables." in origin and origin.count(".") == 4}
    return bool(used) and used <= globals_


def built_sql(module: Module, names: Names) -> Iterator[Violation]:
    """Yield SQL made from pieces: f-string, %, +, format, join, replace, or a text nobody can read here."""
    constants = gate_tables.string_constants(module.tree)
    for node in module.nodes:
        if isinstance(node, ast.expr) and _built(node) and _reads_as_sql(node):
            yield module.violation(
                node, "DRV-005", "builds SQL from pieces; write it whole, with bind parameters"
            )
        if not isinstance(node, ast.Call):
            continue
        sinks = names.called(node)
        sink = min(sinks, default="")
        if sinks & SQL_TEXT and node.args and not _constant(node.args[0], constants):
            text = f"{sink}() gets a text that is not written here whole; use a literal with bind parameters"
            yield module.violation(node, "DRV-005", text)
        elif sinks & EXECUTES and node.args and _built_text(node.args[0], constants):
            yield module.violation(
                node, "DRV-005", f"{sink}() gets SQL built from pieces; use bind parameters"
            )


def _built(node: ast.expr) -> bool:
    """Tell whether an expression makes a text at run time."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(value, ast.FormattedValue) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(_is_text(side) for side in (node.left, node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        makes_text = node.func.attr in {
            "format",
            "format_map",
            "join",
            "replace",
            "substitute",
            "safe_substitute",
        }
        return makes_text and literal(node.func.value) is not None
    return False


def _is_text(node: ast.expr) -> bool:
    return literal(node) is not None or isinstance(node, ast.JoinedStr) or _built(node)


def _reads_as_sql(node: ast.expr) -> bool:
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return any(SQL_START.match(text) for text in texts)


def _built_text(node: ast.expr, constants: dict[str, list[ast.expr]], depth: int = 0) -> bool:
    if isinstance(node, ast.Name) and depth < 3:
        return any(_built_text(value, constants, depth + 1) for value in constants.get(node.id, ()))
    return _built(node)


def _constant(node: ast.expr, constants: dict[str, list[ast.expr]], depth: int = 0) -> bool:
    """Tell whether a text is written in this module, whole."""
    if isinstance(node, ast.Name) and depth < 3:
        values = constants.get(node.id, [])
        return bool(values) and all(_constant(value, constants, depth + 1) for value in values)
    if isinstance(node, ast.IfExp):
        return _constant(node.body, constants, depth) and _constant(node.orelse, constants, depth)
    return literal(node) is not None


def verdict(blocking: int, advisory: int) -> str:
    """Word the last line."""
    return f"Total: {blocking + advisory} violations"


GATE = Gate("check_driver_purity", "DRV", "Check that drivers are pure SQL.", check, verdict)

if __name__ == "__main__":
    sys.exit(run(GATE))
