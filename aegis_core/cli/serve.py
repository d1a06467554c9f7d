"""``aegis serve``: a router, which offers its registry to nodes elsewhere."""

from __future__ import annotations

import importlib
import logging
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import attrs
import trio

from aegis_core.backend import Store, Transaction
from aegis_core.config import LogSettings, Settings, load_settings
from aegis_core.errors import ConfigError
from aegis_core.node.node import Node, open_node
from aegis_core.node.runtime import Way
from aegis_core.principals import Principal, Target
from aegis_core.router.gate import Gate
from aegis_core.router.management import Management
from aegis_core.router.router import open_router
from aegis_core.router.wire import serve_subjects

__all__ = ["serve"]

_FACE: Final = "aegis_backends.http.serving"
_REACH: Final = "aegis_backends.http.reaching"

_log: Final = logging.getLogger("aegis.router")


class _Commit(Protocol):
    """The gate to the store."""

    async def __call__(self, principal: Principal, transaction: Transaction, /) -> tuple[int, ...]: ...


_Permit = Callable[[Principal, str, Target], None]
"""Says who may do what."""

_Metrics = Callable[[], Awaitable[tuple[str, Sequence[bytes]]]]
"""A page of metrics: its content type, and its bytes in parts."""


class _ServeHttp(Protocol):
    """``serve_http`` of the HTTP backend, which the core does not know by name."""

    async def __call__(
        self,
        store: Store,
        commit: _Commit,
        permit: _Permit,
        management: Management,
        metrics: _Metrics | None,
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
    ) -> None: ...


class _Reach(Protocol):
    """``reach_instances`` of the HTTP backend."""

    async def __call__(
        self,
        nursery: trio.Nursery,
        reach: Callable[[str, Way], None],
        /,
        *,
        call_token: Path | None,
        ca: Path | None,
    ) -> None: ...


async def serve(
    *,
    http: str | None = None,
    backend: str | None = None,
    tokens: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    rate: float = math.inf,
    connections: int = 1024,
    call_token: Path | None = None,
    ca: Path | None = None,
) -> int:
    """Offer the registry of a backend to programs elsewhere: over HTTP, and on the subjects ipc.* of the backend.

    Any number of routers may run side by side on one backend, and each may be stopped or killed at any time: nodes and
    clients go on with the next.

    Over HTTP each change that a node asks for is judged: an instance changes its own, an admin everything. Whoever may
    publish on ipc.* of the backend's server is trusted.

    Warnings are logged to standard error, unless the settings log.* say what is logged where.

    Ends at Ctrl-C or SIGTERM with exit status 0, once the requests under way are answered; a second one ends it at once.

    Args:
        http: Where to serve HTTP, HOST:PORT; not at all if left out.
        backend: URL of the backend whose registry it is: NATS, memory, or a plug-in's; from the configuration if left out.
        tokens: A TOML file with a table for each client: its token, and perhaps admin = true. Without it the router serves
            this machine alone, and every program on it may do everything.
        certificate: Serve by TLS with the certificate in this file.
        key: The certificate's key, if it is in another file.
        rate: Requests per second that one client address may make, on the average of ten seconds.
        connections: How many may be open at once, 16 or more; what nodes ask of the store always finds room among them.
        call_token: A file with the token that nodes on HTTP ask of who calls their instances (their `call_token_file`).
        ca: A file of certificates to trust where these instances are called by TLS; the system's if left out.
    """
    given = {"tokens": tokens, "certificate": certificate, "key": key}
    _check(http, [name for name, file in given.items() if file is not None], rate)
    serve_http = None if http is None else _load_http()
    reach = _load_reach(needed="call_token" if call_token is not None else "ca" if ca is not None else "")
    stop = trio.Event()
    async with open_node(config=_settings(backend)) as node, open_router(node) as router:
        instruments = node.runtime.instruments
        # Memory has subjects too, which no program elsewhere can reach.
        bus = None if _in_memory(node) else router.bus
        if http is None and bus is None:
            problem = (
                "this backend has no subjects that others could reach: say where to serve HTTP, e.g. 127.0.0.1:8700"
            )
            raise ConfigError(source="aegis serve", key="http", problem=problem)
        refused: ConfigError | None = None
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait_signals() -> None:
                    await anext(signals)
                    stop.set()
                    await anext(signals)
                    nursery.cancel_scope.cancel()

                async def show_face(face: _ServeHttp, address: str, *, task_status: trio.TaskStatus[str]) -> None:
                    def tell(url: str) -> None:
                        task_status.started(url)

                    try:
                        await face(
                            node.runtime.store,
                            Gate(node).commit,
                            node.runtime.plugins.authorize,
                            Management(router),
                            _metrics_of(node),
                            address,
                            tokens=tokens,
                            certificate=certificate,
                            key=key,
                            rate=rate,
                            connections=connections,
                            stop=stop,
                            tell_cut=None if instruments is None else instruments.client_cut,
                            tell=tell,
                        )
                    finally:
                        faceless.set()

                faceless = trio.Event()
                try:
                    async with AsyncExitStack() as stack:
                        if reach is not None:
                            await reach(nursery, node.runtime.callers.__setitem__, call_token=call_token, ca=ca)
                        url = ""
                        if http is not None and serve_http is not None:
                            url = await nursery.start(show_face, serve_http, http)
                        # Last, so that no request gets lost at a router that then cannot serve.
                        if bus is not None:
                            await stack.enter_async_context(serve_subjects(router, bus))
                            print("serving ipc.*", flush=True)
                        if url:
                            print(f"serving {url}", flush=True)
                        await (faceless if url else stop).wait()
                except ConfigError as exc:
                    refused = exc
                nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
    return 0


