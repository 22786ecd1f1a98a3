"""Erasure: values go everywhere, every proof stays, and nothing that a hold covers is touched."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from app.cli.program import cli
from app.db.catalogue import metadata
from app.db.governed import GOVERNED
from app.domains.logs.engines import erasure
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.log_verifier import LogVerifier
from tests.factories.bundles import load_verifier
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.worlds import World, make_world, start_run, step, without_triggers

verifier = load_verifier()
# Nothing that redaction would take out before it is stored.
SECRET = "Trillian of Islington"


@pytest.fixture(scope="module")
def log(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LogWorld]:
    """One tenant with a signed log, for all tests of this module."""
    folder = tmp_path_factory.mktemp("log")
    write_new_key(folder / "log-key.pem")
    with standing_world(databases.new(dialect), folder, facts=0) as world:
        yield world


@pytest.fixture(scope="module")
def told(log: LogWorld) -> World:
    """An ended run that says the secret wherever a caller can say something."""
    world = make_world(log.spine, log.tenant, log_queries=True)
    call = log.tenant.call
    first = {
        "agent_id": "support-agent",
        "goal": f"Answer {SECRET}",
        "actor_type": "SYSTEM",
        "origin_system_id": "tests",
        "subject_ref": "customer-42",
    }
    world.run_id = run = call("runs.start", first, idempotency_key="start-1").run_id
    world.access(f"refund for {SECRET}").unwrap()
    world.append(*(step(index, params={"of": SECRET}, outcome_data={"n": index}) for index in range(3)))
    decision = {
        "decision_type": "ROUTING",
        "facts": {"routed": True},
        "decision_reason": f"{SECRET} asked",
        "details": {"who": SECRET},
    }
    call("decisions.emit", decision, run_id=run, idempotency_key="decide-1")
    incident = {
        "title": f"{SECRET} complains",
        "description": f"{SECRET} says so",
        "severity": "HIGH",
        "source_run_id": run,
    }
    incident_id = call("incidents.create", incident, idempotency_key="incident-1").incident.incident_id
    call("incidents.acknowledge", {"incident_id": incident_id})
    call(
        "incidents.resolve",
        {"incident_id": incident_id, "resolution_method": "MANUAL", "summary": f"{SECRET} is well"},
        run_id=run,
    )
    proposal = {
        "kind": "RULE",
        "title": f"Never name {SECRET}",
        "rationale": f"{SECRET} minds",
        "proposed": {
            "kind": "ACCESS",
            "name": SECRET,
            "effect": "DENY",
            "scope": "TENANT",
            "condition": "true",
        },
        "source_incident_id": incident_id,
    }
    made = log.tenant.dispatch("policies.proposals.create", proposal, idempotency_key="propose-1")
    assert made.success, made.error
    call(
        "runs.complete",
        {"run_id": run, "status": "failed", "error_code": "TIMEOUT", "error_message": f"{SECRET} hung up"},
    )
    call("tenants.freeze", {"reason": f"{SECRET} sues"}, run_id=run)
    call("tenants.unfreeze", {"reason": "settled"})
    log.sequence()
    return world


def places_of(connection: sa.Connection, text: str) -> set[str]:
    """Return every table of the product that holds a text, in whatever column."""
    found = set()
    for name in sorted(metadata.tables.keys() & set(sa.inspect(connection).get_table_names())):
        columns = metadata.tables[name].columns.keys()
        said = " OR ".join(f'CAST("{column}" AS TEXT) LIKE :text' for column in columns)
        if connection.execute(sa.text(f"SELECT 1 FROM {name} WHERE {said}"), {"text": f"%{text}%"}).first():
            found.add(name)
    return found


def check(log: LogWorld, data: bytes) -> Any:
    """Return the report of the verifier file, which trusts the log's key."""
    keys = (verifier.parse_vkey(log.key.vkey(log.origin)),)
    return verifier.verify_bundle(io.BytesIO(data), verifier.Options(keys=keys, strict=True))


