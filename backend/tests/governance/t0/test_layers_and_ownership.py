"""T0: the layers, the ownership of operations, and the tenant wall, as facts of the code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

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

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
each_tenant_table = pytest.mark.parametrize("table", TENANT_TABLES, ids=lambda table: table.name)


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
    assert folders == {"api", "hoc_spine", "domains", "connectors", "db", "kernel"}


@pytest.mark.parametrize("name", sorted(SLICES))
def test_every_slice_has_the_same_rooms(name: str) -> None:
    rooms = {p.stem for p in (ROOT / "domains" / name).iterdir() if not p.name.startswith("_")}
    assert rooms <= {"engines", "drivers", "tables", "models", "errors"}
    assert {"engines"} <= rooms


@pytest.mark.parametrize("word", ["commit", "rollback", "begin", "begin_nested", "close", "connection"])
def test_a_driver_cannot_end_the_transaction_it_works_in(word: str) -> None:
    assert not hasattr(DriverConnection, word)


@each_operation
def test_an_operation_has_one_owner_that_exists(operation: Operation) -> None:
    assert operation.owner in SLICES
    assert callable(operation.handler)
    assert re.fullmatch(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+", operation.name)


def test_no_two_operations_share_a_name_or_a_handler() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({operation.handler for operation in OPERATIONS}) == len(OPERATIONS)


@each_operation
def test_an_operation_says_who_may_call_it(operation: Operation) -> None:
    if operation.door == "tenant":
        assert re.fullmatch(r"[a-z]+:(read|write|admin)", operation.scope or "")
    else:
        assert operation.scope is None


@each_operation
def test_an_input_is_frozen_and_refuses_unknown_members(operation: Operation) -> None:
    assert issubclass(operation.input, Input)
    assert operation.input.model_config.get("extra") == "forbid"
    assert operation.input.model_config.get("frozen") is True


@each_operation
def test_tenant_and_actor_come_from_the_credential_and_never_from_input(operation: Operation) -> None:
    members = set(operation.input.model_fields)
    assert operation.door != "tenant" or members.isdisjoint(
        {"tenant_id", "tenant", "actor_id", "actor_type", "actor"}
    )


@each_operation
def test_only_writes_excuse_an_audit_entry(operation: Operation) -> None:
    assert operation.mode == "write" or operation.no_audit is None
    assert operation.no_audit is None or len(operation.no_audit.split()) > 1


@each_operation
def test_only_a_write_honours_an_idempotency_key(operation: Operation) -> None:
    assert operation.mode == "write" or not operation.creates


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


@each_tenant_table
def test_a_tenant_table_is_keyed_by_its_tenant_first(table: sa.Table) -> None:
    assert [column.name for column in table.primary_key][0] == "tenant_id"
    assert table.c.tenant_id.nullable is False


@each_tenant_table
def test_no_foreign_key_leaves_the_tenant(table: sa.Table) -> None:
    for key in table.foreign_key_constraints:
        pairs = {(e.parent.name, e.column.name) for e in key.elements}
        assert ("tenant_id", "tenant_id") in pairs
        assert key.ondelete == "RESTRICT"


@each_tenant_table
def test_a_tenant_table_is_governed_or_excused_in_writing(table: sa.Table) -> None:
    assert (table.name in GOVERNED) != (table.name in EXEMPT)
    assert table.name in GOVERNED or len(EXEMPT[table.name].split()) > 1


@each_tenant_table
def test_a_recorded_row_stands_or_falls_with_its_leaf(table: sa.Table) -> None:
    entry = GOVERNED.get(table.name)
    if entry is None or entry.mode not in {"APPEND", "HEAD"}:
        return
    (key,) = [k for k in table.foreign_key_constraints if k.referred_table.name == "log_leaves"]
    assert [column.name for column in key.columns] == ["tenant_id", "fact_id"]
    assert (key.deferrable, key.initially) == (True, "DEFERRED")
