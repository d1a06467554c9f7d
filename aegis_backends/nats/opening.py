"""From a URL to a backend: ``nats://host:4222,host2:4222?bucket=service-registry&storage=file&replicas=3``."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from aegis_backends.nats.auth import Credentials, CredentialsFile, NkeySeed, Token, UserPassword
from aegis_backends.nats.background import open_background
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.bus import NatsBus
from aegis_backends.nats.connection import Connection, open_connection
from aegis_backends.nats.errors import AuthorizationFailed, Disconnected, NatsError, PermissionDenied
from aegis_backends.nats.jetstream import JetStream
from aegis_backends.nats.messages import messages_bucket, open_messages
from aegis_backends.nats.micro import Micro
from aegis_backends.nats.options import ConnectOptions, TLSOptions
from aegis_backends.nats.store import open_store
from aegis_backends.nats.transport import NatsTransport
from aegis_core.backend import Backend, BackendAddress, Store
from aegis_core.errors import ConfigError, StoreUnavailable

__all__ = ["NatsSettings", "open_nats", "read_address", "remove_bucket"]

_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PARAMETERS: Final[Mapping[str, str]] = {
    "bucket": "the bucket's name",
    "storage": "file or memory: where a new bucket is kept",
    "replicas": "1, 3 or 5: how many servers keep a new bucket",
    "user": "who we are, with password",
    "password": "that user's",
    "token": "who we are, where one secret is for all",
    "nkey": "path of a file with an nkey seed",
    "creds": "path of a credentials file",
    "tls_ca": "path of the certificates of who may sign a server's",
    "tls_cert": "path of our own certificate",
    "tls_key": "path of its key",
    "tls_hostname": "the name that the server's certificate must be for",
    "tls_first": "true: TLS from the first byte",
    "inbox_prefix": "first token of the subjects that answers come to, _INBOX by default",
}


@attrs.frozen(kw_only=True)
class NatsSettings:
    """What a URL says: the servers, how to connect to them, and which bucket is the registry. Its repr has no secrets."""

    servers: tuple[str, ...] = attrs.field(repr=lambda urls: repr([url.rpartition("@")[2] for url in urls]))
    options: ConnectOptions
    bucket: BucketSettings


def _wrong(key: str, problem: str) -> ConfigError:
    return ConfigError(source="backend URL", key=key, problem=problem)


def read_address(address: BackendAddress) -> NatsSettings:
    """What *address* says.

    Raises:
        ConfigError: A parameter is unknown, or has a value that it cannot have; names both.
    """
    given = address.parameters
    for name in given:
        if name not in _PARAMETERS:
            known = "; ".join(f"{parameter} ({meaning})" for parameter, meaning in _PARAMETERS.items())
            raise _wrong(name, f"the nats backend has no such parameter. It has: {known}")
    servers = tuple(part for part in address.location.strip("/").split(",") if part)
    if not servers:
        raise _wrong("backend", "which server? For example nats://127.0.0.1:4222")
    return NatsSettings(
        servers=tuple(f"nats://{server}" for server in servers),
        options=ConnectOptions(
            name="aegis",
            credentials=_credentials(given),
            tls=_tls(given),
            inbox_prefix=given.get("inbox_prefix") or "_INBOX",
        ),
        bucket=_bucket(given),
    )


def _bucket(given: Mapping[str, str]) -> BucketSettings:
    name = given.get("bucket", "service-registry")
    if not _BUCKET.fullmatch(name):
        raise _wrong("bucket", f"{name!r} is no bucket's name: letters, digits, _ and -")
    storage: Literal["file", "memory"]
    match given.get("storage", "file"):
        case "file":
            storage = "file"
        case "memory":
            storage = "memory"
        case other:
            raise _wrong("storage", f"expected file or memory, got {other!r}")
    replicas = given.get("replicas", "1")
    if replicas not in {"1", "3", "5"}:
        raise _wrong("replicas", f"expected 1, 3 or 5, got {replicas!r}")
    return BucketSettings(name=name, storage=storage, replicas=int(replicas))


def _credentials(given: Mapping[str, str]) -> Credentials | None:
    ways = [way for way in ("user", "token", "nkey", "creds") if way in given]
    if len(ways) > 1:
        raise _wrong(ways[1], f"either this or {ways[0]}, not both")
    if ("user" in given) != ("password" in given):
        raise _wrong("password", "user and password come together")
    match ways:
        case ["user"]:
            return UserPassword(given["user"], given["password"])
        case ["token"]:
            return Token(given["token"])
        case ["nkey"]:
            return NkeySeed(_read(given["nkey"]))
        case ["creds"]:
            return CredentialsFile(Path(given["creds"]))
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise _wrong("nkey", f"the seed cannot be read: {exc}") from exc


def _tls(given: Mapping[str, str]) -> TLSOptions | None:
    first = given.get("tls_first", "false")
    if first not in {"true", "false"}:
        raise _wrong("tls_first", f"expected true or false, got {first!r}")
    if not any(name.startswith("tls_") for name in given):
        return None
    return TLSOptions(
        ca_file=given.get("tls_ca"),
        certificate_file=given.get("tls_cert"),
        key_file=given.get("tls_key"),
        server_hostname=given.get("tls_hostname"),
        handshake_first=first == "true",
    )


@asynccontextmanager
async def open_nats(address: BackendAddress) -> AsyncIterator[Backend]:
    """Open ``nats://…``: connect, make sure of the bucket, and read it.

    Raises:
        ConfigError: A parameter is wrong, a server refuses our credentials, or cannot hold a registry.
        StoreUnavailable: No server is there, or none answers for the bucket.
    """
    settings, chance = read_address(address), random.Random()
    async with AsyncExitStack() as stack:
        with _translated():
            connection = await stack.enter_async_context(_connected(settings))
            store = await stack.enter_async_context(
                open_store(connection, settings.bucket, inbox_prefix=settings.options.inbox_prefix, random=chance)
            )
            background = await stack.enter_async_context(open_background())
        yield Backend(
            store=store,
            transports=(NatsTransport(connection),),
            bus=NatsBus(connection),
            announce=Micro(connection, background).announce,
            open_messages=partial(_open_messages, connection, settings.bucket, chance),
            random=chance,
            reconnects=lambda: connection.connects - 1,
        )


@asynccontextmanager
async def _connected(settings: NatsSettings) -> AsyncIterator[Connection]:
    async with open_connection(settings.servers, settings.options) as connection:
        # Then it is known whether we may have the inbox, before anything is asked whose answer could not come. A server
        # that is gone again is met by what follows.
        with suppress(Disconnected, trio.TooSlowError):
            await connection.flush()
        yield connection


@asynccontextmanager
async def _open_messages(
    connection: Connection, registry: BucketSettings, chance: random.Random
) -> AsyncIterator[Store]:
    async with open_messages(connection, registry, random=chance) as messages:
        yield messages


async def remove_bucket(address: BackendAddress) -> None:
    """Remove the bucket of ``nats://…``; see `aegis_backends.nats.remove_bucket`."""
    settings = read_address(address)
    with _translated():
        async with _connected(settings) as connection:
            jetstream = JetStream(connection, random=random.Random())
            for bucket in (messages_bucket(settings.bucket), settings.bucket):
                await jetstream.delete_stream(bucket.stream)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (AuthorizationFailed, PermissionDenied) as exc:
        raise ConfigError(source="nats", key="credentials", problem=exc.message) from exc
    except NatsError as exc:
        raise StoreUnavailable(reason=exc.message) from exc
