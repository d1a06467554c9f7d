"""The router's face: who is let in, what strangers are told, and how it begins and ends."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http import app as app_module
from aegis_backends.http import wire
from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.server import HttpServer
from aegis_backends.http.tokens import Tokens
from aegis_backends.memory import MemoryCluster
from aegis_core import codec
from aegis_core.backend import Entry, Store, Transaction
from aegis_core.errors import ConfigError, Forbidden, StoreUnavailable
from aegis_core.hookspecs import Principal
from tests.backends.http.peers import PATIENCE, permit_all, read_all, read_until
from tests.backends.nats.polling import until

WORKER = Principal("token", "worker")
PUT = codec.encode_plain(["t-1", [["a.b", 0, b"v", None]], []])
OTHER = codec.encode_plain(["t-2", [["c", 0, b"v", None]], []])


@attrs.define
class Slow:
    """The store of a cluster, of which a test can make some answers never come."""

    store: Store
    silent: bool = False
    away: bool = False
    synced: int = 0
    asked_by: list[Principal] = attrs.field(factory=list)

    @property
    def capabilities(self) -> object:
        """The store's."""
        return self.store.capabilities

    def watch(self) -> object:
        """The store's."""
        return self.store.watch()

    async def sync(self) -> int:
        """The store's, or never."""
        self.synced += 1
        await self._wait()
        if self.away:
            raise StoreUnavailable(reason="a test took it away")
        return await self.store.sync()

    async def get(self, key: str) -> Entry | None:
        """The store's, or never."""
        await self._wait()
        return await self.store.get(key)

    async def commit(self, principal: Principal, transaction: Transaction) -> tuple[int, ...]:
        """The store's, for whoever is no worker; or never."""
        await self._wait()
        self.asked_by.append(principal)
        if principal == WORKER:
            raise Forbidden(operation="commit", target="a.b", reason="it is a worker")
        return await self.store.commit(transaction)

    async def _wait(self) -> None:
        if self.silent:
            await trio.sleep_forever()


@attrs.define
class Router:
    """One that serves."""

    app: RouterApp
    store: Slow
    server: HttpServer
    stop: trio.Event
    port: int
    client: httpx.AsyncClient


@asynccontextmanager
async def open_router(tokens: Tokens | None = None, *, heartbeat: float = 5.0) -> AsyncIterator[Router]:
    """Serve a store in memory, with little patience."""
    async with MemoryCluster("app").open() as backend, trio.open_nursery() as nursery:
        assert backend.store is not None
        store = Slow(backend.store)
        app = RouterApp(store, store.commit, permit_all, tokens=tokens, heartbeat=heartbeat, patience=0.2, body=1000)  # type: ignore[arg-type]
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port, stop = listener.socket.getsockname()[1], trio.Event()
        server = await nursery.start(partial(serve_router, app, [listener], stop=stop))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            yield Router(app, store, server, stop, port, client)
        nursery.cancel_scope.cancel()


async def test_store_is_asked_over_http() -> None:
    """A commit, a barrier, a look at one key."""
    async with open_router() as router:
        client = router.client
        answer = await client.post(wire.COMMIT, content=PUT)
        assert answer.headers["content-type"] == "application/msgpack"
        (revision,) = wire.revisions_from_bytes(answer.content, of=1)
        (level,) = wire.revisions_from_bytes((await client.post(wire.SYNC)).content, of=1)
        assert level >= revision
        found = wire.entry_from_bytes((await client.get(f"{wire.KEYS}/a.b")).content)
        assert found == Entry(b"v", revision)
        assert wire.entry_from_bytes((await client.get(f"{wire.KEYS}/none")).content) is None
        assert wire.router_limits_from_bytes((await client.get(wire.STORE)).content) == (5.0, 1000)
        assert router.store.asked_by[0].is_admin
        assert "RouterApp" in repr(router.app)


