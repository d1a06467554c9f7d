"""The backend keeps the contract, on real files and in real time."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aegis_sqlite import open_sqlite

from aegis_core.backend import Backend
from aegis_core.config import parse_backend
from aegis_pytest.conformance import (
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)


class SqliteHarness(Harness):
    """A file in a folder of its own; a peer is another pair of connections, as of another process."""

    ttl = 0.5
    expiry_lateness = 2.0  # that many real seconds a busy machine may take to tell it
    names_endpoints = False  # an address of HTTP is its node's own

    def __init__(self) -> None:
        self._url = ""

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """A new file."""
        with tempfile.TemporaryDirectory() as folder:
            self._url = f"sqlite://{Path(folder) / 'registry.db'}"
            async with open_sqlite(parse_backend(self._url)) as backend:
                yield backend

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """The same file."""
        async with open_sqlite(parse_backend(self._url)) as backend:
            yield backend


class OnSqlite:
    """What the suites need to know."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The backend under test. Time is real, so that the suites' own `clock` is the right one."""
        return SqliteHarness()


class TestSqliteStore(OnSqlite, StoreConformance):
    """The store."""


class TestSqliteTransport(OnSqlite, TransportConformance):
    """The transport, which is HTTP's."""


class TestSqliteLifecycle(OnSqlite, LifecycleConformance):
    """Nodes."""


class TestSqliteRegistry(OnSqlite, RegistryConformance):
    """The registry."""
