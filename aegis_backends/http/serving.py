"""What ``aegis serve --http`` runs: a router's face on an address, with tokens and certificates from files."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from aegis_backends.http.app import Commit, Permit, RouterApp, serve_router
from aegis_backends.http.dashboard import add_dashboard
from aegis_backends.http.opening import read_host_and_port, shown_host
from aegis_backends.http.rest import Management, Rest
from aegis_backends.http.routing import Request
from aegis_backends.http.server import Limits
from aegis_backends.http.swagger import add_swagger
from aegis_backends.http.tokens import Tokens
from aegis_core.backend import Store
from aegis_core.errors import ConfigError
from aegis_core.hookspecs import Principal

__all__ = ["Metrics", "add_metrics", "read_tokens", "serve_http"]

Metrics = Callable[[], Awaitable[tuple[str, Sequence[bytes]]]]
"""A page of metrics: its content type, and its bytes in parts."""

_ADMIN: Final = "admin"
_FEWEST: Final = 16


def read_tokens(path: Path) -> Tokens:
    """The tokens in a TOML file: a table for each principal, with its ``token``, and ``admin = true`` for an admin.

    Raises:
        ConfigError: The file cannot be read, or says something else; shows no token.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(source=str(path), key="tokens", problem=f"it cannot be read: {exc}") from exc
    principals: dict[str, Principal] = {}
    for name, table in tables.items():
        match table:
            case {"token": str(token), **rest} if rest in ({}, {_ADMIN: False}, {_ADMIN: True}):
                if not token or not token.isascii() or any(char.isspace() for char in token) or token in principals:
                    problem = "expected a token of its own, one word of ASCII characters"
                    raise ConfigError(source=str(path), key=name, problem=problem)
                principals[token] = Principal("token", name, is_admin=rest.get(_ADMIN) is True)
            case _:
                raise ConfigError(
                    source=str(path), key=name, problem='expected token = "...", and perhaps admin = true'
                )
    if not principals:
        raise ConfigError(source=str(path), key="tokens", problem="there is no token in it")
    return Tokens(principals)


async def serve_http(
    store: Store,
    commit: Commit,
    permit: Permit,
    management: Management,
    metrics: Metrics | None,
    address: str,
    *,
    tokens: Path | None,
    certificate: Path | None,
    key: Path | None,
    rate: float,
    connections: int,
    stop: trio.Event,
    tell_cut: Callable[[str], None] | None,
    tell: Callable[[str], None],
) -> None:
    """Offer *store* over HTTP until *stop* is set; requests under way are answered then.

    Args:
        store: What clients read.
        commit: What clients change it by.
        permit: Says who may read it.
        management: What people see and do.
        metrics: What ``/metrics`` tells; None where nothing is counted.
        address: ``HOST:PORT``.
        tokens: See `read_tokens`; None to serve this machine alone, and everybody on it.
        certificate: Serve by TLS, with this chain.
        key: Its key, unless that is in *certificate*.
        rate: Requests per second of one client address.
        connections: Open at once.
        stop: Ends it.
        tell_cut: Called with the reason each time that a client is cut off or refused; None where nothing is counted.
        tell: Called with the URL once it serves.

    Raises:
        ConfigError: A file or the address cannot be used, or it would serve other machines without tokens, or hardly anybody.
    """
    if connections < _FEWEST:
        problem = f"a router needs {_FEWEST} connections or more, not {connections}"
        raise ConfigError(source="aegis serve", key="connections", problem=problem)
    known = None if tokens is None else read_tokens(tokens)
    tls = None if certificate is None else _server_tls(certificate, key)
    host, port = read_host_and_port(address, source="aegis serve", key="http")
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        raise ConfigError(source="aegis serve", key="http", problem=f"{address}: {exc}") from exc
    limits = Limits(rate=rate, connections=connections)
    app = RouterApp(store, commit, permit, tokens=known, body=limits.body, connections=limits.connections)
    Rest(management, app)
    add_swagger(app)
    add_dashboard(app)
    if metrics is not None:
        add_metrics(app, metrics)
    bound = listeners[0].socket.getsockname()
    url = f"{'http' if tls is None else 'https'}://{shown_host(bound[0])}:{bound[1]}"
    started = _Started(partial(tell, url))
    await serve_router(app, listeners, limits=limits, tls=tls, stop=stop, tell_cut=tell_cut, task_status=started)


def add_metrics(app: RouterApp, metrics: Metrics) -> None:
    """Let *app* tell *metrics*, also where it has room for nothing else: they say why."""
    app.add_route("GET", "/metrics", partial(_tell_metrics, metrics), kind=None)


async def _tell_metrics(metrics: Metrics, request: Request) -> None:
    """Answer *request* with what *metrics* tells, part by part: put together first, a long page would keep others waiting."""
    content_type, parts = await metrics()
    size = b"%d" % sum(map(len, parts))
    headers = [(b"content-type", content_type.encode()), (b"content-length", size)]
    await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts:
        await request.send({"type": "http.response.body", "body": part, "more_body": True})
    await request.send({"type": "http.response.body"})


class _Started(trio.TaskStatus[object]):
    """Calls *tell* when the server has started."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def started(self, value: object = None) -> None:
        """It has."""
        self._tell()


def _server_tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(file) for file in (certificate, key) if file is not None)
        raise ConfigError(source="aegis serve", key="certificate, key", problem=f"{files}: {exc}") from exc
    return context
