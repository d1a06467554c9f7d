"""The servers that chaos tests share, and a run that is ended from outside ends what it started."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from aegis_backends.nats.server import NatsServers
from tests.chaos.churn import SHARES
from tests.chaos.servers import running


@pytest.fixture(scope="session", autouse=True)
def ended_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: every block is left, and with it every process that it started."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def one_server() -> Iterator[NatsServers]:
    """One server."""
    with running(1) as servers:
        yield servers


@pytest.fixture(scope="session")
def three_servers() -> Iterator[NatsServers]:
    """A cluster of three."""
    with running(3) as servers:
        yield servers


@pytest.fixture
def share(request: pytest.FixtureRequest) -> int:
    """How many claims, releases and transfers the scenario does at least."""
    return SHARES[request.function.__name__]
