"""Run every gate side by side and end with one verdict: what `make check` and CI run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS = Path("backend/scripts")

# Slowest first, so that the last one to finish started early.
GATES = (
    "ci/check_layer_boundaries.py",
    "ops/alembic_migration_audit.py",
    "ci/check_operation_ownership.py",
    "ci/check_hash_coverage.py",
    "ops/hoc_cross_domain_validator.py",
    "ops/hoc_l5_l6_purity_audit.py",
    "ci/check_tenant_scope.py",
    "ci/check_driver_purity.py",
    "ci/check_transaction_boundaries.py",
    "ci/check_init_hygiene.py",
    "ci/check_sizes.py",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One command whose exit code is its verdict."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended."""

    check: Check
    code: int
    seconds: float
    output: str

    @property
    def last_line(self) -> str:
        """Return the verdict line of the check."""
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


def all_checks() -> list[Check]:
    """Return every check, the slowest first."""
    python = sys.executable
    tools = [
        Check("types", (python, "-m", "mypy")),
        Check("API document", (python, "-m", "app.api.openapi", "--check")),
        Check("lint", (python, "-m", "ruff", "check", "backend")),
        Check("format", (python, "-m", "ruff", "format", "--check", "backend")),
    ]
    gates = [Check(Path(gate).stem, (python, str(SCRIPTS / gate), "--ci")) for gate in GATES]
    return tools[:2] + gates + tools[2:]


def unlisted_gates() -> list[str]:
    """Return the gate scripts that nobody would run, because `GATES` forgets them."""
    there = {
        path.relative_to(REPOSITORY / SCRIPTS).as_posix()
        for path in (REPOSITORY / SCRIPTS).glob("ci/check_*.py")
    }
    return sorted(there - set(GATES) - {"ci/check_all.py"})


def run(check: Check) -> Outcome:
    """Run one check in the repository and return how it ended."""
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": "backend", "NO_COLOR": "1"}
    done = subprocess.run(
        check.command,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(check, done.returncode, time.monotonic() - began, done.stdout)


def run_all(checks: list[Check], *, jobs: int) -> list[Outcome]:
    """Run the checks, `jobs` at a time, and report each as it ends."""
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run, check) for check in checks]):
            outcome = future.result()
            outcomes.append(outcome)
            word = "FAILED" if outcome.code else "ok"
            print(
                f"{word:<7}{outcome.seconds:6.1f} s  {outcome.check.name:<32}{outcome.last_line}", flush=True
            )
    return outcomes


def main() -> int:
    """Run the checks and return 0 when all are clean, else 1; 2 for a name that no check has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CHECK", help="only these checks; none means all")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 2), help="checks at a time")
    arguments = parser.parse_args()
    checks = all_checks()
    unknown = sorted(set(arguments.names) - {check.name for check in checks})
    if unknown:
        parser.error(f"no check named {', '.join(unknown)}; there are: {', '.join(c.name for c in checks)}")
    began = time.monotonic()
    chosen = [check for check in checks if not arguments.names or check.name in arguments.names]
    outcomes = run_all(chosen, jobs=max(1, arguments.jobs))
    failed = [outcome for outcome in outcomes if outcome.code]
    for outcome in failed:
        print(f"\n--- {outcome.check.name} (exit {outcome.code}): {' '.join(outcome.check.command)}")
        print(outcome.output.strip())
    forgotten = unlisted_gates()
    for gate in forgotten:
        print(f"\n{SCRIPTS / gate}: not listed in GATES of check_all.py, so nothing runs it")
    wrong = len(failed) + len(forgotten)
    print(f"\n{len(outcomes)} checks, {wrong} failed, {time.monotonic() - began:.0f} s")
    print("NOT CLEAN" if wrong else "CLEAN")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
