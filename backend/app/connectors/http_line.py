"""Connectors: one HTTP/1.1 line to a checked address, under one deadline for all of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from ssl import SSLContext
from typing import Any

import httpcore
from httpcore import SOCKET_OPTION

from app.connectors.hosts import HostPolicy


class DeadlineStream(httpcore.NetworkStream):
    """A stream none of whose reads and writes outlasts the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """Return what came; raise ReadTimeout."""
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Send everything; raise WriteTimeout."""
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Return the stream inside TLS, whose certificate is that of the host's name."""
        left = _left(self._deadline, httpcore.ConnectTimeout)
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return what the stream tells of itself."""
        return self._stream.get_extra_info(info)


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the address that the host policy has checked, and to no other."""

    def __init__(self, hosts: HostPolicy, deadline: float) -> None:
        self._hosts = hosts
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a line to the host; raise HOST_NOT_ALLOWED, ConnectTimeout."""
        address = self._hosts.pick(host, port)
        left = _left(self._deadline, httpcore.ConnectTimeout)
        stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
        return DeadlineStream(stream, self._deadline)


def _left(deadline: float, timeout: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise timeout("the deadline passed")
    return left
