"""Gate: one linear chain of migrations that makes tables only as this product allows them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gate import Gate, GateError, Module, Tree, Violation, clean_or_not, run
from gate_names import imports, literal
from gate_probe import probe
from gate_tables import GLOBAL_TABLES

VERSIONS = "alembic/versions/*.py"
# Append-only beyond the governed APPEND and CHAINED tables: the log itself.
LOG_TABLES = {"log_leaves", "log_entries", "log_checkpoints", "log_cosignatures", "log_verifications"}
HARMFUL = re.compile(r"\bON\s+(DELETE|UPDATE)\s+(CASCADE|SET\s+NULL|SET\s+DEFAULT)\b", re.IGNORECASE)
CASCADE_WORDS = {"CASCADE", "SET NULL", "SET DEFAULT"}

Found = dict[str, Any]


def check(tree: Tree) -> Iterator[Violation]:
    """Yield what is wrong with the chain, with a single migration, and with the schema they make."""
    versions = tree.select(VERSIONS, least=1)
    chain_violations = list(chain(versions))
    yield from chain_violations
    for module in tree.select("alembic/*.py"):
        if module.relative != "alembic/env.py":
            yield from one_file(module)
    if any(v.rule == "MIG-001" for v in chain_violations):
        return  # a broken chain cannot be run
    try:
        found = probe(tree.root)
    except Exception as error:
        raise GateError(f"the migrations of {tree.root} cannot be run: {error}") from error
    for dialect in ("sqlite", "postgresql"):
        yield from schema(versions, dialect, found)


def chain(versions: list[Module]) -> Iterator[Violation]:
    """Yield breaks of the one linear chain: one base, one head, every revision named once."""
    seen: dict[str, Module] = {}
    followers: dict[str | None, Module] = {}
    for module in versions:
        facts = _assigned(module)
        revision, down = literal(facts.get("revision")), literal(facts.get("down_revision"))
        if (
            revision is None
            or "down_revision" not in facts
            or isinstance(facts["down_revision"], ast.Tuple | ast.List)
        ):
            text = "names no single revision and down_revision; write both as one text each"
            yield module.violation(1, "MIG-001", text)
            continue
        if revision in seen or not module.path.stem.startswith(f"{revision}_"):
            text = f"revision {revision} is taken or is not how the file name begins; renumber one of them"
            yield module.violation(facts["revision"], "MIG-001", text)
        if down in followers:
            other = followers[down].path.name
            text = f"follows {down} as {other} does: two heads; put one after the other"
            yield module.violation(facts["down_revision"], "MIG-001", text)
        seen[revision], followers[down] = module, module
        for name in ("branch_labels", "depends_on"):
            if name in facts and ast.unparse(facts[name]) != "None":
                text = f"{name} makes the chain a graph; leave it None"
                yield module.violation(facts[name], "MIG-001", text)
        defined = {node.name for node in module.tree.body if isinstance(node, ast.FunctionDef)}
        for name in sorted({"upgrade", "downgrade"} - defined):
            yield module.violation(1, "MIG-003", f"has no {name}(); every step goes up and down")
    for down, module in followers.items():
        if down is not None and down not in seen:
            text = f"follows {down}, which does not exist; name the revision before it"
            yield module.violation(_assigned(module)["down_revision"], "MIG-001", text)
    if None not in followers and followers:
        yield versions[0].violation(
            1, "MIG-001", "no migration begins the chain; the first has down_revision = None"
        )


def _assigned(module: Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({t.id: node.value for t in targets if isinstance(t, ast.Name)})
    return found


def one_file(module: Module) -> Iterator[Violation]:
    """Yield what a migration may not say: `app`, create_all, CASCADE."""
    for node, target in imports(module, module.names):
        if target.partition(".")[0] == "app":
            text = f"imports {target}; a migration is frozen history and says everything itself"
            yield module.violation(node, "MIG-002", text)
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and node.attr in {"create_all", "drop_all"}:
            yield module.violation(
                node, "MIG-009", f"{node.attr} follows the models of the day; name the tables"
            )
        elif isinstance(node, ast.keyword) and node.arg in {"ondelete", "onupdate"}:
            if (literal(node.value) or "").upper() in CASCADE_WORDS:
                text = f"{node.arg}={literal(node.value)} lets rows vanish or change unseen; use RESTRICT"
                yield module.violation(node.value, "MIG-004", text)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and HARMFUL.search(node.value):
            yield module.violation(node, "MIG-004", "CASCADE lets rows vanish or change unseen; use RESTRICT")


def schema(versions: list[Module], dialect: str, found: Found) -> Iterator[Violation]:
    """Yield what the migrated schema of one dialect lacks."""
    made: Found = found["schemas"][dialect]
    append_only = LOG_TABLES | {n for n, e in found["governed"].items() if e["mode"] in {"APPEND", "CHAINED"}}
    refusals = refused_events(made["statements"], dialect)
    for name, table in sorted(made["tables"].items()):
        place = _place(versions, name)
        if name in append_only:
            needed = {"UPDATE", "DELETE"} | ({"TRUNCATE"} if dialect == "postgresql" else set())
            for event in sorted(needed - refusals.get(name, set())):
                text = (
                    f"{name} is append-only and no trigger refuses {event} on {dialect}; call append_only()"
                )
                yield Violation(*place, "MIG-005", text)
        for key in table["foreign"]:
            if (key["ondelete"] or "").upper() in CASCADE_WORDS:
                yield Violation(
                    *place, "MIG-004", f"{name}: a foreign key cascades on {dialect}; use RESTRICT"
                )
        if name in GLOBAL_TABLES:
            continue
        if table["key"][:1] != ["tenant_id"]:
            text = f"the primary key of {name} does not begin with tenant_id on {dialect}; put it first"
            yield Violation(*place, "MIG-007", text)
        for key in table["foreign"]:
            if "tenant_id" not in key["columns"]:
                text = f"a foreign key of {name} to {key['table']} carries no tenant_id; make it composite"
                yield Violation(*place, "MIG-008", text)
        if dialect == "postgresql":
            yield from row_security(name, made["statements"], place)


def row_security(name: str, statements: list[str], place: tuple[Path, int]) -> Iterator[Violation]:
    """Yield the parts of forced row security that a tenant table lacks on PostgreSQL."""
    table = rf"{re.escape(name)}(?!\w)"
    parts = {
        "ENABLE ROW LEVEL SECURITY": rf"ALTER\s+TABLE\s+{table}\s+ENABLE\s+ROW\s+LEVEL\s+SECURITY",
        "FORCE ROW LEVEL SECURITY": rf"ALTER\s+TABLE\s+{table}\s+FORCE\s+ROW\s+LEVEL\s+SECURITY",
        "a policy on hoc.tenant_id": rf"CREATE\s+POLICY\s+\w+\s+ON\s+{table}.*hoc\.tenant_id",
    }
    for part, pattern in parts.items():
        if not any(re.search(pattern, statement, re.IGNORECASE | re.DOTALL) for statement in statements):
            yield Violation(*place, "MIG-006", f"{name} lacks {part}; call row_level_security()")


def refused_events(statements: list[str], dialect: str) -> dict[str, set[str]]:
    """Return which of UPDATE, DELETE and TRUNCATE the triggers that stand at the end refuse, by table."""
    raising = {m[1] for s in statements if "RAISE EXCEPTION" in s and (m := _function.search(s))}
    triggers: dict[tuple[str, str], set[str]] = {}
    for statement in statements:
        dropped = _drop_trigger.search(statement)
        if dropped:
            triggers = {key: events for key, events in triggers.items() if key[0] != dropped[1]}
        made = _trigger.search(statement)
        if not made:
            continue
        function = _executes.search(statement)
        refuses = (
            "RAISE(ABORT" in statement if dialect == "sqlite" else bool(function and function[1] in raising)
        )
        # A trigger OF some columns, or WHEN some condition, refuses a part of the event. Append-only tables
        # with erasable members need such a condition; theirs are known by the names that append_only() gives.
        whole = " OF " not in made[2].upper() and not re.search(r"FOR EACH ROW\s+WHEN\b", statement)
        if refuses and (whole or made[1] in {f"{made[3]}_no_update", f"{made[3]}_no_delete"}):
            triggers[made[1], made[3]] = set(re.findall(r"UPDATE|DELETE|TRUNCATE", made[2].upper()))
    by_table: dict[str, set[str]] = {}
    for (_name, table), events in triggers.items():
        by_table.setdefault(table, set()).update(events)
    return by_table


_function = re.compile(r"CREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+(\w+)", re.IGNORECASE)
_trigger = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?TRIGGER\s+(\w+)\s+BEFORE\s+([\w\s,]+?)\s+ON\s+(\w+)",
    re.IGNORECASE,
)
_drop_trigger = re.compile(r"DROP\s+TRIGGER\s+(?:IF\s+EXISTS\s+)?(\w+)", re.IGNORECASE)
_executes = re.compile(r"EXECUTE\s+(?:FUNCTION|PROCEDURE)\s+(\w+)", re.IGNORECASE)


def _place(versions: list[Module], name: str) -> tuple[Path, int]:
    """Return the line of the migration that first names a table."""
    for module in versions:
        for number, line in enumerate(module.source.splitlines(), start=1):
            if f'"{name}"' in line:
                return module.path, number
    return versions[0].path, 1


GATE = Gate("alembic_migration_audit", "MIG", "Check the chain of migrations and the schema it makes.", check,
            clean_or_not, ("app", "alembic"))  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(GATE))
