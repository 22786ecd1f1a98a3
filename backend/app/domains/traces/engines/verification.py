"""Traces L5: the checks of a run's proof over its traces, 1 to 11; pure, facts in, verdicts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domains.traces.engines import chain
from app.domains.traces.models import TraceStatus
from app.kernel.canonical_json import loads
from app.kernel.clock import format_time

Row = Mapping[str, Any]
NO_TRACE = "No trace found for run"
# What a value raises that no statement can be made of: a time that is none, bytes that are no text.
_NO_STATEMENT = (AttributeError, TypeError, ValueError)
_CLAIMING = frozenset(
    {"run.started", "run.attempt", "trace.extended", "trace.sealed", "run.completed", "erasure"}
)
SEAL_MEMBERS = (
    "attempt",
    "status",
    "outcome",
    "root_hash",
    "step_count",
    "input_tokens",
    "output_tokens",
    "cost_micro",
    "completed_at",
    "sealed_at",
)


@dataclass(frozen=True, slots=True)
class TraceVerdict:
    """What the checks found on one trace; `code` is the first failure, None when all passed."""

    trace_id: str
    attempt: int | None
    chain_length: int
    sealed: bool
    root_hash: str | None
    code: str | None = None
    step_index: int | None = None
    values: Mapping[str, int] = field(default_factory=dict)
    # What no fact of the run speaks for: it counts when all facts are there.
    unclaimed: str | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    code: str
    step_index: int | None = None


@dataclass(slots=True)
class _Claims:
    """What the leaves of the run say about one trace."""

    attempt: int | None = None
    genesis: list[Mapping[str, Any]] = field(default_factory=list)
    extensions: list[Mapping[str, Any]] = field(default_factory=list)
    seals: list[Mapping[str, Any]] = field(default_factory=list)
    closures: list[Mapping[str, Any]] = field(default_factory=list)


def verify_traces(
    traces: Sequence[Row], steps: Sequence[Row], leaves: Sequence[Mapping[str, Any]]
) -> list[TraceVerdict]:
    """Return one verdict for each trace that a row or a leaf names, by attempt.

    traces: rows of aos_traces, each with `tenant_id` and the run's `policy_snapshot_id` beside its columns.
    steps: whole rows of aos_trace_steps of these traces, in any order. leaves: the run's leaves as mappings
    with `type` and `statement` (text). An exception inside fails that trace with VERIFIER_ERROR.
    """
    claims, erased = _read_leaves(leaves)
    by_trace: dict[str, list[Row]] = {str(trace["trace_id"]): [] for trace in traces}
    for step in steps:
        by_trace.setdefault(str(step["trace_id"]), []).append(step)
    verdicts = [
        _verify_one(
            trace, by_trace[str(trace["trace_id"])], claims.get(str(trace["trace_id"]), _Claims()), erased
        )
        for trace in traces
    ]
    known = {str(trace["trace_id"]) for trace in traces}
    missing = [name for name in dict.fromkeys([*claims, *by_trace]) if name not in known]
    for name in missing:
        attempt = claims[name].attempt if name in claims else None
        verdicts.append(
            TraceVerdict(
                name, attempt, len(by_trace.get(name, ())), sealed=False, root_hash=None, code="TRACE_MISSING"
            )
        )
    return sorted(verdicts, key=lambda verdict: (_whole(verdict.attempt), verdict.trace_id))


def summarise(
    run_id: str, verdicts: Sequence[TraceVerdict], steps: Iterable[Row], *, model: str = "HASH_CHAIN"
) -> dict[str, Any]:
    """Return the integrity object of a run's proof; `model` is the configured integrity model."""
    failed = next((verdict for verdict in verdicts if verdict.code is not None), None)
    length = sum(verdict.chain_length for verdict in verdicts)
    legacy = chain.legacy_run_digest(
        run_id,
        ((step["step_index"], step["skill_name"], step["status"]) for step in _in_order(verdicts, steps)),
    )
    shown, root, status, reason = _situation(verdicts, failed, length, model)
    return {
        "model": shown,
        "root_hash": root,
        "chain_length": length if shown == "HASH_CHAIN" else 0,
        "verification_status": status,
        "failure_reason": reason,
        "failure_code": failed.code if failed and status == "FAILED" else None,
        "failed_trace_id": failed.trace_id if failed and status == "FAILED" else None,
        "failed_step_index": failed.step_index if failed and status == "FAILED" else None,
        "legacy_digest": legacy,
    }


