"""The audit ledger has one writer with one signature, and every event of its vocabulary an operation."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from app.domains.logs.models.ledger import (
    AUDIT_EVENTS,
    EVENT_TYPES,
)
from app.hoc_spine.operation_context import OperationContext

APP = Path(__file__).resolve().parents[2] / "app"


@cache
def trees() -> dict[str, ast.Module]:
    """Return what could have to do with the ledger; parsing the rest takes seconds."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(APP.rglob("*.py"))}
    return {
        path.relative_to(APP).as_posix(): ast.parse(text)
        for path, text in texts.items()
        if "hoc_spine" in path.parts or "audit" in text or "append_entries" in text
    }


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of a function or method of this name, with the file it stands in."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name == (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            ):
                yield path, node


def test_every_writer_of_an_entry_uses_the_one_signature() -> None:
    signature = inspect.signature(OperationContext.audit)
    assert list(signature.parameters) == [
        "self",
        "event_type",
        "entity_type",
        "entity_id",
        "before",
        "after",
        "reason",
        "run_id",
    ]
    found = list(calls("audit"))
    assert len(found) > 30
    for path, call in found:
        assert path.startswith(("hoc_spine/handlers/", "hoc_spine/coordinators/")), path
        assert isinstance(call.func, ast.Attribute), path
        assert ast.unparse(call.func.value) == "ctx", f"{path}:{call.lineno}"
        assert not any(isinstance(value, ast.Starred) for value in call.args), f"{path}:{call.lineno}"
        keywords = {keyword.arg or "**" for keyword in call.keywords}
        assert "**" not in keywords, f"{path}:{call.lineno}"
        signature.bind("self", *call.args, **dict.fromkeys(keywords))


def test_nothing_else_writes_the_ledger() -> None:
    writers = {path for path, _ in calls("append_entries")}
    assert writers == {"hoc_spine/execution.py"}
    inserting = {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("insert", "update", "delete")
        and ast.unparse(node.value) == "audit_ledger"
    }
    assert inserting == {"domains/logs/drivers/ledger.py"}


def test_every_event_of_the_vocabulary_is_written_somewhere() -> None:
    said = {
        node.value
        for path, tree in trees().items()
        if path.startswith(("hoc_spine/handlers/", "hoc_spine/coordinators/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(EVENT_TYPES) - said == set()


def test_an_event_belongs_to_the_entities_that_list_it() -> None:
    shared = {
        event: [entity for entity, events in AUDIT_EVENTS.items() if event in events] for event in EVENT_TYPES
    }
    assert {event: entities for event, entities in shared.items() if len(entities) > 1} == {
        "EmergencyOverrideActivated": ["TENANT", "SYSTEM"],
        "EmergencyOverrideDeactivated": ["TENANT", "SYSTEM"],
    }
