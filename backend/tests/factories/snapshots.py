"""Snapshots for tests: a repository with every kind of record, and snapshots that were tampered with."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from app.domains.repository.engines import snapshot_format as fmt
from app.domains.repository.engines.snapshot_writing import manifest_of, manifest_text
from app.kernel.canonical_json import dumps, loads
from app.kernel.merkle import MerkleRoot
from app.library_face.repository import SpineRepository


def populate(repo: SpineRepository) -> dict[str, str]:
    """Write something of every kind and return the ids by name."""
    papers = repo.create_collection("papers", description="é", metadata={"x": 1e16, "y": -0.0, "z": 10**40})
    one = repo.create_artifact(papers.id, "one", "note", content="hello world", metadata={"a": [1, 1.0]})
    repo.update_artifact(one.id, content=b"\xff\x00", metadata={"a": True})
    two = repo.create_artifact(None, "two", "note", content="hello world", provenance={"from": "x"})
    gone = repo.create_artifact(papers.id, "gone", "note", content="")
    edge = repo.create_relationship(one.id, two.id, "cites", source_revision=1)
    cut = repo.create_relationship(two.id, gone.id, "derived_from")
    repo.delete_artifact(gone.id, mode="detach", reason="old")
    bundle = repo.create_bundle([{"artifact_id": one.id, "revision": 1, "role": "input"}])
    repo.create_run("summarise", run_id="run-b", parameters={"k": 1.0})
    repo.create_run(
        "summarise",
        run_id="run-a",
        bundle_id=bundle.id,
        parent_run_id="run-b",
        steps=[{"step_id": "s1", "position": 0}, {"step_id": "s2", "position": 1, "depends_on": ["s1"]}],
    )
    repo.transition_run("run-a", "running")
    out = {"collection_id": papers.id, "name": "out", "artifact_type": "note", "content": "result"}
    repo.publish_run("run-a", artifacts=[out], status="succeeded", manifest={"diagnostics": []})
    said = {"asserted_by": "me", "asserted_at": "2026-01-01T00:00:00Z"}
    package = repo.create_context_package(
        "context",
        [
            {"kind": "artifact", "artifact_id": one.id},
            {"kind": "relationship", "relationship_id": edge.id},
            {"kind": "run", "run_id": "run-a"},
            {"kind": "external_memory", "memory": {"system": "m", "ref": " x/../y ", "provenance": said}},
        ],
    )
    repo.create_context_package("next", [], supersedes=package.id)
    return {
        "papers": papers.id,
        "one": one.id,
        "two": two.id,
        "gone": gone.id,
        "edge": edge.id,
        "cut": cut.id,
    }


@dataclass
class Parts:
    """A snapshot taken apart: records as values, blobs by path, and what its files hold."""

    records: list[Any]
    blobs: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Take a zip apart."""
        with zipfile.ZipFile(path) as source:
            files = {name: source.read(name) for name in source.namelist()}
        lines = files[fmt.RECORDS].splitlines()
        return cls(
            [loads(line) for line in lines],
            {name: data for name, data in files.items() if name.startswith("blobs/")},
        )

    def find(self, kind: str, number: int = 0) -> Any:
        """Return a record of a kind."""
        return [record for record in self.records if record["k"] == kind][number]

    def files(self, lines: list[bytes] | None = None) -> dict[str, bytes]:
        """Return the files with hashes, counts and roots made anew, so that only what they say is wrong."""
        texts = [dumps(record).encode() for record in self.records] if lines is None else lines
        counts = Counter(dict.fromkeys(fmt.ORDER, 0))
        whole, state = MerkleRoot(), MerkleRoot()
        hashes = []
        for number, (record, text) in enumerate(zip(self.records, texts, strict=True), 1):
            kind = record["k"]
            counts[kind] += 1
            whole.append(text)
            if kind not in ("header", "change"):
                state.append(text)
            hashes.append(fmt.line_hash(hashlib.sha256(text).hexdigest(), number, kind).encode())
        records = b"".join(text + b"\n" for text in texts)
        header = self.records[0]["d"]
        manifest = manifest_of(
            scope=header["scope"],
            change_head=header["change_head"],
            counts=counts,
            blob_count=len(self.blobs),
            blob_bytes=sum(map(len, self.blobs.values())),
            records_sha256=hashlib.sha256(records).hexdigest(),
            snapshot_digest=whole.hexdigest(),
            state_digest=state.hexdigest(),
        )
        manifest["format_version"] = header["format_version"]
        return {
            **self.blobs,
            fmt.RECORDS: records,
            fmt.LINE_HASHES: b"".join(line + b"\n" for line in hashes),
            fmt.MANIFEST: manifest_text(manifest),
        }


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files as a zip, stored."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(files, key=str.encode):
            target.writestr(name, files[name])
    return path
