"""A server that does what a test tells it to, right or wrong: for what a real one does too rarely."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from aegis_backends.nats.protocol import Connect, Event, Info, Parser, Peer, Ping, Pong, encode

INFO = {"server_id": "scripted", "version": "2.15.1", "max_payload": 1 << 20, "headers": True}


@attrs.define(eq=False)
class Client:
    """One client that has connected."""

    stream: trio.SocketStream
    connect: Connect | None = None
    gone: bool = False
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    parser: Parser = attrs.field(factory=lambda: Parser(Peer.CLIENT))

    async def receive(self) -> Event:
        """The next event other than a PING, which is answered."""
        while isinstance(event := await self._receive(), Ping):
            await self.say(Pong())
        return event

    async def _receive(self) -> Event:
        while True:
            for event in self.parser.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                self.gone = True
                raise EOFError
            self.parser.receive_data(bytes(data))

    async def say(self, *events: Event) -> None:
        """Send *events*."""
        async with self.lock:
            await self.stream.send_all(b"".join(map(encode, events)))

    async def log_in(self, **info: object) -> None:
        """Say INFO, take CONNECT, and answer the first PING."""
        await self.say(Info({**INFO, **info}))
        event = await self.receive()
        assert isinstance(event, Connect)
        self.connect = event
        assert await self._receive() == Ping()
        await self.say(Pong())


@asynccontextmanager
async def open_scripted(script: Callable[[Client], Awaitable[object]]) -> AsyncIterator[str]:
    """Listen on loopback within the block, and run *script* with each client; yields the URL.

    A client that goes ends its script; one whose script ends stays connected.
    """

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            await script(Client(stream))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"nats://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
