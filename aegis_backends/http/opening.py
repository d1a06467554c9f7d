"""Opening ``http://router:8700``: who the routers are, where this node's own instances are served, and by what secrets.

The location is one router or several, ``r1:8700,r2:8700``. Parameters of the URL:

- ``token_file``: a file with the bearer token that routers ask for;
- ``call_token_file``: a file with the one that instances ask of each other;
- ``ca_file``: certificates to trust instead of the system's (``https``);
- ``cert_file``, ``key_file``: this node's own certificate, which it serves its instances by (``https``), and shows;
- ``listen``: host and port where its instances are served; by default the address that it reaches the routers from;
- ``advertise``: host and port that others reach that by, where it is another;
- ``timeout``: seconds for one answer of a router; 5 by default.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

from aegis_backends.certificates import told_with_files
from aegis_backends.http.routers import Routers
from aegis_backends.http.store import HttpStore
from aegis_backends.http.transport import HttpTransport
from aegis_core.backend import Backend, BackendAddress, Transport
from aegis_core.errors import ConfigError

__all__ = [
    "TRANSPORT_PARAMETERS",
    "HttpOptions",
    "open_http",
    "open_http_transport",
    "read_host_and_port",
    "read_options",
    "read_secret",
    "shown_host",
]

_log = logging.getLogger("aegis.http")

TRANSPORT_PARAMETERS: Final = ("call_token_file", "ca_file", "cert_file", "key_file", "listen", "advertise")
"""What `open_http_transport` reads of a URL."""

_PARAMETERS: Final = ("token_file", *TRANSPORT_PARAMETERS, "timeout")
_DEFAULT_PORT: Final = 8700
_LOOPBACK: Final = "127.0.0.1"
_CONNECTIONS: Final = 32


@attrs.frozen(kw_only=True)
class HttpOptions:
    """What a backend's URL says.

    Args:
        scheme: ``http`` or ``https``.
        routers: Host and port of each; none for a transport alone.
        token: For routers, or "".
        call_token: For calls between instances, or "".
        ca_file: Certificates to trust, or None for the system's.
        cert_file: This node's certificate, with its key unless that is in *key_file*, or None.
        key_file: Its key, or None.
        listen: Where its instances are served, or None for the address that it reaches the routers from (loopback, if none).
        advertise: What others reach that by, or None.
        timeout: Seconds.
    """

    scheme: str
    routers: tuple[tuple[str, int], ...] = ()
    token: str = attrs.field(default="", repr=False)
    call_token: str = attrs.field(default="", repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    listen: tuple[str, int] | None = None
    advertise: tuple[str, int] | None = None
    timeout: float = 5.0

    def client_tls(self) -> ssl.SSLContext:
        """How this node trusts others, and shows who it is.

        Raises:
            ConfigError: A file cannot be used.
        """
        with told_with_files({"ca_file": self.ca_file}, "certificates (PEM)"):
            context = ssl.create_default_context(cafile=self.ca_file)
        self._show_who_it_is(context)
        return context

    def server_tls(self) -> ssl.SSLContext | None:
        """How this node serves its instances: by its certificate, or without TLS if it has none.

        Raises:
            ConfigError: A file cannot be used.
        """
        if self.cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._show_who_it_is(context)
        return context

    def _show_who_it_is(self, context: ssl.SSLContext) -> None:
        if self.cert_file is not None:
            files = {"cert_file": self.cert_file, "key_file": self.key_file}
            with told_with_files(files, "a certificate and its key (PEM)"):
                context.load_cert_chain(self.cert_file, self.key_file)


def read_options(address: BackendAddress) -> HttpOptions:
    """What *address* says.

    Raises:
        ConfigError: A parameter that there is not, or a value that cannot be.
    """
    given = address.parameters
    for name in given:
        if name not in _PARAMETERS:
            problem = f"the HTTP backend has no such parameter; there are {', '.join(_PARAMETERS)}"
            raise ConfigError(source="backend URL", key=name, problem=problem)
    userinfo, _, hosts = address.location.rpartition("@")
    routers = tuple(
        read_host_and_port(part, source="backend URL", key="backend") for part in hosts.rstrip("/").split(",") if part
    )
    if not routers:
        problem = f"expected {address.scheme}://HOST:PORT, or several routers with commas between them"
        raise ConfigError(source="backend URL", key="backend", problem=problem)
    if userinfo:
        problem = "a secret in a URL gets into logs: put the token into a file, and name that with token_file"
        raise ConfigError(source="backend URL", key="backend", problem=problem)
    try:
        timeout = float(given.get("timeout", "5"))
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < float("inf"):
        raise ConfigError(source="backend URL", key="timeout", problem="expected seconds, more than 0")
    return attrs.evolve(
        _transport_options(address),
        scheme=address.scheme,
        routers=routers,
        token=_secret(address, "token_file"),
        timeout=timeout,
    )


def _transport_options(address: BackendAddress) -> HttpOptions:
    given = address.parameters
    return HttpOptions(
        scheme="https" if "cert_file" in given else "http",
        call_token=_secret(address, "call_token_file"),
        ca_file=given.get("ca_file"),
        cert_file=given.get("cert_file"),
        key_file=given.get("key_file"),
        listen=read_host_and_port(given["listen"], source="backend URL", key="listen") if "listen" in given else None,
        advertise=read_host_and_port(given["advertise"], source="backend URL", key="advertise")
        if "advertise" in given
        else None,
    )


def read_host_and_port(text: str, *, source: str, key: str) -> tuple[str, int]:
    """Host and port in *text*; the port of routers where it names none.

    Raises:
        ConfigError: They are not.
    """
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, str(_DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(source=source, key=key, problem=f"expected HOST:PORT, got {text!r}")
    return host, int(port)


def _secret(address: BackendAddress, name: str) -> str:
    path = address.parameters.get(name)
    return "" if path is None else read_secret(Path(path), source="backend URL", key=name)


def read_secret(path: Path, *, source: str, key: str) -> str:
    """The one word in the file at *path*.

    Raises:
        ConfigError: It cannot be read, or there is something else in it; shows nothing of it.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(source=source, key=key, problem=f"it cannot be read: {exc}") from exc
    if not secret or any(char.isspace() for char in secret):
        raise ConfigError(source=source, key=key, problem="expected one word in the file")
    return secret


