"""Unit: what a plane's configuration may hold, and how a change of it takes effect."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from app.domains.knowledge.engines.config_secrets import find_secrets, mask_credentials
from app.domains.knowledge.engines.plane_config import (
    OPERATIONAL_KEYS,
    CheckedConfig,
    check_config,
    decide_config_change,
    read_connector_type,
    read_operational,
    shown_config,
    source_changed,
)
from app.domains.knowledge.models.vocabulary import (
    ConfigChange,
    ConnectorType,
)
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.kernel.errors import ErrorKind, HocError

REPOSITORY, SQL, HTTP = ConnectorType.REPOSITORY, ConnectorType.SQL, ConnectorType.HTTP
SEALED = "encrypted://v1.0a1b2c3d." + "A" * 60
SQL_CONFIG: dict[str, Any] = {
    "driver": "postgresql",
    "credential_ref": "env://WAREHOUSE",
    "templates": [
        {
            "id": "orders",
            "sql": "SELECT order_id, total::text FROM orders WHERE day = :day AND note <> ':x' -- :y",
            "params": [{"name": "day", "type": "date"}],
            "key_columns": ["order_id"],
        }
    ],
}
HTTP_CONFIG: dict[str, Any] = {
    "base_url": "https://api.example.org/v1",
    "health_path": "/health",
    "auth": {"scheme": "bearer"},
    "credential_ref": SEALED,
    "endpoints": [
        {
            "id": "items",
            "path": "/shops/{shop}/items",
            "params": [{"name": "shop", "type": "str"}],
            "key_fields": ["id"],
        }
    ],
}


def check(connector: ConnectorType, config: dict[str, Any]) -> CheckedConfig:
    return check_config(connector, config)


def refusal(connector: ConnectorType, config: dict[str, Any]) -> HocError:
    with pytest.raises(HocError) as refused:
        check_config(connector, config)
    return refused.value


def pointers(error: HocError) -> list[str]:
    return [str(item["field"]) for item in error.errors]


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    config = deepcopy(base)
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return config


@pytest.mark.parametrize(("connector", "config"), [(REPOSITORY, {}), (SQL, SQL_CONFIG), (HTTP, HTTP_CONFIG)])
def test_a_fitting_configuration_is_kept_as_it_was_given(
    connector: ConnectorType, config: dict[str, Any]
) -> None:
    checked = check(connector, config)
    assert checked.digest.startswith("sha256:")
    shown = shown_config(checked.text)
    assert shown | {"credential_ref": None} == config | {"credential_ref": None}


def test_defaults_are_read_and_never_written() -> None:
    config = read_operational("repository", check(REPOSITORY, {}).text)
    assert (config.retention_days, config.grace_period_days, config.timeout_seconds) == (365, 7, 30)
    assert (config.max_documents, config.max_response_bytes) == (20, 1048576)
    assert (config.auto_advance, config.auto_refresh, config.log_queries) == (True, False, False)
    assert config.declared_sensitivity is None
    assert check(REPOSITORY, {}).text == "{}"


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("retention_days", -1),
        ("retention_days", 36501),
        ("retention_days", "5"),
        ("retention_days", True),
        ("grace_period_days", 91),
        ("timeout_seconds", 0),
        ("timeout_seconds", 61),
        ("max_documents", 0),
        ("max_documents", 101),
        ("max_response_bytes", 1023),
        ("max_response_bytes", 5242881),
        ("auto_advance", 1),
        ("declared_sensitivity", "secretish"),
        ("description", 7),
        ("unknown_key", 1),
        ("owned_collection", "no spaces"),
        ("shared_collections", [f"c{number}" for number in range(17)]),
        ("shared_collections", ["c1", "c1"]),
        ("source", {"kind": "web"}),
        ("source", {"kind": "files"}),
        ("source", {"kind": "collections", "root": "docs"}),
        ("source", {"kind": "files", "root": "docs", "folder": "../etc"}),
        ("source", {"kind": "files", "root": "docs", "folder": "/etc"}),
        ("source", {"kind": "files", "root": "../docs"}),
    ],
)
def test_a_member_that_does_not_fit_is_named_by_its_pointer(key: str, bad: Any) -> None:
    error = refusal(REPOSITORY, {key: bad})
    assert (error.kind, error.code) == (ErrorKind.INVALID, "INVALID_CONFIG")
    assert pointers(error)[0].startswith(f"/config/{key}")


@pytest.mark.parametrize("key", ["bound_policy_ids", "purge_approved", "lifecycle_state", "approvals"])
def test_what_the_lifecycle_sets_is_no_configuration(key: str) -> None:
    error = refusal(REPOSITORY, {key: None})
    assert (error.code, pointers(error)) == ("RESERVED_CONFIG_KEY", [f"/config/{key}"])


@pytest.mark.parametrize(
    "config",
    [
        {"description": "postgresql://reader:hunter2@db.example.org/shop"},
        {"description": "see https://user@example.org/"},
        {"description": "-----BEGIN RSA PRIVATE KEY-----\nMIIE"},
        {"description": "use sk-abcdefghijklmnopqrstuvwx"},
        {"description": "AKIAABCDEFGHIJKLMNOP"},
        {"description": "ghp_abcdefghijklmnopqrstuvwxyz0123456789"},
        {"description": "hoc_abcdefghijklmnopqrstuvwxyz"},
        {"password": "hunter2"},
        {"db_password": "hunter2"},
        {"apiKey": "hunter2"},
        {"api_key": "hunter2"},
        {"clientSecret": "hunter2"},
        {"access_token": "hunter2"},
        {"source": {"kind": "files", "root": "docs", "token": "hunter2"}},
    ],
)
def test_a_secret_is_refused_and_never_repeated(config: dict[str, Any]) -> None:
    error = refusal(REPOSITORY, config)
    assert error.code == "SECRET_IN_CONFIG"
    assert "hunter2" not in str(error.errors) + error.detail


@pytest.mark.parametrize(
    "config",
    [
        {"description": "the token budget and the password policy are described in key-42"},
        {"max_documents": 5, "retention_days": 7},
        {"source": {"kind": "files", "root": "docs", "folder": "a/b"}},
    ],
)
def test_ordinary_words_are_no_secret(config: dict[str, Any]) -> None:
    assert find_secrets(config) == []
    assert check(REPOSITORY, config)


@pytest.mark.parametrize(
    "reference",
    [
        "postgresql://reader:hunter2@db/shop",
        "hunter2",
        "env://",
        "env://A B",
        "env://../X",
        "vault://x",
        "encrypted://v2.0a1b2c3d.AAAA",
        "encrypted://v1.0a1b2c3d.***",
        7,
    ],
)
def test_a_credential_is_a_reference(reference: Any) -> None:
    error = refusal(SQL, SQL_CONFIG | {"credential_ref": reference})
    assert (error.code, pointers(error)) == ("INVALID_CREDENTIAL_REF", ["/config/credential_ref"])


def test_a_sealed_credential_is_shown_masked() -> None:
    assert mask_credentials({"a": [{"credential_ref": SEALED}]}) == {
        "a": [{"credential_ref": "encrypted://***"}]
    }
    assert shown_config(check(HTTP, HTTP_CONFIG).text)["credential_ref"] == "encrypted://***"
    assert shown_config(check(SQL, SQL_CONFIG).text)["credential_ref"] == "env://WAREHOUSE"


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("driver", "oracle"),
        ("templates", []),
        ("templates.0.sql", "DELETE FROM orders WHERE day = :day"),
        ("templates.0.sql", "SELECT 1 FROM o WHERE day = :day; DROP TABLE o"),
        ("templates.0.sql", "SELECT 1 FROM o WHERE day = :other"),
        ("templates.0.sql", "SELECT 1 FROM o"),
        ("templates.0.key_columns", []),
        ("templates.0.max_rows", 1001),
        ("templates.0.timeout_seconds", 61),
        ("templates.0.params", [{"name": "day", "type": "money"}]),
        ("templates.0.params", [{"name": "day", "type": "date", "required": True, "default": "2030-01-01"}]),
        ("templates.0.sample_params", {"night": 1}),
        ("templates.0.sample_params", {}),
    ],
)
def test_a_sql_template_only_reads_and_declares_its_parameters(path: str, bad: Any) -> None:
    assert refusal(SQL, changed(SQL_CONFIG, path, bad)).code == "INVALID_CONFIG"


def test_a_sql_plane_needs_its_source() -> None:
    error = refusal(SQL, {})
    assert error.code == "INVALID_CONFIG"
    assert pointers(error) == ["/config/driver", "/config/credential_ref", "/config/templates"]


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("base_url", "ftp://example.org"),
        ("base_url", "https://example.org/?q=1"),
        ("base_url", "https://"),
        ("health_path", "health"),
        ("health_path", "/a/../b"),
        ("health_path", "//evil.example.org"),
        ("auth", {"scheme": "header"}),
        ("auth", {"scheme": "bearer", "header": "X-Key"}),
        ("auth", None),
        ("endpoints", []),
        ("endpoints.0.path", "/shops/{town}/items"),
        ("endpoints.0.method", "POST"),
        ("endpoints.0.method", "DELETE"),
        ("endpoints.0.body", {"a": 1}),
        ("endpoints.0.key_fields", []),
        ("endpoints.0.items_pointer", "data"),
    ],
)
def test_an_http_endpoint_is_fixed_but_for_its_parameters(path: str, bad: Any) -> None:
    assert refusal(HTTP, changed(HTTP_CONFIG, path, bad)).code == "INVALID_CONFIG"


def test_a_configuration_has_a_size_and_a_depth() -> None:
    # 19 characters of syntax around the text: 65 536 bytes fit, one more does not.
    frame = len('{"description":""}')
    assert refusal(REPOSITORY, {"description": "x" * (65536 - frame)}).code == "INVALID_CONFIG"
    error = refusal(REPOSITORY, {"description": "x" * (65537 - frame)})
    assert (error.kind, error.code) == (ErrorKind.TOO_LARGE, "TOO_LARGE")
    assert (error.extra["limit"], error.extra["actual"]) == (65536, 65537)
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"source": deep}
    assert refusal(REPOSITORY, deep).code == "INVALID_CONFIG"


def test_an_unknown_connector_type_is_named() -> None:
    assert read_connector_type("http") is HTTP
    with pytest.raises(HocError) as refused:
        read_connector_type("ldap")
    assert refused.value.code == "UNKNOWN_CONNECTOR_TYPE"


def test_all_but_the_operational_keys_are_sources() -> None:
    assert {
        "description",
        "retention_days",
        "grace_period_days",
        "timeout_seconds",
        "max_documents",
        "max_response_bytes",
        "auto_advance",
        "auto_refresh",
        "log_queries",
        "declared_sensitivity",
    } == OPERATIONAL_KEYS


def test_a_default_written_out_is_no_change_of_the_source() -> None:
    plain, written = check(REPOSITORY, {}), check(REPOSITORY, {"source": {"kind": "collections"}})
    moved = check(REPOSITORY, {"shared_collections": ["c1"]})
    assert not source_changed(plain.model, written.model)
    assert source_changed(plain.model, moved.model)
    assert not source_changed(plain.model, check(REPOSITORY, {"max_documents": 3}).model)


def outcome(state: State, *, source: bool, open_job: bool = False) -> str:
    before = check(REPOSITORY, {}).model
    after = check(REPOSITORY, {"shared_collections": ["c1"]} if source else {"max_documents": 3}).model
    try:
        return decide_config_change(state, before=before, after=after, has_open_job=open_job).value
    except HocError as error:
        return error.code


MODIFIABLE = [state for state in State if state.allows_modifications]


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_operational_keys_change_at_once_where_changes_are_allowed(state: State) -> None:
    expected = ConfigChange.OPERATIONAL.value if state in MODIFIABLE else "CONFIG_NOT_MODIFIABLE"
    assert outcome(state, source=False) == expected


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_source_keys_change_at_once_before_ingest_and_wait_as_a_candidate_after_it(state: State) -> None:
    at_once = {State.DRAFT, State.VERIFIED}
    candidate = {State.INDEXED, State.CLASSIFIED, State.PENDING_ACTIVATE, State.ACTIVE}
    expected = "CONFIG_NOT_MODIFIABLE"
    if state in at_once:
        expected = ConfigChange.SOURCE.value
    elif state in candidate:
        expected = ConfigChange.CANDIDATE.value
    assert outcome(state, source=True) == expected


@pytest.mark.parametrize("state", MODIFIABLE, ids=lambda state: state.name)
def test_nothing_changes_under_an_open_job(state: State) -> None:
    assert outcome(state, source=False, open_job=True) == "JOB_ACTIVE"
