"""The repository over HTTP: statuses, entity tags, bodies and headers of its routes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

ROOT = "/api/v1/repository"


@pytest.fixture
def http(client: TestClient, tenant: Tenant) -> TestClient:
    """A client with a key of the tenant."""
    client.headers.update(tenant.headers())
    return client


def make(http: TestClient, name: str = "note", **members: Any) -> dict[str, Any]:
    """Create an artifact over HTTP."""
    answer = http.post(f"{ROOT}/artifacts", json={"name": name, "artifact_type": "note", **members})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_made_artifact_is_where_the_answer_says(http: TestClient) -> None:
    answer = http.post(f"{ROOT}/artifacts", json={"name": "a", "artifact_type": "note", "content": "x"})
    assert (answer.status_code, answer.headers["etag"]) == (201, '"v1"')
    found = http.get(answer.headers["location"])
    assert found.json() == answer.json()
    assert http.get(answer.headers["location"], headers={"If-None-Match": '"v1"'}).status_code == 304


def test_numbers_pass_the_wire_unchanged(http: TestClient) -> None:
    text = '{"artifact_type":"n","metadata":{"a":1.0,"b":1e16,"c":-0.0,"d":%d,"e":1,"f":true},"name":"n"}'
    body = text % 10**40
    answer = http.post(f"{ROOT}/artifacts", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
    again = http.get(f"{ROOT}/artifacts/{answer.json()['id']}")
    for shown in (answer.text, again.text):
        assert '"metadata":{"a":1.0,"b":1e16,"c":-0.0,"d":1%s,"e":1,"f":true}' % ("0" * 40) in shown


@pytest.mark.parametrize(
    "metadata",
    ['{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":"\\u0000"}', '{"\\u0000":1}'],
)
def test_metadata_that_is_not_strict_json_is_refused(http: TestClient, metadata: str) -> None:
    body = f'{{"name":"n","artifact_type":"note","metadata":{metadata}}}'
    answer = http.post(f"{ROOT}/artifacts", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_METADATA")


def test_a_repeated_member_outside_metadata_is_malformed(http: TestClient) -> None:
    body = '{"name":"n","name":"m","artifact_type":"note"}'
    answer = http.post(f"{ROOT}/artifacts", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_JSON")


def test_a_name_or_id_with_a_forbidden_character_is_told_as_such(http: TestClient) -> None:
    for members, code in (({"name": " x"}, "INVALID_NAME"), ({"name": "x", "id": "a/b"}, "INVALID_ID")):
        answer = http.post(f"{ROOT}/artifacts", json={"artifact_type": "note", **members})
        assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize(
    ("field", "live", "deleted", "unknown"),
    [
        (None, 200, 410, 404),
        ('"v1"', 200, 410, 404),
        ('"v7", "v1"', 200, 410, 404),
        ('"v7"', 412, 410, 404),
        ("*", 200, 410, 404),
        ('W/"v1"', 412, 410, 404),
        ('"other"', 412, 410, 404),
        ("v1", 400, 400, 400),
        ("", 400, 400, 400),
    ],
)
def test_if_match_is_met_or_refused(
    http: TestClient, field: str | None, live: int, deleted: int, unknown: int
) -> None:
    headers = {} if field is None else {"If-Match": field}
    here, gone = make(http, "here"), make(http, "gone")
    assert http.delete(f"{ROOT}/artifacts/{gone['id']}").status_code == 200
    for identifier, expected in ((here["id"], live), (gone["id"], deleted), ("unknown", unknown)):
        path = f"{ROOT}/artifacts/{identifier}"
        answer = http.patch(path, json={"metadata": {"x": 1}}, headers=headers)
        assert answer.status_code == expected, answer.text
        if expected == 412:
            assert (answer.json()["code"], answer.json()["current_version"]) == ("VERSION_MISMATCH", 1)
        if expected == 400:
            assert answer.json()["code"] == "INVALID_PRECONDITION"


def test_each_form_of_update_answers_with_the_new_tag(http: TestClient) -> None:
    made = make(http, metadata={"a": 1, "b": 2})
    path = f"{ROOT}/artifacts/{made['id']}"
    patched = http.patch(path, json={"metadata": {"a": None}}, headers={"If-Match": '"v1"'})
    assert (patched.headers["etag"], patched.json()["artifact"]["metadata"]) == ('"v2"', {"b": 2})
    replaced = http.put(f"{path}/metadata", json={"n": None}, headers={"If-Match": '"v2"'})
    assert (replaced.headers["etag"], replaced.json()["artifact"]["metadata"]) == ('"v3"', {"n": None})
    data = b"\x00\xff raw"
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    stored = http.put(
        f"{path}/content?expected_digest={digest}",
        content=data,
        headers={"If-Match": '"v3"', "Content-Type": "Application/X-Thing; v=1"},
    )
    assert (stored.status_code, stored.headers["etag"]) == (200, '"v4"')
    assert stored.json()["artifact"]["media_type"] == "application/x-thing; v=1"
    again = http.patch(path, json={"metadata": {}})
    assert (again.status_code, again.json()["changed"], again.headers["etag"]) == (200, False, '"v4"')
    assert http.put(f"{path}/metadata", json=[1]).status_code == 422


def test_content_leaves_as_it_came(http: TestClient) -> None:
    data = bytes(range(256))
    made = make(http, content_base64=base64.b64encode(data).decode(), media_type="image/png")
    answer = http.get(f"{ROOT}/artifacts/{made['id']}/content")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    expected = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert answer.headers["content-digest"] == f"sha-256=:{expected}:"
    tag = {"If-None-Match": answer.headers["etag"]}
    assert http.get(f"{ROOT}/artifacts/{made['id']}/content", headers=tag).status_code == 304
    first = http.get(f"{ROOT}/artifacts/{made['id']}/revisions/1/content")
    assert first.content == data
    empty = make(http, "empty")
    assert http.get(f"{ROOT}/artifacts/{empty['id']}/content").status_code == 204


def test_a_deleted_artifact_answers_with_its_tombstone(http: TestClient) -> None:
    made = make(http)
    path = f"{ROOT}/artifacts/{made['id']}"
    deleted = http.delete(f"{path}?reason=old")
    assert (deleted.status_code, deleted.headers["etag"]) == (200, '"v2"')
    gone = http.get(path)
    assert (gone.status_code, gone.json()["code"]) == (410, "GONE")
    assert gone.json()["tombstone"]["version"] == 2
    assert gone.json()["tombstone"]["deleted_at"].endswith("Z")
    assert http.delete(path).json()["code"] == "ALREADY_DELETED"
    assert http.get(f"{path}?include_deleted=true").status_code == 200
    restored = http.post(f"{path}/restore", json={}, headers={"If-Match": '"v2"'})
    assert (restored.status_code, restored.headers["etag"]) == (200, '"v3"')


@pytest.mark.parametrize("revision", ["0", "-1", "2", "x", "1.5", "99999999999999999999"])
def test_a_path_takes_only_an_existing_revision(http: TestClient, revision: str) -> None:
    made = make(http)
    answer = http.get(f"{ROOT}/artifacts/{made['id']}/revisions/{revision}")
    assert (answer.status_code, answer.json()["code"]) == (404, "REVISION_NOT_FOUND")


@pytest.mark.parametrize(
    "query", ["revision=x", "as_of_seq=-1", "as_of_seq=1.5", "as_of=2030-01-01T00:00:00", "unknown=1"]
)
def test_a_query_of_another_form_is_refused(http: TestClient, query: str) -> None:
    made = make(http)
    answer = http.get(f"{ROOT}/artifacts/{made['id']}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_QUERY")


def test_lists_queries_and_the_feed_are_paged(http: TestClient) -> None:
    items = [{"name": f"n{i}", "artifact_type": "note", "content": "word"} for i in range(4)]
    made = http.post(f"{ROOT}/bulk/artifacts", json={"items": items})
    assert made.status_code == 201, made.text
    page = http.get(f"{ROOT}/artifacts?limit=3")
    rest = http.get(page.links["next"]["url"])
    assert [each["name"] for each in page.json()["items"] + rest.json()["items"]] == ["n0", "n1", "n2", "n3"]
    found = http.post(f"{ROOT}/query/artifacts", json={"text": "word", "limit": 2})
    assert len(found.json()["items"]) == 2
    assert "link" not in found.headers
    counted = http.post(f"{ROOT}/query/artifacts/count", json={"text": "word"})
    assert counted.json() == {"count": 4}
    feed = http.get(f"{ROOT}/changes?since_seq=1&action=CREATED&limit=2").json()
    assert ([record["seq"] for record in feed["items"]], feed["next_since_seq"]) == ([2, 3], 3)
    collections = http.get(f"{ROOT}/collections").json()
    assert [each["id"] for each in collections["items"]] == ["default"]
    assert collections["items"][0]["live_artifacts"] == 4
    assert http.get(f"{ROOT}/collections/default", headers={"If-None-Match": '"v1"'}).status_code == 304


def test_a_repeated_request_is_answered_once_more(http: TestClient) -> None:
    body = {"name": "n", "artifact_type": "note", "metadata": {"v": 1.0, "big": 10**30}}
    key = {"Idempotency-Key": "k-1"}
    first = http.post(f"{ROOT}/artifacts", json=body, headers=key)
    again = http.post(f"{ROOT}/artifacts", json=body, headers=key)
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")
    assert again.json() == first.json()
    assert '"v":1.0' in again.text
    other = http.post(f"{ROOT}/artifacts", json={**body, "name": "m"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_creation_only_if_the_id_is_new(http: TestClient) -> None:
    make(http, "a", id="art-1")
    body = {"id": "art-1", "name": "b", "artifact_type": "note"}
    assert http.post(f"{ROOT}/artifacts", json=body).status_code == 409
    assert http.post(f"{ROOT}/artifacts", json=body, headers={"If-None-Match": "*"}).status_code == 412


def test_every_route_needs_a_key_and_its_scope(http: TestClient, client: TestClient, tenant: Tenant) -> None:
    made = make(http)
    path = f"{ROOT}/artifacts/{made['id']}"
    client.headers.pop("authorization")
    assert client.get(path).status_code == 401
    reader = tenant.headers(scopes=["repository:read"])
    assert client.get(path, headers=reader).status_code == 200
    assert client.patch(path, json={"name": "x"}, headers=reader).status_code == 403
    assert client.post(f"{ROOT}/query/artifacts", json={}, headers=reader).status_code == 200
    writer = tenant.headers(scopes=["repository:write"])
    assert client.get(path, headers=writer).status_code == 403


def test_another_tenants_artifact_looks_like_none(
    http: TestClient, other_tenant: Tenant, client: TestClient
) -> None:
    made = make(http)
    headers = other_tenant.headers()
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("GET", "/revisions/1")):
        foreign = client.request(method, f"{ROOT}/artifacts/{made['id']}{path}", headers=headers)
        unknown = client.request(method, f"{ROOT}/artifacts/art_0{path}", headers=headers)
        assert (foreign.status_code, foreign.json()["detail"]) == (404, unknown.json()["detail"])


def test_a_diff_takes_from_and_to(http: TestClient) -> None:
    made = make(http, content="a\n")
    http.patch(f"{ROOT}/artifacts/{made['id']}", json={"content": "b\n"})
    answer = http.get(f"{ROOT}/artifacts/{made['id']}/diff?from=1&to=2&text=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"]["text"] == "--- from\n+++ to\n@@ -1 +1 @@\n-a\n+b\n"


def test_collections_change_over_http(http: TestClient) -> None:
    made = http.post(f"{ROOT}/collections", json={"name": "c"})
    assert (made.status_code, made.headers["etag"]) == (201, '"v1"')
    path = made.headers["location"]
    stale = http.patch(path, json={"name": "d"}, headers={"If-Match": '"v2"'})
    assert stale.json()["current_version"] == 1
    assert http.patch(path, json={"name": "d"}, headers={"If-Match": '"v1"'}).headers["etag"] == '"v2"'
    assert http.delete(path).status_code == 200
    assert http.get(path).status_code == 410
