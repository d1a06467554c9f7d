"""With no fault in force, faulty ports keep the contract: what a test sees under faults is the faults' doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import Backend
from aegis_pytest.conformance import Harness, StoreConformance, TransportConformance
from aegis_pytest.faults import FaultPlane


class FaultlessHarness(Harness):
    """A memory cluster whose users are nodes of a plane without faults."""

    def __init__(self) -> None:
        self.plane = FaultPlane()
        self.count = 0
        self.cluster = MemoryCluster()

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """A new cluster."""
        self.cluster = MemoryCluster()
        async with self.open_peer() as backend:
            yield backend

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """Another node."""
        self.count += 1
        async with self.cluster.open() as backend:
            yield self.plane.attach(f"node-{self.count}", backend)


class Faultless:
    """How both suites open the backend, and that their time is virtual."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Faulty ports, no faults."""
        return FaultlessHarness()

    @pytest.fixture
    def clock(self, autojump_clock: MockClock) -> object:
        """Virtual time."""
        return autojump_clock


class TestFaultlessStore(Faultless, StoreConformance):
    """The store."""


class TestFaultlessTransport(Faultless, TransportConformance):
    """The transport."""
