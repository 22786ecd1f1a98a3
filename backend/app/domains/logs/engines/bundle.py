"""Logs L5: the run bundle hoc-run-proof/1: claims, manifest, signed envelope and header line; pure."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.domains.logs.engines.note import SigningKey
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import sha256_hex

FORMAT: Final = "hoc-run-proof/1"
MEDIA_TYPE: Final = "application/vnd.hoc.run-proof+jsonl"
SUFFIX: Final = ".hocproof"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:hoc-spine:run-proof:v1"
PRODUCER: Final = "hoc-spine"
SECTIONS: Final = ("facts", "late", "context", "traces", "values")
MAX_ENTRIES: Final = 100_000
MAX_BYTES: Final = 512 * 1024 * 1024
EVIDENCE: Final = "retrieval.evidence"
ERASURE: Final = "erasure"
# The types whose bodies the claims read; of all others the claims know the type alone.
READ_TYPES: Final = (EVIDENCE, "decision", "evaluation")
# A claim that is the number of facts of a type.
COUNTED: Final = {
    "BREACHES": "breach",
    "INCIDENTS": "incident",
    "PREVENTIONS": "prevention",
    "LESSONS": "lesson",
}


@dataclass(slots=True)
class Claims:
    """What the facts of a run add up to; facts and late facts count alike."""

    types: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    allowed_planes: set[str] = field(default_factory=set)
    decisions: dict[str, Counter[str]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    snapshots: set[str] = field(default_factory=set)
    planes: set[tuple[str, int]] = field(default_factory=set)
    erasures: set[str] = field(default_factory=set)

    def add(self, type_name: str, statement: str | None, *, fact_id: str) -> None:
        """Count one fact; of READ_TYPES the statement is read."""
        self.types[type_name] += 1
        if type_name == ERASURE:
            self.erasures.add(fact_id)
        if statement is None or type_name not in READ_TYPES:
            return
        body = loads(statement)["body"]
        if type_name == EVIDENCE:
            self._add_evidence(body)
        elif type_name == "decision":
            counts = self.decisions.setdefault(str(body.get("decision_type")), Counter())
            counts[str(body.get("decision_outcome"))] += 1
            self._name_snapshot(body.get("snapshot_id"))
        else:
            self.evaluations.append({name: body.get(name) for name in ("attempt", "outcome", "run_status")})
            self._name_snapshot(body.get("snapshot_id"))

    def _add_evidence(self, body: Mapping[str, Any]) -> None:
        self.outcomes[str(body["outcome"])] += 1
        if body["outcome"] == "ALLOWED":
            self.allowed_planes.add(body["plane_id"])
        if body["plane_version"] is not None:
            self.planes.add((body["plane_id"], body["plane_version"]))
        self._name_snapshot(body["policy_snapshot_id"])

    def _name_snapshot(self, snapshot_id: Any) -> None:
        if snapshot_id is not None:
            self.snapshots.add(str(snapshot_id))

    def result(self, *, steps: int) -> list[dict[str, Any]]:
        """Return the claims in their fixed order."""
        found: dict[str, Any] = {
            "RETRIEVED_ONLY_FROM": sorted(self.allowed_planes),
            "RETRIEVALS": {name: self.outcomes[name.upper()] for name in ("allowed", "denied", "failed")},
            "DECISIONS": {name: dict(counts) for name, counts in self.decisions.items()},
            "EVALUATIONS": sorted(self.evaluations, key=lambda one: (one["attempt"] or 0, dumps(one))),
            **{name: self.types[type_name] for name, type_name in COUNTED.items()},
            # Null when they name none, or more than one.
            "SNAPSHOT": next(iter(self.snapshots)) if len(self.snapshots) == 1 else None,
            "STEPS": steps,
        }
        return [{"claim": name, "value": value} for name, value in found.items()]


@dataclass(frozen=True, slots=True)
class Cut:
    """The checkpoint that the bundle speaks under."""

    origin: str
    size: int
    root: str
    at: str


@dataclass(frozen=True, slots=True)
class SectionRoot:
    """How many statements a section has, and the root over them."""

    count: int
    root: str


def manifest(
    *,
    tenant_id: str,
    run_id: str,
    cut: Cut,
    complete: bool,
    roots: Mapping[str, SectionRoot],
    traces: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    disclosure: str,
) -> str:
    """Return the in-toto statement that the envelope signs, as canonical text."""
    facts = roots["facts"]
    sections = {name: {"count": part.count, "root": part.root} for name, part in roots.items()}
    predicate = {
        "tenant": tenant_id,
        "run": run_id,
        "cut": {"origin": cut.origin, "size": cut.size, "root": cut.root, "at": cut.at},
        **sections,
        "facts": sections["facts"] | {"status": "COMPLETE" if complete else "OPEN"},
        "traces": list(traces),
        "claims": list(claims) if complete else [],
        "disclosure": disclosure,
        "producer": PRODUCER,
    }
    return dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"hoc:{tenant_id}/{run_id}", "digest": {"sha256": facts.root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a DSSE v1 signature is over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload: str, signers: Sequence[SigningKey]) -> dict[str, Any]:
    """Return the DSSE envelope of a manifest; Ed25519 makes the same one each time."""
    data = payload.encode()
    signed = pre_authentication_encoding(PAYLOAD_TYPE, data)
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(data).decode(),
        "signatures": [
            {"keyid": sha256_hex(key.public), "sig": base64.b64encode(key.private.sign(signed)).decode()}
            for key in signers
        ],
    }


@dataclass(frozen=True, slots=True)
class Section:
    """A section as the header announces it; only statements of the log have indices."""

    name: str
    lines: int
    indices: Sequence[int] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the header's member of this section."""
        members: dict[str, Any] = {"name": self.name, "lines": self.lines}
        return members if self.indices is None else members | {"indices": list(self.indices)}


def header(
    *,
    attestation: Mapping[str, Any],
    checkpoint: str,
    consistency: Mapping[str, Any] | None,
    vkeys: Sequence[str],
    sections: Sequence[Section],
    multiproof: Sequence[bytes],
) -> str:
    """Return line 1, canonical: what no hash covers has one spelling."""
    return dumps(
        {
            "bundle": FORMAT,
            "attestation": dict(attestation),
            "checkpoint": checkpoint,
            "consistency": None if consistency is None else dict(consistency),
            "vkeys": list(vkeys),
            "sections": [section.as_json() for section in sections],
            "multiproof": [base64.b64encode(part).decode() for part in multiproof],
        }
    )


def trace_entry(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest says of an attempt's trace; root and outcome are null while it is open."""
    return {
        "trace": trace["trace_id"],
        "attempt": trace["attempt"],
        "steps": trace["step_count"],
        "genesis": trace["genesis_hash"],
        "root": trace["root_hash"],
        "outcome": trace["outcome"],
    }


def intact_line(commit: str, salt: str, value: Mapping[str, Any]) -> str:
    """Return the line that opens a commitment."""
    return dumps({"commit": commit, "state": "INTACT", "salt": salt, "value": dict(value)})


def erased_line(commit: str, erasure: str) -> str:
    """Return the line of a commitment whose values were erased, with the fact that did it."""
    return dumps({"commit": commit, "state": "ERASED", "erasure": erasure})


def text_line(digest: str, text: str) -> str:
    """Return the line with a text of which a fact holds the digest."""
    return dumps({"digest": digest, "text": text})
