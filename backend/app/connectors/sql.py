"""Connectors: databases through prepared templates; the caller sends parameters and never SQL."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import structlog
from pydantic import Field, StringConstraints, ValidationError

from app.connectors.credentials import Credentials
from app.connectors.guard import CallGuard
from app.connectors.parameters import read_params
from app.connectors.rows import make_document
from app.connectors.sql_source import Question, SqlSource
from app.connectors.values import (
    Caps,
    ConnectorDocument,
    ConnectorFailedError,
    ConnectorRefusedError,
    ConnectorResult,
    within_caps,
)
from app.kernel.canonical_json import dumps
from app.kernel.inputs import Input, Text

_log = structlog.get_logger(__name__)
Config = Mapping[str, Any]


class TemplatePayload(Input):
    """Payload of a query: a template of the plane, and its parameters."""

    template_id: Annotated[Text, StringConstraints(min_length=1, max_length=64)]
    params: dict[str, Any] = Field(default_factory=dict)


class SqlConnector:
    """Serves query: rows of templates, as documents, out of transactions that cannot write."""

    actions = frozenset({"query"})
    reads_database = False

    def __init__(
        self, sources: Mapping[str, SqlSource], credentials: Credentials, *, guard: CallGuard | None = None
    ) -> None:
        self._sources = sources
        self._credentials = credentials
        self._guard = guard or CallGuard()

    def check(self, *, action: str, payload: Mapping[str, Any], config: Config) -> None:
        """Raise ConnectorRefusedError for an unknown action, an unfit payload, an unknown template."""
        _read(action, payload, config)

    def execute(
        self,
        connection: Any,  # noqa: ARG002
        *,
        tenant_id: str,
        plane: Mapping[str, Any],
        action: str,
        payload: Mapping[str, Any],
        config: Config,
        caps: Caps,
        deadline: float,
    ) -> ConnectorResult:
        """Return the rows of a template as documents; raise ConnectorRefusedError, ConnectorFailedError."""
        template, params = _read(action, payload, config)
        rows = min(template["max_rows"], caps.max_documents)
        limit = _deadline(template, deadline)
        question = Question(template["sql"], params, rows, caps.max_response_bytes, limit)
        found, more = self._ask(tenant_id, plane, config, template, question)
        documents, dropped = within_caps(found, caps)
        return ConnectorResult(documents, truncated=more or dropped)

    def verify(self, *, tenant_id: str, plane: Mapping[str, Any], config: Config) -> dict[str, Any]:
        """Prepare every template and return its columns; raise ConnectorFailedError."""
        shape: dict[str, Any] = {}
        deadline = time.monotonic() + config["timeout_seconds"]
        with self._guard.call((tenant_id, plane["plane_id"])):
            key, dsn = self._place(tenant_id, plane, config)
            for template in config["templates"]:
                params = {param["name"]: None for param in template["params"]}
                question = Question(template["sql"], params, 0, 0, deadline)
                columns = self._sources[config["driver"]].describe(key, dsn, question)
                if not set(template["key_columns"]) <= set(columns):
                    raise ConnectorFailedError("RESPONSE_INVALID", "a key column is missing", lasting=True)
                shape[template["id"]] = columns
        return {"templates": shape}

    def sample(self, *, tenant_id: str, plane: Mapping[str, Any], config: Config, rows: int) -> Sequence[str]:
        """Return rows, as canonical text, of the templates that have sample_params."""
        texts: list[str] = []
        deadline = time.monotonic() + config["timeout_seconds"]
        for template in config["templates"]:
            left = min(rows - len(texts), template["max_rows"])
            if template["sample_params"] is None or left <= 0:
                continue
            params = _params(template, template["sample_params"])
            question = Question(template["sql"], params, left, config["max_response_bytes"], deadline)
            found, _more = self._ask(tenant_id, plane, config, template, question)
            texts.extend(dumps(dict(document.row or {})) for document in found)
        return texts

    def _ask(
        self,
        tenant_id: str,
        plane: Mapping[str, Any],
        config: Config,
        template: Mapping[str, Any],
        question: Question,
    ) -> tuple[list[ConnectorDocument], bool]:
        try:
            with self._guard.call((tenant_id, plane["plane_id"])):
                key, dsn = self._place(tenant_id, plane, config)
                fetched = self._sources[config["driver"]].ask(key, dsn, question)
                keys = template["key_columns"]
                return [make_document(template["id"], keys, row) for row in fetched.rows], fetched.more
        except ConnectorFailedError as failure:
            _log.warning("connector.sql_failed", plane_id=plane["plane_id"], detail=str(failure))
            raise

    def _place(self, tenant_id: str, plane: Mapping[str, Any], config: Config) -> tuple[tuple[str, ...], str]:
        reference = config["credential_ref"]
        dsn = self._credentials.resolve(reference, tenant_id=tenant_id)
        return (tenant_id, plane["plane_id"], plane["config_digest"], reference), dsn


def _read(
    action: str, payload: Mapping[str, Any], config: Config
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    if action != "query":
        raise ConnectorRefusedError("ACTION_NOT_SUPPORTED", "the sql connector knows query alone")
    try:
        asked = TemplatePayload.model_validate(dict(payload), strict=True)
    except ValidationError as error:
        raise ConnectorRefusedError("INVALID_PAYLOAD", "the payload does not fit") from error
    for template in config["templates"]:
        if template["id"] == asked.template_id:
            return template, _params(template, asked.params)
    raise ConnectorRefusedError("TEMPLATE_NOT_ALLOWED", "the plane has no such template")


def _params(template: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return dict(read_params(template["params"], given))


def _deadline(template: Mapping[str, Any], deadline: float) -> float:
    seconds = template["timeout_seconds"]
    return deadline if seconds is None else min(deadline, time.monotonic() + seconds)
