"""The indexed view: what one node knows of the store, and what each change of it means.

Theory of operation
-------------------
The view is fed from two sides. The *watch* tells every change in growing order of revision, and now and then that it is
level (`Snapshot.advance`): then the view is whole up to that revision. The node's own *commits* are folded in as soon as
they are acknowledged, ahead of the watch. Both use `put` and `delete`; each key is guarded by its revision, so what comes
late, twice or out of order changes nothing. Deletions folded early are remembered until the watch has passed them. While
a new snapshot is told (`resync`), only what it tells counts as seen; a commit folded meanwhile may be gone again already.
Where the store counts its revisions anew, all of this would be wrong: the view begins from empty (`forget`).

`revision` moves with `advance` alone. Between two of them a feed may have merged the changes of a key to its newest, so
a record can be there before the instance record that it names; a record newer than `revision` is therefore never judged
dead (`holder` raises `NotYetKnown`).

The first snapshot is no news: no events before the end of the first `advance`, whatever its revision (an empty store
may be at 0).

All that changes the view is in one file, past 400 lines, because records, indexes and events must move together.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

import attrs

from aegis_core.engine.changes import Part, ownership_event, part, role_events
from aegis_core.engine.indexes import LeaseEntry, steers
from aegis_core.engine.view import View
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceLost,
    InstanceRegistered,
)
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
from aegis_core.names import (
    InstanceKey,
    Key,
    StandbyKey,
    TargetKey,
    TransferKey,
    is_role,
)

__all__ = ["Snapshot"]

T = TypeVar("T")


class Snapshot(View):
    """One node's view of the store. Mutable and synchronous: nobody can see it half-changed."""

    # -- what changes it --------------------------------------------------------------------------

    def put(
        self, key: Key, record: Record | None, revision: int, *, folded: bool = False, now: float, at: datetime
    ) -> tuple[Event, ...]:
        """*key* was written at *revision*, as the watch tells or as a commit of one's own was acknowledged.

        Args:
            key: The key, read.
            record: What is there; None when it could not be decoded: it names nobody alive, and can be overwritten.
            revision: Of the write.
            folded: A commit of one's own tells it, not the watch.
            now: The node's clock, monotonic seconds.
            at: Aware UTC, for the events.

        Returns:
            What it means.
        """
        known = self.expectation(key)
        if self._unseen and not folded:
            self._unseen.pop(key, None)
        if revision <= known or revision <= self._revision or (self._deleted and revision <= self._deleted.get(key, 0)):
            if revision == known > self._revision:
                self._move_last(key)
            return ()
        if self._deleted:
            self._deleted.pop(key, None)
        if self._unreadable:
            self._unreadable.pop(key, None)
        if folded and not self._synced:
            # Whether it is still there, the snapshot that is under way will show.
            self._unseen[key] = None
        events: list[Event]
        if isinstance(key, TargetKey) and isinstance(record, Ownership) and record.target == key.target:
            events = self._set_owner(key.target, _stored(record, revision), revision=revision, at=at, reason="")
        elif isinstance(key, InstanceKey) and isinstance(record, ServiceInstance) and self._is_genuine(key, record):
            if record.revision != revision:
                record = attrs.evolve(record, revision=revision)
            events = self._set_instance(record, revision=revision, now=now, at=at)
        elif isinstance(key, StandbyKey) and isinstance(record, Standby) and _is_at(key, record):
            joined = record.joined if 0 < record.joined < revision else revision
            if record.revision != revision or record.joined != joined:
                record = attrs.evolve(record, revision=revision, joined=joined)
            events = self._set_place(key.target, key.instance_id, record, revision=revision, at=at)
        elif (
            isinstance(key, TransferKey)
            and isinstance(record, TransferRecord)
            and record.transfer_id == key.transfer_id
        ):
            events = self._set_transfer(attrs.evolve(record, revision=revision))
        else:
            events = self._remove(key, revision=revision, expired=False, at=at, reason="unreadable")
            self._unreadable[key] = revision
        return tuple(events)

    def confirm(self, key: Key, revision: int) -> None:
        """The watch tells, too, of the commit of one's own that was folded in under *revision*, while the view is whole.

        As `put` or `delete` once more would, but without what was written.
        """
        if self.expectation(key) == revision > self._revision:
            self._move_last(key)

    def delete(self, key: Key, revision: int, *, expired: bool, now: float, at: datetime) -> tuple[Event, ...]:
        """*key* was deleted at *revision*.

        Args:
            key: The key, read.
            revision: Of the deletion.
            expired: The store deleted it because its TTL had ended.
            now: The node's clock, monotonic seconds.
            at: Aware UTC, for the events.

        Returns:
            What it means.
        """
        del now
        if revision <= self._revision or revision <= self.expectation(key):
            return ()
        self._deleted[key] = revision
        return tuple(self._remove(key, revision=revision, expired=expired, at=at, reason="released"))

    def advance(self, revision: int, *, now: float, at: datetime) -> tuple[Event, ...]:
        """The watch is level: all that was ever written up to *revision* has been told, and the view is whole.

        To be called where the feed says so (`Synced`), never for a single change: before that the feed may have merged
        changes. Calling it again with the same revision says that the watch is alive.

        Args:
            revision: How far the watch has come.
            now: The node's clock, monotonic seconds.
            at: Aware UTC, for the events.

        Returns:
            After a `resync`: what went while the watch had lost the thread.
        """
        self._heard_at = now
        events: list[Event] = []
        if self._unseen:
            unseen, self._unseen = self._unseen, {}
            gone = [key for key in unseen if self.expectation(key) <= revision]
            events = self._remove_all(gone, revision=revision, at=at)
        self._revision = max(self._revision, revision)
        self._synced = self._tells = True
        if self._deleted:
            self._deleted = {k: r for k, r in self._deleted.items() if r > self._revision}
        return tuple(events)

    def forget(self, at: datetime) -> tuple[Event, ...]:
        """The store counts its revisions anew: nothing of before is known any more, and a first snapshot begins.

        Args:
            at: Aware UTC, for the events.

        Returns:
            The end of everything.
        """
        self.resync()
        unseen, self._unseen = self._unseen, {}
        events = self._remove_all(unseen, revision=self._revision, at=at)
        self._revision = ABSENT
        self._deleted = {}
        self._expiring = {}
        return tuple(events)

    def resync(self) -> None:
        """The watch lost the thread: a new snapshot begins; what it lacks goes at the next `advance`."""
        self._synced = False
        instances: list[Key] = [
            InstanceKey(service, name) for service, members in self._services.items() for name in members
        ]
        self._unseen = dict.fromkeys(instances)
        self._unseen.update(dict.fromkeys(map(TargetKey, self._records)))
        for target, places in self._places.items():
            self._unseen.update((StandbyKey(target, name), None) for name in places)
        self._unseen.update((TransferKey(name), None) for name in self._transfers)
        self._unseen.update(dict.fromkeys(self._unreadable))

    def tell_silence(self, now: float, at: datetime) -> tuple[Event, ...]:
        """Which instances have fallen silent since this was last asked.

        Args:
            now: The node's clock, monotonic seconds.
            at: Aware UTC, for the events.
        """
        events: list[Event] = []
        for members in self._services.values():
            for entry in members.values():
                if self._is_silent(entry, now):
                    events += self._tell_health(entry, Health.UNHEALTHY, reason="silent", revision=ABSENT, at=at)
        return tuple(events)

    # -- instances --------------------------------------------------------------------------------

    def _is_genuine(self, key: InstanceKey, record: ServiceInstance) -> bool:
        """Whether *record* is of the instance that *key* names, and its lease tag no other's, as none is registered."""
        entry = self._leases.get(record.lease)
        holder = entry.instance if entry else None
        return (record.service_name, record.instance_id) == (key.service_name, key.instance_id) and (
            holder is None or (holder.service_name, holder.instance_id) == (record.service_name, record.instance_id)
        )

    def _set_instance(self, new: ServiceInstance, *, revision: int, now: float, at: datetime) -> list[Event]:
        service, name = new.service_name, new.instance_id
        entry = self._services.get(service, {}).get(name)
        events: list[Event] = []
        if entry is not None and entry.instance is not None and entry.instance.lease != new.lease:
            events += self._end(entry, revision=revision, lost=True, at=at)
            entry = None
        if entry is None:
            return events + self._begin(new, revision=revision, now=now, at=at)
        old = entry.instance
        assert old is not None
        silent = self._is_silent(entry, now)
        entry.instance = new
        entry.seen_at = now
        if (
            silent
            or old.health is not new.health
            or old.draining != new.draining
            or old.sticky_active_group != new.sticky_active_group
            or old.priority != new.priority
            or old.endpoints != new.endpoints
            or old.on_demand != new.on_demand
            or old.metadata != new.metadata
        ):
            self._pools.pop(service, None)
        reason = "heartbeat" if old.health is new.health else "said"
        return self._tell_health(entry, new.health, reason=reason, revision=revision, at=at)

    def _tell_health(
        self, entry: LeaseEntry, health: Health, *, reason: str, revision: int, at: datetime
    ) -> list[Event]:
        old, entry.told = entry.told, health
        instance = entry.instance
        if old is health or instance is None or not self._tells:
            return []
        return [
            InstanceHealthChanged(
                service_name=instance.service_name,
                instance_id=instance.instance_id,
                revision=revision,
                at=at,
                old=old,
                new=health,
                reason=reason,
            )
        ]

    def _begin(self, new: ServiceInstance, *, revision: int, now: float, at: datetime) -> list[Event]:
        """A lease comes to life, and with it the records that named it before."""
        service, name = new.service_name, new.instance_id
        entry = self._entry(new.lease) if new.lease else LeaseEntry()
        self._dead.pop(new.lease, None)
        owned = [r for r in entry.held.values() if _is_of(r, new)]
        lined = self._lined(entry)
        before = {target: self._parts(target) for target in lined}
        entry.instance = new
        entry.seen_at = now
        entry.told = new.health
        self._services.setdefault(service, {})[name] = entry
        self._ids.setdefault(name, {})[service] = entry
        for record in owned:
            self._index.turn(record, alive=True)
            entry.count(record, 1)
        self._pools.pop(service, None)
        if not self._tells:
            return []
        events: list[Event] = [InstanceRegistered(service_name=service, instance_id=name, revision=revision, at=at)]
        for record in owned:
            event = ownership_event(None, record, expired=False, reason="", revision=revision, at=at)
            events += [event] if event else []
        for target in lined:
            events += role_events(
                target, before[target], self._parts(target),
                reason="registered", revision=revision, at=at,
            )  # fmt: skip
        return events

    def _end(self, entry: LeaseEntry, *, revision: int, lost: bool, at: datetime) -> list[Event]:
        """A lease dies, and with it what named it."""
        old = entry.instance
        assert old is not None
        service, name = old.service_name, old.instance_id
        owned = [r for r in entry.held.values() if _is_of(r, old)]
        lined = self._lined(entry)
        before = {target: self._parts(target) for target in lined}
        entry.instance = None
        entry.resources = entry.steering = 0
        _drop(self._services, service, name)
        _drop(self._ids, name, service)
        for record in owned:
            self._index.turn(record, alive=False)
        if old.lease:
            self._dead[old.lease] = entry
            self._forget(old.lease)
        self._pools.pop(service, None)
        if not self._tells:
            return []
        kind, reason = (InstanceLost, "lease_expired") if lost else (InstanceDeregistered, "deregistered")
        events: list[Event] = [
            kind(
                service_name=service,
                instance_id=name,
                revision=revision,
                at=at,
                released=tuple(r.target for r in owned if not is_role(r.target)),
            )
        ]
        for record in owned:
            event = ownership_event(record, None, expired=False, reason=reason, revision=revision, at=at)
            events += [event] if event else []
        for target in lined:
            events += role_events(
                target, before[target], self._parts(target),
                reason=reason, revision=revision, at=at,
            )  # fmt: skip
        return events

    def _entry(self, lease: str) -> LeaseEntry:
        entry = self._leases.get(lease)
        if entry is None:
            entry = self._leases[lease] = self._dead[lease] = LeaseEntry()
        return entry

    def _forget(self, lease: str) -> None:
        entry = self._leases[lease]
        if entry.instance is None and not entry.held and not entry.places:
            del self._leases[lease]
            del self._dead[lease]

    # -- ownership and lines ----------------------------------------------------------------------

    def _lined(self, entry: LeaseEntry) -> list[str]:
        """The targets of *entry* that have roles, as far as anybody is told."""
        if not self._tells:
            return []
        waits = [target for target, _ in entry.places]
        held = [t for t, r in entry.held.items() if steers(r) or t in self._places]
        return list(dict.fromkeys(held + waits))

    def _parts(self, target: str) -> dict[Part, Role]:
        found = {
            Part(place.service_name, place.instance_id, place.lease): Role.STANDBY
            for place in self._places.get(target, {}).values()
            if self._alive(place) is not None
        }
        owned = self.owner(target)
        if owned is not None:
            found[part(owned[1])] = Role.ACTIVE
        return found

    def _set_owner(
        self, target: str, new: Ownership | None, *, revision: int, at: datetime, reason: str
    ) -> list[Event]:
        old = self._records.get(target)
        told = self._tells
        if old is None and new is not None and not told:  # of a store that is loaded, nearly all
            self._add_owner(new)
            return []
        steered, steering = old is not None and steers(old), new is not None and steers(new)
        lined = told and (target in self._places or steered or steering)
        parts = self._parts(target) if lined else {}
        before = after = None
        if old is not None:
            alive = self._alive(old) is not None
            before = old if alive else None
            self._index.remove(old, alive=alive)
            entry = self._leases[old.lease]
            del entry.held[target]
            if alive:
                entry.count(old, -1)
            if steered:
                self._pools.pop(old.service_name, None)
            if new is None or new.lease != old.lease:
                self._forget(old.lease)
        if new is not None and self._add_owner(new):
            after = new
        expired = bool(self._expiring) and self._expiring.pop(target, None) is not None
        if not told:
            return []
        event = ownership_event(before, after, expired=expired, reason=reason, revision=revision, at=at)
        events = [event] if event else []
        if lined:
            why = after.reason if after is not None else reason
            events += role_events(target, parts, self._parts(target), reason=why, revision=revision, at=at)
        return events

    def _add_owner(self, new: Ownership) -> bool:
        """Nothing is known any more of who had its target before; whether *new* is alive."""
        entry = self._entry(new.lease)
        alive = entry.names(new)
        entry.held[new.target] = new
        if alive:
            entry.count(new, 1)
        self._index.add(new, alive=alive)
        if self._pools and steers(new):
            self._pools.pop(new.service_name, None)
        return alive

    def _set_place(
        self, target: str, instance_id: str, new: Standby | None, *, revision: int, at: datetime
    ) -> list[Event]:
        parts = self._parts(target) if self._tells else {}
        old = self.place(target, instance_id)
        if old is not None:
            _drop(self._places, target, instance_id)
            entry = self._leases[old.lease]
            del entry.places[target, instance_id]
            if new is None or new.lease != old.lease:
                self._forget(old.lease)
            self._pools.pop(old.service_name, None)
        if new is not None:
            self._places.setdefault(target, {})[instance_id] = new
            self._entry(new.lease).places[target, instance_id] = new
            self._pools.pop(new.service_name, None)
        if not self._tells:
            return []
        why = "left" if new is None else "joined"
        return role_events(target, parts, self._parts(target), reason=why, revision=revision, at=at)

    def _set_transfer(self, record: TransferRecord) -> list[Event]:
        self._transfers.pop(record.transfer_id, None)
        self._transfers[record.transfer_id] = record
        if record.kind == "expired":
            # It is written in one transaction with, and before, the deletions that it explains.
            for target in record.resource_ids:
                known = self._records.get(target)
                if known is not None and known.revision < record.revision:
                    self._expiring[target] = record.revision
        return []

    def _remove(self, key: Key, *, revision: int, expired: bool, at: datetime, reason: str) -> list[Event]:
        self._unreadable.pop(key, None)
        if isinstance(key, TargetKey):
            if key.target in self._records:
                return self._set_owner(key.target, None, revision=revision, at=at, reason=reason)
        elif isinstance(key, InstanceKey):
            entry = self._services.get(key.service_name, {}).get(key.instance_id)
            if entry is not None:
                return self._end(entry, revision=revision, lost=expired, at=at)
        elif isinstance(key, StandbyKey):
            if self.place(key.target, key.instance_id) is not None:
                return self._set_place(key.target, key.instance_id, None, revision=revision, at=at)
        else:
            self._transfers.pop(key.transfer_id, None)
        return []

    def _remove_all(self, keys: Iterable[Key], *, revision: int, at: datetime) -> list[Event]:
        """Remove what went while nobody looked."""
        events: list[Event] = []
        for key in keys:
            events += self._remove(key, revision=revision, expired=True, at=at, reason="released")
        return events

    def _move_last(self, key: Key) -> None:
        """The watch has come to what was folded early: it takes its place in the order of revisions."""
        if not isinstance(key, TargetKey):
            return
        record = self._records.get(key.target)
        if record is None or self._index.is_in_place(record):
            return
        alive = self._alive(record) is not None
        self._index.remove(record, alive=alive)
        self._index.add(record, alive=alive)
        held = self._leases[record.lease].held
        held[key.target] = held.pop(key.target)


def _stored(record: Ownership, revision: int) -> Ownership:
    """*record* with its revision, and an epoch that is its own revision or an earlier one."""
    epoch = record.epoch if 0 < record.epoch < revision else revision
    if record.revision == revision and record.epoch == epoch:
        return record
    return record.at(epoch, revision)


def _is_at(key: StandbyKey, record: Standby) -> bool:
    return record.target == key.target and record.instance_id == key.instance_id


def _is_of(record: Ownership, instance: ServiceInstance) -> bool:
    return record.instance_id == instance.instance_id and record.service_name == instance.service_name


def _drop(index: dict[str, dict[str, T]], outer: str, inner: str) -> None:
    """Delete ``index[outer][inner]``, and what is empty then."""
    found = index[outer]
    del found[inner]
    if not found:
        del index[outer]