REFUSED: dict[str, tuple[str, str, bytes, int]] = {
    "unknown path": ("GET", "/nothing", b"", 404),
    "other method": ("DELETE", wire.COMMIT, b"", 405),
    "no MessagePack": ("POST", wire.COMMIT, b"\xc1", 400),
    "no transaction": ("POST", wire.COMMIT, b"\x01", 400),
    "large body": ("POST", wire.COMMIT, b"x" * 1001, 400),
    "no key": ("POST", wire.COMMIT, codec.encode_plain(["t", [["a b", 0, b"", None]], []]), 400),
    "no TTL": ("POST", wire.COMMIT, codec.encode_plain(["t", [["a", 0, b"", math.nan]], []]), 400),
    "conflict": ("POST", wire.COMMIT, codec.encode_plain(["t", [["a", 7]], []]), 409),
    "key of another alphabet": ("GET", f"{wire.KEYS}/a%0D%0AX", b"", 400),
    "long key": ("GET", f"{wire.KEYS}/{'k' * 3501}", b"", 400),
    "revision that is none": ("GET", f"{wire.WATCH}?after=-1", b"", 400),
    "revision of foreign digits": ("GET", f"{wire.WATCH}?after=%D9%A1", b"", 400),
    "history that is none": ("GET", f"{wire.WATCH}?after=1&generation=a%20b", b"", 400),
    "name of a history that nobody can have told": ("GET", f"{wire.WATCH}?generation=a%0Ab", b"", 400),
    "endless name of a history": ("GET", f"{wire.WATCH}?after=1&generation={'x' * 129}", b"", 400),
    "endless revision": ("GET", f"{wire.WATCH}?after={'1' * 5000}", b"", 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_told_as_problem_details(name: str) -> None:
    """With the status in the body, too; and the next request is served."""
    method, path, content, status = REFUSED[name]
    async with open_router() as router:
        answer = await router.client.request(method, path, content=content)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert (await router.client.get("/health")).status_code == 200
        assert router.server.statistics.cut == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", wire.COMMIT, 504), ("POST", wire.SYNC, 503), ("GET", f"{wire.KEYS}/a", 503)],
)
async def test_store_that_does_not_answer_is_not_waited_for(method: str, path: str, status: int) -> None:
    """The client is told: of a commit, that its fate is open."""
    async with open_router() as router:
        router.store.silent = True
        answer = await router.client.request(method, path, content=PUT)
        assert answer.status_code == status
        assert "did not answer the router within 0.2 s" in answer.text


async def test_tokens_are_asked_for() -> None:
    """Of everybody, except for whether the router is well; each has its principal."""
    tokens = Tokens({"w-secret": WORKER, "o-secret": Principal("token", "other")})
    async with open_router(tokens) as router:
        client = router.client
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await client.get(path)).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic dzpz"}):
            answer = await client.post(wire.COMMIT, content=PUT, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "UNAUTHORIZED"
        assert (await client.get(wire.WATCH)).status_code == 401
        answer = await client.post(wire.COMMIT, content=PUT, headers={"authorization": "Bearer w-secret"})
        assert answer.status_code == 403
        answer = await client.post(wire.COMMIT, content=PUT, headers={"authorization": "bearer o-secret"})
        assert answer.status_code == 200
        assert [who.name for who in router.store.asked_by] == ["worker", "other"]


async def test_health_tells_whether_the_store_is_known() -> None:
    """Live is not the same as ready."""
    async with MemoryCluster("app").open() as backend:
        assert backend.store is not None
        store = Slow(backend.store)
        app = RouterApp(backend.store, store.commit, permit_all)
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            assert (await client.get("/health/live")).json() == {"status": "live"}
            answer = await client.get("/health/ready")
            assert answer.status_code == 503
            assert "reading the store" in answer.text


async def test_router_is_not_ready_while_its_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent or away, and ready again afterwards; its life is another matter."""
    monkeypatch.setattr(app_module, "_BELIEVED_FOR", 0.0)
    async with open_router() as router:
        assert (await router.client.get("/health/ready")).status_code == 200
        for trouble in ("silent", "away"):
            setattr(router.store, trouble, True)
            for path in ("/health", "/health/ready"):
                answer = await router.client.get(path)
                assert answer.status_code == 503
                assert answer.json()["code"] == "STORE_UNAVAILABLE"
                assert "does not answer" in answer.json()["detail"]
            assert (await router.client.get("/health/live")).status_code == 200
            setattr(router.store, trouble, False)
            assert (await router.client.get("/health/ready")).status_code == 200


async def test_many_who_ask_for_the_health_do_not_ask_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said of late is enough for all of them."""
    monkeypatch.setattr(app_module, "_BELIEVED_FOR", 3600.0)
    async with open_router() as router:
        asked = router.store.synced
        for _ in range(20):
            assert (await router.client.get("/health/ready")).status_code == 200
        assert router.store.synced == asked + 1


async def test_watch_shows_that_it_is_alive() -> None:
    """While there is nothing to tell; and it ends when the router stops, which answers everybody first."""
    async with open_router(heartbeat=0.05) as router:
        async with await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            await stream.send_all(f"GET {wire.WATCH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            beat = b"4\r\n" + wire.HEARTBEAT + b"\r\n"
            await read_until(stream, beat + beat)
            router.stop.set()
            with trio.fail_after(PATIENCE):
                assert (await read_all(stream)).endswith(b"0\r\n\r\n")
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", router.port)


@pytest.mark.parametrize("ahead", [0, 1], ids=["no further than the store", "further than the store"])
async def test_who_knows_more_than_the_store_has_to_begin_anew(ahead: int) -> None:
    """The store was set back since; a router that is behind alone is waited for."""
    async with open_router() as router:
        (revision,) = wire.revisions_from_bytes((await router.client.post(wire.COMMIT, content=PUT)).content, of=1)
        await until(lambda: router.app.relay.level == revision)
        router.app.relay.level -= 1  # It is behind, as far as it knows.
        async with await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            target = f"{wire.WATCH}?after={revision + ahead}"
            await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await read_until(stream, wire.HEARTBEAT)
            await router.client.post(wire.COMMIT, content=OTHER)
            said = await read_until(stream, codec.encode_plain("c"))
        told_anew = [part in said for part in (b"the store was set back", codec.encode_plain("a.b"))]
        assert told_anew == [ahead > 0] * 2


async def test_who_knows_another_history_has_to_begin_anew() -> None:
    """Although the store has come past what that one knew, and its changes since are all known."""
    async with open_router() as router:
        (revision,) = wire.revisions_from_bytes((await router.client.post(wire.COMMIT, content=PUT)).content, of=1)
        await until(lambda: router.app.relay.level == revision)
        async with await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            router.app.relay.generation = "second"
            target = f"{wire.WATCH}?after={revision - 1}&generation=before"
            await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            said = await read_until(stream, codec.encode_plain([revision, "second"]))
        assert codec.encode_plain(["the store was set back"]) in said


@pytest.mark.parametrize("target", [wire.WATCH, f"{wire.WATCH}?after=1"], ids=["first", "back"])
async def test_client_that_is_older_than_histories_have_names_reads_on(target: str) -> None:
    """It is told revisions alone, and not set back for naming none."""
    async with open_router() as router:
        (revision,) = wire.revisions_from_bytes((await router.client.post(wire.COMMIT, content=PUT)).content, of=1)
        await until(lambda: router.app.relay.level == revision)
        router.app.relay.generation = "second"
        async with await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            said = await read_until(stream, codec.encode_plain(revision))
        assert codec.encode_plain("a.b") in said
        assert b"set back" not in said
        assert b"second" not in said


async def test_head_of_a_watch_is_all_that_is_told() -> None:
    """It ends, so that whoever asks for many of them holds none."""
    async with (
        open_router() as router,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{router.port}", timeout=PATIENCE) as client,
    ):
        for _ in range(3):
            response = await client.head(wire.WATCH)
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-type"] == wire.MSGPACK.decode()


async def test_router_without_tokens_serves_this_machine_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Elsewhere it refuses to begin; with tokens it does not, but warns of a network that can read them."""
    async with MemoryCluster("app").open() as backend:
        assert backend.store is not None
        commit = Slow(backend.store).commit
        listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
        with pytest.raises(ConfigError, match=r"0\.0\.0\.0: give it tokens"):
            await serve_router(RouterApp(backend.store, commit, permit_all), listeners)
        app = RouterApp(backend.store, commit, permit_all, tokens=Tokens({"secret": WORKER}))
        for host, warns in {"127.0.0.1": False, "0.0.0.0": True}.items():
            caplog.clear()
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_router, app, await trio.open_tcp_listeners(0, host=host))
                nursery.cancel_scope.cancel()
            assert ("tokens cross the network as they are" in caplog.text) is warns


async def test_problem_is_json_for_people() -> None:
    """The standard's fields, and ours."""
    async with open_router() as router:
        answer = await router.client.post(wire.COMMIT, content=codec.encode_plain(["t", [["a", 7]], []]))
        problem = json.loads(answer.content)
        assert problem["type"] == "urn:aegis:error:STORE_CONFLICT"
        assert problem["title"] == "Store conflict"
        assert problem["code"] == "STORE_CONFLICT"
        assert problem["details"]["key"] in ("a", None)
