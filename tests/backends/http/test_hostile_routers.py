"""A router whose clients are slow, greedy, silent or many: they are cut off and counted, and the others are served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http import wire
from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.places import Kind
from aegis_backends.http.rest import ADMIN, CALLS, EVENTS
from aegis_backends.http.routing import Request
from aegis_backends.http.server import Limits
from aegis_backends.http.serving import add_metrics
from aegis_backends.http.tokens import Tokens
from aegis_backends.memory import MemoryCluster
from aegis_core import Call, Service
from aegis_core.backend import ANY, Put, Transaction
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import Managed, open_managed
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


@attrs.frozen
class Askers:
    """Clients of a router with different tokens; responses stay open until the test ends."""

    router: Managed
    stack: AsyncExitStack

    async def ask(self, name: str, method: str, path: str, content: object = None) -> httpx.Response:
        """What the router answers to the token *name*; its body is not read."""
        headers = {"authorization": f"Bearer {name}"}
        request = self.router.client.build_request(method, path, headers=headers, json=content)
        response = await self.router.client.send(request, stream=True)
        self.stack.push_async_callback(response.aclose)
        return response

    async def refusal(self, name: str, method: str, path: str, content: object = None) -> object:
        """What limit it names in its refusal."""
        response = await self.ask(name, method, path, content)
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        return json.loads(await response.aread())["details"]

    async def check_served(self, *tokens: str) -> None:
        """Nodes, operators and those who watch over the router are answered."""
        for name in tokens:
            assert (await self.ask(name, "POST", wire.SYNC)).status_code == 200
            services = await self.ask(name, "GET", f"{ADMIN}/services")
            await services.aread()
            assert services.status_code == 200
            disconnect = f"{ADMIN}/instances/nobody/disconnect"
            assert (await self.ask(name, "POST", disconnect, {})).status_code == 404
            assert (await self.ask(name, "GET", "/metrics")).status_code == 200
        assert (await self.router.client.get("/health")).status_code == 200


@asynccontextmanager
async def open_askers(connections: int) -> AsyncIterator[Askers]:
    """A router that knows the tokens a, b and c."""

    async def metrics() -> tuple[str, Sequence[bytes]]:
        await trio.lowlevel.checkpoint()
        return "text/plain", [b"a 1"]

    tokens = Tokens({name: Principal("token", name) for name in "abc"})
    async with open_managed(tokens, connections=connections, ping=SHORT) as router, AsyncExitStack() as stack:
        add_metrics(router.app, metrics)
        yield Askers(router, stack)


async def test_streams_leave_room_for_all_else() -> None:
    """Neither one token nor all of them together take more than the streams' share."""
    async with open_askers(32) as askers:
        streams = [await askers.ask(name, "GET", EVENTS) for name in "aab"]
        assert [stream.status_code for stream in streams] == [200, 200, 200]
        told = await askers.refusal("a", "GET", EVENTS)
        assert told == {"what": "token:a's room for streams", "limit": 2, "asked": 3}
        assert (await askers.ask("b", "GET", EVENTS)).status_code == 200
        told = await askers.refusal("c", "GET", EVENTS)
        assert told == {"what": "this router's room for streams", "limit": 4, "asked": 5}
        await askers.check_served("a", "b", "c")
        await streams[0].aclose()
        await eventually(lambda: "3 of 4" in repr(askers.router.app.places[Kind.STREAM]))
        assert (await askers.ask("c", "GET", EVENTS)).status_code == 200


async def test_calls_to_a_mute_instance_leave_room_for_all_else() -> None:
    """Who called it as often as may be can disconnect it."""
    service, speaks = Service("mute", version="1.0.0"), trio.Event()

    @service.method
    async def be_silent(_call: Call) -> None:
        await speaks.wait()

    call = {"service_name": "mute", "method": "be_silent", "timeout": 300.0}
    async with open_askers(8) as askers, askers.router.node.serve(service), trio.open_nursery() as nursery:
        for name in "aab":
            nursery.start_soon(askers.ask, name, "POST", CALLS, call)
        await eventually(lambda: "3 of 3" in repr(askers.router.app.places[Kind.CALL]))
        told = await askers.refusal("c", "POST", CALLS, call)
        assert told == {"what": "this router's room for calls", "limit": 3, "asked": 4}
        await askers.check_served("a", "b", "c")
        assert (await askers.ask("a", "GET", EVENTS)).status_code == 200
        speaks.set()


async def test_other_requests_leave_room_for_metrics_and_health() -> None:
    """And for nodes."""
    async with open_askers(8) as askers, trio.open_nursery() as nursery:

        async def wait(_request: Request) -> None:
            await trio.sleep_forever()

        askers.router.app.add_route("POST", "/slow", wait)
        nursery.start_soon(askers.ask, "a", "POST", "/slow")
        await eventually(lambda: "1 of 2" in repr(askers.router.app.places[Kind.OTHER]))
        told = await askers.refusal("a", "GET", f"{ADMIN}/services")
        assert told == {"what": "token:a's room for other requests", "limit": 1, "asked": 2}
        assert (await askers.ask("a", "GET", "/metrics")).status_code == 200
        assert (await askers.ask("a", "POST", wire.SYNC)).status_code == 200
        await askers.check_served("b")
        nursery.cancel_scope.cancel()


async def test_watches_of_one_token_are_bounded() -> None:
    """Others may watch yet, and all may ask."""
    async with open_askers(8) as askers:
        watches = [await askers.ask("a", "GET", wire.WATCH) for _ in range(2)]
        assert [watch.status_code for watch in watches] == [200, 200]
        told = await askers.refusal("a", "GET", wire.WATCH)
        assert told == {"what": "token:a's room for watches", "limit": 2, "asked": 3}
        assert (await askers.ask("b", "GET", wire.WATCH)).status_code == 200
        await askers.check_served("a", "b")


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
