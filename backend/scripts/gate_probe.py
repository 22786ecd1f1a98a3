"""Gates: the register of governed tables and the migrated schema, read in a process of their own as JSON.

`python gate_probe.py ROOT` imports the tables of ROOT and runs its migrations: on SQLite in memory, for
PostgreSQL as DDL that is recorded and sent nowhere. What ROOT does not bring itself (`app.db`, `app.kernel`,
`hoc_ddl`) comes from this repository, so that a small tree can be checked.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BACKEND = Path(__file__).resolve().parents[1]


def probe(root: Path) -> dict[str, Any]:
    """Return what `main` prints for a root; RuntimeError with the child's last error line when it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HOC_"))}
    done = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", __file__, str(root)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the probe died silently"])[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(root: Path) -> None:
    """Print the register and both schemas of a root."""
    own = root.resolve()
    # A tree without app/__init__.py is a namespace package, over which a regular `app` further on would win.
    sys.path[:] = [str(own), *(p for p in sys.path if Path(p).resolve() not in {own, BACKEND})]
    _borrow(own)
    with contextlib.redirect_stdout(sys.stderr):
        register = read_register()
        folder = own / "alembic"
        if (folder / "versions").is_dir():
            # The library, not the folder of that name, must answer to `import alembic`.
            sys.path[0:1] = [str(folder), str(BACKEND / "alembic")]
            register["schemas"] = {
                name: migrate(folder / "versions", name) for name in ("sqlite", "postgresql")
            }
    print(json.dumps(register))


def _borrow(root: Path) -> None:
    import app

    for name in ("kernel", "db"):
        if (root / "app" / name).is_dir():
            continue
        folder = BACKEND / "app" / name
        spec = importlib.util.spec_from_file_location(
            f"app.{name}", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{folder} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        setattr(app, name, module)


def read_register() -> dict[str, Any]:
    """Import every `app.domains.*.tables` and return tables, governed entries and exemptions."""
    import app.domains as domains
    from app.db import governed
    from app.db.metadata import metadata

    modules: dict[str, str] = {}
    for found in sorted(
        {path.parent.name for top in domains.__path__ for path in Path(top).glob("*/tables.py")}
    ):
        name = f"app.domains.{found}.tables"
        before = set(metadata.tables)
        importlib.import_module(name)
        modules.update(dict.fromkeys(set(metadata.tables) - before, name))
    return {
        "tables": {n: _table(t) | {"module": modules.get(n, "")} for n, t in metadata.tables.items()},
        "governed": {name: _entry(entry) for name, entry in governed.GOVERNED.items()},
        "exempt": dict(governed.EXEMPT),
        "types": governed.statement_types(),
        "types_text": governed.statement_types_text(),
        "standing": sorted(governed.STANDING),
        "schemas": {},
    }


def _table(table: Any) -> dict[str, Any]:
    return {
        "columns": {c.name: type(c.type).__name__ for c in table.columns},
        "key": [c.name for c in table.primary_key],
        "tenant": bool(table.info.get("tenant")),
        "foreign": [_foreign(key) for key in table.foreign_key_constraints],
    }


def _foreign(key: Any) -> dict[str, Any]:
    return {
        "columns": [element.parent.name for element in key.elements],
        "table": key.elements[0].target_fullname.split(".")[0],
        "ondelete": key.ondelete,
    }


def _entry(entry: Any) -> dict[str, Any]:
    return {
        "mode": entry.mode,
        "types": list(entry.types),
        "protected": list(entry.protected),
        "digests": list(entry.digests),
        "json": sorted(entry.json),
        "unhashed": dict(entry.unhashed),
        "hashed": list(entry.hashed),
    }


def migrate(versions: Path, dialect: str) -> dict[str, Any]:
    """Run the upgrades in order and return the tables made and the statements executed."""
    import sqlalchemy as sa
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    tables: dict[str, dict[str, Any]] = {}
    statements: list[str] = []
    if dialect == "sqlite":
        engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        context = MigrationContext.configure(engine.connect())
    else:
        options = {"as_sql": True, "output_buffer": _Nowhere(), "literal_binds": True}
        context = MigrationContext.configure(dialect_name=dialect, opts=options)
    _listen(context, tables, statements)
    with Operations.context(context):
        for module in _revisions(versions):
            module.upgrade()
    return {"tables": tables, "statements": statements}


class _Nowhere:
    """Takes the DDL of an offline migration; the listener has recorded it."""

    def write(self, _text: str) -> None: ...

    def flush(self) -> None: ...


def _listen(context: Any, tables: dict[str, dict[str, Any]], statements: list[str]) -> None:
    original = context.impl._exec

    def recorded(construct: Any, *args: Any, **kwargs: Any) -> Any:
        text = (
            construct if isinstance(construct, str) else str(construct.compile(dialect=context.impl.dialect))
        )
        statements.append(text)
        kind = type(construct).__name__
        if kind == "CreateTable":
            tables[construct.element.name] = _table(construct.element)
        elif kind == "AddColumn" and construct.table_name in tables:
            tables[construct.table_name]["columns"][construct.column.name] = type(
                construct.column.type
            ).__name__
        elif kind == "DropColumn" and construct.table_name in tables:
            tables[construct.table_name]["columns"].pop(construct.column.name, None)
        elif kind == "DropTable":
            tables.pop(construct.element.name, None)
        return original(construct, *args, **kwargs)

    context.impl._exec = recorded


def _revisions(versions: Path) -> list[Any]:
    loaded: dict[str | None, Any] = {}
    for path in sorted(versions.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"_revision_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded[module.down_revision] = module
    ordered: list[Any] = []
    current: str | None = None
    while current in loaded and len(ordered) < len(loaded):
        ordered.append(loaded[current])
        current = ordered[-1].revision
    return ordered


if __name__ == "__main__":
    main(Path(sys.argv[1]))
