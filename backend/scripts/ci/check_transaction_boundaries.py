"""Gate: commit, rollback, begin and savepoint are said in hoc_spine/transactions.py and nowhere else."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gate_tables
from gate import Gate, Module, Tree, Violation, clean_or_not, run
from gate_names import COMPUTED, attribute_uses

OWNER = "app/hoc_spine/transactions.py"
WORDS = {"commit", "rollback", "begin", "begin_nested", "begin_twophase", "savepoint"}
SPOKEN = re.compile(
    r"^\s*(BEGIN|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|START\s+TRANSACTION|PREPARE\s+TRANSACTION)\b[\w\s;]*$",
    re.IGNORECASE,
)
CONNECTION = re.compile(r"conn|session|transaction|unit\b", re.IGNORECASE)
MEND = f"only {OWNER} owns transactions; ask it, or use ctx.savepoint() in a handler"


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every word of a transaction said outside the one module that owns them."""
    for module in tree.select("app/*.py", least=1):
        if module.relative != OWNER:
            yield from spoken_in(module)


def spoken_in(module: Module) -> Iterator[Violation]:
    """Yield the transaction words of one module: attributes on any receiver, imports, textual SQL."""
    for node, receiver, word in attribute_uses(module.tree):
        if word in WORDS and not _allowed(module, receiver, word):
            yield module.violation(node, "TXN-001", f"says {word}; {MEND}")
        elif word == COMPUTED and CONNECTION.search(ast.unparse(receiver)):
            yield module.violation(node, "TXN-001", f"computes what it asks of a connection; {MEND}")
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom):
            for item in node.names:
                if item.name in WORDS:
                    yield module.violation(node, "TXN-001", f"imports {item.name}; {MEND}")
        elif isinstance(node, ast.keyword) and node.arg == "isolation_level" and _inside(module):
            yield module.violation(node.value, "TXN-003", f"sets isolation_level; {MEND}")
    for call, sql in gate_tables.sql_texts(module):
        if SPOKEN.match(sql):
            yield module.violation(call, "TXN-002", f"executes {sql.split()[0].upper()} as text; {MEND}")


def _allowed(module: Module, receiver: ast.AST, word: str) -> bool:
    """Let the spine ask the owner for a savepoint (`ctx.savepoint()`, `transactions.savepoint(...)`).

    A column may bear any name.
    """
    if isinstance(receiver, ast.Attribute) and receiver.attr in {"c", "columns"}:
        return True
    name = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "")
    return (
        word == "savepoint"
        and module.relative.startswith("app/hoc_spine/")
        and name in {"ctx", "transactions"}
    )


def _inside(module: Module) -> bool:
    # Building an engine (db, connectors) may name its isolation level; a statement or connection may not.
    return not module.relative.startswith(("app/db/", "app/connectors/"))


GATE = Gate(
    "check_transaction_boundaries", "TXN", "Check who says begin, commit and rollback.", check, clean_or_not
)

if __name__ == "__main__":
    sys.exit(run(GATE))
