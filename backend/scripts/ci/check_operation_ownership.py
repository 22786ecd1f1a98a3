"""Gate: every operation is owned, complete, tested and documented; every route dispatches exactly one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gate import Gate, GateError, Module, Tree, Violation, clean_or_not, run
from gate_imports import module_at
from gate_names import called, functions, literal
from gate_operations import Operation, declared, module_names

HANDLERS = "app/hoc_spine/handlers/*.py"
ROUTES = "app/api/routes/*.py"
DOCUMENT = "docs/operations.md"
AREAS = ("runs", "policies", "controls", "incidents", "lessons", "decisions", "signals", "logs", "knowledge",
         "retrieval", "repository", "tenant", "keys")  # fmt: skip
NAME = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")
SCOPE = re.compile(rf"^({'|'.join(AREAS)}):(read|write|admin)$")
ROUTE_MAKERS = {"get", "post", "put", "patch", "delete", "api_route", "add_api_route", "route"}
# Health, metrics and the OpenAPI document are no operations: they say nothing of any tenant.
PLAIN_ROUTES = "app/api/routes/health.py"

# A function: the dotted name of its module, and its own.
Place = tuple[str, str]


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every gap in the ownership of operations and routes."""
    modules = [m for m in tree.select(HANDLERS) if m.path.name != "__init__.py"]
    if not modules:
        raise GateError(f"nothing to check: no file matches {HANDLERS} below {tree.root}")
    operations: list[Operation] = []
    for module in modules:
        found = list(operations_of(module))
        operations += [o for o in found if isinstance(o, Operation)]
        yield from (v for v in found if isinstance(v, Violation))
    audits = AuditReach(tree, operations)
    for operation in operations:
        yield from complete(tree, operation)
        yield from audited(audits, operation)
    yield from unique(operations)
    yield from tested(tree, operations)
    yield from documented(tree, operations)
    yield from routes(tree, {o.name: o for o in operations})


def operations_of(module: Module) -> Iterator[Operation | Violation]:
    """Yield the operations of a handlers module, and a violation for what cannot be read as one."""
    if "OPERATIONS" not in module_names(module):
        text = "exports no OPERATIONS; end the module with OPERATIONS = (Operation(...),)"
        yield module.violation(1, "OPS-001", text)
        return
    for found in declared(module):
        if isinstance(found, Operation):
            yield found
        else:
            text = "is no operation that can be read here; write Operation(...), or OperationsOf's read(...)"
            yield module.violation(found.node, "OPS-001", text)


def complete(tree: Tree, operation: Operation) -> Iterator[Violation]:
    """Yield what an operation does not declare, or declares wrongly."""
    module, node, given = operation.module, operation.node, operation.given
    if not NAME.match(operation.name):
        yield module.violation(
            node, "OPS-002", f"name {operation.name!r} is not domain.noun.verb, written out"
        )
    owner = operation.text("owner")
    if not owner or not any(key.startswith(f"app/domains/{owner}/") for key in tree.modules):
        yield module.violation(
            node, "OPS-003", f"{operation.name} has owner {owner!r}, which is no slice; name one slice"
        )
    if operation.text("mode") not in {"read", "write"}:
        yield module.violation(
            node, "OPS-004", f'{operation.name} declares no mode; write mode="read" or "write"'
        )
    yield from _scope(operation)
    for part in ("input", "output"):
        if part not in given or (isinstance(given[part], ast.Constant) and given[part]):
            yield module.violation(node, "OPS-005", f"{operation.name} declares no {part} model; give one")
    handler = given.get("handler")
    known = {f.name for f in functions(module.tree)}
    if not isinstance(handler, ast.Name) or handler.id not in known:
        text = f"{operation.name} has no handler in its module; write a function there and name it"
        yield module.violation(node, "OPS-006", text)


