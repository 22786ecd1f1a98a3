"""Spine: importing the product loads only what its layer may know, and does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BACKEND = Path(__file__).resolve().parents[2]

# Runs in an interpreter of its own: imports the named modules and says what came with them and what they did.
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
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps({"loaded": sorted(sys.modules), "deeds": deeds, "threads": threading.active_count()}))
"""


def modules_of(*packages: str) -> list[str]:
    """Return every module below the packages, by its dotted name."""
    found = []
    for package in packages:
        for path in sorted((BACKEND / package.replace(".", "/")).rglob("*.py")):
            name = path.relative_to(BACKEND).with_suffix("").as_posix().replace("/", ".")
            found.append(name.removesuffix(".__init__"))
    return found


def imported(*modules: str) -> dict[str, Any]:
    """Import modules in a fresh interpreter and return what was loaded and done."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(BACKEND), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH, *modules],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def loaded_below(found: dict[str, Any], *names: str) -> list[str]:
    return [m for m in found["loaded"] if any(m == name or m.startswith(name + ".") for name in names)]


def test_the_spine_knows_no_web_framework() -> None:
    found = imported(*modules_of("app.hoc_spine"))
    assert loaded_below(found, "fastapi", "starlette", "uvicorn", "app.api", "app.main", "app.cli") == []


def test_the_machinery_of_dispatch_knows_no_engine_and_no_driver() -> None:
    rooms_above = ("handlers", "coordinators", "worker", "maintenance", "sequencer", "log_watch")
    rooms_above += ("log_verifier", "outbox_delivery")
    above = tuple(f"app.hoc_spine.{name}" for name in rooms_above)
    found = imported(*(name for name in modules_of("app.hoc_spine") if not name.startswith(above)))
    rooms = {name.split(".")[3] for name in loaded_below(found, "app.domains") if name.count(".") > 2}
    # The tables come with the catalogue, which readiness compares with the database.
    assert rooms <= {"models", "errors", "tables"}


def test_the_kernel_knows_nothing_of_the_product_and_no_library_that_reaches_out() -> None:
    found = imported(*modules_of("app.kernel"))
    assert [m for m in loaded_below(found, "app") if not m.startswith("app.kernel")] == ["app"]
    assert loaded_below(found, "sqlalchemy", "fastapi", "starlette", "redis", "httpx", "psycopg") == []


def test_a_connector_brings_no_table_and_no_handler_with_it() -> None:
    found = imported(*modules_of("app.connectors"))
    assert loaded_below(found, "app.domains", "app.hoc_spine", "app.db", "app.settings", "app.api") == []


def test_importing_the_whole_product_does_nothing() -> None:
    found = imported(*modules_of("app"))
    assert found["deeds"] == []
    assert found["threads"] == 1
