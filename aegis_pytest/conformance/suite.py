"""What all suites have in common: how they are told what to test."""

from __future__ import annotations

import pytest

from aegis_pytest.harness import Harness

__all__ = ["Suite"]


class Suite:
    """Tests of the backend that the fixture `harness` opens: what every suite has. Not subclassed by itself."""

    pytestmark = pytest.mark.trio

    @pytest.fixture
    def harness(self) -> Harness:
        """The backend under test: override this fixture."""
        raise NotImplementedError("override the fixture harness with one that returns your Harness")

    @pytest.fixture
    def clock(self) -> object:
        """The clock of the test: real time. Where nothing does I/O, return pytest-trio's ``autojump_clock``."""
        return None
