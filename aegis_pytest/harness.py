"""What a backend's author supplies, so that the suites and applications' tests can run on it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Literal, Self

import pytest
import trio

from aegis_core.backend import Backend, Bus, Transport

__all__ = ["Capability", "Harness"]

Capability = Literal["bus", "network", "virtual_time"]
"""What the test of an application may need of its backend; see `aegis_pytest.backends`."""


class Harness(abc.ABC):
    """A backend under test: how to open it, and what may be expected of it. One object serves one test.

    `open_backend` and `open_peer` are all that it must have. Override the attributes in which your backend differs: the suites
    ask for nothing else. `capabilities`, `check` and `for_test` are for the tests of applications, which
    ``pytest --aegis-backend`` runs on your backend if an entry point of the group ``aegis_harnesses`` names the class; and
    `ports`, `open_peer_by` and `carries_calls` for those and for the suites of nodes, where faults shall happen on the wire.
    """

    ttl: ClassVar[float] = 1.0
    """A TTL, in seconds, that the store keeps as it is: at least `Capabilities.min_ttl`, a multiple of `ttl_resolution`."""

    expiry_lateness: ClassVar[float] = 0.0
    """Seconds by which the store may be late to tell that a TTL ended. Early it may never be."""

    patience: ClassVar[float] = 30.0
    """Seconds within which whatever must happen has happened. Virtual ones cost nothing."""

    whole_transactions: ClassVar[bool] = True
    """Whether a feed tells the changes of one transaction in one batch."""

    tells_departure: ClassVar[bool] = True
    """Whether a caller learns at once that the instance it waits for stopped listening; else it waits for its timeout."""

    spreads_subscriptions: ClassVar[bool] = False
    """Whether listeners and subscriptions are known to other connections only a moment after they were made, or left."""

    names_endpoints: ClassVar[bool] = True
    """Whether each peer can tell the endpoint of any instance by its id and tag; else only the one who serves it can."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    """What applications' tests may need of it (marker ``aegis_needs``). With ``virtual_time`` they run on a virtual clock."""

    carries_calls: ClassVar[bool] = True
    """Whether calls between nodes go through the servers at `ports`, too, as they do on NATS; else, as on HTTP, past them."""

    @classmethod  # noqa: B027 - most backends have nothing to miss
    def check(cls, config: pytest.Config) -> None:
        """Called before any test is collected when ``--aegis-backend`` names the backend; *config* is pytest's.

        Raises:
            ConfigError: Something is missing that it needs, e.g. a server's program; says what to run to install it.
        """

    @classmethod
    def for_test(cls, request: pytest.FixtureRequest) -> Self:
        """The harness for one test of an application: ``cls()``, unless you say otherwise.

        Called where no Trio runs yet. A server that all tests share is a session fixture of yours:
        ``request.getfixturevalue`` starts it when the first test asks.
        """
        return cls()

    @abc.abstractmethod
    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        """A backend that nobody else sees, with an empty store.

        Opened again after it was left, it is the same store made anew: empty, and with revisions above the old ones.
        """

    @abc.abstractmethod
    def open_peer(self) -> AbstractAsyncContextManager[Backend]:
        """Another connection to the store and the network of the backend that is open."""

    @property
    def ports(self) -> Sequence[int]:
        """Ports of this machine where the servers of the open backend listen, if faults may put relays before them.

        Empty by default: then faults happen before a message reaches the connection. Otherwise a cluster opens each
        node by `open_peer_by`, and what concerns the whole of its connections (a cut from everybody, a delay of all that
        it says and hears, `aegis_pytest.faults.Faults.reset`) happens to their bytes. Leave it empty for servers that
        tell their clients of further addresses, by which these find a way around the relays.
        """
        return ()

    def open_peer_by(self, ports: Sequence[int]) -> AbstractAsyncContextManager[Backend]:
        """As `open_peer`, with the servers at *ports* of 127.0.0.1 instead: relays to those of `ports`, in that order."""
        raise NotImplementedError("a harness with ports says how to open a peer by way of relays to them")

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass for the store. Sleeping does it both on a virtual clock and on the real one."""
        await trio.sleep(seconds)

    def transport(self, backend: Backend) -> Transport:
        """The transport of *backend* that is tested: the first, unless you say otherwise."""
        return backend.transports[0]

    def bus(self, backend: Backend) -> Bus:
        """The bus of *backend*, which must have one."""
        assert backend.bus is not None, "this backend has no bus, so that no bus can be tested"
        return backend.bus
