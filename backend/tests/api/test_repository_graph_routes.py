"""Relationships, lineage and upkeep over HTTP: statuses, entity tags, scopes and query strings."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

ROOT = "/api/v1/repository"
WHY = {"reason": "asked", "legal_basis": "law"}


@pytest.fixture
def http(client: TestClient, tenant: Tenant) -> TestClient:
    """A client with a key of the tenant."""
    client.headers.update(tenant.headers())
    return client


def make(http: TestClient, name: str, **members: Any) -> str:
    """Create an artifact over HTTP and return its id."""
    answer = http.post(f"{ROOT}/artifacts", json={"name": name, "artifact_type": "note", **members})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_a_relationship_lives_and_dies_over_http(http: TestClient) -> None:
    a, b = make(http, "a"), make(http, "b")
    body = {"source_id": a, "target_id": b, "type": "derived_from", "metadata": {"n": 1.0}}
    made = http.post(f"{ROOT}/relationships", json=body)
    assert (made.status_code, made.headers["etag"]) == (201, '"v1"')
    place = made.headers["location"]
    assert http.get(place).json() == made.json()
    assert http.get(place, headers={"If-None-Match": '"v1"'}).status_code == 304
    assert http.patch(place, json={"metadata": {"n": 2}}, headers={"If-Match": '"v9"'}).status_code == 412
    changed = http.patch(place, json={"metadata": {"n": 2}}, headers={"If-Match": '"v1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"v2"')
    again = http.post(f"{ROOT}/relationships", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "DUPLICATE_RELATIONSHIP")
    cycle = http.post(f"{ROOT}/relationships", json=body | {"source_id": b, "target_id": a})
    assert (cycle.status_code, cycle.json()["path"]) == (409, [b, a, b])
    assert len(http.get(f"{ROOT}/relationships", params={"source_id": a}).json()["items"]) == 1
    assert http.post(f"{ROOT}/query/relationships", json={"target_id": b}).json()["items"]
    assert http.post(f"{ROOT}/query/relationships/count", json={}).json() == {"count": 1}
    assert http.delete(place).status_code == 200
    assert (http.get(place).status_code, http.delete(place).json()["code"]) == (410, "ALREADY_DELETED")
    assert http.get(f"{ROOT}/relationships/rel-x").status_code == 404


def test_an_idempotent_creation_is_replayed(http: TestClient) -> None:
    body = {"source_id": make(http, "a"), "target_id": make(http, "b"), "type": "cites"}
    answers = [
        http.post(f"{ROOT}/relationships", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replay"] == "true"


def test_lineage_takes_its_bounds_from_the_query_string(http: TestClient) -> None:
    a, b, c = (make(http, name) for name in "abc")
    for source, target, kind in ((a, b, "part_of"), (b, c, "cites")):
        http.post(f"{ROOT}/relationships", json={"source_id": source, "target_id": target, "type": kind})
    wide = http.get(f"{ROOT}/artifacts/{a}/lineage", params={"types": ["part_of", "cites"], "depth": 2})
    assert [node["id"] for node in wide.json()["nodes"]] == [a, b, c]
    for query in ("depth=11", "depth=x", "max_nodes=0", "unknown=1"):
        refused = http.get(f"{ROOT}/artifacts/{a}/lineage?{query}")
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_QUERY")
    near = http.get(f"{ROOT}/artifacts/{b}/neighbors", params={"direction": "in"}).json()["items"]
    assert [(item["artifact_id"], item["type"]) for item in near] == [(a, "part_of")]
    users = http.get(f"{ROOT}/artifacts/{a}/revisions/1/consumers")
    assert (users.status_code, users.json()["items"]) == (200, [])


def test_redacted_content_is_gone_over_http(http: TestClient) -> None:
    a = make(http, "a", content="secret")
    done = http.post(f"{ROOT}/artifacts/{a}/redact", json={"revisions": "all", **WHY})
    assert (done.status_code, done.headers["etag"]) == (200, '"v2"')
    answer = http.get(f"{ROOT}/artifacts/{a}/content")
    assert (answer.status_code, answer.json()["code"]) == (410, "CONTENT_REDACTED")
    some = http.post(f"{ROOT}/artifacts/{a}/redact", json={"revisions": [1], **WHY})
    assert (some.status_code, some.json()["changed"]) == (200, False)
    bad = http.post(f"{ROOT}/artifacts/{a}/redact", json={"revisions": "1", **WHY})
    assert (bad.status_code, bad.json()["code"]) == (422, "INVALID_INPUT")


def test_upkeep_over_http(http: TestClient) -> None:
    make(http, "a", content="words")
    report = http.post(f"{ROOT}/maintenance/verify", json={})
    assert (report.status_code, report.json()["clean"]) == (200, True)
    assert http.post(f"{ROOT}/maintenance/gc", json={"dry_run": False}).json()["collected"] == 0
    assert http.post(f"{ROOT}/maintenance/search-rebuild", json={}).json() == {"artifacts": 1}


def test_upkeep_and_redaction_are_refused_without_the_admin_scope(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(scopes=("repository:read", "repository:write"))
    for path in ("/maintenance/verify", "/maintenance/gc", "/maintenance/search-rebuild"):
        assert client.post(f"{ROOT}{path}", json={}, headers=headers).status_code == 403
    body = {"revisions": "all", **WHY}
    assert client.post(f"{ROOT}/artifacts/a/redact", json=body, headers=headers).status_code == 403
    assert client.get(f"{ROOT}/relationships").status_code == 401
