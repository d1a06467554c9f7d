"""The NATS backend keeps the contract: on one server in memory and on disk, and on a cluster of three.

One server in memory is part of every run of the tests; the others are marked ``thorough``, see the project's settings.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
import trio

from aegis_backends.nats import open_nats, remove_bucket
from aegis_backends.nats.server import NatsServers
from aegis_core.backend import Backend, BackendAddress
from aegis_pytest.conformance import (
    BusConformance,
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)

_numbers = count(1)
# A file system in memory where there is one: what is tested is the server's way with files, not somebody's disk.
SHARED_MEMORY = Path("/dev/shm")


class NatsHarness(Harness):
    """A bucket of its own on servers that run already."""

    # A server looks for what has expired four times a second; the rest is for a busy machine.
    expiry_lateness = 1.0
    tells_departure = False

    def __init__(self, servers: NatsServers, storage: str, replicas: int) -> None:
        parameters = {"bucket": f"conformance-{next(_numbers)}", "storage": storage, "replicas": str(replicas)}
        self._address = BackendAddress(servers.url, "nats", servers.location, parameters)

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """The bucket, made and removed."""
        try:
            async with open_nats(self._address) as backend:
                yield backend
        finally:
            with trio.CancelScope(shield=True):
                await remove_bucket(self._address)

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """Another connection."""
        async with open_nats(self._address) as backend:
            yield backend


class ClusterHarness(NatsHarness):
    """The same, on servers that tell each other who subscribed."""

    spreads_subscriptions = True


@contextmanager
def running(count: int) -> Iterator[NatsServers]:
    """Servers for a whole session of tests."""
    directory = Path(tempfile.mkdtemp(prefix="aegis-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    try:
        servers = NatsServers(count, directory)
        trio.run(servers.start)
        try:
            yield servers
        finally:
            trio.run(servers.stop)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def one_server() -> Iterator[NatsServers]:
    """One server, which all tests share."""
    with running(1) as servers:
        yield servers


@pytest.fixture(scope="session")
def three_servers() -> Iterator[NatsServers]:
    """A cluster of three, which all tests share."""
    with running(3) as servers:
        yield servers


class OnOneServer:
    """A bucket on one server, in memory."""

    storage: ClassVar[str] = "memory"

    @pytest.fixture
    def harness(self, one_server: NatsServers) -> Harness:
        """A bucket of the test's own."""
        return NatsHarness(one_server, self.storage, replicas=1)


class OnDisk(OnOneServer):
    """A bucket on one server, in files."""

    storage: ClassVar[str] = "file"


class OnCluster:
    """A bucket on three servers, in files."""

    @pytest.fixture
    def harness(self, three_servers: NatsServers) -> Harness:
        """A bucket of the test's own."""
        return ClusterHarness(three_servers, "file", replicas=3)


class TestNatsStore(OnOneServer, StoreConformance):
    """The store on one server."""


class TestNatsTransport(OnOneServer, TransportConformance):
    """The transport through one server."""


class TestNatsBus(OnOneServer, BusConformance):
    """The bus through one server."""


class TestNatsLifecycle(OnOneServer, LifecycleConformance):
    """Nodes on one server."""


class TestNatsRegistry(OnOneServer, RegistryConformance):
    """The registry on one server."""


@pytest.mark.thorough
class TestNatsOnDiskStore(OnDisk, StoreConformance):
    """The store in files."""


@pytest.mark.thorough
class TestNatsOnDiskLifecycle(OnDisk, LifecycleConformance):
    """Nodes on a store in files."""


@pytest.mark.thorough
class TestNatsOnDiskRegistry(OnDisk, RegistryConformance):
    """The registry in files."""


@pytest.mark.thorough
class TestNatsClusterStore(OnCluster, StoreConformance):
    """The store on a cluster."""


@pytest.mark.thorough
class TestNatsClusterTransport(OnCluster, TransportConformance):
    """The transport through a cluster."""


@pytest.mark.thorough
class TestNatsClusterBus(OnCluster, BusConformance):
    """The bus through a cluster."""


@pytest.mark.thorough
class TestNatsClusterLifecycle(OnCluster, LifecycleConformance):
    """Nodes on a cluster."""


@pytest.mark.thorough
class TestNatsClusterRegistry(OnCluster, RegistryConformance):
    """The registry on a cluster."""
