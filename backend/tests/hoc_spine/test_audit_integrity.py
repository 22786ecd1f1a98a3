"""The audit ledger, recomputed at each call: whole as it was written, and the first entry that is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.spine import Spine
from app.kernel.hashing import leaf_hash
from tests.factories.logs import LogWorld
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_rule, without_triggers

START = datetime(2026, 3, 1, tzinfo=UTC)


def integrity(tenant: Tenant, **members: Any) -> Any:
    return tenant.call("logs.audit_integrity", members)


def test_a_tenant_without_entries_has_nothing_to_verify(tenant: Tenant) -> None:
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    found = integrity(tenant, **{"from": later})
    assert (found.status, found.checked, found.first_failure) == ("UNSUPPORTED", 0, None)
    assert (found.metadata.source_component, found.metadata.run_id) == ("AuditLedger", None)


def test_what_no_checkpoint_covers_yet_is_counted(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path, clock: SteerableClock
) -> None:
    clock.freeze(START)
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path)
    make_rule(world.tenant, "one")
    before = integrity(world.tenant)
    assert (before.status, before.unsequenced, before.checkpoint) == ("VERIFIED", before.checked, None)
    world.sequence()
    clock.advance(seconds=7)
    covered = integrity(world.tenant)
    assert (covered.status, covered.unsequenced, covered.checked) == ("VERIFIED", 0, before.checked)
    assert covered.checkpoint.age_seconds == 7
    signed = world.tenant.call("log.checkpoints.list").items[0]
    assert (covered.checkpoint.size, covered.checkpoint.root) == (signed.size, signed.root)
    make_rule(world.tenant, "two")
    late = integrity(world.tenant)
    assert (late.status, late.unsequenced, late.checked) == ("VERIFIED", 1, before.checked + 1)


# Each damage, the statement that puts it right again, and how it is found: `:e` the entry, `:f` its fact.
ROW = "UPDATE audit_ledger SET {} WHERE tenant_id = :t AND entry_id = :e"
LEAF = "UPDATE log_leaves SET {} WHERE tenant_id = :t AND fact_id = :f"
DAMAGES = [
    (ROW.format("actor_id = 'nobody'"), ROW.format("actor_id = 'user-1'"), "ROW_MISMATCH"),
    (ROW.format("after_state = '{}'"), ROW.format("after_state = :after_state"), "ROW_MISMATCH"),
    (ROW.format("action_reason = 'other'"), ROW.format("action_reason = 'because'"), "VALUE_TAMPERED"),
    (LEAF.format("leaf_hash = '00'"), LEAF.format("leaf_hash = :leaf_hash"), "LOG_MISMATCH"),
    (LEAF.format("attempt = 7"), LEAF.format("attempt = NULL"), "FOREIGN_FACT"),
    (
        "DELETE FROM audit_ledger WHERE tenant_id = :t AND entry_id = :e",
        "INSERT INTO audit_ledger SELECT * FROM kept_entry",
        "ROW_MISSING",
    ),
    (
        "DELETE FROM log_leaves WHERE tenant_id = :t AND fact_id = :f",
        "INSERT INTO log_leaves SELECT * FROM kept_leaf",
        "UNLOGGED_ROW",
    ),
]


def test_each_damage_is_found_at_its_entry_and_only_in_its_span(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path, clock: SteerableClock
) -> None:
    clock.freeze(START)
    write_new_key(tmp_path / "log-key.pem")
    world = LogWorld(make_spine, new_database(), tmp_path)
    tenant = world.tenant
    make_rule(tenant, "first")
    for name in ("freeze", "unfreeze", "freeze", "unfreeze"):
        clock.advance(minutes=1)
        tenant.call(f"tenants.{name}", {"reason": "because"})
    world.sequence()
    entries = [item for item in reversed(tenant.call("logs.audit_list").items) if item.action_reason]
    assert len(entries) == 4
    whole = integrity(tenant)
    assert whole.status == "VERIFIED"
    with world.connect() as connection:
        # The newest, the oldest with a reason, and one between.
        for entry, (damage, repair, code) in zip(entries * 2, DAMAGES, strict=False):
            given = keep(connection, tenant.tenant_id, entry.entry_id)
            without_triggers(connection, damage, **given)
            found = integrity(tenant)
            assert (found.status, found.checked) == ("FAILED", whole.checked), code
            assert (found.first_failure.entry_id, found.first_failure.reason) == (entry.entry_id, code)
            moment = entry.created_at
            inside = integrity(
                tenant,
                **{"from": moment.isoformat(), "to": (moment + timedelta(seconds=1)).isoformat()},
            )
            assert (inside.status, inside.checked) == ("FAILED", 1), code
            older = integrity(tenant, to=moment.isoformat())
            newer = integrity(tenant, **{"from": (moment + timedelta(seconds=1)).isoformat()})
            assert "FAILED" not in (older.status, newer.status), code
            assert older.checked + inside.checked + newer.checked == whole.checked
            without_triggers(connection, repair, **given)
            assert integrity(tenant).status == "VERIFIED", code
        # Who rewrites entry, statement and hash together contradicts the signed root.
        statement = (
            "UPDATE log_leaves SET statement = :s, leaf_hash = :h WHERE tenant_id = :t AND fact_id = :f"
        )
        given = keep(connection, tenant.tenant_id, entries[0].entry_id)
        forged = given["statement"].replace('"user-1"', '"user-2"')
        assert forged != given["statement"]
        without_triggers(connection, ROW.format("actor_id = 'user-2'"), **given)
        without_triggers(connection, statement, s=forged, h=leaf_hash(forged), **given)
        found = integrity(tenant)
        assert (found.status, found.first_failure.entry_id) == ("FAILED", None)
        assert found.first_failure.reason == "LOG_MISMATCH"


def keep(connection: sa.Connection, tenant_id: str, entry_id: str) -> dict[str, Any]:
    """Keep copies of an entry and its leaf, and return what the statements above name."""
    given = {"t": tenant_id, "e": entry_id}
    for copy in ("kept_entry", "kept_leaf"):
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {copy}"))
    connection.execute(sa.text("CREATE TABLE kept_entry AS SELECT * FROM audit_ledger WHERE 1 = 0"))
    connection.execute(sa.text("CREATE TABLE kept_leaf AS SELECT * FROM log_leaves WHERE 1 = 0"))
    wanted = "WHERE tenant_id = :t AND entry_id = :e"
    connection.execute(sa.text(f"INSERT INTO kept_entry SELECT * FROM audit_ledger {wanted}"), given)
    row = connection.execute(sa.text("SELECT fact_id, after_state FROM kept_entry")).mappings().one()
    given |= {"f": row["fact_id"], "after_state": row["after_state"]}
    wanted = "WHERE tenant_id = :t AND fact_id = :f"
    connection.execute(sa.text(f"INSERT INTO kept_leaf SELECT * FROM log_leaves {wanted}"), given)
    leaf = connection.execute(sa.text("SELECT leaf_hash, statement FROM kept_leaf")).mappings().one()
    return given | dict(leaf)
