"""L5 engine of workflow steps: their graph, their state table, and what one put changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import workflow_steps as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.diagnostics import read_diagnostics
from app.domains.repository.engines.values import check_id
from app.domains.repository.errors import (
    immutable_field,
    invalid_input,
    invalid_step,
    invalid_transition,
    too_large,
)
from app.domains.repository.models.runs import MAX_STEPS, PutStep, StepSpec, WorkflowStepView
from app.domains.repository.models.vocabulary import StepStatus as Status
from app.kernel.canonical_json import dumps, loads

Row = Mapping[str, Any]

TRANSITIONS: Mapping[Status, tuple[Status, ...]] = {
    Status.PENDING: (Status.RUNNING, Status.SKIPPED, Status.CANCELLED),
    Status.RUNNING: (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED),
    Status.FAILED: (Status.RUNNING,),
    Status.SUCCEEDED: (),
    Status.SKIPPED: (),
    Status.CANCELLED: (),
}
FINAL = tuple(status for status, following in TRANSITIONS.items() if not following)


@dataclass(frozen=True, slots=True)
class StepWish:
    """What a put asks for, checked and canonical; null means that a member stays."""

    step_id: str
    position: int | None
    depends_on: tuple[str, ...] | None
    status: Status | None
    texts: Mapping[str, str]


def read_specs(specs: Sequence[StepSpec]) -> list[dict[str, Any]]:
    """Return the rows of a new run's steps without run_id; refuse INVALID_STEP with the step ids."""
    ids = [check_id(spec.step_id) for spec in specs]
    if repeated := _repeated(ids):
        raise invalid_step("A step id is there more than once.", repeated)
    positions = [spec.position for spec in specs]
    if taken := _repeated(positions):
        raise invalid_step(
            "A position is taken more than once.", [spec.step_id for spec in specs if spec.position in taken]
        )
    known = set(ids)
    if strays := [spec.step_id for spec in specs if not known.issuperset(spec.depends_on)]:
        raise invalid_step("A step depends on one that is not there.", strays)
    if circle := find_cycle({spec.step_id: spec.depends_on for spec in specs}):
        raise invalid_step("Steps depend on one another in a circle.", circle)
    return [
        new_step(
            spec.step_id,
            spec.position,
            spec.depends_on,
            inputs=documents.read_document(spec.inputs, field="inputs").text,
        )
        for spec in specs
    ]


