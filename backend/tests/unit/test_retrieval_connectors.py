"""Parts of connectors without a source: credentials, host lists, parameters, rows, placeholders."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from app.connectors.credentials import Credentials
from app.connectors.hosts import HostPolicy, is_reachable
from app.connectors.parameters import read_params
from app.connectors.rows import make_document, plain_value
from app.connectors.sql_text import to_psycopg
from app.connectors.values import ConnectorFailedError, ConnectorRefusedError
from app.domains.knowledge.engines.config_secrets import is_credential_ref
from app.domains.knowledge.engines.config_shapes import TemplateParam
from app.kernel.errors import HocError
from app.settings import Settings

KEY, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SECRET = "postgresql://reader:p\u00e4ss@db.example/warehouse"


def credentials(key: str | None = KEY, old_keys: tuple[str, ...] = (), **environment: str) -> Credentials:
    return Credentials(
        key=key, old_keys=old_keys, environment=environment, env_allow=("acme/DSN", "*/SHARED")
    )


def unavailable(holder: Credentials, reference: str, tenant_id: str = "acme") -> bool:
    with pytest.raises(ConnectorFailedError) as failure:
        holder.resolve(reference, tenant_id=tenant_id)
    assert SECRET not in str(failure.value)
    return failure.value.code == "CREDENTIAL_UNAVAILABLE"


def test_a_sealed_credential_opens_for_its_tenant_alone() -> None:
    reference = credentials().seal(SECRET, tenant_id="acme")
    assert is_credential_ref(reference)
    assert SECRET not in reference
    assert credentials().resolve(reference, tenant_id="acme") == SECRET
    assert credentials().seal(SECRET, tenant_id="acme") != reference
    assert unavailable(credentials(), reference, tenant_id="other")


def test_without_its_key_a_seal_stays_closed() -> None:
    reference = credentials().seal(SECRET, tenant_id="acme")
    assert unavailable(credentials(key=None), reference)
    assert unavailable(credentials(key=OTHER), reference)
    assert credentials(key=OTHER, old_keys=(KEY,)).resolve(reference, tenant_id="acme") == SECRET
    with pytest.raises(HocError, match="CREDENTIAL_KEY_MISSING"):
        credentials(key=None, old_keys=(KEY,)).seal(SECRET, tenant_id="acme")


def test_a_tampered_seal_stays_closed() -> None:
    reference = credentials().seal(SECRET, tenant_id="acme")
    head, _, body = reference.rpartition(".")
    changed = [body[:5] + ("A" if body[5] != "A" else "B") + body[6:], body[:-4], "", "!" * 40]
    for broken in changed:
        assert unavailable(credentials(), f"{head}.{broken}")
    assert unavailable(credentials(), reference.replace("v1.", "v2."))
    assert unavailable(credentials(), SECRET)


def test_a_variable_is_used_by_those_who_may() -> None:
    holder = credentials(DSN="a", SHARED="b", HOME="c")
    assert holder.resolve("env://DSN", tenant_id="acme") == "a"
    assert unavailable(holder, "env://DSN", tenant_id="other")
    assert holder.resolve("env://SHARED", tenant_id="other") == "b"
    assert unavailable(holder, "env://HOME")
    assert unavailable(credentials(), "env://DSN")


@pytest.mark.parametrize("key", ["short", base64.b64encode(b"x" * 31).decode(), "!" * 44, ""])
def test_a_key_of_another_size_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        credentials(key=key)


@pytest.mark.parametrize(
    ("address", "listed", "by_suffix"),
    [
        ("93.184.216.34", True, True),
        ("127.0.0.1", True, False),
        ("10.1.2.3", True, False),
        ("100.64.0.1", True, False),
        ("::1", True, False),
        ("fd00::1", True, False),
        ("::ffff:10.0.0.1", True, False),
        ("64:ff9b::10.0.0.1", True, False),
        ("2002:a00:1::", True, False),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("0.0.0.0", False, False),
        ("0.1.2.3", False, False),
        ("::", False, False),
        ("255.255.255.255", False, False),
    ],
)
def test_which_addresses_are_reached(address: str, listed: bool, by_suffix: bool) -> None:
    assert is_reachable(ip_address(address), exact=True) is listed
    assert is_reachable(ip_address(address), exact=False) is by_suffix


def test_the_host_list_is_read_word_by_word() -> None:
    policy = HostPolicy(
        ["db.example:5432", "*.Open.example", "[::1]"], resolver=lambda _host, _port: ["93.184.216.34"]
    )
    assert policy.pick("DB.example.", 5432) == "93.184.216.34"
    assert policy.pick("a.b.open.EXAMPLE", 443) == "93.184.216.34"
    assert policy.is_exact("::1", 5432)
    for host, port in (("db.example", 5433), ("open.example", 443), ("evilopen.example", 443), ("", 443)):
        with pytest.raises(ConnectorFailedError, match="HOST_NOT_ALLOWED"):
            policy.pick(host, port)


def test_the_first_address_that_is_allowed_is_taken() -> None:
    policy = HostPolicy(["*.example"], resolver=lambda _host, _port: ["127.0.0.1", "93.184.216.34"])
    assert policy.pick("a.example", 443) == "93.184.216.34"


def declared(**members: Any) -> dict[str, Any]:
    return TemplateParam.model_validate({"name": "p", **members}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("param", "given", "value"),
    [
        ({"type": "str"}, "Alternate", "Alternate"),
        ({"type": "int"}, 2**63 - 1, 2**63 - 1),
        ({"type": "float"}, 1, 1.0),
        ({"type": "bool"}, False, False),
        ({"type": "date"}, "2026-02-28", date(2026, 2, 28)),
        ({"type": "timestamp"}, "2026-02-28T12:00:00+02:00", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ({"type": "uuid"}, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
        ({"type": "list[str]"}, ["a", "created_at"], ["a", "created_at"]),
        ({"type": "list[int]", "max": 3}, [1, 3], [1, 3]),
        ({"type": "str", "enum": ["a", "b"]}, "b", "b"),
        ({"type": "date", "min": "2026-01-01"}, "2026-01-01", date(2026, 1, 1)),
    ],
)
def test_a_value_of_the_declared_type_is_taken(param: dict[str, Any], given: Any, value: Any) -> None:
    assert read_params([declared(**param)], {"p": given}) == {"p": value}


@pytest.mark.parametrize(
    ("param", "given"),
    [
        ({"type": "str"}, 1),
        ({"type": "str"}, None),
        ({"type": "str"}, "a\x00"),
        ({"type": "str"}, "\ud800"),
        ({"type": "str", "max_length": 2}, "abc"),
        ({"type": "int"}, "1"),
        ({"type": "int"}, True),
        ({"type": "int"}, 2**63),
        ({"type": "int", "min": 1}, 0),
        ({"type": "float"}, float("inf")),
        ({"type": "bool"}, 0),
        ({"type": "date"}, "20260228"),
        ({"type": "date"}, "2026-02-30"),
        ({"type": "timestamp"}, "yesterday"),
        ({"type": "timestamp", "min": "2026-01-01T00:00:00+00:00"}, "2026-01-01T00:00:00"),
        ({"type": "uuid"}, "1"),
        ({"type": "list[int]"}, [1, "2"]),
        ({"type": "list[int]", "max": 3}, [1, 4]),
        ({"type": "list[str]"}, "ab"),
        ({"type": "list[str]"}, ["x"] * 1001),
        ({"type": "str", "enum": ["a"]}, "b"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(param: dict[str, Any], given: Any) -> None:
    with pytest.raises(ConnectorRefusedError, match="INVALID_PAYLOAD"):
        read_params([declared(**param)], {"p": given})


def test_what_is_missing_has_its_default_or_none() -> None:
    optional = {"type": "int", "required": False}
    assert read_params([declared(**optional)], {}) == {"p": None}
    assert read_params([declared(**optional)], {"p": None}) == {"p": None}
    assert read_params([declared(**optional, default=3)], {}) == {"p": 3}
    for params in ({}, {"p": 1, "q": 2}):
        with pytest.raises(ConnectorRefusedError, match="INVALID_PAYLOAD"):
            read_params([declared(type="int")], params)


def test_values_have_one_form() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = {
        "d": Decimal("1E+3"), "b": b"\x00\xff", "t": moment, "n": moment.replace(tzinfo=None),
        "day": moment.date(), "span": timedelta(seconds=90), "id": UUID(int=1),
        "net": ip_address("10.0.0.1"), "list": [1, None], "json": {"a": True},
    }  # fmt: skip
    assert {name: plain_value(value) for name, value in row.items()} == {
        "d": "1000", "b": "AP8=", "t": "2026-01-02T03:04:05.000000Z", "n": "2026-01-02T03:04:05",
        "day": "2026-01-02", "span": "PT90.000000S", "id": "00000000-0000-0000-0000-000000000001",
        "net": "10.0.0.1", "list": [1, None], "json": {"a": True},
    }  # fmt: skip
    for value in (float("nan"), Decimal("Infinity"), object(), {1: 2}):
        with pytest.raises(ConnectorFailedError, match="RESPONSE_INVALID"):
            plain_value(value)


def test_a_long_key_is_hashed() -> None:
    assert make_document("t", ["k"], {"k": "a"}).doc_ref == 't:["a"]'
    assert len(make_document("t", ["k"], {"k": "a" * 300}).doc_ref) == 64
    for key in (None, ["a"], {"a": 1}):
        with pytest.raises(ConnectorFailedError, match="RESPONSE_INVALID"):
            make_document("t", ["k"], {"k": key})


@pytest.mark.parametrize(
    ("sql", "rewritten"),
    [
        ("SELECT :a, ':b', \":c\", d::text", "SELECT %(a)s, ':b', \":c\", d::text"),
        ("SELECT 1 -- :a\n, 10 % :b", "SELECT 1 -- :a\n, 10 %% %(b)s"),
        ("SELECT '100%' /* :a % */", "SELECT '100%%' /* :a %% */"),
        ("SELECT 'it''s :a' || :a", "SELECT 'it''s :a' || %(a)s"),
    ],
)
def test_placeholders_are_found_outside_of_quotes_and_comments(sql: str, rewritten: str) -> None:
    assert to_psycopg(sql) == rewritten


def test_the_settings_of_connectors_are_read_as_words_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOC_CONNECTOR_HOSTS", "db.example:5432, *.api.example ,")
    monkeypatch.setenv("HOC_CREDENTIAL_KEYS_OLD", f"{KEY},{OTHER}")
    settings = Settings()
    assert settings.connector_hosts == ("db.example:5432", "*.api.example")
    assert settings.credential_env_allow == ()
    for broken in ("short", f"{KEY},", "!" * 44):
        monkeypatch.setenv("HOC_CREDENTIAL_KEYS_OLD", broken)
        with pytest.raises(ValidationError, match="32 bytes"):
            Settings()
