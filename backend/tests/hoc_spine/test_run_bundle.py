"""The bundle of a run: one cut, the same bytes, refused where it must be, verified by the file alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.sequencer import LogSequencer
from app.main import create_app
from tests.factories.bundles import header_of, load_verifier
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.tenants import make_tenant
from tests.factories.worlds import World, make_world, start_run, step, without_triggers

verifier = load_verifier()


@pytest.fixture(scope="module")
def log(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LogWorld]:
    """One tenant with a log of its own and a key, for all tests of this module; each has a run of its own."""
    folder = tmp_path_factory.mktemp("log")
    write_new_key(folder / "log-key.pem")
    with standing_world(databases.new(dialect), folder, facts=0) as world:
        yield world


@pytest.fixture(scope="module")
def plane(log: LogWorld) -> World:
    """A plane with documents, bound to a rule."""
    return make_world(log.spine, log.tenant)


@pytest.fixture
def running(plane: World) -> World:
    """A run that has just begun."""
    return plane.with_run_of_its_own()


@pytest.fixture
def ended(running: World) -> World:
    """A completed run of three steps with one allowed and one denied access."""
    running.access()
    running.append(step(0), step(1))
    running.access(purpose="marketing")
    running.append(step(2))
    running.complete()
    return running


def bundle(world: World, **query: Any) -> bytes:
    """Return the bytes of the run's bundle."""
    made = world.tenant.call("runs.bundle", {"run_id": world.run_id, **query})
    data = bytes(made.content.path.read_bytes())
    assert made.content_digest == f"sha256:{sha256(data).hexdigest()}"
    return data


def refusal(world: World, **query: Any) -> str | None:
    """Return the code that refuses the run's bundle."""
    result = world.tenant.dispatch("runs.bundle", {"run_id": world.run_id, "wait_ms": 0, **query})
    return result.error_code


def check(log: LogWorld, data: bytes, **options: Any) -> Any:
    """Return the report of the verifier file, which trusts the log's key."""
    keys = (verifier.parse_vkey(log.key.vkey(log.origin)),)
    return verifier.verify_bundle(io.BytesIO(data), verifier.Options(keys=keys, strict=True, **options))


def test_a_bundle_proves_the_run_to_whoever_has_the_key(log: LogWorld, ended: World) -> None:
    report = check(log, bundle(ended, include_payloads=True))
    assert report.verdict == "VERIFIED", report.failures
    figures = report.figures
    assert (figures["tenant"], figures["run"]) == (log.tenant_id, ended.run_id)
    assert (figures["completeness"], figures["steps"], figures["late"]) == ("COMPLETE", 3, 0)
    # Three steps, the goal of the run, and whatever else its facts commit to.
    values = dict(figures["values"])
    assert values.pop("intact") >= 4
    assert values == {"erased": 0, "tampered": 0, "withheld": 0}
    claims = {claim["claim"]: claim["value"] for claim in figures["claims"]}
    assert claims["RETRIEVED_ONLY_FROM"] == [ended.plane_id]
    assert claims["RETRIEVALS"] == {"allowed": 1, "denied": 1, "failed": 0}
    assert claims["EVALUATIONS"] == [{"attempt": 1, "outcome": "NO_VIOLATION", "run_status": "succeeded"}]
    assert (claims["BREACHES"], claims["STEPS"]) == (0, 3)
    assert claims["SNAPSHOT"].startswith("snap_")


def test_two_bundles_of_one_cut_are_byte_identical(log: LogWorld, ended: World) -> None:
    first = bundle(ended, include_payloads=True)
    assert bundle(ended, include_payloads=True) == first
    withheld = bundle(ended)
    assert check(log, withheld).figures["values"]["withheld"] == check(log, first).figures["values"]["intact"]
    assert b"Answer a customer" in first
    assert b"Answer a customer" not in withheld
    # Another cut is another attestation over the same facts.
    start_run(log.tenant)
    log.sequence()
    assert bundle(ended) != withheld
    sections = [
        [{name: part[name] for name in ("name", "lines")} for part in header_of(one)["sections"]]
        for one in (withheld, bundle(ended))
    ]
    assert sections[0] == sections[1]


