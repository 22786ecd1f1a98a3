"""Architecture tests: run a gate, in this process or as its users do, and read what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

BACKEND = Path(__file__).resolve().parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
GATES = {
    "check_init_hygiene": "scripts/ci/check_init_hygiene.py",
    "check_layer_boundaries": "scripts/ci/check_layer_boundaries.py",
    "hoc_cross_domain_validator": "scripts/ops/hoc_cross_domain_validator.py",
    "check_driver_purity": "scripts/ci/check_driver_purity.py",
    "check_transaction_boundaries": "scripts/ci/check_transaction_boundaries.py",
    "check_tenant_scope": "scripts/ci/check_tenant_scope.py",
    "hoc_l5_l6_purity_audit": "scripts/ops/hoc_l5_l6_purity_audit.py",
    "check_operation_ownership": "scripts/ci/check_operation_ownership.py",
    "check_hash_coverage": "scripts/ci/check_hash_coverage.py",
    "alembic_migration_audit": "scripts/ops/alembic_migration_audit.py",
    "check_sizes": "scripts/ci/check_sizes.py",
}
CLEAN_VERDICTS = {
    "check_init_hygiene": "0 blocking violations",
    "check_driver_purity": "Total: 0 violations",
    "hoc_l5_l6_purity_audit": "0 blocking, 0 advisory",
}
FOUND = re.compile(r"^(?P<path>.+?):(?P<line>\d+): (?P<rule>[A-Z]+-\d+) (?P<message>.+)$", re.MULTILINE)

# A place that breaks a rule: the path below the root, the line, the rule.
Place = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run of a gate."""

    root: Path
    code: int
    stdout: str
    stderr: str

    @property
    def verdict(self) -> str:
        return self.stdout.rstrip("\n").rpartition("\n")[2]

    @property
    def places(self) -> set[Place]:
        """Return where the gate says a rule is broken."""
        found = FOUND.finditer(self.stdout)
        return {(self._below_root(m["path"]), int(m["line"]), m["rule"]) for m in found}

    @property
    def count(self) -> int:
        return len(FOUND.findall(self.stdout))

    @property
    def rules(self) -> set[str]:
        return {rule for _, _, rule in self.places}

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    def _below_root(self, path: str) -> str:
        return Path(os.path.relpath(BACKEND / path, self.root)).as_posix()


@cache
def run_gate(gate: str, root: Path, *options: str) -> Run:
    """Run a gate on a root in this process."""
    return run_gate_over({}, gate, root, *options)


def run_gate_over(parsed: dict[Path, Any], gate: str, root: Path, *options: str) -> Run:
    """Run a gate on a root in this process; `parsed` is what other gates have read of the same files."""
    script = _script(gate)
    with (
        contextlib.chdir(BACKEND),
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        code = script.run(script.GATE, [*options, "--root", str(root)], parsed)
    return Run(root, code, stdout.getvalue(), stderr.getvalue())


@cache
def _script(gate: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(gate, BACKEND / GATES[gate])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_gate(gate: str, root: Path, *, cwd: Path) -> Run:
    """Run a gate's script on a root, with nothing of this process around it."""
    command = [sys.executable, str(BACKEND / GATES[gate]), "--root", str(root)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    return Run(root, done.returncode, done.stdout, done.stderr)


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write a tree of files below a folder and return the folder."""
    for relative, text in files.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def expected_places(root: Path) -> set[Place]:
    """Return the places that a failing fixture marks with `# expect: RULE-ID ...`."""
    found: set[Place] = set()
    for path in root.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for rule in line.partition("# expect:")[2].split():
                found.add((path.relative_to(root).as_posix(), number, rule))
    return found