def _settings(backend: str | None) -> Settings:
    """As configured; with warnings on standard error, where nothing is said of logs: nobody else would show them."""
    settings = load_settings(backend)
    return attrs.evolve(settings, log=LogSettings(level="WARNING")) if settings.log == LogSettings() else settings


def _check(http: str | None, files: Sequence[str], rate: float) -> None:
    """Refuse options that would not do what they seem to.

    Raises:
        ConfigError: They concern HTTP, which is not served; a key without a certificate; a rate that lets nobody in.
    """
    key, problem = "", ""
    if http is None and (files or rate < math.inf):
        key, problem = (files or ["rate"])[0], "it concerns HTTP alone: say where to serve that, by --http HOST:PORT"
    elif "key" in files and "certificate" not in files:
        key, problem = "key", "without --certificate nothing would be encrypted"
    elif not rate > 0:
        key, problem = "rate", f"expected requests per second, more than 0, got {rate:g}"
    elif http is not None and http.isdecimal():
        key, problem = "http", f"expected HOST:PORT, got {http!r}; for this machine alone it is 127.0.0.1:{http}"
    if problem:
        raise ConfigError(source="aegis serve", key=key, problem=problem)


def _in_memory(node: Node) -> bool:
    """Whether no other process can reach what *node* is connected to."""
    return urlsplit(node.runtime.settings.backend or "").scheme == "memory"


def _metrics_of(node: Node) -> _Metrics | None:
    """Where the metrics of *node* are told; None where it counts nothing."""
    settings = node.runtime.settings.metrics
    if not settings.enabled and settings.address is None:
        return None
    from aegis_core.observe.metrics import CONTENT_TYPE, exposition_in_parts  # noqa: PLC0415 - where it is asked for, and installed

    async def tell() -> tuple[str, Sequence[bytes]]:
        return CONTENT_TYPE, await exposition_in_parts(node)

    return tell


def _load_http() -> _ServeHttp:
    try:
        return cast(_ServeHttp, importlib.import_module(_FACE).serve_http)
    except ModuleNotFoundError as exc:
        raise _not_installed("http", exc) from exc


def _load_reach(*, needed: str) -> _Reach | None:
    """What calls instances on HTTP; None where it is not installed, and no option needs it."""
    try:
        return cast(_Reach, importlib.import_module(_REACH).reach_instances)
    except ModuleNotFoundError as exc:
        refused = _not_installed(needed or "http", exc)
        if needed:
            raise refused from exc
        _log.info("instances of nodes on HTTP are out of reach: %s", refused.problem)
        return None


def _not_installed(key: str, exc: ModuleNotFoundError) -> ConfigError:
    problem = f"{exc}; install it with: pip install 'aegis-ipc[http]'"
    return ConfigError(source="aegis serve", key=key, problem=problem)
