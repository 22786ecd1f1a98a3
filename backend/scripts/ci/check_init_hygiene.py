"""Gate: `__init__.py` files hold nothing but honest re-exports, and packages are where they belong."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gate import PREFIXES, Gate, Module, Tree, Violation, run
from gate_imports import module_at
from gate_names import absolute, literal

NO_PACKAGES = ("alembic", "scripts")


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every unclean `__init__.py`, missing or misplaced package, and suppression of an unknown rule."""
    tree.select("app/*.py", least=1)
    for module in tree.select("app/__init__.py", "app/*/__init__.py"):
        yield from statements(tree, module)
    yield from missing_packages(tree)
    yield from misplaced_packages(tree)
    yield from links(tree)
    for suppression in tree.suppressions():
        if suppression.prefix not in PREFIXES:
            text = f"no gate has a rule {suppression.rule}; name one of {', '.join(sorted(PREFIXES))}"
            yield Violation(suppression.path, suppression.line, "INIT-008", text)


def statements(tree: Tree, module: Module) -> Iterator[Violation]:
    """Yield each statement of an `__init__.py` that is more than a docstring or a re-export."""
    bound: set[str] = set()
    exported: set[str] | None = None
    imported: list[tuple[ast.ImportFrom, ast.alias]] = []
    for position, node in enumerate(module.tree.body):
        if isinstance(node, ast.Expr) and position == 0 and literal(node.value) is not None:
            continue
        if isinstance(node, ast.ImportFrom):
            if node.module != "__future__":
                yield from _reexport(tree, module, node)
                imported += [(node, item) for item in node.names]
                bound |= {item.asname or item.name for item in node.names}
        elif isinstance(node, ast.Import):
            text = "imports a module for its effects; import it where it is used"
            yield module.violation(node, "INIT-002", text)
        elif (names := _exports(node)) is not None:
            exported = names
        else:
            yield module.violation(node, "INIT-001", "holds logic; move it into a module with a name")
    yield from _exported_and_bound(module, exported, bound, imported)


def _exported_and_bound(
    module: Module,
    exported: set[str] | None,
    bound: set[str],
    imported: list[tuple[ast.ImportFrom, ast.alias]],
) -> Iterator[Violation]:
    for name in sorted((exported or set()) - bound):
        yield module.violation(
            1, "INIT-004", f"__all__ names {name}, which is not imported here; delete the entry"
        )
    for node, item in imported:
        kept = item.asname == item.name or (item.asname or item.name) in (exported or set())
        if item.name != "*" and not kept:
            text = (
                f"imports {item.name} without exporting it; list it in __all__ or import it where it is used"
            )
            yield module.violation(node, "INIT-002", text)


def _reexport(tree: Tree, module: Module, node: ast.ImportFrom) -> Iterator[Violation]:
    source = absolute(module, node.level, node.module)
    for item in node.names:
        if item.name == "*":
            text = "re-exports everything of a module; name what is exported"
            yield module.violation(node, "INIT-003", text)
        elif source is None or not _exists(tree, source, item.name):
            text = f"re-exports {item.name}, which {source} does not define; delete the line"
            yield module.violation(node, "INIT-004", text)


def _exists(tree: Tree, source: str, name: str) -> bool:
    if source.partition(".")[0] != "app":
        return True
    module = module_at(tree, source)
    if module is None:
        return False
    if module_at(tree, f"{source}.{name}") is not None:
        return True
    return name in {found for node in module.nodes for found in _binds(node)}


def _binds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (item.asname or item.name.partition(".")[0] for item in node.names)
    elif isinstance(node, getattr(ast, "TypeAlias", ())):
        yield str(getattr(getattr(node, "name", None), "id", ""))


def _exports(node: ast.stmt) -> set[str] | None:
    """Return the names of an `__all__ = [...]` of literals, or None for any other statement."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.List | ast.Tuple):
        return None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [literal(element) for element in node.value.elts]
    if [getattr(target, "id", "") for target in targets] != ["__all__"] or None in names:
        return None
    return {name for name in names if name is not None}


def missing_packages(tree: Tree) -> Iterator[Violation]:
    """Yield each folder under `app/` that holds Python, in it or below it, and is no package."""
    folders = {p for key in tree.modules if key.startswith("app/") for p in Path(key).parents} - {Path()}
    for folder in sorted(folders):
        if f"{folder.as_posix()}/__init__.py" not in tree.modules:
            text = "holds Python and is no package; add an empty __init__.py"
            yield Violation(tree.root / folder / "__init__.py", 1, "INIT-005", f"{folder.as_posix()}/ {text}")
        if f"{folder.as_posix()}.py" in tree.modules:
            text = f"is shadowed by the package {folder.as_posix()}/; rename one"
            yield Violation(tree.root / f"{folder}.py", 1, "INIT-009", f"{folder.as_posix()}.py {text}")


def misplaced_packages(tree: Tree) -> Iterator[Violation]:
    """Yield each `__init__.py` where none may be: `alembic/` would shadow the library."""
    for module in tree.select(*(f"{folder}/*__init__.py" for folder in NO_PACKAGES)):
        folder = Path(module.relative).parent.as_posix()
        yield module.violation(1, "INIT-006", f"{folder}/ must be no package; delete the file")


def links(tree: Tree) -> Iterator[Violation]:
    """Yield each symbolic link under `app/`: it would give one module two names."""
    for folder, names, files in os.walk(tree.root / "app"):
        for name in sorted([*names, *files]):
            path = Path(folder, name)
            if path.is_symlink():
                yield Violation(
                    path, 1, "INIT-007", "is a symbolic link; a module has one place and one name"
                )


def verdict(blocking: int, advisory: int) -> str:
    """Word the last line."""
    return f"{blocking + advisory} blocking violations"


GATE = Gate("check_init_hygiene", "INIT", "Check packages and their __init__.py.", check, verdict,
            ("app", "alembic", "scripts"))  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(GATE))
