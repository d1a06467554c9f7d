"""One request over a connection of its own: what becomes of one that cannot be made, or ends."""

from __future__ import annotations

import ssl

import pytest
import trio

from aegis_backends.http.asgi import Receive, Scope, Send
from aegis_backends.http.stream import BROKEN, open_stream
from tests.backends.http.peers import PATIENCE, SHORT, echo, open_server


async def test_peer_that_speaks_no_tls_is_a_broken_stream() -> None:
    """Known at once."""
    async with open_server(echo) as served:
        url, tls = f"https://127.0.0.1:{served.port}", ssl.create_default_context()
        with trio.fail_after(PATIENCE), pytest.raises(BROKEN):
            await open_stream(url, "GET", "/", {}, tls=tls, timeout=PATIENCE)
        await served.wait_connections(0)


async def test_peer_that_says_nothing_is_a_timeout() -> None:
    """The connection is not kept."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        url = f"https://127.0.0.1:{port}"
        with pytest.raises(TimeoutError, match=r"no connection within 0\.2 s"):
            await open_stream(url, "GET", "/", {}, tls=None, timeout=SHORT)


async def test_stream_that_is_over_brings_nothing_more() -> None:
    """However often it is asked."""

    async def say(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})

    async with open_server(say) as served:
        stream = await open_stream(f"http://127.0.0.1:{served.port}", "GET", "/", {}, tls=None, timeout=PATIENCE)
        assert repr(stream) == "<HttpStream with status 0>"
        assert await stream.receive() == b"all"
        assert await stream.receive() == await stream.receive() == b""
        assert repr(stream) == "<HttpStream with status 200, over>"
        await stream.aclose()
