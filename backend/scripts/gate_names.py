"""Gates: what a name in a parsed module stands for, through imports, aliases and literal dynamic imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gate import Module

_IMPORTERS = {
    "importlib.import_module",
    "import_module",
    "__import__",
    "builtins.__import__",
    "importlib.__import__",
}


_GETTERS = {"__getattribute__", "__getattr__"}
COMPUTED = "<computed>"


def absolute(module: Module, level: int, target: str | None) -> str | None:
    """Return the absolute name of a relative import, or None when it climbs above the root package."""
    if level == 0:
        return target
    parts = module.package.split(".")
    if level > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([target] if target else [])])


def literal(node: ast.AST | None) -> str | None:
    """Return the text of a string literal, joined literals included, else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return None


def assigned(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """Return (name, value) of an assignment to names, `a, b = x, y` taken apart; empty for any other node."""
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) or node.value is None:
        return []
    found: list[tuple[str, ast.expr]] = []
    pairs: list[tuple[ast.expr, ast.expr]] = [
        (target, node.value) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    for target, value in pairs:
        if isinstance(target, ast.Name):
            found.append((target.id, value))
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs += zip(target.elts, value.elts, strict=False)
    return found


def called(call: ast.Call) -> str:
    """Return the last part of the name that is called, or an empty text."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


class Names:
    """Resolve names and attribute chains of one module to dotted origins such as `sqlalchemy.select`.

    One table serves the whole module: a name bound differently in two functions resolves to both origins.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self._origins: dict[str, set[str]] = {}
        self._aliases: list[tuple[str, ast.expr]] = []
        for node in module.nodes:
            self._bind(node)
        for _ in range(3):  # an alias of an alias of an alias is as far as honest code goes
            for name, value in self._aliases:
                self._origins.setdefault(name, set()).update(self.all_origins(value))

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for item in node.names:
                name = item.asname or item.name.partition(".")[0]
                self._add(name, item.name if item.asname else name)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(self.module, node.level, node.module)
            for item in node.names:
                if source:
                    self._add(item.asname or item.name, f"{source}.{item.name}")
        else:
            self._aliases += assigned(node)
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            self._aliases.append((node.optional_vars.id, node.context_expr))

    def _add(self, name: str, origin: str) -> None:
        self._origins.setdefault(name, set()).add(origin)

    def all_origins(self, node: ast.AST) -> set[str]:
        """Return every dotted origin the expression may stand for; empty when it is no import."""
        if isinstance(node, ast.Name):
            return set(self._origins.get(node.id, ()))
        if isinstance(node, ast.Attribute):
            return {f"{origin}.{node.attr}" for origin in self.all_origins(node.value)}
        if isinstance(node, ast.Call):
            return self._origins_of_call(node)
        return set()

    def _origins_of_call(self, node: ast.Call) -> set[str]:
        target = dynamic_import(node, self)
        if target:
            return {target}
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) >= 2:
            attribute = literal(node.args[1])
            if attribute:
                return {f"{origin}.{attribute}" for origin in self.all_origins(node.args[0])}
        return set()

    def called(self, call: ast.Call) -> set[str]:
        """Return the last parts of the names that a call may mean: as written, and as imported."""
        return {called(call), *(origin.rpartition(".")[2] for origin in self.all_origins(call.func))} - {""}

    def stands_for(self, node: ast.AST, *origins: str) -> bool:
        """Tell whether the expression may be one of the dotted names, or lie inside one of them."""
        for found in self.all_origins(node):
            if any(found == origin or found.startswith(origin + ".") for origin in origins):
                return True
        return False


def is_importer(node: ast.Call, names: Names) -> bool:
    """Tell whether a call is importlib.import_module or __import__, under any alias."""
    if isinstance(node.func, ast.Name) and node.func.id in _IMPORTERS:
        return True
    return bool(names.all_origins(node.func) & _IMPORTERS)


def dynamic_import(node: ast.Call, names: Names) -> str | None:
    """Return the module that a literal dynamic import names, else None."""
    if not node.args or not is_importer(node, names):
        return None
    target = literal(node.args[0])
    if target is None or not target.startswith("."):
        return target
    level = len(target) - len(target.lstrip("."))
    return absolute(names.module, level, target.lstrip(".") or None)


def imports(module: Module, names: Names) -> Iterator[tuple[ast.AST, str]]:
    """Yield (node, dotted name) of every import at any depth, literal dynamic ones included."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for item in node.names:
                yield node, item.name
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node.level, node.module)
            if source:
                for item in node.names:
                    yield node, f"{source}.{item.name}"
        elif isinstance(node, ast.Call):
            target = dynamic_import(node, names)
            if target:
                yield node, target


def attribute_uses(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Yield (node, receiver, name) of `x.name`, `getattr(x, "name")`, methodcaller and attrgetter("name").

    The name of an attribute that is only known at run time is COMPUTED.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node, node.value, node.attr
        elif isinstance(node, ast.Call):
            if called(node) == "getattr" and len(node.args) >= 2:
                yield node, node.args[0], literal(node.args[1]) or COMPUTED
            elif isinstance(node.func, ast.Attribute) and node.func.attr in _GETTERS and node.args:
                yield node, node.func.value, literal(node.args[-1]) or COMPUTED
            elif called(node) in {"methodcaller", "attrgetter"} and node.args:
                attribute = literal(node.args[0])
                if attribute:
                    yield node, node.args[0], attribute.rpartition(".")[2]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
