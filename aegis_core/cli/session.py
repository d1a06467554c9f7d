"""How a command gets at the registry: a node of its own, for as long as the command runs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from aegis_core.config import load_settings, parse_backend
from aegis_core.errors import InstanceNotFound, InvalidRequest, StoreUnavailable
from aegis_core.models import ServiceInstance
from aegis_core.node.node import Node, open_node

__all__ = ["connect", "count_held", "find_instance", "shown_backend"]


@asynccontextmanager
async def connect(
    backend: str | None, timeout: float, *, drain: float | None = None, plugins: Sequence[object] = ()
) -> AsyncIterator[Node]:
    """A node on *backend* while the block runs.

    Args:
        backend: Its URL; as configured if None.
        timeout: Seconds until it is connected, and for each operation of its registry.
        drain: Seconds that others may take to hand over, on top of *timeout*; as configured if None.
        plugins: Beside those that are installed.

    Raises:
        ConfigError: Nothing says which backend, or a setting is wrong.
        StoreUnavailable, TransportUnavailable: There is no server, or none that answered in time.
    """
    settings = attrs.evolve(load_settings(backend), request_timeout=timeout)
    if drain is not None:
        settings = attrs.evolve(settings, drain=drain)
    with trio.CancelScope(deadline=trio.current_time() + timeout) as opening:
        async with open_node(config=settings, plugins=plugins) as node:
            opening.deadline = math.inf
            yield node
    if opening.cancelled_caught:
        raise StoreUnavailable(reason=f"no connection within {timeout:g} s")


def count_held(node: Node, instance: ServiceInstance) -> int:
    """How many resources *instance* owns, as this node saw it last: in a list, asking the store for each would take long."""
    return node.runtime.directory.snapshot.count(instance.lease)


def shown_backend(url: str) -> str:
    """*url* for people: neither the password that it may hold nor its parameters."""
    address = parse_backend(url)
    return f"{address.scheme}://{address.location.rpartition('@')[2]}"


async def find_instance(node: Node, instance_id: str, service: str | None) -> ServiceInstance:
    """The live instance of that id, of *service* or of whichever service has one.

    Raises:
        InstanceNotFound: There is none.
        InvalidRequest: Several services have one, and nothing says which is meant.
    """
    found = [
        instance
        for view in await node.registry.list_services()
        if service is None or view.service_name == service
        for instance in view.instances
        if instance.instance_id == instance_id
    ]
    if not found:
        raise InstanceNotFound(instance_id=instance_id, service_name=service or "")
    if len(found) > 1:
        several = ", ".join(instance.service_name for instance in found)
        raise InvalidRequest.at("--service", f"say which is meant: {several} have an instance {instance_id!r} each")
    return found[0]
