"""Test logs: a sequencer over a spine of the test's own database, and facts to sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typer.testing import CliRunner

from app.cli.program import cli
from app.domains.logs.engines.note import SigningKey
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.kernel import merkle
from app.kernel.clock import Clock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run


class LogWorld:
    """One tenant in a database of its own, its log, and what is outside the database."""

    def __init__(self, make_spine: Callable[..., Spine], url: str, folder: Path, **settings: Any) -> None:
        self._make_spine = make_spine
        self.url = url
        self.key_file = folder / "log-key.pem"
        self.checkpoints = folder / "checkpoints"
        self._settings = {
            "database_url": url,
            "log_origin": "hoc.test",
            "log_key_file": self.key_file,
            "checkpoint_dir": self.checkpoints,
            "checkpoint_interval_ms": 0,
            **settings,
        }
        self._owner = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self.spine = self.another_spine()
        self.tenant: Tenant = make_tenant(self.spine)

    @property
    def tenant_id(self) -> str:
        """The tenant."""
        return self.tenant.tenant_id

    @property
    def origin(self) -> str:
        """The origin of the tenant's log."""
        return f"hoc.test/{self.tenant_id}/1"

    @property
    def files(self) -> LogFiles:
        """What is outside the database."""
        files: LogFiles = self.spine.services.caches["log_files"]
        return files

    @property
    def key(self) -> SigningKey:
        """The signing key."""
        keys = self.files.keys()
        assert keys is not None
        return keys.current

    def another_spine(self, **settings: Any) -> Spine:
        """Build a spine as another process would."""
        return self._make_spine(**{**self._settings, **settings})

    def facts(self, count: int) -> None:
        """Record at least `count` facts."""
        for _ in range(count):
            start_run(self.tenant)

    def repeat_leaves(self, count: int) -> None:
        """Queue copies of the tenant's first leaf: a tree grows without the runs that make it grow."""
        copy = (
            "INSERT INTO log_leaves SELECT tenant_id, :f, type, v, ref_table, ref_key, ref_version,"
            " NULL, NULL, NULL, late, statement, leaf_hash, created_at FROM log_leaves WHERE tenant_id = :t"
            " AND fact_id NOT LIKE 'fct_z%' ORDER BY fact_id LIMIT 1"
        )
        with self.connect() as connection:
            known = connection.execute(sa.text("SELECT count(*) FROM log_leaves")).scalar_one()
            rows = [{"t": self.tenant_id, "f": f"fct_z{known + number:08d}"} for number in range(count)]
            connection.exec_driver_sql("BEGIN")
            connection.execute(sa.text(copy), rows)
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """Connect as the owner of the database."""
        with self._owner.connect() as connection:
            yield connection

    def fact_at(self, index: int) -> str:
        """Return the fact at an index of the log."""
        with self.connect() as connection:
            query = "SELECT fact_id FROM log_entries WHERE tenant_id = :t AND idx = :i"
            return str(self.rows(connection, query, i=index)[0]["fact_id"])

    def facts_of(self, tenant_id: str) -> list[str]:
        """Return the facts of any tenant, by id."""
        with self.connect() as connection:
            query = sa.text("SELECT fact_id FROM log_leaves WHERE tenant_id = :t ORDER BY fact_id")
            return list(connection.execute(query, {"t": tenant_id}).scalars())

    def sequence(self, *, sign: bool = True) -> Any:
        """Sequence everything, and sign it, as a process that then ends."""
        # Where the key should be is a folder, and a folder signs nothing.
        spine = self.spine if sign else self.another_spine(log_key_file=self.key_file.parent)
        sequencer = LogSequencer(spine)
        done = sequencer.drain() if sign else sequencer.run_round()
        sequencer.release()
        return done

    def hoc(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run `hoc` on the database and return what it printed; assert the exit code."""
        environment = {
            "HOC_DATABASE_URL": self.url,
            "HOC_LOG_KEY_FILE": str(self.key_file),
            "HOC_CHECKPOINT_DIR": str(self.checkpoints),
            "HOC_LOG_ORIGIN": "hoc.test",
            **settings,
        }
        ended = CliRunner().invoke(cli, arguments, env=environment)
        assert ended.exit_code == code, (ended.output, ended.exception)
        return str(ended.stdout if code != 1 else ended.output)

    def status(self) -> Any:
        """Return the status of the log."""
        return self.tenant.call("log.status")

    def rows(self, connection: sa.Connection, text: str, **values: Any) -> list[dict[str, Any]]:
        """Return rows of a query that names the tenant `:t`."""
        found = connection.execute(sa.text(text), {"t": self.tenant_id, **values})
        return [dict(row) for row in found.mappings()]

    def check(self, connection: sa.Connection) -> int:
        """Check the whole log against its leaves, from the tables alone; return its size.

        No fork, no gap, no loss: each leaf is at exactly one index 0..n-1, or waits; tiles, root and
        checkpoints are those of the leaf hashes in order.
        """
        head = self.rows(connection, "SELECT * FROM log_heads WHERE tenant_id = :t")[0]
        entries = self.rows(
            connection,
            "SELECT e.idx, e.fact_id, l.leaf_hash FROM log_entries e JOIN log_leaves l"
            " ON l.tenant_id = e.tenant_id AND l.fact_id = e.fact_id WHERE e.tenant_id = :t ORDER BY e.idx",
        )
        leaves = self.rows(connection, "SELECT fact_id FROM log_leaves WHERE tenant_id = :t")
        waiting = self.rows(connection, "SELECT fact_id FROM log_pending WHERE tenant_id = :t")
        assert [entry["idx"] for entry in entries] == list(range(head["size"]))
        integrated = [entry["fact_id"] for entry in entries]
        assert len(set(integrated)) == len(integrated)
        assert sorted([*integrated, *(row["fact_id"] for row in waiting)]) == sorted(
            row["fact_id"] for row in leaves
        )
        hashes = [bytes.fromhex(entry["leaf_hash"]) for entry in entries]
        assert merkle.root(hashes).hex() == head["root"]
        tiles = self.rows(
            connection,
            "SELECT hashes FROM log_tiles WHERE tenant_id = :t AND level = 0 ORDER BY tile_no",
        )
        assert b"".join(bytes(tile["hashes"]) for tile in tiles) == b"".join(hashes)
        for signed in self.rows(connection, "SELECT * FROM log_checkpoints WHERE tenant_id = :t"):
            assert merkle.root(hashes[: signed["size"]]).hex() == signed["root"]
            assert signed["size"] <= head["signed_size"] <= head["size"]
        return int(head["size"])


@contextmanager
def standing_world(
    url: str, folder: Path, *, facts: int = 5, clock: Clock | None = None
) -> Iterator[LogWorld]:
    """Give a world with a signed log to a whole module of tests."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    with ExitStack() as stack:

        def make(**settings: Any) -> Spine:
            built = build_spine(Settings(**settings), clock=clock, verify_schema=False)
            stack.callback(built.close)
            return built

        world = LogWorld(make, url, folder)
        world.facts(facts)
        world.sequence()
        yield world
