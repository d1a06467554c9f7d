"""The HTTP backend keeps the contract, over real sockets, through two routers side by side on one store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from aegis_backends.http import open_http
from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.memory import MemoryCluster
from aegis_core.backend import Backend, Store, Transaction
from aegis_core.config import parse_backend
from aegis_core.hookspecs import Principal
from aegis_pytest.conformance import (
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)


async def commit_unjudged(store: Store, _principal: Principal, transaction: Transaction) -> tuple[int, ...]:
    """The routers of these suites let everybody do everything."""
    return await store.commit(transaction)


class HttpHarness(Harness):
    """Routers on loopback. The backend's first router is the peer's second."""

    expiry_lateness = 2.0  # that many real seconds a busy machine may take to tell it
    names_endpoints = False

    def __init__(self) -> None:
        self._ports: list[int] = []

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """Two routers, and a client of theirs."""
        async with MemoryCluster("routers").open() as memory, trio.open_nursery() as nursery:
            assert memory.store is not None
            self._ports.clear()
            for _ in range(2):
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                self._ports.append(listener.socket.getsockname()[1])
                app = RouterApp(memory.store, partial(commit_unjudged, memory.store))
                await nursery.start(serve_router, app, [listener])
            async with self._open(self._ports) as backend:
                yield backend
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """A client that asks the other router first."""
        async with self._open(self._ports[::-1]) as backend:
            yield backend

    @asynccontextmanager
    async def _open(self, ports: list[int]) -> AsyncIterator[Backend]:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with open_http(parse_backend(f"http://{hosts}")) as backend:
            yield backend


class OnHttp:
    """How the suites open the backend."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The HTTP backend."""
        return HttpHarness()


class TestHttpStore(OnHttp, StoreConformance):
    """The store."""


class TestHttpTransport(OnHttp, TransportConformance):
    """The transport."""


class TestHttpLifecycle(OnHttp, LifecycleConformance):
    """Nodes that meet at routers."""


class TestHttpRegistry(OnHttp, RegistryConformance):
    """The registry, through routers."""
