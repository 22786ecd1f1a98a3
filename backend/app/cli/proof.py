"""L2: `hoc bundle`, `hoc verify` and `hoc log export`: what an auditor takes home, and how it is checked."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import Session
from verifier import hoc_verify

group = typer.Typer()

TILE_WIDTH = 256


@group.command("bundle")
def make_bundle(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
    tenant_id: TenantId,
    include_payloads: Annotated[bool, typer.Option(help="With the values behind the commitments.")] = False,
    from_size: Annotated[int | None, typer.Option(help="Prove that the log continues this size.")] = None,
    allow_open: Annotated[bool, typer.Option("--allow-open", help="Also while the run goes on.")] = False,
    wait_ms: Annotated[int, typer.Option(help="How long to wait for a checkpoint.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Write the bundle of a run, which proves it without this server."""
    payload = {
        "run_id": run_id,
        "include_payloads": include_payloads,
        "from_size": from_size,
        "allow_open": allow_open,
        "wait_ms": wait_ms,
    }
    with Session() as session:
        made = session.call("runs.bundle", payload, tenant_id=tenant_id)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            temporary = output.with_name(f".{output.name}.part")
            shutil.copyfile(made.content.path, temporary)
            temporary.replace(output)
        except OSError as error:
            fail(f"STORAGE_FAILED: {error.strerror or error}")
    said = {"file": str(output), "run_id": run_id, "complete": made.complete, "log_size": made.size}
    show(said | {"digest": made.content_digest}, as_json=as_json)


@group.command("verify")
def verify(
    file: Annotated[str | None, typer.Argument(help="A bundle or an archive.")] = None,
    log: Annotated[str | None, typer.Option("--log", help="An exported log instead of a file.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A trusted verifier key, or a file of them.")] = None,
    trust_embedded_key: Annotated[
        bool, typer.Option("--trust-embedded-key", help="Trust the key inside the file.")
    ] = False,
    checkpoint: Annotated[str | None, typer.Option(help="An older checkpoint to continue.")] = None,
    witness: Annotated[list[str] | None, typer.Option(help="The verifier key of a witness.")] = None,
    quorum: Annotated[int | None, typer.Option(help="How many witnesses must have signed.")] = None,
    allow_open: Annotated[bool, typer.Option("--allow-open", help="Take a run that goes on.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Demand canonical statements.")] = False,
    emit_verifier: Annotated[
        bool, typer.Option("--emit-verifier", help="Print the verifier, one file, and do nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle, an archive or an exported log, offline (exit 0 verified, 1 failed, 2 unreadable)."""
    if emit_verifier:
        typer.echo(Path(hoc_verify.__file__).read_text(encoding="utf-8"), nl=False)
        return
    arguments = [] if file is None else [file]
    options: dict[str, list[str] | str | int | None] = {
        "--log": log,
        "--key": key,
        "--checkpoint": checkpoint,
        "--witness": witness,
        "--quorum": quorum,
    }
    for name, given in options.items():
        for value in given if isinstance(given, list) else [given]:
            arguments += [] if value is None else [name, str(value)]
    flags = {
        "--trust-embedded-key": trust_embedded_key,
        "--allow-open": allow_open,
        "--strict": strict,
        "--json": as_json,
    }
    arguments += [name for name, wanted in flags.items() if wanted]
    raise typer.Exit(hoc_verify.main(arguments))


def export_log(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    tenant_id: TenantId,
    as_json: AsJson = False,
) -> None:
    """Write a tenant's whole log as files in the layout of tlog-tiles, for `hoc verify --log`.

    Entries of tiles from which some were purged are left out; the tree has the hashes of all.
    """
    if folder.is_dir() and any(folder.iterdir()):
        fail("FOLDER_NOT_EMPTY: the log goes into a folder of its own")
    pruned = 0
    with Session() as session:
        note = session.call("log.checkpoint", {}, tenant_id=tenant_id).content
        size = hoc_verify.parse_checkpoint(note).size
        try:
            for level, number, width in _tiles(size):
                name = hoc_verify.tile_path(number) + ("" if width == TILE_WIDTH else f".p/{width}")
                tile = _tile(session, level, name, tenant_id=tenant_id)
                if tile is None:
                    pruned += 1
                    continue
                place = folder / "tile" / level / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(tile)
            # Last, so that a folder that was left half done has none and is refused.
            (folder / "checkpoint").write_text(note, encoding="utf-8")
        except OSError as error:
            fail(f"STORAGE_FAILED: {error.strerror or error}")
    show({"folder": str(folder), "entries": size, "pruned_tiles": pruned}, as_json=as_json)


def _tile(session: Session, level: str, name: str, *, tenant_id: str) -> bytes | None:
    """Return a tile; None for entries of which some were purged."""
    done = session.attempt("log.tile", {"level": level, "tile": name}, tenant_id=tenant_id)
    if done.error_code == "ENTRY_PRUNED":
        return None
    return bytes(session.unwrap(done).content)


def _tiles(size: int) -> list[tuple[str, int, int]]:
    wanted = [("entries", *tile) for tile in hoc_verify.tiles(size)]
    level, count = 0, size
    while count:
        wanted += [(str(level), *tile) for tile in hoc_verify.tiles(count)]
        level, count = level + 1, count // TILE_WIDTH
    return wanted