def find_cycle(depends_on: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the steps that can never begin because they wait for one another, in order of id."""
    waiting = {step: set(others) for step, others in depends_on.items()}
    followers: dict[str, list[str]] = {}
    for step, others in waiting.items():
        for other in others:
            followers.setdefault(other, []).append(step)
    ready = [step for step, others in waiting.items() if not others]
    while ready:
        done = ready.pop()
        del waiting[done]
        for step in followers.get(done, ()):
            waiting[step].discard(done)
            if not waiting[step]:
                ready.append(step)
    # A step that only follows a circle is no part of it.
    while ends := [
        step for step in waiting if not any(follower in waiting for follower in followers.get(step, ()))
    ]:
        for step in ends:
            del waiting[step]
    return sorted(waiting)


def new_step(step_id: str, position: int, depends_on: Sequence[str], *, inputs: str = "{}") -> dict[str, Any]:
    """Return the row of a pending step, without run_id."""
    return {
        "step_id": step_id,
        "position": position,
        "status": str(Status.PENDING),
        "attempt": 1,
        "depends_on": dumps(list(dict.fromkeys(depends_on))),
        "inputs": inputs,
        "outputs": "{}",
        "diagnostics": "[]",
        "started_at": None,
        "finished_at": None,
    }


def insert_steps(
    connection: DriverConnection, *, tenant_id: str, run_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert the steps of a run."""
    if rows:
        driver.insert_steps(connection, tenant_id=tenant_id, rows=[{"run_id": run_id, **row} for row in rows])


def read_put(request: PutStep) -> StepWish:
    """Return what a put asks for; refuse INVALID_ID, INVALID_INPUT and INVALID_METADATA."""
    given = request.model_fields_set
    for field in ("position", "depends_on", "status", "diagnostics"):
        if field in given and getattr(request, field) is None:
            raise invalid_input(f"{field} is never null.", field)
    texts: dict[str, str] = {
        name: documents.read_document(getattr(request, name), field=name).text
        for name in ("inputs", "outputs")
        if name in given
    }
    if request.diagnostics is not None:
        texts["diagnostics"] = read_diagnostics(request.diagnostics)
    return StepWish(
        step_id=check_id(request.step_id),
        position=request.position,
        depends_on=None if request.depends_on is None else tuple(dict.fromkeys(request.depends_on)),
        status=request.status,
        texts=texts,
    )


def get_step(connection: DriverConnection, *, tenant_id: str, run_id: str, step_id: str) -> Row | None:
    """Return a step, None when the run has none of this id."""
    return driver.get_step(connection, tenant_id=tenant_id, run_id=run_id, step_id=step_id)


def add_step(
    connection: DriverConnection, wish: StepWish, *, tenant_id: str, run_id: str, now: datetime
) -> Row:
    """Insert a step of a run whose row is held; refuse INVALID_INPUT and INVALID_STEP."""
    if wish.position is None:
        raise invalid_input("A new step needs a position.", "position")
    others = wish.depends_on or ()
    if wish.step_id in others:
        raise invalid_step("A step depends on itself.", [wish.step_id])
    near = driver.list_neighbours(
        connection, tenant_id=tenant_id, run_id=run_id, step_ids=others, position=wish.position
    )
    holders = [row["step_id"] for row in near if row["position"] == wish.position]
    if holders:
        raise invalid_step("The position is taken.", [*holders, wish.step_id])
    if missing := sorted(set(others) - {row["step_id"] for row in near}):
        raise invalid_step("A step depends on one that is not there.", missing)
    count = driver.count_steps(connection, tenant_id=tenant_id, run_id=run_id)
    if count >= MAX_STEPS:
        raise too_large(MAX_STEPS, count + 1, "The number of steps")
    row = {"run_id": run_id, **new_step(wish.step_id, wish.position, others)}
    row |= decide_step(row, wish, now)
    driver.insert_steps(connection, tenant_id=tenant_id, rows=[row])
    return row


def decide_step(row: Row, wish: StepWish, now: datetime) -> dict[str, Any]:
    """Return what a put changes of a step, nothing when all is so already.

    Refuses IMMUTABLE_FIELD for position and depends_on, INVALID_TRANSITION for a way that the table does
    not have, and for any change of a step that is final.
    """
    if wish.position is not None and wish.position != row["position"]:
        raise immutable_field("position")
    if wish.depends_on is not None and set(wish.depends_on) != set(loads(row["depends_on"])):
        raise immutable_field("depends_on")
    current = Status(row["status"])
    wanted = wish.status or current
    changes: dict[str, Any] = {name: text for name, text in wish.texts.items() if text != row[name]}
    if wanted is not current and wanted not in TRANSITIONS[current]:
        raise invalid_transition(current, wanted, TRANSITIONS[current])
    if changes and current in FINAL:
        raise invalid_transition(current, wanted, ())
    if wanted is current:
        return changes
    changes["status"] = str(wanted)
    if wanted is Status.RUNNING:
        again = current is Status.FAILED
        return {**changes, "started_at": now, "finished_at": None, "attempt": row["attempt"] + int(again)}
    return {**changes, "finished_at": now}


def set_step(connection: DriverConnection, row: Row, changes: Row, *, tenant_id: str) -> Row:
    """Change a step of a run whose row is held; return the new row."""
    changed = driver.set_step(
        connection,
        tenant_id=tenant_id,
        run_id=row["run_id"],
        step_id=row["step_id"],
        status=row["status"],
        attempt=row["attempt"],
        values=changes,
    )
    if changed != 1:
        raise RuntimeError("a step changed while the row of its run was held")
    return {**row, **changes}


def list_steps(
    connection: DriverConnection, *, tenant_id: str, run_id: str, after: int = -1, limit: int | None = None
) -> Sequence[Row]:
    """Return the steps of a run beyond a position, in order."""
    return driver.list_steps(connection, tenant_id=tenant_id, run_id=run_id, after=after, limit=limit)


def step_view(row: Row) -> WorkflowStepView:
    """Return a step with its JSON columns read."""
    parsed = {name: loads(row[name]) for name in ("depends_on", "inputs", "outputs", "diagnostics")}
    members = {name: row[name] for name in WorkflowStepView.model_fields if name not in parsed}
    return WorkflowStepView(**members, **parsed)


def _repeated(items: Sequence[Any]) -> list[Any]:
    seen: set[Any] = set()
    return sorted({item for item in items if item in seen or seen.add(item)})  # type: ignore[func-returns-value]
