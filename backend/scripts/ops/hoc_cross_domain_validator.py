"""Gate: no slice sees another slice, by any kind of import or by SQL, and no slice reaches up."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_imports
import gate_tables
import grimp
from gate import Gate, Module, Tree, Violation, clean_or_not, run
from gate_names import Names, dynamic_import, is_importer

DOMAINS = "app.domains"
BELOW = {"app.domains", "app.db", "app.kernel"}
MEND = "let a handler or coordinator of the spine bring the two together"


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every way in which a slice depends on another slice or on a layer above it."""
    modules = tree.select("app/domains/*.py", least=1)
    graph = gate_imports.build_graph(tree)
    slices = {
        gate_tables.slice_of(m) for m in modules if m.name.count(".") > 2 or m.path.name == "__init__.py"
    } - {""}
    yield from cross_imports(tree, graph, {f"{DOMAINS}.{name}" for name in slices})
    yield from upward_imports(tree, graph)
    tables = gate_tables.declared_tables(tree)
    for module in modules:
        if module.name.count(".") == 2 and module.path.name != "__init__.py":
            text = (
                "lies in no slice; every slice could share it. Move it into one slice, or into db or kernel"
            )
            yield module.violation(1, "XDOM-004", f"{module.name} {text}")
        names = module.names
        yield from hidden_imports(module, names)
        yield from named_slices(module, names)
        yield from foreign_tables(module, names, tables)


def cross_imports(tree: Tree, graph: grimp.ImportGraph, slices: set[str]) -> Iterator[Violation]:
    """Yield the imports, direct or through third modules, that lead from one slice to another."""
    for link, chain in _illegal(graph, [grimp.Layer(*slices, independent=True)]):
        rule = "XDOM-001" if len(chain) == 2 else "XDOM-002"
        yield _at(tree, graph, link, rule, f"{_way(chain)}: a slice imports another; {MEND}")


def upward_imports(tree: Tree, graph: grimp.ImportGraph) -> Iterator[Violation]:
    """Yield the imports that lead from a slice to a layer above the slices."""
    above = graph.find_children("app") - BELOW
    if not above:
        return
    for link, chain in _illegal(graph, [grimp.Layer(*above, independent=False), grimp.Layer(DOMAINS)]):
        yield _at(
            tree,
            graph,
            link,
            "XDOM-003",
            f"{_way(chain)}: a slice reaches up; take what it needs as an argument",
        )


def _illegal(
    graph: grimp.ImportGraph, layers: list[grimp.Layer]
) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for dependency in graph.find_illegal_dependencies_for_layers(layers=layers):
        for route in dependency.routes:
            for head in sorted(route.heads):
                chain = [head, *route.middle, min(route.tails)]
                yield (chain[0], chain[1]), chain


def _way(chain: list[str]) -> str:
    return " -> ".join(chain)


def _at(tree: Tree, graph: grimp.ImportGraph, link: tuple[str, str], rule: str, message: str) -> Violation:
    module = gate_imports.module_at(tree, link[0])
    path = module.path if module else tree.root / "app"
    return Violation(path, gate_imports.line_of(graph, *link), rule, message)


def hidden_imports(module: Module, names: Names) -> Iterator[Violation]:
    """Yield the imports whose target no reader can see."""
    for node in module.nodes:
        if isinstance(node, ast.Call) and is_importer(node, names) and dynamic_import(node, names) is None:
            text = "a dynamic import of a computed name cannot be checked; import the module by its name"
            yield module.violation(node, "XDOM-005", text)
        elif isinstance(node, ast.Attribute) and names.stands_for(node, "sys.modules"):
            yield module.violation(
                node, "XDOM-005", "sys.modules hides an import; import the module by its name"
            )


def named_slices(module: Module, names: Names) -> Iterator[Violation]:
    """Yield the texts that name a module of another slice, for whatever loads modules by name."""
    own = f"{DOMAINS}.{gate_tables.slice_of(module)}"
    literal_imports = {
        id(node.args[0])
        for node in module.nodes
        if isinstance(node, ast.Call) and node.args and is_importer(node, names)
    }
    for node in module.nodes:
        if not isinstance(node, ast.Constant) or id(node) in literal_imports:
            continue
        text = node.value if isinstance(node.value, str) else ""
        if re.fullmatch(r"app\.domains(\.\w+)+(:\w+)?", text) and not f"{text}.".startswith(f"{own}."):
            yield module.violation(node, "XDOM-005", f"names {text}, which hides an import; {MEND}")


def foreign_tables(module: Module, names: Names, tables: list[gate_tables.Table]) -> Iterator[Violation]:
    """Yield the places where a slice reaches another slice's table without importing it."""
    own = gate_tables.slice_of(module)
    foreign = [table for table in tables if table.slice not in {own, ""}]
    for call, sql in gate_tables.sql_texts(module):
        for table in foreign:
            if gate_tables.named_in(sql, table.name):
                text = f"SQL names the table {table.name} of slice {table.slice}; {MEND}"
                yield module.violation(call, "XDOM-006", text)
    for node in module.nodes:
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "tables"
            and names.stands_for(node.value, "app.db")
        ):
            yield module.violation(
                node, "XDOM-006", "metadata.tables holds every slice's tables; import your own table"
            )


GATE = Gate(
    "hoc_cross_domain_validator", "XDOM", "Check that slices do not see each other.", check, clean_or_not
)

if __name__ == "__main__":
    sys.exit(run(GATE))
