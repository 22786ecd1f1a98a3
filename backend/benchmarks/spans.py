"""Benchmarks: OpenTelemetry spans over OTLP/HTTP; the floor is a plain insert of the rows they become."""

from __future__ import annotations

import gzip
import itertools
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.load import Call, Http, load
from benchmarks.report import Round
from benchmarks.stage import Stage
from benchmarks.works import StepBatches

# From what an agent flushes between its steps to what the exporters of OpenTelemetry send at most.
SIZES = (100, 256, 512)
FLOOR_ROWS = 256
START_NS = 1_790_000_000_000_000_000
# Each export has a trace id of its own, put in the place of this one without encoding the spans anew.
_TRACE_ID = bytes(range(1, 17))


class Spans(StepBatches):
    """Exports of 100 to 512 spans in protobuf and gzip; each that is acknowledged is then counted."""

    name = "OTLP/HTTP spans"
    unit = "span"
    target = ">= 3000/s, none acknowledged and lost"
    floor_is = f"the same rows, {FLOOR_ROWS} at a time, into a copy of the table with its keys, prepared"

    def prepare(self, stage: Stage) -> None:
        """Send one export and capture its rows."""
        run_id = stage.start_run()
        _Exporter(stage, run_id).send(_export(run_id, FLOOR_ROWS), FLOOR_ROWS)
        self._capture(stage, run_id)

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Export after export, each client to a run of its own; then look for every acknowledged span."""
        exporters = [_Exporter(stage, stage.start_run()) for _ in range(clients)]

        def make(number: int) -> Call:
            exporter = exporters[number]
            bodies = itertools.cycle([(_export(exporter.run_id, size), size) for size in SIZES])
            return lambda: exporter.send(*next(bodies))

        done = load(make, clients=clients, seconds=seconds, spent_by=stage.pids)
        for exporter in exporters:
            lost = exporter.acknowledged - _held(stage, exporter.run_id)
            if lost:
                raise RuntimeError(f"{lost.total()} acknowledged spans are not in the database")
        return done


class _Exporter:
    """One client: a connection, a run, and how many spans of which trace were acknowledged."""

    def __init__(self, stage: Stage, run_id: str) -> None:
        self.run_id = run_id
        self.acknowledged: Counter[str] = Counter()
        lines = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        self._http = Http(stage.port, {**stage.headers, **lines})

    def send(self, body: bytes, count: int) -> int:
        """Send one export as a trace of its own and return how many spans it has."""
        trace_id = secrets.token_bytes(16)
        packed = gzip.compress(body.replace(_TRACE_ID, trace_id), compresslevel=1)
        # An export that is taken whole has an empty answer.
        if refused := self._http.call("POST", "/v1/traces", packed):
            raise RuntimeError(f"spans were rejected: {refused!r}")
        self.acknowledged[trace_id.hex()] += count
        return count


def _export(run_id: str, count: int) -> bytes:
    """Return an export of the spans of an agent: model calls, tools, and what is around them."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _put(resource.resource.attributes, {"hoc.run_id": run_id, "service.name": "bench"})
    scoped = resource.scope_spans.add()
    scoped.scope.name = "bench.agent"
    for number in range(count):
        span = scoped.spans.add()
        span.trace_id, span.span_id = _TRACE_ID, (number + 1).to_bytes(8, "big")
        span.parent_span_id = (number // 8 + 1).to_bytes(8, "big")
        span.name = ("chat", "http_call", "plan", "parse")[number % 4]
        span.kind = 3
        span.start_time_unix_nano = START_NS + number * 1_000_000
        span.end_time_unix_nano = span.start_time_unix_nano + 12_500_000
        _put(span.attributes, {"url.full": "https://example.test/orders", "server.port": 443, "step": number})
        _put(span.attributes, {"note": "an ordinary span", "cached": False, "http.response.status_code": 200})
        if number % 8 == 0:
            event = span.events.add()
            event.name = "retry"
            _put(event.attributes, {"attempt": 1})
    return request.SerializeToString()


def _put(attributes: Any, values: dict[str, Any]) -> None:
    kinds = {str: "string_value", bool: "bool_value", int: "int_value"}
    for key, value in values.items():
        pair = attributes.add()
        pair.key = key
        setattr(pair.value, kinds[type(value)], value)


def _held(stage: Stage, run_id: str) -> Counter[str]:
    with psycopg.connect(stage.dsn) as connection:
        found = connection.execute(
            "SELECT split_part(external_id, ':', 2), count(DISTINCT external_id) FROM aos_trace_steps"
            " WHERE tenant_id = %s AND trace_id = %s GROUP BY 1",
            (stage.tenant_id, f"trace_{run_id}"),
        ).fetchall()
    return Counter(dict(found))


WORKS: Sequence[Any] = (Spans(),)
