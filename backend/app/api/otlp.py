"""L2 HTTP: OTLP over HTTP: exports of spans in protobuf or JSON, answered in kind, refusals as Status."""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from app.api.answers import Answer
from app.api.bodies import too_large
from app.api.endpoint import Call, Endpoint
from app.api.errors import HttpRefusal
from app.api.exchange import Exchange, Headers
from app.api.results import pick
from app.kernel.canonical_json import CanonicalJsonError, loads
from app.kernel.errors import ErrorKind, HocError
from app.kernel.ids import ID_PATTERN

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
RUN_ATTRIBUTE: Final = "hoc.run_id"
_IDS: Final = ("traceId", "spanId", "parentSpanId")
# google.rpc.Code of the HTTP statuses that a refusal here can have.
_RPC_CODES: Final[Mapping[int, int]] = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    408: 4,
    409: 10,
    413: 8,
    415: 3,
    422: 3,
    429: 8,
    500: 13,
    503: 14,
    504: 4,
}
_UNKNOWN: Final = 2
_ID: Final = re.compile(ID_PATTERN)


class OtlpEndpoint(Endpoint):
    """Serve the export of spans: decode, dispatch the one operation, encode what it answers."""

    def refusal(self, exchange: Exchange, answer: Answer) -> Answer:
        """Return a problem as the protobuf or JSON form of google.rpc.Status, headers and status kept."""
        problem = orjson.loads(answer.body)
        status = Status(
            code=_RPC_CODES.get(answer.status, _UNKNOWN), message=f"{problem['code']}: {problem['detail']}"
        )
        kept = [(name, value) for name, value in answer.headers if name != "content-type"]
        return _encoded(answer.status, status, exchange.headers, headers=kept, code=answer.code)

    def serve(self, call: Call) -> Answer:
        """Return the answer of one export; each run that it names has a transaction of its own.

        What comes after a run that fails is not taken; the exporter sends all again, and nothing doubles.
        """
        self.admit(call)
        context = self._context(call)
        rejected: Counter[str] = Counter()
        for run_id, spans in self._parts(call).items():
            result = self._spine.dispatch(self.operation.name, context, {"run": run_id, "spans": spans})
            if not result.success:
                raise self._refusal(result, if_none_match=None)
            rejected.update(pick(result.data, "rejected"))
        answer = ExportTraceServiceResponse()
        if rejected:
            answer.partial_success.rejected_spans = rejected.total()
            answer.partial_success.error_message = "; ".join(
                f"{count} {reason}" for reason, count in sorted(rejected.items())
            )
        return _encoded(200, answer, call.exchange.headers, headers=[("cache-control", "no-store")])

    def _parts(self, call: Call) -> dict[str | None, list[dict[str, Any]]]:
        """Return the export's spans by the run that they name; an empty export is one empty part."""
        body = _unpacked(call.body, call.exchange.headers, limit=self.max_body_bytes)
        export = ExportTraceServiceRequest()
        if _media_type(call.exchange.headers) == JSON:
            _read_json(body, export)
        else:
            try:
                export.ParseFromString(body)
            except DecodeError as error:
                raise _malformed("The body is no ExportTraceServiceRequest.") from error
        parts: dict[str | None, list[dict[str, Any]]] = {}
        for run_id, span in _spans(export):
            parts.setdefault(run_id, []).append(span)
        return parts or {None: []}


def _encoded(
    status: int,
    message: Message,
    headers_in: Headers,
    *,
    headers: list[tuple[str, str]],
    code: str | None = None,
) -> Answer:
    as_json = _is_json(headers_in)
    body = orjson.dumps(json_format.MessageToDict(message)) if as_json else message.SerializeToString()
    return Answer(status, (("content-type", JSON if as_json else PROTOBUF), *headers), body, code)


def _is_json(headers: Headers) -> bool:
    return (headers.single(b"content-type") or "").partition(";")[0].strip().lower() == JSON


def _media_type(headers: Headers) -> str:
    if _is_json(headers):
        return JSON
    if (headers.single(b"content-type") or "").partition(";")[0].strip().lower() == PROTOBUF:
        return PROTOBUF
    raise HttpRefusal(
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        f"An export is {PROTOBUF} or {JSON}.",
        headers=(("accept", f"{PROTOBUF}, {JSON}"),),
    )


def _unpacked(body: bytes, headers: Headers, *, limit: int) -> bytes:
    """Return the body without its content coding; what it unpacks to is under the same limit."""
    coding = headers.single(b"content-encoding") if b"content-encoding" in headers else "identity"
    if coding == "identity":
        return body
    if coding != "gzip":
        raise HttpRefusal(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "An export is sent as it is or in gzip.",
            headers=(("accept-encoding", "gzip"),),
        )
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise _malformed("The body is not what gzip makes.") from error
    if len(plain) > limit:
        raise too_large(limit)
    if not unpacking.eof or unpacking.unused_data:
        raise _malformed("The gzip stream of the body is not whole.")
    return plain


def _read_json(body: bytes, export: ExportTraceServiceRequest) -> None:
    if not body:
        return
    try:
        value = loads(body)
        _decode_ids(value)
        json_format.ParseDict(value, export, ignore_unknown_fields=True)
    except (CanonicalJsonError, json_format.ParseError, RecursionError, ValueError, TypeError) as error:
        raise _malformed("The body is no ExportTraceServiceRequest in JSON.") from error


def _decode_ids(value: Any) -> None:
    """Give the hexadecimal ids of OTLP the form that protobuf's JSON has for bytes."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for name in _IDS:
                if isinstance(item.get(name), str):
                    item[name] = base64.b64encode(bytes.fromhex(item[name])).decode()
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _spans(export: ExportTraceServiceRequest) -> Iterable[tuple[str | None, dict[str, Any]]]:
    for group in export.resource_spans:
        resource_run = _attributes(group.resource.attributes).get(RUN_ATTRIBUTE)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                attributes = _attributes(span.attributes)
                named = attributes.get(RUN_ATTRIBUTE, resource_run)
                run_id = named if isinstance(named, str) and _ID.fullmatch(named) else None
                yield run_id, _span(span, scoped.scope.name, attributes)


def _span(span: Span, scope_name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex() or None,
        "name": span.name,
        "scope_name": scope_name,
        "kind": Span.SpanKind.Name(span.kind) if span.kind in Span.SpanKind.values() else str(span.kind),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "failed": span.status.code == SpanStatus.STATUS_CODE_ERROR,
        "status_message": span.status.message or None,
        "attributes": attributes,
        "events": [
            {"name": event.name, "attributes": _attributes(event.attributes)} for event in span.events
        ],
    }


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if kind == "double_value" and not math.isfinite(value.double_value):
        return str(value.double_value)
    return None if kind is None else getattr(value, kind)


def _malformed(detail: str) -> HocError:
    return HocError(ErrorKind.MALFORMED, "MALFORMED_EXPORT", detail)
