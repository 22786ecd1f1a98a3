"""Gates: the tables that the slices declare, read from their tables.py without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gate import Module, Tree
from gate_names import assigned, called, literal

TABLES = ("app/domains/*/tables.py", "app/domains/*/tables/*.py", "app/db/*.py")

# Tables without a tenant-leading key, each with its reason; every other table is a tenant table.
GLOBAL_TABLES = {
    "tenants": "the register of tenants: its key is the tenant id itself",
    "system_state": "the one row of switches of the whole installation",
    "worker_leases": "leases of workers that serve all tenants",
}

SQL_SINKS = {
    "text", "TextClause", "exec_driver_sql", "execute", "scalars", "scalar", "literal_column", "DDL",
    "executescript", "executemany", "prefix_with", "suffix_with", "with_hint", "with_statement_hint",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """One declared table: its slice, module variable and SQL name, and whether it belongs to tenants."""

    slice: str
    module: Module
    variable: str
    name: str
    tenant: bool
    node: ast.Call

    @property
    def origin(self) -> str:
        """Return the dotted name under which other modules import the table."""
        return f"{self.module.name}.{self.variable}"


def slice_of(module: Module) -> str:
    """Return the slice a module lies in, or an empty text."""
    parts = module.name.split(".")
    return parts[2] if parts[:2] == ["app", "domains"] and len(parts) > 2 else ""


def declared_tables(tree: Tree) -> list[Table]:
    """Return every table declared in a slice or in db, in file order."""
    return [table for module in tree.select(*TABLES) for table in _tables_of(module)]


def _tables_of(module: Module) -> Iterator[Table]:
    names = module.names
    for node in module.nodes:
        for variable, call in assigned(node):
            if not isinstance(call, ast.Call):
                continue
            tenant = called(call) == "tenant_table"
            if tenant or names.stands_for(call.func, "sqlalchemy.Table", "sqlalchemy.schema.Table"):
                name = literal(call.args[0]) if call.args else None
                name = name or variable
                yield Table(
                    slice_of(module), module, variable, name, tenant or name not in GLOBAL_TABLES, call
                )


def sql_texts(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Yield (call, SQL) for each textual SQL of a module: literals given to a sink, also through a name."""
    constants, names = string_constants(module.tree), module.names
    for node in module.nodes:
        if isinstance(node, ast.Call) and names.called(node) & SQL_SINKS:
            for argument in [*node.args, *(k.value for k in node.keywords)]:
                for text in _texts(argument, constants):
                    yield node, text


def string_constants(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what each name of a module is assigned that may be a text."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        for name, value in assigned(node):
            found.setdefault(name, []).append(value)
    return found


def _texts(node: ast.expr, constants: dict[str, list[ast.expr]], depth: int = 0) -> Iterator[str]:
    if isinstance(node, ast.Name) and depth < 3:
        for value in constants.get(node.id, ()):
            yield from _texts(value, constants, depth + 1)
    elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp | ast.Tuple | ast.List):
        parts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if parts:
            yield (" " if isinstance(node, ast.Tuple | ast.List) else "").join(parts)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _texts(node.func.value, constants, depth)  # "...".format(x), "...".join(y)


def named_in(sql: str, table: str) -> bool:
    """Tell whether a textual SQL names the table as a word."""
    return re.search(rf"(?<![\w$]){re.escape(table)}(?![\w$])", sql) is not None
