"""Gates: the operations that handler modules declare in OPERATIONS, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from gate import Module
from gate_names import assigned, called, literal

POSITIONAL = ("name", "owner", "mode", "scope", "input", "output", "handler", "version", "door")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Arguments = dict[str, ast.expr]


@dataclass(slots=True)
class Operation:
    """One declared operation: its arguments as written, helpers of the module taken apart."""

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


class Unreadable(Exception):
    """Point at an element of OPERATIONS that is no readable declaration."""

    def __init__(self, node: ast.expr) -> None:
        super().__init__()
        self.node = node


def module_names(module: Module) -> dict[str, ast.expr]:
    """Return what the names of a module are assigned at its top level, the last value of each."""
    return {name: value for node in module.tree.body for name, value in assigned(node)}


def declared(module: Module) -> Iterator[Operation | Unreadable]:
    """Yield the operations of a handlers module, and what of OPERATIONS cannot be read as one."""
    named = module_names(module)
    helpers = {node.name: node for node in module.tree.body if isinstance(node, Function)}
    value = named["OPERATIONS"]
    for element in value.elts if isinstance(value, ast.Tuple) else [value]:
        call = named.get(element.id, element) if isinstance(element, ast.Name) else element
        try:
            given = _read(call, named, helpers)
        except Unreadable:
            yield Unreadable(element)
            continue
        yield Operation(module, call, given) if isinstance(call, ast.Call) else Unreadable(element)


def _read(call: ast.expr, named: dict[str, ast.expr], helpers: dict[str, Function]) -> Arguments:
    if not isinstance(call, ast.Call):
        raise Unreadable(call)
    if called(call) == "Operation":
        return _arguments(call, POSITIONAL, named)
    helper = helpers.get(called(call))
    returned = [n.value for n in ast.walk(helper) if isinstance(n, ast.Return)] if helper else []
    if helper is None or len(returned) != 1 or not isinstance(returned[0], ast.Call):
        raise Unreadable(call)
    return _through_helper(call, helper, returned[0], named)


def _through_helper(
    call: ast.Call, helper: Function, body: ast.Call, named: dict[str, ast.expr]
) -> Arguments:
    """Return the arguments of the Operation that a one-line helper makes of its own arguments."""
    if called(body) != "Operation":
        raise Unreadable(call)
    parameters = [a.arg for a in (*helper.args.posonlyargs, *helper.args.args)]
    passed = _arguments(call, tuple(parameters), named)
    defaults = dict(zip(reversed(parameters), reversed(helper.args.defaults), strict=False))
    defaults |= {
        a.arg: d
        for a, d in zip(helper.args.kwonlyargs, helper.args.kw_defaults, strict=True)
        if d is not None
    }
    bound = {**defaults, **passed}
    known = {*parameters, *(a.arg for a in helper.args.kwonlyargs)}
    given: Arguments = {}
    for name, value in _arguments(body, POSITIONAL, named, keep=helper.args.kwarg).items():
        given[name] = bound.get(value.id, value) if isinstance(value, ast.Name) else value
    if helper.args.kwarg:
        given |= {name: value for name, value in passed.items() if name not in known}
    return {name: _constant(value, named) for name, value in given.items()}


def _arguments(
    call: ast.Call, positional: tuple[str, ...], named: dict[str, ast.expr], *, keep: ast.arg | None = None
) -> Arguments:
    given: Arguments = dict(zip(positional, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is not None:
            given[keyword.arg] = keyword.value
        elif not (keep and isinstance(keyword.value, ast.Name) and keyword.value.id == keep.arg):
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
