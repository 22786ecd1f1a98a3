"""Kernel: files on this host that a door hands to an operation, or an operation to a door."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import PlainValidator, WithJsonSchema


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class LocalFile:
    """A file or folder of this host; only code of this process makes one, no JSON value becomes one."""

    path: Path

    @classmethod
    def spooled(cls, path: Path, *, folder: Path) -> Self:
        """Return a file whose folder is removed when nobody holds the value any more."""
        file = cls(path)
        weakref.finalize(file, shutil.rmtree, folder, ignore_errors=True)
        return file


def _is_local_file(value: Any) -> LocalFile:
    if not isinstance(value, LocalFile):
        raise ValueError("takes the bytes of a file")
    return value


HandedFile = Annotated[
    LocalFile, PlainValidator(_is_local_file), WithJsonSchema({"type": "string", "format": "binary"})
]


def deliver(archive: Path, target: Path, *, notes: Mapping[str, bytes]) -> None:
    """Copy a zip to `target` when that ends in .zip, else write it there as a folder with these notes beside.

    Either is there whole or not at all. FileExistsError: the folder is there and holds something.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and (target.suffix == ".zip" or any(target.iterdir())):
        raise FileExistsError(f"{target.name} is a folder that is not empty")
    with tempfile.TemporaryDirectory(prefix=".hoc-", dir=target.parent) as folder:
        made = Path(folder) / "made"
        if target.suffix == ".zip":
            shutil.copyfile(archive, made)
        else:
            with zipfile.ZipFile(archive) as source:
                source.extractall(made)
            for name, data in notes.items():
                (made / name).write_bytes(data)
        made.replace(target)
