"""Models of the repository slice: redaction, purge, collection of unused bytes, check, index rebuild."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.domains.repository.models.views import ArtifactView, ChangeView
from app.kernel.inputs import Input, Output, Text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Cause = Annotated[Text, StringConstraints(min_length=1, max_length=1000), AfterValidator(_not_blank)]
LegalBasis = Annotated[Text, StringConstraints(min_length=1, max_length=200), AfterValidator(_not_blank)]


class RedactArtifact(Input):
    """Destroy what revisions of an artifact hold; ids, numbers, times, digests and the chain stay.

    `shared` says what becomes of bytes that other revisions have too: refuse, redact them there, or keep
    them. `block_reupload` refuses the same bytes for ever.
    """

    artifact_id: str
    revisions: Annotated[list[int], Field(min_length=1)] | Literal["all"]
    reason: Cause
    legal_basis: LegalBasis
    shared: Literal["refuse", "redact", "keep"] = "refuse"
    block_reupload: bool = False


class PurgeCollection(Input):
    """Destroy the content of a collection and everything in it; tombstones stay."""

    collection_id: str
    reason: Cause
    legal_basis: LegalBasis


class CollectGarbage(Input):
    """Give up bytes that nothing live or cited needs; a dry run only counts them."""

    dry_run: bool = True
    grace_days: int | None = None


class Verify(Input):
    """Check the whole repository of the tenant, or one artifact."""

    scope: Text = "all"
    read_content: bool = True


class RebuildSearch(Input):
    """Make the text index and the metadata projection of the tenant anew."""


class RevisionPlace(Output):
    """A revision of an artifact."""

    artifact_id: str
    revision: int


class ArtifactRedacted(Output):
    """What a redaction did; `also_redacted` are revisions outside the request that lost their bytes."""

    artifact: ArtifactView
    changed: bool
    change: ChangeView | None
    revisions: list[int]
    also_redacted: list[RevisionPlace]
    blobs_dropped: int
    blobs_kept: int


class CollectionPurged(Output):
    """What a purge destroyed; without an effective change `change_set_id` is null."""

    collection_id: str
    change_set_id: str | None
    documents: int
    revisions_redacted: int
    relationships_removed: int
    bytes_deleted: int
    bytes_shared: int


class GarbageCollected(Output):
    """What was, or would be, given up."""

    candidates: int
    collected: int
    bytes: int
    dry_run: bool


class Finding(Output):
    """One fault: its code, the row it is about, and what is wrong there."""

    code: str
    entity: str
    detail: str


class RepositoryVerified(Output):
    """The result of a check: how many rows were looked at, and at most 1000 of its findings."""

    clean: bool
    checked: dict[str, int]
    findings: list[Finding]
    total: int
    redacted: int
    collected: int


class SearchRebuilt(Output):
    """How many artifacts can be found again."""

    artifacts: int
