"""Gate: engines are rules without database, web or settings; drivers are SQL without policy."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_impure
from gate import Gate, Module, Tree, Violation, run
from gate_names import Names, attribute_uses, functions, imports

ENGINES = ("app/domains/*/engines/*.py", "app/domains/*/engines.py")
DRIVERS = ("app/domains/*/drivers/*.py", "app/domains/*/drivers.py")
FOREIGN = (
    "sqlalchemy",
    "sqlite3",
    "psycopg",
    "alembic",
    "fastapi",
    "starlette",
    "pydantic_settings",
    "app.settings",
    "app.bootstrap",
    "app.api",
    "app.db.engine",
    "app.db.metadata",
    "app.db.dialect",
)
PURE_PREFIXES = ("decide_", "check_")
SQL_CALLS = {"execute", "scalars", "scalar", "exec_driver_sql"}

# Enums that name business states and judgements; an enum of value kinds only shapes the SQL.
VOCABULARIES = (
    "State",
    "Status",
    "Outcome",
    "Decision",
    "Effect",
    "Severity",
    "Verdict",
    "Reason",
    "Phase",
    "Stage",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every engine that knows too much and every driver that decides."""
    engines, drivers = tree.select(*ENGINES), tree.select(*DRIVERS)
    tree.select(*ENGINES, *DRIVERS, least=1)
    for module in engines:
        yield from engine(module, module.names)
    for module in drivers:
        yield from driver(module, module.names)


def engine(module: Module, names: Names) -> Iterator[Violation]:
    """Yield what an engine may not know or do."""
    for node, target in imports(module, names):
        known = next((name for name in FOREIGN if target == name or target.startswith(name + ".")), None)
        if known:
            yield module.violation(
                node, "PURE-001", f"an engine imports {known}; take what it gives as an argument"
            )
    for node, deed in gate_impure.impure_uses(module, names, keys=True):
        yield module.violation(node, "PURE-002", f"an engine {deed}; take the value as an argument")
    for node, receiver, word in attribute_uses(module.tree):
        if word in SQL_CALLS and isinstance(receiver, ast.Name) and "connection" in receiver.id:
            yield module.violation(
                node, "PURE-003", f"an engine calls {word} itself; move the SQL into a driver"
            )
    for function in functions(module.tree):
        if function.name.startswith(PURE_PREFIXES):
            yield from decision(module, names, function)


def decision(module: Module, names: Names, function: Function) -> Iterator[Violation]:
    """Yield what keeps a decide_* or check_* function from being pure: facts in, decision out."""
    for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if "connection" in argument.arg or "Connection" in annotation:
            text = f"{function.name} takes a connection; read the facts first and pass them in"
            yield module.violation(argument, "PURE-004", text)
    if function.name.startswith("decide_") and _returns_nothing(function):
        text = f"{function.name} returns nothing; a decide_* function returns its decision"
        yield module.violation(function, "PURE-005", text)
    for node in ast.walk(function):
        if isinstance(node, ast.Global | ast.Nonlocal):
            text = f"{function.name} changes state outside itself; return the change instead"
            yield module.violation(node, "PURE-004", text)
        elif isinstance(node, ast.Call) and _reads_world(node, names):
            text = f"{function.name} calls {ast.unparse(node.func)}; a pure function takes facts as arguments"
            yield module.violation(node, "PURE-004", text)


def _returns_nothing(function: Function) -> bool:
    annotated = function.returns is not None and ast.unparse(function.returns) in {"None", "'None'"}
    returns = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
    return annotated or not returns


def _reads_world(node: ast.Call, names: Names) -> bool:
    if isinstance(node.func, ast.Name) and node.func.id in {"open", "input", "print"}:
        return True
    return any(".drivers." in o or o.startswith("secrets.") for o in names.all_origins(node.func))


def driver(module: Module, names: Names) -> Iterator[Violation]:
    """Yield what shows that a driver decides: engines, refusals, branches on business state."""
    for node, target in imports(module, names):
        if ".engines" in target:
            yield module.violation(
                node, "PURE-006", f"a driver imports {target}; engines call drivers, never back"
            )
    for node in module.nodes:
        if isinstance(node, ast.Raise) and _refuses(node, names):
            text = "a driver refuses; return what was found, and let the engine refuse"
            yield module.violation(node, "PURE-007", text)
        test = node.subject if isinstance(node, ast.Match) else getattr(node, "test", None)
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Match | ast.Assert) and isinstance(
            test, ast.expr
        ):
            word = _state_word(test, names) or (
                _matched_word(node, names) if isinstance(node, ast.Match) else None
            )
            if word:
                text = f"a driver branches on business state ({word}); let the engine decide"
                yield module.violation(node, "PURE-008", text)


def _refuses(node: ast.Raise, names: Names) -> bool:
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if raised is None:
        return False
    return any(
        ".errors." in o and o.startswith(("app.domains.", "app.kernel.errors"))
        for o in names.all_origins(raised)
    )


def _state_word(test: ast.expr, names: Names) -> str | None:
    """Return the word of a state vocabulary that a condition compares with, if any."""
    for node in ast.walk(test):
        if not isinstance(node, ast.Compare) or "dialect_name" in ast.unparse(node):
            continue
        for side in (node.left, *node.comparators):
            for part in ast.walk(side):
                word = _word(part, names)
                if word:
                    return word
    return None


def _matched_word(node: ast.Match, names: Names) -> str | None:
    for case in node.cases:
        for part in ast.walk(case.pattern):
            word = _word(part.value, names) if isinstance(part, ast.MatchValue) else None
            if word:
                return word
    return None


def _word(node: ast.AST, names: Names) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
        return node.value
    if isinstance(node, ast.Attribute):
        for origin in names.all_origins(node.value):
            vocabulary = origin.rpartition(".")[2]
            if ".models." in origin and vocabulary.endswith(VOCABULARIES):
                return ast.unparse(node)
    return None


def verdict(blocking: int, advisory: int) -> str:
    """Word the last line."""
    return f"{blocking} blocking, {advisory} advisory"


GATE = Gate(
    "hoc_l5_l6_purity_audit",
    "PURE",
    "Check that engines are pure and drivers decide nothing.",
    check,
    verdict,
)

if __name__ == "__main__":
    sys.exit(run(GATE))
