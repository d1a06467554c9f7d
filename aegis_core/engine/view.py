"""The read side of the view: everything that a decision may ask of it.

A record is *alive* while an instance record with its lease tag is in the view, of the very instance that it names. All
that queries and events say is about records that are alive: one that names a dead lease is as good as none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from aegis_core.engine.decision import NotYetKnown
from aegis_core.engine.indexes import LeaseEntry, Ownerships
from aegis_core.engine.pools import Pool, build_pool
from aegis_core.models import (
    ABSENT,
    Health,
    Ownership,
    Record,
    Role,
    ServiceInstance,
    Standby,
    TransferRecord,
)
from aegis_core.names import InstanceKey, Key, StandbyKey, TargetKey, TransferKey

__all__ = ["View"]

SILENT_AFTER: Final = 2
"""Heartbeat intervals without a renewal after which an instance counts as UNHEALTHY."""

_LATEST: Final = 100
_NOTHING_HELD: Final[Mapping[str, Ownership]] = MappingProxyType({})


class View:
    """What one node knows of the store, indexed. A `Snapshot` is one that can be changed."""

    def __init__(self) -> None:
        self._revision = ABSENT
        self._synced = False
        self._tells = False
        self._heard_at = 0.0
        self._services: dict[str, dict[str, LeaseEntry]] = {}
        self._ids: dict[str, dict[str, LeaseEntry]] = {}
        self._leases: dict[str, LeaseEntry] = {}
        self._dead: dict[str, LeaseEntry] = {}
        self._index = Ownerships()
        self._records = self._index.records
        self._places: dict[str, dict[str, Standby]] = {}
        self._transfers: dict[str, TransferRecord] = {}
        self._unreadable: dict[Key, int] = {}
        self._deleted: dict[Key, int] = {}
        self._expiring: dict[str, int] = {}
        self._unseen: dict[Key, None] = {}
        self._pools: dict[str, Pool] = {}

    def __repr__(self) -> str:
        state = "synced" if self._synced else "loading"
        instances = sum(map(len, self._services.values()))
        return (
            f"<Snapshot {state} at revision {self._revision}: {instances} instances, "
            f"{len(self._records)} ownership records>"
        )

    @property
    def revision(self) -> int:
        """How far the watch has come: the view is whole up to this revision, once it is `synced`."""
        return self._revision

    @property
    def synced(self) -> bool:
        """Whether the view is whole: False before the first `advance`, and from `resync` to the next one."""
        return self._synced

    def owner(self, target: str) -> tuple[Ownership, ServiceInstance] | None:
        """Who owns *target* (a resource id or a role group) as seen from here: the record and the live instance."""
        record = self._records.get(target)
        if record is None:
            return None
        instance = self._leases[record.lease].instance
        if (
            instance is None
            or instance.instance_id != record.instance_id
            or instance.service_name != record.service_name
        ):
            return None
        return record, instance

    def held(self, target: str) -> Ownership | None:
        """The record of who owns *target*, whether its lease is alive or not."""
        return self._records.get(target)

    def holder(self, record: Ownership | Standby) -> ServiceInstance | None:
        """The live instance that *record* of this view names, None when its lease is dead.

        Raises:
            NotYetKnown: No such lease is here, but the view is behind the record or not whole.
        """
        instance = self._alive(record)
        if instance is None and not (self._synced and record.revision <= self._revision):
            raise NotYetKnown(record.revision)
        return instance

    def expectation(self, key: Key) -> int:
        """The revision that *key* has here: what a write expects. `ABSENT` when it is not there."""
        found = self._records.get(key.target) if isinstance(key, TargetKey) else self._record(key)
        if found is not None:
            return found.revision
        return self._unreadable.get(key, ABSENT) if self._unreadable else ABSENT

    def vacancy(self, target: str) -> int:
        """The revision that a write expects of *target*'s key when no record of it can be read here."""
        return self._unreadable.get(TargetKey(target), ABSENT) if self._unreadable else ABSENT

    def _record(self, key: InstanceKey | StandbyKey | TransferKey) -> Record | None:
        if isinstance(key, InstanceKey):
            return self.instance(key.service_name, key.instance_id)
        if isinstance(key, StandbyKey):
            return self.place(key.target, key.instance_id)
        return self._transfers.get(key.transfer_id)

    def instance(self, service_name: str, instance_id: str) -> ServiceInstance | None:
        """The live instance of that name."""
        members = self._services.get(service_name)
        entry = members.get(instance_id) if members else None
        return entry.instance if entry else None

    def by_id(self, instance_id: str) -> tuple[ServiceInstance, ...]:
        """The live instances with that id: at most one of each service."""
        return _instances(self._ids.get(instance_id, {}).values())

    def by_lease(self, lease: str) -> ServiceInstance | None:
        """The live instance whose lease has the tag *lease*."""
        entry = self._leases.get(lease)
        return entry.instance if entry else None

    def live(self, service_name: str) -> tuple[ServiceInstance, ...]:
        """The live instances of a service."""
        return _instances(self._services.get(service_name, {}).values())

    def services(self) -> tuple[str, ...]:
        """The services that have live instances, sorted."""
        return tuple(sorted(self._services))

    def held_by(self, lease: str) -> Mapping[str, Ownership]:
        """What the lease with tag *lease* holds (or held, once dead), by target, in order of revision."""
        entry = self._leases.get(lease)
        return MappingProxyType(entry.held) if entry else _NOTHING_HELD

    def count(self, lease: str) -> int:
        """How many resources (role groups not counted) are owned by the lease with tag *lease*; 0 for a dead one."""
        entry = self._leases.get(lease)
        return entry.resources if entry else 0

    def place(self, target: str, instance_id: str) -> Standby | None:
        """The place of *instance_id* in the line for *target*, whether its lease is alive or not."""
        return self._places.get(target, {}).get(instance_id)

    def places_of(self, lease: str) -> tuple[Standby, ...]:
        """The places in lines that name the lease with tag *lease*."""
        entry = self._leases.get(lease)
        return tuple(entry.places.values()) if entry else ()

    def line(self, target: str) -> tuple[Standby, ...]:
        """Who waits for *target*, first first: live, not its owner; higher priority, then earlier."""
        places = self._places.get(target)
        if not places:
            return ()
        owned = self.owner(target)
        holder = owned[0].lease if owned else None
        waiting = [p for p in places.values() if p.lease != holder and self._alive(p) is not None]
        return tuple(sorted(waiting, key=lambda p: (-p.priority, p.joined, p.instance_id)))

    def lines(self, service_name: str) -> tuple[str, ...]:
        """The targets for which an instance of the service waits, or which are held as a role of it."""
        found = dict.fromkeys(self._index.steering.get(service_name, ()))
        for target, places in self._places.items():
            if any(p.service_name == service_name for p in places.values()):
                found[target] = None
        return tuple(found)

    @property
    def names_dead(self) -> bool:
        """Whether any ownership or standby record names a dead lease, one that this view may judge or not."""
        return bool(self._dead)

    def orphans(self) -> tuple[str, ...]:
        """Tags of dead leases that ownership or standby records still name, and that this view may judge."""
        if not self._synced:
            return ()
        level = self._revision
        return tuple(
            tag
            for tag, entry in self._dead.items()
            if any(r.revision <= level for r in entry.held.values())
            or any(p.revision <= level for p in entry.places.values())
        )

    def limited(self) -> tuple[Ownership, ...]:
        """The live ownership records with a time to live of their own (`ttl_seconds`)."""
        return tuple(r for r in self._index.limited.values() if self._alive(r) is not None)

    def transfer(self, transfer_id: str) -> TransferRecord | None:
        """The audit record of that id."""
        return self._transfers.get(transfer_id)

    def transfers(self) -> tuple[TransferRecord, ...]:
        """The audit records that the store still keeps, oldest first."""
        return tuple(self._transfers.values())

    def trace_of(self, target: str, to_instance_id: str) -> str:
        """The trace context of the newest transfer of *target* to *to_instance_id*, "" where it is not known.

        Only the newest records are looked at: it is to be asked for when the transfer has just been seen.
        """
        for record in itertools.islice(reversed(self._transfers.values()), _LATEST):
            if record.to_instance_id == to_instance_id and target in record.resource_ids:
                return record.traceparent
        return ""

    def health(self, instance: ServiceInstance, now: float) -> Health:
        """How *instance* is, as seen from here: by its own word, or by its silence.

        UNHEALTHY after two heartbeat intervals without a renewal. Silence counts only while the watch speaks: when
        nothing at all was heard for an interval, it is the watch that is silent.

        Args:
            instance: A record of this view, or one that was in it.
            now: The node's clock, monotonic seconds.
        """
        members = self._services.get(instance.service_name)
        entry = members.get(instance.instance_id) if members else None
        if entry is None or entry.instance is None or entry.instance.lease != instance.lease:
            return Health.OFFLINE
        if entry.instance.health is not Health.ONLINE or self._is_silent(entry, now):
            return Health.UNHEALTHY
        return Health.ONLINE

    def lease_left(self, instance: ServiceInstance, now: float) -> float:
        """Seconds until the lease of the live *instance* ends unless it is renewed, as seen from here; never negative."""
        entry = self._services[instance.service_name][instance.instance_id]
        return max(0.0, entry.seen_at + instance.ttl - now)

    def role(self, instance: ServiceInstance) -> Role:
        """ACTIVE while *instance* holds a role group, or a resource that is held as a role; else STANDBY."""
        entry = self._leases.get(instance.lease)
        return Role.ACTIVE if entry is not None and entry.steering else Role.STANDBY

    def shown_role(self, instance: ServiceInstance) -> Role:
        """What people are shown as the role of *instance*.

        `role`, where its role is about something: a group, or a resource that its registration names. Otherwise what it
        says of itself: an ``own`` body runs, or it registered as ACTIVE and said for nothing in particular.
        """
        role = self.role(instance)
        if role is Role.ACTIVE or instance.sticky_active_group is not None or "resource_id" in instance.metadata:
            return role
        return instance.role

    def pool(self, service_name: str, now: float) -> Pool:
        """Who takes calls for the service by name, at *now*; made once per change, not per call."""
        pool = self._pools.get(service_name)
        if pool is None or now >= pool.valid_until:
            pool = self._pools[service_name] = build_pool(self, service_name, now)
        return pool

    @property
    def index(self) -> Ownerships:
        """The ownership records by service, type and tag, for queries; not to be changed."""
        return self._index

    def silent_at(self, instance: ServiceInstance) -> float:
        """When the live *instance* counts as silent unless it is heard of before, monotonic seconds."""
        entry = self._services[instance.service_name][instance.instance_id]
        return entry.seen_at + SILENT_AFTER * instance.heartbeat_interval

    def _alive(self, record: Ownership | Standby) -> ServiceInstance | None:
        entry = self._leases.get(record.lease)
        return entry.instance if entry is not None and entry.names(record) else None

    def _is_silent(self, entry: LeaseEntry, now: float) -> bool:
        assert entry.instance is not None
        interval = entry.instance.heartbeat_interval
        until = now if now - self._heard_at <= interval else self._heard_at
        return until - entry.seen_at > SILENT_AFTER * interval


def _instances(entries: Iterable[LeaseEntry]) -> tuple[ServiceInstance, ...]:
    return tuple(e.instance for e in entries if e.instance is not None)