def _scope(operation: Operation) -> Iterator[Violation]:
    door = operation.text("door") or "tenant"
    scope = operation.given.get("scope")
    nothing = isinstance(scope, ast.Constant) and scope.value is None
    if door in {"operator", "worker"}:
        if not nothing:
            text = f"{operation.name} is for the {door} door, which has no tenant scope; write scope=None"
            yield operation.module.violation(operation.node, "OPS-004", text)
    elif door != "tenant" or not SCOPE.match(literal(scope) or ""):
        text = f"{operation.name} declares no scope <area>:read|write|admin; areas: {', '.join(AREAS)}"
        yield operation.module.violation(operation.node, "OPS-004", text)


class AuditReach:
    """Which functions of the spine reach `ctx.audit(...)`, through calls in handlers and coordinators."""

    def __init__(self, tree: Tree, operations: list[Operation]) -> None:
        self.tree = tree
        self.operations = {o.name: o for o in operations}
        self._uses: dict[Place, tuple[bool, set[Place]]] = {}

    def of(self, operation: Operation) -> bool:
        """Tell whether an operation's handler reaches an audit entry."""
        todo = [(operation.module.name, operation.handler or "")]
        seen: set[Place] = set()
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            if place not in self._uses:
                self._uses[place] = self._used_by(place)
            audits, others = self._uses[place]
            if audits:
                return True
            todo.extend(others)
        return False

    def _used_by(self, place: Place) -> tuple[bool, set[Place]]:
        """Return whether a function audits itself, and the functions that it calls or hands on."""
        module = module_at(self.tree, place[0])
        if module is None:
            return False, set()
        local = {f.name: f for f in functions(module.tree)}
        others: set[Place] = set()
        for node in ast.walk(local[place[1]]) if place[1] in local else ():
            if isinstance(node, ast.Attribute) and node.attr == "audit":
                return True, set()
            if isinstance(node, ast.Name) and node.id in local:
                others.add((module.name, node.id))
            if isinstance(node, ast.Name | ast.Attribute):
                origins = module.names.all_origins(node)
                others |= {_split(origin) for origin in origins if origin.startswith("app.hoc_spine.")}
            elif isinstance(node, ast.Call) and called(node) == "dispatch" and node.args:
                nested = self.operations.get(literal(node.args[0]) or "")
                if nested and nested.handler:
                    others.add((nested.module.name, nested.handler))
        return False, others


def _split(origin: str) -> Place:
    module, _, function = origin.rpartition(".")
    return module, function


def audited(audits: AuditReach, operation: Operation) -> Iterator[Violation]:
    """Yield a write operation that neither audits nor says why not, or says both."""
    reason = operation.text("no_audit")
    stated = "no_audit" in operation.given and not (
        isinstance(operation.given["no_audit"], ast.Constant) and operation.given["no_audit"].value is None
    )
    if operation.text("mode") != "write":
        if stated:
            text = f"{operation.name} is a read and excuses an audit entry; delete no_audit"
            yield operation.module.violation(operation.node, "OPS-011", text)
    elif stated and (reason is None or len(reason.split()) < 2):
        text = f"{operation.name} gives no readable reason in no_audit; write one sentence"
        yield operation.module.violation(operation.node, "OPS-011", text)
    elif not stated and not audits.of(operation):
        text = f'{operation.name} writes and reaches no ctx.audit(); audit it, or give no_audit="reason"'
        yield operation.module.violation(operation.node, "OPS-011", text)


def unique(operations: list[Operation]) -> Iterator[Violation]:
    """Yield a name that is registered twice and a handler that serves two operations."""
    names: dict[str, Operation] = {}
    handlers: dict[tuple[str, str], Operation] = {}
    for operation in operations:
        if operation.name in names:
            other = names[operation.name].module.relative
            text = f"{operation.name} is declared in {other} too; one operation has one owner"
            yield operation.module.violation(operation.node, "OPS-002", text)
        names[operation.name] = operation
        handler = operation.given.get("handler")
        if isinstance(handler, ast.Name):
            key = (operation.module.name, handler.id)
            if key in handlers:
                text = f"{handler.id} serves {handlers[key].name} too; write a handler for each operation"
                yield operation.module.violation(operation.node, "OPS-006", text)
            handlers[key] = operation


