"""The NATS backend keeps the contract: on one server in memory and on disk, and on a cluster of three.

``nox -s conformance`` runs it; ``--aegis-nats-url`` names a cluster to use instead of that one server. Every run of the tests
holds the memory backend to the same contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegis_backends.nats.server import NatsServers
from aegis_pytest.conformance import (
    BusConformance,
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)
from aegis_pytest.conformance.on_nats import (
    TestNatsBus,
    TestNatsLifecycle,
    TestNatsRegistry,
    TestNatsStore,
    TestNatsTransport,
)
from aegis_pytest.nats import NatsHarness, running_servers

__all__ = ["TestNatsBus", "TestNatsLifecycle", "TestNatsRegistry", "TestNatsStore", "TestNatsTransport"]

pytestmark = pytest.mark.thorough


class SingleHarness(NatsHarness):
    """On one server, which knows of every subscription at once."""

    spreads_subscriptions = False


@pytest.fixture(scope="session")
def one_server() -> Iterator[NatsServers]:
    """One server, which all tests share."""
    with running_servers(1) as servers:
        yield servers


@pytest.fixture(scope="session")
def three_servers() -> Iterator[NatsServers]:
    """A cluster of three, which all tests share."""
    with running_servers(3) as servers:
        yield servers


class OnSingle:
    """A bucket on one server, in memory."""

    @pytest.fixture
    def harness(self, one_server: NatsServers) -> Harness:
        """A bucket of the test's own."""
        return SingleHarness(f"{one_server.url}?storage=memory")


class TestNatsSingleBus(OnSingle, BusConformance):
    """The bus, with subscriptions that count as soon as they are made."""


class TestNatsSingleTransport(OnSingle, TransportConformance):
    """The transport, with listeners that are known as soon as they are there."""


class OnDisk:
    """A bucket on one server, in files."""

    @pytest.fixture
    def harness(self, one_server: NatsServers) -> Harness:
        """A bucket of the test's own."""
        return NatsHarness(f"{one_server.url}?storage=file")


class OnCluster:
    """A bucket on three servers, in files."""

    @pytest.fixture
    def harness(self, three_servers: NatsServers) -> Harness:
        """A bucket of the test's own."""
        return NatsHarness(f"{three_servers.url}?storage=file&replicas=3")


class TestNatsOnDiskStore(OnDisk, StoreConformance):
    """The store in files."""


class TestNatsOnDiskLifecycle(OnDisk, LifecycleConformance):
    """Nodes on a store in files."""


class TestNatsOnDiskRegistry(OnDisk, RegistryConformance):
    """The registry in files."""


class TestNatsClusterStore(OnCluster, StoreConformance):
    """The store on a cluster."""


class TestNatsClusterTransport(OnCluster, TransportConformance):
    """The transport through a cluster."""


class TestNatsClusterBus(OnCluster, BusConformance):
    """The bus through a cluster."""


class TestNatsClusterLifecycle(OnCluster, LifecycleConformance):
    """Nodes on a cluster."""


class TestNatsClusterRegistry(OnCluster, RegistryConformance):
    """The registry on a cluster."""
