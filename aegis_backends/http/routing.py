"""From a request's method and path to the function that answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl, unquote

import attrs

from aegis_backends.http import wire
from aegis_backends.http.asgi import BodyTooLarge, Headers, Receive, Scope, Send, header, read_body, respond
from aegis_core.errors import AegisError, InvalidRequest, Overloaded
from aegis_core.hookspecs import Principal

__all__ = ["Endpoint", "Request", "Response", "Routes", "answer", "told"]


@attrs.frozen(kw_only=True)
class Response:
    """A whole response."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = wire.MSGPACK
    headers: Headers = attrs.field(factory=list)

    @classmethod
    def of_problem(cls, error: AegisError, headers: Headers | None = None) -> Response:
        """*error*, as problem details."""
        return cls(
            body=wire.problem(error),
            status=wire.status_of(error),
            content_type=wire.PROBLEM,
            headers=headers or [],
        )


@attrs.frozen(eq=False)
class Request:
    """A request that has been let in.

    Args:
        scope: As ASGI describes it.
        receive: Brings the body.
        send: Takes the response of an endpoint that streams one and returns None.
        principal: Who asks.
        parameters: The parts of the path that its pattern names, decoded.
    """

    scope: Scope
    receive: Receive
    send: Send
    principal: Principal
    parameters: Mapping[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The parameters after the question mark; of repeated ones the last."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    def header(self, name: bytes) -> bytes:
        """The value of the header *name* (in lower case), or nothing."""
        return header(self.scope, name)

    async def body(self, most: int) -> bytes:
        """The whole body.

        Raises:
            InvalidRequest: It has more than *most* bytes.
        """
        try:
            return await read_body(self.receive, most=most)
        except BodyTooLarge as exc:
            raise InvalidRequest.at("$", f"a body has at most {most} bytes here") from exc


Endpoint = Callable[[Request], Awaitable[Response | None]]
"""Answers a request: a `Response`, an `AegisError`, or None when it has sent a stream of its own."""


class Routes:
    """Patterns of paths, e.g. ``/services/{service_name}``, where each name stands for one segment, by method."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[tuple[str, ...], dict[str, Endpoint]]] = []

    def add(self, method: str, pattern: str, endpoint: Endpoint) -> None:
        """Let *endpoint* answer *method* on paths like *pattern*.

        Raises:
            ValueError: Something else does already.
        """
        methods = self._methods(pattern)
        if method in methods:
            raise ValueError(f"{method} {pattern} has an endpoint already")
        methods[method] = endpoint

    def _methods(self, pattern: str) -> dict[str, Endpoint]:
        if "{" not in pattern:
            return self._exact.setdefault(pattern, {})
        segments = tuple(pattern.split("/"))
        for known, methods in self._patterns:
            if known == segments:
                return methods
        self._patterns.append((segments, {}))
        return self._patterns[-1][1]

    def find(self, method: str, raw_path: str) -> tuple[Endpoint, dict[str, str]] | Response:
        """The endpoint for a request and its parameters, or the response that says that there is none.

        Args:
            method: Its method.
            raw_path: Its path, not decoded: a segment may hold an encoded slash.
        """
        exact = self._exact.get(raw_path, {})
        endpoint = _for_method(exact, method)
        if endpoint is not None:
            return endpoint, {}
        segments = raw_path.split("/")
        allowed = set(exact)
        for pattern, methods in self._patterns:
            parameters = _match(pattern, segments)
            if parameters is not None:
                endpoint = _for_method(methods, method)
                if endpoint is not None:
                    return endpoint, parameters
                allowed = allowed or set(methods)
        if not allowed:
            return told(404, "There is nothing here.")
        refused = told(405, "This can be asked otherwise only.")
        return attrs.evolve(refused, headers=[(b"allow", ", ".join(sorted(allowed)).encode())])


def _for_method(methods: Mapping[str, Endpoint], method: str) -> Endpoint | None:
    return methods.get(method) or (methods.get("GET") if method == "HEAD" else None)


def told(status: int, text: str) -> Response:
    """*text* as problem details, for what has no code of ours."""
    body = b'{"type": "about:blank", "status": %d, "detail": "%b"}' % (status, text.encode())
    return Response(status=status, body=body, content_type=wire.PROBLEM)


def _match(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    found: dict[str, str] = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            if not segment:
                return None
            found[expected[1:-1]] = unquote(segment)
        elif expected != segment:
            return None
    return found


async def answer(endpoint: Endpoint, request: Request) -> None:
    """Let *endpoint* answer *request*; what it raises of our errors is sent as a problem."""
    try:
        response = await endpoint(request)
    except AegisError as exc:
        retry: Headers = [(b"retry-after", b"1")] if isinstance(exc, Overloaded) else []
        response = Response.of_problem(exc, retry)
    if response is not None:
        await respond(
            request.send, response.status, response.body, content_type=response.content_type, headers=response.headers
        )
