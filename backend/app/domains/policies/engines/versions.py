"""Policies: a rule version as a value: its canonical form, its content hash, its reading from a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from app.domains.policies.errors import policy_integrity
from app.domains.policies.models.rules import RuleVersion
from app.domains.policies.models.vocabulary import Effect, EnforcementMode, RuleKind, RuleScope
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import text_hash

JUDGING: Final = (
    "effect",
    "enforcement_mode",
    "moments",
    "scope",
    "scope_id",
    "condition",
    "constraints",
    "halts_run",
)
"""The columns that decide a verdict; texts for readers (name, description, message) do not."""


def content_hash(tenant_id: str, version: RuleVersion) -> str:
    """Return the hash of everything in a version that judges, 64 hex digits."""
    members = as_json(version)
    statement = {name: members[name] for name in JUDGING}
    return text_hash(
        dumps(
            {
                "v": "policy-rule-1",
                "tenant_id": tenant_id,
                "rule_id": version.rule_id,
                "rule_version": version.rule_version,
                "kind": version.kind.value,
                **statement,
            }
        )
    )


def sealed(tenant_id: str, version: RuleVersion) -> RuleVersion:
    """Return the version with its content hash."""
    return replace(version, content_hash=content_hash(tenant_id, version))


def is_intact(tenant_id: str, version: RuleVersion) -> bool:
    """Tell whether a stored version still has its content hash."""
    return version.content_hash == content_hash(tenant_id, version)


def require_intact(tenant_id: str, version: RuleVersion) -> RuleVersion:
    """Return a stored version, or refuse with POLICY_INTEGRITY one that does not have its hash."""
    if not is_intact(tenant_id, version):
        raise policy_integrity(version.rule_id, version.rule_version)
    return version


def verdict_of(version: RuleVersion) -> str:
    """Return what the rule says when it matches: its effect (ACCESS) or its enforcement mode (GUARD)."""
    return (version.effect or version.enforcement_mode or EnforcementMode.DISABLED).value


def as_json(version: RuleVersion) -> dict[str, Any]:
    """Return a version as JSON values, every member present."""
    return {
        "rule_id": version.rule_id,
        "rule_version": version.rule_version,
        "kind": version.kind.value,
        "name": version.name,
        "description": version.description,
        "effect": version.effect.value if version.effect else None,
        "enforcement_mode": version.enforcement_mode.value if version.enforcement_mode else None,
        "moments": list(version.moments),
        "scope": version.scope.value,
        "scope_id": version.scope_id,
        "condition": version.condition,
        "constraints": dict(version.constraints),
        "halts_run": version.halts_run,
        "depends_on": list(version.depends_on),
        "message": version.message,
        "content_hash": version.content_hash,
    }


def from_json(members: Mapping[str, Any]) -> RuleVersion:
    """Return the version that `as_json` wrote; raise KeyError or ValueError for anything else."""
    return RuleVersion(
        rule_id=members["rule_id"],
        rule_version=members["rule_version"],
        kind=RuleKind(members["kind"]),
        name=members["name"],
        description=members["description"],
        effect=Effect(members["effect"]) if members["effect"] else None,
        enforcement_mode=EnforcementMode(members["enforcement_mode"])
        if members["enforcement_mode"]
        else None,
        moments=tuple(members["moments"]),
        scope=RuleScope(members["scope"]),
        scope_id=members["scope_id"],
        condition=members["condition"],
        constraints=members["constraints"],
        halts_run=bool(members["halts_run"]),
        depends_on=tuple(members["depends_on"]),
        message=members["message"],
        content_hash=members["content_hash"],
    )


def from_row(row: Mapping[str, Any]) -> RuleVersion:
    """Return the version of a stored row, its JSON columns read."""
    members = dict(row)
    for name in ("moments", "constraints", "depends_on"):
        members[name] = loads(members[name])
    return from_json(members)
