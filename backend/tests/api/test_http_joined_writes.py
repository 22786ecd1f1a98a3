"""The head of an answer leaves together with its body, over a real socket and in any order of writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.api.http_protocol import _JoiningTransport


def received(writes: Callable[[_JoiningTransport], None]) -> list[bytes]:
    """Return what arrives at the other end, packet by packet."""

    class Receiver(asyncio.Protocol):
        def __init__(self) -> None:
            self.packets: list[bytes] = []
            self.arrived = asyncio.Event()
            self.closed = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.packets.append(data)
            self.arrived.set()

        def connection_lost(self, exc: Exception | None) -> None:
            self.closed.set_result(exc)

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        receiver = Receiver()
        server = await loop.create_server(lambda: receiver, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
            writes(_JoiningTransport(transport, loop))
            await receiver.arrived.wait()
            transport.close()
            await receiver.closed
        return receiver.packets

    return asyncio.run(main())


def test_a_head_leaves_in_one_packet_with_its_body() -> None:
    def writes(transport: _JoiningTransport) -> None:
        transport.write(b"head ")
        transport.write(b"body")

    assert received(writes) == [b"head body"]


def test_a_head_without_a_body_leaves_in_the_next_step() -> None:
    assert received(lambda transport: transport.write(b"head")) == [b"head"]


def test_an_empty_body_sends_the_head() -> None:
    def writes(transport: _JoiningTransport) -> None:
        transport.write(b"head")
        transport.write(b"")

    assert received(writes) == [b"head"]


def test_closing_sends_what_is_held_first() -> None:
    def writes(transport: _JoiningTransport) -> None:
        transport.write(b"head")
        transport.close()

    assert received(writes) == [b"head"]


def test_everything_arrives_in_order_however_long_it_is() -> None:
    parts = [b"head", b"a" * 100_000, b"b", b"c" * 20_000, b"", b"d"]

    def writes(transport: _JoiningTransport) -> None:
        for part in parts:
            transport.write(part)
        transport.close()

    assert b"".join(received(writes)) == b"".join(parts)


def test_the_transport_answers_for_the_one_it_wraps() -> None:
    known: list[object] = []

    def writes(transport: _JoiningTransport) -> None:
        known.append(transport.get_extra_info("peername")[0])
        known.append(transport.is_closing())
        transport.write(b"x")

    received(writes)
    assert known == ["127.0.0.1", False]
