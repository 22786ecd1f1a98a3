"""Workflow runs, bundles and packages over HTTP: statuses, tags, scopes, replays, strict documents."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

ROOT = "/api/v1/repository"
NOTE = {"name": "note", "artifact_type": "note", "content": "x"}


@pytest.fixture
def http(client: TestClient, tenant: Tenant) -> TestClient:
    """A client with a key of the tenant."""
    client.headers.update(tenant.headers())
    return client


def make(http: TestClient, path: str, **members: Any) -> dict[str, Any]:
    """Post and return the body of what was made."""
    answer = http.post(f"{ROOT}/{path}", json=members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def start(http: TestClient, **members: Any) -> str:
    """Return a running run."""
    run_id = str(make(http, "runs", operation="x", **members)["run_id"])
    assert http.post(f"{ROOT}/runs/{run_id}/transition", json={"status": "running"}).status_code == 200
    return run_id


def test_a_made_run_is_where_the_answer_says(http: TestClient) -> None:
    text = '{"operation":"x","parameters":{"a":1.0,"b":1e16,"c":%d}}'
    body = text % 10**40
    answer = http.post(f"{ROOT}/runs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["etag"]) == (201, '"v1"')
    found = http.get(answer.headers["location"])
    assert found.status_code == 200
    assert '"parameters":{"a":1.0,"b":1e16,"c":1%s}' % ("0" * 40) in found.text
    assert http.get(answer.headers["location"], headers={"If-None-Match": '"v1"'}).status_code == 304
    assert [run["run_id"] for run in http.get(f"{ROOT}/runs?status=pending&operation=x").json()["items"]] == [
        answer.json()["run_id"]
    ]


def test_the_life_of_a_run(http: TestClient) -> None:
    note = make(http, "artifacts", **NOTE)
    run_id = start(http)
    path = f"{ROOT}/runs/{run_id}"
    lease = {"worker": "w1", "lease_seconds": 60}
    held = http.post(f"{path}/claim", json=lease)
    assert (held.status_code, held.headers["etag"], held.json()["lease_owner"]) == (200, '"v2"', "w1")
    refused = http.post(f"{path}/claim", json=lease | {"worker": "w2"})
    assert (refused.status_code, refused.json()["code"]) == (409, "LEASE_HELD")
    step = http.put(f"{path}/steps/s-1", json={"position": 0, "worker": "w1"})
    assert (step.status_code, step.headers["etag"]) == (201, '"v3"')
    again = http.put(f"{path}/steps/s-1", json={"position": 0, "worker": "w1"})
    assert (again.status_code, again.json()["changed"]) == (200, False)
    stale = http.put(f"{path}/steps/s-1", json={"status": "running"}, headers={"If-Match": '"v2"'})
    assert (stale.status_code, stale.json()["code"], stale.json()["current_version"]) == (
        412,
        "VERSION_MISMATCH",
        3,
    )
    assert http.get(f"{path}/steps").json()["items"][0]["step_id"] == "s-1"
    assert http.post(f"{path}/release", json={"worker": "w1"}).json()["changed"] is True
    assert [run["run_id"] for run in http.get(f"{ROOT}/resumable-runs").json()["items"]] == [run_id]
    ref = {"artifact_id": note["id"], "revision": 1, "role": "kept"}
    linked = http.post(f"{path}/outputs", json=ref)
    assert (linked.status_code, linked.headers["etag"]) == (201, '"v4"')
    assert http.put(f"{path}/manifest", json={}).json()["code"] == "RUN_NOT_FINISHED"
    missing = http.get(f"{path}/manifest")
    assert (missing.status_code, missing.json()["code"]) == (404, "MANIFEST_NOT_FOUND")
    published = http.post(
        f"{path}/publish", json={"artifacts": [{**NOTE, "name": "n"}], "status": "succeeded"}
    )
    assert (published.status_code, published.headers["etag"]) == (201, '"v6"')
    sealed = http.put(f"{path}/manifest", json={"environment": {"a": 1.0}})
    assert (sealed.status_code, sealed.headers["etag"]) == (201, '"v7"')
    same = http.put(f"{path}/manifest", json={"environment": {"a": 1.0}})
    assert (same.status_code, same.headers["etag"]) == (200, '"v7"')
    other = http.put(f"{path}/manifest", json={"environment": {"a": 1}})
    assert (other.status_code, other.json()["code"]) == (409, "SEALED")
    assert '"environment":{"a":1.0}' in http.get(f"{path}/manifest").text
    ended = http.post(f"{path}/transition", json={"status": "running"})
    assert (ended.status_code, ended.json()["from"], ended.json()["to"], ended.json()["allowed"]) == (
        409,
        "succeeded",
        "running",
        [],
    )


def test_bundles_and_packages_are_made_and_found(http: TestClient) -> None:
    note = make(http, "artifacts", **NOTE)
    items = {"items": [{"artifact_id": note["id"], "role": "source"}]}
    made = http.post(f"{ROOT}/input-bundles", json=items)
    assert made.status_code == 201
    same = http.post(f"{ROOT}/input-bundles", json=items)
    assert (same.status_code, same.json()["id"]) == (200, made.json()["id"])
    by_digest = http.get(f"{ROOT}/input-bundles/{made.json()['bundle_digest']}")
    assert by_digest.json() == http.get(made.headers["location"]).json()
    ref = "phase://a b/?x=%2F#é"
    memory = {
        "system": "phase-memory",
        "ref": ref,
        "provenance": {"asserted_by": "ada", "asserted_at": "2026-01-01T00:00:00Z"},
    }
    packed = http.post(
        f"{ROOT}/context-packages",
        json={"name": "n", "items": [{"kind": "external_memory", "memory": memory}]},
    )
    assert packed.status_code == 201
    assert http.get(packed.headers["location"]).json() == packed.json()
    resolved = http.get(packed.headers["location"] + "?resolve=true").json()
    assert resolved["items"][0]["resolution"] == "opaque"
    query = {"memory_system": "phase-memory", "memory_ref": ref}
    found = http.get(f"{ROOT}/context-packages", params=query).json()["items"]
    assert [item["id"] for item in found] == [packed.json()["id"]]
    around = http.post(f"{ROOT}/context/artifacts/{note['id']}", json={})
    assert (around.status_code, around.json()["items"][0]["artifact_id"]) == (201, note["id"])
    assert http.get(around.headers["location"]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "runs/nobody", "RUN_NOT_FOUND"),
        ("GET", "runs/a%00b", "RUN_NOT_FOUND"),
        ("GET", "runs/nobody/steps", "RUN_NOT_FOUND"),
        ("GET", "runs/nobody/manifest", "RUN_NOT_FOUND"),
        ("GET", "input-bundles/nobody", "BUNDLE_NOT_FOUND"),
        ("GET", "input-bundles/a%00b", "BUNDLE_NOT_FOUND"),
        ("GET", "context-packages/nobody", "CONTEXT_PACKAGE_NOT_FOUND"),
        ("GET", "context-packages/a%00b", "CONTEXT_PACKAGE_NOT_FOUND"),
        ("POST", "context/artifacts/nobody", "ARTIFACT_NOT_FOUND"),
    ],
)
def test_what_is_not_there_is_not_found(http: TestClient, method: str, path: str, code: str) -> None:
    answer = http.request(method, f"{ROOT}/{path}", json=None if method == "GET" else {})
    assert (answer.status_code, answer.json()["code"]) == (404, code)


WRITES = [
    ("POST", "runs", {"operation": "x"}),
    ("POST", "runs/r/transition", {"status": "running"}),
    ("POST", "runs/r/claim", {"worker": "w", "lease_seconds": 1}),
    ("POST", "runs/r/release", {"worker": "w"}),
    ("PUT", "runs/r/steps/s", {"position": 0}),
    ("POST", "runs/r/outputs", {"artifact_id": "a", "revision": 1, "role": "r"}),
    ("POST", "runs/r/publish", {"status": "cancelled"}),
    ("PUT", "runs/r/manifest", {}),
    ("POST", "input-bundles", {"items": []}),
    ("POST", "context-packages", {"name": "n"}),
    ("POST", "context/artifacts/a", {}),
]
READS = [
    "runs", "resumable-runs", "runs/r", "runs/r/steps", "runs/r/manifest", "input-bundles/b",
    "context-packages", "context-packages/c",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=lambda value: str(value)[:40])
def test_a_write_needs_a_key_and_its_scope(
    client: TestClient, tenant: Tenant, method: str, path: str, body: dict[str, Any]
) -> None:
    assert client.request(method, f"{ROOT}/{path}", json=body).status_code == 401
    headers = tenant.headers(scopes=["repository:read"])
    answer = client.request(method, f"{ROOT}/{path}", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize("path", READS)
def test_a_read_needs_a_key_and_its_scope(client: TestClient, tenant: Tenant, path: str) -> None:
    assert client.get(f"{ROOT}/{path}").status_code == 401
    headers = tenant.headers(scopes=["repository:write"])
    assert client.get(f"{ROOT}/{path}", headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["runs", "input-bundles", "context-packages"])
def test_a_repeated_key_replays_what_was_made(http: TestClient, path: str) -> None:
    body = {"runs": {"operation": "x", "parameters": {"a": 1.0}}, "input-bundles": {"items": []}}.get(
        path, {"name": "n", "metadata": {"a": 1.0}}
    )
    headers = {"Idempotency-Key": "key-1"}
    first = http.post(f"{ROOT}/{path}", json=body, headers=headers)
    again = http.post(f"{ROOT}/{path}", json=body, headers=headers)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotent-replay"] == "true"


def test_a_repeated_key_publishes_once(http: TestClient) -> None:
    run_id = start(http)
    body = {"artifacts": [NOTE], "status": "succeeded", "manifest": {}}
    headers = {"Idempotency-Key": "key-1"}
    first = http.post(f"{ROOT}/runs/{run_id}/publish", json=body, headers=headers)
    again = http.post(f"{ROOT}/runs/{run_id}/publish", json=body, headers=headers)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert len(http.get(f"{ROOT}/artifacts").json()["items"]) == 1


@pytest.mark.parametrize(
    "bad", ['{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":"\\u0000"}']
)
@pytest.mark.parametrize(
    ("method", "path", "template", "field"),
    [
        ("POST", "runs", '{"operation":"x","parameters":%s}', "parameters"),
        ("POST", "runs", '{"operation":"x","steps":[{"step_id":"s","position":0,"inputs":%s}]}', "inputs"),
        ("PUT", "runs/r/steps/s", '{"position":0,"outputs":%s}', "outputs"),
        ("PUT", "runs/r/manifest", '{"environment":%s}', "environment"),
        (
            "PUT",
            "runs/r/manifest",
            '{"diagnostics":[{"level":"info","code":"c","message":"m","at":"2026-01-01T00:00:00Z","data":%s}]}',
            "data",
        ),
        (
            "POST",
            "runs/r/publish",
            '{"artifacts":[{"name":"n","artifact_type":"note","metadata":%s}]}',
            "metadata",
        ),
        ("POST", "runs/r/publish", '{"manifest":{"environment":%s}}', "environment"),
        ("POST", "context-packages", '{"name":"n","metadata":%s}', "metadata"),
        (
            "POST",
            "context-packages",
            '{"name":"n","items":[{"kind":"run","run_id":"r","provenance":%s}]}',
            "provenance",
        ),
    ],
)
def test_a_document_that_is_not_strict_json_is_refused(
    http: TestClient, method: str, path: str, template: str, field: str, bad: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = http.request(method, f"{ROOT}/{path}", content=template % bad, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_METADATA")
    assert answer.json()["field"] == field


def test_a_run_that_x_run_id_names_must_be_a_governed_one(http: TestClient) -> None:
    run_id = start(http)
    answer = http.post(f"{ROOT}/runs", json={"operation": "x"}, headers={"X-Run-ID": run_id})
    assert (answer.status_code, answer.json()["code"]) == (404, "RUN_NOT_FOUND")
