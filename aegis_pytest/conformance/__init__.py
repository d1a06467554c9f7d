"""Suites that prove a backend: subclass them, say how it is opened, and run pytest.

The whole test file of a backend::

    class TestStore(StoreConformance):
        @pytest.fixture
        def harness(self) -> Harness:
            return MyHarness()

The suites speak of capabilities, never of products: what a store cannot do it says in its `Harness` and in its
`aegis_core.backend.Capabilities`. They are coroutines for Trio; nothing but pytest-trio is needed to run them.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "aegis_pytest.conformance.bus",
    "aegis_pytest.conformance.commits",
    "aegis_pytest.conformance.expiry",
    "aegis_pytest.conformance.lifecycle",
    "aegis_pytest.conformance.registry",
    "aegis_pytest.conformance.steps",
    "aegis_pytest.conformance.transport",
    "aegis_pytest.conformance.watches",
)

from aegis_pytest.conformance.bus import BusConformance  # noqa: E402
from aegis_pytest.conformance.lifecycle import LifecycleConformance  # noqa: E402
from aegis_pytest.conformance.registry import RegistryConformance  # noqa: E402
from aegis_pytest.conformance.store import StoreConformance  # noqa: E402
from aegis_pytest.conformance.suite import Suite  # noqa: E402
from aegis_pytest.conformance.transport import TransportConformance  # noqa: E402
from aegis_pytest.harness import Harness  # noqa: E402

__all__ = [
    "BusConformance",
    "Harness",
    "LifecycleConformance",
    "RegistryConformance",
    "StoreConformance",
    "Suite",
    "TransportConformance",
]
