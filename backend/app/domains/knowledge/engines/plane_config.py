"""L5 rules of plane configurations: what is refused, what counts as a source, what a text means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from app.domains.knowledge.engines.config_secrets import (
    escape,
    find_credential_refs,
    find_secrets,
    is_credential_ref,
    mask_credentials,
)
from app.domains.knowledge.engines.config_shapes import (
    SHAPES,
    OperationalConfig,
    PlaneConfig,
    RepositoryConfig,
)
from app.domains.knowledge.errors import config_too_large, conflict, invalid_config, unknown_connector_type
from app.domains.knowledge.models.vocabulary import (
    ConfigChange,
    ConnectorType,
    KnowledgePlaneLifecycleState,
)
from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.hashing import digest_of

MAX_CONFIG_BYTES = 65536
RESERVED_KEYS = ("bound_policy_ids", "purge_approved", "lifecycle_state", "approvals")
OPERATIONAL_KEYS = frozenset(OperationalConfig.model_fields)
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """A configuration that passed every rule: its model, its canonical text and that text's digest."""

    model: PlaneConfig
    text: str
    digest: str


def read_connector_type(name: str) -> ConnectorType:
    """Return the connector type of this name, or raise UNKNOWN_CONNECTOR_TYPE."""
    try:
        return ConnectorType(name)
    except ValueError:
        raise unknown_connector_type(name) from None


def check_config(connector_type: ConnectorType, config: Mapping[str, Any]) -> CheckedConfig:
    """Return the checked configuration, or raise TOO_LARGE or the first refusal with its JSON pointers.

    Order: size, reserved keys, secrets, credential references, shape. A secret is named before the shape is
    judged, so that an unknown member never hides one.
    """
    members = dict(config)
    text = _canonical(members)
    if len(text.encode()) > MAX_CONFIG_BYTES:
        raise config_too_large(len(text.encode()), MAX_CONFIG_BYTES)
    _refuse(
        "RESERVED_CONFIG_KEY",
        [f"/{key}" for key in RESERVED_KEYS if key in members],
        "is set by the lifecycle",
    )
    _refuse("SECRET_IN_CONFIG", find_secrets(members), "looks like a secret")
    bad = [pointer for pointer, value in find_credential_refs(members) if not is_credential_ref(value)]
    _refuse("INVALID_CREDENTIAL_REF", bad, "is no credential reference")
    return CheckedConfig(_shape(connector_type, members), text, digest_of(text.encode()))


def read_config(connector_type: str, text: str) -> PlaneConfig:
    """Return the model of a stored configuration, with its defaults."""
    return SHAPES[ConnectorType(connector_type)].model_validate(loads(text))


@lru_cache(maxsize=1024)
def config_members(connector_type: str, text: str) -> Mapping[str, Any]:
    """Return the members of a stored configuration, with its defaults; read once for each text."""
    return MappingProxyType(read_config(connector_type, text).model_dump(mode="json"))


def read_operational(connector_type: str, text: str) -> OperationalConfig:
    """Return the operational keys of a stored configuration, with their defaults."""
    return read_config(connector_type, text)


def source_changed(before: PlaneConfig, after: PlaneConfig) -> bool:
    """Tell whether anything but operational keys differs; a default written out is no change."""
    return before.model_dump(exclude=set(OPERATIONAL_KEYS)) != after.model_dump(exclude=set(OPERATIONAL_KEYS))


def decide_config_change(
    state: KnowledgePlaneLifecycleState, *, before: PlaneConfig, after: PlaneConfig, has_open_job: bool
) -> ConfigChange:
    """Return how a new configuration takes effect, or raise CONFIG_NOT_MODIFIABLE or JOB_ACTIVE.

    Operational keys apply at once. Source keys apply at once in DRAFT and VERIFIED; from INDEXED to ACTIVE
    they wait as the candidate of a refresh; while a stage runs they do not change.
    """
    if not state.allows_modifications:
        raise conflict("CONFIG_NOT_MODIFIABLE", f"The configuration does not change in {state.name}.")
    if has_open_job:
        raise conflict("JOB_ACTIVE", "The plane has an open job.")
    if not source_changed(before, after):
        return ConfigChange.OPERATIONAL
    if state in (KnowledgePlaneLifecycleState.DRAFT, KnowledgePlaneLifecycleState.VERIFIED):
        return ConfigChange.SOURCE
    if state >= KnowledgePlaneLifecycleState.INDEXED:
        return ConfigChange.CANDIDATE
    raise conflict("CONFIG_NOT_MODIFIABLE", f"Source keys do not change in {state.name}.")


def wanted_collections(config: PlaneConfig) -> tuple[str | None, tuple[str, ...]]:
    """Return the collection to own (None: the plane's own one) and those to share."""
    if not isinstance(config, RepositoryConfig):
        return None, ()
    return config.owned_collection, tuple(config.shared_collections)


def shown_config(text: str) -> dict[str, Any]:
    """Return a stored configuration as answers show it."""
    shown: dict[str, Any] = mask_credentials(loads(text))
    return shown


def _canonical(members: dict[str, Any]) -> str:
    if _depth(members) > MAX_DEPTH:
        raise invalid_config("INVALID_CONFIG", [_error("", "depth", f"is nested over {MAX_DEPTH} levels")])
    try:
        return dumps(members)
    except CanonicalJsonError as error:
        raise invalid_config("INVALID_CONFIG", [_error("", "json", str(error))]) from None


def _depth(value: Any) -> int:
    # Level by level: a deep value must not exhaust the stack before it is refused.
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return depth


def _refuse(code: str, pointers: list[str], detail: str) -> None:
    if pointers:
        raise invalid_config(code, [_error(pointer, code.lower(), detail) for pointer in pointers])


def _shape(connector_type: ConnectorType, members: dict[str, Any]) -> PlaneConfig:
    try:
        return SHAPES[connector_type].model_validate(members)
    except ValidationError as error:
        raise invalid_config(
            "INVALID_CONFIG",
            [
                _error(
                    "".join(f"/{escape(str(part))}" for part in item["loc"]),
                    item["type"],
                    item["msg"].removeprefix("Value error, "),
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ],
        ) from None


def _error(pointer: str, code: str, detail: str) -> dict[str, Any]:
    return {"field": f"/config{pointer}", "code": code, "detail": detail}
