"""The tamper matrix: whatever a superuser changes behind a run is found under its code, on both dialects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.governed import GOVERNED, Governed
from app.domains.traces.engines import chain
from app.hoc_spine.spine import Spine
from app.kernel.hashing import leaf_hash
from tests.factories.databases import Databases, Dialect
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tampering import REAL, Lab, changed, play, taken_back, unguard

# No fact speaks for these: in a row of several facts they move with what is derived and measured too.
MOVING = {"version", "updated_at"}


@pytest.fixture(scope="module")
def lab(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, sa.Connection]]:
    """One run with a row of every governed table, for all damages of this module."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    built: list[Spine] = []

    def make(**settings: Any) -> Spine:
        built.append(build_spine(Settings(**settings), clock=SteerableClock(), ids=SteerableIds()))
        return built[-1]

    made = Lab(make, databases.new(dialect), tmp_path_factory.mktemp("lab"), log_sequencer="off")
    engine = sa.create_engine(made.log.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        unguard(connection)
        # A run with no forged rows: judging it asks a tenth of the tables.
        made.plain = play(made.log, made.world.with_run_of_its_own())
        made.forge(connection)
        made.log.sequence()
        yield made, connection
    engine.dispose()
    for spine in built:
        spine.close()


Opened = tuple[Lab, sa.Connection]


def forged(lab: Lab) -> dict[str, Governed]:
    return {name: GOVERNED[name] for name in sorted(lab.tables)}


def row_of(connection: sa.Connection, lab: Lab, entry: Governed) -> Any:
    """Return the forged row of a table, or the run's own."""
    table = entry.table
    query = sa.select(table).where(table.c.tenant_id == lab.tenant_id)
    forgery = [column == f"a-{table.name}-{column.name}" for column in table.c if column.name in entry.key]
    if table.name in REAL or not forgery:
        query = query.limit(1)
    else:
        query = query.where(forgery[0])
    return connection.execute(query).mappings().one()


def damage(connection: sa.Connection, lab: Lab, entry: Governed, name: str) -> None:
    """Change one column of one row."""
    table, row = entry.table, row_of(connection, lab, entry)
    where = [column == row[column.name] for column in table.primary_key]
    value = changed(entry, table.c[name], row[name])
    assert value != row[name]
    connection.execute(table.update().where(*where).values({name: value}))


def expected(entry: Governed, name: str) -> str | None:
    """Return the code that a changed column gives, None when no fact speaks for it."""
    if name in entry.unhashed or name == "erased_fact_id":
        return None
    if name in entry.protected or name == "protected_salt":
        return "VALUE_TAMPERED"
    if entry.mode == "EVENTED" and name in MOVING:
        return None
    if entry.operated and name == "version":
        # The operator has moved it on, for all that the tenant's own ledger knows; the verifier knows more.
        return None
    if name == "tenant_id":
        return "ROW_MISSING"
    if entry.mode in ("EVENTED", "AUDITED", "HEAD") and name in entry.key:
        return "ROW_MISSING"
    return "ROW_MISMATCH"


def test_the_run_is_verified_before_anything_is_changed(lab: Opened) -> None:
    world, connection = lab
    judged = world.judge(connection)
    assert (judged.failures, judged.failure_code) == ((), None)
    assert judged.log.status == "INCLUDED"
    assert judged.values["tampered"] == 0


def test_every_column_of_every_governed_table_is_found_or_excused_in_writing(lab: Opened) -> None:
    world, connection = lab
    tables = forged(world)
    assert tables.keys() | set(REAL) == GOVERNED.keys()
    rounds = max(len(entry.table.columns) for entry in tables.values())
    for number in range(rounds):
        # One column of every table at a time: each table must be found by itself.
        wanted = {
            name: entry.table.columns[number].name
            for name, entry in tables.items()
            if number < len(entry.table.columns)
        }
        with taken_back(connection):
            for name, column in wanted.items():
                damage(connection, world, tables[name], column)
            found = {failure.table: failure for failure in world.judge(connection).failures}
        for name, column in wanted.items():
            code = expected(tables[name], column)
            told = found.get(name)
            assert (told and told.code) == code, f"{name}.{column}"
            if told is not None and code == "ROW_MISMATCH":
                assert told.column == column, f"{name}.{column}"


# The run's own rows: what of a changed column is found under which code, None where nothing speaks for it.
TRACE_CODES = {
    "tenant_id": "TRACE_MISSING",
    "trace_id": "TRACE_MISSING",
    "run_id": "TRACE_MISSING",
    "head_hash": "HEAD_MISMATCH",
    "created_at": None,
    "updated_at": None,
    "version": None,
    **dict.fromkeys(
        ("attempt", "schema_version", "seed", "plan_hash", "genesis_hash", "started_at"), "GENESIS_MISMATCH"
    ),
}
STEP_CODES = {
    "tenant_id": "GAP",
    "trace_id": "GAP",
    "step_index": "REORDERED",
    "content_hash": None,
    "erased_fact_id": None,
    "prev_hash": "LINK_MISMATCH",
    "step_hash": "LINK_MISMATCH",
    "params": "VALUE_TAMPERED",
    "outcome_data": "VALUE_TAMPERED",
    "protected_salt": "VALUE_TAMPERED",
}
RUN_CODES = {
    "tenant_id": "ROW_MISSING",
    "run_id": "ROW_MISSING",
    "policy_snapshot_id": "GENESIS_MISMATCH",
    "version": None,
    "updated_at": None,
}


@pytest.mark.parametrize(
    ("table", "codes", "default", "where"),
    [
        ("aos_traces", TRACE_CODES, "SEAL_MISMATCH", "attempt = 2 AND run_id = :r"),
        ("aos_trace_steps", STEP_CODES, "FIELD_MISMATCH", "step_index = 1 AND trace_id = :s"),
        ("runs", RUN_CODES, "ROW_MISMATCH", "run_id = :r"),
    ],
)
def test_every_column_of_the_runs_own_rows_is_found_or_excused_in_writing(
    lab: Opened, table: str, codes: dict[str, str | None], default: str, where: str
) -> None:
    world, connection = lab
    entry, wanted = GOVERNED[table], sa.text(where).bindparams(**named(world, where))
    row = connection.execute(sa.select(entry.table).where(wanted)).mappings().one()
    for column in entry.table.columns:
        with taken_back(connection):
            value = changed(entry, column, row[column.name])
            connection.execute(entry.table.update().where(wanted).values({column.name: value}))
            found = world.judge(connection, world.plain.run_id).failure_code
        excused = table == "runs" and expected(entry, column.name) is None
        code = None if excused else codes.get(column.name, default)
        if column.name in (*entry.protected, "protected_salt"):
            code = "VALUE_TAMPERED"
        assert found == code, f"{table}.{column.name}"


def named(world: Lab, text: str) -> dict[str, Any]:
    run_id = world.plain.run_id
    given = {"t": world.tenant_id, "r": run_id, "s": f"trace_{run_id}.2", "h": "0" * 64, "o": "t-other"}
    return {name: value for name, value in given.items() if f":{name}" in text}


STEPS = "aos_trace_steps WHERE trace_id = :s"
ATTACKS: list[tuple[str, tuple[str, ...], str]] = [
    ("delete the newest step", (f"DELETE FROM {STEPS} AND step_index = 4",), "TRUNCATED"),
    ("delete the last steps", (f"DELETE FROM {STEPS} AND step_index >= 2",), "TRUNCATED"),
    ("delete all steps", (f"DELETE FROM {STEPS}",), "TRUNCATED"),
    ("delete a middle step", (f"DELETE FROM {STEPS} AND step_index = 2",), "GAP"),
    (
        "swap two indices",
        (
            f"UPDATE {STEPS.replace(' WHERE', ' SET step_index = 90 WHERE')} AND step_index = 2",
            f"UPDATE {STEPS.replace(' WHERE', ' SET step_index = 2 WHERE')} AND step_index = 3",
            f"UPDATE {STEPS.replace(' WHERE', ' SET step_index = 3 WHERE')} AND step_index = 90",
        ),
        "REORDERED",
    ),
    (
        "reopen a sealed trace",
        ("UPDATE aos_traces SET status = 'OPEN' WHERE trace_id = :s",),
        "SEAL_MISMATCH",
    ),
    (
        "delete the trace",
        (f"DELETE FROM {STEPS}", "DELETE FROM aos_traces WHERE trace_id = :s"),
        "TRACE_MISSING",
    ),
    ("delete the run's row", ("DELETE FROM runs WHERE run_id = :r",), "ROW_MISSING"),
    ("delete a row", ("DELETE FROM policy_evaluations WHERE run_id = :r AND attempt = 1",), "ROW_MISSING"),
    (
        "delete a leaf",
        ("DELETE FROM log_leaves WHERE run_id = :r AND type = 'retrieval.evidence'",),
        "FACT_GAP",
    ),
    ("delete all leaves", ("DELETE FROM log_leaves WHERE run_id = :r",), "FACT_GAP"),
    (
        "null a value without an erasure",
        ("UPDATE runs SET goal = NULL, error_message = NULL, protected_salt = NULL WHERE run_id = :r",),
        "VALUE_MISSING",
    ),
    (
        "null a step's value without an erasure",
        (
            (
                "UPDATE aos_trace_steps SET params = NULL, outcome_data = NULL, protected_salt = NULL"
                " WHERE trace_id = :s AND step_index = 1"
            ),
        ),
        "VALUE_MISSING",
    ),
    (
        "move a row to another tenant",
        ("UPDATE policy_evaluations SET tenant_id = :o WHERE run_id = :r",),
        "ROW_MISSING",
    ),
    (
        "move a row to another attempt",
        ("UPDATE policy_evaluations SET attempt = attempt + 5 WHERE run_id = :r",),
        "ROW_MISMATCH",
    ),
    (
        "move a leaf to another run",
        ("UPDATE log_leaves SET run_id = 'run_other' WHERE run_id = :r AND type = 'retrieval.evidence'",),
        "FACT_GAP",
    ),
    (
        "bring in a leaf of another run",
        (
            (
                "UPDATE log_leaves SET run_id = :r, late = true, fact_no = 1 + (SELECT late_count FROM"
                " run_fact_counters WHERE run_id = :r) WHERE fact_id = (SELECT min(fact_id) FROM log_leaves"
                " WHERE tenant_id = :t AND run_id IS NULL)"
            ),
            "UPDATE run_fact_counters SET late_count = late_count + 1 WHERE run_id = :r",
        ),
        "FOREIGN_FACT",
    ),
    (
        "renumber a leaf",
        ("UPDATE log_leaves SET fact_no = 900 WHERE run_id = :r AND fact_no = 2",),
        "FACT_GAP",
    ),
    (
        "give a leaf another type",
        ("UPDATE log_leaves SET v = 9 WHERE run_id = :r AND fact_no = 2",),
        "LOG_MISMATCH",
    ),
    (
        "give a leaf another time",
        (
            (
                "UPDATE log_leaves SET created_at = '2020-01-01T00:00:00.000000Z'"
                " WHERE run_id = :r AND fact_no = 2"
            ),
        ),
        "LOG_MISMATCH",
    ),
    (
        "a forged row in the run",
        (
            "UPDATE retrieval_evidence SET run_id = 'run_other' WHERE run_id = :r",
            "UPDATE plane_lifecycle_events SET fact_id = 'fct_x' WHERE fact_id = 'never'",
        ),
        "ROW_MISMATCH",
    ),
    (
        "the closing count",
        ("UPDATE run_fact_counters SET fact_count = fact_count + 1 WHERE run_id = :r",),
        "FACT_GAP",
    ),
    (
        "an entry of the log",
        (
            (
                "DELETE FROM log_entries WHERE tenant_id = :t AND fact_id ="
                " (SELECT min(fact_id) FROM log_leaves WHERE run_id = :r)"
            ),
        ),
        "LOG_MISMATCH",
    ),
    (
        "a rewound head",
        ("UPDATE log_heads SET size = 3, signed_size = 3 WHERE tenant_id = :t",),
        "LOG_MISMATCH",
    ),
    ("another root", ("UPDATE log_checkpoints SET root = :h WHERE tenant_id = :t",), "LOG_MISMATCH"),
]


def test_each_attack_on_a_run_gives_its_code(lab: Opened) -> None:
    world, connection = lab
    for name, statements, code in ATTACKS:
        with taken_back(connection):
            for statement in statements:
                connection.execute(sa.text(statement), named(world, statement))
            assert world.judge(connection, world.plain.run_id).failure_code == code, name


def test_a_row_of_the_run_that_no_fact_is_about_is_found(lab: Opened) -> None:
    world, connection = lab
    entry = GOVERNED["policy_evaluations"]
    row = dict(row_of(connection, world, entry))
    for fact_id in ("fct_of_nobody", a_fact(connection, world, "trace.sealed")):
        with taken_back(connection):
            forged_row = row | {
                "evaluation_id": "eval_forged",
                "attempt": 9,
                "fact_id": fact_id,
                "run_id": world.plain.run_id,
            }
            connection.execute(entry.table.insert(), forged_row)
            assert world.judge(connection, world.plain.run_id).failure_code == "UNLOGGED_ROW", fact_id


def a_fact(connection: sa.Connection, world: Lab, type_name: str) -> str:
    query = sa.text("SELECT min(fact_id) FROM log_leaves WHERE tenant_id = :t AND type = :y")
    return str(connection.execute(query, {"t": world.tenant_id, "y": type_name}).scalar_one())


def steps_of(connection: sa.Connection, world: Lab) -> list[dict[str, Any]]:
    table = GOVERNED["aos_trace_steps"].table
    query = (
        sa.select(table)
        .where(table.c.trace_id == f"trace_{world.plain.run_id}.2")
        .order_by(table.c.step_index)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def relinked(rows: list[dict[str, Any]], start: str) -> list[dict[str, Any]]:
    """Return the rows as somebody who knows the formulas would rewrite them: with indices and links anew."""
    link = start
    for index, row in enumerate(rows):
        row |= {"step_index": index, "prev_hash": link}
        row["step_hash"] = link = chain.next_link(link, chain.statement_hash(chain.step_statement(row)))
    return rows


def rewrite(connection: sa.Connection, world: Lab, rows: list[dict[str, Any]]) -> None:
    table = GOVERNED["aos_trace_steps"].table
    connection.execute(table.delete().where(table.c.trace_id == f"trace_{world.plain.run_id}.2"))
    connection.execute(table.insert(), rows)


def test_steps_that_are_inserted_or_rewritten_with_all_later_links_are_found(lab: Opened) -> None:
    world, connection = lab
    rows = steps_of(connection, world)
    genesis = rows[0]["prev_hash"]

    def forge(made: list[dict[str, Any]]) -> str | None:
        with taken_back(connection):
            rewrite(connection, world, made)
            return world.judge(connection, world.plain.run_id).failure_code

    extra = rows[-1] | {"external_id": None}
    assert (
        forge([*rows, extra | {"step_index": 5, "prev_hash": rows[-1]["step_hash"]}]) == "APPENDED_AFTER_SEAL"
    )
    middle = [*rows[:2], extra | {"step_index": 2, "prev_hash": "x"}]
    middle += [row | {"step_index": row["step_index"] + 1} for row in rows[2:]]
    assert forge(middle) == "APPENDED_AFTER_SEAL"
    swapped = [rows[0], rows[1] | {"prev_hash": "x" * 64}, *rows[2:]]
    assert forge(swapped) == "LINK_MISMATCH"
    rewritten = [dict(row) for row in rows]
    rewritten[1]["skill_name"] = "another"
    relinked(rewritten, genesis)
    assert forge(rewritten) == "SEAL_MISMATCH"
    # With the trace's row as well: the leaves still say otherwise.
    with taken_back(connection):
        rewrite(connection, world, rewritten)
        last = {"root_hash": rewritten[-1]["step_hash"], "head_hash": rewritten[-1]["step_hash"]}
        trace = GOVERNED["aos_traces"].table
        mine = trace.c.trace_id == f"trace_{world.plain.run_id}.2"
        connection.execute(trace.update().where(mine).values(last))
        assert world.judge(connection, world.plain.run_id).failure_code == "SEAL_MISMATCH"
        # And with the leaves and their hashes: the tree says otherwise.
        connection.execute(sa.text("SELECT 1"))
        forged_leaves(
            connection,
            world,
            {row["step_hash"]: new["step_hash"] for row, new in zip(rows, rewritten, strict=True)},
        )
        judged = world.judge(connection, world.plain.run_id)
        assert (judged.failure_code, judged.log.status) == ("LOG_MISMATCH", "FAILED")


def forged_leaves(connection: sa.Connection, world: Lab, links: dict[str, str]) -> None:
    leaves = connection.execute(
        sa.text("SELECT fact_id, statement FROM log_leaves WHERE tenant_id = :t AND run_id = :r"),
        {"t": world.tenant_id, "r": world.plain.run_id},
    ).all()
    change = sa.text(
        "UPDATE log_leaves SET statement = :s, leaf_hash = :h WHERE tenant_id = :t AND fact_id = :f"
    )
    for fact_id, statement in leaves:
        text = statement
        for old, new in links.items():
            text = text.replace(old, new)
        if text != statement:
            given = {"s": text, "h": leaf_hash(text), "t": world.tenant_id, "f": fact_id}
            connection.execute(change, given)


def test_a_row_rewritten_with_its_fact_and_hash_is_found_by_the_tree(lab: Opened) -> None:
    world, connection = lab
    with taken_back(connection):
        connection.execute(
            sa.text("UPDATE policy_evaluations SET confidence = 1 WHERE run_id = :r"),
            {"r": world.plain.run_id},
        )
        assert world.judge(connection, world.plain.run_id).failure_code == "ROW_MISMATCH"
        known = connection.execute(
            sa.text(
                "SELECT statement FROM log_leaves WHERE run_id = :r AND type = 'evaluation'"
                " AND ref_key NOT LIKE '%a-policy%'"
            ),
            {"r": world.plain.run_id},
        ).scalars()
        forged_leaves(
            connection, world, {text: re.sub('"confidence":[0-9]+', '"confidence":1', text) for text in known}
        )
        judged = world.judge(connection, world.plain.run_id)
        assert (judged.failure_code, judged.log.status) == ("LOG_MISMATCH", "FAILED")


def test_rows_that_no_column_type_can_read_fail_under_their_code_and_never_break_the_proof(
    lab: Opened, dialect: Dialect
) -> None:
    world, connection = lab
    bad = "CAST(X'FF' AS TEXT)"
    edits = {
        "sqlite": [
            ("UPDATE runs SET started_at = 'yesterday' WHERE run_id = :r", "ROW_MISMATCH"),
            (f"UPDATE runs SET labels = {bad} WHERE run_id = :r", "ROW_MISMATCH"),
            (f"UPDATE runs SET goal = {bad} WHERE run_id = :r", "VALUE_TAMPERED"),
            (f"UPDATE runs SET policy_snapshot_id = {bad} WHERE run_id = :r", "GENESIS_MISMATCH"),
            (f"UPDATE retrieval_evidence SET documents = {bad} WHERE run_id = :r", "ROW_MISMATCH"),
            ("UPDATE policy_evaluations SET confidence = 'much' WHERE run_id = :r", "ROW_MISMATCH"),
            ("UPDATE policy_evaluations SET created_at = 'then' WHERE run_id = :r", "ROW_MISMATCH"),
            (
                f"UPDATE log_leaves SET statement = {bad} WHERE run_id = :r AND type = 'evaluation'",
                "LOG_MISMATCH",
            ),
            (
                "UPDATE log_leaves SET statement = 'no json' WHERE run_id = :r AND type = 'evaluation'",
                "LOG_MISMATCH",
            ),
            (
                "UPDATE log_leaves SET created_at = 'then' WHERE run_id = :r AND type = 'evaluation'",
                "LOG_MISMATCH",
            ),
            ("UPDATE log_leaves SET fact_no = 'two' WHERE run_id = :r AND fact_no = 2", "FACT_GAP"),
            ("UPDATE run_fact_counters SET fact_count = 'many' WHERE run_id = :r", "FACT_GAP"),
            ("UPDATE log_heads SET root = 7, updated_at = 'x' WHERE tenant_id = :t", None),
            ("UPDATE log_heads SET size = 'x' WHERE tenant_id = :t", "LOG_MISMATCH"),
            (f"UPDATE log_checkpoints SET note = {bad} WHERE tenant_id = :t", "LOG_MISMATCH"),
            ("UPDATE log_tiles SET hashes = 'x' WHERE tenant_id = :t", "LOG_MISMATCH"),
        ],
        "postgresql": [
            ("UPDATE runs SET started_at = 'infinity' WHERE run_id = :r", "ROW_MISMATCH"),
            ("UPDATE policy_evaluations SET created_at = '-infinity' WHERE run_id = :r", "ROW_MISMATCH"),
            (
                "UPDATE log_leaves SET created_at = 'infinity' WHERE run_id = :r AND type = 'evaluation'",
                "LOG_MISMATCH",
            ),
            (
                "UPDATE log_leaves SET statement = 'no json' WHERE run_id = :r AND type = 'evaluation'",
                "LOG_MISMATCH",
            ),
        ],
    }
    for edit, code in edits[dialect]:
        with taken_back(connection):
            connection.execute(sa.text(edit), named(world, edit))
            assert world.judge(connection, world.plain.run_id).failure_code == code, edit
