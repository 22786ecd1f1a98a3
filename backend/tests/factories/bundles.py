"""Test bundles: forged line by line with the server's own key, true or false, without a database."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from app.domains.logs.engines import bundle, note
from app.domains.logs.engines.bundle import Claims, Cut, Section, SectionRoot
from app.domains.logs.engines.note import Checkpoint, SigningKey, new_key
from app.domains.traces.engines import chain
from app.kernel import merkle
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import protected_commit, text_hash

VERIFIER_FILE = Path(__file__).resolve().parents[2] / "verifier" / "hoc_verify.py"
AT = "2026-02-09T00:00:00.000000Z"
# The key of RFC 8032, test 1.
KEY = new_key(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
OTHER_KEY = new_key(bytes(32))
SALT = bytes(range(32)).hex()
PLANE = "kp_1"


def load_verifier(file: Path = VERIFIER_FILE) -> ModuleType:
    """Return the verifier as a module of its own, loaded from its file as an auditor's program would."""
    spec = importlib.util.spec_from_file_location("the_verifier", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(slots=True)
class Forge:
    """A run's facts and chain, from which `build` makes a bundle; tests bend whatever they like first."""

    tenant: str = "tenant-test-001"
    run: str = "run-1"
    key: SigningKey = KEY
    origin: str = "hoc.example/tenant-test-001/1"
    facts: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    context: list[dict[str, Any]] = field(default_factory=list)
    chains: list[list[str]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    others: int = 3

    def fact(self, kind: str, body: dict[str, Any], *, to: str = "facts", **envelope: Any) -> dict[str, Any]:
        """Append a statement to a section and return it."""
        section: list[dict[str, Any]] = getattr(self, to)
        made = {
            "type": kind,
            "v": 1,
            "tenant": self.tenant,
            "fact": f"fct_{to}_{len(section) + 1}",
            "run": None if to == "context" else self.run,
            "attempt": 1,
            "no": None if to == "context" else len(section) + 1,
            "late": to == "late",
            "at": AT,
            "table": None,
            "key": [len(section)],
            "version": None,
            "body": body,
        } | envelope
        section.append(made)
        return made

    def trace(self, steps: int, *, attempt: int = 1, snapshot: str) -> dict[str, Any]:
        """Append the chain of an attempt and return what its facts say of it."""
        name = chain.trace_id_of(self.run, attempt)
        genesis = dumps(
            {
                "type": "trace.genesis",
                "v": 1,
                "tenant": self.tenant,
                "run": self.run,
                "attempt": attempt,
                "trace": name,
                "policy_snapshot": snapshot,
            }
        )
        link = chain.genesis_hash(genesis)
        lines, links = [genesis], [link]
        for index in range(steps):
            value = {"outcome_data": None, "params": {"n": index}}
            commit = protected_commit(SALT, value)
            step = {"type": "trace.step", "v": 1, "step_index": index, "protected_commit": commit}
            lines.append(dumps(step))
            link = chain.next_link(link, chain.statement_hash(lines[-1]))
            links.append(link)
            self.values.append(bundle.intact_line(commit, SALT, value))
        self.chains.append(lines)
        entry = {
            "trace_id": name,
            "attempt": attempt,
            "step_count": steps,
            "genesis_hash": links[0],
            "root_hash": link,
            "outcome": "success",
        }
        self.traces.append(entry)
        return entry

    def close(self, **closure: Any) -> dict[str, Any]:
        """Append run.completed with the closure that the facts so far call for."""
        counts = Counter(str(fact["type"]) for fact in self.facts)
        counts["run.completed"] += 1
        members = ("trace_id", "attempt", "step_count", "root_hash")
        told = {
            "fact_count": len(self.facts) + 1,
            "type_counts": dict(counts),
            "step_count": sum(trace["step_count"] for trace in self.traces),
            "traces": [{name: trace[name] for name in members} for trace in self.traces],
        }
        return self.fact("run.completed", {"closure": told | closure})

    def leaves(self) -> tuple[list[str], list[str]]:
        """Return the statements of the bundle in their order, and those of the rest of the log."""
        mine = [dumps(fact) for part in (self.context, self.facts, self.late) for fact in part]
        return mine, [
            dumps({"tenant": self.tenant, "fact": f"other_{number}"}) for number in range(self.others)
        ]

    def tree(self) -> tuple[list[bytes], dict[str, list[int]]]:
        """Return the leaf hashes of the whole log, and where each section stands in it."""
        mine, rest = self.leaves()
        # One stranger first, the others last: the proof has hashes on both sides.
        everything = [*rest[:1], *mine, *rest[1:]]
        hashes = [merkle.leaf(entry.encode()) for entry in everything]
        at = len(rest[:1])
        indices = {}
        for name in ("context", "facts", "late"):
            count = len(getattr(self, name))
            indices[name] = list(range(at, at + count))
            at += count
        return hashes, indices

    def note(self, hashes: Sequence[bytes], **members: Any) -> str:
        """Return the signed checkpoint over these hashes."""
        checkpoint = Checkpoint(self.origin, len(hashes), merkle.root(hashes))
        return note.sign(checkpoint.text(), name=self.origin, key=members.get("key", self.key))

    def claims(self) -> list[dict[str, Any]]:
        """Return the claims that the facts add up to, by the product's own count."""
        claims = Claims()
        for fact in (*self.facts, *self.late):
            claims.add(str(fact["type"]), dumps(fact), fact_id=str(fact["fact"]))
        return claims.result(steps=sum(trace["step_count"] for trace in self.traces))

    def manifest(self, hashes: Sequence[bytes]) -> dict[str, Any]:
        """Return the in-toto statement."""
        roots = {}
        for name in ("facts", "late", "context"):
            leaves = [merkle.leaf(dumps(fact).encode()) for fact in getattr(self, name)]
            roots[name] = SectionRoot(len(leaves), merkle.root(leaves).hex())
        text = bundle.manifest(
            tenant_id=self.tenant,
            run_id=self.run,
            cut=Cut(self.origin, len(hashes), merkle.root(hashes).hex(), AT),
            complete=any(fact["type"] == "run.completed" for fact in self.facts),
            roots=roots,
            traces=[bundle.trace_entry(trace) for trace in self.traces],
            claims=self.claims(),
            disclosure="payloads",
        )
        return dict(loads(text))

    def build(
        self,
        *,
        bend_manifest: Callable[[dict[str, Any]], None] | None = None,
        bend_header: Callable[[dict[str, Any]], None] | None = None,
        bend_lines: Callable[[dict[str, list[str]]], None] | None = None,
        consistency_from: int | None = None,
        cosignatures: Sequence[str] = (),
        attestation_key: SigningKey | None = None,
    ) -> bytes:
        """Return the bundle; what a bend changes in the manifest is signed again, as a false server would."""
        hashes, indices = self.tree()
        lines = {
            "facts": [dumps(fact) for fact in self.facts],
            "late": [dumps(fact) for fact in self.late],
            "context": [dumps(fact) for fact in self.context],
            "traces": [line for one in self.chains for line in one],
            "values": list(self.values),
        }
        manifest = self.manifest(hashes)
        if bend_manifest is not None:
            bend_manifest(manifest)
        every = sorted(index for part in indices.values() for index in part)
        ranges = merkle.ranges_of(hashes)
        consistency = None
        if consistency_from is not None:
            path = merkle.consistency_path(consistency_from, len(hashes), ranges)
            consistency = {"from": consistency_from, "hashes": [part.hex() for part in path]}
        header = loads(
            bundle.header(
                attestation=bundle.envelope(dumps(manifest), [attestation_key or self.key]),
                checkpoint=self.note(hashes) + "".join(cosignatures),
                consistency=consistency,
                vkeys=[self.key.vkey(self.origin)],
                sections=[Section(name, len(lines[name]), indices.get(name)) for name in bundle.SECTIONS],
                multiproof=merkle.multiproof(every, len(hashes), ranges),
            )
        )
        if bend_header is not None:
            bend_header(header)
        if bend_lines is not None:
            bend_lines(lines)
        text = [dumps(header), *(line for name in bundle.SECTIONS for line in lines[name])]
        return "".join(f"{line}\n" for line in text).encode()

    @property
    def vkey(self) -> str:
        """The verifier key of the log."""
        return self.key.vkey(self.origin)


def small_run(*, closed: bool = True) -> Forge:
    """Return a run of two steps with one allowed and one denied access, a snapshot and a late fact."""
    forge = Forge()
    text = dumps({"v": 1, "rules": [], "bindings": [{"plane_id": PLANE, "rule_id": "r"}], "limits": []})
    digest = text_hash(text)
    snapshot = f"snap_{digest[:32]}"
    content = {"sha256": digest, "len": len(text)}
    forge.fact("policy.snapshot", {"snapshot_id": snapshot, "content": content}, to="context")
    forge.values.append(bundle.text_line(digest, text))
    trace = forge.trace(2, snapshot=snapshot)
    goal = {"goal": "x"}
    commit = protected_commit(SALT, goal)
    genesis = {name: trace[name] for name in ("trace_id", "attempt", "genesis_hash")}
    forge.fact("run.started", {"trace": genesis, "protected_commit": commit})
    forge.values.append(bundle.intact_line(commit, SALT, goal))
    for outcome in ("ALLOWED", "DENIED"):
        access = {"outcome": outcome, "plane_id": PLANE, "plane_version": 1}
        named = {"policy_snapshot_id": snapshot, "policy_snapshot_hash": digest}
        forge.fact("retrieval.evidence", access | named)
    head = {"trace_id": trace["trace_id"], "from_index": 0, "to_index": 1, "head_hash": trace["root_hash"]}
    forge.fact("trace.extended", head)
    if not closed:
        trace |= {"root_hash": None, "outcome": None}
        return forge
    seal = {name: trace[name] for name in ("trace_id", "attempt", "step_count", "root_hash", "outcome")}
    judged = {"attempt": 1, "outcome": "NO_VIOLATION", "run_status": "succeeded", "snapshot_id": snapshot}
    forge.fact("evaluation", judged)
    forge.fact("trace.sealed", seal)
    forge.close()
    forge.fact("incident", {"incident_id": "inc_1"}, to="late")
    return forge


def cosign(text: str, name: str, key: SigningKey, *, moment: int = 1_770_000_000) -> tuple[str, str]:
    """Return the signature line of a witness under a note's text, and its verifier key."""
    public = b"\x04" + key.public
    key_id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
    signed = key.private.sign(f"cosignature/v1\ntime {moment}\n{text}".encode())
    value = base64.b64encode(key_id + moment.to_bytes(8, "big") + signed).decode()
    return f"\N{EM DASH} {name} {value}\n", f"{name}+{key_id.hex()}+{base64.b64encode(public).decode()}"


def header_of(data: bytes) -> dict[str, Any]:
    """Return the header of a bundle."""
    return dict(json.loads(data.split(b"\n", 1)[0]))