def _situation(
    verdicts: Sequence[TraceVerdict], failed: TraceVerdict | None, length: int, model: str
) -> tuple[str, str | None, str, str | None]:
    """Return model, root hash, status and reason: the first situation that applies."""
    if not verdicts:
        return "NONE", None, "UNSUPPORTED", NO_TRACE
    if length == 0 and failed is None:
        return "HASH_CHAIN", None, "UNSUPPORTED", "No steps to verify"
    if model == "NONE":
        return "NONE", None, "UNSUPPORTED", "Integrity model is NONE"
    if model == "MERKLE_TREE":
        return "MERKLE_TREE", None, "UNSUPPORTED", "MERKLE_TREE not yet implemented"
    if model != "HASH_CHAIN":
        return "NONE", None, "UNSUPPORTED", f"Unknown integrity model: {model}"
    if failed is not None:
        return "HASH_CHAIN", None, "FAILED", _reason(failed)
    if not all(verdict.sealed for verdict in verdicts):
        return "HASH_CHAIN", None, "UNSUPPORTED", "Trace not sealed"
    return "HASH_CHAIN", verdicts[-1].root_hash, "VERIFIED", None


def _reason(failed: TraceVerdict) -> str:
    at = "" if failed.step_index is None else f" at step {failed.step_index}"
    return f"{failed.code}{at} of trace {failed.trace_id}"


def _in_order(verdicts: Sequence[TraceVerdict], steps: Iterable[Row]) -> list[Row]:
    places = {verdict.trace_id: place for place, verdict in enumerate(verdicts)}
    return sorted(steps, key=lambda step: (places.get(step["trace_id"], len(places)), _index(step)))


def _verify_one(trace: Row, steps: Sequence[Row], claims: _Claims, erased: frozenset[str]) -> TraceVerdict:
    ordered = sorted(steps, key=_index)
    values: Counter[str] = Counter()
    try:
        failure = _first_failure(trace, ordered, claims, erased, values)
    except Exception:  # noqa: BLE001 - a verifier that stumbles over damaged rows must say so, not stop
        failure = _Failure("VERIFIER_ERROR")
    return TraceVerdict(
        trace_id=str(trace["trace_id"]),
        attempt=trace["attempt"],
        chain_length=len(ordered),
        sealed=trace["status"] == TraceStatus.SEALED,
        root_hash=trace["root_hash"],
        code=failure.code if failure else None,
        step_index=failure.step_index if failure else None,
        values=dict(values),
        unclaimed=_unclaimed(trace, claims),
    )


def _unclaimed(trace: Row, claims: _Claims) -> str | None:
    """Return what a row has that no leaf gave it: itself, or its seal."""
    if not claims.genesis:
        return "UNLOGGED_ROW"
    sealing = ("outcome", "root_hash", "completed_at", "sealed_at")
    is_sealed = trace["status"] != TraceStatus.OPEN or any(trace[name] is not None for name in sealing)
    return "SEAL_MISMATCH" if is_sealed and not claims.seals else None


def _first_failure(
    trace: Row, steps: Sequence[Row], claims: _Claims, erased: frozenset[str], values: Counter[str]
) -> _Failure | None:
    return (
        _check_genesis(trace, claims)
        or _check_seal_facts(trace, claims)
        or _check_order(trace, steps)
        or _check_count(trace, steps, claims)
        or _check_links(trace, steps)
        or _check_fields(steps)
        or _check_ends(trace, steps, claims)
        or _check_values(steps, erased, values)
    )


