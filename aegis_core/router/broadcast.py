"""Events for clients of the subjects, told by one router at a time: the one that owns `RESOURCE`.

When that one dies, the next goes on after its lease has ended: events may be missed in between, or told twice. The store's
revision of each says which they are.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Bus, TransportUnavailable
from aegis_core.errors import AegisError, LeaseLost
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceLost,
    InstanceRegistered,
    ResourceExpired,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    Resync,
    RoleChanged,
)
from aegis_core.models import Role
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_core.node.subscription import EventStream

__all__ = ["RESOURCE", "Broadcast"]

_log: Final = logging.getLogger("aegis.router")

RESOURCE: Final = "aegis:events"
"""What the router that tells events owns."""

# What the store tells every node; the rest are facts about one node.
_TOLD: Final = (
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceLost,
    InstanceRegistered,
    ResourceExpired,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
_FIELDS: Final[Mapping[str, object]] = {
    "service_name": "",
    "instance_id": "",
    "resource_id": "",
    "old": None,
    "new": None,
    "reason": "",
    "revision": 0,
}
_NOBODY: Final = "_"
_PAUSE: Final = 1.0
_AT_ONCE: Final = 100


class Broadcast:
    """The events, as one router tells them.

    Args:
        node: The router's.
        instance: Its instance, which waits for its turn.
        bus: Where they are told.
    """

    def __init__(self, node: Node, instance: Instance, bus: Bus) -> None:
        self._node = node
        self._instance = instance
        self._bus = bus

    def __repr__(self) -> str:
        return f"<Broadcast of {self._instance!r}>"

    async def run(self) -> None:
        """Wait for its turn, and tell events, for ever."""
        while True:
            try:
                async with self._instance.own(RESOURCE, role=Role.STANDBY), self._node.events(*_TOLD) as events:
                    async for event in events:
                        self._tell(event)
                        self._tell_more(events)
            except LeaseLost as exc:
                _log.warning("another router tells events now: %s", exc)
            except AegisError as exc:
                _log.warning("no events are told by this router for now: %s", exc)
                await self._node.committer.pause(_PAUSE)

    def _tell_more(self, events: EventStream[Event]) -> None:
        """Tell what else there is now: told in one step, it is sent together."""
        with suppress(trio.WouldBlock):
            for _ in range(_AT_ONCE):
                self._tell(events.receive_nowait())

    def _tell(self, event: Event | Resync) -> None:
        subject = f"ipc.events.{event.kind}.{event.service_name or _NOBODY}"
        try:
            self._bus.publish(subject, codec.encode_plain(told(event)))
        except (TransportUnavailable, ValueError) as exc:
            _log.warning("%s is not told: %s", subject, exc)


def told(event: Event) -> dict[str, object]:
    """What is said of *event*: the fields that all have, and its own besides."""
    fields = {name: _plain(getattr(event, name)) for name in _names(type(event))}
    if isinstance(event, ResourceTransferred):
        fields["new"] = event.instance_id
    return {"kind": event.kind, **_FIELDS, **fields}


def _read_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


_names: Final[Callable[[type], tuple[str, ...]]] = functools.cache(_read_names)


def _plain(value: object) -> object:
    """*value* as MessagePack knows it, which takes half as long as to let it ask."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
