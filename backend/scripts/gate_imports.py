"""Gates: the import graph of the tree under check, built by grimp, literal dynamic imports added."""

from __future__ import annotations

import sys

import grimp
from gate import GateError, Module, Tree
from gate_names import imports

PACKAGE = "app"


def build_graph(tree: Tree) -> grimp.ImportGraph:
    """Return the graph of `app` below the root, external packages squashed; raise GateError when it fails."""
    # grimp looks the package up on the import path and executes nothing of it. The path is the checked tree
    # alone: a tree without app/__init__.py would lose to any other `app` on the path.
    before, loaded = sys.path[:], sys.modules.pop(PACKAGE, None)
    sys.path[:] = [str(tree.root)]
    try:
        graph = grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)
    except Exception as error:
        raise GateError(f"the import graph of {tree.root / PACKAGE} cannot be built: {error}") from error
    finally:
        sys.path[:] = before
        if loaded is not None:
            sys.modules[PACKAGE] = loaded
    # grimp leaves out folders without __init__.py inside packages, and imports by import_module("literal").
    inside = [module for module in tree.modules.values() if module.name.partition(".")[0] == PACKAGE]
    unseen = {module.name for module in inside} - graph.modules
    for name in sorted(unseen):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            graph.add_module(".".join(parts[:length]))
    for module in inside:
        _add_imports(graph, module, every=module.name in unseen)
    return graph


def _add_imports(graph: grimp.ImportGraph, module: Module, *, every: bool) -> None:
    lines = module.source.splitlines()
    for node, target in imports(module, module.names):
        imported = _known(graph, target)
        if imported is None or imported == module.name:
            continue
        if every or imported not in graph.find_modules_directly_imported_by(module.name):
            number = getattr(node, "lineno", 1)
            graph.add_import(
                importer=module.name,
                imported=imported,
                line_number=number,
                line_contents=lines[number - 1].strip() if number <= len(lines) else "",
            )


def _known(graph: grimp.ImportGraph, target: str) -> str | None:
    """Return the module a dotted name means: the longest known prefix inside the package, else the root."""
    parts = target.split(".")
    if parts[0] != PACKAGE:
        if parts[0] not in graph.modules:
            graph.add_module(parts[0], is_squashed=True)
        return parts[0]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in graph.modules:
            return name
    return None


def line_of(graph: grimp.ImportGraph, importer: str, imported: str) -> int:
    """Return the line of the first import of `imported` in `importer`."""
    details = graph.get_import_details(importer=importer, imported=imported)
    return min((detail["line_number"] for detail in details), default=1)


def module_at(tree: Tree, name: str) -> Module | None:
    """Return the file of a dotted module name."""
    stem = name.replace(".", "/")
    return tree.modules.get(f"{stem}.py") or tree.modules.get(f"{stem}/__init__.py")
