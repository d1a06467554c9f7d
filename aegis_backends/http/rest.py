"""The router's REST interface: where each operation is asked for, and how its answer is told.

Answers of GET carry a strong entity tag, a hash of their bytes: how healthy an instance looks changes with time, at no
revision of the store, and several routers that know the same tell the same tag. Who shows it gets 304 while nothing changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol, cast

import attrs
import trio

from aegis_backends.http import wire
from aegis_backends.http.app import RouterApp
from aegis_backends.http.asgi import Headers
from aegis_backends.http.asked import map_of_body, map_of_url, read_query
from aegis_backends.http.event_stream import EVENT_STREAM, KINDS, EventStreams, Source
from aegis_backends.http.openapi import Operation, Route, describe, refusals, too_long
from aegis_backends.http.places import Kind
from aegis_backends.http.routing import Request, Response, told
from aegis_backends.http.schemas import Schema
from aegis_backends.http.shapes import JsonText
from aegis_core import errors
from aegis_core.hookspecs import Principal

__all__ = ["ADMIN", "CALLS", "EVENTS", "ROUTES", "Management", "Rest"]

ADMIN: Final = "/api/v1/admin"
EVENTS: Final = f"{ADMIN}/events"
CALLS: Final = f"{ADMIN}/calls"
OPENAPI: Final = "/openapi.json"

_CHANGES: Final = (
    errors.InstanceNotFound,
    errors.NotOwner,
    errors.ResourceNotFound,
    errors.ResourceConflict,
    errors.VersionConflict,
    errors.ResourceLimitExceeded,
    errors.TransportUnavailable,
    errors.CallTimeout,
    errors.Indeterminate,
    errors.RemoteError,
)
_CALLS: Final = (
    errors.ServiceNotFound,
    errors.ResourceNotFound,
    errors.Misdirected,
    errors.RemoteError,
    errors.NoInstance,
    errors.TransportUnavailable,
    errors.LeaseLost,
    errors.CallTimeout,
)

ROUTES: Final = (
    Route("GET", f"{ADMIN}/services", "service.list"),
    Route("GET", f"{ADMIN}/services/{{service_name}}", "service.get", (errors.ServiceNotFound,)),
    Route("GET", f"{ADMIN}/services/{{service_name}}/roles", "service.roles", (errors.ServiceNotFound,)),
    Route("GET", f"{ADMIN}/instances/{{instance_id}}", "instance.get", (errors.InstanceNotFound,)),
    Route("POST", f"{ADMIN}/instances/{{instance_id}}/drain", "instance.drain", _CHANGES),
    Route("POST", f"{ADMIN}/instances/{{instance_id}}/disconnect", "instance.disconnect", _CHANGES),
    Route("GET", f"{ADMIN}/resources", "resource.query"),
    Route("GET", f"{ADMIN}/resources/{{resource_id}}", "resource.get", (errors.ResourceNotFound,)),
    Route("GET", f"{ADMIN}/resources/{{resource_id}}/explain", "resource.explain"),
    Route("POST", f"{ADMIN}/resources/claim", "resource.register", _CHANGES),
    Route("POST", f"{ADMIN}/resources/release", "resource.release", _CHANGES),
    Route("POST", f"{ADMIN}/resources/transfer", "resource.transfer", _CHANGES),
    Route("POST", f"{ADMIN}/resources/bulk_register", "resource.bulk_register", _CHANGES),
    Route("POST", f"{ADMIN}/resources/bulk_release", "resource.bulk_release", _CHANGES),
    Route("GET", f"{ADMIN}/transfers", "transfer.list"),
    Route("POST", CALLS, "route.request", _CALLS),
)
"""Where each operation is asked for."""

_LONGEST_BODY: Final = 1 << 20
_ALIASES: Final = ("", "/api")
"""Before ``/services``, in place of `ADMIN`."""


class Management(Source, Protocol):
    """What a router offers: operations by name, and events."""

    @property
    def operations(self) -> Mapping[str, Operation]:
        """All of them."""
        ...

    async def run(self, principal: Principal, name: str, request: object, *, traceparent: str) -> object:
        """Carry one out, or raise why not."""
        ...


class Rest:
    """The REST interface of a router.

    Args:
        management: What it offers.
        app: Where the routes are added.
        ping: Seconds after which a silent stream of events says that it is alive.
    """

    def __init__(self, management: Management, app: RouterApp, *, ping: float = 5.0) -> None:
        self._management = management
        self._json = JsonText()
        self._most = min(app.body, _LONGEST_BODY)
        self.streams: Final = EventStreams(management, self._json, ping=ping)
        document = describe(ROUTES, management.operations, others={EVENTS: _events()}, asks_tokens=bool(app.tokens))
        self._document = self._json(document).encode()
        for route in ROUTES:
            answer = self._show if route.method == "GET" else self._do
            endpoint = partial(answer, management.operations[route.operation])
            kind = Kind.CALL if route.path == CALLS else Kind.OTHER
            app.add_route(route.method, route.path, endpoint, kind=kind)
            if route.path.startswith(f"{ADMIN}/services"):
                for alias in _ALIASES:
                    app.add_route(route.method, alias + route.path.removeprefix(ADMIN), endpoint)
        app.add_route("GET", EVENTS, self.streams, kind=Kind.STREAM)
        app.add_route("GET", OPENAPI, self._describe, is_open=True)
        app.on_close(self.streams.close)

    def __repr__(self) -> str:
        return f"<Rest of {self._management!r}>"

    async def _show(self, operation: Operation, request: Request) -> Response:
        query = read_query(request.scope["query_string"])
        asked = operation.read(map_of_url(operation.request, request.parameters, query))
        reply = await self._run(operation, request, asked)
        if hasattr(reply, "trace_id"):
            # One that was minted for this request alone would make each answer another one.
            traced = cast("Any", reply)  # replies are classes of attrs, each its own
            reply = attrs.evolve(traced, trace_id=getattr(asked, "trace_id", ""))
        return tagged(request, self._bytes(reply), wire.JSON)

    async def _do(self, operation: Operation, request: Request) -> Response:
        if request.header(b"content-type").partition(b";")[0].strip().lower() != wire.JSON:
            # A page of another site may send forms and text without asking first, but no JSON.
            return told(415, f"This takes {wire.JSON.decode()}.")
        asked = operation.read(map_of_body(await request.body(self._most), request.parameters))
        body = self._bytes(await self._run(operation, request, asked))
        return Response(body=body, content_type=wire.JSON, headers=[(b"cache-control", b"no-store")])

    async def _run(self, operation: Operation, request: Request, asked: object) -> object:
        traceparent = request.header(b"traceparent").decode("latin-1")
        return await self._management.run(request.principal, operation.name, asked, traceparent=traceparent)

    def _bytes(self, value: object) -> bytes:
        return self._json(value).encode(errors="replace")

    async def _describe(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return tagged(request, self._document, wire.JSON)


def tagged(request: Request, body: bytes, content_type: bytes, headers: Headers | None = None) -> Response:
    """The response of *body* with its entity tag, or 304 where *request* shows that tag."""
    tag = b'"%b"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
    headers = [(b"etag", tag), (b"cache-control", b"no-cache"), *(headers or ())]
    shown = {part.strip().removeprefix(b"W/") for part in request.header(b"if-none-match").split(b",")}
    if tag in shown or b"*" in shown:
        return Response(status=304, content_type=content_type, headers=headers)
    return Response(body=body, content_type=content_type, headers=headers)


def _events() -> Schema:
    text: Schema = {"type": "string"}
    refused = refusals(
        (
            errors.InvalidRequest,
            errors.Unauthorized,
            errors.Forbidden,
            errors.Overloaded,
            errors.TransportUnavailable,
        )
    )
    described: Schema = {
        "operationId": "events",
        "tags": ["events"],
        "summary": "The events from now on, as server-sent events: the kind, the revision as id, and the event in JSON.",
        "parameters": [
            {
                "name": "kind",
                "in": "query",
                "description": "These kinds alone; a resync is always told.",
                "schema": {"type": "array", "items": {"type": "string", "enum": list(KINDS)}},
            },
            {"name": "service_name", "in": "query", "description": "Of this service.", "schema": text},
            {"name": "resource_id", "in": "query", "description": "Of this resource.", "schema": text},
        ],
        "responses": {
            "200": {
                "description": "A stream that ends when the router stops.",
                "content": {EVENT_STREAM.decode(): {"schema": text}},
            },
            **refused,
            **too_long(),
        },
    }
    return {"get": described}
