"""Logs: an exception says where it came from, and nothing of the data that it was about."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from typing import Literal

import orjson
import pytest
import structlog

from app.main import configure_logging
from app.settings import Settings
from tests.factories.processes import fork


def fail(row: str) -> None:
    raise ValueError("violates a check\nDETAIL: Failing row contains (" + row + ")")


def log_an_exception(log_format: Literal["json", "console"]) -> None:
    configure_logging(Settings(log_format=log_format))
    try:
        fail("a secret " + "row")
    except ValueError:
        structlog.get_logger().exception("broke", route="/x")


@cache
def logged(log_format: Literal["json", "console"]) -> str:
    """Return what a process of its own logs: the configuration of logging is the process's."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = fork()
        if not child:
            try:
                sys.stdout, sys.stderr = out, errors
                log_an_exception(log_format)
                out.flush()
                errors.flush()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        for file in (out, errors):
            file.seek(0)
        assert out.read() == ""
        return errors.read()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_without_its_data(log_format: Literal["json", "console"]) -> None:
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
