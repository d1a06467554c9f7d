"""How tests open the backend: the conformance suites in ``tests``, and those of applications by ``--aegis-backend=sqlite``.

Only this module needs ``aegis-ipc[test]``, and nothing else of the package imports it.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aegis_core.backend import Backend
from aegis_core.config import parse_backend
from aegis_pytest.conformance import Harness
from aegis_sqlite.opening import open_sqlite

__all__ = ["SqliteHarness"]


class SqliteHarness(Harness):
    """A file in a folder of its own; a peer is another pair of connections, as of another process.

    It has no servers, so that no connections can be broken, and no `ports`.
    """

    ttl = 0.5
    expiry_lateness = 2.0  # that many real seconds a busy machine may take to tell it
    names_endpoints = False  # an address of HTTP is its node's own

    def __init__(self) -> None:
        self._url = ""

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """A new file."""
        with tempfile.TemporaryDirectory() as folder:
            self._url = f"sqlite://{folder}/registry.db"
            async with open_sqlite(parse_backend(self._url)) as backend:
                yield backend

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """The same file."""
        async with open_sqlite(parse_backend(self._url)) as backend:
            yield backend
