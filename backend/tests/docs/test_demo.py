"""Docs: `hoc demo`, the work behind `make run`, plays its story as often as one likes, on both dialects."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.docs.programs import hoc

WAY = ("VERIFIED", "INDEXED", "CLASSIFIED", "PENDING_ACTIVATE", "ACTIVE")


def test_the_demonstration_plays_twice_on_one_database(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_database(migrated=False)
    # Settings of the caller's shell that would stand in its way do not.
    played = [hoc("demo", cwd=tmp_path, HOC_DATABASE_URL=url, HOC_PLANE_WORKERS="0") for _ in range(2)]
    for demo in played:
        assert (demo.returncode, demo.stderr) == (0, "")
        check_story(demo.stdout)
    tenants = [re.search(r"^tenant +(\S+),", demo.stdout, re.MULTILINE) for demo in played]
    assert len({found[1] for found in tenants if found}) == 2


def check_story(output: str) -> None:
    """Assert that the output tells the whole story, in its order."""
    lines = output.splitlines()
    arrived = re.findall(r"^plane +\w+ -> ([A-Z_]+)$", output, re.MULTILINE)
    assert tuple(arrived) == WAY
    assert re.search(r"^plane +serves [1-9]\d* documents in [1-9]\d* passages", output, re.MULTILINE)

    allowed = re.search(r"^retrieval +ALLOWED \((ev_\w+)\), [1-9]\d* tokens$", output, re.MULTILINE)
    assert allowed
    cited = re.findall(r"^ +art_\w{32} r\d+ sha256:[0-9a-f]{64} (\S+)$", output, re.MULTILINE)
    assert cited
    assert all(name.endswith(".md") for name in cited)
    denied = re.search(r"^retrieval +DENIED ([A-Z_]+) \((ev_\w+)\): .+\.$", output, re.MULTILINE)
    assert denied
    assert denied[1] == "NO_MATCHING_RULE"

    assert re.search(rf"^ +{allowed[1]} ALLOWED OK {len(cited)} documents$", output, re.MULTILINE)
    assert re.search(rf"^ +{denied[2]} DENIED {denied[1]} 0 documents$", output, re.MULTILINE)
    assert re.search(r"^evidence +retrievals: 2 items$", output, re.MULTILINE)
    assert re.search(r"^governance log +[1-9]\d* events$", output, re.MULTILINE)
    assert re.search(r"^ +\d{4}-\S+Z PolicyRuleCreated rule_\w+$", output, re.MULTILINE)
    proved = re.search(r"^proof +(\d+) of (\d+) facts, 3 steps chained$", output, re.MULTILINE)
    assert proved
    assert proved[1] == proved[2]
    assert re.search(r"^log +INCLUDED, \d+ entries signed as hoc\.local/", output, re.MULTILINE)
    assert "proof: VERIFIED" in lines
    assert re.search(r"^bundle +var/demo\.hocproof, \d+ bytes$", output, re.MULTILINE)
    assert re.search(r"^offline +hoc verify var/demo\.hocproof --key hoc\.local/\S+$", output, re.MULTILINE)
    assert "13 claims           PASS" in lines
    assert "FAIL" not in output
    assert lines[-1] == "VERIFIED"


def test_a_demonstration_that_cannot_reach_its_database_fails(tmp_path: Path) -> None:
    demo = hoc(
        "demo",
        cwd=tmp_path,
        HOC_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2",
    )
    assert demo.returncode == 1
    assert "VERIFIED" not in demo.stdout
    assert "Traceback" not in demo.stderr
    assert demo.stderr.startswith("UNREACHABLE: ")
