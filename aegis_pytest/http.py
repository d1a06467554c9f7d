"""Routers of the HTTP backend for tests: two of them, side by side on one store, on sockets of this machine."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
import trio

from aegis_backends.http import open_http
from aegis_backends.http.tokens import Tokens
from aegis_core.backend import Backend, Store, Transaction
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.node.node import open_node
from aegis_core.router.gate import Gate
from aegis_pytest.harness import Harness

if TYPE_CHECKING:
    from aegis_backends.http.app import Commit

__all__ = ["HttpHarness"]


async def _commit_unjudged(store: Store, _principal: Principal, transaction: Transaction) -> tuple[int, ...]:
    """Everybody may do everything."""
    return await store.commit(transaction)


class _PermitsFaults:
    """The suites end leases early by writing other people's records: routers permit that, and no more."""

    @hookimpl
    def aegis_authorize(self, operation: str) -> bool | None:
        """Only that."""
        return True if operation == "heartbeat" else None


class HttpHarness(Harness):
    """Routers on loopback. The backend's first router is the peer's second.

    Args:
        url: Of the routers' store.
        judges: Whether they judge transactions.
        is_admin: Whether their clients may do what they cannot prove.
    """

    expiry_lateness = 2.0  # that many real seconds a busy machine may take to tell it
    names_endpoints = False
    capabilities = frozenset({"network"})
    carries_calls = False

    def __init__(self, url: str, *, judges: bool = False, is_admin: bool = False) -> None:
        self._url = url
        self._judges = judges
        self._tokens = Tokens({"secret": Principal("token", "tests", is_admin=is_admin)})
        self._ports: list[int] = []
        self._folder = Path(tempfile.gettempdir())

    @classmethod
    def check(cls, config: pytest.Config) -> None:
        """The packages of the extra are needed."""
        missing = [name for name in ("httptools", "httpx") if importlib.util.find_spec(name) is None]
        if missing:
            problem = f"{' and '.join(missing)} not installed: run `pip install 'aegis-ipc[http]'`"
            raise ConfigError(source="--aegis-backend", key="http", problem=problem)

    @classmethod
    def for_test(cls, request: pytest.FixtureRequest) -> Self:
        """Routers that judge, and permit what an application's test may do to its own cluster."""
        return cls("memory://routers", judges=True, is_admin=True)

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """Two routers, and a client of theirs."""
        from aegis_backends.http.app import RouterApp, serve_router  # noqa: PLC0415 - `check` works without its packages

        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            self._folder = Path(folder)
            (self._folder / "token").write_text("secret")
            opened = [open_node(self._url, plugins=[_PermitsFaults()]) for _ in range(2)]
            nodes = [await stack.enter_async_context(node) for node in opened]
            nursery = await stack.enter_async_context(trio.open_nursery())
            self._ports.clear()
            for node in nodes:
                store = node.runtime.store
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                self._ports.append(listener.socket.getsockname()[1])
                commit: Commit = Gate(node).commit if self._judges else partial(_commit_unjudged, store)
                await nursery.start(
                    serve_router,
                    RouterApp(store, commit, node.runtime.plugins.authorize, tokens=self._tokens),
                    [listener],
                )
            async with self._open(self._ports) as backend:
                yield backend
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """A client that asks the other router first."""
        async with self.open_peer_by(self.ports) as backend:
            yield backend

    @property
    def ports(self) -> list[int]:
        """Where the routers are, the other one first."""
        return self._ports[::-1]

    def open_peer_by(self, ports: Sequence[int]) -> AbstractAsyncContextManager[Backend]:
        """A client that finds the routers at *ports*."""
        return self._open(ports)

    @asynccontextmanager
    async def _open(self, ports: Sequence[int]) -> AsyncIterator[Backend]:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with open_http(parse_backend(f"http://{hosts}?token_file={self._folder}/token")) as backend:
            yield backend
