"""Logs L5: judge a head before it is signed, record its checkpoint, show checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import checkpoints as driver
from app.domains.logs.drivers import heads as heads_driver
from app.domains.logs.engines import keys as log_keys
from app.domains.logs.engines import note
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.note import Checkpoint, NoteError, SigningKey, VerifierKey
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.engines.tiles import MissingTileError, TileTree
from app.domains.logs.errors import checkpoint_not_found, no_signing_key
from app.domains.logs.models.tree import (
    CheckpointView,
    HaltReason,
)
from app.kernel import merkle
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import HIGHEST_KEY

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint signed and not yet recorded."""

    checkpoint: Checkpoint
    note: str
    key_ids: tuple[str, ...]


def get_newest(connection: DriverConnection, *, tenant_id: str, epoch: int) -> Row | None:
    """Return the newest checkpoint of an epoch."""
    return driver.get_checkpoint(connection, tenant_id=tenant_id, epoch=epoch, size=None)


def read_newest(connection: DriverConnection, *, tenant_id: str, epoch: int, raw: bool = False) -> Row | None:
    """Return the newest checkpoint of an epoch for a check; `raw` as it is stored."""
    return driver.get_checkpoint(connection, tenant_id=tenant_id, epoch=epoch, size=None, raw=raw)


def says(text: str, size: int, root: str) -> bool:
    """Tell whether a note is of this size and root."""
    try:
        checkpoint = note.parse_checkpoint(note.parse_note(text).text)
    except NoteError:
        return False
    return (checkpoint.size, checkpoint.root.hex()) == (size, root)


def judge(
    connection: DriverConnection, head: Row, earlier: Sequence[str], *, tenant_id: str, keys: KeyRing
) -> HaltReason | None:
    """Return why this head must not be signed after these notes; None when it continues all of them."""
    tree = TileTree(head["size"], tile_loader(connection, tenant_id=tenant_id, epoch=head["epoch"]))
    for text in earlier:
        checkpoint = _trusted(text, head["origin"], keys)
        if checkpoint is None:
            return HaltReason.BAD_SIGNATURE
        reason = check_continues(checkpoint, head, tree)
        if reason is not None:
            return reason
    return None if _root_of(tree) == head["root"] else HaltReason.INCONSISTENT


def _trusted(text: str, origin: str, keys: KeyRing) -> Checkpoint | None:
    try:
        read = note.parse_note(text)
        checkpoint = note.parse_checkpoint(read.text)
        trusted = keys.opens(read, origin)
    except NoteError:
        return None
    return checkpoint if trusted and checkpoint.origin == origin else None


def check_continues(checkpoint: Checkpoint, head: Row, tree: TileTree) -> HaltReason | None:
    """Return how a head fails to continue a checkpoint, by the consistency proof from its own tiles."""
    if checkpoint.size > head["size"]:
        return HaltReason.ROLLED_BACK
    root = bytes.fromhex(head["root"])
    if checkpoint.size == head["size"]:
        return None if checkpoint.root == root else HaltReason.ROOT_MISMATCH
    if checkpoint.size == 0:
        return None if checkpoint.root == merkle.EMPTY_ROOT else HaltReason.ROOT_MISMATCH
    try:
        path = merkle.consistency_path(checkpoint.size, head["size"], tree.range_root)
    except MissingTileError:
        return HaltReason.INCONSISTENT
    consistent = merkle.is_consistent(checkpoint.size, head["size"], checkpoint.root, root, path)
    return None if consistent else HaltReason.INCONSISTENT


def _root_of(tree: TileTree) -> str | None:
    try:
        return tree.root().hex()
    except MissingTileError:
        return None


def sign(head: Row, *, signers: Sequence[SigningKey]) -> Signed:
    """Return the checkpoint of a head that has been judged, with the signature of each key."""
    origin = head["origin"]
    checkpoint = Checkpoint(origin, head["size"], bytes.fromhex(head["root"]))
    text = log_keys.sign(checkpoint.text(), name=origin, keys=signers)
    return Signed(checkpoint, text, tuple(note.key_id(origin, key.public).hex() for key in signers))


def record(
    connection: DriverConnection, signed: Signed, *, tenant_id: str, epoch: int, now: datetime
) -> None:
    """Record a checkpoint that is in its file already; a repeat changes nothing."""
    size = signed.checkpoint.size
    driver.insert_checkpoint(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        size=size,
        root=signed.checkpoint.root.hex(),
        note=signed.note,
        key_ids=dumps(list(signed.key_ids)),
        now=now,
    )
    heads_driver.set_signed(connection, tenant_id=tenant_id, epoch=epoch, size=size, now=now)


def require_note(
    connection: DriverConnection, head: Row | None, *, tenant_id: str, size: int | None, has_key: bool
) -> tuple[Row, str]:
    """Return a checkpoint, the newest or of a size, and its note with the cosignatures that are there.

    Refuse CHECKPOINT_NOT_FOUND, or NO_SIGNING_KEY when this installation cannot make one.
    """
    found = None
    if head is not None:
        found = driver.get_checkpoint(connection, tenant_id=tenant_id, epoch=head["epoch"], size=size)
    if found is None:
        raise checkpoint_not_found() if has_key else no_signing_key()
    lines = driver.list_cosignatures(
        connection, tenant_id=tenant_id, epoch=found["epoch"], size=found["size"]
    )
    return found, found["note"] + "".join(f"{line}\n" for line in lines)


def get_at(connection: DriverConnection, head: Row, *, tenant_id: str, size: int) -> Row | None:
    """Return the checkpoint of a size in the newest epoch."""
    return driver.get_checkpoint(connection, tenant_id=tenant_id, epoch=head["epoch"], size=size)


def add_cosignatures(
    connection: DriverConnection,
    lines: Sequence[tuple[VerifierKey, str]],
    *,
    tenant_id: str,
    epoch: int,
    size: int,
    now: datetime,
) -> int:
    """Store lines that have been verified; return how many are new."""
    rows = {(key.name, key.key_id.hex()): (key.name, key.key_id.hex(), line) for key, line in lines}
    return driver.insert_cosignatures(
        connection, list(rows.values()), tenant_id=tenant_id, epoch=epoch, size=size, now=now
    )


def list_page(
    connection: DriverConnection, *, tenant_id: str, before: tuple[int, int] | None, limit: int
) -> Sequence[Row]:
    """Return checkpoints, newest first."""
    return driver.list_checkpoints(connection, tenant_id=tenant_id, before=before, limit=limit)


def list_all(connection: DriverConnection, *, tenant_id: str, epoch: int) -> Iterator[Row]:
    """Yield every checkpoint of an epoch, newest first."""
    before: tuple[int, int] | None = (epoch, HIGHEST_KEY)
    while before is not None:
        rows = driver.list_checkpoints(connection, tenant_id=tenant_id, before=before, limit=_PAGE)
        mine = [row for row in rows if row["epoch"] == epoch]
        yield from mine
        before = (epoch, mine[-1]["size"]) if len(mine) == _PAGE else None


def view(row: Row) -> CheckpointView:
    """Return the view of a checkpoint's row."""
    members: dict[str, Any] = {name: row[name] for name in CheckpointView.model_fields}
    return CheckpointView(**{**members, "key_ids": loads(row["key_ids"])})
