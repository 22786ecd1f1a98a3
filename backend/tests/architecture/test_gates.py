"""Architecture: every gate keeps the one command line, passes its good fixture and fails its bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.gate_runs import (
    BACKEND,
    CLEAN_VERDICTS,
    FIXTURES,
    GATES,
    Place,
    expected_places,
    run_gate,
    run_gate_over,
    start_gate,
    tree,
)

every_gate = pytest.mark.parametrize("gate", list(GATES))

# What no comment in a Python file can mark: documents, missing files, files that must stay as they are.
UNMARKED: dict[str, set[Place]] = {
    "check_init_hygiene": {
        ("app/no_package/__init__.py", 1, "INIT-005"),
        ("app/twice.py", 1, "INIT-009"),
    },
    "check_operation_ownership": {("docs/operations.md", 7, "OPS-008")},
    "check_hash_coverage": {("docs/proof/statement-types.json", 2, "HASH-010")},
}
# import-linter names one import of a cycle, whichever; the fixture holds one cycle in each of these packages.
CYCLES = "LAYER-013"


@every_gate
def test_the_good_fixture_is_clean(gate: str) -> None:
    done = run_gate(gate, FIXTURES / gate / "good")
    assert done.places == set()
    assert (done.code, done.verdict) == (0, CLEAN_VERDICTS.get(gate, "CLEAN"))


@every_gate
def test_the_bad_fixture_is_refused_at_every_marked_line_and_at_no_other(gate: str) -> None:
    root = FIXTURES / gate / "bad"
    done = run_gate(gate, root)
    wanted = expected_places(root) | UNMARKED.get(gate, set())
    assert done.code == 1
    assert {p for p in done.places if p[2] != CYCLES} == {p for p in wanted if p[2] != CYCLES}
    assert (CYCLES in done.rules) == (gate == "check_layer_boundaries")


@every_gate
def test_a_failing_verdict_has_the_shape_of_the_passing_one(gate: str) -> None:
    done = run_gate(gate, FIXTURES / gate / "bad")
    assert done.count > 0
    shapes = {
        "check_init_hygiene": f"{done.count} blocking violations",
        "check_driver_purity": f"Total: {done.count} violations",
        "hoc_l5_l6_purity_audit": f"{done.count} blocking, 0 advisory",
    }
    assert done.verdict == shapes.get(gate, f"NOT CLEAN: {done.count} violations")


@every_gate
def test_an_empty_folder_cannot_be_judged(gate: str, tmp_path: Path) -> None:
    done = run_gate(gate, tmp_path)
    assert (done.code, done.verdict) == (2, "COULD NOT RUN")
    assert "app" in done.stderr


@every_gate
def test_a_package_without_anything_to_check_cannot_be_judged(gate: str, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    done = run_gate(gate, tmp_path)
    assert (done.code, done.verdict) == (2, "COULD NOT RUN")


@every_gate
def test_a_file_that_is_no_python_is_named_and_cannot_be_judged(gate: str, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(FIXTURES / gate / "good", root)
    tree(root, {"app/broken.py": "def half(:\n"})
    done = run_gate(gate, root)
    assert (done.code, done.verdict) == (2, "COULD NOT RUN")
    assert "app/broken.py:1: not Python" in done.stderr


@every_gate
def test_json_says_the_same_as_the_lines(gate: str) -> None:
    root = FIXTURES / gate / "bad"
    lines, document = run_gate(gate, root), run_gate(gate, root, "--json", "--ci").document
    assert {(v["path"], v["line"], v["rule"]) for v in document["violations"]} == lines.places
    assert (document["gate"], document["verdict"], document["exit_code"]) == (gate, lines.verdict, 1)
    assert document["scanned"] > 0
    assert document["error"] is None


@every_gate
def test_as_a_process_in_another_working_directory_a_gate_says_the_same(gate: str, tmp_path: Path) -> None:
    root = FIXTURES / gate / "bad"
    here, there = run_gate(gate, root), start_gate(gate, root, cwd=tmp_path)
    assert (there.code, there.verdict, there.places) == (here.code, here.verdict, here.places)


@pytest.fixture(scope="module")
def parsed() -> dict[Path, Any]:
    """What the gates have read of the product: the same files for all of them."""
    return {}


@every_gate
def test_the_product_is_clean(gate: str, parsed: dict[Path, Any]) -> None:
    done = run_gate_over(parsed, gate, BACKEND, "--ci")
    assert (done.code, done.stdout) == (0, CLEAN_VERDICTS.get(gate, "CLEAN") + "\n"), (
        done.stdout + done.stderr
    )


def test_every_gate_script_is_tested_here() -> None:
    scripts = {p.relative_to(BACKEND).as_posix() for p in (BACKEND / "scripts").glob("*/*.py")}
    programs = {s for s in scripts if not s.endswith("check_all.py")}
    assert programs == set(GATES.values())


def test_json_of_a_run_that_could_not_be_says_why(tmp_path: Path) -> None:
    document = run_gate("check_sizes", tmp_path, "--json").document
    assert (document["exit_code"], document["verdict"], document["violations"]) == (2, "COULD NOT RUN", [])
    assert "holds no folder app" in document["error"]


def test_a_root_that_does_not_exist_cannot_be_judged(tmp_path: Path) -> None:
    assert run_gate("check_sizes", tmp_path / "nowhere").code == 2


def test_a_file_that_is_not_utf8_is_named_and_cannot_be_judged(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/latin.py": "# -*- coding: latin-1 -*-\nNAME = 'Zoë'\n".encode("latin-1")})
    done = run_gate("check_sizes", root)
    assert done.code == 2
    assert "app/latin.py:1: not UTF-8" in done.stderr


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/marked.py": b"\xef\xbb\xbfX = 1\n"})
    assert run_gate("check_sizes", root).code == 0


def test_a_null_byte_cannot_be_judged(tmp_path: Path) -> None:
    assert run_gate("check_sizes", tree(tmp_path, {"app/null.py": b"X = 1\x00\n"})).code == 2


def test_a_dangling_link_cannot_be_judged(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/here.py": "X = 1\n"})
    (root / "app" / "gone.py").symlink_to(root / "nowhere.py")
    assert run_gate("check_sizes", root).code == 2


def test_a_linked_folder_is_looked_into_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    long = "def long():\n" + "    x = 1\n" * 60
    root = tree(tmp_path, {"app/here.py": "X = 1\n", "outside/long.py": long})
    (root / "app" / "linked").symlink_to(root / "outside")
    (root / "outside" / "loop").symlink_to(root / "app")
    assert run_gate("check_sizes", root).places == {("app/linked/long.py", 1, "SIZE-002")}


def test_a_symbolic_link_in_the_package_is_unclean(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/__init__.py": "", "app/here.py": "X = 1\n"})
    (root / "app" / "also.py").symlink_to(root / "app" / "here.py")
    assert run_gate("check_init_hygiene", root).places == {("app/also.py", 1, "INIT-007")}


LONG = "def long():{comment}\n" + "    x = 1\n" * 60


def test_a_suppression_with_a_reason_excuses_its_line(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/a.py": LONG.format(comment="  # gate: SIZE-002 - a table of facts")})
    assert run_gate("check_sizes", root).code == 0


def test_a_suppression_without_a_reason_excuses_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/a.py": LONG.format(comment="  # gate: SIZE-002")})
    assert run_gate("check_sizes", root).rules == {"SIZE-002", "GATE-002"}


def test_a_suppression_that_suppresses_nothing_is_a_violation(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/a.py": "X = 1  # gate: SIZE-002 - it was long once\n"})
    assert run_gate("check_sizes", root).places == {("app/a.py", 1, "GATE-001")}


def test_a_suppression_of_another_rule_excuses_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, {"app/a.py": LONG.format(comment="  # gate: SIZE-001 - wrong rule")})
    assert run_gate("check_sizes", root).rules == {"SIZE-002", "GATE-001"}


def test_one_comment_may_suppress_two_rules(tmp_path: Path) -> None:
    comment = "# gate: SIZE-001 - one table; gate: SIZE-002 - one table"
    root = tree(tmp_path, {"app/a.py": f"def long():  {comment}\n" + "    x = 1\n" * 500})
    assert run_gate("check_sizes", root).code == 0


def test_a_suppression_inside_a_text_is_no_suppression(tmp_path: Path) -> None:
    text = '    x = "# gate: SIZE-002 - no comment"\n'
    root = tree(tmp_path, {"app/a.py": "def long():\n" + text * 60})
    assert run_gate("check_sizes", root).rules == {"SIZE-002"}


def test_a_suppression_may_stand_at_the_end_of_a_function_header(tmp_path: Path) -> None:
    header = "def long(\n    a,\n):  # gate: SIZE-002 - a table of facts\n"
    root = tree(tmp_path, {"app/a.py": header + "    x = 1\n" * 60})
    assert run_gate("check_sizes", root).code == 0


def test_two_modules_may_not_be_hidden_from_the_import_graph_by_a_missing_package(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "app/__init__.py": "",
            "app/domains/__init__.py": "",
            "app/domains/a/engines/x.py": "from app.domains.b.models import B\n",
            "app/domains/b/models.py": "class B: ...\n",
        },
    )
    assert ("app/domains/a/engines/x.py", 1, "XDOM-001") in run_gate(
        "hoc_cross_domain_validator", root
    ).places
    assert ("app/domains/a/engines/x.py", 1, "LAYER-004") in run_gate("check_layer_boundaries", root).places


def test_the_register_of_statement_types_is_written_on_request(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(FIXTURES / "check_hash_coverage" / "good", root)
    register = root / "docs" / "proof" / "statement-types.json"
    before = json.loads(register.read_text(encoding="utf-8"))
    register.write_text("{}", encoding="utf-8")
    assert run_gate("check_hash_coverage", root).rules == {"HASH-010"}
    assert run_gate("check_hash_coverage", root, "--write").code == 0
    assert json.loads(register.read_text(encoding="utf-8")) == before
    assert run_gate("check_hash_coverage", root, "--ci").code == 0


def test_two_heads_are_no_chain(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(FIXTURES / "alembic_migration_audit" / "good", root)
    second = root / "alembic" / "versions" / "0002_queue.py"
    text = second.read_text(encoding="utf-8")
    (second.parent / "0003_other.py").write_text(text.replace('"0002"', '"0003"'), encoding="utf-8")
    assert run_gate("alembic_migration_audit", root).places == {
        ("alembic/versions/0003_other.py", 6, "MIG-001")
    }


def test_a_gap_in_the_chain_is_no_chain(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(FIXTURES / "alembic_migration_audit" / "good", root)
    (root / "alembic" / "versions" / "0001_events.py").unlink()
    assert run_gate("alembic_migration_audit", root).rules == {"MIG-001"}
