"""OTLP (`traces.otlp.ingest`): spans become chained steps, once, and what nobody takes is counted."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from tests.factories.worlds import start_run

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from app.hoc_spine.spine import Spine
    from tests.factories.tenants import Tenant

PROTOBUF = {"content-type": "application/x-protobuf"}
START = 1_770_000_000_000_000_000


@pytest.fixture
def endpoint(spine: Spine) -> Iterator[str]:
    """The application on a real socket, and where its exporter sends to."""
    from app.main import create_app

    config = uvicorn.Config(create_app(spine), host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    listener.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
    server.should_exit = True
    thread.join()


def export(*spans: dict[str, Any], resource_run: str | None = None) -> ExportTraceServiceRequest:
    """Return an export of spans given by name, number, attributes, status."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    if resource_run is not None:
        put(group.resource.attributes, {"hoc.run_id": resource_run})
    scoped = group.scope_spans.add()
    scoped.scope.name = "agent"
    for given in spans:
        span = scoped.spans.add()
        number = given["number"]
        span.trace_id, span.span_id = given.get("trace_id", b"\x01" * 16), bytes([0] * 7 + [number])
        span.name = given.get("name", f"span {number}")
        span.start_time_unix_nano = given.get("start", START + number * 1_000_000)
        span.end_time_unix_nano = given.get("end", START + number * 1_000_000 + 2_500_000)
        span.status.code = 2 if given.get("failed") else 0
        put(span.attributes, given.get("attributes", {}))
    return request


def put(attributes: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        pair = attributes.add()
        pair.key = key
        kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(pair.value, kind, value)


def send(client: TestClient, tenant: Tenant, body: bytes, **headers: str) -> Any:
    return client.post("/v1/traces", content=body, headers={**tenant.headers(), **PROTOBUF, **headers})


def steps_of(tenant: Tenant, run_id: str) -> list[Any]:
    return list(tenant.call("traces.steps.list", {"run_id": run_id, "limit": 500}).items)


def test_the_official_exporter_sends_spans_into_a_run(endpoint: str, tenant: Tenant) -> None:
    run_id = start_run(tenant)
    provider = TracerProvider(resource=Resource.create({"hoc.run_id": run_id}))
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=tenant.headers(), compression=Compression.Gzip)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("planner")
    plan_attributes = {"gen_ai.usage.input_tokens": 12}
    with tracer.start_as_current_span("plan", attributes=plan_attributes):  # noqa: SIM117 - one in the other
        with tracer.start_as_current_span(
            "call", attributes={"gen_ai.operation.name": "execute_tool"}
        ) as inner:
            inner.set_status(StatusCode.ERROR, "no answer")
            inner.record_exception(ValueError("broke"))
    provider.shutdown()

    plan, call = steps_of(tenant, run_id)
    assert (plan.skill_name, plan.skill_id, plan.status, plan.usage) == (
        "plan",
        "planner",
        "success",
        {"TOKENS_INPUT": 12.0},
    )
    assert (call.skill_name, call.status, call.side_effect, call.level) == ("call", "failure", True, "ERROR")
    assert call.outcome_data["parent_span_id"] == plan.outcome_data["span_id"]
    assert call.outcome_data["status_message"] == "no answer"
    assert call.outcome_data["events"][0]["attributes"]["exception.message"] == "broke"
    assert plan.duration_ms >= call.duration_ms > 0
    assert tenant.call("traces.get", {"run_id": run_id, "attempt": 1}).input_tokens == 12


def test_spans_are_chained_by_start_and_a_repeated_export_adds_nothing(
    client: TestClient, tenant: Tenant
) -> None:
    run_id = start_run(tenant)
    body = export({"number": 3}, {"number": 1}, {"number": 1}, {"number": 2}, resource_run=run_id)
    for _ in range(2):
        reply = send(client, tenant, gzip.compress(body.SerializeToString()), **{"content-encoding": "gzip"})
        assert (reply.status_code, reply.content) == (200, b"")
        assert reply.headers["content-type"] == "application/x-protobuf"
    assert [step.skill_name for step in steps_of(tenant, run_id)] == ["span 1", "span 2", "span 3"]
    tenant.call("runs.retry", {"run_id": run_id, "from_attempt": 1, "reason": "again"})
    assert send(client, tenant, body.SerializeToString()).content == b""
    assert steps_of(tenant, run_id) == []


