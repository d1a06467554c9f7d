"""One driver per test."""

from __future__ import annotations

import pytest

from tests.engine.driver import Driver


@pytest.fixture
def driver() -> Driver:
    """An empty store with a level view."""
    return Driver()
