"""The suites on NATS, ready to run: by default on a server that the plugin starts, or on a cluster of yours.

::

    pytest --pyargs aegis_pytest.conformance.on_nats --aegis-nats-url "nats://n1:4222,n2:4222?replicas=3&creds=/path"

Each test makes a bucket ``aegis-conformance-…`` and removes it; nothing else in the cluster is touched, but that the tests
publish on subjects that begin with ``ipc.``.
"""

from __future__ import annotations

import pytest

from aegis_pytest.conformance import (
    BusConformance,
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)
from aegis_pytest.nats import NatsHarness

__all__ = ["OnNats", "TestNatsBus", "TestNatsLifecycle", "TestNatsRegistry", "TestNatsStore", "TestNatsTransport"]


class OnNats:
    """Where the suites run."""

    @pytest.fixture
    def harness(self, aegis_nats_url: str) -> Harness:
        """A bucket of the test's own."""
        return NatsHarness(aegis_nats_url)


class TestNatsStore(OnNats, StoreConformance):
    """The store."""


class TestNatsTransport(OnNats, TransportConformance):
    """The transport."""


class TestNatsBus(OnNats, BusConformance):
    """The bus."""


class TestNatsLifecycle(OnNats, LifecycleConformance):
    """Nodes."""


class TestNatsRegistry(OnNats, RegistryConformance):
    """The registry."""
