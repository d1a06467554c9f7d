"""What a backend's author supplies, so that the suites can run against it."""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import trio

from aegis_core.backend import Backend, Bus, Transport

__all__ = ["Harness"]


class Harness(abc.ABC):
    """A backend under test: how to open it, and what may be expected of it. One object serves one test.

    Override the attributes in which your backend differs; they are capabilities, and the suites ask for nothing else.
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

    @abc.abstractmethod
    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        """A backend that nobody else sees, with an empty store.

        Opened again after it was left, it is the same store made anew: empty, and with revisions above the old ones.
        """

    @abc.abstractmethod
    def open_peer(self) -> AbstractAsyncContextManager[Backend]:
        """Another connection to the store and the network of the backend that is open."""

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
