"""A router whose clients are slow, greedy, silent or many: they are cut off and counted, and the others are served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http import wire
from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.rest import ADMIN, EVENTS
from aegis_backends.http.server import Limits
from aegis_backends.http.tokens import Tokens
from aegis_backends.memory import MemoryCluster
from aegis_core.backend import ANY, Put, Transaction
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import open_managed
from tests.backends.http.peers import PATIENCE, SHORT, Served, eventually, permit_all, read_all, read_until

COMMIT = f"POST {wire.COMMIT} HTTP/1.1\r\nHost: localhost\r\n".encode()
WATCH = f"GET {wire.WATCH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@asynccontextmanager
async def open_router(limits: Limits, *, tokens: Tokens | None = None, fill: int = 0) -> AsyncIterator[Served]:
    """A router with *fill* mebibytes in its store."""
    async with MemoryCluster("hostile").open() as backend, trio.open_nursery() as nursery:
        store = backend.store
        assert store is not None
        for number in range(fill):
            await store.commit(Transaction(f"t-{number}", (Put(f"k.{number}", bytes(1 << 20), ANY),)))

        async def commit(_principal: Principal, transaction: Transaction) -> tuple[int, ...]:
            return await store.commit(transaction)

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app = RouterApp(store, commit, permit_all, tokens=tokens, body=limits.body)
        server = await nursery.start(partial(serve_router, app, [listener], limits=limits))
        yield Served(server, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


SLOW = {
    "head": (COMMIT, "slow_head"),
    "body": (COMMIT + b"Content-Length: 100\r\n\r\nx", "slow_body"),
    "body in chunks": (COMMIT + b"Transfer-Encoding: chunked\r\n\r\nfff\r\nab", "slow_body"),
}


@pytest.mark.parametrize("name", SLOW)
async def test_slow_clients_are_cut_off_and_counted(name: str) -> None:
    """Ten that send a byte now and then; somebody else is answered meanwhile."""
    data, reason = SLOW[name]
    async with open_router(Limits(head_time=SHORT, body_time=SHORT)) as served, trio.open_nursery() as nursery:

        async def dribble() -> None:
            async with await served.connect() as stream:
                try:
                    await stream.send_all(data)
                    while True:
                        await stream.send_all(b"x")
                        await trio.sleep(SHORT / 5)
                except trio.BrokenResourceError:
                    pass

        for _ in range(10):
            nursery.start_soon(dribble)
        assert (await served.get("/health")).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: served.server.statistics.cut.get(reason) == 10)


async def test_body_past_the_limit_is_refused_unread() -> None:
    """Announced, or in chunks without an end."""
    async with open_router(Limits(body=1000)) as served:
        assert (await served.say(COMMIT + b"Content-Length: 1001\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        chunks = b"Transfer-Encoding: chunked\r\n\r\n" + (b"100\r\n" + bytes(256) + b"\r\n") * 5
        assert (await served.say(COMMIT + chunks)).startswith(b"HTTP/1.1 413 ")
        assert served.server.statistics.cut == {"body_too_large": 2}


async def test_watcher_that_does_not_read_is_cut_off() -> None:
    """As one whose machine has vanished: what is for it is not kept for long."""
    async with open_router(Limits(send_time=SHORT), fill=16) as served, await served.connect() as stream:
        await stream.send_all(WATCH)
        await served.wait_cut("slow_reader")
        await served.wait_connections(0)
        assert (await served.get("/health")).startswith(b"HTTP/1.1 200 ")


async def test_watcher_that_hangs_up_is_forgotten() -> None:
    """In the middle of its snapshot."""
    async with open_router(Limits(), fill=4) as served:
        for _ in range(20):
            async with await served.connect() as stream:
                await stream.send_all(WATCH)
                await read_until(stream, b"200 OK")
        await served.wait_connections(0)


async def test_more_connections_than_there_may_be_are_refused() -> None:
    """Watches are not closed for newcomers; who is idle is."""
    async with open_router(Limits(connections=3, per_address=4)) as served, AsyncExitStack() as stack:
        for _ in range(3):
            stream = await stack.enter_async_context(await served.connect())
            await stream.send_all(WATCH)
            await read_until(stream, b"200 OK")
        assert (await served.get("/health")).startswith(b"HTTP/1.1 503 ")
        assert served.server.statistics.cut == {"too_many_connections": 1}
        await stream.aclose()
        await served.wait_connections(2)
        assert (await served.get("/health")).startswith(b"HTTP/1.1 200 ")


async def test_requests_that_wait_leave_room_for_the_store() -> None:
    """Neither one token nor all of them together take the places of nodes, which get theirs from the rest."""
    tokens = Tokens({name: Principal("token", name) for name in "abc"})
    async with open_managed(tokens, connections=8, ping=SHORT) as router, AsyncExitStack() as stack:

        async def ask(name: str, method: str, path: str) -> httpx.Response:
            request = router.client.build_request(method, path, headers={"authorization": f"Bearer {name}"})
            response = await router.client.send(request, stream=True)
            stack.push_async_callback(response.aclose)
            return response

        streams = [await ask(name, "GET", EVENTS) for name in "aab"]
        assert [stream.status_code for stream in streams] == [200, 200, 200]
        refused = await ask("a", "GET", EVENTS)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert json.loads(await refused.aread())["details"] == {"what": "token:a", "limit": 2, "asked": 3}
        assert (await ask("b", "GET", EVENTS)).status_code == 200
        refused = await ask("c", "GET", f"{ADMIN}/services")
        assert json.loads(await refused.aread())["details"] == {"what": "this router", "limit": 4, "asked": 5}
        assert [(await ask(name, "POST", wire.SYNC)).status_code for name in "abc"] == [200, 200, 200]
        assert (await ask("a", "GET", wire.WATCH)).status_code == 200
        assert (await router.client.get("/health")).status_code == 200
        await streams[0].aclose()
        await eventually(lambda: "3 of 4" in repr(router.app.places))
        assert (await ask("c", "GET", f"{ADMIN}/services")).status_code == 200


async def test_more_requests_than_there_may_be_are_refused() -> None:
    """With 429, and when to come again."""
    async with open_router(Limits(rate=1.0, burst=5.0)) as served, await served.connect() as stream:
        for number in count():
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await read_until(stream, b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 429 "):
                break
            assert number < 10
        assert b"retry-after: 1" in head
        assert served.server.statistics.cut["too_many_requests"] == 1


async def test_who_shows_no_token_learns_nothing_and_holds_nothing() -> None:
    """A watch, a commit and its body are refused before they begin."""
    tokens = Tokens({"secret": Principal("token", "one")})
    async with open_router(Limits(), tokens=tokens) as served:
        for request in (
            WATCH,
            COMMIT + b"Content-Length: 16000000\r\n\r\n",
            b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            async with await served.connect() as stream:
                await stream.send_all(request)
                with trio.fail_after(PATIENCE):
                    answer = await read_until(stream, b"\r\n\r\n")
                    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 "))
                    await stream.send_eof()
                    await read_all(stream)
        await served.wait_connections(0)
