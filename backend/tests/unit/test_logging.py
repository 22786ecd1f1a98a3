"""Logs: an exception says where it came from, and nothing of the data that it was about."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import orjson
import pytest

BACKEND = Path(__file__).resolve().parents[2]
# A process of its own: the configuration of logging is the process's.
PROGRAM = """
import structlog
from app.main import configure_logging
from app.settings import Settings

configure_logging(Settings())

def fail(row):
    raise ValueError("violates a check\\nDETAIL: Failing row contains (" + row + ")")

try:
    fail("a secret " + "row")
except ValueError:
    structlog.get_logger().exception("broke", route="/x")
"""


@cache
def logged(log_format: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(BACKEND), "HOC_LOG_FORMAT": log_format}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_without_its_data(log_format: str) -> None:
    text = logged(log_format)
    assert "broke" in text
    assert "ValueError: violates a check" in text
    assert "in fail" in text
    assert "a secret row" not in text


def test_a_json_line_is_one_object() -> None:
    (line,) = logged("json").splitlines()
    entry = orjson.loads(line)
    assert (entry["event"], entry["level"], entry["route"]) == ("broke", "error", "/x")
    assert entry["timestamp"].endswith("Z")


def test_a_console_that_is_a_file_gets_no_colours() -> None:
    assert "\x1b" not in logged("console")
