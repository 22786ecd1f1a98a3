"""Docs tests: every error code of the product with its HTTP statuses, read from the source."""

from __future__ import annotations

import ast
import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.api.endpoint import missing_code
from app.api.errors import STATUS_OF_KIND
from app.api.table import ROUTES
from app.kernel.errors import ErrorKind

APP = Path(__file__).resolve().parents[2] / "app"
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Codes that are made of values only a running server has; each is listed by another table of this module.
COMPUTED = {"missing_code"}
# Here a word of the vocabulary Reason is the code; the test of its table asks the function itself.
TABLED = {"app.domains.retrieval.errors.access_refused"}
# A code that a function makes of a state which its caller has narrowed.
NARROWED = {"app.domains.repository.errors.content_gone": ("CONTENT_REDACTED", "CONTENT_COLLECTED")}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands: its module, and the function around it, if any."""

    module: str
    function: Function | None


class UnreadableCodeError(AssertionError):
    """A code that this reader cannot follow to a text; write it out where the error is made."""


@cache
def module_tree(module: str) -> ast.Module:
    """Return the syntax tree of an `app.` module."""
    path = APP.parent.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def module_names() -> tuple[str, ...]:
    """Return every module of the product."""
    return tuple(
        ".".join(path.relative_to(APP.parent).with_suffix("").parts)
        for path in sorted(APP.rglob("*.py"))
        if path.name != "__init__.py"
    )


@cache
def places(module: str) -> tuple[tuple[Place, ast.Call], ...]:
    """Return every call of a module with the place it stands in."""
    found: list[tuple[Place, ast.Call]] = []

    def walk(node: ast.AST, function: Function | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                found.append((Place(module, function), child))
            walk(child, child if isinstance(child, Function) else function)

    walk(module_tree(module), None)
    return tuple(found)


@cache
def imported(module: str) -> dict[str, str]:
    """Return what each name of a module was imported from, dotted."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(module_tree(module))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def origin(module: str, node: ast.expr) -> str | None:
    """Return the dotted origin of a name or of a member of an imported module or class."""
    if isinstance(node, ast.Name):
        return imported(module).get(node.id, f"{module}.{node.id}")
    if isinstance(node, ast.Attribute):
        outer = origin(module, node.value)
        return None if outer is None else f"{outer}.{node.attr}"
    return None


def error_codes() -> dict[str, set[int]]:
    """Return every code that an error of the product carries, with the statuses it is answered with."""
    codes: dict[str, set[int]] = {}
    for route in ROUTES:
        for name in route.path_parameters:
            codes.setdefault(missing_code(route, name), set()).add(404)
    for module in module_names():
        for place, call in places(module):
            for status, code in _of_call(place, call):
                codes.setdefault(code, set()).add(status)
    return codes


def _of_call(place: Place, call: ast.Call) -> Iterator[tuple[int, str]]:
    if len(call.args) < 2:
        return
    name = (origin(place.module, call.func) or "").rpartition(".")[2] or last_name(call.func)
    if name == "HttpRefusal" and isinstance(call.args[0], ast.Constant):
        for code in _texts(call.args[1], place):
            yield int(call.args[0].value), code
    elif name == "HocError" or (name.endswith("__init__") and "ErrorKind" in ast.unparse(call.args[0])):
        yield from _pairs(call.args[0], call.args[1], place, seen=())


