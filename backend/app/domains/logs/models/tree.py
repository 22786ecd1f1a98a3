"""Logs: the vocabulary, inputs and views of the tenant log: its state, checkpoints, proofs, verification."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field

from app.kernel.inputs import Identifier, Input, Output, OutputTime, Reason, Text
from app.kernel.pages import HIGHEST_KEY


class LogState(StrEnum):
    """ACTIVE grows; HALTED queues on and signs nothing; CLOSED is final."""

    ACTIVE = "ACTIVE"
    HALTED = "HALTED"
    CLOSED = "CLOSED"


class HaltReason(StrEnum):
    """Why the sequencer or the verifier stopped a log."""

    LEAF_MISMATCH = "LEAF_MISMATCH"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    ROLLED_BACK = "ROLLED_BACK"
    ROOT_MISMATCH = "ROOT_MISMATCH"
    INCONSISTENT = "INCONSISTENT"
    LOG_MISMATCH = "LOG_MISMATCH"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction of the sequencer did: facts taken from the queue, the new size, why it halted."""

    taken: int = 0
    size: int = 0
    halted: HaltReason | None = None
    # The epoch has just been opened: all older facts wait for it now.
    opened: bool = False


class VerificationKind(StrEnum):
    INCREMENTAL = "INCREMENTAL"
    SWEEP = "SWEEP"
    ON_DEMAND = "ON_DEMAND"


class VerificationStatus(StrEnum):
    VERIFIED = "VERIFIED"
    FAILED = "FAILED"
    UNSUPPORTED = "UNSUPPORTED"


class VerificationFailure(Output):
    """One thing that is not as recorded: which check failed, and where."""

    code: str
    table: str | None = None
    key: str | None = None
    column: str | None = None
    fact_id: str | None = None
    index: int | None = None
    run_id: str | None = None


class VerificationView(Output):
    """What one verification of the log found; the range is that of the log's indices."""

    verification_id: str
    kind: VerificationKind
    from_idx: int | None
    to_idx: int | None
    size: int | None
    status: VerificationStatus
    counts: dict[str, int]
    failures: list[VerificationFailure]
    started_at: OutputTime
    finished_at: OutputTime


class VerificationAccepted(Output):
    """A verification of the whole log was asked for; its result appears under this id."""

    verification_id: str


class ResumeLog(Input):
    """Let a halted log grow again, by the verification that found all of it as recorded."""

    tenant_id: Identifier
    verification_id: Identifier
    reason: Reason


class LogResumed(Output):
    tenant_id: str
    epoch: int
    state: LogState
    size: int


class LogIntegrity(Output):
    """How it stands with the log, from stored results only; UNSUPPORTED before the first one."""

    status: VerificationStatus
    last_verified_at: OutputTime | None
    last_verified_size: int
    size: int
    pending: int
    failures: list[VerificationFailure]


class NoLogInput(Input):
    pass


class LogStatus(Output):
    """The tenant's log; origin is null until its first fact is sequenced."""

    origin: str | None
    epoch: int
    state: LogState
    halted_reason: str | None
    size: int
    signed_size: int
    min_index: int
    pending: int
    vkeys: list[str]


class CheckpointPath(Input):
    size: int | None = Field(None, ge=0, le=HIGHEST_KEY)


class NoteText(Output):
    """Text of C2SP, with its media type."""

    content: str
    media_type: str = "text/plain; charset=utf-8"


class CheckpointView(Output):
    origin: str
    epoch: int
    size: int
    root: str
    key_ids: list[str]
    signed_at: OutputTime


class KeyState(StrEnum):
    """CURRENT signs; OVERLAPPING signs beside it for a while after a rotation; RETIRED signs no more."""

    CURRENT = "CURRENT"
    OVERLAPPING = "OVERLAPPING"
    RETIRED = "RETIRED"


class LogKey(Output):
    vkey: str
    key_id: str
    state: KeyState
    algorithm: Literal["Ed25519"] = "Ed25519"


class LogKeys(Output):
    items: list[LogKey]


class RotateKey(Input):
    """Record in a tenant's log that another key takes over."""

    public_key: str = Field(pattern="^[0-9a-f]{64}$")
    compromised: bool = False
    reason: Reason


class LogNoted(Output):
    """The fact that says so; None where the tenant has no log."""

    fact_id: str | None


class OpenEpoch(Input):
    """Close a log and begin its next epoch."""

    reason: Reason
    # The newest checkpoint that is known from outside the database, where it knows more than that.
    old_checkpoint: Text | None = None


class NoteEpoch(Input):
    """Repeat in the log of the system that another log has a new epoch."""

    old_origin: Text
    new_origin: Text
    old_checkpoint: Text | None
    reason: Reason


class EpochOpened(Output):
    epoch: int
    origin: str
    old_origin: str
    old_checkpoint: str | None
    fact_id: str


class Cosignatures(Input):
    """Signature lines of witnesses, as C2SP tlog-cosignature spells them."""

    size: int = Field(ge=0, le=HIGHEST_KEY)
    content: bytes = Field(max_length=16_384)


class Cosigned(Output):
    """How many cosignatures are new under the checkpoint."""

    size: int
    stored: int


class LogsAnchored(Output):
    count: int


class TilePath(Input):
    level: Text
    tile: Text


class TileBytes(Output):
    """Bytes of C2SP tlog-tiles."""

    content: bytes
    media_type: str = "application/octet-stream"


class FactPath(Input):
    fact_id: Identifier


class FactView(Output):
    """A fact's statement as it was hashed, and where it stands.

    status: PENDING it waits for the sequencer, INTEGRATED it is in the tree, INCLUDED a checkpoint covers it.
    """

    fact_id: str
    statement: str
    leaf_hash: str
    index: int | None
    status: Literal["PENDING", "INTEGRATED", "INCLUDED"]


class InclusionQuery(Input):
    fact_id: Identifier | None = None
    index: int | None = Field(None, ge=0, le=HIGHEST_KEY)
    size: int | None = Field(None, ge=0, le=HIGHEST_KEY)
    format: Literal["json", "tlog-proof"] = "json"


class InclusionProof(Output):
    """The audit path of a leaf in the tree of `size`, lowest first."""

    index: int
    size: int
    leaf_hash: str
    root: str
    hashes: list[str]


class ConsistencyQuery(Input):
    from_: int = Field(alias="from", ge=0, le=HIGHEST_KEY)
    to: int = Field(ge=0, le=HIGHEST_KEY)


class ConsistencyProof(Output):
    """The proof that the tree of `to` continues the tree of `from`."""

    from_: int = Field(serialization_alias="from")
    to: int
    hashes: list[str]