def tested(tree: Tree, operations: list[Operation]) -> Iterator[Violation]:
    """Yield operations that no test names."""
    tests = tree.root / "tests"
    files = (path for path in tests.rglob("*.py") if "fixtures" not in path.relative_to(tests).parts)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    said = set(re.findall(r"""["']([a-z0-9_]+(?:\.[a-z0-9_]+)+)["']""", "\n".join(texts)))
    for operation in operations:
        if operation.name not in said:
            text = f"no test names {operation.name}; write one that dispatches it"
            yield operation.module.violation(operation.node, "OPS-007", text)


def documented(tree: Tree, operations: list[Operation]) -> Iterator[Violation]:
    """Yield operations without a row in docs/operations.md, and rows of operations that do not exist."""
    path = tree.document(DOCUMENT)
    rows: dict[str, int] = {}
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            cells = line.strip().strip("|").split("|") if line.lstrip().startswith("|") else []
            for name in re.findall(r"`([a-z0-9_]+(?:\.[a-z0-9_]+)+)`", cells[0] if cells else ""):
                rows.setdefault(name, number)
    known = {o.name for o in operations}
    for operation in operations:
        if operation.name not in rows:
            text = (
                f"{operation.name} has no row in {DOCUMENT}; add one whose first cell is `{operation.name}`"
            )
            yield operation.module.violation(operation.node, "OPS-008", text)
    for name, number in rows.items():
        if name not in known:
            yield Violation(
                path, number, "OPS-008", f"{name} is no operation; delete the row or correct the name"
            )


def routes(tree: Tree, operations: dict[str, Operation]) -> Iterator[Violation]:
    """Yield routes that dispatch no operation, or not exactly one, and paths declared twice."""
    taken: dict[tuple[str, str], str] = {}
    for module in tree.select(ROUTES):
        if module.path.name == "__init__.py" or module.relative == PLAIN_ROUTES:
            continue
        prefixes = _prefixes(module)
        for node in module.nodes:
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            receiver = getattr(node.func.value, "id", None)
            if node.func.attr == "add" and receiver in prefixes:
                yield from _route(module, node, prefixes[receiver], operations, taken)
            elif node.func.attr in ROUTE_MAKERS and ("outer" in (receiver or "") or receiver == "app"):
                text = "declares a route past the operations; use OperationRoutes.add()"
                yield module.violation(node, "OPS-009", text)


def _prefixes(module: Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in module_names(module).items():
        if isinstance(value, ast.Call) and called(value) == "OperationRoutes":
            given = {k.arg: literal(k.value) for k in value.keywords if k.arg}
            found[name] = (given.get("root") or "") + (given.get("prefix") or "")
    return found


def _route(
    module: Module,
    node: ast.Call,
    prefix: str,
    operations: dict[str, Operation],
    taken: dict[tuple[str, str], str],
) -> Iterator[Violation]:
    given = dict(zip(("method", "path", "operation"), node.args, strict=False))
    given.update({k.arg: k.value for k in node.keywords if k.arg in {"method", "path", "operation"}})
    method, path, name = (literal(given.get(part)) for part in ("method", "path", "operation"))
    if method is None or path is None or name is None:
        text = "a route gives method, path and operation as literal texts; write them out"
        yield module.violation(node, "OPS-009", text)
        return
    if name not in operations:
        yield module.violation(node, "OPS-009", f"{method} {path} dispatches {name}, which is no operation")
    elif method == "GET" and operations[name].text("mode") == "write":
        yield module.violation(
            node, "OPS-010", f"GET {path} dispatches {name}, which writes; a GET changes nothing"
        )
    key = (method, re.sub(r"\{[^}]*\}", "{}", prefix + path))
    if key in taken:
        text = f"{method} {prefix}{path} is declared for {taken[key]} too; one route dispatches one operation"
        yield module.violation(node, "OPS-009", text)
    taken[key] = name


GATE = Gate(
    "check_operation_ownership", "OPS", "Check that operations and routes are owned.", check, clean_or_not
)

if __name__ == "__main__":
    sys.exit(run(GATE))
