"""Spine: the operator's ingest roots: files in path order, without symbolic links, strictly as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.domains.knowledge.engines import ingest

LISTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file that is ingested: its path under the folder, with `/`, and its text."""

    path: str
    text: str
    media_type: str


@dataclass(slots=True)
class FileBatch:
    """The next files of a walk, what was passed over and why, and the path it reached (None at the end)."""

    files: list[TextFile] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    reached: str | None = None


def is_readable(root: Path | None, folder: str | None) -> bool:
    """Tell whether the folder of a root is a directory, reached over no link, whose files can be listed."""
    if root is None:
        return False
    place = _place(root, folder)
    return place is not None and os.access(place, os.R_OK | os.X_OK)


def read_batch(root: Path, folder: str | None, *, after: str | None) -> FileBatch:
    """Return the next files after a path, up to one batch; raise OSError when the folder cannot be listed."""
    batch = FileBatch()
    place = _place(root, folder)
    if place is None:
        raise NotADirectoryError(folder)
    size = seen = 0
    for path in _walk(place, (), tuple(after.split("/")) if after else ()):
        shown = path.encode(errors="replace").decode()
        if shown != path:
            # Such a name has no text form, so it can be neither an artifact's name nor the path reached.
            batch.skipped.append((shown, "NAME"))
            continue
        seen += 1
        content, reason = _read(place, path)
        if content is None:
            batch.skipped.append((path, reason))
        else:
            size += len(content.text)
            batch.files.append(content)
        batch.reached = path
        if len(batch.files) >= ingest.BATCH_DOCUMENTS or size >= ingest.BATCH_BYTES or seen >= LISTED_AT_ONCE:
            return batch
    batch.reached = None
    return batch


def _place(root: Path, folder: str | None) -> Path | None:
    """Return the folder's real place when it is a directory inside the root, and no link leads to it."""
    base = root.resolve()
    place = base / folder if folder else base
    return place if place.is_dir() and place.resolve() == place else None


def _walk(directory: Path, parts: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of everything but directories in order of their parts, after the given parts."""
    with os.scandir(directory) as entries:
        found = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not after or entry.name >= after[0]
        )
    for name, is_directory in found:
        inside = bool(after) and name == after[0]
        if is_directory:
            yield from _walk(directory / name, (*parts, name), after[1:] if inside else ())
        elif not inside:
            yield "/".join((*parts, name))


def _read(place: Path, path: str) -> tuple[TextFile | None, str]:
    """Return a file's text, or None and the reason why it is passed over."""
    media_type = ingest.media_type_of(path)
    if media_type is None:
        return None, "SUFFIX"
    full = place / path
    try:
        handle = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None, "SYMLINK" if full.is_symlink() else "UNREADABLE"
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return None, "NOT_A_FILE"
        if facts.st_size > ingest.MAX_FILE_BYTES:
            return None, "TOO_LARGE"
        # A directory on the way may have become a link since it was listed.
        if full.resolve() != full:
            return None, "SYMLINK"
        content = file.read(ingest.MAX_FILE_BYTES + 1)
    if len(content) > ingest.MAX_FILE_BYTES:
        return None, "TOO_LARGE"
    text = ingest.decode_text(content)
    return (None, "NOT_UTF8") if text is None else (TextFile(path, text, media_type), "")
