"""Audited rows: after each change, the newest ledger entry holds the whole row as it stands."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.catalogue import metadata
from app.db.governed import row_image
from app.hoc_spine.spine import Spine
from app.kernel.context import Precondition
from app.kernel.hashing import protected_commit
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, operator_context
from tests.factories.worlds import start_run

REASON = {"reason": "because of bob@example.com"}
KEY = {"name": "k", "actor_type": "AGENT", "actor_id": "a-1", "scopes": ["runs:read"]}


class Ledger:
    """The newest entry of an entity beside the row that it is about."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine

    def check(
        self, table_name: str, entity_id: str, event: str, protected: tuple[str, ...]
    ) -> dict[str, Any]:
        """Assert that the newest entry is this event and holds the row; return what it holds beside it."""
        table, ledger = metadata.tables[table_name], metadata.tables["audit_ledger"]
        key = [column for column in table.primary_key if column.name != "tenant_id"] or [table.c.tenant_id]
        newest = ledger.select().where(ledger.c.entity_id == entity_id)
        newest = newest.order_by(ledger.c.created_at.desc(), ledger.c.entry_id.desc()).limit(1)
        with self._spine.transactions.read("_system", role="hoc_maintenance") as connection:
            entry = connection.execute(newest).mappings().one()
            row = connection.execute(table.select().where(key[0] == entity_id)).mappings().one()
        assert entry["event_type"] == event
        members = {name: row[name] for name in protected}
        if any(value is not None for value in members.values()):
            assert row["protected_commit"] == protected_commit(row["protected_salt"], members)
            assert all(value is None or "bob@example.com" not in value for value in members.values())
        else:
            assert (row["protected_salt"], row["protected_commit"]) == (None, None)
        after, image = json.loads(entry["after_state"]), row_image(table, row)
        assert {name: after[name] for name in image} == image
        return {name: value for name, value in after.items() if name not in image}


@pytest.fixture
def ledger(spine: Spine) -> Ledger:
    return Ledger(spine)


def test_a_tenants_row_stands_in_the_ledger_after_each_change(
    spine: Spine, tenant: Tenant, ledger: Ledger
) -> None:
    def operate(verb: str, payload: dict[str, Any]) -> None:
        by = operator_context(precondition=Precondition(None))
        spine.dispatch(f"ops.tenants.{verb}", by, {"tenant_id": tenant.tenant_id, **payload}).unwrap()

    def beside(event: str) -> dict[str, Any]:
        return ledger.check("tenants", tenant.tenant_id, event, ("status_reason",))

    assert beside("TenantCreated") == {}
    operate("update", {"name": "New name", "plan": "FREE"})
    assert beside("TenantUpdated") == {}
    tenant.call("tenants.freeze", REASON)
    assert beside("EmergencyOverrideActivated") == {"frozen": True}
    tenant.call("tenants.unfreeze", REASON)
    assert beside("EmergencyOverrideDeactivated") == {"frozen": False}
    for verb, event in (
        ("suspend", "TenantSuspended"),
        ("activate", "TenantActivated"),
        ("close", "TenantClosed"),
    ):
        operate(verb, REASON)
        assert beside(event) == {}


@pytest.mark.parametrize("whose", ["the tenant's", "the operator's"])
def test_a_keys_row_stands_in_the_ledger_after_each_change(
    spine: Spine, tenant: Tenant, ledger: Ledger, whose: str
) -> None:
    mine = whose == "the tenant's"

    def dispatch(name: str, payload: dict[str, Any]) -> Any:
        if mine:
            return tenant.call(name, payload)
        given = {"tenant_id": tenant.tenant_id, **payload}
        return spine.dispatch(f"ops.{name}", operator_context(), given).unwrap()

    def beside(event: str) -> dict[str, Any]:
        return ledger.check("api_keys", made.key_id, event, ("frozen_reason", "revoked_reason"))

    extra = {} if mine else {"tenant_id": tenant.tenant_id}
    made = dispatch("keys.create", KEY)
    assert beside("ApiKeyCreated") == extra
    if mine:
        for verb, event in (
            ("freeze", "ApiKeyFrozen"),
            ("unfreeze", "ApiKeyUnfrozen"),
            ("freeze", "ApiKeyFrozen"),
        ):
            tenant.call(f"keys.{verb}", {"key_id": made.key_id, **REASON})
            assert beside(event) == {}
    dispatch("keys.revoke", {"key_id": made.key_id, **REASON})
    assert beside("ApiKeyRevoked") == extra


def test_the_rows_of_incident_lesson_and_proposal_stand_in_the_ledger_after_each_change(
    tenant: Tenant, ledger: Ledger, clock: SteerableClock
) -> None:
    run = start_run(tenant)
    opened = tenant.call("incidents.create", {"title": "bob@example.com", "source_run_id": run}).incident
    texts = ("title", "description", "error_message", "resolution_summary", "resolution_notes")
    of_incident = {"incident_id": opened.incident_id}
    beside = {"run_id": run}
    assert ledger.check("incidents", opened.incident_id, "IncidentCreated", texts) == beside
    for verb, more, event in (
        ("acknowledge", {}, "IncidentAcknowledged"),
        ("escalate", {"severity": "CRITICAL", **REASON}, "IncidentEscalated"),
        ("resolve", {"resolution_method": "AUTO", "notes": REASON["reason"]}, "IncidentResolved"),
    ):
        clock.advance(seconds=1)
        tenant.call(f"incidents.{verb}", {**of_incident, **more})
        assert ledger.check("incidents", opened.incident_id, event, texts) == beside
    (lesson,) = tenant.call("lessons.list").items
    of_lesson = {"lesson_id": lesson.lesson_id}
    until = {"until": clock.now() + timedelta(days=1)}
    life: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("defer", until, "LessonDeferred"),
        ("reactivate", {}, "LessonReactivated"),
        ("convert", {}, "LessonConverted"),
    )
    told = ("title", "description", "dismissed_reason")
    for verb, given, event in life:
        clock.advance(seconds=1)
        tenant.call(f"lessons.{verb}", {**of_lesson, **given})
        assert ledger.check("lessons_learned", lesson.lesson_id, event, told) == beside
    proposal_id = tenant.call("lessons.get", of_lesson).draft_proposal_id
    parts = ("title", "rationale", "proposed", "review_notes")
    assert ledger.check("policy_proposals", proposal_id, "PolicyProposalCreated", parts) == beside
    clock.advance(seconds=1)
    review = {"proposal_id": proposal_id, "notes": REASON["reason"]}
    tenant.call("policies.proposals.reject", review)
    assert ledger.check("policy_proposals", proposal_id, "PolicyProposalRejected", parts) == beside


def test_the_row_of_a_closed_switch_holds_no_reason(spine: Spine, tenant: Tenant) -> None:
    tenant.call("tenants.freeze", REASON)
    ledger = metadata.tables["audit_ledger"]
    with spine.transactions.read(tenant.tenant_id) as connection:
        query = sa.select(ledger.c.after_state, ledger.c.action_reason).where(
            ledger.c.tenant_id == tenant.tenant_id
        )
        entry = connection.execute(query).mappings().one()
    assert entry["action_reason"] == "because of <REDACTED_EMAIL>"
    assert "because" not in entry["after_state"]
