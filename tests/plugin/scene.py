"""Three nodes without nodes: the ports of a memory cluster behind a plane of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import (
    ANY,
    Backend,
    Inbound,
    Put,
    Store,
    Transaction,
    Transport,
)
from aegis_pytest.faults import FaultPlane, Faults


@attrs.frozen
class Scene:
    """Three nodes on one memory cluster, and its bare store."""

    plane: FaultPlane
    faults: Faults
    bare: Store
    a: Backend
    b: Backend
    c: Backend


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """A new cluster."""
    cluster = MemoryCluster(first_revision=1)
    async with cluster.open() as bare, cluster.open() as a, cluster.open() as b, cluster.open() as c:
        plane = FaultPlane(store_timeout=2.0)
        nodes = (plane.attach(name, backend) for name, backend in (("a", a), ("b", b), ("c", c)))
        yield Scene(plane, Faults(plane), store_of(bare), *nodes)


def store_of(backend: Backend) -> Store:
    """The store of *backend*."""
    assert backend.store is not None
    return backend.store


def transport_of(backend: Backend) -> Transport:
    """The transport of *backend*."""
    (transport,) = backend.transports
    return transport


def tx(key: str, value: bytes = b"v", *, expect: int = ANY, ttl: float | None = None) -> Transaction:
    """A transaction named after its key and value, so that a second one of the same name is a repeat."""
    return Transaction(f"tx-{key}-{value!r}", (Put(key, value, expect, ttl),))


async def commit(backend: Backend, key: str, value: bytes = b"v") -> int:
    """Put *value* under *key*."""
    (revision,) = await store_of(backend).commit(tx(key, value))
    return revision


async def request(backend: Backend, endpoint: str, payload: bytes = b"?", timeout: float = 5.0) -> bytes:
    """Ask *endpoint*."""
    return await transport_of(backend).request(endpoint, payload, timeout=timeout)


async def value_of(scene: Scene, key: str) -> bytes | None:
    """What the store really has."""
    entry = await scene.bare.get(key)
    return None if entry is None else entry.value


def echo(request: Inbound) -> None:
    """Answer with what was asked."""
    request.respond(request.payload)


@asynccontextmanager
async def listening(
    backend: Backend, receive: Callable[[Inbound], None] = echo, *, tag: str = "t"
) -> AsyncIterator[str]:
    """*backend* serves."""
    async with transport_of(backend).listen("i", tag, receive) as endpoint:
        yield endpoint


@asynccontextmanager
async def elapses(seconds: float) -> AsyncIterator[None]:
    """The block takes *seconds*, virtual ones."""
    before = trio.current_time()
    yield
    assert trio.current_time() - before == pytest.approx(seconds)
