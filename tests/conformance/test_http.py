"""The HTTP backend keeps the contract, over real sockets, through two routers side by side on one store.

The suites of the store write what no node would, so their routers let everything pass. Those of nodes have routers that
judge each transaction, and clients whose token gives no permission beyond what their own lease ids prove.
"""

from __future__ import annotations

from itertools import count

import pytest

from aegis_backends.nats.server import NatsServers
from aegis_pytest.conformance import (
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)
from aegis_pytest.http import HttpHarness
from tests.conformance.test_nats import one_server

__all__ = ["one_server"]
pytestmark = pytest.mark.thorough

_numbers = count(1)


class TestHttpStore(StoreConformance):
    """The store."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Routers on a store in memory, that let everything pass."""
        return HttpHarness("memory://routers")


class TestHttpTransport(TransportConformance):
    """The transport, which needs no router."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Routers that are asked for nothing."""
        return HttpHarness("memory://routers")


class TestHttpLifecycle(LifecycleConformance):
    """Nodes that may do what their leases prove, and nothing else."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Routers that judge."""
        return HttpHarness("memory://routers", judges=True)


class TestHttpRegistry(RegistryConformance):
    """The registry, for clients that may act for others."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Routers that judge, and permit."""
        return HttpHarness("memory://routers", judges=True, is_admin=True)


class OnNats:
    """Routers on a bucket of the test's own."""

    judges = False
    is_admin = False

    @pytest.fixture
    def harness(self, one_server: NatsServers) -> Harness:
        """On one server, in memory."""
        url = f"nats://{one_server.location}?bucket=http-{next(_numbers)}&storage=memory&replicas=1"
        return HttpHarness(url, judges=self.judges, is_admin=self.is_admin)


class TestHttpOnNatsStore(OnNats, StoreConformance):
    """The store, whose routers keep it in a bucket."""


class TestHttpOnNatsLifecycle(OnNats, LifecycleConformance):
    """Nodes, whose routers judge and keep the store in a bucket."""

    judges = True


class TestHttpOnNatsRegistry(OnNats, RegistryConformance):
    """The registry, whose routers keep it in a bucket."""

    judges = True
    is_admin = True