def _check_genesis(trace: Row, claims: _Claims) -> _Failure | None:
    """Check 2: the genesis recomputed from the columns, and every leaf that carries it."""
    try:
        statement = chain.genesis_statement(
            tenant_id=trace["tenant_id"],
            run_id=trace["run_id"],
            attempt=trace["attempt"],
            trace_id=trace["trace_id"],
            schema_version=trace["schema_version"],
            policy_snapshot=trace["policy_snapshot_id"],
            plan_hash=trace["plan_hash"],
            seed=trace["seed"],
            started_at=trace["started_at"],
        )
    except _NO_STATEMENT:
        return _Failure("GENESIS_MISMATCH")
    stands = chain.genesis_hash(statement) == trace["genesis_hash"] and all(
        claim.get("genesis_hash") == trace["genesis_hash"] and claim.get("attempt") == trace["attempt"]
        for claim in claims.genesis
    )
    return None if stands else _Failure("GENESIS_MISMATCH")


def _check_seal_facts(trace: Row, claims: _Claims) -> _Failure | None:
    """Check 3: a seal or closure in the leaves that the row lacks or contradicts."""
    sealed = all(_plain(trace[name]) == seal.get(name) for seal in claims.seals for name in SEAL_MEMBERS)
    closed = all(
        trace[name] == closure.get(name)
        for closure in claims.closures
        for name in ("attempt", "step_count", "root_hash")
    )
    return None if sealed and closed else _Failure("SEAL_MISMATCH")


def _check_order(trace: Row, steps: Sequence[Row]) -> _Failure | None:
    """Check 4: following prev_hash from the genesis visits all steps, in another order than step_index."""
    following = {step["prev_hash"]: step for step in steps}
    visited: list[Row] = []
    link = trace["genesis_hash"]
    while link in following and len(visited) < len(steps):
        visited.append(following[link])
        link = visited[-1]["step_hash"]
    if len(visited) < len(steps):
        return None
    for step, expected in zip(steps, visited, strict=True):
        if step["step_index"] != expected["step_index"]:
            return _Failure("REORDERED", int(step["step_index"]))
    return None


def _check_count(trace: Row, steps: Sequence[Row], claims: _Claims) -> _Failure | None:
    """Checks 5-7: a hole below the highest index, fewer steps than was said, more than the seal says."""
    for expected, step in enumerate(steps):
        if step["step_index"] != expected:
            return _Failure("GAP", expected)
    said = [int(claim["to_index"]) + 1 for claim in claims.extensions]
    sealed = [int(seal["step_count"]) for seal in claims.seals]
    if trace["status"] == TraceStatus.SEALED:
        sealed.append(int(trace["step_count"]))
    count = len(steps)
    if any(count < stated for stated in (*said, *sealed, int(trace["step_count"]))):
        return _Failure("TRUNCATED", count)
    if any(count > stated for stated in sealed):
        return _Failure("APPENDED_AFTER_SEAL", min(sealed))
    return None


def _check_links(trace: Row, steps: Sequence[Row]) -> _Failure | None:
    """Check 8: each prev_hash is the step_hash before it."""
    link = trace["genesis_hash"]
    for step in steps:
        if step["prev_hash"] != link:
            return _Failure("LINK_MISMATCH", int(step["step_index"]))
        link = step["step_hash"]
    return None


def _check_fields(steps: Sequence[Row]) -> _Failure | None:
    """Check 9: each link recomputed from the columns."""
    for step in steps:
        try:
            hashed = chain.statement_hash(chain.step_statement(step))
            stands = chain.next_link(step["prev_hash"], hashed) == step["step_hash"]
        except _NO_STATEMENT:
            stands = False
        if not stands:
            return _Failure("FIELD_MISMATCH", int(step["step_index"]))
    return None


