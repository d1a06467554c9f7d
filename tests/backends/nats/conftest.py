"""One server for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.nats.processes import ServerProcess, running


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without a cluster, without users; not to be stopped."""
    with running(tmp_path_factory.mktemp("nats")) as server:
        yield server
