"""Settings: every environment variable of the product, prefix `HOC_` (docs/settings.md)."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    maintenance_interval_seconds: int = Field(60, ge=1)

    repository_max_content_bytes: int = Field(16_777_216, ge=1)
    repository_max_bulk_items: int = Field(1000, ge=1)
    repository_max_bulk_bytes: int = Field(67_108_864, ge=1)
    repository_require_if_match: bool = False

    @cached_property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return sa.make_url(self.database_url).get_backend_name()
