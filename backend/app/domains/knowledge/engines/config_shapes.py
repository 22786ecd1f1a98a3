"""L5 shapes of plane configurations: one closed model per connector type, operational keys common to all."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.domains.knowledge.models.vocabulary import (
    ConnectorType,
    SensitivityLevel,
)
from app.kernel.ids import ID_PATTERN
from app.kernel.inputs import Identifier, LongText, Text

_TEMPLATE_START = re.compile(r"^\s*(select|with)\b", re.IGNORECASE)
# Quoted text, quoted names, comments and casts are skipped; what is left are the placeholders.
_SQL_TOKENS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|::|:([A-Za-z_][A-Za-z0-9_]*)", re.DOTALL
)
_PATH_NAMES = re.compile(r"\{([^{}]*)\}")
_HOLE = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]{0,63}\}")
_FRAMING_HEADERS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
)
ParamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
ShapeId = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=64)]
RootName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
SqlText = Annotated[Text, StringConstraints(min_length=1, max_length=16384)]
ParamType = Literal["str", "int", "float", "bool", "date", "timestamp", "uuid", "list[str]", "list[int]"]


def _unique(items: list[str]) -> list[str]:
    if len(set(items)) != len(items):
        raise ValueError("the items must differ")
    return items


def _folder(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError("must be a relative path without empty, . or .. segments")
    return path


def _absolute_path(path: str) -> str:
    if not path.startswith("/") or path.startswith("//") or any(char in path for char in "?#\\ "):
        raise ValueError("must be an absolute path without query or fragment")
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("must not hold . or .. segments")
    return path


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL") from None
    if parts.scheme not in ("https", "http") or not host or parts.query or parts.fragment:
        raise ValueError("must be an http(s) URL with a host and without query or fragment")
    return url


UrlPath = Annotated[Text, StringConstraints(min_length=1, max_length=1024), AfterValidator(_absolute_path)]


class _Closed(BaseModel):
    """A closed, frozen, type-exact object."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OperationalConfig(_Closed):
    """The operational keys, which every plane has and which apply at once."""

    description: LongText | None = None
    retention_days: int = Field(365, ge=0, le=36500)
    grace_period_days: int = Field(7, ge=0, le=90)
    timeout_seconds: int = Field(30, ge=1, le=60)
    max_documents: int = Field(20, ge=1, le=100)
    max_response_bytes: int = Field(1048576, ge=1024, le=5242880)
    auto_advance: bool = True
    auto_refresh: bool = False
    log_queries: bool = False
    declared_sensitivity: Annotated[SensitivityLevel, Field(strict=False)] | None = None


class RepositorySource(_Closed):
    """Where a repository plane takes its documents from."""

    kind: Literal["files", "collections"] = "collections"
    root: RootName | None = None
    folder: (
        Annotated[Text, StringConstraints(min_length=1, max_length=1024), AfterValidator(_folder)] | None
    ) = None

    @model_validator(mode="after")
    def _root_goes_with_files(self) -> Self:
        if (self.kind == "files") != (self.root is not None):
            raise ValueError("root names the ingest root of kind files, and of no other")
        if self.folder is not None and self.kind != "files":
            raise ValueError("folder belongs to kind files")
        return self


class RepositoryConfig(OperationalConfig):
    """The configuration of a plane over collections of the repository."""

    owned_collection: Identifier | None = None
    shared_collections: Annotated[list[Identifier], Field(max_length=16), AfterValidator(_unique)] = []
    source: RepositorySource = RepositorySource()

    @model_validator(mode="after")
    def _owned_is_not_shared(self) -> Self:
        if self.owned_collection is not None and self.owned_collection in self.shared_collections:
            raise ValueError("a collection is owned or shared, not both")
        return self


