"""kill -9 between any two statements of what must be written as one leaves all of it or nothing."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from app.db.metadata import metadata
from app.hoc_spine.spine import Spine
from tests.factories.limits import limit, record
from tests.factories.processes import fork
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run, step

Contents = dict[str, Counter[str]]
WRITING = ("INSERT", "UPDATE", "DELETE", "WITH", "COMMIT")
# What is done, and the rows that it leaves, in the order in which it is done to one tenant.
UNITS: tuple[tuple[str, Mapping[str, Any], Mapping[str, int]], ...] = (
    (
        # A limit refuses a check; a rule prevents the incident of the breach.
        "runs.check",
        {
            "run_id": "r-check",
            "check_id": "c-1",
            "action": {"kind": "MODEL", "name": "m"},
            "estimate": {"TOKENS_TOTAL": 11},
        },
        {"decision_records": 2, "limit_breaches": 1, "discovery_ledger": 1, "prevention_records": 1},
    ),
    (
        "incidents.create",
        {"title": "Something broke", "source_run_id": "r-end", "error_code": "X"},
        {"incidents": 1, "incident_events": 1, "prevention_records": 1, "audit_ledger": 1, "outbox": 1},
    ),
    (
        "runs.complete",
        {"run_id": "r-end", "status": "failed", "error_code": "STEP_FAILURE"},
        {"policy_evaluations": 1, "incidents": 1, "lessons_learned": 1, "prevention_records": 2},
    ),
    (
        # Recorded use breaks a limit, opens an incident and halts the run.
        "traces.steps.append",
        {"run_id": "r-steps", "steps": [step(0, usage={"COST_USD": 105.5}, side_effect=True)]},
        {
            "aos_trace_steps": 1,
            "limit_breaches": 1,
            "discovery_ledger": 2,
            "decision_records": 2,
            "incidents": 1,
            "policy_evaluations": 1,
        },
    ),
)


def make_story(tenant: Tenant) -> None:
    limit(tenant, limit_id="l-cost", consequence="INCIDENT", halts_run=True)
    threshold = {"category": "THRESHOLD", "metric": "TOKENS_TOTAL", "reset_period": None, "max_value": 10}
    limit(tenant, limit_id="l-tokens", name="Tokens", consequence="INCIDENT", **threshold)
    for rule_id, moment, mode, condition in (
        ("i-prevents", "INCIDENT", "BLOCK", 'incident.category == "RESOURCE_EXHAUSTION"'),
        ("i-warns", "INCIDENT", "WARN", 'incident.category != "RESOURCE_EXHAUSTION"'),
        ("c-warns", "COMPLETION", "WARN", None),
    ):
        rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": [moment], "activate": True}
        tenant.call("policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition})
    for run_id in ("r-check", "r-end", "r-steps"):
        start_run(tenant, run_id=run_id)
    record(tenant, "u-1", run_id="r-end", usage={"TOKENS_INPUT": 9})
    held = {"action": {"kind": "MODEL", "name": "m"}, "estimate": {"COST_USD": 1}}
    tenant.call("runs.check", {"run_id": "r-end", **held})


def rehearse(tenant: Tenant) -> None:
    """Do everything once, so that the processes to come compile no statement, and leave no connection open
    that they would share."""
    make_story(tenant)
    for operation, payload, _ in UNITS:
        tenant.call(operation, payload, idempotency_key="once")
    tenant.spine.transactions.engine.dispose()


def contents(connection: sa.Connection, tenant: Tenant) -> Contents:
    """Everything that the database holds of the tenant."""
    found: Contents = {}
    cursor = connection.connection.cursor()
    for table in metadata.sorted_tables:
        if "tenant_id" in table.c:
            cursor.execute(f"SELECT * FROM {table.name} WHERE tenant_id = '{tenant.tenant_id}'")
            found[table.name] = Counter(map(repr, cursor.fetchall()))
    cursor.close()
    return found


def added(before: Contents, after: Contents) -> dict[str, int]:
    return {name: after[name].total() - before[name].total() for name in after if after[name] != before[name]}


def end_of_killed(tenant: Tenant, operation: str, payload: Mapping[str, Any], *, after: int) -> int:
    """Dispatch in a process that is killed after so many writing statements; return how it ended."""
    child = fork()
    if not child:
        seen = itertools.count(1)

        def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith(WRITING) and next(seen) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        engine = tenant.spine.transactions.engine
        try:
            # Who listens before a statement hears of every one, those by libpq itself and the commit too.
            sa.event.listen(engine, "before_cursor_execute", lambda *_: None)
            sa.event.listen(engine, "after_cursor_execute", count)
            tenant.dispatch(operation, payload, idempotency_key="once")
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_unit_killed_between_any_two_statements_is_there_whole_or_not_at_all(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    dying = make_spine()
    rehearse(make_tenant(dying))
    make_story(tenant)
    doomed = Tenant(dying, tenant.tenant_id)
    for operation, payload, rows in UNITS:
        before = after = contents(second_connection, tenant)
        statements = 0
        while after == before:
            statements += 1
            ended = end_of_killed(doomed, operation, payload, after=statements)
            assert ended == -signal.SIGKILL, (operation, statements)
            after = contents(second_connection, tenant)
        # Nothing until the commit, which was the last statement of many.
        assert statements > 7, operation
        new = added(before, after)
        assert {name: new.get(name, 0) for name in rows} == rows, (operation, new)
        assert tenant.dispatch(operation, payload, idempotency_key="once").success, operation
        assert contents(second_connection, tenant) == after, operation
