"""Benchmarks: where a governed check spends its time: `python -m benchmarks.inside` prints a profile of it.

One caller dispatches in process, on the stage of the other works, so that nothing of HTTP is in it.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import secrets
import sys
import time
from pathlib import Path

import psycopg

from app.bootstrap import build_spine
from app.kernel.context import Actor, RequestContext
from app.settings import Settings
from benchmarks.checks import ACTION, GovernedCheck
from benchmarks.stage import Stage, staged

CHECKS = 1500
SHOWN = 25
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print for each check its time and the processor time of process and backend; then the calls."""
    with staged() as stage:
        GovernedCheck().prepare(stage)
        _profile(stage)
    return 0


def _profile(stage: Stage) -> None:
    settings = Settings(database_url=stage.database_url, pool_size=1)
    spine = build_spine(settings)
    with psycopg.connect(stage.dsn) as owner:
        found = owner.execute(
            "SELECT key_id FROM api_keys WHERE tenant_id = %s", (stage.tenant_id,)
        ).fetchone()
    key_id = None if found is None else found[0]
    asked = {"run_id": stage.start_run(), "action": ACTION}
    actor, scopes = Actor("HUMAN", "bench"), frozenset({"runs:write"})

    def check() -> None:
        name = f"req_{secrets.token_hex(8)}"
        context = RequestContext(stage.tenant_id, actor, name, scopes=scopes, key_id=key_id)
        spine.dispatch("runs.check", context, dict(asked)).unwrap()

    try:
        for _ in range(CHECKS // 5):
            check()
        begun, own, backends = time.perf_counter(), _own(), _backends(stage)
        for _ in range(CHECKS):
            check()
        taken, spent, others = time.perf_counter() - begun, _own() - own, _backends(stage)
        behind = max(others[pid] - backends[pid] for pid in backends.keys() & others.keys())
        each = [1000 * part / CHECKS for part in (taken, spent, behind)]
        print(
            "a check: {:.2f} ms, of the process {:.2f} ms of the processor, of its backend {:.2f} ms".format(
                *each
            )
        )
        profile = cProfile.Profile()
        profile.runcall(lambda: [check() for _ in range(CHECKS // 5)])
        stats = pstats.Stats(profile)
        print(f"{stats.total_calls // (CHECKS // 5)} calls")  # type: ignore[attr-defined]
        stats.sort_stats("tottime").print_stats(SHOWN)
    finally:
        spine.close()


def _own() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _backends(stage: Stage) -> dict[int, float]:
    """Return the processor seconds of every connection's process so far."""
    with psycopg.connect(stage.dsn) as owner:
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        pids = [row[0] for row in owner.execute(f"SELECT pid FROM pg_stat_activity WHERE {others}")]
    found = {}
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


if __name__ == "__main__":
    sys.exit(main())