def _pairs(kind: ast.expr, code: ast.expr, place: Place, seen: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield kind and code together; where a function takes them as parameters, those of its callers."""
    parameters = _parameters(place.function)
    outer = {p for p in parameters if p in _free_names(kind) | _free_names(code)}
    if place.function is not None and outer:
        label = f"{place.module}.{place.function.name}"
        if label in TABLED:
            return
        if label in NARROWED:
            yield from itertools.product(_statuses(kind, place), NARROWED[label])
            return
        if label in seen:
            return
        for caller, call in _callers(place):
            given = _bound(place.function, call)
            yield from _pairs(_substituted(kind, given), _substituted(code, given), caller, (*seen, label))
        return
    yield from itertools.product(_statuses(kind, place), _texts(code, place))


def _statuses(kind: ast.expr, place: Place) -> set[int]:
    if isinstance(kind, ast.Attribute) and ast.unparse(kind.value) == "ErrorKind":
        return {STATUS_OF_KIND[ErrorKind[kind.attr]]}
    if isinstance(kind, ast.Attribute) and kind.attr == "kind":
        return set()  # an error handed on: it is counted where it is made
    if isinstance(kind, ast.Call):
        return set()  # an error read back from its stored form
    raise UnreadableCodeError(f"{place.module}: cannot follow the kind {ast.unparse(kind)}")


def _texts(code: ast.expr, place: Place) -> set[str]:
    if isinstance(code, ast.Constant):
        return {str(code.value)}
    if isinstance(code, ast.IfExp):
        return _texts(code.body, place) | _texts(code.orelse, place)
    if isinstance(code, ast.JoinedStr):
        parts = [_piece(value, place) for value in code.values]
        return {"".join(chosen) for chosen in itertools.product(*parts)}
    if isinstance(code, ast.Attribute):
        return _of_attribute(code, place)
    if isinstance(code, ast.Subscript):
        return set()  # an error read back from its stored form
    if isinstance(code, ast.Call) and ast.unparse(code.func) in COMPUTED:
        return set()
    if isinstance(code, ast.Name):
        return _of_name(code, place)
    raise UnreadableCodeError(f"{place.module}:{code.lineno}: cannot follow the code {ast.unparse(code)}")


def _piece(value: ast.expr, place: Place) -> set[str]:
    if isinstance(value, ast.FormattedValue):
        if "__name__" in ast.unparse(value.value):
            return {"<Class>"}
        return _texts(value.value, place)
    return _texts(value, place)


def _of_attribute(code: ast.Attribute, place: Place) -> set[str]:
    if code.attr == "code":
        return set()  # an error handed on
    if code.attr == "value":
        return _texts(code.value, place)
    found = _value_of(origin(place.module, code))
    if found is None:
        raise UnreadableCodeError(f"{place.module}:{code.lineno}: cannot follow {ast.unparse(code)}")
    return found


def _of_name(code: ast.Name, place: Place) -> set[str]:
    if place.function is not None:
        assigned = [
            node.value
            for node in ast.walk(place.function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == code.id
        ]
        if assigned:
            return set().union(*(_texts(value, place) for value in assigned))
    found = _value_of(origin(place.module, code))
    if found is None:
        raise UnreadableCodeError(f"{place.module}:{code.lineno}: cannot follow {code.id}")
    return found


def _value_of(dotted: str | None) -> set[str] | None:
    """Return the text of a module constant or of a member of a vocabulary."""
    head, _, name = (dotted or "").rpartition(".")
    outer, _, owner = head.rpartition(".")
    for module, path in ((head, (name,)), (outer, (owner, name))):
        if not module.startswith("app."):
            continue
        try:
            value: object = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in path:
            value = getattr(value, part, None)
        if isinstance(value, str):
            return {str(value)}
    return None


def _parameters(function: Function | None) -> list[str]:
    if function is None:
        return []
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def _free_names(node: ast.expr) -> set[str]:
    if isinstance(node, ast.Attribute) and node.attr in ("code", "kind"):
        return set()
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _callers(place: Place) -> Iterator[tuple[Place, ast.Call]]:
    """Yield the calls of the function of a place, or of its class when it is a constructor."""
    assert place.function is not None
    name = place.function.name
    if name == "__init__":
        name = next(
            node.name
            for node in ast.walk(module_tree(place.module))
            if isinstance(node, ast.ClassDef) and place.function in node.body
        )
    yield from _calls().get(f"{place.module}.{name}", ())


@cache
def _calls() -> dict[str, list[tuple[Place, ast.Call]]]:
    """Return every call of the product under what it calls."""
    found: dict[str, list[tuple[Place, ast.Call]]] = {}
    for module in module_names():
        for caller, call in places(module):
            if called := origin(module, call.func):
                found.setdefault(called, []).append((caller, call))
    return found


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name; an empty text for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _bound(function: Function, call: ast.Call) -> dict[str, ast.expr]:
    names = [a.arg for a in function.args.args if a.arg != "self"]
    given = dict(zip(names, call.args, strict=False))
    return given | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


class _Substitution(ast.NodeTransformer):
    def __init__(self, given: dict[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace a parameter by what a caller gives for it."""
        return self.given.get(node.id, node)


def _substituted(node: ast.expr, given: dict[str, ast.expr]) -> ast.expr:
    copied = ast.parse(ast.unparse(node), mode="eval").body
    replaced: ast.expr = _Substitution(given).visit(copied)
    return ast.fix_missing_locations(replaced)