def test_late_facts_are_a_section_of_their_own_that_grows(log: LogWorld, ended: World) -> None:
    before = bundle(ended)
    make_rule_late(log, ended)
    log.sequence()
    after = bundle(ended)
    report = check(log, after)
    assert (report.verdict, report.figures["late"]) == ("VERIFIED", 1)
    assert check(log, before).figures["late"] == 0
    count = check(log, before).figures["facts"]
    assert after.split(b"\n")[1 : count + 1] == before.split(b"\n")[1 : count + 1]
    late = json.loads(after.split(b"\n")[count + 1])
    assert (late["type"], late["late"], late["no"]) == ("audit", True, 1)


def make_rule_late(log: LogWorld, ended: World) -> None:
    """Make a rule because of the run, which has ended."""
    rule = {
        "kind": "ACCESS",
        "name": f"after {ended.run_id}",
        "effect": "DENY",
        "scope": "TENANT",
        "condition": "true",
    }
    log.tenant.call("policies.rules.create", rule, run_id=ended.run_id)


def test_a_run_that_goes_on_has_a_bundle_only_when_it_is_asked_for(log: LogWorld, running: World) -> None:
    running.append(step(0))
    assert refusal(running) == "RUN_OPEN"
    data = bundle(running, allow_open=True)
    assert check(log, data).codes == {"RUN_OPEN"}
    report = check(log, data, allow_open=True)
    assert (report.verdict, report.figures["completeness"]) == ("VERIFIED", "OPEN"), report.failures
    assert report.figures["claims"] == []


def test_a_retried_run_has_a_chain_for_each_attempt(log: LogWorld, running: World) -> None:
    running.append(step(0))
    log.tenant.call("runs.retry", {"run_id": running.run_id, "from_attempt": 1, "reason": "again"})
    running.append(step(0), step(1))
    running.complete()
    report = check(log, bundle(running))
    assert report.verdict == "VERIFIED", report.failures
    assert report.figures["steps"] == 3


def test_claims_count_what_governance_recorded(log: LogWorld, running: World) -> None:
    running.append(step(0, status="failure"))
    failed = {"status": "failed", "error_code": "AGENT_CRASH", "error_message": "it crashed"}
    log.tenant.call("runs.complete", {"run_id": running.run_id, **failed})
    report = check(log, bundle(running, include_payloads=True))
    assert report.verdict == "VERIFIED", report.failures
    claims = {claim["claim"]: claim["value"] for claim in report.figures["claims"]}
    assert (claims["INCIDENTS"], claims["LESSONS"], claims["BREACHES"]) == (1, 1, 0)
    assert claims["EVALUATIONS"][0]["run_status"] == "failed"
    # What the run had committed to before it had an error message is superseded, and nowhere any more.
    assert (report.figures["values"]["withheld"], report.figures["values"]["tampered"]) == (1, 0)


def test_nothing_is_signed_over_damaged_records(log: LogWorld, ended: World) -> None:
    assert refusal(ended, wait_ms=1000) is None
    with log.connect() as connection:
        name = "UPDATE aos_trace_steps SET skill_name = :n WHERE step_index = 1 AND trace_id = :t"
        of_trace = {"t": f"trace_{ended.run_id}"}
        without_triggers(connection, name, n="x", **of_trace)
        result = log.tenant.dispatch("runs.bundle", {"run_id": ended.run_id})
        assert result.error is not None
        assert (result.error_code, result.error.extra["failure_code"]) == (
            "INTEGRITY_FAILED",
            "FIELD_MISMATCH",
        )
        without_triggers(connection, name, n="step 1", **of_trace)
        assert refusal(ended, include_payloads=True) is None
        without_triggers(connection, "UPDATE runs SET goal = 'x' WHERE run_id = :r", r=ended.run_id)
    assert refusal(ended, include_payloads=True) == "INTEGRITY_FAILED"


