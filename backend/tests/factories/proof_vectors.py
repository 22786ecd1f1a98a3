"""Proof vectors of docs/proof/vectors: made from the product's own code; `--write` commits them anew."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domains.logs.engines import bundle, note
from app.domains.logs.engines.note import Checkpoint
from app.domains.traces.engines import chain
from app.kernel import merkle
from app.kernel.canonical_json import dumps
from app.kernel.hashing import leaf_hash, protected_commit, text_hash
from tests.factories.bundles import KEY, OTHER_KEY, SALT, Forge, cosign, header_of, small_run

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "proof" / "vectors"
ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
WITNESS = "witness.example/w1"


@dataclass(frozen=True, slots=True)
class Case:
    """A bundle or an archive, what its auditor brings, and what the verifier must say."""

    name: str
    data: bytes
    codes: tuple[str, ...] = ()
    exit_code: int = 1
    checkpoint: str | None = None
    witnesses: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    allow_open: bool = False
    strict: bool = False


def bent(change: Callable[[Forge], object]) -> Forge:
    """Return the small run after a change to what was recorded, before anything is signed."""
    forge = small_run()
    change(forge)
    return forge


def _set(data: bytes, name: str, value: Any) -> bytes:
    first, rest = data.split(b"\n", 1)
    return dumps({**json.loads(first), name: value}).encode() + b"\n" + rest


def _cases_of_lines(good: bytes) -> Iterator[Case]:
    lines = good.splitlines(keepends=True)
    yield Case("a line less", b"".join(lines[:-1]), ("LINE_COUNT",))
    yield Case("a cut file", good[:-7], ("LINE_COUNT",))
    yield Case(
        "a fact said twice",
        b"".join([*lines[:3], *lines[2:]]),
        ("DUPLICATE_FACT", "FACT_GAP", "LINE_COUNT", "NOT_INCLUDED"),
    )
    yield Case("a line too many", good + lines[-1], ("LINE_COUNT",))
    yield Case("two facts in each other's place", b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
               ("FACT_GAP", "NOT_INCLUDED", "SECTION_MISMATCH"))  # fmt: skip
    yield Case("no header", b"".join(lines[1:]), ("UNREADABLE",), 2)
    yield Case(
        "a format of the future", good.replace(b"hoc-run-proof/1", b"hoc-run-proof/2"), ("UNREADABLE",), 2
    )
    yield Case("no JSON", b"".join([*lines[:2], b"{\n", *lines[3:]]), ("UNREADABLE",), 2)
    yield Case("no UTF-8", good[:-9] + b"\xff" + good[-8:], ("UNREADABLE",), 2)
    yield Case("an empty file", b"", ("UNREADABLE",), 2)
    edited = good.replace(b'"outcome":"DENIED"', b'"outcome":"FAILED"')
    yield Case("an edited fact", edited, ("NOT_INCLUDED", "SECTION_MISMATCH", "CLAIM_MISMATCH"))


def _cases_of_checkpoints(forge: Forge, good: bytes) -> Iterator[Case]:
    hashes, _ = forge.tree()
    text = header_of(good)["checkpoint"]
    yield Case("a checkpoint of two lines", _set(good, "checkpoint", "x\n\n" + text), ("BAD_CHECKPOINT",))
    yield Case("no key", good, ("NO_TRUSTED_KEY",), keys=())
    other = OTHER_KEY.vkey("hoc.example/another/1")
    yield Case("a key of another log", good, ("NO_TRUSTED_KEY",), keys=(other,))
    yield Case(
        "another key", good, ("BAD_SIGNATURE", "BAD_ATTESTATION"), keys=(OTHER_KEY.vkey(forge.origin),)
    )
    stale = note.sign(Checkpoint(forge.origin, len(hashes), bytes(32)).text(), name=forge.origin, key=KEY)
    signature = stale.rpartition("\n\n")[2]
    unsigned = text.rpartition("\n\n")[0] + "\n\n" + signature
    yield Case("a signature of another text", _set(good, "checkpoint", unsigned), ("BAD_SIGNATURE",))
    line, vkey = cosign(text.rpartition("\n\n")[0] + "\n", WITNESS, OTHER_KEY)
    yield Case("a witness that did not sign", good, ("QUORUM_NOT_MET",), witnesses=(vkey,))
    yield Case("a witness that signed", forge.build(cosignatures=[line]), (), 0, witnesses=(vkey,))
    stale = note.sign(Checkpoint(forge.origin, 3, merkle.root(hashes[:3])).text(), name=forge.origin, key=KEY)
    yield Case(
        "a stale checkpoint",
        _set(good, "checkpoint", stale),
        ("BAD_ATTESTATION", "BAD_INDEX", "NOT_INCLUDED"),
    )
    elsewhere = small_run()
    elsewhere.origin = "hoc.example/tenant-test-001/2"
    yield Case("a bundle of another log", elsewhere.build(), ("NO_TRUSTED_KEY",))
    foreign = small_run()
    foreign.origin = "hoc.example/another-tenant/1"
    yield Case("a log of another tenant", foreign.build(), ("BAD_ATTESTATION",), keys=(foreign.vkey,))
    attestation = header_of(good)["attestation"]
    told = base64.b64decode(attestation["payload"]).replace(b'"LESSONS","value":0', b'"LESSONS","value":1')
    attestation["payload"] = base64.b64encode(told).decode()
    yield Case(
        "a claim edited on its way",
        _set(good, "attestation", attestation),
        ("BAD_ATTESTATION", "CLAIM_MISMATCH"),
    )
    yield from _cases_of_old_checkpoints(forge, good, hashes)


def _cases_of_old_checkpoints(forge: Forge, good: bytes, hashes: list[bytes]) -> Iterator[Case]:
    def old(size: int, *, root: bytes | None = None, origin: str = forge.origin) -> str:
        given = merkle.root(hashes[:size]) if root is None else root
        return note.sign(Checkpoint(origin, size, given).text(), name=origin, key=KEY)

    continued = forge.build(consistency_from=3)
    yield Case("an older checkpoint", continued, (), 0, checkpoint=old(3))
    yield Case(
        "an old checkpoint of another log",
        good,
        ("ORIGIN_MISMATCH",),
        checkpoint=old(3, origin="hoc.example/x/1"),
    )
    yield Case(
        "a log that was longer", good, ("ROLLED_BACK",), checkpoint=old(len(hashes) + 1, root=bytes(32))
    )
    yield Case(
        "a log with another root", good, ("ROOT_MISMATCH",), checkpoint=old(len(hashes), root=bytes(32))
    )
    yield Case("a log that was rewritten", continued, ("INCONSISTENT",), checkpoint=old(3, root=bytes(32)))
    yield Case("no proof of continuation", good, ("INCONSISTENT",), checkpoint=old(3))
    wrong = header_of(continued)["consistency"]
    wrong["hashes"][0] = "00" * 32
    yield Case("a wrong proof of continuation", _set(continued, "consistency", wrong), ("INCONSISTENT",))


def _cases_of_facts(forge: Forge) -> Iterator[Case]:
    def case(name: str, *codes: str, change: Callable[[Forge], object], **more: Any) -> Case:
        return Case(name, bent(change).build(), codes, **more)

    def false_claim(manifest: dict[str, Any]) -> None:
        manifest["predicate"]["claims"][0]["value"] = []

    def false_root(manifest: dict[str, Any]) -> None:
        manifest["predicate"]["late"]["root"] = "00" * 32

    def index_twice(header: dict[str, Any]) -> None:
        header["sections"][0]["indices"][0] = header["sections"][0]["indices"][1]

    def false_hash(header: dict[str, Any]) -> None:
        header["multiproof"][0] = header["multiproof"][-1]

    def drop_late(lines: dict[str, list[str]]) -> None:
        lines["late"].clear()

    yield Case("a claim that the facts deny", forge.build(bend_manifest=false_claim), ("CLAIM_MISMATCH",))
    yield Case("a section root that is another", forge.build(bend_manifest=false_root), ("SECTION_MISMATCH",))
    yield Case("an attestation of another key", forge.build(attestation_key=OTHER_KEY), ("BAD_ATTESTATION",))
    yield Case("an index twice", forge.build(bend_header=index_twice), ("BAD_INDEX", "NOT_INCLUDED"))
    yield Case("a wrong hash in the proof", forge.build(bend_header=false_hash), ("NOT_INCLUDED",))
    yield Case("late facts that were dropped", forge.build(bend_lines=drop_late), ("LINE_COUNT",))
    yield case("a fact of another run", "FOREIGN_FACT", change=lambda f: f.facts[1].update(run="run-2"))
    yield case("a fact twice", "DUPLICATE_FACT", change=lambda f: f.facts[1].update(fact=f.facts[2]["fact"]))
    yield case("a fact that was never there", "FACT_GAP", "CLOSURE_MISMATCH", change=lambda f: f.facts.pop(1))
    yield case("a late fact that is missing", "FACT_GAP", change=lambda f: f.late[0].update(no=2))
    yield case("a closure over other facts", "CLOSURE_MISMATCH",
               change=lambda f: f.facts[-1]["body"]["closure"].update(fact_count=6))  # fmt: skip
    yield Case("a run that goes on", small_run(closed=False).build(), ("RUN_OPEN",))
    yield Case("a run that goes on, allowed", small_run(closed=False).build(), (), 0, allow_open=True)
    spaced = forge.build().replace(b'"value":{"goal":"x"}', b'"value": {"goal":"x"}')
    yield Case("a value of another spelling", spaced, ("NOT_CANONICAL",))


def _cases_of_traces() -> Iterator[Case]:
    def case(name: str, *codes: str, change: Callable[[Forge], object]) -> Case:
        return Case(name, bent(change).build(), codes)

    def body(forge: Forge, kind: str) -> dict[str, Any]:
        return dict_of(next(fact for fact in forge.facts if fact["type"] == kind)["body"])

    def dict_of(value: Any) -> dict[str, Any]:
        assert isinstance(value, dict)
        return value

    zeros = "00" * 32
    yield case("a trace that began otherwise", "GENESIS_MISMATCH",
               change=lambda f: body(f, "run.started")["trace"].update(genesis_hash=zeros))  # fmt: skip
    yield case("two steps in each other's place", "CHAIN_MISMATCH", "HEAD_MISMATCH", "SEAL_MISMATCH",
               change=lambda f: f.chains[0].__setitem__(slice(1, 3), f.chains[0][2:0:-1]))  # fmt: skip
    yield case(
        "another head", "HEAD_MISMATCH", change=lambda f: body(f, "trace.extended").update(head_hash=zeros)
    )
    yield case(
        "another seal", "SEAL_MISMATCH", change=lambda f: body(f, "trace.sealed").update(root_hash=zeros)
    )
    yield case("a chain that was cut", "HEAD_MISMATCH", "SEAL_MISMATCH", "CLOSURE_MISMATCH",
               change=lambda f: f.chains[0].pop())  # fmt: skip


def _cases_of_values() -> Iterator[Case]:
    def case(name: str, *codes: str, change: Callable[[Forge], object]) -> Case:
        return Case(name, bent(change).build(), codes)

    def unknown(forge: Forge) -> None:
        forge.values.append(bundle.intact_line(protected_commit(SALT, {"x": 1}), SALT, {"x": 1}))

    def erase(forge: Forge, erasure: str) -> None:
        commit = json.loads(forge.values[-1])["commit"]
        forge.values[-1] = bundle.erased_line(commit, erasure)

    def erased(forge: Forge) -> None:
        commit = json.loads(forge.values[-1])["commit"]
        fact = forge.fact("erasure", {"commitments": [commit]}, to="late")
        erase(forge, fact["fact"])

    def evidence(forge: Forge, **members: Any) -> None:
        forge.facts[1]["body"].update(members)

    yield case("a text that is not the snapshot", "SNAPSHOT_MISMATCH",
               change=lambda f: f.values.__setitem__(0, bundle.text_line(text_hash("x"), "y")))  # fmt: skip
    yield case("an access under another snapshot", "SNAPSHOT_MISMATCH",
               change=lambda f: evidence(f, policy_snapshot_hash=text_hash("x")))  # fmt: skip
    yield case("an access to a plane that is not bound", "PLANE_NOT_BOUND",
               change=lambda f: evidence(f, plane_id="kp_2"))  # fmt: skip
    yield case("an attempt that nobody evaluated", "EVALUATION_COUNT",
               change=lambda f: f.facts[4]["body"].update(attempt=2))  # fmt: skip
    yield case("a value that was changed", "VALUE_TAMPERED",
               change=lambda f: f.values.__setitem__(-1, f.values[-1].replace('"x"', '"y"')))  # fmt: skip
    yield case("a value that no fact knows", "VALUE_UNKNOWN", change=unknown)
    yield case("an erasure that is not there", "ERASURE_UNPROVED", change=lambda f: erase(f, "fct_x"))
    yield Case("an erased value", bent(erased).build(), (), 0)


def cases() -> list[Case]:
    """Return the good bundle and one or more for every code of the verifier."""
    forge = small_run()
    good = forge.build()
    return [
        Case("the good bundle", good, (), 0, strict=True),
        *_cases_of_lines(good),
        *_cases_of_checkpoints(forge, good),
        *_cases_of_facts(forge),
        *_cases_of_traces(),
        *_cases_of_values(),
    ]


# --- the committed files ------------------------------------------------------------------------------


def _chain() -> dict[str, Any]:
    forge = small_run()
    lines = forge.chains[0]
    links = [chain.genesis_hash(lines[0])]
    for line in lines[1:]:
        links.append(chain.next_link(links[-1], chain.statement_hash(line)))
    return {"statements": lines, "links": links}


def _tree() -> dict[str, Any]:
    hashes = [merkle.leaf(entry) for entry in ENTRIES]
    roots = [merkle.root(hashes[:size]).hex() for size in range(len(hashes) + 1)]
    return {
        "entries": [entry.hex() for entry in ENTRIES],
        "leaves": [one.hex() for one in hashes],
        "roots": roots,
    }


def _proofs() -> dict[str, Any]:
    hashes = [merkle.leaf(entry) for entry in ENTRIES]

    def ranges(size: int) -> merkle.RangeRoot:
        return merkle.ranges_of(hashes[:size])

    sizes = range(1, len(hashes) + 1)
    return {
        "inclusion": [
            {"index": index, "size": size, "hashes": _hex(merkle.inclusion_path(index, size, ranges(size)))}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"from": old, "to": new, "hashes": _hex(merkle.consistency_path(old, new, ranges(new)))}
            for new in sizes
            for old in range(1, new + 1)
        ],
        "multiproof": [
            {"indices": wanted, "size": size, "hashes": _hex(merkle.multiproof(wanted, size, ranges(size)))}
            for size, wanted in ((7, [1, 2, 5]), (8, [0]), (8, list(range(8))), (5, [4]), (1, [0]))
        ],
    }


def _hex(hashes: list[bytes]) -> list[str]:
    return [one.hex() for one in hashes]


def _notes() -> dict[str, Any]:
    forge = Forge()
    hashes = [merkle.leaf(entry) for entry in ENTRIES]
    made = note.sign(Checkpoint(forge.origin, 8, merkle.root(hashes)).text(), name=forge.origin, key=KEY)
    line, witness = cosign(made.rpartition("\n\n")[0] + "\n", WITNESS, OTHER_KEY)
    return {"vkey": forge.vkey, "note": made, "cosignature": line, "witness_vkey": witness}


def _commitments() -> dict[str, Any]:
    values: list[dict[str, Any]] = [
        {"outcome_data": None, "params": {}},
        {"goal": "x"},
        {"n": [1, -1, 1.5, 1e16, 1e-7, True, None], "text": 'quote " slash \\ tab \t \u00e9 \u2028'},
    ]
    return {
        "salt": SALT,
        "commitments": [{"text": dumps(value), "commit": protected_commit(SALT, value)} for value in values],
        "leaf": {"statement": dumps(values[1]), "hash": leaf_hash(dumps(values[1]))},
    }


def _bundles() -> dict[str, Any]:
    vkey = small_run().vkey
    return {"cases": [_as_json(case, vkey) for case in cases()]}


def _archives() -> dict[str, Any]:
    from tests.factories.archives import archive_cases

    vkey = small_run().vkey
    return {"cases": [_as_json(case, vkey) for case in archive_cases()]}


def _as_json(case: Case, vkey: str) -> dict[str, Any]:
    return {
        "name": case.name,
        "exit_code": case.exit_code,
        "codes": list(case.codes),
        "keys": [vkey] if case.keys is None else list(case.keys),
        "checkpoint": case.checkpoint,
        "witnesses": list(case.witnesses),
        "allow_open": case.allow_open,
        "strict": case.strict,
        # Latin-1, so that bytes that are no UTF-8 have a text too.
        "bundle_latin1": case.data.decode("latin-1"),
    }


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "archives.json": _archives,
    "bundles.json": _bundles,
    "chain.json": _chain,
    "commitments.json": _commitments,
    "notes.json": _notes,
    "proofs.json": _proofs,
    "tree.json": _tree,
}


def text_of(name: str) -> str:
    """Return a file as it is committed."""
    return json.dumps(VECTORS[name](), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.factories.proof_vectors --write")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in VECTORS:
        (FOLDER / each).write_text(text_of(each), encoding="utf-8")