def bundle(world: World) -> bytes:
    made = world.tenant.call("runs.bundle", {"run_id": world.run_id, "include_payloads": True})
    return bytes(made.content.path.read_bytes())


def test_an_erased_run_is_gone_everywhere_and_proves_as_before(log: LogWorld, told: World) -> None:
    run, call = told.run_id, log.tenant.call
    before, old = told.proof(), bundle(told)
    with log.connect() as connection:
        kept = places_of(connection, SECRET)
    assert {"runs", "aos_trace_steps", "incidents", "idempotency_keys", "policy_proposals"} <= kept
    asked = {"scope": "RUN", "scope_id": run, "reason": "request of the person", "legal_basis": "GDPR 17"}
    done = call("evidence.erase", asked)
    assert (done.remaining, len(done.erasure_ids)) == (0, 1)
    with log.connect() as connection:
        assert places_of(connection, SECRET) == set()
    assert log.tenant.dispatch("evidence.erase", asked).error_code == "NOTHING_TO_ERASE"

    log.sequence()
    after = told.proof(include_payloads=True)
    assert after.integrity.verification_status == "VERIFIED", after.integrity
    assert after.values.model_dump() == {"intact": 0, "erased": before.values.intact, "tampered": 0}
    assert {(raw.state, raw.params) for raw in after.raw_logs} == {("ERASED", None)}
    report = check(log, bundle(told))
    assert report.verdict == "VERIFIED", report.failures
    opened = check(log, old)
    values = opened.figures["values"]
    assert (opened.verdict, values["erased"], values["intact"] >= 14) == ("VERIFIED", 0, True)
    assert report.figures["values"] == {**values, "intact": 0, "erased": values["intact"]}
    assert SECRET.encode() in old
    assert SECRET.encode() not in bundle(told)

    shown = call("runs.get", {"run_id": run})
    assert (shown.goal, shown.error_message, shown.protected_state) == (None, None, "ERASED")
    evidence = call("runs.evidence", {"run_id": run})
    assert [item.title for item in evidence.incidents_caused] == ["Untitled"] * len(evidence.incidents_caused)
    entries = call("logs.audit_list", {"run_id": run}).items
    assert {entry.protected_state for entry in entries} == {"ERASED", None}
    (listed,) = call("evidence.erasures.list", {"run_id": run}).items
    assert (listed.values, listed.legal_basis, listed.erasure_id) == (
        done.erased,
        "GDPR 17",
        done.erasure_ids[0],
    )
    assert call("logs.audit_integrity").status == "VERIFIED"
    assert LogVerifier(log.spine).verify_all(log.tenant_id).failures == []


