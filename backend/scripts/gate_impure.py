"""Gates: what is no pure function of its arguments: clocks, random numbers, new ids, the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gate import Module
from gate_names import Names, attribute_uses, imports

MODULES = {"uuid": "makes ids", "random": "rolls dice", "secrets": "rolls dice", "numpy.random": "rolls dice"}
CALLS = {
    "time.time": "reads the clock",
    "time.time_ns": "reads the clock",
    "time.monotonic": "reads the clock",
    "time.monotonic_ns": "reads the clock",
    "time.perf_counter": "reads the clock",
    "time.perf_counter_ns": "reads the clock",
    "time.gmtime": "reads the clock",
    "time.localtime": "reads the clock",
    "time.sleep": "sleeps",
    "os.environ": "reads the environment",
    "os.environb": "reads the environment",
    "os.getenv": "reads the environment",
    "os.urandom": "rolls dice",
    "os.getpid": "reads the process",
}
NOW = {"now", "utcnow", "today", "current_timestamp", "current_time", "current_date", "localtimestamp",
       "clock_timestamp", "statement_timestamp", "transaction_timestamp", "sysdate"}  # fmt: skip
DATABASE_DICE = {"random", "gen_random_uuid", "uuid_generate_v4", "uuidv7", "randomblob"}
CLOCKS = ("datetime", "time", "app.kernel.clock")
IDS = {"app.kernel.ids.Uuid7Ids", "app.kernel.clock.SystemClock"}


def impure_uses(module: Module, names: Names, *, keys: bool = False) -> Iterator[tuple[ast.AST, str]]:
    """Yield (node, what it does) for each use of a clock, dice, fresh ids or the environment.

    With `keys` the module may import `secrets`: engines make key material, drivers never do.
    """
    for node, target in imports(module, names):
        for name, deed in {**MODULES, **CALLS}.items():
            if (target == name or target.startswith(name + ".")) and not (keys and name == "secrets"):
                yield node, f"imports {name}, which {deed}"
    for node in module.nodes:
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            yield from _named_deeds(node, names)
    for node, receiver, attribute in attribute_uses(module.tree):
        if attribute in NOW and not _is_column(receiver) and _tells_time(receiver, names):
            yield node, f"reads a clock (.{attribute})"
        elif attribute in DATABASE_DICE and _is_func(receiver, names):
            yield node, f"lets the database roll dice (func.{attribute})"


def _named_deeds(node: ast.Attribute | ast.Name, names: Names) -> Iterator[tuple[ast.AST, str]]:
    origins = names.all_origins(node)
    if isinstance(node, ast.Attribute):
        for name in sorted(origins & set(CALLS)):
            yield node, f"{CALLS[name]} ({name})"
    elif origins & IDS:
        yield node, f"makes its own clock or ids ({node.id})"


def _tells_time(receiver: ast.AST, names: Names) -> bool:
    # `now` as plain data (`row.now`, `request.now`) is a value handed in; that of a clock or datetime is not.
    if _is_func(receiver, names) or names.stands_for(receiver, *CLOCKS):
        return True
    return _named(receiver) in {"clock", "_clock", "Clock"}


def _is_func(receiver: ast.AST, names: Names) -> bool:
    return names.stands_for(receiver, "sqlalchemy.func", "sqlalchemy.sql.func") or _named(receiver) == "func"


def _named(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_column(receiver: ast.AST) -> bool:
    return isinstance(receiver, ast.Attribute) and receiver.attr in {"c", "columns"}
