"""Docs tests: the `hoc` command and the server as processes, with the caller's settings shut out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

BACKEND = Path(__file__).resolve().parents[2]
START_SECONDS = 60


def environment(**settings: str) -> dict[str, str]:
    """Return an environment in which `app` is found, with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOC_")}
    return kept | {"PYTHONPATH": str(BACKEND)} | settings


def hoc(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `hoc` with these arguments and return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=cwd,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@contextmanager
def serving(*, cwd: Path, **settings: str) -> Iterator[str]:
    """Serve with `hoc serve` on a free port of the loopback and give the base URL; stop at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    base_url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=cwd, env=environment(HOC_LOG_LEVEL="ERROR", **settings)) as server:
        try:
            _await_health(server, base_url)
            yield base_url
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _await_health(server: subprocess.Popen[bytes], base_url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    # One client for all questions: each new one reads the system's certificates.
    with httpx.Client(base_url=base_url, timeout=2) as http:
        while time.monotonic() < deadline:
            assert server.poll() is None, f"the server ended with {server.returncode} before it answered"
            try:
                if http.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
    raise AssertionError(f"the server did not answer within {START_SECONDS} s")
