"""Models of the repository slice: input bundles."""

from pydantic import Field

from app.domains.repository.models.inputs import TypeName
from app.domains.repository.models.runs import TargetState
from app.kernel.inputs import Input, Output, OutputTime, Text

MAX_ITEMS = 1000


class BundleItem(Input):
    """A revision that a run reads, in a role; without a revision the head of this moment."""

    artifact_id: Text
    revision: int | None = None
    role: TypeName


class CreateBundle(Input):
    """The ordered inputs of runs; an empty bundle is legal."""

    items: list[BundleItem] = Field(max_length=MAX_ITEMS)


class BundleRef(Input):
    """One bundle, by its id or its digest."""

    bundle_id: str


class BundleItemView(Output):
    """A pinned revision of a bundle."""

    position: int
    artifact_id: str
    revision: int
    revision_digest: str
    role: str
    target_state: TargetState


class BundleView(Output):
    """A bundle; the digest is that of `hoc-bundle-1`, a line feed, and the items."""

    id: str
    bundle_digest: str
    created_at: OutputTime
    created_by: str
    items: list[BundleItemView]


class BundleCreated(BundleView):
    """A bundle, made now or there before."""

    created: bool