def hoc(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def facts_of(log: LogWorld, run: str, kind: str) -> list[str]:
    with log.connect() as connection:
        query = "SELECT fact_id FROM log_leaves WHERE tenant_id = :t AND run_id = :r AND type = :k"
        found = log.rows(connection, f"{query} ORDER BY fact_no", r=run, k=kind)
        return [row["fact_id"] for row in found]


def test_a_fact_stands_for_its_row_its_steps_or_what_its_ledger_entry_tells_of(log: LogWorld) -> None:
    call, run = log.tenant.call, start_run(log.tenant)
    for first in (0, 2):
        steps = [step(index) for index in range(first, first + 2)]
        call("traces.steps.append", {"run_id": run, "steps": steps})
    key = call("keys.create", {"name": "k", "actor_type": "AGENT", "actor_id": "a", "scopes": ["runs:read"]})
    call("keys.freeze", {"key_id": key.key_id, "reason": SECRET}, run_id=run)
    frozen, started = facts_of(log, run, "audit")[-1], facts_of(log, run, "run.started")[0]

    def erase(fact_id: str) -> Any:
        payload = {"scope": "FACT", "scope_id": fact_id, "reason": "asked for by bob@example.com"}
        return log.tenant.dispatch("evidence.erase", payload)

    assert erase(facts_of(log, run, "trace.extended")[0]).unwrap().erased == 2
    shown = call("traces.steps.list", {"run_id": run}).items
    assert [item.protected_state for item in shown] == ["ERASED", "ERASED", "INTACT", "INTACT"]
    assert erase(started).unwrap().erased == 1
    # The entry's own reason, and the same words in the row that it is about.
    assert erase(frozen).unwrap().erased == 2
    shown_key = call("keys.get", {"key_id": key.key_id})
    assert (shown_key.frozen_reason, shown_key.protected_state) == (None, "ERASED")
    assert erase(frozen).error_code == "NOTHING_TO_ERASE"
    call("keys.revoke", {"key_id": key.key_id, "reason": "later"})
    assert call("keys.get", {"key_id": key.key_id}).protected_state == "INTACT"
    proof = call("runs.proof", {"run_id": run})
    assert (proof.integrity.failure_code, proof.values.tampered) == (None, 0)
    log.sequence()
    assert LogVerifier(log.spine).verify_all(log.tenant_id).failures == []
    listed = call("evidence.erasures.list", {"run_id": run}).items
    assert {item.reason for item in listed} == {"asked for by <REDACTED_EMAIL>"}


def test_a_person_goes_in_many_transactions_and_what_they_kept_is_counted(
    log: LogWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = log.tenant.call
    runs = [start_run(log.tenant, subject_ref="customer-7") for _ in range(3)]
    for run in runs:
        call("traces.steps.append", {"run_id": run, "steps": [step(index) for index in range(4)]})
    monkeypatch.setattr(erasure, "MAX_ROWS", 8)
    monkeypatch.setattr(erasure, "MAX_COMMITMENTS", 2)
    payload = {"scope": "SUBJECT", "scope_id": "customer-7", "reason": "asked"}
    first, last = call("evidence.erase", payload), call("evidence.erase", payload)
    assert (first.erased, first.remaining, last.erased, last.remaining) == (8, 7, 7, 0)
    assert log.tenant.dispatch("evidence.erase", payload).error_code == "NOTHING_TO_ERASE"
    records = [item for item in call("evidence.erasures.list").items if item.scope_id == "customer-7"]
    assert {item.run_id for item in records} == set(runs)
    assert sum(item.values for item in records) == 15
    assert max(item.values for item in records) == 2
    for run in runs:
        call("runs.complete", {"run_id": run, "status": "failed", "error_message": SECRET})
        proof = call("runs.proof", {"run_id": run})
        assert (proof.integrity.verification_status, proof.values.erased) == ("VERIFIED", 5)
        # An erased row takes no new text; what the end opened are rows of their own.
        assert call("runs.get", {"run_id": run}).error_message is None
    again = call("evidence.erase", payload)
    assert again.erased + again.remaining == 3 * proof.values.intact


def test_an_update_is_let_through_only_when_it_erases_and_changes_nothing_else(log: LogWorld) -> None:
    run = start_run(log.tenant)
    log.tenant.call("traces.steps.append", {"run_id": run, "steps": [step(0)]})
    log.tenant.call("runs.complete", {"run_id": run, "status": "succeeded"})
    gone = "params = NULL, outcome_data = NULL, protected_salt = NULL"
    trace = (
        "UPDATE aos_trace_steps SET {} WHERE trace_id IN (SELECT trace_id FROM aos_traces WHERE run_id = :r)"
    )
    ended = "UPDATE runs SET {} WHERE run_id = :r"
    nothing = "goal = NULL, error_message = NULL, protected_salt = NULL"
    with log.connect() as connection:
        for statement, refused in (
            (trace, gone),
            (trace, "params = NULL, erased_fact_id = 'x'"),
            (trace, f"{gone}, erased_fact_id = 'x', protected_commit = NULL"),
            (trace, f"{gone}, erased_fact_id = 'x', skill_name = 'other'"),
            (ended, nothing),
            (ended, f"{nothing}, erased_fact_id = 'x', error_code = 'OTHER'"),
            (ended, "goal = 'other', error_message = NULL, protected_salt = NULL, erased_fact_id = 'x'"),
        ):
            with pytest.raises(sa.exc.IntegrityError):
                connection.execute(sa.text(statement.format(refused)), {"r": run})
        for statement, allowed in ((trace, gone), (ended, nothing)):
            connection.execute(sa.text(statement.format(f"{allowed}, erased_fact_id = 'x'")), {"r": run})
            with pytest.raises(sa.exc.IntegrityError):
                connection.execute(sa.text(statement.format(f"{allowed}, erased_fact_id = 'y'")), {"r": run})


def test_after_a_restore_the_later_erasures_are_repeated_from_a_file(
    log: LogWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOC_DATABASE_URL", log.url)
    monkeypatch.setenv("HOC_LOG_KEY_FILE", str(log.key_file))
    monkeypatch.setenv("HOC_CHECKPOINT_DIR", str(log.checkpoints))
    at = ["--tenant-id", log.tenant_id]
    first, second = start_run(log.tenant), start_run(log.tenant)
    done = hoc("erase", "run", first, *at, "--reason", "asked", "--legal-basis", "GDPR 17", "--json")
    assert (done.exit_code, json.loads(done.stdout)["erased"]) == (0, 1)
    assert hoc("erase", "run", first, *at, "--reason", "asked").exit_code == 1
    told = tmp_path / "erasures.json"
    listed = json.loads(hoc("erase", "list", *at, "--json").stdout)
    # As the file of an installation whose backup is older: two of its runs are here, a third is not.
    lost = {**listed[0], "scope_id": second}
    told.write_text(json.dumps([lost, lost, listed[0], {**lost, "scope_id": "run_later"}]))
    again = hoc("erase", "replay", *at, "--from", str(told))
    assert (again.exit_code, again.stdout.splitlines()) == (
        0,
        [
            "RUN run_later: REFERENCE_NOT_FOUND",
            f"RUN {first}: NOTHING_TO_ERASE",
            f"RUN {second}: 1 erased",
        ],
    )
    assert log.tenant.call("runs.get", {"run_id": second}).goal is None
    held = hoc("hold", "place", *at, "--scope", "tenant", "--reason", "matter 7", "--json")
    third = start_run(log.tenant)
    told.write_text(json.dumps([{**lost, "scope_id": third}]))
    stopped = hoc("erase", "replay", *at, "--from", str(told))
    assert (stopped.exit_code, stopped.stdout.strip()) == (1, f"RUN {third}: LEGAL_HOLD")
    assert "TENANT" in hoc("hold", "list", *at, "--status", "active").stdout
    hold_id = json.loads(held.stdout)["hold_id"]
    assert hoc("hold", "release", hold_id, *at, "--reason", "settled").exit_code == 0
    told.write_text("{}")
    assert hoc("erase", "replay", *at, "--from", str(told)).exit_code == 1


def test_a_value_that_went_without_an_erasure_is_still_missed(log: LogWorld, told: World) -> None:
    run = start_run(log.tenant)
    world = World(told.tenant, told.plane_id, told.rule_id, run, {})
    world.append(step(0), step(1))
    world.complete()
    quiet = "UPDATE aos_trace_steps SET params = NULL, outcome_data = NULL, protected_salt = NULL"
    trace = "trace_id IN (SELECT trace_id FROM aos_traces WHERE run_id = :run)"
    with log.connect() as connection:
        without_triggers(connection, f"{quiet} WHERE {trace}", run=run)
    assert world.proof().integrity.failure_code == "VALUE_MISSING"
    claimed = "SELECT max(fact_id) FROM log_leaves WHERE run_id = :run"
    with log.connect() as connection:
        text = f"UPDATE aos_trace_steps SET erased_fact_id = ({claimed}) WHERE {trace}"
        without_triggers(connection, text, run=run)
    assert world.proof().integrity.failure_code == "VALUE_MISSING"


def test_every_table_with_protected_members_takes_part() -> None:
    known = {*erasure.tables(heads=True), *erasure.tables(heads=False)}
    assert known == {name for name, entry in GOVERNED.items() if entry.protected} - {"tenants"}
