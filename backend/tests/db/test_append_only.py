"""Append-only tables: no statement changes or removes a recorded row, on either dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.db.catalogue import metadata
from app.db.governed import GOVERNED
from app.hoc_spine.spine import Spine
from tests.factories.tampering import changed
from tests.factories.tenants import make_tenant
from tests.factories.worlds import make_world, step

# Append-only beside the tables that are facts in themselves: the log, and rows that a fact covers by digest.
FURTHER = {
    "context_items",
    "input_bundle_items",
    "limit_entries",
    "log_checkpoints",
    "log_cosignatures",
    "log_entries",
    "log_leaves",
    "log_verifications",
    "plane_purge_approvals",
    "policy_rule_versions",
    "purged_runs",
    "retrieval_evidence_documents",
}
FACTS = {name for name, entry in GOVERNED.items() if entry.mode in ("APPEND", "CHAINED")}
TABLES = sorted((FACTS | FURTHER) & set(metadata.tables))
# What the rules of a table ask of a made-up row beyond its words and types.
DIGEST = "sha256:" + "0" * 64
MADE_UP = {
    "context_items": {"artifact_id": "a", "revision": 1, "revision_digest": DIGEST},
    "context_packages": {"package_digest": DIGEST},
    "input_bundle_items": {"revision_digest": DIGEST},
    "incidents": {"recurrence_signature": "0" * 32},
    "input_bundles": {"bundle_digest": DIGEST},
    "limit_breaches": {"run_key": ""},
    "limit_overrides": {"expires_at": datetime(2026, 1, 2, tzinfo=UTC)},
    "log_archives": {"to_idx": 2, "sha256": "0" * 64},
    # An open permit is what lets rows be deleted.
    "log_purge_permits": {"closed_at": datetime(2026, 1, 2, tzinfo=UTC)},
    "limits": {"reset_period": "NONE", "scope_id": None, "content_hash": "0" * 64},
    "prevention_records": {"rule_hash": "0" * 64},
    "run_manifests": {"manifest_digest": DIGEST},
    "tenant_retention": {"retention_days": 183, "value_retention_days": 183},
}
# Rows that stay, although some of their columns change.
KEPT = (
    "aos_traces",
    "api_keys",
    "discovery_ledger",
    "incidents",
    "knowledge_plane_registry",
    "legal_holds",
    "lessons_learned",
    "limit_counters",
    "limit_overrides",
    "limits",
    "log_purge_permits",
    "plane_policy_bindings",
    "policy_rules",
    "retrieval_observations",
    "run_fact_counters",
    "runs",
    "tenant_retention",
    "tenants",
    "usage_reservations",
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A connection of the owner, and a tenant that has a row in every table."""

    connection: sa.Connection
    tenant_id: str

    def rows(self, table: sa.Table) -> list[Any]:
        query = sa.select(table).where(table.c.tenant_id == self.tenant_id)
        return list(self.connection.execute(query).all())


@pytest.fixture(scope="module")
def recorded(spine: Spine, database_url: str) -> Iterator[Recorded]:
    """A governed run from its documents to its end, and made-up rows where nothing of it left one."""
    tenant = make_tenant(spine)
    tenant.headers()
    world = make_world(spine, tenant)
    world.access("refund").unwrap()
    world.append(step(0))
    world.complete()
    tenant.call("tenants.freeze", {"reason": "test"})
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # As the spine's own connections have it: without it REPLACE deletes unseen.
            connection.exec_driver_sql("PRAGMA recursive_triggers = ON")
        made = Recorded(connection, tenant.tenant_id)
        for name in (*TABLES, *KEPT):
            if not made.rows(metadata.tables[name]):
                _make_up(made, metadata.tables[name])
        yield made
    engine.dispose()


def _make_up(recorded: Recorded, table: sa.Table) -> None:
    """Insert a row that means nothing, past the foreign keys, which are not what is tested here."""
    connection = recorded.connection
    row = {column.name: _made_up(table, column) for column in table.columns if not column.nullable}
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET session_replication_role = replica")
    row |= MADE_UP.get(table.name, {}) | {"tenant_id": recorded.tenant_id}
    connection.execute(table.insert().values(**row))
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET session_replication_role = DEFAULT")


