"""Test tampering: a superuser's connection without guards, and one forged row of every governed table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import app.db.catalogue  # noqa: F401 - fills the register of governed tables
from app.db.governed import GOVERNED, Governed, row_image
from app.db.types import Timestamp
from app.domains.logs.engines import ledger
from app.domains.logs.engines.facts import flush
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.coordinators.run_judgement import Judgement, judge_run, read_proof_facts
from app.hoc_spine.operation_context import FactRecorder, OperationContext
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import SpineConnection
from tests.factories.logs import LogWorld
from tests.factories.worlds import World, make_world, step

# Later than whatever the product itself writes in these tests.
MOMENT = datetime(2100, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)
# Their rows are made by the run itself; rows of the repository's chain are made by its writes.
REAL = ("runs", "aos_traces", "aos_trace_steps", "audit_ledger", "repository_changes", "artifact_revisions")


class Lab:
    """A signed log with a governed run that is rich in facts, and a hand that no trigger stops."""

    def __init__(self, make_spine: Callable[..., Spine], url: str, folder: Path, **settings: Any) -> None:
        write_new_key(folder / "log-key.pem")
        self.log = LogWorld(make_spine, url, folder, **settings)
        self.world = self.plain = rich_run(self.log)
        self.tables: set[str] = set()

    @property
    def tenant_id(self) -> str:
        """The tenant."""
        return self.log.tenant_id

    def forge(self, connection: sa.Connection) -> None:
        """Add one row of every other governed table to the run, with its facts, as the product would."""
        spine_connection = SpineConnection(connection, self.log.spine.transactions.dialect_name)
        context = self._context(spine_connection)
        for name, entry in sorted(GOVERNED.items()):
            if name in REAL or entry.mode == "CHAINED":
                continue
            row = _row(context, entry)
            if entry.mode in ("APPEND", "HEAD"):
                row["fact_id"] = context.facts.add(
                    entry.types[0], row, run_id=self.world.run_id, live_only=False
                )
            elif entry.types:
                context.facts.add(entry.types[0], row, run_id=self.world.run_id, live_only=False)
            if entry.mode == "AUDITED":
                image = row_image(name, row)
                after = {entry.image: image} if entry.image else image
                key = row[entry.key[0]] if entry.key else self.tenant_id
                _audit(context, entry, key, after, run_id=self.world.run_id)
            if name == "tenants":
                mine = entry.table.c.tenant_id == self.tenant_id
                connection.execute(entry.table.update().where(mine).values(row))
            else:
                connection.execute(entry.table.insert(), {**row, "tenant_id": self.tenant_id})
            self.tables.add(name)
        if connection.dialect.name == "postgresql":
            # That a leaf is queued is a trigger's work too.
            connection.exec_driver_sql("SET session_replication_role = DEFAULT")
        flush_rows(context)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")

    def _context(self, connection: SpineConnection) -> OperationContext:
        spine = self.log.spine
        request = self.log.tenant.context(run_id=self.world.run_id)
        return OperationContext(
            connection=connection,
            request=request,
            now=MOMENT,
            services=spine.services,
            transactions=spine.transactions,
            operation="tests.forge",
            facts=FactRecorder(spine.services, request),
            nested=lambda *_: None,
            standing_loader=lambda: None,  # type: ignore[arg-type,return-value]
        )

    def judge(self, connection: sa.Connection, run_id: str | None = None) -> Judgement:
        """Judge the run as the database now stands, on this very connection."""
        facts = read_proof_facts(
            SpineConnection(connection, self.log.spine.transactions.dialect_name),
            tenant_id=self.tenant_id,
            run_id=run_id or self.world.run_id,
            keys=self.log.files.keys(),
        )
        assert facts is not None
        return judge_run(facts)


def rich_run(log: LogWorld) -> World:
    """Play a run of two attempts, with accesses, repository writes and late facts, to its end."""
    return play(log, make_world(log.spine, log.tenant))


def play(log: LogWorld, world: World) -> World:
    """Play the run of a world as `rich_run` does."""
    call, run = log.tenant.call, world.run_id
    world.access().unwrap()
    world.append(*(step(index) for index in range(2)))
    call("runs.retry", {"run_id": run, "from_attempt": 1, "reason": "again"})
    world.append(*(step(index) for index in range(2)))
    world.append(*(step(index) for index in range(2, 5)))
    world.access(purpose="marketing")
    call("repository.collections.create", {"name": f"by {run}"}, run_id=run)
    world.complete()
    call("tenants.freeze", {"reason": "after the run"}, run_id=run)
    call("tenants.unfreeze", {"reason": "after the run"}, run_id=run)
    return world


def flush_rows(context: OperationContext) -> None:
    """Write the queued ledger entries and facts of a context."""
    given: dict[str, Any] = {"tenant_id": context.tenant_id}
    ledger.append_entries(context.connection, context.entries, **given)
    flush(context.connection, context.facts.joined(), **given, now=context.now)


def _audit(context: OperationContext, entry: Governed, key: str, after: Any, *, run_id: str) -> None:
    from app.domains.logs.models.ledger import (
        AUDIT_EVENTS,
    )

    context.audit(AUDIT_EVENTS[entry.entity][0], entry.entity, key, after=after, run_id=run_id)


def _row(context: OperationContext, entry: Governed) -> dict[str, Any]:
    row = {
        column.name: _value(entry, column)
        for column in entry.table.columns
        if column.name not in ("tenant_id", "fact_id", "protected_salt", "protected_commit", "erased_fact_id")
    }
    if "version" in row and isinstance(entry.table.c.version.type, sa.Integer):
        row["version"] = 1
    if entry.protected:
        row |= context.protect({name: row[name] for name in entry.protected})
    return row


def _value(entry: Governed, column: sa.Column[Any]) -> Any:
    if isinstance(column.type, Timestamp):
        return MOMENT
    if isinstance(column.type, sa.Boolean):
        return False
    if isinstance(column.type, sa.Integer):
        return 5
    return '{"n":1}' if column.name in entry.json else f"a-{entry.table.name}-{column.name}"


def changed(entry: Governed, column: sa.Column[Any], value: Any) -> Any:
    """Return another value of the column's own kind."""
    if isinstance(column.type, Timestamp):
        return (value or MOMENT) + timedelta(seconds=1)
    if isinstance(column.type, sa.Boolean):
        return not value
    if isinstance(column.type, sa.Integer):
        return (value or 0) + 50
    return '{"n":2}' if column.name in entry.json else f"{value or ''}x"


def unguard(connection: sa.Connection) -> None:
    """Do what a superuser does first: no triggers, no foreign keys, no checks, for this connection."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET session_replication_role = replica")
        found = connection.exec_driver_sql(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint"
            " WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace AND conrelid <> 0"
        ).all()
        by_table: dict[str, list[str]] = {}
        for table, name in found:
            by_table.setdefault(table, []).append(f'DROP CONSTRAINT "{name}"')
        for table, drops in by_table.items():
            connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(drops)}")
        return
    connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
    for name in (
        connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
    ):
        if name != "log_leaves_enqueue":
            connection.exec_driver_sql(f"DROP TRIGGER {name}")


@contextmanager
def taken_back(connection: sa.Connection) -> Iterator[sa.Connection]:
    """Give the connection inside a transaction whose work is taken back at the end."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield connection
    finally:
        connection.exec_driver_sql("ROLLBACK")
