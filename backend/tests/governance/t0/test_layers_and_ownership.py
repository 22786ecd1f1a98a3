"""T0: the layers, the ownership of operations, and the tenant wall, as facts of the code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import app
import app.domains
import app.hoc_spine.handlers
from app.db.catalogue import metadata
from app.db.connection import DriverConnection
from app.db.governed import EXEMPT, GOVERNED
from app.hoc_spine.operation_registry import Operation, OperationRegistry
from app.kernel.errors import HocError
from app.kernel.inputs import Input

ROOT = Path(app.__file__).parent
GLOBAL_TABLES = {"tenants", "system_state", "worker_leases"}


def every_operation() -> list[Operation]:
    """Return the operations of all handler modules, in order of module and declaration."""
    handlers = app.hoc_spine.handlers
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(handlers.__path__, f"{handlers.__name__}.")
    ]
    return [operation for module in modules for operation in getattr(module, "OPERATIONS", ())]


OPERATIONS = every_operation()
SLICES = {found.name for found in pkgutil.iter_modules(app.domains.__path__)}
TENANT_TABLES = [table for name, table in metadata.tables.items() if name not in GLOBAL_TABLES]


def registry_of(*operations: Operation) -> OperationRegistry:
    registry = OperationRegistry()
    for operation in operations:
        registry.register(operation)
    return registry


def test_there_are_operations_and_tables_to_judge() -> None:
    assert len(OPERATIONS) > 20
    assert len(TENANT_TABLES) > 20


def test_there_is_no_l3() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders == {"api", "cli", "library_face", "hoc_spine", "domains", "connectors", "db", "kernel"}


def test_every_slice_has_the_same_rooms() -> None:
    for name in SLICES:
        rooms = {p.stem for p in (ROOT / "domains" / name).iterdir() if not p.name.startswith("_")}
        assert {"engines"} <= rooms <= {"engines", "drivers", "tables", "models", "errors"}, name


@pytest.mark.parametrize("word", ["commit", "rollback", "begin", "begin_nested", "close", "connection"])
def test_a_driver_cannot_end_the_transaction_it_works_in(word: str) -> None:
    assert not hasattr(DriverConnection, word)


def test_every_operation_has_one_owner_that_exists() -> None:
    assert [o.name for o in OPERATIONS if o.owner not in SLICES] == []


def test_every_operation_is_named_domain_noun_verb() -> None:
    assert [o.name for o in OPERATIONS if not re.fullmatch(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+", o.name)] == []


def test_no_two_operations_share_a_name_or_a_handler() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({operation.handler for operation in OPERATIONS}) == len(OPERATIONS)


def test_every_operation_of_the_tenant_door_names_the_scope_it_needs() -> None:
    through = [operation for operation in OPERATIONS if operation.door == "tenant"]
    assert [o.name for o in through if not re.fullmatch(r"[a-z]+:(read|write|admin)", o.scope or "")] == []


def test_no_scope_of_a_tenant_opens_another_door() -> None:
    assert [o.name for o in OPERATIONS if o.door != "tenant" and o.scope is not None] == []


def test_every_input_is_frozen_and_refuses_unknown_members() -> None:
    assert [o.name for o in OPERATIONS if not issubclass(o.input, Input)] == []
    assert [o.name for o in OPERATIONS if o.input.model_config.get("extra") != "forbid"] == []
    assert [o.name for o in OPERATIONS if o.input.model_config.get("frozen") is not True] == []


def test_the_tenant_comes_from_the_credential_and_never_from_input() -> None:
    through = [operation for operation in OPERATIONS if operation.door == "tenant"]
    assert [o.name for o in through if {"tenant_id", "tenant"} & set(o.input.model_fields)] == []


def test_only_writes_excuse_an_audit_entry_and_they_say_why() -> None:
    excused = [operation for operation in OPERATIONS if operation.no_audit is not None]
    assert [o.name for o in excused if o.mode != "write" or len(str(o.no_audit).split()) < 2] == []


def test_only_a_write_honours_an_idempotency_key() -> None:
    assert [o.name for o in OPERATIONS if o.creates and o.mode != "write"] == []


def test_a_second_owner_of_a_name_is_refused() -> None:
    with pytest.raises(RuntimeError):
        registry_of(OPERATIONS[0], OPERATIONS[0])


def test_a_frozen_registry_takes_no_operation() -> None:
    registry = registry_of()
    registry.freeze()
    with pytest.raises(RuntimeError):
        registry.register(OPERATIONS[0])


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(HocError) as refused:
        registry_of().get("runs.unheard_of")
    assert refused.value.code == "UNKNOWN_OPERATION"


def test_every_tenant_table_is_keyed_by_its_tenant_first() -> None:
    assert [t.name for t in TENANT_TABLES if next(iter(t.primary_key)).name != "tenant_id"] == []
    assert [t.name for t in TENANT_TABLES if t.c.tenant_id.nullable] == []


def test_no_foreign_key_leaves_the_tenant() -> None:
    keys = [key for table in TENANT_TABLES for key in table.foreign_key_constraints]
    assert [
        str(key.name)
        for key in keys
        if ("tenant_id", "tenant_id") not in {(e.parent.name, e.column.name) for e in key.elements}
    ] == []
    assert [str(key.name) for key in keys if key.ondelete != "RESTRICT"] == []


def test_every_tenant_table_is_governed_or_excused_in_writing() -> None:
    assert [t.name for t in TENANT_TABLES if (t.name in GOVERNED) == (t.name in EXEMPT)] == []
    assert [name for name, reason in EXEMPT.items() if len(reason.split()) < 2] == []


def test_a_recorded_row_stands_or_falls_with_its_leaf() -> None:
    recorded = [entry.table for entry in GOVERNED.values() if entry.mode in {"APPEND", "HEAD"}]
    for table in recorded:
        (key,) = [k for k in table.foreign_key_constraints if k.referred_table.name == "log_leaves"]
        assert [column.name for column in key.columns] == ["tenant_id", "fact_id"], table.name
        assert (key.deferrable, key.initially) == (True, "DEFERRED"), table.name