def _made_up(table: sa.Table, column: sa.Column[Any]) -> Any:
    for check in table.constraints:
        if isinstance(check, sa.CheckConstraint):
            words = re.match(rf"{column.name} IN \('(\w+)'", str(check.sqltext))
            if words:
                return words[1]
    if isinstance(column.type, sa.Boolean):
        return False
    if isinstance(column.type, sa.Integer):
        return 1
    if type(column.type).__name__ == "Timestamp":
        return datetime(2026, 1, 1, tzinfo=UTC)
    return f"x-{uuid4().hex}"


def test_the_list_has_every_table_that_refuses_updates(recorded: Recorded) -> None:
    triggers = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
    }
    found = recorded.connection.exec_driver_sql(triggers[recorded.connection.dialect.name]).scalars()
    refusing = {name.removesuffix("_no_update") for name in found if name.endswith("_no_update")}
    assert refusing == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_no_column_of_a_recorded_row_changes(recorded: Recorded, name: str) -> None:
    table = metadata.tables[name]
    before = recorded.rows(table)
    assert before
    mine = table.c.tenant_id == recorded.tenant_id
    for column in table.columns:
        change = table.update().where(mine).values({column: column})
        with pytest.raises(sa.exc.IntegrityError, match="append-only"):
            recorded.connection.execute(change)
    assert recorded.rows(table) == before


def test_an_erasure_takes_the_values_and_touches_no_other_column(recorded: Recorded) -> None:
    tables = [GOVERNED[name] for name in sorted(FACTS) if GOVERNED[name].protected]
    assert len(tables) == 8
    for entry in tables:
        table = entry.table
        erased: dict[str, Any] = dict.fromkeys((*entry.protected, "protected_salt"))
        erased["erased_fact_id"] = "fct_1"
        mine = table.c.tenant_id == recorded.tenant_id
        row = recorded.connection.execute(table.select().where(mine).limit(1)).mappings().one()
        one = sa.and_(*(column == row[column.name] for column in table.primary_key))
        for column in table.columns:
            if column.name not in erased:
                more = {column.name: changed(entry, column, row[column.name])}
                with pytest.raises(sa.exc.IntegrityError, match="append-only"):
                    recorded.connection.execute(table.update().where(one).values(**erased, **more))


@pytest.mark.parametrize("name", [*TABLES, *KEPT])
def test_no_recorded_row_is_deleted(recorded: Recorded, name: str) -> None:
    table = metadata.tables[name]
    before = recorded.rows(table)
    assert before
    with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
        recorded.connection.execute(table.delete().where(table.c.tenant_id == recorded.tenant_id))
    assert recorded.rows(table) == before


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", [*TABLES, *KEPT])
def test_no_table_of_records_is_emptied_whole(recorded: Recorded, name: str) -> None:
    table = metadata.tables[name]
    # CASCADE, so that it is the trigger which refuses and not a reference from another table.
    with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
        recorded.connection.exec_driver_sql(f"TRUNCATE {name} CASCADE")
    assert recorded.rows(table)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", TABLES)
def test_no_recorded_row_is_replaced(recorded: Recorded, name: str) -> None:
    table = metadata.tables[name]
    before = recorded.rows(table)
    with pytest.raises(sa.exc.IntegrityError):
        recorded.connection.exec_driver_sql(
            f"INSERT OR REPLACE INTO {name} SELECT * FROM {name} WHERE tenant_id = '{recorded.tenant_id}'"
        )
    assert recorded.rows(table) == before


@pytest.mark.parametrize("name", TABLES)
def test_a_conflict_never_turns_an_insert_into_a_change(recorded: Recorded, name: str) -> None:
    table = metadata.tables[name]
    before = recorded.rows(table)
    key = ", ".join(column.name for column in table.primary_key)
    with pytest.raises(sa.exc.IntegrityError):
        recorded.connection.exec_driver_sql(
            f"INSERT INTO {name} SELECT * FROM {name} WHERE tenant_id = '{recorded.tenant_id}'"
            f" ON CONFLICT ({key}) DO UPDATE SET tenant_id = excluded.tenant_id"
        )
    assert recorded.rows(table) == before
