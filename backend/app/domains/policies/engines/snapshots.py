"""Policies: the snapshot that governs a run: its canonical text, its making, its verified reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from app.db.connection import DriverConnection
from app.domains.policies.drivers import rules as rule_rows
from app.domains.policies.drivers import snapshots as snapshot_rows
from app.domains.policies.engines.conditions import CompiledCondition, load_condition
from app.domains.policies.engines.versions import as_json, from_json, from_row, is_intact, require_intact
from app.domains.policies.errors import SnapshotInvalidError, snapshot_not_found
from app.domains.policies.models.rules import PlaneBinding, RuleVersion, SnapshotView
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, RuleKind, RuleScope
from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.errors import ErrorKind, HocError
from app.kernel.hashing import text_hash

CONTENT_VERSION: Final = "policy-snapshot-1"


class Facts(Protocol):
    """The part of the operation's fact book that this engine needs."""

    def add(self, type_name: str, row: Mapping[str, Any], /) -> str: ...


class Programs(Protocol):
    """A cache of compiled conditions by content hash."""

    def program(self, content_hash: str, condition: str | None) -> CompiledCondition: ...


class Snapshots(Programs, Protocol):
    """A cache of verified snapshots and compiled conditions."""

    def verified(self, tenant_id: str, snapshot_id: str) -> CompiledSnapshot | None: ...

    def keep(self, tenant_id: str, snapshot: CompiledSnapshot) -> None: ...


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule version of a snapshot with its condition ready to judge."""

    version: RuleVersion
    condition: CompiledCondition


@dataclass(frozen=True, slots=True)
class CompiledSnapshot:
    """A verified snapshot ready to judge; immutable, shared by threads."""

    snapshot_id: str
    content_hash: str
    rules: tuple[CompiledRule, ...]
    bound: Mapping[str, tuple[CompiledRule, ...]]
    limits: tuple[Mapping[str, Any], ...] = ()
    guards: Mapping[str, tuple[CompiledRule, ...]] = field(default_factory=dict)

    def rules_bound_to(self, plane_id: str) -> tuple[CompiledRule, ...]:
        """Return the ACCESS rules bound to a plane, by rule_id."""
        return self.bound.get(plane_id, ())

    def guards_at(self, *moments: Moment) -> tuple[CompiledRule, ...]:
        """Return the GUARD rules judged at one of the moments, by rule_id; none that is DISABLED."""
        if len(moments) == 1:
            return self.guards.get(moments[0], ())
        found = {rule.version.rule_id: rule for moment in moments for rule in self.guards.get(moment, ())}
        return tuple(found[rule_id] for rule_id in sorted(found))


def is_applicable(version: RuleVersion, *, project_id: str | None, agent_id: str) -> bool:
    """Tell whether a rule judges the runs of this project and agent."""
    if version.scope is RuleScope.TENANT:
        return True
    wanted = project_id if version.scope is RuleScope.PROJECT else agent_id
    return wanted is not None and version.scope_id == wanted


def build_snapshot_content(
    rules: Iterable[RuleVersion], bindings: Iterable[PlaneBinding], limits: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the canonical text of a snapshot: rules, bindings of those rules, limits, each sorted by id."""
    ordered = sorted(rules, key=lambda version: version.rule_id)
    known = {version.rule_id for version in ordered if version.kind is RuleKind.ACCESS}
    bound = sorted({(plane_id, rule_id) for plane_id, rule_id in bindings if rule_id in known})
    return dumps(
        {
            "v": CONTENT_VERSION,
            "rules": [as_json(version) for version in ordered],
            "bindings": [{"plane_id": plane_id, "rule_id": rule_id} for plane_id, rule_id in bound],
            "limits": sorted((dict(limit) for limit in limits), key=lambda limit: str(limit["limit_id"])),
        }
    )


def snapshot_id_of(content_hash: str) -> str:
    """Return the id of the snapshot whose text has this hash."""
    return f"snap_{content_hash[:32]}"


