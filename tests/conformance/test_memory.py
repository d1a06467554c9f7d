"""The memory backend keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from aegis_backends.memory import open_memory
from aegis_core.backend import Backend, BackendAddress
from aegis_pytest.conformance import (
    BusConformance,
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)

ADDRESS = BackendAddress("memory://conformance", "memory", "conformance")


class MemoryHarness(Harness):
    """``memory://conformance``, alone in the test's Trio run."""

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """The first to open the cluster."""
        async with open_memory(ADDRESS) as backend:
            yield backend

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """The next to open it."""
        async with open_memory(ADDRESS) as backend:
            yield backend


class OnMemory:
    """How the suites open the backend, and that their time is virtual."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The memory backend."""
        return MemoryHarness()

    @pytest.fixture
    def clock(self, autojump_clock: MockClock) -> object:
        """Virtual time."""
        return autojump_clock


class TestMemoryStore(OnMemory, StoreConformance):
    """The store."""


class TestMemoryTransport(OnMemory, TransportConformance):
    """The transport."""


class TestMemoryBus(OnMemory, BusConformance):
    """The bus."""


class TestMemoryLifecycle(OnMemory, LifecycleConformance):
    """Nodes on it."""


class TestMemoryRegistry(OnMemory, RegistryConformance):
    """The registry on it."""
