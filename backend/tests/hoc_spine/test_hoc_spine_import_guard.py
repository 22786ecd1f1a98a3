"""Spine: importing the product loads only what its layer may know, and does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BACKEND = Path(__file__).resolve().parents[2]

# Runs in an interpreter of its own: imports modules, layer upon layer, and says each time what is loaded and
# what was done. What stands beside the layers is imported by a fork, so that it leaves nothing behind.
WATCH = """
import json, os, sys, threading

deeds = []


def watch(event, arguments):
    if event in {"socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.mkdir"}:
        deeds.append(f"{event} {arguments!r}")
    elif event == "open" and set(str(arguments[1])) & set("wax+"):
        deeds.append(f"open {arguments[0]!r} {arguments[1]}")


class Environment(dict):
    def seen(self, key):
        if str(key).startswith("HOC_"):
            deeds.append(f"environment {key}")

    def __getitem__(self, key):
        self.seen(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.seen(key)
        return super().get(key, default)


os.environ = Environment(os.environ)
sys.addaudithook(watch)
for aside, names in json.loads(sys.argv[1]):
    if aside and (child := os.fork()):
        os.waitpid(child, 0)
        continue
    for name in names:
        __import__(name)
    said = {"loaded": sorted(sys.modules), "deeds": deeds, "threads": threading.active_count()}
    print(json.dumps(said), flush=True)
    if aside:
        os._exit(0)
"""


def modules_of(*packages: str) -> list[str]:
    """Return every module below the packages, by its dotted name."""
    found = []
    for package in packages:
        for path in sorted((BACKEND / package.replace(".", "/")).rglob("*.py")):
            name = path.relative_to(BACKEND).with_suffix("").as_posix().replace("/", ".")
            found.append(name.removesuffix(".__init__"))
    return found


def machinery() -> list[str]:
    rooms_above = ("handlers", "coordinators", "worker", "maintenance", "sequencer", "log_watch")
    rooms_above += ("key_rotation", "log_purge", "log_verifier", "verifier_loop", "outbox_delivery")
    above = tuple(f"app.hoc_spine.{name}" for name in rooms_above)
    return [name for name in modules_of("app.hoc_spine") if not name.startswith(above)]


@pytest.fixture(scope="module")
def imported() -> dict[str, dict[str, Any]]:
    """What was loaded and done after each layer was imported, in a fresh interpreter."""
    layers = {
        "kernel": (False, modules_of("app.kernel")),
        "connectors": (True, modules_of("app.connectors")),
        "machinery": (False, machinery()),
        "spine": (False, modules_of("app.hoc_spine")),
        "product": (False, modules_of("app")),
    }
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(BACKEND), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH, json.dumps(list(layers.values()))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(layers, map(json.loads, done.stdout.splitlines()), strict=True))


def loaded_below(found: dict[str, Any], *names: str) -> list[str]:
    return [m for m in found["loaded"] if any(m == name or m.startswith(name + ".") for name in names)]


def test_the_spine_knows_no_web_framework(imported: dict[str, dict[str, Any]]) -> None:
    found = imported["spine"]
    assert loaded_below(found, "fastapi", "starlette", "uvicorn", "app.api", "app.main", "app.cli") == []


def test_the_machinery_of_dispatch_knows_no_engine_and_no_driver(imported: dict[str, dict[str, Any]]) -> None:
    found = imported["machinery"]
    rooms = {name.split(".")[3] for name in loaded_below(found, "app.domains") if name.count(".") > 2}
    # The tables come with the catalogue, which readiness compares with the database.
    assert rooms <= {"models", "errors", "tables"}


def test_the_kernel_knows_nothing_of_the_product_and_no_library_that_reaches_out(
    imported: dict[str, dict[str, Any]],
) -> None:
    found = imported["kernel"]
    assert [m for m in loaded_below(found, "app") if not m.startswith("app.kernel")] == ["app"]
    assert loaded_below(found, "sqlalchemy", "fastapi", "starlette", "redis", "httpx", "psycopg") == []


def test_a_connector_brings_no_table_and_no_handler_with_it(imported: dict[str, dict[str, Any]]) -> None:
    found = imported["connectors"]
    assert loaded_below(found, "app.domains", "app.hoc_spine", "app.db", "app.settings", "app.api") == []


def test_what_only_some_processes_use_is_loaded_when_they_use_it(imported: dict[str, dict[str, Any]]) -> None:
    assert loaded_below(imported["product"], "alembic", "cel", "limits", "redis") == []


def test_importing_the_whole_product_does_nothing(imported: dict[str, dict[str, Any]]) -> None:
    found = imported["product"]
    assert found["deeds"] == []
    assert found["threads"] == 1
