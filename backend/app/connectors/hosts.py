"""Connectors: which hosts may be reached; the address that is checked is the one that is connected to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from app.connectors.values import ConnectorFailedError

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
_NEVER: Final = (IPv4Network("0.0.0.0/8"), IPv4Network("240.0.0.0/4"))
_NAT64: Final = IPv6Network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the order in which the system prefers them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class HostPolicy:
    """The operator's list: `host`, `host:port`, `*.suffix`; an empty list allows nothing."""

    def __init__(self, allowed: Sequence[str], *, resolver: Resolver = resolve) -> None:
        words = [_canonical(word.strip()) for word in allowed]
        self._exact = {word for word in words if not word.startswith("*.")}
        self._suffixes = tuple(word[1:] for word in words if word.startswith("*."))
        self._resolver = resolver

    def is_exact(self, host: str, port: int) -> bool:
        """Tell whether a host is on the list by its own name."""
        name = _canonical(host)
        return name in self._exact or f"{name}:{port}" in self._exact

    def pick(self, host: str, port: int) -> str:
        """Return the address of a host to connect to; raise HOST_NOT_ALLOWED, CONNECTOR_ERROR.

        Link-local, multicast and unspecified addresses are never reached; loopback and private ones only for
        a host on the list by its own name.
        """
        name, exact = _canonical(host), self.is_exact(host, port)
        if not exact and not name.endswith(self._suffixes or ("\x00",)):
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "the host is not on the list", lasting=True)
        try:
            addresses = self._resolver(name, port)
        except (OSError, UnicodeError) as error:
            raise ConnectorFailedError("CONNECTOR_ERROR", "the host has no address") from error
        for text in addresses:
            if is_reachable(ip_address(text.partition("%")[0]), exact=exact):
                return text
        raise ConnectorFailedError("HOST_NOT_ALLOWED", "no address of the host is allowed", lasting=True)


def is_reachable(address: Address, *, exact: bool) -> bool:
    """Tell whether an address may be connected to; an IPv4 address inside an IPv6 one counts as itself."""
    inner = _embedded(address)
    if inner is not None:
        return is_reachable(inner, exact=exact)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if isinstance(address, IPv4Address) and any(address in network for network in _NEVER):
        return False
    return exact or address.is_global


def _embedded(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _canonical(host: str) -> str:
    return host.lower().rstrip(".").replace("[", "").replace("]", "")
