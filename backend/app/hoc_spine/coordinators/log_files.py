"""Spine: what the log keeps outside the database: keys, its own and of witnesses, and its checkpoints."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from threading import Lock

import structlog

from app.domains.logs.engines.keys import KeyRing, read_ring
from app.domains.logs.engines.note import NoteError, SigningKey, VerifierKey, new_key, read_key
from app.domains.logs.engines.witnesses import read_keys
from app.domains.logs.errors import key_unreadable
from app.kernel.canonical_json import dumps, loads

LATEST = "latest"
HISTORY = "history"
_log = structlog.get_logger(__name__)


class LogFiles:
    """The key file and the checkpoint directory of one installation; either may be missing."""

    def __init__(
        self,
        key_file: Path | None,
        checkpoints: Path | None,
        *,
        makes_key: bool,
        witness_keys: Path | None = None,
    ) -> None:
        self._key_file = key_file
        self._witness_keys = witness_keys
        self._checkpoints = checkpoints
        self._makes_key = makes_key
        self._keys: KeyRing | None = None
        self._read_from: tuple[int, int, int] | None = None
        self._lock = Lock()

    def keys(self, *, make: bool = False) -> KeyRing | None:
        """Return the keys; None when there is no file, or it holds none.

        A file that another process has put in its place is read again. `make` makes a missing one where the
        installation is allowed to (an embedded database).
        """
        if self._key_file is None:
            return None
        with self._lock:
            if make and self._makes_key and not self._key_file.exists():
                write_new_key(self._key_file)
            state = _state_of(self._key_file)
            if state != self._read_from or self._keys is None:
                self._keys, self._read_from = _read(self._key_file), state
            return self._keys

    def replace_keys(self, keys: KeyRing) -> None:
        """Put the keys in the place of those in the file, durably, mode 0600."""
        assert self._key_file is not None  # noqa: S101 - there are keys to take the place of
        _replace(self._key_file, keys.pem(), mode=0o600)

    def witnesses(self) -> list[VerifierKey]:
        """Return the keys of the witnesses whose cosignatures are taken; none without a file to read."""
        if self._witness_keys is None:
            return []
        try:
            return read_keys(self._witness_keys.read_text(encoding="utf-8"))
        except (OSError, NoteError, UnicodeDecodeError) as error:
            name = type(error).__name__
            _log.error("log.witness_keys_unreadable", file=str(self._witness_keys), error=name)
            return []

    def can_sign(self) -> bool:
        """Tell whether there is a key, or the sequencer will make one when it needs it."""
        if self.keys() is not None:
            return True
        return self._makes_key and self._key_file is not None and not self._key_file.exists()

    def latest(self, tenant_id: str, epoch: int) -> str | None:
        """Return the newest checkpoint outside the database."""
        if self._checkpoints is None:
            return None
        try:
            return (self._folder(tenant_id, epoch) / LATEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def history(self, tenant_id: str, epoch: int) -> list[str]:
        """Return every checkpoint outside the database, first first; a line that a crash has cut is none."""
        if self._checkpoints is None:
            return []
        try:
            lines = (self._folder(tenant_id, epoch) / HISTORY).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        notes: list[str] = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                notes.append(str(loads(line)["note"]))
        return notes

    def list_kept(self) -> list[tuple[str, int]]:
        """Return tenant and epoch of every log that has a checkpoint outside the database."""
        if self._checkpoints is None:
            return []
        found = self._checkpoints.glob(f"*/*/{LATEST}")
        return sorted(
            (file.parent.parent.name, int(file.parent.name)) for file in found if file.parent.name.isdecimal()
        )

    def keep(self, tenant_id: str, epoch: int, note: str, *, signed_at: str) -> None:
        """Append a checkpoint to the history and put it in the place of the latest, each durable."""
        if self._checkpoints is None:
            return
        folder = self._folder(tenant_id, epoch)
        folder.mkdir(parents=True, exist_ok=True)
        _append(folder / HISTORY, dumps({"note": note, "signed_at": signed_at}))
        _replace(folder / LATEST, note.encode(), mode=0o644)

    def _folder(self, tenant_id: str, epoch: int) -> Path:
        assert self._checkpoints is not None  # noqa: S101 - its callers have looked
        return self._checkpoints / tenant_id / str(epoch)


def read_key_file(file: Path) -> SigningKey:
    """Return the key of a PEM file; refuse KEY_UNREADABLE."""
    try:
        return read_key(file.read_bytes())
    except OSError as error:
        raise key_unreadable(error.strerror or type(error).__name__) from error
    except NoteError as error:
        raise key_unreadable(str(error)) from error


def write_new_key(file: Path) -> bool:
    """Make a key file with mode 0600; return False when there is one, which stays as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    _write(temporary, new_key(secrets.token_bytes(32)).pem(), mode=0o600)
    try:
        # A link is refused where a file is: of two processes, one makes the key and both read it.
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(file.parent)
    return True


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _read(file: Path) -> KeyRing | None:
    try:
        return read_ring(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, NoteError) as error:
        _log.error("log.key_unreadable", file=str(file), error=type(error).__name__)
        return None


def _write(file: Path, content: bytes, *, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(file: Path, content: bytes, *, mode: int) -> None:
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    try:
        _write(temporary, content, mode=mode)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(file.parent)


def _append(file: Path, line: str) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(descriptor, "r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            # A line that a crash has cut stays as it is; the next one begins on its own.
            torn = stream.read(1) != b"\n"
            stream.write(b"\n" if torn else b"")
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
