"""The backends that an application's tests run on: the option ``--aegis-backend``.

Each has what the nodes of a test's cluster share (`SharedBackend`), and *capabilities*, by which tests say what they need:

- ``virtual_time``: the clock jumps over every wait;
- ``network``: nodes talk over real sockets, so that programs outside of the test can take part;
- ``bus``: subjects that anybody can publish to.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import attrs

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import Backend, Clock
from aegis_core.errors import ConfigError

__all__ = ["BACKENDS", "CAPABILITIES", "REAL_TTL", "BackendChoice", "SharedBackend", "on_memory", "read_choices"]

REAL_TTL: Final = 3.0
"""Seconds that registrations live where time is real: short, and a busy machine still renews them in time."""

# The same in every run of a test, and not so low that an epoch could be taken for a count.
_FIRST_REVISION: Final = 1001


class SharedBackend(Protocol):
    """What the nodes of a cluster share. A `aegis_pytest.conformance.Harness` is one."""

    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        """Entered before the first node, and left after the last."""
        ...

    def open_peer(self) -> AbstractAsyncContextManager[Backend]:
        """One node's own connection, for one life of it."""
        ...


class _OnMemory:
    """A memory cluster of the test's own."""

    def __init__(self, clock: Clock | None) -> None:
        self._cluster = MemoryCluster("cluster", clock=clock, first_revision=_FIRST_REVISION)
        self._clock = clock

    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        return self._cluster.open()

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        async with self._cluster.open() as backend:
            yield backend if self._clock is None else attrs.evolve(backend, clock=self._clock)


def on_memory(clock: Clock | None = None) -> SharedBackend:
    """A memory backend that nobody else sees, whose store and nodes live by *clock*; by the one of life if that is None."""
    return _OnMemory(clock)


def _on_nats(nats_url: str, own: bool) -> SharedBackend:  # noqa: FBT001 - as `BackendChoice.share` is called
    from aegis_pytest.nats import NatsHarness  # noqa: PLC0415 - what is not chosen is not loaded

    return NatsHarness(nats_url, alone=own)


def _on_http() -> SharedBackend:
    from aegis_pytest.http import HttpHarness  # noqa: PLC0415 - what is not chosen is not loaded

    return HttpHarness("memory://routers", judges=True, is_admin=True)


def _need_nats_server() -> None:
    from aegis_backends.nats.server import find_program  # noqa: PLC0415 - what is not chosen is not loaded

    find_program()


def _need_http() -> None:
    missing = [name for name in ("httptools", "httpx") if importlib.util.find_spec(name) is None]
    if missing:
        problem = f"{' and '.join(missing)} not installed: run `pip install 'aegis-ipc[http]'`"
        raise ConfigError(source="--aegis-backend", key="http", problem=problem)


@attrs.frozen(kw_only=True)
class BackendChoice:
    """One backend that tests can run on.

    Args:
        name: As ``--aegis-backend`` has it.
        capabilities: What tests may need of it; of `CAPABILITIES`.
        share: Makes what the nodes of one test share, from the URL of a NATS server ("" where none is needed), and whether
            that is a single one that the plugin started.
        check: Raises `ConfigError`, which says what to install, if its parts are missing.
        needs_server: Whether *share* wants a NATS server.
        ttl: The TTL of instances that are served without one; None for the library's default.
    """

    name: str
    capabilities: frozenset[str]
    share: Callable[[str, bool], SharedBackend]
    check: Callable[[], None] = lambda: None
    needs_server: bool = False
    ttl: float | None = REAL_TTL


BACKENDS: Final[Mapping[str, BackendChoice]] = {
    choice.name: choice
    for choice in (
        BackendChoice(
            name="memory",
            capabilities=frozenset({"virtual_time", "bus"}),
            share=lambda _url, _own: on_memory(),
            ttl=None,
        ),
        BackendChoice(
            name="nats",
            capabilities=frozenset({"network", "bus"}),
            share=_on_nats,
            check=_need_nats_server,
            needs_server=True,
        ),
        BackendChoice(
            name="http",
            capabilities=frozenset({"network"}),
            share=lambda _url, _own: _on_http(),
            check=_need_http,
        ),
    )
}
"""Every backend that ``--aegis-backend`` can name."""

CAPABILITIES: Final[Collection[str]] = sorted(frozenset().union(*(it.capabilities for it in BACKENDS.values())))
"""What the marker ``aegis_needs`` can name."""


def read_choices(given: str) -> tuple[BackendChoice, ...]:
    """The backends that ``--aegis-backend`` names, in that order.

    Raises:
        ConfigError: One is unknown, or named twice.
    """
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in BACKENDS:
            problem = f"expected one or more of {', '.join(BACKENDS)}, with commas between; got {given!r}"
            raise ConfigError(source="--aegis-backend", problem=problem)
        if names.count(name) > 1:
            raise ConfigError(source="--aegis-backend", problem=f"{name!r} is named twice")
    return tuple(BACKENDS[name] for name in names)
