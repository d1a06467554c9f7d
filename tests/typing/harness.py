"""A harness for a backend with servers, as a typed program has it. Read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self, assert_type

import pytest

from aegis_core.backend import Backend
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError
from aegis_pytest.backends import load_harness
from aegis_pytest.cluster import open_cluster
from aegis_pytest.conformance import Harness


class OwnHarness(Harness):
    """With everything that a harness may have."""

    capabilities = frozenset({"network", "bus"})
    carries_calls = False
    ttl = 0.5

    def __init__(self, port: int) -> None:
        self._port = port

    @classmethod
    def check(cls, config: pytest.Config) -> None:
        """What it raises is typed, too."""
        raise ConfigError(source="--aegis-backend", key="own", problem="no server here: run `pip install own-server`")

    @classmethod
    def for_test(cls, request: pytest.FixtureRequest) -> Self:
        """It gives an object of its own class."""
        return cls(request.getfixturevalue("own_server"))

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """As a generator."""
        async with self.open_peer() as backend:
            assert_type(backend, Backend)
            yield backend

    def open_peer(self) -> AbstractAsyncContextManager[Backend]:
        """As a function."""
        return self.open_peer_by(self.ports)

    @property
    def ports(self) -> tuple[int, ...]:
        """Any sequence does."""
        return (self._port,)

    def open_peer_by(self, ports: Sequence[int]) -> AbstractAsyncContextManager[Backend]:
        """By way of relays."""
        (port,) = ports
        return open_own(f"own://127.0.0.1:{port}")


class Misspelt(OwnHarness):
    """What there is not, is found."""

    capabilities = frozenset({"virtaul_time"})  # type: ignore[arg-type]


@asynccontextmanager
async def open_own(url: str) -> AsyncIterator[Backend]:
    """The opener of the backend."""
    parse_backend(url)
    yield Backend(store=None, transports=())


async def used() -> None:
    """By name, and by hand."""
    assert_type(load_harness("own"), type[Harness])
    async with open_cluster(OwnHarness(4222), ttl=3.0) as cluster:
        assert_type(cluster.ttl, float)
