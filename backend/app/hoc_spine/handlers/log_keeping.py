"""Spine L4: what keeps the logs going: another key, a new epoch, anchors in the system's log, witnesses."""

from __future__ import annotations

from app.domains.logs.engines import checkpoints, heads, leaf_lookup, note, purge, witnesses
from app.domains.logs.errors import bad_cosignature, checkpoint_not_found, invalid_log_state, no_signing_key
from app.domains.logs.models.tree import (
    Cosignatures,
    Cosigned,
    EpochOpened,
    LogNoted,
    LogsAnchored,
    LogState,
    NoLogInput,
    NoteEpoch,
    OpenEpoch,
    RotateKey,
)
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf


def rotate_key(ctx: OperationContext, payload: RotateKey) -> LogNoted:
    """Record in the log that another key takes over; once for each key. Refuse NO_SIGNING_KEY."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    files: LogFiles = ctx.services.caches["log_files"]
    ring = files.keys()
    if ring is None:
        raise no_signing_key()
    if head is None:
        return LogNoted(fact_id=None)
    origin = str(head["origin"])
    old = ring.current.vkey(origin)
    new = note.vkey(origin, bytes.fromhex(payload.public_key))
    known = leaf_lookup.newest_key_fact(ctx.connection, tenant_id=ctx.tenant_id)
    if known is not None and known[1]["body"]["new_vkey"] == new:
        return LogNoted(fact_id=known[0])
    body = {"old_vkey": old, "new_vkey": new, "compromised": payload.compromised, "reason": payload.reason}
    ctx.audit(
        "LogKeyRotated",
        "LOG",
        ctx.tenant_id,
        before={"vkey": old},
        after={"vkey": new, "compromised": payload.compromised},
        reason=payload.reason,
    )
    return LogNoted(fact_id=ctx.facts.add_log(leaf_lookup.LOG_KEY, body))


def anchor(ctx: OperationContext, _payload: NoLogInput) -> LogsAnchored:
    """Write the newest checkpoint of each log that changed into the log of the system.

    So one checkpoint of that log commits to all the others.
    """
    anchors = list(heads.list_unanchored(ctx.connection, now=ctx.now))
    for row in anchors:
        ctx.facts.add_log(leaf_lookup.LOG_ANCHOR, {name: row[name] for name in ("origin", "size", "root")})
    return LogsAnchored(count=len(anchors))


def open_epoch(ctx: OperationContext, payload: OpenEpoch) -> EpochOpened:
    """Close the log and begin its next epoch, whose first fact says so; refuse INVALID_LOG_STATE."""
    head = heads.get_head(ctx.connection, tenant_id=ctx.tenant_id)
    if head is None:
        raise invalid_log_state("not open")
    if purge.find_open(ctx.connection, tenant_id=ctx.tenant_id) is not None:
        raise invalid_log_state("being purged")
    newest = checkpoints.get_newest(ctx.connection, tenant_id=ctx.tenant_id, epoch=head["epoch"])
    old = payload.old_checkpoint or (None if newest is None else str(newest["note"]))
    origin = heads.open_epoch(ctx.connection, head, tenant_id=ctx.tenant_id, now=ctx.now)
    if origin is None:
        raise invalid_log_state(str(head["state"]))
    said = {"old_origin": head["origin"], "new_origin": origin, "old_checkpoint": old}
    ctx.audit(
        "LogEpochOpened",
        "LOG",
        ctx.tenant_id,
        before={"epoch": head["epoch"], "state": head["state"], "halted_reason": head["halted_reason"]},
        after={**said, "epoch": head["epoch"] + 1, "state": LogState.ACTIVE},
        reason=payload.reason,
    )
    return EpochOpened(
        epoch=head["epoch"] + 1,
        origin=origin,
        old_origin=head["origin"],
        old_checkpoint=old,
        fact_id=ctx.facts.add_log(leaf_lookup.LOG_EPOCH, {**said, "reason": payload.reason}),
    )


def note_epoch(ctx: OperationContext, payload: NoteEpoch) -> LogNoted:
    """Repeat in the log of the system that another log has a new epoch."""
    return LogNoted(fact_id=ctx.facts.add_log(leaf_lookup.LOG_EPOCH, payload.model_dump()))


def cosign(ctx: OperationContext, payload: Cosignatures) -> Cosigned:
    """Store cosignatures of witnesses under a checkpoint; refuse CHECKPOINT_NOT_FOUND and BAD_COSIGNATURE.

    Each line must be of a witness in HOC_WITNESS_KEYS_FILE and valid over the note; otherwise none is stored.
    """
    connection, tenant_id = ctx.connection, ctx.tenant_id
    head = heads.get_head(connection, tenant_id=tenant_id)
    if head is None:
        raise checkpoint_not_found()
    found = checkpoints.get_at(connection, head, tenant_id=tenant_id, size=payload.size)
    if found is None:
        raise checkpoint_not_found()
    files: LogFiles = ctx.services.caches["log_files"]
    known = files.witnesses()
    lines = witnesses.read_lines(payload.content)
    signers = [witnesses.signer_of(line, note.parse_note(found["note"]).text, known) for line in lines]
    if not lines or None in signers:
        raise bad_cosignature()
    stored = checkpoints.add_cosignatures(
        connection,
        [(signer, line.text) for signer, line in zip(signers, lines, strict=True) if signer is not None],
        tenant_id=tenant_id,
        epoch=head["epoch"],
        size=payload.size,
        now=ctx.now,
    )
    return Cosigned(size=payload.size, stored=stored)


declare = OperationsOf("logs")
OPERATIONS = (
    Operation("log.rotate_key", "logs", "write", None, RotateKey, LogNoted, rotate_key, door="worker"),
    # The heads are the maintenance role's to write, which operator operations take on.
    Operation(
        "ops.log.open_epoch", "logs", "write", None, OpenEpoch, EpochOpened, open_epoch, door="operator"
    ),
    Operation(
        "log.note_epoch",
        "logs",
        "write",
        None,
        NoteEpoch,
        LogNoted,
        note_epoch,
        door="worker",
        no_audit="the entry of the epoch itself is in the ledger of its tenant",
    ),
    Operation(
        "ops.log.anchor",
        "logs",
        "write",
        None,
        NoLogInput,
        LogsAnchored,
        anchor,
        door="operator",
        no_audit="the facts in the system's log are the record",
    ),
    declare.write(
        "log.cosign", Cosignatures, Cosigned, cosign, no_audit="the cosignatures' own rows are the record"
    ),
)
