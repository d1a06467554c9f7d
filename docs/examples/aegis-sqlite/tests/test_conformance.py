"""The backend keeps the contract, on real files and in real time."""

from __future__ import annotations

import pytest
from aegis_sqlite.harness import SqliteHarness

from aegis_pytest.conformance import (
    Harness,
    LifecycleConformance,
    RegistryConformance,
    StoreConformance,
    TransportConformance,
)


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
