"""Calls over HTTP, the caller's side: lines that cannot be made, break, or lead to somebody else."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aegis_backends.http import transport as transport_module
from aegis_backends.http.asgi import Receive, Scope, Send, respond
from aegis_backends.http.calls import ANSWERED, SIGN_OF_LIFE, answer_frame
from aegis_backends.http.server import Limits
from aegis_backends.http.transport import HttpTransport
from aegis_core import codec
from aegis_core.backend import TransportUnavailable
from aegis_core.models import Outcome
from tests.backends.http.peers import PATIENCE, Served, open_server


@asynccontextmanager
async def open_transport(name: str = "127.0.0.1") -> AsyncIterator[HttpTransport]:
    """A transport on loopback, which others know by *name*."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        transport = HttpTransport(listener, nursery, base=f"http://{name}:{port}")
        await nursery.start(transport.run)
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.checkpoint()
            yield transport
        nursery.cancel_scope.cancel()


def endpoint(served: Served) -> str:
    """An instance that is said to be served there."""
    return f"http://127.0.0.1:{served.port}/instances/a-1/t"


async def expect_failure(transport: HttpTransport, endpoint: str, outcome: Outcome) -> str:
    """Ask, and fail; why."""
    with pytest.raises(TransportUnavailable) as caught:
        await transport.request(endpoint, b"question", timeout=math.inf)
    assert caught.value.outcome is outcome
    return caught.value.reason


@pytest.mark.parametrize(
    "wrong",
    ["memory://a", "http://x", "http:///instances/a", "http://x/other", ""],
)
async def test_what_is_no_endpoint_is_a_value_error(wrong: str) -> None:
    """And so are a negative timeout and a payload past the limit."""
    async with open_transport() as transport:
        with pytest.raises(ValueError, match="is no HTTP endpoint"):
            await transport.request(wrong, b"", timeout=1.0)
        for timeout in (-1.0, math.nan):
            with pytest.raises(ValueError, match="timeout"):
                await transport.request(transport.endpoint("a", "t"), b"", timeout=timeout)
        with pytest.raises(ValueError, match="at most"):
            await transport.request(transport.endpoint("a", "t"), bytes(transport.max_payload + 1), timeout=1.0)


async def test_other_program_is_told_from_an_instance() -> None:
    """Nothing was executed there, whatever it answers."""

    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 404, b"not here", content_type=b"text/plain")

    async with open_transport() as transport, open_server(refuse) as served:
        assert await expect_failure(transport, endpoint(served), Outcome.NOT_SENT) == "the other side answered 404"
        assert "0 lines" in repr(transport)


async def test_line_that_cannot_be_made_fails_its_calls() -> None:
    """Nothing was sent."""
    async with open_transport() as transport:
        assert await expect_failure(transport, "http://127.0.0.1:1/instances/a/t", Outcome.NOT_SENT)


async def hang_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Listen to one call, and end the answer."""
    scope["extensions"]["aegis.stream"]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "more_body": True})
    await receive()
    await send({"type": "http.response.body"})


async def test_line_that_breaks_leaves_open_what_became_of_its_calls() -> None:
    """The next call makes a new one."""
    async with open_transport() as transport, open_server(hang_up) as served:
        for count in (1, 2):
            reason = await expect_failure(transport, endpoint(served), Outcome.MAYBE_EXECUTED)
            assert reason == "the other side closed the connection"
            assert served.server.statistics.accepted == count


async def test_answer_that_is_no_frame_ends_the_line() -> None:
    """What it said before counts; an answer to nobody does not."""

    async def lie(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["aegis.stream"]()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": SIGN_OF_LIFE, "more_body": True})
        await receive()
        stray = answer_frame(99, ANSWERED, b"to nobody")
        await send({"type": "http.response.body", "body": stray + b"\xff\xff\xff\xff", "more_body": True})
        await trio.sleep_forever()

    async with open_transport() as transport, open_server(lie) as served:
        reason = await expect_failure(transport, endpoint(served), Outcome.MAYBE_EXECUTED)
        assert reason == "a frame of 4294967295 bytes"


async def test_caller_that_has_nothing_to_ask_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the other side does not take it for one that vanished."""
    monkeypatch.setattr(transport_module, "_SIGN_OF_LIFE_EVERY", 0.02)
    heard = trio.Event()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["aegis.stream"]()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "more_body": True})
        found = b""
        while not found.endswith(SIGN_OF_LIFE * 2):
            found += (await receive()).get("body", b"")
        heard.set()
        await trio.sleep_forever()

    async with (
        open_transport() as transport,
        open_server(listen, Limits(grace=0.1)) as served,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(expect_failure, transport, endpoint(served), Outcome.MAYBE_EXECUTED)
        await heard.wait()
        served.server.stop()


async def test_many_endpoints_and_deadlines_take_bounded_room() -> None:
    """Those that nobody waits for any more are forgotten."""
    async with (
        open_transport() as transport,
        transport.listen("a-1", "t", lambda inbound: inbound.respond(inbound.payload)) as here,
    ):
        for number in range(200):
            assert await transport.request(here, b"%d" % number, timeout=1000.0) == b"%d" % number
        assert len(transport._deadlines) < 100
        for number in range(10_001):
            transport._read_endpoint(f"http://x/instances/{number}/t")
        assert len(transport._endpoints) < 10_001


async def test_calls_end_with_the_node() -> None:
    """Those under way may have been executed."""
    failures: list[TransportUnavailable] = []

    async def call(client: HttpTransport, there: str) -> None:
        with pytest.raises(TransportUnavailable) as caught:
            await client.request(there, b"", timeout=math.inf)
        failures.append(caught.value)

    async with (
        open_transport() as server,
        server.listen("a-1", "t", lambda _inbound: None) as there,
        trio.open_nursery() as callers,
    ):
        under_way = callers.start_soon
        async with open_transport() as client:
            under_way(call, client, there)
            await wait_all_tasks_blocked(0.05)
    assert failures[0].outcome is Outcome.MAYBE_EXECUTED


async def test_instance_is_called_by_the_name_that_it_advertises() -> None:
    """By that, and by no other one that leads here."""
    answer = codec.encode_plain({"success": True, "result": 1})
    async with (
        open_transport("Node.example") as transport,
        transport.listen("a-1", "t", lambda inbound: inbound.respond(answer)) as here,
    ):
        assert urlsplit(here).hostname == "node.example"
        port = urlsplit(here).port
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for name, status in (("node.example", 200), (f"Node.example:{port}", 200), ("evil.example", 403)):
                response = await client.post("/instances/a-1", headers={"host": name})
                assert (name, response.status_code) == (name, status)
