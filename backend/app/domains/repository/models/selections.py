"""Models of the repository slice: checked filters, as engines hand them to drivers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domains.repository.models.inputs import RelatedTo
from app.domains.repository.models.vocabulary import ScalarKind


@dataclass(frozen=True, slots=True)
class ScalarKey:
    """A scalar as the projection stores it: kind, sortable key, and the full text of a long string."""

    kind: ScalarKind
    key: str | None = None
    full: str | None = None

    @property
    def text(self) -> str | None:
        """The whole sortable text, cut or not."""
        return self.key if self.full is None else self.full


@dataclass(frozen=True, slots=True)
class MetadataCondition:
    """A checked condition on the projection; `ceiling` ends the range of a prefix."""

    pointer: str
    op: str
    values: tuple[ScalarKey, ...] = ()
    ceiling: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """A checked filter as the driver takes it; `nothing` matches no row at all."""

    equals: Mapping[str, str]
    ids: tuple[str, ...] | None = None
    name_range: tuple[str, str | None] | None = None
    digest_range: tuple[str, str | None] | None = None
    produced_by_run: str | None = None
    times: Mapping[str, datetime] = field(default_factory=dict)
    metadata: tuple[MetadataCondition, ...] = ()
    tokens: tuple[str, ...] = ()
    related: RelatedTo | None = None
    live_only: bool = True
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class Ordering:
    """The order of a page and the key of the last row before it."""

    column: str
    descending: bool
    limit: int
    after: tuple[Any, str] | None = None
