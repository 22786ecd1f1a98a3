"""Gate: the import contracts of pyproject.toml, checked by import-linter's own contract types."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_imports
import grimp
from gate import BACKEND, Gate, GateError, Tree, Violation, clean_or_not, run
from importlinter import Contract
from importlinter.api import read_configuration
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract
from importlinter.contracts.protected import ProtectedContract

PYPROJECT = BACKEND.parent / "pyproject.toml"
TYPES: dict[str, type[Contract]] = {
    contract.type_name: contract
    for contract in (
        AcyclicSiblingsContract,
        ForbiddenContract,
        IndependenceContract,
        LayersContract,
        ProtectedContract,
    )
}
# Options that name modules. A tree that lacks one gets it empty, so that parts of the product can be checked.
MODULE_OPTIONS = (
    "containers",
    "source_modules",
    "forbidden_modules",
    "protected_modules",
    "allowed_importers",
    "modules",
    "ancestors",
)

Link = tuple[str, str]


def check(tree: Tree) -> Iterator[Violation]:
    """Yield one violation per import that breaks a contract, at the importing line."""
    tree.select("app/*.py", least=1)
    try:
        configuration = read_configuration(str(PYPROJECT))
    except (FileNotFoundError, KeyError) as error:
        raise GateError(f"no import contracts in {PYPROJECT}: {error}") from error
    contracts = configuration["contracts_options"]
    if not contracts:
        raise GateError(f"no import contracts in {PYPROJECT}")
    graph = gate_imports.build_graph(tree)
    for options in contracts:
        yield from check_contract(tree, graph, options, configuration["session_options"])


def check_contract(
    tree: Tree, graph: grimp.ImportGraph, options: dict[str, Any], session: dict[str, Any]
) -> Iterator[Violation]:
    """Yield what one contract refuses."""
    own = copy.deepcopy(graph)  # contracts may change the graph they are given
    for name in _named_modules(options):
        if name not in own.modules:
            own.add_module(name, is_squashed=name.partition(".")[0] != gate_imports.PACKAGE)
    contract = TYPES[options["type"]](options["name"], session, options)
    result = contract.check(own, verbose=False)
    if result.kept:
        return
    rule, name = options.get("id", "LAYER-000"), options["name"]
    reported = False
    for chain in _broken(result.metadata):
        importer, imported = chain[0]
        module = gate_imports.module_at(tree, importer)
        path = module.path if module else tree.root / "app"
        way = f" (through {' -> '.join(link[1] for link in chain[:-1])})" if len(chain) > 1 else ""
        text = f"{importer} imports {chain[-1][1]}{way}; contract: {name}"
        reported = True
        yield Violation(path, gate_imports.line_of(graph, importer, imported), rule, text)
    for undeclared in sorted(result.metadata.get("undeclared_modules", ())):
        module = gate_imports.module_at(tree, undeclared)
        path = module.path if module else tree.root / undeclared.replace(".", "/")
        reported = True
        yield Violation(
            path, 1, rule, f"{undeclared} has no place in the layers; move it into one; contract: {name}"
        )
    if not reported:
        raise GateError(f"contract {name} is broken in a way this gate cannot show; run lint-imports")


def _named_modules(options: dict[str, Any]) -> Iterator[str]:
    for option in MODULE_OPTIONS:
        yield from (name for name in options.get(option, ()) if "*" not in name)


def _broken(metadata: dict[str, Any]) -> Iterator[list[Link]]:
    """Yield each illegal chain of imports, whichever contract type found it."""
    for found in metadata.get("invalid_dependencies", ()):  # layers
        for route in found["routes"]:
            yield from _routes(route)
    for found in metadata.get("invalid_chains", ()):  # forbidden, independence
        for chain in found["chains"]:
            yield from _routes(chain)
    for broken in metadata.get("illegal_imports", ()):  # protected
        for link in broken.illegal_links:
            yield [(link["importer"], link["imported"])]
    for breakers in metadata.get("cycle_breakers_by_package", {}).values():
        for link in sorted(breakers):
            yield [link]


def _routes(route: Any) -> Iterable[list[Link]]:
    chain = route["chain"] if isinstance(route, dict) else route
    links = [(link["importer"], link["imported"]) for link in chain]
    yield links
    if isinstance(route, dict):
        # import-linter folds routes with a common middle into one; each first import is a place to mend.
        for extra in route.get("extra_firsts", ()):
            yield [(extra["importer"], extra["imported"]), *links[1:]]


GATE = Gate("check_layer_boundaries", "LAYER", "Check the import contracts.", check, clean_or_not)

if __name__ == "__main__":
    sys.exit(run(GATE))
