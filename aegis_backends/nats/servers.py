"""The servers that a connection may use: where they are, what they say of themselves, and which to try next."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

import attrs

from aegis_backends.nats.auth import Credentials, Token, UserPassword
from aegis_backends.nats.errors import RemoteProtocolError
from aegis_core.errors import ConfigError

__all__ = ["ServerAddress", "ServerInfo", "ServerPool"]

DEFAULT_PORT: Final = 4222
_MOST_DISCOVERED: Final = 256

T = TypeVar("T", bool, int, str)


@attrs.frozen
class ServerAddress:
    """Where a server is. `str` of it holds no secrets.

    Attributes:
        tls: Whether the URL insists on TLS.
        credentials: Those in the URL.
        tls_name: The name that its certificate must be for, where that is not `host`: a server that another one told of
            by its bare address has the name that the first one was reached by.
    """

    host: str
    port: int
    tls: bool = False
    credentials: Credentials | None = attrs.field(default=None, eq=False)
    tls_name: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Read ``nats://[user:password@|token@]host[:port]``; ``tls://`` insists on TLS, no scheme is ``nats``.

        Raises:
            ConfigError: It is no such URL.
        """
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            port = DEFAULT_PORT if parts.port is None else parts.port
            (parts.hostname or "").encode("idna")  # as it is looked up: refuses what is no name
        except ValueError:
            parts, port = urlsplit(""), 0
        host = parts.hostname
        if parts.scheme not in {"nats", "tls"} or not host or not port or parts.path not in {"", "/"} or parts.query:
            shown = url.rpartition("@")[2]
            raise ConfigError(
                source="backend URL", key="backend", problem=f"{shown!r} is no nats://host:port or tls://host:port"
            )
        credentials: Credentials | None = None
        if parts.username is not None and parts.password is not None:
            credentials = UserPassword(unquote(parts.username), unquote(parts.password))
        elif parts.username:
            credentials = Token(unquote(parts.username))
        return cls(host, port, parts.scheme == "tls", credentials)


@attrs.frozen(kw_only=True)
class ServerInfo:
    """What a server said of itself, in the newest of its INFOs.

    Attributes:
        max_payload: Most bytes of headers and payload together.
        connect_urls: ``host:port`` of every server of the cluster, as far as it tells.
        lame_duck: Whether it is about to shut down and wants its clients to go elsewhere.
        api_level: Of JetStream; 0 for servers that do not tell.
        nonce: What to sign, where it asks for signatures.
    """

    server_id: str = ""
    server_name: str = ""
    version: str = ""
    max_payload: int = 1 << 20
    headers: bool = False
    jetstream: bool = False
    api_level: int = 0
    client_id: int = 0
    cluster: str = ""
    connect_urls: tuple[str, ...] = ()
    lame_duck: bool = False
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False
    nonce: str = attrs.field(default="", repr=False)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> ServerInfo:
        """Read an INFO's JSON object. What it does not have is taken to be off or empty.

        Raises:
            RemoteProtocolError: A field is of another type than the protocol says.
        """
        urls = fields.get("connect_urls") or ()
        if not isinstance(urls, list | tuple) or not all(isinstance(url, str) for url in urls):
            raise RemoteProtocolError("the INFO's connect_urls are no list of strings")
        return cls(
            server_id=_field(fields, "server_id", ""),
            server_name=_field(fields, "server_name", ""),
            version=_field(fields, "version", ""),
            max_payload=_field(fields, "max_payload", 1 << 20),
            headers=_field(fields, "headers", False),
            jetstream=_field(fields, "jetstream", False),
            api_level=_field(fields, "api_lvl", 0),
            client_id=_field(fields, "client_id", 0),
            cluster=_field(fields, "cluster", ""),
            connect_urls=tuple(urls),
            lame_duck=_field(fields, "ldm", False),
            auth_required=_field(fields, "auth_required", False),
            tls_required=_field(fields, "tls_required", False),
            tls_available=_field(fields, "tls_available", False),
            nonce=_field(fields, "nonce", ""),
        )


def _field(fields: Mapping[str, object], name: str, default: T) -> T:
    value = fields.get(name, default)
    if type(value) is not type(default):
        raise RemoteProtocolError(f"the INFO's {name} is of type {type(value).__name__}")
    return value


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class ServerPool:
    """The servers that were configured, and those that a server told of.

    Args:
        urls: The configured ones; they stay for ever.

    Raises:
        ConfigError: There is none, or one is no URL of a server.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._seeds: Final = tuple(dict.fromkeys(ServerAddress.parse(url) for url in urls))
        if not self._seeds:
            raise ConfigError(key="servers", problem="at least one URL of a server is needed")
        self._discovered: tuple[ServerAddress, ...] = ()
        # Who was used last is asked last: it went away, or wants us to.
        self._last: ServerAddress | None = None

    def __repr__(self) -> str:
        return f"<ServerPool of {', '.join(str(server) for server in self.servers)}>"

    @property
    def servers(self) -> Sequence[ServerAddress]:
        """All of them, the configured ones first."""
        return self._seeds + self._discovered

    def order(self) -> Sequence[ServerAddress]:
        """All of them in the order to try them now: at random, so that clients of a dead server do not move as a herd."""
        return sorted(random.sample(self.servers, len(self.servers)), key=lambda server: server == self._last)

    def use(self, server: ServerAddress) -> None:
        """Note that *server* is the one in use."""
        self._last = server

    def discover(self, connect_urls: Iterable[str], told_by: ServerAddress) -> None:
        """Replace those that a server told of by *connect_urls*; what is no address of a server is left out.

        So is what comes after 256 servers: a round through all of them must end. They get the credentials and the TLS of who told of them.
        """
        known = {(server.host, server.port) for server in self._seeds}
        found: dict[tuple[str, int], ServerAddress] = {}
        for url in connect_urls:
            if len(found) == _MOST_DISCOVERED:
                break
            try:
                parsed = ServerAddress.parse(url)
            except ConfigError:
                continue
            name = "" if _is_address(told_by.host) or not _is_address(parsed.host) else told_by.host
            if (parsed.host, parsed.port) not in known:
                server = attrs.evolve(
                    parsed, tls=told_by.tls, credentials=told_by.credentials, tls_name=name or told_by.tls_name
                )
                found[server.host, server.port] = server
        self._discovered = tuple(found.values())
