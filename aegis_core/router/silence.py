"""Instances of old clients that fell silent: known for an hour, and back with their next heartbeat.

Old clients register once, send heartbeats without looking at the answers, and never register anew. So what such an
instance registered with is kept under ``silent.{service}.{instance}`` for an hour longer than its lease. When a heartbeat
comes of one that does not live, it is registered as before, with a new lease. What it held is gone; where it was in line, or
active, it goes to the end of the line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Literal

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import ANY, Conflict, Delete, Indeterminate, Operation, Put, Transaction
from aegis_core.errors import AegisError, InstanceConflict
from aegis_core.models import Role, ServiceInstance, Value
from aegis_core.names import instance_id_problem, service_name_problem
from aegis_core.node.node import Node

__all__ = ["Known", "Silence"]

_log: Final = logging.getLogger("aegis.router")

KNOWN_FOR: Final = 3600.0
"""Seconds for which a silent instance is known after its lease has ended."""

REFRESHED_EVERY: Final = 600.0
"""Seconds after which what is known of an instance that lives is written again."""

_MOST_VALUES: Final = 100_000
_SLACK: Final = 64
# Of a request's time: what may be spent on seeing what was written.
_SEEN_WITHIN: Final = 2.0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Known(Value):
    """What an instance registered with.

    Args:
        version: Of its program.
        role: As it is shown, or (with a resource named in the metadata) whether it is in that line.
        metadata: Its own.
        ttl: Of its lease.
        heartbeat_interval: That it promised.
        priority: In the line.
    """

    version: str
    role: Literal["ACTIVE", "STANDBY"] | None
    metadata: Mapping[str, object]
    ttl: float
    heartbeat_interval: float
    priority: int = 0


class Silence:
    """The silent instances, as one router keeps and returns them.

    Args:
        node: The router's.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime
        # When each was written here last: it spares writes, and decides nothing.
        self._written: dict[str, float] = {}
        self._most = _SLACK

    def __repr__(self) -> str:
        return f"<Silence: {len(self._written)} instances of old clients>"

    async def heard(self, service_name: str, instance_id: str) -> None:
        """An instance that shows no lease has registered, or sent a heartbeat: keep what it registered with.

        Where the store does not take it, that is logged; the next heartbeat does it.
        """
        record = self._runtime.directory.snapshot.instance(service_name, instance_id)
        now = self._runtime.clock.now()
        if record is None or now - self._written.get(record.lease, -REFRESHED_EVERY) < REFRESHED_EVERY:
            return
        known = Known(
            version=record.version,
            role=self._role_of(record),
            metadata=record.metadata,
            ttl=record.ttl,
            heartbeat_interval=record.heartbeat_interval,
            priority=record.priority,
        )
        written = await self._write(service_name, instance_id, known)
        if written is None:
            return
        self._forget_old(now)
        self._written[record.lease] = now
        if await self._had_left(service_name, instance_id, written):
            await self._commit(Delete(_key(service_name, instance_id), written))

    async def _had_left(self, service_name: str, instance_id: str, written: int) -> bool:
        """Whether an instance that was heard just now was gone at revision *written*: then another router deregistered it.

        Who deregisters it later deletes what was written at that revision, too.
        """
        directory = self._runtime.directory
        with trio.move_on_after(_SEEN_WITHIN):
            await directory.wait_revision(written)
            return directory.snapshot.instance(service_name, instance_id) is None
        _log.warning("whether %s has left is not known: the store's changes do not come", instance_id)
        return False

    async def left(self, service_name: str, instance_id: str) -> None:
        """An instance has deregistered: it is not silent, and does not come back by itself."""
        await self._commit(Delete(_key(service_name, instance_id), ANY))

    async def stayed(self, service_name: str, instance_id: str, known: Known) -> None:
        """An instance that has `left` could not be deregistered: it comes back again, as before.

        Where the store does not take it, that is logged.
        """
        await self._write(service_name, instance_id, known)

    async def known(self, service_name: str, instance_id: str) -> Known | None:
        """What an instance registered with that comes back if it has fallen silent; None where it does not come back.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        if service_name_problem(service_name) or instance_id_problem(instance_id):
            return None
        entry = await self._runtime.store.get(_key(service_name, instance_id))
        if entry is None:
            return None
        try:
            return codec.structure_request(codec.decode_plain(entry.value, most=_MOST_VALUES), Known)
        except (codec.DecodeError, AegisError) as exc:
            _log.warning("what is known of %s, which was silent, cannot be read: %s", instance_id, exc)
            return None

    async def returned(self, service_name: str, instance_id: str) -> bool:
        """Register an instance again that is known to have fallen silent; whether it is.

        Raises:
            AegisError: It could not be registered.
        """
        known = await self.known(service_name, instance_id)
        if known is None:
            return False
        try:
            await self._node.registry.register(
                service_name,
                instance_id,
                known.metadata,
                role=None if known.role is None else Role[known.role],
                ttl=known.ttl,
                heartbeat_interval=known.heartbeat_interval,
                version=known.version,
                priority=known.priority,
            )
        except InstanceConflict:
            _log.debug("%s has come back already", instance_id)
        else:
            _log.info("%s was silent, and is back", instance_id)
        return True

    def _role_of(self, record: ServiceInstance) -> Literal["ACTIVE", "STANDBY"] | None:
        view, resource_id = self._runtime.directory.snapshot, record.metadata.get("resource_id")
        if not isinstance(resource_id, str):
            return record.role.value
        owned = view.owner(resource_id)
        is_owner = owned is not None and owned[1].lease == record.lease
        return "STANDBY" if is_owner or view.place(resource_id, record.instance_id) is not None else None

    async def _write(self, service_name: str, instance_id: str, known: Known) -> int | None:
        kept_for = known.ttl + REFRESHED_EVERY + KNOWN_FOR
        return await self._commit(Put(_key(service_name, instance_id), codec.encode_plain(known), ANY, ttl=kept_for))

    async def _commit(self, operation: Operation) -> int | None:
        """The revision that *operation* was given; None where the store did not take it."""
        try:
            (revision,) = await self._runtime.store.commit(Transaction(self._runtime.new_id(16), (operation,)))
        except (AegisError, Conflict, Indeterminate) as exc:
            _log.warning("%s is not written: %s", operation.key, exc)
            return None
        return revision

    def _forget_old(self, now: float) -> None:
        # So rarely that it costs each of many instances next to nothing.
        if len(self._written) >= self._most:
            self._written = {lease: at for lease, at in self._written.items() if now - at < REFRESHED_EVERY}
            self._most = 2 * len(self._written) + _SLACK


def _key(service_name: str, instance_id: str) -> str:
    return f"silent.{service_name}.{instance_id}"
