"""What a purge deletes from follows from the register and the foreign keys, and the schema lets it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.db import run_rows
from app.db.catalogue import metadata
from app.db.governed import EXEMPT, GOVERNED
from app.hoc_spine.coordinators.retention_plan import make_plan
from app.kernel.merkle import EMPTY_ROOT
from tests.factories.tenants import Tenant

MIGRATION = Path(__file__).resolve().parents[2] / "alembic" / "versions" / "0021_retention.py"
# A purge does not look here for what is of a run: heads, knowledge, the log's own.
STAYING = {
    "api_keys", "artifact_metadata", "artifact_search", "artifacts", "blobs", "collections", "context_items",
    "discovery_ledger", "idempotency_keys", "input_bundle_items", "knowledge_plane_jobs",
    "knowledge_plane_registry", "legal_holds", "lesson_debounce", "limit_counters", "limit_overrides",
    "limits",
    "log_checkpoints", "log_cosignatures", "log_entries", "log_heads", "log_leaves", "log_pending",
    "log_purge_permits", "log_tiles", "log_verifications", "operation_runs", "outbox", "plane_collections",
    "plane_documents", "plane_passages", "plane_policy_bindings", "plane_purge_approvals", "plane_terms",
    "policy_proposals", "policy_rule_versions", "policy_rules", "purged_runs", "relationships",
    "repository_state", "retrieval_attempts", "tenant_retention", "tenant_secrets", "tenant_state", "tenants",
    "value_sweeps", "workflow_steps",
}  # fmt: skip
# Facts like any other, of planes that never go.
OF_PLANES = "plane_lifecycle_events"


def test_every_table_of_a_tenant_goes_stays_or_is_kept_for_itself() -> None:
    known = {*GOVERNED, *EXEMPT}
    assert known - set(run_rows.purged_tables()) - run_rows.KEPT == STAYING


def test_the_schema_lets_rows_go_from_just_the_tables_that_a_purge_deletes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(MIGRATION.parents[1])
    spec = importlib.util.spec_from_file_location("retention_migration", MIGRATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {*module.PURGED} == {*run_rows.purged_tables(), "log_entries", "log_leaves"} - {OF_PLANES}


def test_rows_that_refer_go_before_those_that_they_refer_to() -> None:
    order = run_rows.purged_tables()
    for name in order:
        for key in metadata.tables[name].foreign_key_constraints:
            referred = key.referred_table.name
            if referred in order and referred != name:
                assert order.index(name) < order.index(referred), key.name


def test_whoever_deletes_a_row_finds_those_that_refer_to_it_by_an_index() -> None:
    for name, table in metadata.tables.items():
        for key in table.foreign_key_constraints:
            if key.referred_table.name not in run_rows.purged_tables() or name in run_rows.KEPT:
                continue
            names = [column.name for column in key.columns]
            indexed = [[column.name for column in table.primary_key]]
            indexed += [
                [column.name for column in item.columns]
                for item in table.constraints
                if isinstance(item, sa.UniqueConstraint)
            ]
            indexed += [[getattr(part, "name", "") for part in item.expressions] for item in table.indexes]
            assert any(set(found[: len(names)]) == set(names) for found in indexed), key.name


def test_the_plan_of_a_log_without_entries_is_empty(tenant: Tenant) -> None:
    transactions, now = tenant.spine.transactions, tenant.spine.services.clock.now()
    with transactions.read(tenant.tenant_id, snapshot=True) as connection:
        plan = make_plan(connection, tenant_id=tenant.tenant_id, now=now)
    assert (plan.cut, plan.run_ids, plan.facts, plan.root) == (0, [], [], EMPTY_ROOT.hex())
