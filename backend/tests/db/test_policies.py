"""Policy tables: what the database itself refuses, and the few drivers that no operation shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.policies.drivers import rule_versions, rules
from app.domains.policies.engines import rules as engine
from app.hoc_spine.transactions import SpineConnection
from app.kernel.errors import HocError
from tests.factories.tenants import Tenant

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
HASH = "a" * 64


def head(tenant: Tenant, rule_id: str = "rule-1", **members: Any) -> dict[str, Any]:
    return {
        "tenant_id": tenant.tenant_id,
        "rule_id": rule_id,
        "kind": "ACCESS",
        "source": "MANUAL",
        "created_by": "user-1",
        "name": rule_id,
        "status": "DRAFT",
        "current_version": 1,
        "revoked": False,
        "created_at": NOW,
        "updated_at": NOW,
        "version": 1,
        **members,
    }


def version(tenant: Tenant, rule_id: str = "rule-1", **members: Any) -> dict[str, Any]:
    return {
        "tenant_id": tenant.tenant_id,
        "rule_id": rule_id,
        "rule_version": 1,
        "name": rule_id,
        "effect": "ALLOW",
        "moments": "[]",
        "scope": "TENANT",
        "constraints": "{}",
        "halts_run": False,
        "depends_on": "[]",
        "content_hash": HASH,
        "changed_by": "user-1",
        "created_at": NOW,
        **members,
    }


@pytest.fixture
def unit(tenant: Tenant) -> Iterator[SpineConnection]:
    """An open write unit of the tenant; the test's error takes it back."""
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        yield connection


def store(tenant: Tenant, **members: Any) -> None:
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        assert rules.insert_rule(connection, tenant_id=tenant.tenant_id, row=head(tenant, **members))
        rule_versions.append_version(connection, tenant_id=tenant.tenant_id, row=version(tenant))


def refused(tenant: Tenant, statement: str, words: str) -> None:
    """Execute the statement in a unit of the tenant and expect the database's refusal."""
    with (
        pytest.raises(sa.exc.IntegrityError, match=words),
        tenant.spine.transactions.write(tenant.tenant_id) as connection,
    ):
        connection.execute(sa.text(statement), {"t": tenant.tenant_id})


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "OTHER"},
        {"source": "OTHER"},
        {"status": "OTHER"},
        {"status": "ACTIVE"},
        {"status": "RETIRED"},
        {"status": "RETIRED", "retired_at": NOW},
        {"retired_at": NOW, "retired_by": "u"},
        {"revoked": True},
        {"current_version": 0},
        {"superseded_by": "ghost"},
        {"source_proposal_id": "ghost"},
    ],
)
def test_a_head_row_that_contradicts_itself_is_refused(tenant: Tenant, members: dict[str, Any]) -> None:
    with (
        pytest.raises(sa.exc.IntegrityError),
        tenant.spine.transactions.write(tenant.tenant_id) as connection,
    ):
        rules.insert_rule(connection, tenant_id=tenant.tenant_id, row=head(tenant, **members))


@pytest.mark.parametrize(
    "members",
    [
        {"effect": None},
        {"enforcement_mode": "BLOCK"},
        {"effect": "MAYBE"},
        {"moments": '["STEP"]'},
        {"effect": None, "enforcement_mode": "BLOCK"},
        {"effect": None, "enforcement_mode": "WARN", "moments": '["STEP"]', "halts_run": True},
        {"halts_run": True},
        {"scope": "PROJECT"},
        {"scope_id": "p"},
        {"scope": "WORLD", "scope_id": "p"},
        {"content_hash": "short"},
        {"rule_version": 0},
        {"rule_id": "ghost"},
    ],
)
def test_a_version_that_contradicts_itself_is_refused(tenant: Tenant, members: dict[str, Any]) -> None:
    store(tenant)
    row = version(tenant, **{"rule_version": 2, **members})
    with (
        pytest.raises(sa.exc.IntegrityError),
        tenant.spine.transactions.write(tenant.tenant_id) as connection,
    ):
        rule_versions.append_version(connection, tenant_id=tenant.tenant_id, row=row)


def test_a_guard_version_fits_the_table(tenant: Tenant, unit: SpineConnection) -> None:
    members = {"effect": None, "enforcement_mode": "BLOCK", "moments": '["STEP"]', "halts_run": True}
    assert rules.insert_rule(unit, tenant_id=tenant.tenant_id, row=head(tenant, kind="GUARD"))
    rule_versions.append_version(unit, tenant_id=tenant.tenant_id, row=version(tenant, **members))
    (row,) = rules.list_open_versions(unit, tenant_id=tenant.tenant_id)
    assert (row["kind"], row["enforcement_mode"], row["halts_run"]) == ("GUARD", "BLOCK", True)


@pytest.mark.parametrize("column", ["kind", "source", "created_by", "created_at"])
def test_what_a_rule_is_never_changes(tenant: Tenant, column: str) -> None:
    store(tenant)
    value = (
        "'GUARD'"
        if column == "kind"
        else "'LEARNED'"
        if column == "source"
        else "'2020-01-01T00:00:00.000000Z'"
    )
    refused(tenant, f"UPDATE policy_rules SET {column} = {value} WHERE tenant_id = :t", "never change")


def test_a_rule_goes_forward_alone(tenant: Tenant) -> None:
    store(tenant, status="ACTIVE", activated_at=NOW)
    back = "UPDATE policy_rules SET status = 'DRAFT' WHERE tenant_id = :t"
    refused(tenant, back, "never a DRAFT again")
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        values = {"status": "RETIRED", "retired_at": NOW, "retired_by": "u"}
        ended = rules.set_rule(
            connection, tenant_id=tenant.tenant_id, rule_id="rule-1", version=1, values=values
        )
        assert ended is not None
        assert ended["version"] == 2
    refused(
        tenant, "UPDATE policy_rules SET retired_by = 'x' WHERE tenant_id = :t", "retired rule never changes"
    )


