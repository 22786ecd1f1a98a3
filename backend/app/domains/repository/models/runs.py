"""Models of the repository slice: workflow runs, their steps, outputs and manifests."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.repository.models.inputs import ArtifactItem, Digest, Note, TypeName
from app.domains.repository.models.views import BulkItemResult, ChangeView, JsonValue
from app.domains.repository.models.vocabulary import OperationRunStatus, StepStatus
from app.kernel.inputs import (
    AwareTime,
    Identifier,
    Input,
    ListInput,
    LongText,
    Name,
    Output,
    OutputTime,
    Text,
)

MAX_STEPS = 1000
MAX_DIAGNOSTICS = 1000
SHOWN_OUTPUTS = 1000

Position = Annotated[int, Field(ge=0, le=2**31 - 1)]
Code = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
TargetState = Literal["live", "deleted", "redacted"]


class StepSpec(Input):
    """A step of a new run; `depends_on` names other steps of it."""

    step_id: str
    position: Position
    depends_on: list[Text] = Field(default_factory=list, max_length=MAX_STEPS)
    inputs: Any = Field(default_factory=dict)


class CreateOperationRun(Input):
    """A new workflow run; with `parent_run_id` it is the next attempt of that run."""

    run_id: str | None = None
    operation: Name
    parameters: Any = Field(default_factory=dict)
    bundle_id: Text | None = None
    parent_run_id: Text | None = None
    steps: list[StepSpec] = Field(default_factory=list, max_length=MAX_STEPS)
    trace_id: Code | None = None


class OperationRunRef(Input):
    """One workflow run."""

    run_id: str


class ListOperationRuns(ListInput):
    """Workflow runs, oldest first."""

    status: OperationRunStatus | None = None
    operation: Text | None = None


class ListResumableRuns(ListInput):
    """Running and waiting runs that no worker holds, longest abandoned first."""


class TransitionRun(Input):
    """Another status of a run; the error members go with `failed` alone."""

    run_id: str
    status: OperationRunStatus
    worker: Identifier | None = None
    error_code: Code | None = None
    error_message: LongText | None = None
    reason: Note | None = None


class ClaimRun(Input):
    """A worker's wish to hold a run for some seconds."""

    run_id: str
    worker: Identifier
    lease_seconds: int = Field(ge=1, le=3600)


class ReleaseRun(Input):
    """A worker's wish to let a run go."""

    run_id: str
    worker: Identifier


class Diagnostic(Input):
    """One remark of a run or step."""

    level: Literal["debug", "info", "warning", "error"]
    code: Code
    message: LongText
    at: AwareTime
    step_id: Text | None = None
    data: Any = None


class PutStep(Input):
    """A step that is made or changed; what is not given stays. `position` makes a new one."""

    run_id: str
    step_id: str
    position: Position | None = None
    depends_on: list[Text] | None = Field(None, max_length=MAX_STEPS)
    status: StepStatus | None = None
    inputs: Any = None
    outputs: Any = None
    diagnostics: list[Diagnostic] | None = Field(None, max_length=MAX_DIAGNOSTICS)
    worker: Identifier | None = None


class ListWorkflowSteps(ListInput):
    """The steps of a run, by position."""

    run_id: str


class OutputRef(Input):
    """A revision that a run brought about, and in which role."""

    artifact_id: Text
    revision: int
    role: TypeName


class AddOutput(OutputRef):
    """One more output of a run."""

    run_id: str


class ManifestDraft(Input):
    """What the caller says in a manifest; the repository adds the rest."""

    diagnostics: list[Diagnostic] = Field(default_factory=list, max_length=MAX_DIAGNOSTICS)
    environment: Any = Field(default_factory=dict)


class SealManifest(ManifestDraft):
    """The manifest of a run that has ended."""

    run_id: str


class PublishedArtifact(ArtifactItem):
    """A new artifact that a run publishes."""

    role: TypeName = "output"


