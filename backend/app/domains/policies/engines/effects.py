"""Policies L5: what rules have done: prevention records as their readers see them, and a rule's effect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from app.db.connection import DriverConnection, Row
from app.domains.policies.drivers import effects as effect_rows
from app.domains.policies.drivers import preventions as prevention_rows
from app.domains.policies.errors import rule_not_found
from app.domains.policies.models.judgements import ListPreventions, PreventionView
from app.domains.policies.models.vocabulary import PreventionOutcome
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import Page, newest_first

WINDOW: Final = timedelta(days=30)
_PLAIN = tuple(
    name for name in PreventionView.model_fields if name not in ("prevented_event", "protected_state")
)


def list_prevention_views(
    connection: DriverConnection, given: ListPreventions, *, tenant_id: str
) -> Page[PreventionView]:
    """Return one page of the tenant's prevention records, newest first."""
    equal = {"run_id": given.run_id, "rule_id": given.rule_id}
    return newest_first(
        given,
        tenant_id=tenant_id,
        operation="policies.preventions.list",
        columns=("created_at", "prevention_id"),
        fetch=lambda before, count: prevention_rows.list_preventions(
            connection, tenant_id=tenant_id, equal=equal, before=before, limit=count
        ),
        view=_view,
    )


def _view(row: Row) -> PreventionView:
    event = row["prevented_event"]
    return PreventionView(
        **{name: row[name] for name in _PLAIN},
        prevented_event=None if event is None else loads(event),
        protected_state="INTACT" if row["erased_fact_id"] is None else "ERASED",
    )


def require_origin(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> Row:
    """Return a rule's state and the proposal it was made from; refuse RULE_NOT_FOUND."""
    row = effect_rows.get_origin(connection, tenant_id=tenant_id, rule_id=rule_id)
    if row is None:
        raise rule_not_found()
    return row


def count_outcomes(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> dict[str, int]:
    """Return how often a rule did what; every outcome is named."""
    counts = prevention_rows.count_rule_outcomes(connection, tenant_id=tenant_id, rule_id=rule_id)
    return {outcome.value: counts.get(outcome, 0) for outcome in PreventionOutcome}


def list_governing_snapshots(connection: DriverConnection, origin: Row, *, tenant_id: str) -> Sequence[str]:
    """Return the ids of the snapshots that a rule is in."""
    if origin["activated_at"] is None:
        return ()
    quoted = f'"rule_id":{dumps(origin["rule_id"])},"rule_version":'
    return effect_rows.list_snapshots_with(
        connection, tenant_id=tenant_id, quoted=quoted, since=origin["activated_at"]
    )
