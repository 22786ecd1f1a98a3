"""HTTP conventions: credentials, bodies, paths, queries, identities, refusals; through probe operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.asgi_client import AsgiClient, Reply

if TYPE_CHECKING:
    from app.hoc_spine.spine import Spine
    from tests.factories.tenants import Tenant

P = "/api/v1/probe"
JSON = {"content-type": "application/json"}


def _bare(reply: Reply) -> dict[str, Any]:
    return {key: value for key, value in reply.json.items() if key not in ("request_id", "instance")}


# Credentials


def test_a_key_opens_the_door_as_bearer_and_as_api_key(http: AsgiClient, tenant: Tenant) -> None:
    key = tenant.headers()["Authorization"].split()[1]
    other = AsgiClient(http.app, headers={"X-API-Key": key})
    for client in (http, other):
        seen = client.post(f"{P}/context").json["seen"]
        assert (seen["tenant_id"], seen["actor"], seen["door"]) == (tenant.tenant_id, "user-1", "tenant")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer hoc_nobody")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer a b")],
        [("authorization", "Basic aG9jOmhvYw==")],
        [("authorization", "")],
        [("authorization", "Bearer " + "x" * 2000)],
        [("authorization", "Bearer \xff\xfe")],
        [("x-api-key", "")],
        [("x-api-key", "hoc_nobody")],
        [("x-api-key", "\xe9\x80")],
        [("authorization", "Bearer the-operator-of-the-tests")],
    ],
)
def test_whatever_is_wrong_with_a_credential_the_answer_is_the_same_401(
    stranger: AsgiClient, headers: list[tuple[str, str]]
) -> None:
    usual = stranger.get(f"{P}/things/a", headers={"x-api-key": "hoc_other"})
    reply = stranger.get(f"{P}/things/a", headers=headers)
    assert (reply.status, reply.code) == (401, "INVALID_CREDENTIALS")
    assert reply.header("www-authenticate") == 'Bearer realm="hoc"'
    assert _bare(reply) == _bare(usual)


def test_the_key_of_a_suspended_tenant_is_refused_like_an_unknown_one(
    make_app: Callable[..., Any], tenant: Tenant, stranger: AsgiClient
) -> None:
    headers = tenant.headers()
    tenant.suspend()
    reply = AsgiClient(make_app(), headers=headers).get(f"{P}/things/a")
    unknown = stranger.get(f"{P}/things/a", headers={"x-api-key": "hoc_nobody"})
    assert (reply.status, _bare(reply)) == (401, _bare(unknown))


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer a"), ("x-api-key", "a")],
        [("authorization", "Bearer a"), ("authorization", "Bearer a")],
        [("x-api-key", "a"), ("x-api-key", "b")],
    ],
)
def test_two_credentials_at_once_are_refused(stranger: AsgiClient, headers: list[tuple[str, str]]) -> None:
    reply = stranger.get(f"{P}/things/a", headers=headers)
    assert (reply.status, reply.code) == (400, "MIXED_AUTH")


def test_a_key_without_the_scope_is_forbidden(make_app: Callable[..., Any], tenant: Tenant) -> None:
    reader = AsgiClient(make_app(), headers=tenant.headers(scopes=("signals:read",)))
    assert reader.get(f"{P}/things/a").status == 200
    reply = reader.post(f"{P}/context")
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")


def test_the_operators_door_takes_the_operators_token_only(
    http: AsgiClient, stranger: AsgiClient, operator_headers: dict[str, str]
) -> None:
    seen = stranger.get(f"{P}/operator", headers=operator_headers).json["seen"]
    assert (seen["tenant_id"], seen["door"]) == ("_system", "operator")
    for reply in (http.get(f"{P}/operator"), stranger.get(f"{P}/operator")):
        assert (reply.status, reply.code) == (401, "INVALID_CREDENTIALS")


def test_without_a_configured_token_the_operators_door_is_closed(
    make_app: Callable[..., Any], make_spine: Callable[..., Spine]
) -> None:
    closed = AsgiClient(make_app(make_spine(operator_token=None)))
    for token in ("", "None", "the-operator-of-the-tests"):
        reply = closed.get(f"{P}/operator", headers={"authorization": f"Bearer {token}"})
        assert (reply.status, reply.code) == (401, "INVALID_CREDENTIALS")


# Bodies


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"nul",
        b'{"data":NaN}',
        b'{"data":-Infinity}',
        b'{"data":1e999}',
        b'{"data":1,"data":1}',
        b'{"data":{"a":1,"a":2}}',
        b'{"data":"\xff"}',
        b'\xef\xbb\xbf{"data":1}',
        b'{"data":"\\u0000"}',
        b'{"data":"\\ud800"}',
        b'{"\\u0000":1}',
        b'{"data":1} {"data":2}',
        b'{"data":01}',
        b"{'data':1}",
        b'{"data":"tab\there"}',
        b'{"data":' + b"9" * 5000 + b"}",
        b'{"data":' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"data":' + b'{"a":' * 50_000,
    ],
    ids=lambda text: text[:24].decode("latin-1"),
)
def test_what_is_not_strict_json_is_malformed(http: AsgiClient, text: bytes) -> None:
    reply = http.request("POST", f"{P}/echo", headers=JSON, body=text)
    assert (reply.status, reply.code) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("text", [b"[]", b'"text"', b"1", b"null", b"true", b'"[[[[{{{{' + b"[" * 200 + b'"'])
def test_a_body_that_is_no_object_does_not_fit(http: AsgiClient, text: bytes) -> None:
    reply = http.request("POST", f"{P}/echo", headers=JSON, body=text)
    assert (reply.status, reply.code) == (422, "INVALID_INPUT")
    assert reply.json["errors"] == [{"pointer": "", "code": "object_type", "detail": "must be an object"}]


def test_values_come_back_exactly_as_they_were_written(http: AsgiClient) -> None:
    text = (
        b'{"array":[1,1.0,-0.0,1e16,1.5e-7,true,null],"big":100000000000000000000000000000000000000000,'
        b'"text":"\xc3\xa9\xe2\x80\xa8<>&\\u001f\\"","tree":{"":{"a":{}}}}'
    )
    reply = http.request("POST", f"{P}/echo", headers=JSON, body=b'{"data":' + text + b"}")
    assert reply.status == 200
    assert b'"data":' + text + b"}" in reply.body


def test_a_hundred_levels_are_not_too_deep(http: AsgiClient) -> None:
    text = b'{"data":' + b"[" * 99 + b"]" * 99 + b"}"
    assert http.request("POST", f"{P}/echo", headers=JSON, body=text).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "application/json; charset=latin-1")],
        [("content-type", "application/jsonp")],
        [("content-type", "application/json"), ("content-type", "application/json")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
    ],
)
def test_a_body_of_another_media_type_is_unsupported(
    http: AsgiClient, headers: list[tuple[str, str]]
) -> None:
    reply = http.request("POST", f"{P}/echo", headers=headers, body=b'{"data":1}')
    assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON;charset=UTF-8", "application/merge-patch+json"]
)
def test_json_goes_by_several_media_types(http: AsgiClient, media_type: str) -> None:
    headers = {"content-type": media_type}
    assert http.request("POST", f"{P}/echo", headers=headers, body=b'{"data":1}').status == 200


def test_an_absent_body_counts_as_an_empty_object(http: AsgiClient) -> None:
    assert http.post(f"{P}/context").status == 200
    assert http.request("POST", f"{P}/context", body=b"").status == 200
    reply = http.post(f"{P}/things")
    assert (reply.status, reply.code) == (422, "INVALID_INPUT")
    assert {error["code"] for error in reply.json["errors"]} == {"missing"}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"thing_id": "t", "text": "x", "more": 1}, "/more"),
        ({"thing_id": "t", "text": "x", "tenant_id": "other"}, "/tenant_id"),
        ({"thing_id": "t", "text": 5}, "/text"),
        ({"thing_id": "t", "text": ""}, "/text"),
        ({"thing_id": "t", "text": "x" * 65}, "/text"),
        ({"thing_id": "no id", "text": "x"}, "/thing_id"),
        ({"thing_id": "id\n", "text": "x"}, "/thing_id"),
        ({"thing_id": None, "text": "x"}, "/thing_id"),
        ({"text": "x"}, "/thing_id"),
    ],
)
def test_members_that_do_not_fit_are_named(http: AsgiClient, members: dict[str, Any], field: str) -> None:
    reply = http.post(f"{P}/things", members)
    assert (reply.status, reply.code) == (422, "INVALID_INPUT")
    assert field in {error.get("pointer", error.get("field")) for error in reply.json["errors"]}
    assert "other" not in reply.body.decode()


def test_a_member_that_the_path_names_is_unknown_in_the_body(http: AsgiClient) -> None:
    reply = http.request("PATCH", f"{P}/things/a", json={"thing_id": "a"})
    assert (reply.status, reply.code) == (422, "INVALID_INPUT")
    assert reply.json["errors"][0]["pointer"] == "/thing_id"


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_a_body_where_none_belongs_is_refused(http: AsgiClient, method: str) -> None:
    reply = http.request(method, f"{P}/things/a", headers=JSON, body=b"{}")
    assert reply.status == 400
    assert method == "HEAD" or reply.code == "BODY_NOT_ALLOWED"


# Sizes


def test_a_body_over_the_limit_is_refused_by_its_declared_length(http: AsgiClient) -> None:
    reply = http.request("PUT", f"{P}/things/a/content", body=b"x" * 2049)
    assert (reply.status, reply.code) == (413, "TOO_LARGE")
    assert (reply.json["limit"], reply.json["actual"]) == (2048, 2049)
    assert reply.header("ratelimit") is not None


def test_a_body_over_the_limit_is_refused_while_it_streams(http: AsgiClient) -> None:
    endless = (b"x" * 1024 for _ in range(1_000_000))
    assert http.request("PUT", f"{P}/things/a/content", body=[b"x" * 1024] * 2).status == 200
    reply = http.request("PUT", f"{P}/things/a/content", body=[next(endless) for _ in range(3)])
    assert (reply.status, reply.code) == (413, "TOO_LARGE")


def test_a_length_that_lies_does_not_lift_the_limit(http: AsgiClient) -> None:
    lying = [("content-length", "10")]
    reply = http.request("PUT", f"{P}/things/a/content", headers=lying, body=[b"x" * 2048, b"x"])
    assert (reply.status, reply.code) == (413, "TOO_LARGE")


@pytest.mark.parametrize("length", ["-1", "ten", "1e9", "9" * 30, "", "\xb2"])
def test_a_length_that_is_no_number_is_never_trusted(http: AsgiClient, length: str) -> None:
    reply = http.request(
        "POST", f"{P}/echo", headers=[*JSON.items(), ("content-length", length)], body=[b"{}"]
    )
    assert reply.status == 200


def test_the_common_limit_holds_where_a_route_has_none(
    make_app: Callable[..., Any], make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    small = AsgiClient(make_app(make_spine(max_body_bytes=1024)), headers=tenant.headers())
    assert small.post(f"{P}/echo", {"data": "x" * 1000}).status == 200
    reply = small.post(f"{P}/echo", {"data": "x" * 1024})
    assert (reply.status, reply.code) == (413, "TOO_LARGE")


def test_ten_megabytes_are_refused_before_they_are_read(http: AsgiClient, stranger: AsgiClient) -> None:
    large = b'{"data":"' + b"x" * 10_000_000 + b'"}'
    assert http.request("POST", f"{P}/echo", headers=JSON, body=large).status == 413
    assert stranger.request("POST", f"{P}/echo", headers=JSON, body=large).status == 401


@pytest.mark.parametrize("body", [b"x" * 2049, b"x" * 100_000, [b"x" * 2049]])
def test_a_stranger_learns_nothing_about_the_limits(stranger: AsgiClient, body: Any) -> None:
    reply = stranger.request("PUT", f"{P}/things/a/content", body=body)
    assert (reply.status, reply.code) == (401, "INVALID_CREDENTIALS")


def test_a_client_that_hangs_up_within_its_body_changes_nothing(http: AsgiClient) -> None:
    reply = http.request("POST", f"{P}/echo", headers=JSON, body=[b'{"da'], vanish=True)
    assert reply.status == 0


# Paths and methods


@pytest.mark.parametrize(
    "segment", ["%00", "a%20b", "a+b", "%C3%A9", "%FF", "x" * 129, "-a", "a%0A", "a%0d%0a", "~", ".."]
)
def test_what_cannot_be_an_id_is_answered_like_an_unknown_object(http: AsgiClient, segment: str) -> None:
    unknown = http.get(f"{P}/things/unknown-1")
    assert (unknown.status, unknown.code) == (404, "THING_NOT_FOUND")
    reply = http.get(f"{P}/things/{segment}")
    assert (reply.status, _bare(reply)) == (404, _bare(unknown))
    changed = http.request("PATCH", f"{P}/things/{segment}", json={"text": "x"})
    assert (changed.status, _bare(changed)) == (404, _bare(unknown))


@pytest.mark.parametrize("revision", ["0", "-1", "x", "1.0", "01", "+1", "9" * 40, "%D9%A1", "1_0", "%20%31"])
def test_a_path_parameter_that_is_no_number_is_not_found(http: AsgiClient, revision: str) -> None:
    assert http.get(f"{P}/things/a/revisions/3").json["seen"] == {"revision": 3}
    reply = http.get(f"{P}/things/a/revisions/{revision}")
    assert (reply.status, reply.code) == (404, "REVISION_NOT_FOUND")


@pytest.mark.parametrize(
    "target",
    ["/", "/nothing", P, f"{P}/things/", f"{P}//things", f"{P}/things//", f"/{P}/things", "/api/v1", "/docs"],
)
def test_a_path_without_a_route_is_not_found(http: AsgiClient, target: str) -> None:
    reply = http.get(target)
    assert (reply.status, reply.code) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "BREW", "get", "CONNECT"])
def test_a_method_that_a_path_does_not_have_is_refused_with_those_it_has(
    http: AsgiClient, method: str
) -> None:
    reply = http.request(method, f"{P}/things")
    assert (reply.status, reply.code) == (405, "METHOD_NOT_ALLOWED")
    assert reply.header("allow") == "GET, HEAD, POST"
    assert http.request(method, "/healthz").header("allow") == "GET, HEAD"


def test_head_answers_like_get_without_the_body(http: AsgiClient) -> None:
    refused = http.request("HEAD", f"{P}/operator")
    assert (refused.status, refused.body) == (401, b"")
    get, head = http.get(f"{P}/things/a"), http.request("HEAD", f"{P}/things/a")
    assert head.body == b""
    assert head.status == get.status == 200
    assert head.header("content-length") == get.header("content-length")
    assert head.header("etag") == get.header("etag")


def test_heads_without_bounds_are_refused(http: AsgiClient) -> None:
    reply = http.get(f"{P}/things?from=" + "x" * 20_000)
    assert (reply.status, reply.code) == (414, "URI_TOO_LONG")
    assert http.get("/" + "x" * 20_000).status == 414
    reply = http.get(f"{P}/things/a", headers=[(f"x-{number}", "y") for number in range(101)])
    assert (reply.status, reply.code) == (431, "HEADERS_TOO_LARGE")
    assert http.get(f"{P}/things/a", headers={"x-long": "y" * 40_000}).status == 431


# Queries


def test_query_values_arrive_as_the_operations_types(http: AsgiClient) -> None:
    query = (
        "colour=RED&size=-5&weight=2.5&live=false&since=2026-01-01T02:00:00%2B02:00"
        "&tags=a&tags=b+c&from=x%26y&limit=500"
    )
    seen = http.get(f"{P}/things?{query}").json["items"][0]["seen"]
    assert seen == {
        "colour": "RED",
        "size": -5,
        "weight": 2.5,
        "live": False,
        "since": "2026-01-01T00:00:00Z",
        "tags": ["a", "b c"],
        "from": "x&y",
        "limit": 500,
    }


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("color=RED", "color"),
        ("tenant_id=other", "tenant_id"),
        ("origin=x", "origin"),
        ("Colour=RED", "Colour"),
        ("colour=RED&colour=RED", "colour"),
        ("colour=GREEN", "colour"),
        ("colour=", "colour"),
        ("colour", "colour"),
        ("size=1.0", "size"),
        ("size=1_0", "size"),
        ("size=+1", "size"),
        ("size=%201", "size"),
        ("size=true", "size"),
        ("size=" + "9" * 40, "size"),
        ("weight=NaN", "weight"),
        ("weight=inf", "weight"),
        ("weight=1e999", "weight"),
        ("live=yes", "live"),
        ("live=1", "live"),
        ("since=2026-01-01T00:00:00", "since"),
        ("since=1767225600", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("since=yesterday", "since"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=", "cursor"),
        ("from=%00", "from"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(http: AsgiClient, query: str, parameter: str) -> None:
    reply = http.get(f"{P}/things?{query}")
    assert (reply.status, reply.code) == (400, "INVALID_QUERY")
    assert [error["parameter"] for error in reply.json["errors"]] == [parameter]


@pytest.mark.parametrize("query", ["from=%FF", "from=%ED%A0%80", "&".join(f"tags={n}" for n in range(300))])
def test_a_query_that_cannot_be_read_is_refused(http: AsgiClient, query: str) -> None:
    reply = http.get(f"{P}/things?{query}")
    assert (reply.status, reply.code) == (400, "INVALID_QUERY")


def test_a_query_on_a_route_that_takes_a_body_is_refused(http: AsgiClient) -> None:
    reply = http.post(f"{P}/echo?data=1", {"data": 1})
    assert (reply.status, reply.code) == (400, "INVALID_QUERY")


def test_bytes_of_a_query_beyond_ascii_are_refused(http: AsgiClient) -> None:
    reply = http.get(f"{P}/things?from=".encode() + b"\xc3\xa9")
    assert (reply.status, reply.code) == (400, "INVALID_QUERY")


def test_a_list_links_to_its_next_page_with_the_same_filter(http: AsgiClient) -> None:
    first = http.get(f"{P}/things?colour=RED&from=a%20b")
    assert first.json["next_cursor"] == "next+page"
    link = first.header("link")
    assert link == f'<{P}/things?colour=RED&from=a+b&cursor=next%2Bpage>; rel="next"'
    last = http.get(link[1:].split(">")[0])
    assert last.json["items"][0]["seen"]["from"] == "a b"
    assert (last.json["next_cursor"], last.header("link")) == (None, None)


# Identities


def test_given_identities_are_echoed_and_reach_the_operation(http: AsgiClient) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"x-request-id": "req:1.a_b-c", "traceparent": trace}
    reply = http.post(f"{P}/context", headers=headers)
    assert (reply.header("x-request-id"), reply.header("traceparent")) == ("req:1.a_b-c", trace)
    assert (reply.json["seen"]["request_id"], reply.json["seen"]["traceparent"]) == ("req:1.a_b-c", trace)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\r\nset-cookie: x", "a\n", "\xe9", "-a", "a\x00"])
def test_a_request_id_that_is_no_id_is_replaced(http: AsgiClient, given: str) -> None:
    reply = http.get(f"{P}/things/a", headers={"x-request-id": given})
    assert str(reply.header("x-request-id")).startswith("req_")
    assert reply.header("set-cookie") is None


@pytest.mark.parametrize(
    "given",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        "nonsense",
    ],
)
def test_an_invalid_traceparent_is_ignored(http: AsgiClient, given: str) -> None:
    reply = http.post(f"{P}/context", headers={"traceparent": given})
    assert (reply.status, reply.header("traceparent")) == (200, None)
    assert reply.json["seen"]["traceparent"] is None


@pytest.mark.parametrize("run_id", ["run-unknown", "no id", "x" * 200, ""])
def test_a_write_for_a_run_that_is_not_there_is_not_found(http: AsgiClient, run_id: str) -> None:
    reply = http.post(f"{P}/context", headers={"x-run-id": run_id})
    assert (reply.status, reply.code) == (404, "RUN_NOT_FOUND")


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "caf\xe9", "a\tb", "a\x7f"])
def test_an_idempotency_key_has_a_form(http: AsgiClient, key: str) -> None:
    reply = http.post(f"{P}/things", {"thing_id": "t", "text": "x"}, headers={"idempotency-key": key})
    assert (reply.status, reply.code) == (400, "INVALID_IDEMPOTENCY_KEY")
    twice = [("idempotency-key", "a"), ("idempotency-key", "a")]
    assert http.post(f"{P}/context", headers=twice).status == 400


def test_the_same_key_and_body_replay_the_answer(http: AsgiClient) -> None:
    body = {"thing_id": "t", "text": "x", "data": {"a": [1.0, 10**30]}}
    first = http.request("POST", f"{P}/things", headers=[("idempotency-key", "k 1")], json=body)
    again = http.request("POST", f"{P}/things", headers=[("idempotency-key", "k 1")], json=body)
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert (first.header("idempotent-replay"), again.header("idempotent-replay")) == (None, "true")
    assert first.header("location") == again.header("location") == f"{P}/things/t"
    other = http.request(
        "POST", f"{P}/things", headers=[("idempotency-key", "k 1")], json={**body, "text": "y"}
    )
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED")


# Preconditions


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 200),
        (['"v7"'], 200),
        (['"v6", "v7"'], 200),
        (['"v6"', '"v7"'], 200),
        ([' "v7" ,"v1"'], 200),
        (["*"], 200),
        ([" * "], 200),
        (['"v8"'], 412),
        (['W/"v7"'], 412),
        (['"7"'], 412),
        (['"v07"'], 412),
        (['""'], 412),
        (['"a,b"'], 412),
        (["v7"], 400),
        ([""], 400),
        ([" "], 400),
        (['"v7'], 400),
        (['"v7" "v8"'], 400),
        (['"v7",'], 400),
        ([",,"], 400),
        (['*, "v7"'], 400),
        (['w/"v7"'], 400),
        (['"v7"', "*"], 400),
        (['"v 7"'], 400),
    ],
)
def test_if_match_decides_a_change(http: AsgiClient, fields: list[str], status: int) -> None:
    headers = [("if-match", field) for field in fields]
    reply = http.request("PATCH", f"{P}/things/a", headers=headers, json={"text": "x"})
    assert reply.status == status
    if status == 200:
        assert reply.header("etag") == '"v8"'
    elif status == 412:
        assert (reply.code, reply.json["current_version"]) == ("VERSION_MISMATCH", 7)
    else:
        assert reply.code == "INVALID_PRECONDITION"
    missing = http.request("PATCH", f"{P}/things/unknown", headers=headers, json={"text": "x"})
    assert missing.status == (400 if status == 400 else 404)


@pytest.mark.parametrize(
    ("field", "status"),
    [('"v7"', 304), ('W/"v7"', 304), ('"v1", "v7"', 304), ("*", 304), ('"v8"', 200), ("v7", 400), ("", 400)],
)
def test_if_none_match_spares_what_is_known(http: AsgiClient, field: str, status: int) -> None:
    reply = http.get(f"{P}/things/a", headers={"if-none-match": field})
    assert reply.status == status
    if status == 304:
        assert (reply.body, reply.header("etag"), reply.header("content-type")) == (b"", '"v7"', None)


def test_a_create_that_must_not_meet_anything_meets_something(http: AsgiClient) -> None:
    body = {"thing_id": "taken", "text": "x"}
    assert http.post(f"{P}/things", body).status == 409
    reply = http.post(f"{P}/things", body, headers={"if-none-match": "*"})
    assert reply.status == 412


# Answers


def test_a_status_may_depend_on_the_result(http: AsgiClient) -> None:
    assert http.request("PATCH", f"{P}/things/a", json={"text": "later"}).status == 202


def test_stored_content_is_never_rendered(http: AsgiClient) -> None:
    reply = http.get(f"{P}/things/a/content")
    assert (reply.status, reply.body) == (200, b"\x00\xffbytes")
    assert reply.header("content-type") == "text/html"
    assert reply.header("content-disposition") == "attachment"
    assert reply.header("x-content-type-options") == "nosniff"
    assert reply.header("content-digest") == "sha-256=:fFhW70rwMhLdYzCbf7xqp4LGjaEm+XPLiA7TQKYx2r0=:"
    evil = http.get(f"{P}/things/evil/content")
    assert (evil.header("content-type"), evil.header("x")) == ("application/octet-stream", None)
    empty = http.get(f"{P}/things/empty/content")
    assert (empty.status, empty.body, empty.header("content-length")) == (204, b"", None)


def test_raw_content_reaches_the_operation_with_its_media_type(http: AsgiClient) -> None:
    headers = {"content-type": "image/png"}
    reply = http.request("PUT", f"{P}/things/a/content?policy=RED", headers=headers, body=b"\x00\xff")
    assert reply.json["seen"] == {"size": 2, "media_type": "image/png", "policy": "RED"}
    reply = http.request("PUT", f"{P}/things/a/content?policy=GREEN", body=b"")
    assert (reply.status, reply.code) == (400, "INVALID_QUERY")
    assert http.request("PUT", f"{P}/things/a%20b/content", body=b"x").code == "THING_NOT_FOUND"


def test_a_bug_says_nothing_but_where_to_look(http: AsgiClient) -> None:
    reply = http.get(f"{P}/fail")
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert b"swordfish" not in reply.body
    assert b"RuntimeError" not in reply.body


def test_busy_says_when_to_come_back(http: AsgiClient) -> None:
    reply = http.get(f"{P}/busy")
    assert (reply.status, reply.code, reply.header("retry-after")) == (503, "BUSY", "3")
