"""Docs: README's walk through a governed run works as it stands, and its last sentence is true."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.docs.pages import fences, read
from tests.docs.programs import environment, serving
from tests.factories.databases import Databases

WALK = next(block for block in fences(read("README.md"), "sh") if "curl" in block)


def install_hoc(place: Path) -> None:
    """Put a `hoc` where README expects it, running the code under test."""
    binaries = place / ".venv" / "bin"
    binaries.mkdir(parents=True)
    program = binaries / "hoc"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.cli "$@"\n')
    program.chmod(0o755)
    (binaries / "python3").symlink_to(sys.executable)


def answers(output: str) -> list[dict[str, Any]]:
    """Return the JSON answers of an output, in order."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_the_walk_through_works_and_its_proof_notices_a_changed_step(
    databases: Databases, tmp_path: Path
) -> None:
    assert shutil.which("curl"), "this test plays README's commands and needs curl: install it"
    settings = {"HOC_DATABASE_URL": databases.new("sqlite")}
    database = Path(str(sa.make_url(settings["HOC_DATABASE_URL"]).database))
    install_hoc(tmp_path)
    with serving(cwd=tmp_path, **settings) as base_url:
        # The key is the walk's own; the last line hands it over for what the test asks afterwards.
        played = subprocess.run(
            ["bash", "-euc", f'{WALK}\necho "$key $run"'],
            cwd=tmp_path,
            env=environment(**settings, API=f"{base_url}/api/v1"),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert played.returncode == 0, played.stdout + played.stderr
        *_, verdict, handed = played.stdout.splitlines()
        assert verdict == "VERIFIED"
        assert (tmp_path / "run.hocproof").stat().st_size > 0
        check_answers(answers(played.stdout))

        key, run_id = handed.split()
        proof = f"{base_url}/api/v1/runs/{run_id}/proof"
        change_a_step(database)
        failed = httpx.get(proof, headers={"Authorization": f"Bearer {key}"}).json()["integrity"]
    assert (failed["verification_status"], failed["failure_code"]) == ("FAILED", "FIELD_MISMATCH")


def check_answers(shown: list[dict[str, Any]]) -> None:
    """Assert what README says about the answers: one access allowed, one denied, both with evidence."""
    allowed = next(answer for answer in shown if answer.get("outcome") == "ALLOWED")
    denied = next(answer for answer in shown if answer.get("outcome") == "DENIED")
    assert allowed["data"]["documents"][0]["name"] == "refunds.md"
    assert denied["code"] == "NO_MATCHING_RULE"
    checks = [answer["verdict"] for answer in shown if "verdict" in answer]
    assert checks == ["ALLOW", "BLOCK"]
    evidence = next(answer for answer in shown if "retrievals" in answer)
    assert [item["outcome"] for item in evidence["policies_evaluated"]] == ["BLOCKED"]
    recorded = {access["evidence_id"]: access["outcome"] for access in evidence["retrievals"]}
    assert recorded == {allowed["evidence_id"]: "ALLOWED", denied["evidence_id"]: "DENIED"}
    problems = [answer for answer in shown if answer.get("status", 200) in range(400, 600)]
    assert problems == [denied]


def change_a_step(database: Path) -> None:
    """Change one step in the file, as somebody who drops the triggers first."""
    change = "UPDATE aos_trace_steps SET status = 'failure' WHERE step_index = 0"
    with closing(sqlite3.connect(database)) as connection, connection:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(change)
        connection.execute("DROP TRIGGER aos_trace_steps_no_update")
        connection.execute(change)