@asynccontextmanager
async def open_http(address: BackendAddress) -> AsyncIterator[Backend]:
    """Open ``http://router:8700``; see the module's docstring.

    Raises:
        ConfigError: The URL says what cannot be.
        StoreUnavailable: No router answers.
    """
    options = read_options(address)
    client_tls = options.client_tls() if options.scheme == "https" else None
    headers = {"authorization": f"Bearer {options.token}"} if options.token else {}
    urls = [f"{options.scheme}://{shown_host(host)}:{port}" for host, port in options.routers]
    async with httpx.AsyncClient(
        verify=client_tls or True,
        timeout=httpx.Timeout(options.timeout, connect=min(options.timeout, 2.0)),
        limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        trust_env=False,
    ) as client:
        routers = Routers(client, urls, headers, tls=client_tls)
        store = await HttpStore.connect(routers)
        async with _open_transport(options, client_tls) as transport:
            try:
                yield Backend(store=store, transports=(transport,), reconnects=lambda: routers.reconnects)
            finally:
                store.close()


@asynccontextmanager
async def open_http_transport(address: BackendAddress) -> AsyncIterator[Transport]:
    """Calls alone, by the `TRANSPORT_PARAMETERS` of *address*; see `aegis_backends.http.open_http_transport`.

    Raises:
        ConfigError: A parameter says what cannot be.
    """
    options = _transport_options(address)
    client_tls = options.client_tls() if options.scheme == "https" else None
    async with _open_transport(options, client_tls) as transport:
        yield transport


@asynccontextmanager
async def _open_transport(options: HttpOptions, client_tls: ssl.SSLContext | None) -> AsyncIterator[HttpTransport]:
    body: BaseException | None = None
    listener, base = await _listen(options)
    async with trio.open_nursery() as nursery:
        transport = HttpTransport(
            listener,
            nursery,
            base=base,
            token=options.call_token,
            server_tls=options.server_tls(),
            client_tls=client_tls,
        )
        await nursery.start(transport.run)
        try:
            yield transport
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again below, and not within a group
            body = exc
        nursery.cancel_scope.cancel()
    if body is not None:
        raise body


async def _listen(options: HttpOptions) -> tuple[trio.SocketListener, str]:
    """A listener for this node's instances, and the URL that others reach it by."""
    host, port = options.listen or (await _own_address(*options.routers[0]) if options.routers else _LOOPBACK, 0)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        raise ConfigError(source="backend URL", key="listen", problem=f"{host}:{port}: {exc}") from exc
    listener, *others = listeners
    for other in others:
        await other.aclose()
    bound = listener.socket.getsockname()
    if not options.call_token and not ipaddress.ip_address(bound[0].partition("%")[0]).is_loopback:
        _log.warning(
            "no call token: whoever reaches %s:%d may call the instances of this node, also to drain", *bound[:2]
        )
    host, port = options.advertise or (bound[0], bound[1])
    scheme = "http" if options.cert_file is None else "https"
    return listener, f"{scheme}://{shown_host(host)}:{port}"


async def _own_address(host: str, port: int) -> str:
    """The address of this machine that its packets to *host* come from; nothing is sent."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
    family, kind, protocol, _, there = found[0]
    with trio.socket.socket(family, kind, protocol) as probe:
        await probe.connect(there)
        return str(probe.getsockname()[0])


def shown_host(host: str) -> str:
    """*host* as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
