"""The suite for stores."""

from __future__ import annotations

import pytest

from aegis_pytest.conformance.commits import CommitConformance
from aegis_pytest.conformance.expiry import ExpiryConformance
from aegis_pytest.conformance.harness import Harness
from aegis_pytest.conformance.watches import WatchConformance

__all__ = ["StoreConformance"]


class StoreConformance(CommitConformance, ExpiryConformance, WatchConformance):
    """Every promise of `aegis_core.backend.Store`. Subclass it and override `harness`, and `clock` where time is virtual."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The backend under test: override this fixture."""
        raise NotImplementedError("override the fixture harness with one that returns your Harness")

    @pytest.fixture
    def clock(self) -> object:
        """The clock of the test: real time. Where nothing does I/O, return pytest-trio's ``autojump_clock``."""
        return None
