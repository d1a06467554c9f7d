"""The indexes of a view: ownership records by everything that a query may ask, and what hangs on each lease.

All orders are orders of revision: a record that is rewritten goes to the end of every index that holds it, so that
pages of a query are the same on every node whose view is level.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from aegis_core.models import ABSENT, DEFAULT_METADATA, Health, Ownership, ServiceInstance, Shown, Standby
from aegis_core.names import is_role

__all__ = ["Bucket", "LeaseEntry", "Ownerships"]


@attrs.define(eq=False, repr=False)
class Bucket(Shown):
    """Records of one kind by target, in order of revision.

    `hidden` of them are not shown by queries: their lease is dead, or they are about a role.
    """

    records: dict[str, Ownership] = attrs.field(factory=dict)
    hidden: int = 0


@attrs.define(eq=False, repr=False)
class LeaseEntry(Shown):
    """One lease: the live instance that has it (None once it is dead), and the records that name it.

    Args:
        instance: Who lives by it.
        held: Ownership records that name it, by target.
        places: Places in lines that name it, by target and instance id.
        resources: How many resources (role groups not counted) the instance owns by it; 0 once it is dead.
        steering: How many of `held` make the instance ACTIVE for calls by service name.
        seen_at: When the last renewal was seen, monotonic seconds.
        told: The instance's health as events told it last.
    """

    instance: ServiceInstance | None = None
    held: dict[str, Ownership] = attrs.field(factory=dict)
    places: dict[tuple[str, str], Standby] = attrs.field(factory=dict)
    resources: int = 0
    steering: int = 0
    seen_at: float = 0.0
    told: Health = Health.ONLINE

    def count(self, record: Ownership, change: int) -> None:
        """*record*, which names the live instance, comes (1) or goes (-1)."""
        role = is_role(record.target)
        if not role:
            self.resources += change
        if role or record.as_role:
            self.steering += change

    def names(self, record: Ownership | Standby) -> bool:
        """Whether *record*, which has this lease, is of the instance that lives by it."""
        instance = self.instance
        return (
            instance is not None
            and instance.instance_id == record.instance_id
            and instance.service_name == record.service_name
        )


class Ownerships:
    """All ownership records, indexed. The caller says of each whether it is alive."""

    def __init__(self) -> None:
        self.all = Bucket()
        self.records = self.all.records
        self.services: dict[str, Bucket] = {}
        self.types: dict[str, Bucket] = {}
        self.tags: dict[str, Bucket] = {}
        self.limited: dict[str, Ownership] = {}
        self.steering: dict[str, dict[str, Ownership]] = {}
        # The highest revision that was ever added, and the one up to which something may stand before an earlier one.
        self._newest = self._misplaced = ABSENT

    def add(self, record: Ownership, *, alive: bool) -> None:
        """Put *record* at the end of its indexes; its target has none there."""
        target = record.target
        if record.revision < self._newest:
            self._misplaced = self._newest
        else:
            self._newest = record.revision
        role = is_role(target)
        hidden = role or not alive
        _file(self.services, record.service_name, record, hidden)
        metadata = record.metadata
        if metadata is not DEFAULT_METADATA:  # which most have, and which is in no other index
            if metadata.resource_type:
                _file(self.types, metadata.resource_type, record, hidden)
            for tag in dict.fromkeys(metadata.tags):
                _file(self.tags, tag, record, hidden)
            if metadata.ttl_seconds is not None:
                self.limited[target] = record
        self.records[target] = record
        self.all.hidden += hidden
        if role or record.as_role:
            self.steering.setdefault(record.service_name, {})[target] = record

    def remove(self, record: Ownership, *, alive: bool) -> None:
        """Take *record* out of its indexes."""
        target = record.target
        role = is_role(target)
        shown = alive and not role
        for index, name in self._places(record):
            bucket = index[name]
            del bucket.records[target]
            bucket.hidden -= not shown
            if not bucket.records:
                del index[name]
        del self.records[target]
        self.all.hidden -= not shown
        self.limited.pop(target, None)
        if role or record.as_role:
            group = self.steering[record.service_name]
            del group[target]
            if not group:
                del self.steering[record.service_name]

    def turn(self, record: Ownership, *, alive: bool) -> None:
        """The lease of *record* came to life, or died."""
        if is_role(record.target):
            return
        change = -1 if alive else 1
        self.all.hidden += change
        for index, name in self._places(record):
            index[name].hidden += change

    def is_in_place(self, record: Ownership) -> bool:
        """Whether nothing of a lower revision came after *record*, for certain."""
        return record.revision > self._misplaced

    def _places(self, record: Ownership) -> Iterator[tuple[dict[str, Bucket], str]]:
        yield self.services, record.service_name
        metadata = record.metadata
        if metadata.resource_type:
            yield self.types, metadata.resource_type
        if metadata.tags:
            for tag in dict.fromkeys(metadata.tags):
                yield self.tags, tag


def _file(index: dict[str, Bucket], name: str, record: Ownership, hidden: bool) -> None:  # noqa: FBT001 - as it counts
    bucket = index.get(name)
    if bucket is None:
        bucket = index[name] = Bucket()
    bucket.records[record.target] = record
    bucket.hidden += hidden


def steers(record: Ownership) -> bool:
    """Whether holding *record* makes its owner ACTIVE for calls by service name."""
    return record.as_role or is_role(record.target)
