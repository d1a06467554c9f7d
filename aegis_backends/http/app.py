"""The router's face over HTTP: its store for nodes elsewhere, and whether it is well.

`RouterApp` is an ASGI application with a routing table that is open to more. `serve_router` runs it. What a transaction
may do is decided by whoever gives `RouterApp` its *commit*; here a client only gets a name.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from aegis_backends.http import wire
from aegis_backends.http.asgi import Receive, Scope, Send, header
from aegis_backends.http.places import Kind, places
from aegis_backends.http.relay import Relay
from aegis_backends.http.routing import Endpoint, Request, Response, Routes, answer
from aegis_backends.http.same_site import check_same_site
from aegis_backends.http.server import HttpServer, Limits
from aegis_backends.http.tokens import Tokens
from aegis_core.backend import Store, Transaction
from aegis_core.errors import AegisError, ConfigError, Indeterminate, InvalidRequest, StoreUnavailable, Unauthorized
from aegis_core.hookspecs import Principal, Target
from aegis_core.validation import is_key

__all__ = ["Commit", "Permit", "RouterApp", "serve_router"]

_log = logging.getLogger("aegis.http")

Commit = Callable[[Principal, Transaction], Awaitable[tuple[int, ...]]]
"""Commits a transaction in the name of a principal, or refuses; raises as `aegis_core.backend.Store.commit` does."""

Permit = Callable[[Principal, str, Target], None]
"""Lets a principal carry out an operation on something, or raises `Forbidden`; see `aegis_core.hookspecs.aegis_authorize`."""

_ANSWERS_WITHIN: Final = 2.0
_BELIEVED_FOR: Final = 1.0
_REVISION: Final = re.compile(r"[0-9]{1,19}")


class RouterApp:
    """An ASGI application over *store*.

    Args:
        store: What clients read.
        commit: What clients change it by.
        permit: Asked before anything of the store is told, by the name of ``watch``.
        tokens: Who may ask; None: everybody may do everything.
        heartbeat: Seconds after which a watch that has nothing to tell says that it is alive.
        patience: Seconds that the store has for one answer.
        body: Most bytes of a request.
        connections: How many its server takes. Each `aegis_backends.http.places.Kind` of requests has a share of them. Those
            of nodes to the store find room whatever else is asked, lest nodes lose their leases.
    """

    def __init__(
        self,
        store: Store,
        commit: Commit,
        permit: Permit,
        *,
        tokens: Tokens | None = None,
        heartbeat: float = 5.0,
        patience: float = 10.0,
        body: int = Limits().body,
        connections: int = Limits().connections,
    ) -> None:
        self.relay: Final = Relay(store)
        self.tokens: Final = tokens or Tokens()
        self._store = store
        self._commit = commit
        self._permit = permit
        # Whether the store answered when it was last asked, for the health alone, and when that was.
        self._answers = True
        self._asked_at = -math.inf
        self._heartbeat = heartbeat
        self._patience = patience
        self.body: Final = body
        self.places: Final = places(connections)
        self._routes = Routes()
        self._open: set[Endpoint] = set()
        self._kinds: dict[Endpoint, Kind | None] = {}
        self._closing: list[Callable[[], None]] = [self.relay.close]
        self.add_route("POST", wire.COMMIT, self._take_commit, kind=None)
        self.add_route("POST", wire.SYNC, partial(self._read, self._sync), kind=None)
        self.add_route("GET", wire.STORE, partial(self._read, self._describe_store), kind=None)
        self.add_route("GET", wire.WATCH, partial(self._read, self._watch), kind=Kind.WATCH)
        self.add_route("GET", f"{wire.KEYS}/{{key}}", partial(self._read, self._get), kind=None)
        self.add_route("GET", "/health", self._ready, is_open=True)
        self.add_route("GET", "/health/live", self._live, is_open=True)
        self.add_route("GET", "/health/ready", self._ready, is_open=True)

    def __repr__(self) -> str:
        return f"<RouterApp of {self._store!r}>"

    def add_route(
        self,
        method: str,
        pattern: str,
        endpoint: Endpoint,
        *,
        is_open: bool = False,
        kind: Kind | None = Kind.OTHER,
    ) -> None:
        """Let *endpoint* answer *method* on paths like *pattern*; see `aegis_backends.http.routing.Routes`.

        Args:
            method: ``GET`` (also for ``HEAD``) or another.
            pattern: Of paths.
            endpoint: Answers.
            is_open: To everybody, without a token, and however many ask.
            kind: Whose share of the connections its requests take; None: they are answered whatever else is asked.

        Raises:
            ValueError: Something else does already.
        """
        self._routes.add(method, pattern, endpoint)
        self._kinds[endpoint] = kind
        if is_open:
            self._open.add(endpoint)

    def on_close(self, end: Callable[[], None]) -> None:
        """Call *end*, which ends endless responses, when the router stops."""
        self._closing.append(end)

    def close(self) -> None:
        """End the watches, so that their clients go to another router at once."""
        for end in self._closing:
            end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._routes.find(scope["method"], scope["raw_path"].decode("latin-1"))
        request = Request(scope, receive, send, Principal("token", "nobody"), {})
        if isinstance(found, Response):
            refusal = found
            await answer(lambda _: _ready_made(refusal), request)
            return
        endpoint, parameters = found
        if endpoint not in self._open:
            try:
                request = Request(scope, receive, send, self._principal(scope), parameters)
                kind = self._kinds[endpoint]
                if kind is not None:
                    endpoint = partial(self._in_place, kind, endpoint)
            except AegisError as exc:
                asks = [(b"www-authenticate", b"Bearer")] if isinstance(exc, Unauthorized) else []
                response = Response.of_problem(exc, asks)
                await answer(lambda _: _ready_made(response), request)
                return
        await answer(endpoint, request)

    async def _in_place(self, kind: Kind, endpoint: Endpoint, request: Request) -> Response | None:
        with self.places[kind].take(request.principal):
            return await endpoint(request)

    def _principal(self, scope: Scope) -> Principal:
        """Who asks.

        Raises:
            Unauthorized: Nobody who is known.
            Forbidden: No token is asked for, and a page of another site does.
        """
        if not self.tokens:
            check_same_site(scope)
        return self.tokens.principal(header(scope, b"authorization"), f"{scope['method']} {scope['path']}")

    # -- the store -----------------------------------------------------------------------------------

    async def _read(self, endpoint: Endpoint, request: Request) -> Response | None:
        """Let *endpoint* answer who may read the store: all of it, because nothing in it is for some alone.

        Raises:
            Forbidden: It may not.
        """
        self._permit(request.principal, "watch", Target())
        return await endpoint(request)

    async def _describe_store(self, _request: Request) -> Response:
        most = self.body
        return Response(
            body=wire.capabilities_to_bytes(self._store.capabilities, max_body=most, heartbeat=self._heartbeat)
        )

    async def _take_commit(self, request: Request) -> Response:
        body = await request.body(self.body)
        transaction = wire.transaction_from_bytes(body, most=self._store.capabilities.max_transaction)
        with trio.move_on_after(self._patience):
            try:
                return Response(body=wire.revisions_to_bytes(await self._commit(request.principal, transaction)))
            except ValueError as exc:
                raise InvalidRequest.at("$[1]", str(exc)) from exc
        raise Indeterminate(reason=f"the store did not answer the router within {self._patience:g} s")

    async def _sync(self, _request: Request) -> Response:
        return Response(body=wire.revisions_to_bytes((await self._ask_level(),)))

    async def _ask_level(self) -> int:
        """The store's read barrier."""
        with trio.move_on_after(self._patience):
            return await self._store.sync()
        raise StoreUnavailable(reason=f"it did not answer the router within {self._patience:g} s")

    async def _get(self, request: Request) -> Response:
        key = request.parameters["key"]
        if not is_key(key):
            raise InvalidRequest.at("$.key", "expected a key of the store")
        with trio.move_on_after(self._patience):
            return Response(body=wire.entry_to_bytes(await self._store.get(key)))
        raise StoreUnavailable(reason=f"it did not answer the router within {self._patience:g} s")

    async def _watch(self, request: Request) -> Response | None:
        after = request.query.get("after")
        if after is not None and not _REVISION.fullmatch(after):
            raise InvalidRequest.at("$.after", "expected a revision")
        # Who asks for none is told none: a client that is older than they are.
        with_generations = "generation" in request.query
        generation = request.query.get("generation", "")
        if not wire.GENERATION.fullmatch(generation):
            raise InvalidRequest.at(
                "$.generation", "expected what this interface told, up to 128 visible ASCII characters"
            )
        headers = [(b"content-type", wire.MSGPACK), (b"cache-control", b"no-store")]
        if request.scope["method"] == "HEAD":  # nothing is ever written to it, so that it would not be seen to leave
            await trio.lowlevel.checkpoint()
            return Response(headers=headers[1:])
        known, level = None if after is None else int(after), 0
        was_set_back = False
        if known is None or known > self.relay.level or self.relay.is_another(generation):
            # Who begins to watch sees at least what was acknowledged before, to whomever. Who knows more than this router
            # may come from one that was ahead; but if the store is not as far now, it was set back since.
            level = await self._ask_level()
            was_set_back = known is not None and level < known
        with self.relay.open(known, generation, at_least=level, recounted=was_set_back) as feed:
            await request.send({"type": "http.response.start", "status": 200, "headers": headers})
            await request.send({"type": "http.response.body", "body": wire.HEARTBEAT, "more_body": True})
            while True:
                parts: Iterable[bytes] = (wire.HEARTBEAT,)
                with trio.move_on_after(self._heartbeat):
                    try:
                        parts = wire.frames(await feed.receive(), with_generations=with_generations)
                    except trio.ClosedResourceError:
                        break
                for part in parts:
                    await request.send({"type": "http.response.body", "body": part, "more_body": True})
            await request.send({"type": "http.response.body", "body": b""})
        return None

    # -- health --------------------------------------------------------------------------------------

    async def _live(self, _request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(body=b'{"status": "live"}', content_type=wire.JSON)

    async def _ready(self, _request: Request) -> Response:
        """Whether the router knows its store, and the store answers: a watch says nothing of a store that is lost.

        Everybody may ask, so the store is asked once a second at most; who comes meanwhile is told what was known last.
        """
        await trio.lowlevel.checkpoint()
        if not self.relay.ready:
            raise StoreUnavailable(reason="the router is reading the store")
        now = trio.current_time()
        if now >= self._asked_at + _BELIEVED_FOR:
            self._asked_at = now
            self._answers = await self._is_answered()
        if not self._answers:
            raise StoreUnavailable(reason="the store does not answer the router")
        return Response(body=b'{"status": "ready"}', content_type=wire.JSON)

    async def _is_answered(self) -> bool:
        with trio.move_on_after(min(_ANSWERS_WITHIN, self._patience)):
            try:
                await self._store.sync()
            except AegisError:
                return False
            return True
        return False


async def _ready_made(response: Response) -> Response:
    await trio.lowlevel.checkpoint()
    return response


async def serve_router(
    app: RouterApp,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    stop: trio.Event | None = None,
    tell_cut: Callable[[str], None] | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* until cancelled, or until *stop* is set: then requests under way are answered first.

    Started (with the server) once the router knows its store.

    Args:
        app: The router's face.
        listeners: Where; closed at the end.
        limits: What clients may make it do.
        tls: Speak TLS by this context.
        stop: Ends it gracefully.
        tell_cut: Called with the reason each time that a client is cut off or refused.
        task_status: Told when it serves.

    Raises:
        ConfigError: It knows no tokens, and would serve more than this machine.
    """
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener)
        if not app.tokens:
            _check_loopback(listeners)
        elif tls is None and not all(_is_loopback(_host(listener)) for listener in listeners):
            _log.warning("tokens cross the network as they are: serve by TLS, unless something before the router does")
        server = HttpServer(app, limits=limits, tls=tls, tell_cut=tell_cut)
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(app.relay.run)
        await nursery.start(server.serve, list(listeners))
        task_status.started(server)
        await (trio.Event() if stop is None else stop).wait()
        app.close()
        server.stop()
        await server.wait_stopped()
        nursery.cancel_scope.cancel()


def _check_loopback(listeners: Sequence[trio.SocketListener]) -> None:
    """Without tokens everybody may do everything, so nobody else may reach it."""
    strangers = [host for listener in listeners if not _is_loopback(host := _host(listener))]
    if strangers:
        problem = f"a router without tokens serves this machine alone, not {', '.join(strangers)}: give it tokens"
        raise ConfigError(source="router", key="tokens", problem=problem)
    _log.warning("the router knows no tokens: every program on this machine may do everything")


def _host(listener: trio.SocketListener) -> str:
    return str(listener.socket.getsockname()[0])


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