def compile_snapshot(tenant_id: str, content: str, programs: Programs | None = None) -> CompiledSnapshot:
    """Return a snapshot ready to judge; raise SnapshotInvalidError when its rules lack their hashes."""
    digest = text_hash(content)
    snapshot_id = snapshot_id_of(digest)
    try:
        members = loads(content)
        versions = [from_json(rule) for rule in members["rules"]]
        pairs = [(binding["plane_id"], binding["rule_id"]) for binding in members["bindings"]]
        limits = tuple(members["limits"])
        known = members["v"] == CONTENT_VERSION
    except (CanonicalJsonError, KeyError, TypeError, ValueError) as error:
        raise SnapshotInvalidError(snapshot_id) from error
    if not known or not all(is_intact(tenant_id, version) for version in versions):
        raise SnapshotInvalidError(snapshot_id)
    rules = tuple(compile_rule(version, programs) for version in versions)
    return CompiledSnapshot(snapshot_id, digest, rules, _bound(rules, pairs), limits, guards_by_moment(rules))


def guards_by_moment(rules: Iterable[CompiledRule]) -> dict[str, tuple[CompiledRule, ...]]:
    """Return the GUARD rules that are not DISABLED, by each of their moments."""
    moments: dict[str, list[CompiledRule]] = {}
    for rule in rules:
        if rule.version.enforcement_mode in (None, EnforcementMode.DISABLED):
            continue
        for moment in rule.version.moments:
            moments.setdefault(moment, []).append(rule)
    return {moment: tuple(judged) for moment, judged in moments.items()}


def _bound(
    rules: Sequence[CompiledRule], pairs: Iterable[tuple[str, str]]
) -> dict[str, tuple[CompiledRule, ...]]:
    by_id = {rule.version.rule_id: rule for rule in rules if rule.version.kind is RuleKind.ACCESS}
    planes: dict[str, list[CompiledRule]] = {}
    for plane_id, rule_id in sorted(pairs):
        if rule_id in by_id:
            planes.setdefault(plane_id, []).append(by_id[rule_id])
    return {plane_id: tuple(bound) for plane_id, bound in planes.items()}


def ensure(
    connection: DriverConnection,
    *,
    tenant_id: str,
    project_id: str | None,
    agent_id: str,
    bindings: Iterable[PlaneBinding],
    facts: Facts,
    now: datetime,
    programs: Programs | None = None,
    limits: Sequence[Mapping[str, Any]] = (),
) -> CompiledSnapshot:
    """Return the snapshot of the rules now ACTIVE for this project and agent, storing it when it is new.

    The caller holds the tenant_state row (the run start raises its counters first), so no other start
    of the tenant makes the same snapshot meanwhile. Refuses with POLICY_INTEGRITY a rule that lost its hash.
    """
    rows = rule_rows.list_active_versions(connection, tenant_id=tenant_id)
    versions = [require_intact(tenant_id, from_row(row)) for row in rows]
    applicable = [
        version for version in versions if is_applicable(version, project_id=project_id, agent_id=agent_id)
    ]
    content = build_snapshot_content(applicable, bindings, limits)
    snapshot = compile_snapshot(tenant_id, content, programs)
    stored = snapshot_rows.get_snapshot(connection, tenant_id=tenant_id, snapshot_id=snapshot.snapshot_id)
    if stored is None:
        _insert(connection, tenant_id=tenant_id, snapshot=snapshot, content=content, facts=facts, now=now)
    elif stored["content"] != content:
        raise SnapshotInvalidError(snapshot.snapshot_id)
    return snapshot


def compile_rule(version: RuleVersion, programs: Programs | None = None) -> CompiledRule:
    """Return a rule version ready to judge."""
    if programs is None:
        return CompiledRule(version, load_condition(version.condition))
    return CompiledRule(version, programs.program(version.content_hash, version.condition))


