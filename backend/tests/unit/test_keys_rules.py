"""Keys and tenants: the state tables, roles and scopes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domains.tenants.engines import keys, tenants
from app.domains.tenants.models import (
    AREAS,
    QUOTAS,
    ROLE_SCOPES,
    VERBS,
    CreateKey,
    KeyStatus,
    Plan,
    Role,
    TenantStatus,
)
from app.kernel.context import has_scope
from app.kernel.errors import HocError
from app.kernel.hashing import sha256_hex

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = frozenset({"*"})


def key(**members: Any) -> CreateKey:
    return CreateKey.model_validate({"name": "k", "actor_type": "SYSTEM", "actor_id": "crm"} | members)


def code_of(call: Any) -> str:
    with pytest.raises(HocError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize(
    ("current", "change", "becomes"),
    [
        ("ACTIVE", "freeze", "FROZEN"),
        ("ACTIVE", "unfreeze", None),
        ("ACTIVE", "revoke", "REVOKED"),
        ("FROZEN", "freeze", None),
        ("FROZEN", "unfreeze", "ACTIVE"),
        ("FROZEN", "revoke", "REVOKED"),
        ("REVOKED", "freeze", "KEY_REVOKED"),
        ("REVOKED", "unfreeze", "KEY_REVOKED"),
        ("REVOKED", "revoke", None),
    ],
)
def test_a_key_changes_as_the_table_says(current: str, change: Any, becomes: str | None) -> None:
    def decide() -> KeyStatus | None:
        return keys.decide_change(KeyStatus(current), change, expired=False)

    if becomes == "KEY_REVOKED":
        assert code_of(decide) == becomes
    else:
        assert decide() == becomes


@pytest.mark.parametrize(
    ("current", "change", "becomes"),
    [
        ("ACTIVE", "freeze", "KEY_EXPIRED"),
        ("FROZEN", "unfreeze", "KEY_EXPIRED"),
        ("ACTIVE", "revoke", "REVOKED"),
        ("FROZEN", "revoke", "REVOKED"),
    ],
)
def test_an_expired_key_may_only_be_revoked(current: str, change: Any, becomes: str) -> None:
    def decide() -> KeyStatus | None:
        return keys.decide_change(KeyStatus(current), change, expired=True)

    assert (code_of(decide) if becomes == "KEY_EXPIRED" else decide()) == becomes


@pytest.mark.parametrize(
    ("current", "wanted", "outcome"),
    [
        ("ACTIVE", "SUSPENDED", True),
        ("ACTIVE", "ACTIVE", False),
        ("ACTIVE", "CLOSED", True),
        ("SUSPENDED", "SUSPENDED", False),
        ("SUSPENDED", "ACTIVE", True),
        ("SUSPENDED", "CLOSED", True),
        ("CLOSED", "SUSPENDED", "TENANT_CLOSED"),
        ("CLOSED", "ACTIVE", "TENANT_CLOSED"),
        ("CLOSED", "CLOSED", False),
    ],
)
def test_a_tenant_changes_as_the_table_says(current: str, wanted: str, outcome: bool | str) -> None:
    def decide() -> bool:
        return tenants.decide_status(TenantStatus(current), TenantStatus(wanted))

    assert (code_of(decide) if isinstance(outcome, str) else decide()) == outcome


def test_a_viewer_reads_all_but_logs_and_keys() -> None:
    assert ROLE_SCOPES[Role.VIEWER] == {f"{area}:read" for area in AREAS} - {"logs:read", "keys:read"}


def test_each_role_holds_the_one_below_it() -> None:
    viewer, member, admin, owner = (ROLE_SCOPES[role] for role in Role)
    assert member == viewer | {f"{area}:write" for area in AREAS} | {"logs:read"}
    assert admin == member | {f"{area}:admin" for area in AREAS} | {"keys:read"}
    assert owner == {"*"}


@pytest.mark.parametrize("role", list(Role))
def test_a_role_becomes_its_scopes(role: Role) -> None:
    assert keys.decide_scopes(key(role=role), giver=EVERYTHING) == sorted(ROLE_SCOPES[role])


def test_neither_role_nor_scopes_is_no_scope() -> None:
    assert keys.decide_scopes(key(), giver=frozenset()) == []


def test_role_and_scopes_come_together_once_and_sorted() -> None:
    made = keys.decide_scopes(
        key(role="VIEWER", scopes=["runs:read", "keys:admin", "keys:admin"]), giver=EVERYTHING
    )
    assert made == sorted(ROLE_SCOPES[Role.VIEWER] | {"keys:admin"})


@pytest.mark.parametrize(
    "scope",
    ["", "runs", "runs:", ":read", "runs:delete", "run:read", "*:read", "runs:read:x", " *", "RUNS:READ"],
)
def test_a_scope_that_does_not_exist_is_refused(scope: str) -> None:
    assert code_of(lambda: keys.decide_scopes(key(scopes=[scope]), giver=EVERYTHING)) == "INVALID_INPUT"


def every_verb(area: str) -> frozenset[str]:
    return frozenset(f"{area}:{verb}" for verb in VERBS)


@pytest.mark.parametrize(
    ("giver", "given"),
    [
        ({"*"}, "*"),
        ({"*"}, "runs:*"),
        ({"*"}, "runs:admin"),
        ({"runs:*"}, "runs:*"),
        ({"runs:*"}, "runs:write"),
        ({"runs:read"}, "runs:read"),
        (every_verb("runs"), "runs:*"),
    ],
)
def test_a_key_gives_what_it_has(giver: set[str], given: str) -> None:
    assert keys.decide_scopes(key(scopes=[given]), giver=frozenset(giver)) == [given]


@pytest.mark.parametrize(
    ("giver", "given"),
    [
        (set(), "runs:read"),
        ({"runs:read"}, "runs:write"),
        ({"runs:admin"}, "runs:write"),
        ({"runs:read", "runs:write"}, "runs:*"),
        ({"runs:*"}, "keys:read"),
        ({f"{area}:*" for area in AREAS}, "*"),
        ({f"{area}:{verb}" for area in AREAS for verb in VERBS}, "*"),
    ],
)
def test_a_key_never_gives_what_it_lacks(giver: set[str], given: str) -> None:
    with pytest.raises(HocError) as caught:
        keys.decide_scopes(key(scopes=[given]), giver=frozenset(giver))
    assert caught.value.code == "SCOPE_ESCALATION"
    assert [item["detail"] for item in caught.value.errors] == [given]


def test_a_role_cannot_smuggle_scopes() -> None:
    assert (
        code_of(lambda: keys.decide_scopes(key(role="OWNER"), giver=ROLE_SCOPES[Role.ADMIN]))
        == "SCOPE_ESCALATION"
    )


@pytest.mark.parametrize("area", AREAS)
def test_what_was_given_is_never_more_than_the_giver_had(area: str) -> None:
    giver = frozenset({f"{area}:*"})
    for wanted in (f"{other}:{verb}" for other in AREAS for verb in VERBS):
        try:
            given = keys.decide_scopes(key(scopes=[wanted]), giver=giver)
        except HocError:
            assert not has_scope(giver, wanted)
        else:
            assert all(has_scope(giver, scope) for scope in given)


def test_a_secret_has_256_random_bits_and_is_stored_as_its_hash_alone() -> None:
    secret, other = keys.new_secret(), keys.new_secret()
    assert re.fullmatch(r"hoc_[A-Za-z0-9_-]{43}", secret)
    assert secret != other
    row = keys.build(key(), key_id="key_1", secret=secret, scopes=[], created_by="u", now=NOW)
    assert row["key_hash"] == sha256_hex(secret.encode())
    assert row["prefix"] == secret[:12]
    assert secret not in repr(row)


def test_freezing_keeps_who_when_and_why_and_unfreezing_takes_it_back() -> None:
    row: dict[str, Any] = {"status": "ACTIVE", "expires_at": NOW + timedelta(seconds=1)}
    frozen = keys.plan_change(row, "freeze", now=NOW, by="u", reason="leak")
    assert frozen == {"status": "FROZEN", "frozen_at": NOW, "frozen_by": "u", "frozen_reason": "leak"}
    thawed = keys.plan_change(row | frozen, "unfreeze", now=NOW, by="v", reason="found")
    assert thawed == {"status": "ACTIVE", "frozen_at": None, "frozen_by": None, "frozen_reason": None}
    revoked = keys.plan_change(row | frozen, "revoke", now=NOW, by="v", reason="over")
    assert revoked == {"status": "REVOKED", "revoked_at": NOW, "revoked_by": "v", "revoked_reason": "over"}


def test_a_key_is_expired_from_its_very_moment_on() -> None:
    row = {"status": "ACTIVE", "expires_at": NOW}
    assert code_of(lambda: keys.plan_change(row, "freeze", now=NOW, by="u", reason="r")) == "KEY_EXPIRED"


@pytest.mark.parametrize(
    ("plan", "quotas"),
    [
        (Plan.FREE, (60, 5, 100, 5, 1_000_000)),
        (Plan.PRO, (1200, 20, 1000, 20, 10_000_000)),
        (Plan.ENTERPRISE, (6000, 100, 100_000, 100, 1_000_000_000)),
    ],
)
def test_a_plan_allows_what_it_promises(plan: Plan, quotas: tuple[int, ...]) -> None:
    held = QUOTAS[plan]
    assert quotas == (
        held.requests_per_minute,
        held.concurrent_runs,
        held.runs_per_day,
        held.live_keys,
        held.tokens_per_month,
    )
