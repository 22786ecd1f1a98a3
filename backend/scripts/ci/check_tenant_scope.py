"""Gate: every select, update and delete on a tenant table compares that table's tenant_id."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_tables
from gate import Gate, Module, Tree, Violation, clean_or_not, run
from gate_columns import Function
from gate_names import literal
from gate_statements import FROM_CLAUSE, Reader, Statement
from gate_tables import GLOBAL_TABLES, Table

MEND = "add `<table>.c.tenant_id == tenant_id` to its conditions"
COMPARED = re.compile(
    r"tenant_id\s*(=|IN\b|IS\s+NOT\s+DISTINCT)|=\s*(\w+\.)?\"?tenant_id\b|\(\s*(\w+\.)?tenant_id\b[^()]*\)\s*(=|IN\b)"
    r"|USING\s*\([^()]*tenant_id",
    re.IGNORECASE,
)


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every statement on a tenant table that names no tenant, and every table of no known kind."""
    tables = gate_tables.declared_tables(tree)
    tree.select("app/domains/*/tables.py", least=1)
    yield from unknown_kinds(tables)
    of_tenants = {t.origin: t.name for t in tables if t.tenant}
    of_none = {t.origin for t in tables if not t.tenant}
    for module in tree.select("app/*.py"):
        yield from textual(module, tables)
        reader = Reader(module, of_tenants, of_none)
        yield from makeshift(reader, set(of_tenants.values()))
        for statement in list(reader.statements()):
            yield from unscoped(reader, statement)


def unknown_kinds(tables: list[Table]) -> Iterator[Violation]:
    """Yield tables that are neither made by tenant_table() nor on the list of global tables."""
    for table in tables:
        made_for_tenants = isinstance(table.node.func, ast.Name) and table.node.func.id == "tenant_table"
        made_for_tenants = made_for_tenants or getattr(table.node.func, "attr", "") == "tenant_table"
        if not made_for_tenants and table.name not in GLOBAL_TABLES:
            text = (
                f"{table.name} is a plain Table; use tenant_table(), or name it in GLOBAL_TABLES and say why"
            )
            yield table.module.violation(table.node, "SCOPE-002", text)


def makeshift(reader: Reader, tenant_tables: set[str]) -> Iterator[Violation]:
    """Yield `sa.table("name")` of a tenant table: statements on it would be read as statements on nothing."""
    for node in reader.module.nodes:
        if not isinstance(node, ast.Call) or not node.args or literal(node.args[0]) not in tenant_tables:
            continue
        origins = reader.names.all_origins(node.func)
        if any(origin.startswith("sqlalchemy.") and origin.endswith(".table") for origin in origins):
            text = f"makes a second {literal(node.args[0])} of its own; import the table that is declared"
            yield reader.module.violation(node, "SCOPE-002", text)


def textual(module: Module, tables: list[Table]) -> Iterator[Violation]:
    """Yield textual SQL that names a tenant table and compares no tenant_id."""
    for call, sql in gate_tables.sql_texts(module):
        named = {t.name for t in tables if t.tenant and gate_tables.named_in(sql, t.name)}
        plain_insert = re.match(r"\s*INSERT\b", sql, re.IGNORECASE) and not re.search(
            r"\bSELECT\b", sql, re.IGNORECASE
        )
        if (
            not named
            or plain_insert
            or not re.search(r"\b(SELECT|UPDATE|DELETE|MERGE)\b", sql, re.IGNORECASE)
        ):
            continue
        if not COMPARED.search(sql) or len(re.findall(r"\btenant_id\b", sql)) < len(named):
            text = (
                f"SQL on {', '.join(sorted(named))} does not compare tenant_id of each; add `tenant_id = :t`"
            )
            yield module.violation(call, "SCOPE-003", text)


def unscoped(reader: Reader, statement: Statement) -> Iterator[Violation]:
    """Yield a violation when a statement, with all that is chained to it, leaves a tenant table open."""
    if not statement.unscoped():
        return
    uses = list(_uses_elsewhere(reader, statement))
    if _correlated(reader, statement, uses):
        return
    if not uses:
        yield _violation(reader, statement, statement.root)
    elif statement.function is not None and not _is_returned(reader, statement):
        # Built up step by step in one function: the steps together have to bind every table.
        whole = statement
        for use in uses:
            whole = reader.extend(whole, use)
        if whole.unscoped():
            yield _violation(reader, whole, statement.root)
    else:
        for use in uses:
            longer = _with_steps(reader, reader.extend(statement, use))
            if longer.unscoped():
                yield _violation(reader, longer, use)


def _correlated(reader: Reader, statement: Statement, uses: list[ast.expr]) -> bool:
    """Tell whether the open tables belong to the statements that use this one as a condition or column."""
    if not uses:
        return False
    for use in uses:
        around = reader.enclosing(use)
        _, calls = reader.chain(use)
        if around is None or FROM_CLAUSE & {name for name, _ in [*statement.calls, *calls]}:
            return False
        if statement.unscoped(around=around):
            return False
    return True


def _with_steps(reader: Reader, statement: Statement) -> Statement:
    name = _assigned_to(reader, statement.top)
    if name and statement.function is not None:
        for use in reader.uses(name, statement.function):
            statement = reader.extend(statement, use)
    return statement


def _uses_elsewhere(reader: Reader, statement: Statement) -> Iterator[ast.expr]:
    """Yield where the statement goes on: its variable's uses, or the calls of the helper that returns it."""
    name = _assigned_to(reader, statement.top)
    if name:
        yield from reader.uses(name, statement.function)
    elif _is_returned(reader, statement) and statement.function is not None:
        for use in reader.uses(statement.function.name, None):
            call = reader.parents.get(use)
            if isinstance(call, ast.Call) and call.func is use:
                yield call


def _assigned_to(reader: Reader, top: ast.expr) -> str | None:
    parent = reader.parents.get(top)
    if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr) and parent.value is top:
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        return next((target.id for target in targets if isinstance(target, ast.Name)), None)
    return None


def _is_returned(reader: Reader, statement: Statement) -> bool:
    return (
        isinstance(reader.parents.get(statement.top), ast.Return)
        and isinstance(statement.function, Function)
        and statement.function.name in reader.helpers
        and statement.function.name.startswith("_")
    )


def _violation(reader: Reader, statement: Statement, node: ast.expr) -> Violation:
    open_tables = ", ".join(
        sorted(reader.tenant_tables.get(t, t.partition("@")[0]) for t in statement.unscoped())
    )
    text = f"{statement.verb} on {open_tables} names no tenant; {MEND}"
    last = statement.top.end_lineno or node.lineno
    return Violation(reader.module.path, node.lineno, "SCOPE-001", text, last_line=max(last, node.lineno))


GATE = Gate("check_tenant_scope", "SCOPE", "Check that statements name their tenant.", check, clean_or_not)

if __name__ == "__main__":
    sys.exit(run(GATE))
