"""Foreign sources for connectors: PostgreSQL over TCP, a SQLite file, a web service that misbehaves."""

from __future__ import annotations

import re
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ROWS = (
    "INSERT INTO orders VALUES (1, 'Ada', 'created_at', 10.50), (2, 'Bob', 'credit union', 20.25),"
    " (3, 'Eve', 'Alternate', 30), (4, 'O''Hara', '1); DROP TABLE orders; --', 40)"
)
TABLE = "CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer TEXT, note TEXT, total {decimal})"


class Listener:
    """A server on a free port of the loopback that hands each connection to a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _peer = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(line,), daemon=True).start()

    def _one(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            self._serve(line)

    def close(self) -> None:
        """Accept nobody any more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def postgresql_over_tcp(url: str) -> Iterator[tuple[Listener, str]]:
    """Give a port of the loopback that leads to the server behind a URL, and a DSN that names it."""
    made = sa.make_url(url)
    folder = str(made.query.get("host") or "")

    def bridge(line: socket.socket) -> None:
        if folder.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{folder}/.s.PGSQL.{made.port or 5432}")
        else:
            server = socket.create_connection((made.host or "127.0.0.1", made.port or 5432))
        with server:
            back = threading.Thread(target=_pump, args=(server, line), daemon=True)
            back.start()
            _pump(line, server)
            back.join()

    listener = Listener(bridge)
    password = f":{made.password}" if made.password else ""
    try:
        name = made.username or "postgres"
        yield listener, f"postgresql://{name}{password}@127.0.0.1:{listener.port}/{made.database}"
    finally:
        listener.close()


def fill_postgresql(dsn: str) -> None:
    """Make the orders of a PostgreSQL database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE.format(decimal="NUMERIC").encode())
        connection.execute(ROWS.encode())


def fill_sqlite(path: Path) -> None:
    """Make the orders of a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TABLE.format(decimal="REAL"))
        connection.execute(ROWS)
        connection.commit()


class WebService:
    """A web service that answers each path with the bytes, or the behaviour, that a test has set."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answers: dict[str, bytes | Callable[[socket.socket], None]] = {}
        self.requests: list[str] = []
        self._listener = Listener(self._serve)
        self.port = self._listener.port

    def _serve(self, line: socket.socket) -> None:
        if self._tls is not None:
            with self._tls.wrap_socket(line, server_side=True) as secure:
                self._answer(secure)
        else:
            self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        text = b""
        while b"\r\n\r\n" not in text:
            part = line.recv(65_536)
            if not part:
                return
            text += part
        head, _, body = text.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        while length and len(body) < int(length.group(1)):
            body += line.recv(65_536)
        text = head + b"\r\n\r\n" + body
        self.requests.append(text.decode())
        path = text.split(b" ")[1].decode().partition("?")[0]
        answer = self.answers.get(path, answer_of(404, b"{}"))
        if callable(answer):
            answer(line)
        else:
            line.sendall(answer)

    def close(self) -> None:
        """Serve nobody any more."""
        self._listener.close()


def make_certificate(folder: Path, name: str) -> Path:
    """Return a file with a key and a certificate that the holder of a name has signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    moment = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


def answer_of(status: int, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """Return a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
