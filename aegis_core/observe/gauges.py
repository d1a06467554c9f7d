"""The metrics that nobody counts: they are looked up in the node when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import attrs

from aegis_core.observe.series import Sample

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["SLICE", "Gauge", "gauges"]

SLICE: Final = 200
"""Samples that are written down, or instances looked at, between two checkpoints."""

Samples = Iterator[Sample | None]
"""A None says that a slice of work was done, and that there is more."""


@attrs.frozen(eq=False)
class Gauge:
    """A family of metrics whose samples *read* looks up."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    read: Callable[[], Samples]
    kind: str = "gauge"

    def samples(self) -> Samples:
        """What there is to tell."""
        return self.read()


def gauges(node: Node) -> tuple[Gauge, ...]:
    """What *node* can be asked."""
    runtime = node.runtime
    seen, now = runtime.directory.snapshot, runtime.clock.now

    def instances() -> Samples:
        for service in seen.services():
            health: Counter[str] = Counter()
            for at, instance in enumerate(seen.live(service), 1):
                health[seen.health(instance, now()).value] += 1
                if at % SLICE == 0:
                    yield None
            for value, number in health.items():
                yield "", {"service_name": service, "health": value}, number

    def resources() -> Samples:
        for service in seen.services():
            for instance in seen.live(service):
                labels = {"service_name": service, "instance_id": instance.instance_id}
                yield "", labels, seen.count(instance.lease)

    def in_flight() -> Samples:
        return _by_service(node.client.in_flight())

    def queued() -> Samples:
        found: Counter[str] = Counter()
        for instance in node.hosted.values():
            incarnation = instance.incarnation
            found[instance.service.name] += 0 if incarnation is None else len(incarnation.server.queue)
        return _by_service(found)

    def reconnects() -> Samples:
        yield "", {}, runtime.reconnects()

    by_service, by_instance = ("service_name",), ("service_name", "instance_id")
    return (
        Gauge("ipc_instances", "Live instances (seen).", ("service_name", "health"), instances),
        Gauge("ipc_resources_per_instance", "Resources that an instance owns (seen).", by_instance, resources),
        Gauge("ipc_calls_in_flight", "Calls of this node without an answer yet.", by_service, in_flight),
        Gauge("ipc_queue_depth", "Calls that wait at instances of this node for a handler.", by_service, queued),
        Gauge("ipc_transport_reconnects_total", "Lost connections that were made anew.", (), reconnects, "counter"),
    )


def _by_service(numbers: Counter[str]) -> Samples:
    for service, number in numbers.items():
        yield "", {"service_name": service}, number
