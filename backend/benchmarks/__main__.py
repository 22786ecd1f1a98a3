"""Benchmarks: `python -m benchmarks [--seconds N] [--clients N] [--json]`, a table beside its floors."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.bundles import WORKS as BUNDLE_WORKS
from benchmarks.checks import WORKS as CHECK_WORKS
from benchmarks.controls import WORKS as CONTROL_WORKS
from benchmarks.lists import WORKS as LIST_WORKS
from benchmarks.proofs import WORKS as PROOF_WORKS
from benchmarks.report import Line, print_table
from benchmarks.repository import WORKS as REPOSITORY_WORKS
from benchmarks.spans import WORKS as SPAN_WORKS
from benchmarks.stage import Stage, staged
from benchmarks.start import WORKS as START_WORKS
from benchmarks.works import WORKS


def main() -> int:
    """Run each work and its floor in turn against one server and one durable PostgreSQL."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each round runs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each work; the median is shown")
    parser.add_argument("--clients", type=int, default=4, help="clients at once")
    parser.add_argument("--only", default="", help="run the works whose name holds this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    with staged() as stage:
        every = (
            *WORKS,
            *SPAN_WORKS,
            *CHECK_WORKS,
            *CONTROL_WORKS,
            *PROOF_WORKS,
            *BUNDLE_WORKS,
            *LIST_WORKS,
            *REPOSITORY_WORKS,
            *START_WORKS,
        )
        works = [work for work in every if arguments.only in work.name]
        lines = [_measure(stage, work, arguments) for work in works]
    if arguments.json:
        print(json.dumps([line.as_json() for line in lines], indent=2))
    else:
        print_table(lines)
    return 0


def _measure(stage: Stage, work: Any, arguments: argparse.Namespace) -> Line:
    ours, floors = [], []
    work.prepare(stage)
    # In turn, so that a slow minute of the machine hits both.
    for _ in range(min(arguments.rounds, getattr(work, "rounds", arguments.rounds))):
        ours.append(work.run(stage, clients=arguments.clients, seconds=arguments.seconds))
        floors.append(work.floor(stage, clients=arguments.clients, seconds=arguments.seconds))
    return Line.of(work, ours, floors)


if __name__ == "__main__":
    sys.exit(main())
