"""The sql connector against a real PostgreSQL and a real SQLite: it reads, within bounds, nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.connectors.credentials import Credentials
from app.connectors.hosts import HostPolicy
from app.connectors.sql import SqlConnector
from app.connectors.sql_postgresql import PostgresqlSource
from app.connectors.sql_sqlite import SqliteSource
from app.connectors.values import Caps, ConnectorFailedError, ConnectorRefusedError, ConnectorResult
from app.domains.knowledge.engines.config_shapes import SqlConfig
from tests.factories.databases import Databases, Dialect
from tests.factories.foreign import Listener, fill_postgresql, fill_sqlite, postgresql_over_tcp

PLANE = {"plane_id": "kp_1", "config_digest": "d1"}
ALL = {"id": "all", "sql": "SELECT order_id, customer, note, total FROM orders ORDER BY order_id",
       "key_columns": ["order_id"]}  # fmt: skip
BY_NOTE = {
    "id": "by-note",
    "sql": "SELECT order_id, note FROM orders WHERE note = :note AND ':x' <> '100%'",
    "params": [{"name": "note", "type": "str", "max_length": 40}],
    "key_columns": ["order_id"],
}


class Source:
    """A connector over one database, and what its planes may say."""

    def __init__(self, connector: SqlConnector, driver: str, dsn: str, environment: dict[str, str]) -> None:
        self.connector = connector
        self.driver = driver
        self.dsn = dsn
        self.environment = environment
        self.listener: Listener | None = None

    def config(self, *templates: dict[str, Any], **members: Any) -> dict[str, Any]:
        shape = {"driver": self.driver, "credential_ref": "env://DSN", "templates": list(templates)}
        return SqlConfig.model_validate(shape | members).model_dump(mode="json")

    def ask(
        self, template: dict[str, Any], *, caps: Caps | None = None, seconds: float = 5, **params: Any
    ) -> ConnectorResult:
        config = self.config(template)
        payload = {"template_id": template["id"], "params": params}
        self.connector.check(action="query", payload=payload, config=config)
        return self.connector.execute(
            None,
            tenant_id="acme",
            plane=PLANE,
            action="query",
            payload=payload,
            config=config,
            caps=caps or Caps(100, 1_000_000),
            deadline=time.monotonic() + seconds,
        )

    def fails(self, template: dict[str, Any], **members: Any) -> str:
        with pytest.raises(ConnectorFailedError) as failure:
            self.ask(template, **members)
        return failure.value.code


@pytest.fixture(scope="module")
def orders(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Source]:
    """The same orders in a foreign database of each kind."""
    folder = tmp_path_factory.mktemp("foreign")
    environment: dict[str, str] = {}
    credentials = Credentials(key=None, old_keys=(), environment=environment, env_allow=("acme/DSN",))
    if dialect == "sqlite":
        fill_sqlite(folder / "orders.db")
        sources = {"sqlite": SqliteSource(folder)}
        environment["DSN"] = "sqlite:///orders.db"
        yield Source(SqlConnector(sources, credentials), "sqlite", environment["DSN"], environment)
        return
    with postgresql_over_tcp(databases.new("postgresql", migrated=False)) as (listener, dsn):
        fill_postgresql(dsn)
        environment["DSN"] = dsn
        postgresql = PostgresqlSource(HostPolicy([f"127.0.0.1:{listener.port}"]))
        source = Source(SqlConnector({"postgresql": postgresql}, credentials), "postgresql", dsn, environment)
        source.listener = listener
        yield source
        postgresql.stop()


def test_rows_are_documents_with_references_and_digests(orders: Source) -> None:
    result = orders.ask(ALL)
    assert [document.doc_ref for document in result.documents] == [
        f"all:[{number}]" for number in (1, 2, 3, 4)
    ]
    assert all(document.digest.startswith("sha256:") for document in result.documents)
    row = result.documents[0].row
    assert row is not None
    assert row["total"] == ("10.50" if orders.driver == "postgresql" else 10.5)
    assert orders.ask(ALL).documents == result.documents


@pytest.mark.parametrize(
    "value",
    ["created_at", "credit union", "Alternate", "1); DROP TABLE orders; --", "' OR '1'='1", "%s", ":note"],
)
def test_values_are_bound_and_never_screened_for_words(orders: Source, value: str) -> None:
    found = orders.ask(BY_NOTE, note=value).documents
    notes = [document.row["note"] for document in found if document.row is not None]
    assert notes == ([value] if value[0] in "cA1" else [])
    assert len(orders.ask(ALL).documents) == 4


def test_a_template_cannot_write(orders: Source) -> None:
    writes = [
        "WITH gone AS (DELETE FROM orders RETURNING order_id) SELECT order_id FROM gone",
        "SELECT order_id FROM orders WHERE order_id = (SELECT 1) UNION SELECT write_it()",
    ]
    if orders.driver == "postgresql":
        writes += [
            "SELECT nextval('orders_seq') AS order_id",
            "SELECT set_config('transaction_read_only', 'off', false) AS order_id",
            "SELECT lo_create(0) AS order_id",
            "SELECT order_id INTO stolen FROM orders",
        ]
        with psycopg.connect(orders.dsn, autocommit=True) as owner:
            owner.execute("CREATE SEQUENCE IF NOT EXISTS orders_seq")
            owner.execute(
                "CREATE OR REPLACE FUNCTION write_it() RETURNS integer LANGUAGE sql VOLATILE AS"
                " 'INSERT INTO orders VALUES (99) RETURNING order_id'"
            )
    else:
        writes += [
            "SELECT load_extension('x') AS order_id",
            "SELECT file AS order_id FROM pragma_database_list",
        ]
    for sql in writes:
        template = {"id": "write", "sql": sql, "key_columns": ["order_id"]}
        assert orders.fails(template) == "CONNECTOR_ERROR", sql
    assert len(orders.ask(ALL).documents) == 4


SLOW = {
    "postgresql": "SELECT 1 AS n, pg_sleep(30)::text AS t",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS n FROM c",
}


def test_a_template_cannot_outrun_its_timeout(orders: Source) -> None:
    slow = {"id": "slow", "sql": SLOW[orders.driver], "key_columns": ["n"]}
    began = time.monotonic()
    assert orders.fails(slow, seconds=0.4) == "CONNECTOR_TIMEOUT"
    assert time.monotonic() - began < 2
    assert len(orders.ask(ALL).documents) == 4


def test_a_template_cannot_lift_its_timeout(orders: Source) -> None:
    if orders.driver == "sqlite":
        # SQLite has no setting that a query could lift: a pragma is not authorised.
        lift = {"id": "lift", "sql": "SELECT timeout AS n FROM pragma_busy_timeout", "key_columns": ["n"]}
        assert orders.fails(lift) == "CONNECTOR_ERROR"
        return
    sql = (
        "SELECT n, CASE n WHEN 1 THEN set_config('statement_timeout', '0', false)"
        " ELSE pg_sleep(30)::text END AS t FROM generate_series(1, 200) AS n"
    )
    began = time.monotonic()
    assert orders.fails({"id": "lift", "sql": sql, "key_columns": ["n"]}, seconds=0.5) == "CONNECTOR_TIMEOUT"
    assert time.monotonic() - began < 2


MANY = {
    "postgresql": "SELECT n, repeat('x', :width) AS t FROM generate_series(1, 100000) AS n",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 100000)"
    " SELECT n, substr(hex(zeroblob(:width)), 1, :width) AS t FROM c",
}


def test_a_template_cannot_exceed_rows_or_bytes(orders: Source) -> None:
    many = {
        "id": "many",
        "sql": MANY[orders.driver],
        "params": [{"name": "width", "type": "int", "min": 1}],
        "key_columns": ["n"],
        "max_rows": 7,
    }
    capped = orders.ask(many, width=1)
    assert (len(capped.documents), capped.truncated) == (7, True)
    fewer = orders.ask(many, caps=Caps(3, 1_000_000), width=1)
    assert (len(fewer.documents), fewer.truncated) == (3, True)
    narrow = orders.ask(many | {"max_rows": 1000}, caps=Caps(1000, 10_000), width=1000)
    assert narrow.truncated
    assert 1 <= len(narrow.documents) < 10
    assert sum(document.size()[0] for document in narrow.documents) <= 10_000
    none = orders.ask(many, caps=Caps(10, 10_000), width=400_000)
    assert (none.documents, none.truncated) == ((), True)


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT NULL AS k", "RESPONSE_INVALID"),
        ("SELECT 1 AS other", "RESPONSE_INVALID"),
        ("SELECT 1 AS k, 2 AS k", "RESPONSE_INVALID"),
        ("SELECT 1 AS k FROM no_such_table", "CONNECTOR_ERROR"),
        ("SELECT 1 / 0 AS k", "CONNECTOR_ERROR"),
    ],
)
def test_what_is_no_answer_is_a_failure(orders: Source, sql: str, code: str) -> None:
    if orders.driver == "sqlite" and "/ 0" in sql:
        # SQLite divides by zero into null, which is no key.
        code = "RESPONSE_INVALID"
    assert orders.fails({"id": "t", "sql": sql, "key_columns": ["k"]}) == code


def test_the_failure_tells_nothing_of_the_database(orders: Source) -> None:
    template = {"id": "t", "sql": "SELECT secret_column AS k FROM orders", "key_columns": ["k"]}
    with pytest.raises(ConnectorFailedError) as failure:
        orders.ask(template)
    assert "secret_column" not in str(failure.value)
    assert "orders" not in str(failure.value)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"template_id": "other"}, "TEMPLATE_NOT_ALLOWED"),
        ({"template_id": "by-note"}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": 1}}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": "x" * 41}}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": "a\x00b"}}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": "a", "more": 1}}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": "a"}, "sql": "SELECT 1"}, "INVALID_PAYLOAD"),
        ({"template_id": "by-note", "params": {"note": "a"}, "connector_url": "x"}, "INVALID_PAYLOAD"),
    ],
)
def test_a_hostile_payload_is_refused_before_anything_is_read(
    orders: Source, payload: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConnectorRefusedError) as refusal:
        orders.connector.check(action="query", payload=payload, config=orders.config(BY_NOTE))
    assert refusal.value.code == code


def test_every_template_is_prepared_by_the_verification(orders: Source) -> None:
    found = orders.connector.verify(
        tenant_id="acme", plane=PLANE, config=orders.config(ALL, BY_NOTE, timeout_seconds=5)
    )
    assert found["templates"] == {
        "all": ["order_id", "customer", "note", "total"],
        "by-note": ["order_id", "note"],
    }
    write = "WITH gone AS (DELETE FROM orders RETURNING order_id) SELECT order_id FROM gone"
    for sql in ("SELECT no_such FROM orders", write, "SELECT customer FROM orders"):
        template = {"id": "t", "sql": sql, "key_columns": ["order_id"]}
        with pytest.raises(ConnectorFailedError) as failure:
            orders.connector.verify(tenant_id="acme", plane=PLANE, config=orders.config(template))
        assert failure.value.lasting


def test_only_templates_with_sample_params_are_sampled(orders: Source) -> None:
    sampled = ALL | {"sample_params": {}, "max_rows": 2}
    texts = orders.connector.sample(
        tenant_id="acme", plane=PLANE, config=orders.config(sampled, BY_NOTE), rows=1000
    )
    assert len(texts) == 2
    assert "Ada" in texts[0]


def test_the_credential_is_asked_for_at_every_use(orders: Source) -> None:
    dsn = orders.environment.pop("DSN")
    try:
        assert orders.fails(ALL) == "CREDENTIAL_UNAVAILABLE"
        orders.environment["DSN"] = "no dsn at all"
        fresh = {"plane_id": "kp_2", "config_digest": "d2"}
        config = orders.config(ALL)
        with pytest.raises(ConnectorFailedError) as failure:
            orders.connector.verify(tenant_id="acme", plane=fresh, config=config)
        assert failure.value.code == "CREDENTIAL_UNAVAILABLE"
    finally:
        orders.environment["DSN"] = dsn


def test_connections_are_pooled_and_clean(orders: Source) -> None:
    if orders.listener is None:
        # A SQLite file is opened for each call: nothing is pooled, and nothing is left behind.
        assert orders.ask(ALL) == orders.ask(ALL)
        return
    orders.ask(ALL)
    before = orders.listener.connections
    setting = (
        "SELECT 1 AS n, set_config('search_path', 'elsewhere', false) AS v, pg_advisory_lock(7)::text AS t"
    )
    orders.ask({"id": "set", "sql": setting, "key_columns": ["n"]})
    shown = orders.ask(
        {"id": "show", "sql": "SELECT current_setting('search_path') AS v", "key_columns": ["v"]}
    )
    assert shown.documents[0].row != {"v": "elsewhere"}
    with psycopg.connect(orders.dsn) as other:
        assert other.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)
    assert orders.listener.connections == before + 1


def test_a_file_outside_the_folder_is_never_opened(tmp_path: Path) -> None:
    fill_sqlite(tmp_path / "outside.db")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link.db").symlink_to(tmp_path / "outside.db")
    environment: dict[str, str] = {}
    credentials = Credentials(key=None, old_keys=(), environment=environment, env_allow=("*/DSN",))
    source = Source(SqlConnector({"sqlite": SqliteSource(folder)}, credentials), "sqlite", "", environment)
    for dsn, code in (
        ("sqlite:///../outside.db", "HOST_NOT_ALLOWED"),
        ("sqlite:///link.db", "HOST_NOT_ALLOWED"),
        (f"sqlite:///{tmp_path}/outside.db", "HOST_NOT_ALLOWED"),
        ("sqlite:///missing.db", "CONNECTOR_ERROR"),
        ("sqlite:///missing.db?mode=rwc", "CONNECTOR_ERROR"),
        ("postgresql://u@h/d", "CREDENTIAL_UNAVAILABLE"),
    ):
        environment["DSN"] = dsn
        source.connector._guard._states.clear()
        assert source.fails(ALL) == code, dsn
    assert [path.name for path in folder.iterdir()] == ["link.db"]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u@other.example/d",
        "postgresql://u@127.0.0.1:1/d",
        "host=/tmp user=u dbname=d",
        "host=127.0.0.1,10.0.0.1 user=u",
        "postgresql://u@169.254.169.254/d",
    ],
)
def test_a_database_outside_the_list_is_never_reached(dsn: str) -> None:
    credentials = Credentials(key=None, old_keys=(), environment={"DSN": dsn}, env_allow=("*/DSN",))
    hosts = HostPolicy(["127.0.0.1:5432", "169.254.169.254"])
    connector = SqlConnector({"postgresql": PostgresqlSource(hosts)}, credentials)
    assert Source(connector, "postgresql", dsn, {}).fails(ALL) == "HOST_NOT_ALLOWED"


def test_a_server_that_never_answers_costs_no_more_than_the_deadline() -> None:
    silent = Listener(lambda line: (line.recv(1), line.recv(1_000_000), None)[2])
    try:
        dsn = f"postgresql://u@127.0.0.1:{silent.port}/d"
        credentials = Credentials(key=None, old_keys=(), environment={"DSN": dsn}, env_allow=("*/DSN",))
        connector = SqlConnector({"postgresql": PostgresqlSource(HostPolicy(["127.0.0.1"]))}, credentials)
        began = time.monotonic()
        code = Source(connector, "postgresql", dsn, {}).fails(ALL, seconds=0.3)
        assert code in ("CONNECTOR_ERROR", "CONNECTOR_TIMEOUT")
        assert time.monotonic() - began < 5
    finally:
        silent.close()


def test_every_type_of_parameter_is_bound_as_what_it_is(orders: Source) -> None:
    wanted: dict[str, tuple[str, Any]] = {
        "order_id = :p": ("int", 2),
        "total > :p": ("float", 35.5),
        "customer = :p": ("str", "O'Hara"),
        "(order_id = 1) = :p": ("bool", True),
    }
    if orders.driver == "postgresql":
        wanted |= {
            "order_id = ANY(:p)": ("list[int]", [1, 99]),
            "customer = ANY(:p)": ("list[str]", ["Eve", "'; DROP TABLE orders; --"]),
            "order_id = 3 AND DATE '2026-01-02' > :p": ("date", "2026-01-01"),
            "order_id = 3 AND TIMESTAMPTZ '2026-01-02 00:00:00+00' > :p": (
                "timestamp",
                "2026-01-02T01:00:00+02:00",
            ),
            "order_id = 3 AND '00000000-0000-0000-0000-000000000001'::uuid = :p": (
                "uuid",
                "00000000-0000-0000-0000-000000000001",
            ),
        }
    for condition, (kind, value) in wanted.items():
        template = {
            "id": "typed",
            "sql": f"SELECT order_id FROM orders WHERE {condition}",
            "params": [{"name": "p", "type": kind, "required": False}],
            "key_columns": ["order_id"],
        }
        assert len(orders.ask(template, p=value).documents) == 1, condition
        assert orders.ask(template).documents == (), condition