class TemplateParam(_Closed):
    """One typed parameter of a template or an endpoint."""

    name: ParamName
    type: ParamType
    required: bool = True
    default: Any = None
    min: int | float | str | None = None
    max: int | float | str | None = None
    max_length: int | None = Field(None, ge=1, le=65536)
    enum: Annotated[list[Any], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _default_means_optional(self) -> Self:
        if self.required and self.default is not None:
            raise ValueError("a required parameter has no default")
        return self


def _param_names(params: list[TemplateParam]) -> set[str]:
    names = [param.name for param in params]
    if len(set(names)) != len(names):
        raise ValueError("parameter names must differ")
    return set(names)


class SqlTemplate(_Closed):
    """One prepared read-only statement; the caller sends its parameters and never SQL."""

    id: ShapeId
    sql: SqlText
    params: Annotated[list[TemplateParam], Field(max_length=64)] = []
    key_columns: Annotated[list[ParamName], Field(min_length=1, max_length=16), AfterValidator(_unique)]
    max_rows: int = Field(100, ge=1, le=1000)
    timeout_seconds: int | None = Field(None, ge=1, le=60)
    sample_params: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_statement_that_reads(self) -> Self:
        if not _TEMPLATE_START.match(self.sql):
            raise ValueError("sql must start with SELECT or WITH")
        if ";" in self.sql:
            raise ValueError("sql must not hold a semicolon")
        placeholders = {name for name in _SQL_TOKENS.findall(self.sql) if name}
        if placeholders != _param_names(self.params):
            raise ValueError("the placeholders of sql and the params must be the same")
        _check_sample(self.params, self.sample_params)
        return self


class SqlConfig(OperationalConfig):
    """The configuration of a plane over a database."""

    driver: Literal["postgresql", "sqlite"]
    credential_ref: Text
    templates: Annotated[list[SqlTemplate], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        _unique([template.id for template in self.templates])
        kinds = {param.type for template in self.templates for param in template.params}
        if self.driver == "sqlite" and kinds & {"list[str]", "list[int]"}:
            raise ValueError("SQLite binds no list")
        return self


class HttpAuth(_Closed):
    """How the credential travels."""

    scheme: Literal["bearer", "header"]
    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] | None = None

    @model_validator(mode="after")
    def _header_names_itself(self) -> Self:
        if (self.scheme == "header") != (self.header is not None):
            raise ValueError("header names the header of scheme header, and of no other")
        if self.header is not None and self.header.lower() in _FRAMING_HEADERS:
            raise ValueError("header frames the request and carries no credential")
        return self


class HttpEndpoint(_Closed):
    """One call of a web service; the caller sends its parameters and never a URL."""

    id: ShapeId
    method: Literal["GET", "POST"] = "GET"
    path: UrlPath
    query: dict[ParamName, Any] | None = None
    body: dict[str, Any] | None = None
    params: Annotated[list[TemplateParam], Field(max_length=64)] = []
    items_pointer: Annotated[Text, StringConstraints(pattern=r"^(/.*)?$", max_length=1024)] = ""
    key_fields: Annotated[list[Text], Field(min_length=1, max_length=16), AfterValidator(_unique)]
    max_bytes: int | None = Field(None, ge=1024, le=5242880)
    timeout_seconds: int | None = Field(None, ge=1, le=60)
    sample_params: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _path_names_are_params(self) -> Self:
        names = _param_names(self.params)
        holes = [*_PATH_NAMES.findall(self.path), *_holes(self.query), *_holes(self.body)]
        if not set(holes) <= names:
            raise ValueError("path, query or body name a parameter that is not declared")
        if self.method == "GET" and self.body is not None:
            raise ValueError("a GET has no body")
        _check_sample(self.params, self.sample_params)
        return self


class HttpConfig(OperationalConfig):
    """The configuration of a plane over a web service."""

    base_url: Annotated[Text, StringConstraints(max_length=2048), AfterValidator(_base_url)]
    health_path: UrlPath
    auth: HttpAuth | None = None
    credential_ref: Text | None = None
    methods: Annotated[list[Literal["GET", "POST"]], Field(min_length=1), AfterValidator(_unique)] = ["GET"]
    endpoints: Annotated[list[HttpEndpoint], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        _unique([endpoint.id for endpoint in self.endpoints])
        if (self.auth is None) != (self.credential_ref is None):
            raise ValueError("auth and credential_ref go together")
        if any(endpoint.method not in self.methods for endpoint in self.endpoints):
            raise ValueError("an endpoint uses a method that methods does not list")
        return self


def _holes(value: Any) -> list[str]:
    """Return the parameters that stand in a query or body, each a whole text `{name}`."""
    if isinstance(value, dict):
        return [name for item in value.values() for name in _holes(item)]
    if isinstance(value, list):
        return [name for item in value for name in _holes(item)]
    return _PATH_NAMES.findall(value) if isinstance(value, str) and _HOLE.fullmatch(value) else []


def _check_sample(params: list[TemplateParam], sample: dict[str, Any] | None) -> None:
    if sample is None:
        return
    if not set(sample) <= {param.name for param in params}:
        raise ValueError("sample_params names a parameter that is not declared")
    if any(param.required and param.name not in sample for param in params):
        raise ValueError("sample_params lacks a required parameter")


PlaneConfig = RepositoryConfig | SqlConfig | HttpConfig
SHAPES: dict[ConnectorType, type[RepositoryConfig | SqlConfig | HttpConfig]] = {
    ConnectorType.REPOSITORY: RepositoryConfig,
    ConnectorType.SQL: SqlConfig,
    ConnectorType.HTTP: HttpConfig,
}