class PublishedUpdate(Input):
    """A change of an artifact that a run publishes; what is not given stays, `metadata` is a merge patch."""

    artifact_id: str
    expected_version: int | None = Field(None, ge=1)
    role: TypeName = "output"
    name: str | None = None
    collection_id: str | None = None
    media_type: str | None = None
    provenance: Any = None
    content: str | None = None
    content_base64: str | None = None
    metadata: Any = None
    expected_digest: Digest | None = None


class PublishRun(Input):
    """Everything that a run brings about, in one transaction; `status` ends it."""

    run_id: str
    artifacts: list[PublishedArtifact] = Field(default_factory=list)
    updates: list[PublishedUpdate] = Field(default_factory=list)
    outputs: list[OutputRef] = Field(default_factory=list)
    status: Literal["succeeded", "failed", "cancelled"] | None = None
    manifest: ManifestDraft | None = None
    worker: Identifier | None = None
    error_code: Code | None = None
    error_message: LongText | None = None
    reason: Note | None = None


class OperationRunView(Output):
    """A workflow run; `governed` tells whether a governed run has the same id."""

    run_id: str
    operation: str
    status: OperationRunStatus
    version: int
    parameters: JsonValue
    bundle_id: str | None
    parent_run_id: str | None
    attempt: int
    requested_by: str
    created_at: OutputTime
    started_at: OutputTime | None
    finished_at: OutputTime | None
    error_code: str | None
    error_message: str | None
    trace_id: str | None
    lease_owner: str | None
    lease_until: OutputTime | None
    governed: bool


class RunOutputView(Output):
    """An output of a run; it keeps id, revision and digest whatever becomes of the artifact."""

    artifact_id: str
    revision: int
    revision_digest: str
    role: str
    created_at: OutputTime
    target_state: TargetState


class OperationRunDetail(OperationRunView):
    """A workflow run with its first 1000 outputs and the digest of its manifest."""

    outputs: list[RunOutputView]
    outputs_total: int
    manifest_digest: str | None


class RunLeavings(Output):
    """What a run left in the repository, as its proof lists it; an empty list says: no output."""

    manifest_digest: str | None
    outputs: list[RunOutputView]
    outputs_total: int


class RunTransitioned(Output):
    """What a transition did; the same status again changes nothing."""

    run: OperationRunView
    changed: bool
    change: ChangeView | None


class RunLease(Output):
    """Who holds a run, and until when."""

    run_id: str
    status: OperationRunStatus
    version: int
    lease_owner: str | None
    lease_until: OutputTime | None
    changed: bool


class WorkflowStepView(Output):
    """A step as it was last recorded."""

    run_id: str
    step_id: str
    position: int
    status: StepStatus
    attempt: int
    depends_on: list[str]
    inputs: JsonValue
    outputs: JsonValue
    diagnostics: JsonValue
    started_at: OutputTime | None
    finished_at: OutputTime | None


class StepPut(Output):
    """What became of a step; `version` is that of its run."""

    step: WorkflowStepView
    created: bool
    changed: bool
    version: int


class OutputAdded(Output):
    """A link from a run to a revision; the same link again changes nothing. `version` is the run's."""

    run_id: str
    output: RunOutputView
    changed: bool
    version: int


class ManifestView(Output):
    """A sealed manifest; the digest is that of `hoc-manifest-1`, a line feed, and the body."""

    run_id: str
    manifest_digest: str
    body: JsonValue
    sealed_at: OutputTime
    sealed_by: str


class ManifestSealed(ManifestView):
    """What sealing did; the same body again changes nothing. `version` is the run's."""

    changed: bool
    version: int


class RunPublished(Output):
    """What a publication did; without an effective change the change set is null."""

    run: OperationRunView
    changed: bool
    change_set_id: str | None
    first_seq: int | None
    last_seq: int | None
    artifacts: list[BulkItemResult]
    updates: list[BulkItemResult]
    outputs: list[RunOutputView]
    manifest: ManifestView | None
