"""Spine L4: the tenant's own log: status, checkpoints, tiles, facts and proofs; each read at one moment."""

from __future__ import annotations

from app.domains.logs.engines import checkpoints, heads, note, proofs, tiles
from app.domains.logs.engines.tiles import TileCache
from app.domains.logs.models.tree import (
    CheckpointPath,
    CheckpointView,
    ConsistencyProof,
    ConsistencyQuery,
    FactPath,
    FactView,
    InclusionProof,
    InclusionQuery,
    KeyState,
    LogKey,
    LogKeys,
    LogState,
    LogStatus,
    NoLogInput,
    NoteText,
    TileBytes,
    TilePath,
)
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.inputs import ListInput
from app.kernel.pages import Page, page_of, read_cursor


def get_status(ctx: OperationContext, _payload: NoLogInput) -> LogStatus:
    """Return the state and size of the tenant's log, and what waits for it."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    origin = None if head is None else str(head["origin"])
    return LogStatus(
        origin=origin,
        epoch=heads.FIRST_EPOCH if head is None else head["epoch"],
        state=LogState.ACTIVE if head is None else LogState(head["state"]),
        halted_reason=None if head is None else head["halted_reason"],
        size=0 if head is None else head["size"],
        signed_size=0 if head is None else head["signed_size"],
        min_index=0 if head is None else head["min_index"],
        pending=heads.count_waiting(ctx.connection, tenant_id=ctx.tenant_id),
        vkeys=[key.vkey for key in _keys(ctx, origin) if key.state != KeyState.RETIRED],
    )


def list_keys(ctx: OperationContext, _payload: NoLogInput) -> LogKeys:
    """Return the verifier keys of the log; trust them only when they reach you another way too."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    return LogKeys(items=_keys(ctx, None if head is None else str(head["origin"])))


def _keys(ctx: OperationContext, origin: str | None) -> list[LogKey]:
    ring = _files(ctx).keys()
    if ring is None or origin is None:
        return []
    states = [KeyState.CURRENT]
    states += [KeyState.OVERLAPPING if key.signs(ctx.now) else KeyState.RETIRED for key in ring.former]
    return [
        LogKey(vkey=note.vkey(origin, key.public), key_id=key.key_id.hex(), state=state)
        for key, state in zip(ring.verifiers(origin), states, strict=True)
    ]


def _files(ctx: OperationContext) -> LogFiles:
    files: LogFiles = ctx.services.caches["log_files"]
    return files


def get_checkpoint(ctx: OperationContext, payload: CheckpointPath) -> NoteText:
    """Return the newest checkpoint, or that of a size; refuse CHECKPOINT_NOT_FOUND and NO_SIGNING_KEY."""
    _, text = checkpoints.require_note(
        ctx.connection,
        heads.get_head(ctx.connection, tenant_id=ctx.tenant_id),
        tenant_id=ctx.tenant_id,
        size=payload.size,
        has_key=_files(ctx).can_sign(),
    )
    return NoteText(content=text)


def list_checkpoints(ctx: OperationContext, payload: ListInput) -> Page[CheckpointView]:
    """Return checkpoints, newest first."""
    binding = f"{ctx.tenant_id}:log.checkpoints.list"
    rows = checkpoints.list_page(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        before=read_cursor(payload.cursor, binding, int, int),
        limit=payload.limit + 1,
    )
    return page_of(
        rows,
        limit=payload.limit,
        binding=binding,
        key=lambda row: (row["epoch"], row["size"]),
        view=checkpoints.view,
    )


def get_tile(ctx: OperationContext, payload: TilePath) -> TileBytes:
    """Return a tile of hashes or a bundle of entries; refuse INVALID_TILE, TILE_NOT_FOUND, ENTRY_PRUNED."""
    name = tiles.parse_name(payload.level, payload.tile)
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    return TileBytes(content=proofs.read_tile(ctx.connection, head, name, tenant_id=ctx.tenant_id))


def get_fact(ctx: OperationContext, payload: FactPath) -> FactView:
    """Return a fact's statement and its place in the log; refuse FACT_NOT_FOUND."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    return proofs.view_fact(ctx.connection, head, tenant_id=ctx.tenant_id, fact_id=payload.fact_id)


def prove_inclusion(ctx: OperationContext, payload: InclusionQuery) -> InclusionProof | NoteText:
    """Prove that a fact or index is in a signed tree, as JSON or as C2SP tlog-proof text.

    The text carries its checkpoint, so it is refused CHECKPOINT_NOT_FOUND for a size that was never signed.
    """
    connection, tenant_id = ctx.connection, ctx.tenant_id
    head = heads.get_head(connection, tenant_id=tenant_id)
    cache: TileCache = ctx.services.caches["log_tiles"]
    proof = proofs.prove_inclusion(connection, head, payload, tenant_id=tenant_id, cache=cache)
    if payload.format == "json":
        return proof
    _, text = checkpoints.require_note(connection, head, tenant_id=tenant_id, size=proof.size, has_key=True)
    return NoteText(content=proofs.proof_text(proof, text))


def prove_consistency(ctx: OperationContext, payload: ConsistencyQuery) -> ConsistencyProof:
    """Prove that one signed tree continues another; refuse INVALID_TREE_SIZE."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    return proofs.prove_consistency(
        ctx.connection,
        head,
        tenant_id=ctx.tenant_id,
        old=payload.from_,
        new=payload.to,
        cache=ctx.services.caches["log_tiles"],
    )


declare = OperationsOf("logs")
OPERATIONS = (
    declare.read("log.status", NoLogInput, LogStatus, get_status, snapshot=True),
    declare.read("log.keys", NoLogInput, LogKeys, list_keys),
    declare.read("log.checkpoint", CheckpointPath, NoteText, get_checkpoint, snapshot=True),
    declare.read("log.checkpoints.list", ListInput, Page[CheckpointView], list_checkpoints),
    declare.read("log.tile", TilePath, TileBytes, get_tile, snapshot=True),
    declare.read("log.fact", FactPath, FactView, get_fact, snapshot=True),
    declare.read("log.inclusion", InclusionQuery, InclusionProof | NoteText, prove_inclusion, snapshot=True),
    declare.read("log.consistency", ConsistencyQuery, ConsistencyProof, prove_consistency, snapshot=True),
)
