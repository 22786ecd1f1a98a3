"""Gates: what the names of one module mean as tables and columns of tenants.

The reading is one of names, not of values: a name stands for everything that it is assigned in its function,
else in the module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gate import Module
from gate_names import assigned, called, literal

GLOBAL = "global:"  # how a table of no tenant is named; its tenant_id binds only what is bound itself

Function = ast.FunctionDef | ast.AsyncFunctionDef


class TableNames:
    """Resolve expressions of one module to the tables and columns they stand for."""

    def __init__(self, module: Module, tenant_tables: dict[str, str], global_tables: set[str]) -> None:
        self.module = module
        self.names = module.names
        self.tenant_tables = tenant_tables  # dotted origin -> SQL name
        self.global_tables = global_tables
        self.parents = {child: node for node in module.nodes for child in ast.iter_child_nodes(node)}
        self.helpers = {n.name: n for n in module.tree.body if isinstance(n, Function)}
        self._values: dict[ast.AST | None, dict[str, list[ast.expr]]] = {}

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the innermost function around a node."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, Function):
                return node
        return None

    def table(self, node: ast.expr, *, function: Function | None = None, certain: bool = False) -> str | None:
        """Return the tenant table an expression stands for: its origin, `name@line` of an alias or parameter.

        A parameter that is used like a table (`table.c...`) counts as one: nobody can say that it is none.
        """
        origins = self.names.all_origins(node)
        for origin in origins:
            if origin in self.tenant_tables:
                return origin
        if origins or not isinstance(node, ast.Name):
            return None
        function = function or self.function_of(node)
        for value in self.values(node.id, function):
            call = value if isinstance(value, ast.Call) else None
            if call and isinstance(call.func, ast.Attribute) and call.func.attr in {"alias", "tablesample"}:
                aliased = self.table(call.func.value, function=function, certain=certain)
                return f"{node.id}@{value.lineno}" if aliased else None
        unknown = function if not certain and function and node.id in _parameters(function) else None
        return f"{node.id}@{unknown.lineno}" if unknown and _used_as_table(unknown, node.id) else None

    def column(self, node: ast.expr, function: Function | None, depth: int = 0) -> tuple[str, str] | None:
        """Return (table, column) of `table.c.column`, `table.c["column"]`, or a name assigned to either."""
        if isinstance(node, ast.Name) and depth < 3:
            found = [self.column(value, function, depth + 1) for value in self.values(node.id, function)]
            return next((column for column in found if column), None)
        if isinstance(node, ast.Attribute):
            space, name = node.value, node.attr
        elif isinstance(node, ast.Subscript) and literal(node.slice):
            space, name = node.value, literal(node.slice) or ""
        else:
            return None
        for place in [space, *(self.values(space.id, function) if isinstance(space, ast.Name) else ())]:
            if isinstance(place, ast.Attribute) and place.attr in {"c", "columns"}:
                table = self.table(place.value, function=function) or self._global(place.value)
                if table:
                    return table, name
        return None

    def _global(self, node: ast.expr) -> str | None:
        found = self.names.all_origins(node) & self.global_tables
        return f"{GLOBAL}{min(found)}" if found else None

    def values(self, name: str, function: Function | None) -> list[ast.expr]:
        """Return what a name is assigned, or has appended, in the function, else in the module."""
        for scope in (function, None):
            if scope not in self._values:
                self._values[scope] = _values_in(scope or self.module.tree, self)
            if name in self._values[scope]:
                return self._values[scope][name]
        return []

    def uses(self, name: str, function: Function | None) -> Iterator[ast.Name]:
        """Yield the places of a function, or of the whole module, that read a name."""
        for node in ast.walk(function or self.module.tree):
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                yield node


def _values_in(scope: ast.AST, reader: TableNames) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    owner = scope if isinstance(scope, Function) else None
    for node in ast.walk(scope):
        pairs = assigned(node)
        if isinstance(node, ast.Call) and called(node) in {"append", "extend", "insert"} and node.args:
            grown = node.func.value if isinstance(node.func, ast.Attribute) else None
            # `sa.insert(table)` grows no list: a name that is imported is a module or a function.
            if isinstance(grown, ast.Name) and not reader.names.all_origins(grown):
                pairs = [(grown.id, node.args[-1])]
        for name, value in pairs:
            if reader.function_of(node) is owner:
                found.setdefault(name, []).append(value)
    return found


def _parameters(function: Function) -> set[str]:
    arguments = function.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _used_as_table(function: Function, name: str) -> bool:
    spaces = [
        n.value for n in ast.walk(function) if isinstance(n, ast.Attribute) and n.attr in {"c", "columns"}
    ]
    return any(isinstance(space, ast.Name) and space.id == name for space in spaces)