def test_what_nobody_takes_is_counted_and_the_rest_is_recorded(
    client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    run_id, ended = start_run(tenant), start_run(tenant)
    tenant.call("runs.complete", {"run_id": ended, "status": "succeeded"})
    body = export(
        {"number": 1, "attributes": {"hoc.run_id": run_id}},
        {"number": 2, "attributes": {"hoc.run_id": ended}},
        {"number": 3, "attributes": {"hoc.run_id": start_run(other_tenant)}},
        {"number": 4},
        {"number": 5, "attributes": {"hoc.run_id": "not\x00an id"}},
        {"number": 6, "attributes": {"hoc.run_id": run_id}, "end": 1},
        {"number": 7, "attributes": {"hoc.run_id": run_id}, "trace_id": b""},
        {"number": 8, "attributes": {"hoc.run_id": run_id, "hoc.decision_id": "dec_of_nobody"}},
        {"number": 9, "attributes": {"hoc.run_id": run_id, "note": "x" * 70_000}},
        {"number": 10, "attributes": {"hoc.run_id": run_id, "ratio": float("nan")}, "failed": True},
    )
    reply = send(client, tenant, body.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(reply.content).partial_success
    assert partial.rejected_spans == 8
    assert partial.error_message == (
        "2 not valid; 2 of no running run; 1 refused with INVALID_INPUT; 1 refused with REFERENCE_NOT_FOUND;"
        " 2 without hoc.run_id"
    )
    first, last = steps_of(tenant, run_id)
    assert (first.skill_name, last.skill_name, last.params["ratio"]) == ("span 1", "span 10", "nan")


def test_json_works_too(client: TestClient, tenant: Tenant) -> None:
    run_id = start_run(tenant)
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "name": "from json",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + 1_500_000),
        "kind": 2,
        "attributes": [{"key": "hoc.run_id", "value": {"stringValue": run_id}}],
        "laterMember": 1,
    }
    body = {
        "resourceSpans": [
            {"scopeSpans": [{"spans": [span, {**span, "spanId": "eee19b7ec3c1b175", "attributes": []}]}]}
        ]
    }
    reply = send(client, tenant, json.dumps(body).encode(), **{"content-type": "application/json"})
    assert reply.status_code == 200
    assert reply.json() == {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "1 without hoc.run_id"}}
    (step,) = steps_of(tenant, run_id)
    assert (step.skill_name, step.duration_ms) == ("from json", 1.5)
    assert step.external_id == "otlp:5b8efff798038103d269b633813fc60c:eee19b7ec3c1b174"


def test_the_operation_takes_spans_from_other_doors_too(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    span = {
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "name": "n",
        "scope_name": "",
        "kind": "SPAN_KIND_INTERNAL",
        "start_ns": START,
        "end_ns": START,
        "attributes": {},
    }
    taken = tenant.call("traces.otlp.ingest", {"run": run_id, "spans": [span, {**span, "span_id": "00" * 8}]})
    assert (taken.accepted, taken.rejected) == (1, {"not valid": 1})


def test_an_empty_export_is_a_success(client: TestClient, tenant: Tenant) -> None:
    for body in (b"", ExportTraceServiceRequest().SerializeToString()):
        assert send(client, tenant, body).status_code == 200
    reply = send(client, tenant, b"{}", **{"content-type": "application/json"})
    assert (reply.status_code, reply.json()) == (200, {})


def test_a_refusal_is_a_status_in_the_coding_of_the_request(client: TestClient, tenant: Tenant) -> None:
    bomb = gzip.compress(b"\x00" * 9_000_000)
    for body, headers, status, code in (
        (b"\xff\xff\xff", {}, 400, "MALFORMED_EXPORT"),
        (b"no gzip", {"content-encoding": "gzip"}, 400, "MALFORMED_EXPORT"),
        (gzip.compress(b"")[:-3], {"content-encoding": "gzip"}, 400, "MALFORMED_EXPORT"),
        (bomb, {"content-encoding": "gzip"}, 413, "TOO_LARGE"),
        (b"", {"content-encoding": "br"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"", {"content-type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"", {"Authorization": "Bearer hoc_no_such_key"}, 401, "INVALID_CREDENTIALS"),
    ):
        reply = send(client, tenant, body, **headers)
        assert reply.status_code == status, reply.content
        assert reply.headers["content-type"] == "application/x-protobuf"
        assert Status.FromString(reply.content).message.startswith(f"{code}: ")
    for text in (
        b'{"resourceSpans": 7}',
        b"[1]",
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"x"}]}]}]}',
    ):
        reply = send(client, tenant, text, **{"content-type": "application/json"})
        assert (reply.status_code, reply.json()["code"]) == (400, 3)
