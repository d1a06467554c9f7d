"""The memory backend for tests: a cluster of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import attrs

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import Backend, Clock
from aegis_pytest.harness import Harness

__all__ = ["MemoryHarness"]

# The same in every run of a test, and not so low that an epoch could be taken for a count.
_FIRST_REVISION: Final = 1001


class MemoryHarness(Harness):
    """A memory cluster that nobody else sees.

    Args:
        clock: What its store and nodes live by; the clock of Trio if that is None.
    """

    capabilities = frozenset({"virtual_time", "bus"})

    def __init__(self, clock: Clock | None = None) -> None:
        self._cluster = MemoryCluster("cluster", clock=clock, first_revision=_FIRST_REVISION)
        self._clock = clock

    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        """The first connection to the cluster."""
        return self._cluster.open()

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """The next one."""
        async with self._cluster.open() as backend:
            yield backend if self._clock is None else attrs.evolve(backend, clock=self._clock)
