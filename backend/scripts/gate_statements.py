"""Gates: SQLAlchemy statements of one module, and which tenant tables each of them compares by tenant_id.

The reading is one of names, not of values: a name stands for everything it is assigned in its function (or in
the module), a helper of the module for what it returns. Conditions below `or_` and `not_` bind nothing.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gate import Module
from gate_columns import GLOBAL, Function, TableNames
from gate_names import called, literal

ROOTS = {"select", "update", "delete", "exists"}
BINDING = {"where", "filter", "join", "outerjoin", "join_from", "outerjoin_from", "select_from", "having"}
FROM_CLAUSE = {"subquery", "cte", "alias", "lateral"}
BOUND = "a value"
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


class Reader(TableNames):
    """Find and read the statements of one module."""

    def __init__(self, module: Module, tenant_tables: dict[str, str], global_tables: set[str]) -> None:
        super().__init__(module, tenant_tables, global_tables)
        self.made: dict[ast.expr, Statement] = {}

    def statements(self) -> Iterator[Statement]:
        """Yield every statement of the module, outer ones before those nested in them."""
        for node in self.module.nodes:  # breadth first, so outer statements come first
            verb = self.verb(node) if isinstance(node, ast.Call) else None
            if verb and isinstance(node, ast.Call):
                top, calls = self.chain(node)
                statement = Statement(node, verb, top, calls, self.function_of(node), self.enclosing(top))
                self.made[top] = statement
                self._read(statement)
                yield statement

    def verb(self, call: ast.Call) -> str | None:
        """Return select, update, delete or exists when the call begins a statement."""
        for origin in self.names.all_origins(call.func):
            head, _, verb = origin.rpartition(".")
            if verb in ROOTS and head.partition(".")[0] == "sqlalchemy":
                return verb
        method = call.func if isinstance(call.func, ast.Attribute) else None
        if method and method.attr in ROOTS - {"exists"} and self.table(method.value, certain=True):
            return method.attr
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
            statement.facts |= self._arguments_say(name, call, statement.function, 0)
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
        elif isinstance(node, ast.GeneratorExp | ast.ListComp):
            parts = _said_of_tenant_id(node)
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
        if isinstance(node, ast.Call) and called(node) == "tuple_":
            return {table for argument in node.args for table in self._tenant_ids(argument, function)}
        column = self.column(node, function)
        return {column[0]} if column and column[1] == "tenant_id" else set()

    def _call(self, node: ast.Call, function: Function | None, depth: int) -> set[Fact]:
        name = called(node)
        if name in {"in_", "is_not_distinct_from", "__eq__"} and isinstance(node.func, ast.Attribute):
            return {(table, BOUND) for table in self._tenant_ids(node.func.value, function)}
        if name in {"and_", "join", "outerjoin", "tuple", "list"}:
            before = (
                self.facts(node.func.value, function, depth)
                if isinstance(node.func, ast.Attribute)
                else set()
            )
            return before | self._arguments_say(name, node, function, depth + 1)
        helper = self.helpers.get(node.func.id) if isinstance(node.func, ast.Name) else None
        return self._helper(node, helper, function, depth) if helper else set()

    def _arguments_say(self, name: str, call: ast.Call, function: Function | None, depth: int) -> set[Fact]:
        parts = _arguments(call)
        found = {fact for part in parts for fact in self.facts(part, function, depth)}
        outer = name.startswith("outerjoin") or any(k.arg in {"isouter", "full"} for k in call.keywords)
        if not outer:
            return found
        # The condition of an outer join keeps every row of the left side: it binds the joined table alone.
        joined = parts[1:2] if name == "outerjoin_from" else parts[:1]
        tables = {table for part in joined for table in self.tables_in(part, function)}
        return {fact for fact in found if fact[0] in tables}

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


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions in an expression; what is only asked for its name, key or type is no table."""
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


def _said_of_tenant_id(node: ast.GeneratorExp | ast.ListComp) -> list[ast.expr]:
    """Return what `(a.c[n] == b.c[n] for n in ("tenant_id", ...))` says of tenant_id."""
    loop = node.generators[0]
    names = loop.iter.elts if isinstance(loop.iter, ast.Tuple | ast.List) else []
    if not isinstance(loop.target, ast.Name) or len(node.generators) > 1 or loop.ifs:
        return []
    if "tenant_id" not in {literal(name) for name in names}:
        return []
    return [_Named(loop.target.id).visit(copy.deepcopy(node.elt))]


class _Named(ast.NodeTransformer):
    """Put `tenant_id` in the place of a loop variable."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant("tenant_id") if node.id == self.variable else node


def _only_named(node: ast.expr, target: ast.expr) -> bool:
    """Tell whether a comprehension takes nothing of its items but their names, keys and types."""
    if not isinstance(target, ast.Name) or not isinstance(
        node, ast.ListComp | ast.SetComp | ast.GeneratorExp
    ):
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


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]
