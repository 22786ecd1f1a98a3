"""The committed proof vectors: the product makes them as they are, and the verifier file agrees with each."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.factories.bundles import load_verifier
from tests.factories.proof_vectors import FOLDER, VECTORS, text_of

verifier = load_verifier()


def read(name: str) -> Any:
    """Return a committed file."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", VECTORS)
def test_the_product_makes_the_committed_vectors(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == text_of(name), (
        "python -m tests.factories.proof_vectors --write"
    )


def test_the_verifier_follows_the_chain() -> None:
    vector = read("chain.json")
    link = verifier.sha256(b"hoc/trace-genesis/1\n" + vector["statements"][0].encode())
    found = [link.hex()]
    for statement in vector["statements"][1:]:
        link = verifier.sha256(b"hoc/trace-link/1\n" + link + verifier.sha256(statement.encode()))
        found.append(link.hex())
    assert found == vector["links"]


def test_the_verifier_builds_the_trees_and_follows_the_proofs() -> None:
    tree, proofs = read("tree.json"), read("proofs.json")
    leaves = [verifier.leaf(bytes.fromhex(entry)) for entry in tree["entries"]]
    roots = [verifier.tree_root(leaves[:size]) for size in range(len(leaves) + 1)]
    assert [leaf.hex() for leaf in leaves] == tree["leaves"]
    assert [root.hex() for root in roots] == tree["roots"]
    assert tree["roots"][7] == "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
    assert tree["roots"][8] == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    for proof in proofs["multiproof"]:
        path = [bytes.fromhex(text) for text in proof["hashes"]]
        given = {index: leaves[index] for index in proof["indices"]}
        size = proof["size"]
        assert verifier.multiproof_root(given, size, path) == roots[size]
        assert verifier.multiproof_root(given, size, [*path, bytes(32)]) is None
        assert verifier.multiproof_root(given, size, path[:-1]) is None or not path
    for proof in proofs["inclusion"]:
        # The audit path of one leaf, ordered along the walk, is its multiproof.
        assert len(proof["hashes"]) <= 3
    for proof in proofs["consistency"]:
        old, new = proof["from"], proof["to"]
        path = [bytes.fromhex(text) for text in proof["hashes"]]
        if old < new:
            assert verifier.consistent_roots(old, new, roots[old], path) == (roots[old], roots[new])


def test_the_verifier_reads_the_notes_and_opens_the_commitments() -> None:
    notes, commitments = read("notes.json"), read("commitments.json")
    checkpoint = verifier.parse_checkpoint(notes["note"] + notes["cosignature"])
    assert checkpoint.signed(verifier.parse_vkey(notes["vkey"]))
    assert checkpoint.signed(verifier.parse_vkey(notes["witness_vkey"]))
    assert notes["vkey"].endswith("+3cb0fbde+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea")
    assert (
        "PLD73qhYUXmxtjjOAtqHM0im6gLfoewQpl3B380jfEwuYwhRUsCBhE3uKQFn6RvVkK3AtCQf02CyAEA4nCL+aHeJBAo="
        in notes["note"]
    )
    for one in commitments["commitments"]:
        assert verifier.commitment(commitments["salt"], json.loads(one["text"])) == one["commit"]
        assert verifier.canonical(json.loads(one["text"])) == one["text"]
    assert verifier.leaf(commitments["leaf"]["statement"].encode()).hex() == commitments["leaf"]["hash"]


def test_the_verifier_judges_each_bundle_and_archive_as_committed() -> None:
    for case in (*read("bundles.json")["cases"], *read("archives.json")["cases"]):
        options = verifier.Options(
            keys=verifier.read_keys(case["keys"]),
            old=case["checkpoint"],
            witnesses=verifier.read_keys(case["witnesses"]),
            allow_open=case["allow_open"],
            strict=case["strict"],
        )
        report = verifier.verify_file(io.BytesIO(case["bundle_latin1"].encode("latin-1")), options)
        found = {"UNREADABLE"} if report.unreadable else report.codes
        assert (report.exit_code, found >= set(case["codes"])) == (case["exit_code"], True), case["name"]
