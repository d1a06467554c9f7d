"""The HTTP server leaves others their turn, however much one client sends or gets at once."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from aegis_backends.http.asgi import Receive, Scope, Send, respond
from tests.backends.http.peers import open_server, read_all


async def test_others_have_their_turn_while_a_client_sends_ahead() -> None:
    """Between any two requests, however many come at once."""
    turns, at = 0, []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        at.append(turns)
        await respond(send, 200, b"", content_type=b"text/plain")

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_server(note) as served, await served.connect() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 99 + b"GET / HTTP/1.0\r\n\r\n")
        await read_all(stream)
        nursery.cancel_scope.cancel()
    assert len(at) == 100
    assert max(Counter(at).values()) <= 2  # who is first in a turn of the scheduler is left to chance


@pytest.mark.parametrize("said", [True, False], ids=["length-said", "chunked"])
async def test_others_have_their_turn_while_a_long_response_is_sent(*, said: bool) -> None:
    """Piece by piece, also where the client takes it as fast as it comes; and all of it arrives."""
    part = bytes(range(256)) * (1 << 14)
    turns = 0

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal turns
        headers = [(b"content-length", b"%d" % (2 * len(part)))] if said else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        turns = 0
        await send({"type": "http.response.body", "body": part, "more_body": True})
        assert turns >= len(part) >> 18
        await send({"type": "http.response.body", "body": part})

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_server(tell) as served, trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        body = (await served.get()).partition(b"\r\n\r\n")[2]
        nursery.cancel_scope.cancel()
    assert body == (2 * part if said else 2 * (b"%x\r\n%b\r\n" % (len(part), part)) + b"0\r\n\r\n")