def test_a_bundle_waits_for_the_checkpoint_that_covers_the_run(log: LogWorld, ended: World) -> None:
    other = LogSequencer(log.another_spine())
    # Somebody else is at work, and does not get on.
    assert not other.run_round(sign_all=True).held
    try:
        make_rule_late(log, ended)
        assert refusal(ended) is None, "late facts are not waited for"
        second = replace(ended, run_id=start_run(log.tenant))
        second.complete()
        result = log.tenant.dispatch("runs.bundle", {"run_id": second.run_id, "wait_ms": 60})
        assert result.error is not None
        assert (result.error_code, result.error.retry_after) == ("CHECKPOINT_PENDING", 1)
    finally:
        other.release()
    assert check(log, bundle(second)).verdict == "VERIFIED"


def test_a_halted_log_is_not_waited_for(log: LogWorld, ended: World) -> None:
    state = "UPDATE log_heads SET state = :s, halted_reason = :r WHERE tenant_id = :t"
    with log.connect() as connection:
        without_triggers(connection, state, s="HALTED", r="ROOT_MISMATCH", t=log.tenant_id)
        assert refusal(ended, wait_ms=10_000) == "LOG_HALTED"
        without_triggers(connection, state, s="ACTIVE", r=None, t=log.tenant_id)


def test_without_a_key_there_is_no_bundle(log: LogWorld, ended: World) -> None:
    spine = log.another_spine(log_key_file=log.key_file.parent, log_sequencer="off")
    context = log.tenant.context()
    result = spine.dispatch("runs.bundle", context, {"run_id": ended.run_id})
    assert result.error_code == "NO_SIGNING_KEY"
    log.sequence()
    assert spine.dispatch("runs.bundle", context, {"run_id": ended.run_id}).error_code == "NO_SIGNING_KEY"


def test_a_run_too_large_is_refused_before_anything_is_read(log: LogWorld, ended: World) -> None:
    assert refusal(ended, wait_ms=1000) is None
    counted = "UPDATE run_fact_counters SET late_count = :n WHERE tenant_id = :t AND run_id = :r"
    with log.connect() as connection:
        without_triggers(connection, counted, n=100_001, t=log.tenant_id, r=ended.run_id)
    assert refusal(ended) == "BUNDLE_TOO_LARGE"


def test_a_bundle_shows_that_the_log_continues_what_the_auditor_kept(log: LogWorld, ended: World) -> None:
    log.sequence()
    kept = log.tenant.call("log.checkpoint").content
    size = verifier.parse_checkpoint(kept).size
    start_run(log.tenant)
    log.sequence()
    assert check(log, bundle(ended, from_size=size), old=kept).verdict == "VERIFIED"
    assert check(log, bundle(ended), old=kept).codes == {"INCONSISTENT"}
    for wrong in (0, 10_000):
        assert refusal(ended, from_size=wrong) == "INVALID_TREE_SIZE"


def test_over_http_a_bundle_is_a_file_with_its_name_and_digest(log: LogWorld, ended: World) -> None:
    # Not entered: the application's end would be the end of the log's spine.
    client = TestClient(create_app(log.spine))
    path = f"/api/v1/runs/{ended.run_id}/bundle"
    answer = client.get(f"{path}?include_payloads=true", headers=log.tenant.headers(scopes=["logs:read"]))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.hoc.run-proof+jsonl"
    assert answer.headers["content-disposition"] == f'attachment; filename="{ended.run_id}.hocproof"'
    assert "snapshot-digest" not in answer.headers
    assert check(log, answer.content).verdict == "VERIFIED"
    stranger = make_tenant(log.spine)
    assert client.get(path, headers=stranger.headers()).json()["code"] == "RUN_NOT_FOUND"
    refused = client.get(path, headers=log.tenant.headers(scopes=["runs:read"]))
    assert refused.status_code == 403
