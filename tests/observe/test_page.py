"""A node's own page of metrics: over real connections, as Prometheus fetches it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from aegis_core import Node, open_node
from aegis_core.errors import ConfigError
from aegis_core.observe.metrics import CONTENT_TYPE
from aegis_core.observe.page import _answer, serve_page
from tests.observe.scraping import parse


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Node, int]]:
    """A node that serves its page, and the port."""
    async with (
        open_node("memory://", config={"metrics": {"enabled": True}}) as node,
        trio.open_nursery() as nursery,
    ):
        listener = await nursery.start(serve_page, node, "127.0.0.1:0")
        yield node, listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ask(port: int, request: bytes) -> tuple[str, str]:
    """The head and the body of what is answered to *request*."""
    with trio.fail_after(60):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(request)
            answer = b""
            while part := await stream.receive_some():
                answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


async def test_page_is_fetched() -> None:
    """The official parser reads it; the head says how long it is, and what."""
    async with served() as (node, port):
        await node.registry.register("account-service", "a")
        head, body = await ask(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        only_head, nothing = await ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Type: {CONTENT_TYPE}" in head
    assert f"Content-Length: {len(body.encode())}" in head
    assert parse(body).value("ipc_instances", service_name="account-service", health="ONLINE") == 1
    assert only_head.startswith("HTTP/1.1 200 OK\r\n")
    assert nothing == ""


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"x" * 9000])
async def test_nothing_else_is_there(request_: bytes) -> None:
    """Other paths, other methods, and what is no request."""
    async with served() as (_, port):
        head, body = await ask(port, request_)
    assert head.startswith("HTTP/1.1 404 ")
    assert body == ""


async def test_client_that_leaves_harms_nobody() -> None:
    """One that says half a request and goes, one that resets; the next is answered."""
    async with served() as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET /met")
        await stream.aclose()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        await stream.aclose()
        head, _ = await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")


async def test_silent_clients_hold_up_nobody() -> None:
    """More of them than pages are written at once, each of which is waited for."""
    async with served() as (_, port), AsyncExitStack() as stack:
        for _number in range(20):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        head, _ = await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")


NAMES = {
    "localhost": 200, "LocalHost:9464": 200, "127.0.0.1:9464": 200, "[::1]:9464": 200, "[::1]": 200,
    "evil.example": 403, "evil.example:9464": 403, "localhost.evil.example": 403, "10.0.0.1": 403, "": 403,
    socket.gethostname(): 200,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=["own" if name == socket.gethostname() else name for name in NAMES])
async def test_page_of_this_machine_is_not_told_under_other_names(name: str) -> None:
    """Which others may have made point here, to read it in somebody's browser; elsewhere it has any name."""
    request = f"GET /metrics HTTP/1.1\r\nAccept: */*\r\nhost: {name}\r\n\r\n".encode()
    async with served() as (node, port):
        head, body = await ask(port, request)
        elsewhere = await _answer(node, request, "10.0.0.1")
    assert head.startswith(f"HTTP/1.1 {NAMES[name]} ")
    assert bool(body) == (NAMES[name] == 200)
    assert elsewhere[0].startswith(b"HTTP/1.1 200 ")


async def test_node_serves_its_page_where_it_is_told_to() -> None:
    """The setting alone turns counting on; what cannot be served on is an error that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for wrong in (address, "9464", "127.0.0.1:many", "127.0.0.1:99999"):
            with pytest.raises(ConfigError, match=r"metrics\.address"):
                async with open_node("memory://", config={"metrics": {"address": wrong}}):
                    raise AssertionError("it opened")
    async with open_node("memory://", config={"metrics": {"address": address}}):
        head, _ = await ask(int(address.rpartition(":")[2]), b"GET /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