def _check_ends(trace: Row, steps: Sequence[Row], claims: _Claims) -> _Failure | None:
    """Check 10: the seal is the last link; every extension's head is the link at its to_index."""
    last = steps[-1]["step_hash"] if steps else trace["genesis_hash"]
    if trace["status"] == TraceStatus.SEALED and trace["root_hash"] != last:
        return _Failure("SEAL_MISMATCH")
    for claim in claims.extensions:
        if steps[int(claim["to_index"])]["step_hash"] != claim["head_hash"]:
            return _Failure("HEAD_MISMATCH", int(claim["to_index"]))
    # A step that no extension covers: the row's own head was left behind or moved by hand.
    return None if trace["head_hash"] == last else _Failure("HEAD_MISMATCH")


def _check_values(steps: Sequence[Row], erased: frozenset[str], values: Counter[str]) -> _Failure | None:
    """Check 11: protected members open their commitment, or an erasure fact lists it."""
    failure: _Failure | None = None
    for step in steps:
        state, code = value_state(step, erased)
        values[state] += 1
        if code is not None and failure is None:
            failure = _Failure(code, int(step["step_index"]))
    return failure


def value_state(step: Row, erased: frozenset[str]) -> tuple[str, str | None]:
    """Return intact, erased or tampered, and the failure code of a step's protected members."""
    params, outcome_data, salt = step["params"], step["outcome_data"], step["protected_salt"]
    commit = step["protected_commit"]
    if params is None and outcome_data is None and salt is None:
        if commit is None:
            return "intact", None
        return ("erased", None) if commit in erased else ("tampered", "VALUE_MISSING")
    if salt is None or commit is None:
        return "tampered", "VALUE_TAMPERED"
    try:
        opened = chain.step_commitment(salt, params=params, outcome_data=outcome_data)
    except ValueError:  # the salt is no longer hexadecimal
        return "tampered", "VALUE_TAMPERED"
    return ("intact", None) if opened == commit else ("tampered", "VALUE_TAMPERED")


def _read_leaves(leaves: Sequence[Mapping[str, Any]]) -> tuple[dict[str, _Claims], frozenset[str]]:
    claims: dict[str, _Claims] = {}
    erased: set[str] = set()
    for leaf in leaves:
        if leaf["type"] not in _CLAIMING:
            continue
        # A leaf edited beyond reading claims nothing here; that it lost its hash is found with the facts.
        with suppress(ValueError, KeyError, TypeError):
            _read_leaf(leaf["type"], loads(leaf["statement"])["body"], claims, erased)
    return claims, frozenset(erased)


def _read_leaf(kind: str, body: Mapping[str, Any], claims: dict[str, _Claims], erased: set[str]) -> None:
    if kind in ("run.started", "run.attempt"):
        _claim(claims, body["trace"]).genesis.append(body["trace"])
    elif kind == "trace.extended":
        _claim(claims, body).extensions.append(body)
    elif kind == "trace.sealed":
        _claim(claims, body).seals.append(body)
    elif kind == "run.completed":
        for closed in body["closure"]["traces"]:
            _claim(claims, closed).closures.append(closed)
    elif kind == "erasure":
        listed = body["commitments"]
        erased.update(loads(listed) if isinstance(listed, str) else listed)


def _claim(claims: dict[str, _Claims], stated: Mapping[str, Any]) -> _Claims:
    claim = claims.setdefault(str(stated["trace_id"]), _Claims())
    if claim.attempt is None:
        claim.attempt = stated.get("attempt")
    return claim


def _index(step: Row) -> float:
    """Return a step's place; an index that is no number stands after all others and leaves its gap."""
    index = step["step_index"]
    return index if isinstance(index, int) else float("inf")


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _plain(value: Any) -> Any:
    return format_time(value) if isinstance(value, datetime) else value
