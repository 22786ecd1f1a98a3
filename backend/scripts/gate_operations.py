"""Gates: the operations that handler modules declare in OPERATIONS, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from gate import Module
from gate_names import assigned, called, literal

POSITIONAL = ("name", "owner", "mode", "scope", "input", "output", "handler", "version", "door")
MODES = ("read", "write")

Arguments = dict[str, ast.expr]


@dataclass(slots=True)
class Operation:
    """One declared operation: its arguments, those that its slice gives among them."""

    module: Module
    node: ast.Call
    given: Arguments = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """Return a literal argument."""
        return literal(self.given.get(name))

    @property
    def name(self) -> str:
        return self.text("name") or "?"

    @property
    def handler(self) -> str | None:
        """Return the name of the handler function, when it is given by name."""
        handler = self.given.get("handler")
        return handler.id if isinstance(handler, ast.Name) else None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An element of OPERATIONS that is no readable declaration."""

    node: ast.expr


def module_names(module: Module) -> dict[str, ast.expr]:
    """Return what the names of a module are assigned at its top level, the last value of each."""
    return {name: value for node in module.tree.body for name, value in assigned(node)}


def declared(module: Module) -> Iterator[Operation | Unreadable]:
    """Yield the operations of a handlers module, and what of OPERATIONS cannot be read as one."""
    named = module_names(module)
    value = named["OPERATIONS"]
    for element in value.elts if isinstance(value, ast.Tuple) else [value]:
        call = named.get(element.id, element) if isinstance(element, ast.Name) else element
        given = _read(call, named)
        if given is None or not isinstance(call, ast.Call):
            yield Unreadable(element)
        else:
            yield Operation(module, call, given)


def _read(call: ast.expr, named: dict[str, ast.expr]) -> Arguments | None:
    """Return the arguments of `Operation(...)`, or of `<OperationsOf>.read(...)` and `.write(...)`."""
    if not isinstance(call, ast.Call):
        return None
    if isinstance(call.func, ast.Name) and called(call) == "Operation":
        return _arguments(call, POSITIONAL, named)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        declaring, mode = named.get(call.func.value.id), call.func.attr
        if isinstance(declaring, ast.Call) and called(declaring) == "OperationsOf" and mode in MODES:
            return _of_slice(_arguments(declaring, ("owner", "area"), named), mode, call, named)
    return None


def _of_slice(of: Arguments, mode: str, call: ast.Call, named: dict[str, ast.expr]) -> Arguments:
    given = _arguments(call, ("name", "input", "output", "handler"), named)
    verb = literal(given.pop("verb", None)) or mode
    area = literal(of.get("area", of.get("owner")))
    scope = ast.Constant(f"{area}:{verb}")
    return {**given, "owner": of.get("owner", ast.Constant(None)), "mode": ast.Constant(mode), "scope": scope}


def _arguments(call: ast.Call, positional: tuple[str, ...], named: dict[str, ast.expr]) -> Arguments:
    given: Arguments = dict(zip(positional, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is not None:
            given[keyword.arg] = keyword.value
        else:
            given |= _spread(keyword.value, named)
    return {name: _constant(value, named) for name, value in given.items()}


def _spread(node: ast.expr, named: dict[str, ast.expr]) -> Arguments:
    """Return what `**NAME` adds, when NAME is a dict written out in the module."""
    value = named.get(node.id, node) if isinstance(node, ast.Name) else node
    if not isinstance(value, ast.Dict):
        return {}
    pairs = ((literal(key), item) for key, item in zip(value.keys, value.values, strict=True))
    return {key: item for key, item in pairs if key is not None}


def _constant(node: ast.expr, named: dict[str, ast.expr]) -> ast.expr:
    value = named.get(node.id) if isinstance(node, ast.Name) else None
    return value if isinstance(value, ast.Constant) else node