def list_active(
    connection: DriverConnection, *, tenant_id: str, programs: Programs | None = None
) -> tuple[CompiledRule, ...]:
    """Return the ACTIVE rules that are intact, ready to judge, by rule_id; nothing is stored."""
    rows = rule_rows.list_active_versions(connection, tenant_id=tenant_id)
    versions = [from_row(row) for row in rows]
    return tuple(compile_rule(version, programs) for version in versions if is_intact(tenant_id, version))


def compile_active(
    connection: DriverConnection, *, tenant_id: str, programs: Programs | None = None
) -> CompiledSnapshot:
    """Return the ACTIVE rules of the scope TENANT that are intact, as a snapshot that is not stored."""
    rules = list_active(connection, tenant_id=tenant_id, programs=programs)
    versions = [rule.version for rule in rules if rule.version.scope is RuleScope.TENANT]
    return compile_snapshot(tenant_id, build_snapshot_content(versions, ()), programs)


def _insert(
    connection: DriverConnection,
    *,
    tenant_id: str,
    snapshot: CompiledSnapshot,
    content: str,
    facts: Facts,
    now: datetime,
) -> None:
    row = {
        "tenant_id": tenant_id,
        "snapshot_id": snapshot.snapshot_id,
        "content": content,
        "content_hash": snapshot.content_hash,
        "rule_count": len(snapshot.rules),
        "limit_count": len(snapshot.limits),
        "created_at": now,
    }
    fact_id = facts.add("policy.snapshot", row)
    if not snapshot_rows.insert_snapshot(connection, tenant_id=tenant_id, row={**row, "fact_id": fact_id}):
        # Only a start that did not hold the tenant's state could have come between; its fact must not double.
        raise HocError(
            ErrorKind.UNAVAILABLE, "BUSY", "The policy snapshot was just made; try again.", retry_after=1
        )


def load_verified(
    connection: DriverConnection, *, tenant_id: str, snapshot_id: str, cache: Snapshots
) -> CompiledSnapshot | None:
    """Return a stored snapshot ready to judge, or None when there is none of that id.

    The text is hashed when this process first loads it; a wrong hash raises SnapshotInvalidError.
    """
    known = cache.verified(tenant_id, snapshot_id)
    if known is not None:
        return known
    row = snapshot_rows.get_snapshot(connection, tenant_id=tenant_id, snapshot_id=snapshot_id)
    if row is None:
        return None
    if not _is_verified(row):
        raise SnapshotInvalidError(snapshot_id)
    snapshot = compile_snapshot(tenant_id, row["content"], cache)
    cache.keep(tenant_id, snapshot)
    return snapshot


def read_limits(
    connection: DriverConnection, *, tenant_id: str, snapshot_id: str
) -> Sequence[Mapping[str, Any]]:
    """Return the limits that a stored snapshot holds; SnapshotInvalidError for a damaged text."""
    row = snapshot_rows.get_snapshot(connection, tenant_id=tenant_id, snapshot_id=snapshot_id)
    if row is None or not _is_verified(row):
        raise SnapshotInvalidError(snapshot_id)
    limits: Sequence[Mapping[str, Any]] = loads(row["content"])["limits"]
    return limits


def get_view(connection: DriverConnection, *, tenant_id: str, snapshot_id: str) -> SnapshotView:
    """Return a stored snapshot with `verified`; refuse an unknown one with SNAPSHOT_NOT_FOUND."""
    row = snapshot_rows.get_snapshot(connection, tenant_id=tenant_id, snapshot_id=snapshot_id)
    if row is None:
        raise snapshot_not_found()
    try:
        content = loads(row["content"])
    except CanonicalJsonError:
        content = None
    return SnapshotView(
        snapshot_id=row["snapshot_id"],
        content=content if isinstance(content, dict) else None,
        content_hash=row["content_hash"],
        rule_count=row["rule_count"],
        limit_count=row["limit_count"],
        created_at=row["created_at"],
        verified=_is_verified(row),
    )


def _is_verified(row: Mapping[str, Any]) -> bool:
    digest = text_hash(row["content"])
    return bool(digest == row["content_hash"] and snapshot_id_of(digest) == row["snapshot_id"])
