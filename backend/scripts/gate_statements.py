"""Gates: SQLAlchemy statements of one module, and which tenant tables each of them compares by tenant_id.

The reading is one of names, not of values: a name stands for everything it is assigned in its function (or in
the module), a helper of the module for what it returns. Conditions below `or_` and `not_` bind nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gate import Module
from gate_names import Names, assigned, literal

ROOTS = {"select", "update", "delete", "exists"}
BINDING = {"where", "filter", "join", "outerjoin", "join_from", "outerjoin_from", "select_from", "having"}
FROM_CLAUSE = {"subquery", "cte", "alias", "lateral"}
BOUND = "a value"
GLOBAL = "global:"  # how a table of no tenant is named; its tenant_id binds only what is bound itself

Function = ast.FunctionDef | ast.AsyncFunctionDef
Fact = tuple[str, str]  # (table, what its tenant_id is compared with: another table, or BOUND)


@dataclass(slots=True)
class Statement:
    """One select, update, delete or exists: the call that begins it and the calls chained to it."""

    root: ast.Call
    verb: str
    top: ast.expr
    calls: list[tuple[str, ast.Call]]
    function: Function | None
    enclosing: Statement | None = None
    tables: set[str] = field(default_factory=set)
    facts: set[Fact] = field(default_factory=set)

    def unscoped(self, *, around: Statement | None = None) -> set[str]:
        """Return the tables whose tenant_id is compared with no value, not even through another table.

        With `around`, the tables of that statement are its own business, and as good as values here.
        """
        tables = self.tables - (around.tables if around else set())
        others = {table for table, _ in self.facts if table.startswith(GLOBAL)}
        scoped: set[str] = set()
        while True:
            more = {
                table
                for table, other in self.facts
                if other == BOUND or other not in tables | others or other in scoped
            } - scoped
            if not more:
                return tables - scoped
            scoped |= more


class Reader:
    """Find and read the statements of one module."""

    def __init__(self, module: Module, tenant_tables: dict[str, str], global_tables: set[str]) -> None:
        self.module = module
        self.names = Names(module)
        self.tenant_tables = tenant_tables  # dotted origin -> SQL name
        self.global_tables = global_tables
        self.parents = {child: node for node in ast.walk(module.tree) for child in ast.iter_child_nodes(node)}
        self.helpers = {n.name: n for n in module.tree.body if isinstance(n, Function)}
        self.made: dict[ast.expr, Statement] = {}
        self._values: dict[ast.AST | None, dict[str, list[ast.expr]]] = {}

    # -- structure -----------------------------------------------------------------------------------------------

    def statements(self) -> Iterator[Statement]:
        """Yield every statement of the module, outer ones before those nested in them."""
        made = self.made
        for node in ast.walk(self.module.tree):  # breadth first, so outer statements come first
            verb = self.verb(node) if isinstance(node, ast.Call) else None
            if verb and isinstance(node, ast.Call):
                top, calls = self.chain(node)
                statement = Statement(node, verb, top, calls, self.function_of(node), self.enclosing(top))
                made[top] = statement
                self._read(statement)
                yield statement

    def verb(self, call: ast.Call) -> str | None:
        """Return select, update, delete or exists when the call begins a statement."""
        for origin in self.names.all_origins(call.func):
            head, _, verb = origin.rpartition(".")
            if verb in ROOTS and head.partition(".")[0] == "sqlalchemy":
                return verb
        if isinstance(call.func, ast.Attribute) and call.func.attr in ROOTS - {"exists"}:
            if self.table(call.func.value, certain=True):
                return call.func.attr
        return None

    def chain(self, node: ast.expr) -> tuple[ast.expr, list[tuple[str, ast.Call]]]:
        """Return the end of the method chain that begins at `node`, and its calls."""
        calls: list[tuple[str, ast.Call]] = []
        while True:
            attribute = self.parents.get(node)
            call = self.parents.get(attribute) if isinstance(attribute, ast.Attribute) else None
            if (
                not isinstance(call, ast.Call)
                or call.func is not attribute
                or not isinstance(attribute, ast.Attribute)
            ):
                return node, calls
            calls.append((attribute.attr, call))
            node = call

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the innermost function around a node."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, Function):
                return node
        return None

    def enclosing(self, top: ast.expr) -> Statement | None:
        """Return the statement in whose text an expression stands."""
        node: ast.AST = top
        while node in self.parents and not isinstance(node, ast.stmt):
            node = self.parents[node]
            if isinstance(node, ast.expr) and node in self.made:
                return self.made[node]
        return None

    def is_statement(self, node: ast.expr) -> bool:
        """Tell whether an expression is a statement, or a chain that begins with one."""
        while isinstance(node, ast.Call | ast.Attribute):
            if isinstance(node, ast.Call) and self.verb(node):
                return True
            node = node.func if isinstance(node, ast.Call) else node.value
        return False

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self, statement: Statement) -> None:
        whole = [*_arguments(statement.root)]
        if isinstance(statement.root.func, ast.Attribute):
            whole.append(statement.root.func.value)  # planes.update()
        for name, call in statement.calls:
            whole.extend(_arguments(call))
            self._bind(statement, name, call)
        for expression in whole:
            statement.tables |= self.tables_in(expression, statement.function)
        if not FROM_CLAUSE & {name for name, _ in statement.calls}:
            # A subquery in a condition or a result column is correlated with the statements around it.
            around = statement.enclosing
            while around:
                statement.tables -= around.tables
                around = around.enclosing

    def _bind(self, statement: Statement, name: str, call: ast.Call) -> None:
        if name in BINDING:
            for argument in _arguments(call):
                statement.facts |= self.facts(argument, statement.function)
        elif name == "filter_by" and any(k.arg == "tenant_id" for k in call.keywords):
            statement.facts |= {(table, BOUND) for table in statement.tables}

    def extend(self, statement: Statement, use: ast.expr) -> Statement:
        """Return the statement as it is after the chain that goes on at `use` (its name elsewhere)."""
        top, calls = self.chain(use)
        function = self.function_of(use)
        longer = Statement(statement.root, statement.verb, top, calls, function)
        longer.tables, longer.facts = set(statement.tables), set(statement.facts)
        for name, call in calls:
            self._bind(longer, name, call)
            for argument in _arguments(call):
                longer.tables |= self.tables_in(argument, function)
        return longer

    def tables_in(self, node: ast.expr, function: Function | None, depth: int = 0) -> set[str]:
        """Return the tenant tables an expression names, not those inside nested statements."""
        if self.is_statement(node):
            return set()
        table = self.table(node, function=function)
        if table:
            return {table}
        found: set[str] = set()
        if isinstance(node, ast.Name) and depth < 4:
            for value in self.values(node.id, function):
                found |= self.tables_in(value, function, depth + 1)
            return found
        for part in _parts(node):
            found |= self.tables_in(part, function, depth)
        return found

    def table(self, node: ast.expr, *, function: Function | None = None, certain: bool = False) -> str | None:
        """Return the tenant table an expression stands for: its origin, `name@line` for an alias, or a parameter.

        A parameter that is used like a table (`table.c...`) counts as a tenant table: nobody can say it is none.
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
                if self.table(call.func.value, function=function, certain=certain):
                    return f"{node.id}@{value.lineno}"
        if (
            not certain
            and function
            and node.id in _parameters(function)
            and _used_as_table(function, node.id)
        ):
            return f"{node.id}@{function.lineno}"
        return None

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

    # -- conditions ----------------------------------------------------------------------------------------------

    def facts(self, node: ast.expr, function: Function | None, depth: int = 0) -> set[Fact]:
        """Return what a condition says of tenant ids, as far as it must hold."""
        if depth > 6 or self.is_statement(node):
            return set()
        if isinstance(node, ast.Compare):
            return self._comparison(node, function)
        if isinstance(node, ast.Call):
            return self._call(node, function, depth)
        if isinstance(node, ast.IfExp):
            return self.facts(node.body, function, depth) & self.facts(node.orelse, function, depth)
        parts: Iterable[ast.expr] = ()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.Add):
            parts = (node.left, node.right)
        elif isinstance(node, ast.List | ast.Tuple):
            parts = node.elts
        elif isinstance(node, ast.Starred):
            parts = (node.value,)
        elif isinstance(node, ast.Name):
            parts = self.values(node.id, function)
        return {fact for part in parts for fact in self.facts(part, function, depth + 1)}

    def _comparison(self, node: ast.Compare, function: Function | None) -> set[Fact]:
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
            return set()
        left, right = self._tenant_ids(node.left, function), self._tenant_ids(node.comparators[0], function)
        if left and left == right:
            return set()
        facts = {(table, other) for table in left for other in (right or {BOUND})}
        return facts | {(table, other) for table in right for other in (left or {BOUND})}

    def _tenant_ids(self, node: ast.expr, function: Function | None) -> set[str]:
        if isinstance(node, ast.Call) and _called(node) == "tuple_":
            return {table for argument in node.args for table in self._tenant_ids(argument, function)}
        column = self.column(node, function)
        return {column[0]} if column and column[1] == "tenant_id" else set()

    def _call(self, node: ast.Call, function: Function | None, depth: int) -> set[Fact]:
        called = _called(node)
        if called in {"in_", "is_not_distinct_from", "__eq__"} and isinstance(node.func, ast.Attribute):
            return {(table, BOUND) for table in self._tenant_ids(node.func.value, function)}
        if called in {"and_", "join", "outerjoin", "tuple", "list"}:
            parts = _arguments(node)
            if isinstance(node.func, ast.Attribute):
                parts.append(node.func.value)
            return {fact for part in parts for fact in self.facts(part, function, depth + 1)}
        helper = self.helpers.get(node.func.id) if isinstance(node.func, ast.Name) else None
        return self._helper(node, helper, function, depth) if helper else set()

    def _helper(self, node: ast.Call, helper: Function, function: Function | None, depth: int) -> set[Fact]:
        """Return the facts that a helper of the module returns, its parameters replaced by the arguments."""
        names = [a.arg for a in (*helper.args.posonlyargs, *helper.args.args)]
        given = {
            **dict(zip(names, node.args, strict=False)),
            **{k.arg: k.value for k in node.keywords if k.arg},
        }
        passed = {f"{n}@{helper.lineno}": self.table(v, function=function) for n, v in given.items()}
        found: set[Fact] = set()
        for part in ast.walk(helper):
            if isinstance(part, ast.Return) and part.value is not None and self.function_of(part) is helper:
                for table, other in self.facts(part.value, helper, depth + 1):
                    found.add((passed.get(table) or table, passed.get(other) or other))
        return found

    # -- names ---------------------------------------------------------------------------------------------------

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


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions inside an expression; what is only asked for its name, key or type is no table."""
    if isinstance(node, ast.Attribute) and node.attr in {"name", "key", "type"}:
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword):
            yield child.value
        elif isinstance(child, ast.comprehension):
            if not _only_named(node, child.target):
                yield child.iter
        elif isinstance(child, ast.expr):
            yield child


def _only_named(node: ast.expr, target: ast.expr) -> bool:
    """Tell whether a comprehension takes nothing of its items but their names, keys and types."""
    if not isinstance(target, ast.Name) or not isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        return False
    uses = sum(isinstance(n, ast.Name) and n.id == target.id for n in ast.walk(node.elt))
    named = sum(
        isinstance(n, ast.Attribute)
        and n.attr in {"name", "key", "type"}
        and isinstance(n.value, ast.Name)
        and n.value.id == target.id
        for n in ast.walk(node.elt)
    )
    return uses == named


def _values_in(scope: ast.AST, reader: Reader) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    owner = scope if isinstance(scope, Function) else None
    for node in ast.walk(scope):
        pairs = assigned(node)
        if isinstance(node, ast.Call) and _called(node) in {"append", "extend", "insert"} and node.args:
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                pairs = [(node.func.value.id, node.args[-1])]
        for name, value in pairs:
            if reader.function_of(node) is owner:
                found.setdefault(name, []).append(value)
    return found


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _parameters(function: Function) -> set[str]:
    arguments = function.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _used_as_table(function: Function, name: str) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr in {"c", "columns"}:
            if isinstance(node.value, ast.Name) and node.value.id == name:
                return True
    return False