def test_versions_are_append_only_and_rules_are_never_deleted(tenant: Tenant) -> None:
    store(tenant)
    refused(tenant, "UPDATE policy_rule_versions SET message = 'm' WHERE tenant_id = :t", "append-only")


@pytest.mark.parametrize("table", ["policy_rules", "policy_rule_versions"])
def test_no_row_is_deleted_even_by_the_owner(
    tenant: Tenant, second_connection: sa.Connection, table: str
) -> None:
    store(tenant)
    with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
        second_connection.execute(
            sa.text(f"DELETE FROM {table} WHERE tenant_id = :t"), {"t": tenant.tenant_id}
        )


def test_a_head_row_is_changed_at_its_version_alone(tenant: Tenant, unit: SpineConnection) -> None:
    assert rules.insert_rule(unit, tenant_id=tenant.tenant_id, row=head(tenant))
    named = {"tenant_id": tenant.tenant_id, "rule_id": "rule-1"}
    assert rules.set_rule(unit, **named, version=2, values={"name": "x"}) is None
    changed = rules.set_rule(unit, **named, version=1, values={"name": "x"})
    assert changed is not None
    assert (changed["name"], changed["version"]) == ("x", 2)


def rename(connection: SpineConnection, tenant: Tenant, rule_id: str, name: str) -> None:
    """Give a rule another name without asking first whether it is free, as two writers at once do."""
    rule = engine.load(connection, tenant_id=tenant.tenant_id, rule_id=rule_id)
    renamed = replace(rule.version, name=name, rule_version=2)
    engine.change(
        connection, rule, renamed, tenant_id=tenant.tenant_id, by="user-1", now=NOW, change_reason=None
    )


def test_a_name_taken_meanwhile_is_a_refusal_and_no_crash(tenant: Tenant) -> None:
    store(tenant)
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        rules.insert_rule(connection, tenant_id=tenant.tenant_id, row=head(tenant, "rule-2"))
        rule_versions.append_version(connection, tenant_id=tenant.tenant_id, row=version(tenant, "rule-2"))
    with (
        pytest.raises(HocError, match="RULE_EXISTS"),
        tenant.spine.transactions.write(tenant.tenant_id) as connection,
    ):
        rename(connection, tenant, "rule-2", "rule-1")
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "rule-2", "rule-3")


def proposal(tenant: Tenant, **members: Any) -> str:
    row = {
        "tenant_id": tenant.tenant_id,
        "proposal_id": "p",
        "kind": "RULE",
        "source": "MANUAL",
        "created_by": "u",
        "status": "DRAFT",
        "created_at": "2026-01-31T12:00:00.000000Z",
        "updated_at": "2026-01-31T12:00:00.000000Z",
        **members,
    }
    values = ", ".join(f"'{value}'" for value in row.values())
    return f"INSERT INTO policy_proposals ({', '.join(row)}) VALUES ({values})"


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "OTHER"},
        {"source": "OTHER"},
        {"status": "APPROVED"},
        {"status": "DRAFT", "reviewed_at": "2026-01-31T12:00:00.000000Z", "reviewed_by": "u"},
        {"source_run_id": "ghost"},
    ],
)
def test_a_proposal_that_contradicts_itself_is_refused(tenant: Tenant, members: dict[str, Any]) -> None:
    with (
        pytest.raises(sa.exc.IntegrityError),
        tenant.spine.transactions.write(tenant.tenant_id) as connection,
    ):
        connection.execute(sa.text(proposal(tenant, **members).replace(":", "\\:")))


def test_a_reviewed_proposal_is_final(tenant: Tenant) -> None:
    moment = "2026-01-31T12:00:00.000000Z"
    reviewed = {"status": "REJECTED", "reviewed_at": moment, "reviewed_by": "u"}
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        connection.execute(sa.text(proposal(tenant, **reviewed).replace(":", "\\:")))
    refused(tenant, "UPDATE policy_proposals SET title = 'x' WHERE tenant_id = :t", "reviewed proposal")


def test_a_snapshot_without_its_leaf_or_its_hash_is_refused(tenant: Tenant) -> None:
    statement = (
        "INSERT INTO policy_snapshots (tenant_id, snapshot_id, content, content_hash, rule_count,"
        " limit_count, created_at, fact_id)"
        " VALUES (:t, :s, '{}', :h, 0, 0, '2026-01-31T12\\:00\\:00.000000Z', 'fct_none')"
    )
    for snapshot_id in ("snap_" + "b" * 32, "snap_" + "a" * 32):
        with (
            pytest.raises(sa.exc.IntegrityError),
            tenant.spine.transactions.write(tenant.tenant_id) as connection,
        ):
            connection.execute(sa.text(statement), {"t": tenant.tenant_id, "s": snapshot_id, "h": HASH})


def test_one_tenant_does_not_see_the_rows_of_another(
    tenant: Tenant, other_tenant: Tenant, dialect: str
) -> None:
    store(other_tenant)
    with tenant.spine.transactions.read(tenant.tenant_id) as connection:
        assert rules.get_rule(connection, tenant_id=tenant.tenant_id, rule_id="rule-1") is None
        if dialect == "postgresql":
            # Row security holds even where a statement names the other tenant.
            found = rules.get_rule(connection, tenant_id=other_tenant.tenant_id, rule_id="rule-1")
            assert found is None
