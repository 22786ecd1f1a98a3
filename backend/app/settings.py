"""Settings: every environment variable of the product, prefix `HOC_` (docs/settings.md)."""

import base64
import binascii
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import sqlalchemy as sa
from pydantic import AnyHttpUrl, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _decoded(key: str) -> bytes:
    try:
        return base64.b64decode(key, validate=True)
    except binascii.Error:
        return b""


# A list in the environment: words with commas between them.
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


# The shortest secret that signs what leaves: 128 bits, were it hexadecimal.
MIN_SECRET = 32


class Settings(BaseSettings):
    """Read once at start-up; unknown `HOC_` variables are ignored, wrong values refuse the start."""

    model_config = SettingsConfigDict(env_prefix="HOC_", frozen=True, extra="ignore")

    database_url: str = "sqlite:///var/hoc.db"
    redis_url: str | None = None
    pool_size: int = Field(8, ge=1, le=256)
    statement_timeout_ms: int = Field(30_000, ge=100)
    lock_timeout_ms: int = Field(5_000, ge=10)

    operator_token: SecretStr | None = None
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    slow_request_ms: int = Field(500, ge=1)
    rate_limit_enabled: bool = True
    rate_limit_anonymous_rpm: int = Field(600, ge=1)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    plane_workers: int = Field(1, ge=0, le=16)
    purge_approval_days: int = Field(7, ge=1, le=365)
    ingest_roots: dict[str, Path] = Field(default_factory=dict)
    archive_dir: Path = Path("var/archive")
    bypass_grace_seconds: int = Field(30, ge=0, le=86_400)

    connector_hosts: Words = ()
    connector_sqlite_dir: Path | None = None
    credential_key: SecretStr | None = None
    credential_keys_old: SecretStr | None = None
    credential_env_allow: Words = ()
    maintenance_interval_seconds: int = Field(60, ge=1)
    outbox_url: AnyHttpUrl | None = None
    outbox_secret: SecretStr | None = None

    log_sequencer: Literal["inline", "external", "off"] = "inline"
    log_interval_ms: int = Field(200, ge=10, le=60_000)
    log_batch: int = Field(4096, ge=1, le=65_536)
    checkpoint_interval_ms: int = Field(500, ge=0, le=3_600_000)
    log_max_pending: int = Field(1_000_000, ge=1)
    verify_interval_seconds: int = Field(60, ge=1, le=86_400)
    verify_sweep_days: int = Field(7, ge=1, le=365)
    # A name in signatures: no white space, no plus sign, and not the beginning of a DSSE envelope.
    log_origin: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")
    log_key_file: Path | None = None
    key_overlap_days: int = Field(30, ge=0, le=3650)
    witness_keys_file: Path | None = None
    checkpoint_dir: Path | None = None
    bundle_dir: Path | None = None

    repository_max_content_bytes: int = Field(16_777_216, ge=1)
    repository_max_bulk_items: int = Field(1000, ge=1)
    repository_max_bulk_bytes: int = Field(67_108_864, ge=1)
    repository_require_if_match: bool = False
    repository_gc_grace_days: int = Field(30, ge=0, le=36_500)
    repository_max_snapshot_bytes: int = Field(2_147_483_648, ge=1)
    repository_max_snapshot_records: int = Field(5_000_000, ge=1)

    @field_validator("credential_key", "credential_keys_old")
    @classmethod
    def _holds_32_bytes(cls, keys: SecretStr | None) -> SecretStr | None:
        for key in () if keys is None else keys.get_secret_value().split(","):
            if len(_decoded(key.strip())) != 32:
                raise ValueError("must be the base64 form of 32 bytes")
        return keys

    @field_validator("log_origin")
    @classmethod
    def _is_no_envelope(cls, origin: str | None) -> str | None:
        if origin is not None and origin.startswith("DSSEv1"):
            raise ValueError("must not begin with DSSEv1")
        return origin

    @model_validator(mode="after")
    def _signs_events(self) -> Self:
        if self.outbox_url is not None and (
            self.outbox_secret is None or len(self.outbox_secret.get_secret_value()) < MIN_SECRET
        ):
            raise ValueError(f"outbox_url needs outbox_secret, of at least {MIN_SECRET} characters")
        return self

    @cached_property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return sa.make_url(self.database_url).get_backend_name()

    @cached_property
    def log_key_path(self) -> Path | None:
        """Where the signing key is: as set, or beside the SQLite database; None without either."""
        return self.log_key_file or self._beside_database("-log-key.pem")

    @cached_property
    def checkpoint_path(self) -> Path | None:
        """Where checkpoints are kept outside the database: as set, or beside the SQLite database."""
        return self.checkpoint_dir or self._beside_database("-checkpoints")

    def _beside_database(self, suffix: str) -> Path | None:
        file = sa.make_url(self.database_url).database
        if self.backend != "sqlite" or file in (None, "", ":memory:"):
            return None
        return Path(f"{file}{suffix}")
