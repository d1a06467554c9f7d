"""What a store keeps, between values and plain data: the fields of each record, checked one by one.

Instance records are JSON in camelCase that other programs read and write, so they are read leniently (either
spelling, absent fields, no ``metadata.aegis``) and written exactly. All other records are ours alone: maps with
short names, whose defaults are left out. Unknown fields are ignored everywhere, so that a newer version may add some.

Decoding is hand-written: a node decodes every record of the store when it opens, and a million of them take seconds.
The bytes themselves are `aegis_core.codec`'s business. Every function here raises ValueError for what does not fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Final, TypeVar

from aegis_core.models import (
    DEFAULT_METADATA,
    Health,
    Ownership,
    ResourceMetadata,
    Role,
    ServiceInstance,
    Standby,
    TransferRecord,
)
from aegis_core.names import InstanceKey, StandbyKey, TargetKey, TransferKey

__all__ = [
    "instance_from_map",
    "instance_to_map",
    "metadata_from_map",
    "metadata_to_map",
    "ownership_from_map",
    "ownership_to_map",
    "standby_from_map",
    "standby_to_map",
    "transfer_from_map",
    "transfer_to_map",
]

Plain = dict[str, object]
T = TypeVar("T")

_NO_TEXTS: Final[tuple[str, ...]] = ()
_NOTHING: Final[Mapping[str, object]] = {}
_SHARED_TEXTS: Final = 1 << 16
# Of an ownership record, all of which have to be there: one that has no more has no other.
_LEAST_FIELDS: Final = 4


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name}: expected {expected}, got {type(value).__name__}")


# Equal texts of many records (instance ids, lease tags, services) are one object. Not sys.intern: that keeps
# what a hostile writer made up for ever. When full, sharing starts anew.
_texts: dict[str, str] = {}


def _shared(text: str) -> str:
    if len(_texts) >= _SHARED_TEXTS:
        _texts.clear()
    return _texts.setdefault(text, text)


def _field(raw: Plain, name: str, kind: type[T], default: T) -> T:
    value = raw.get(name, default)
    if type(value) is not kind:
        raise _wrong(name, value, kind.__name__)
    return value


def _number(raw: Mapping[str, object], name: str, default: float) -> float:
    value = raw.get(name, default)
    if type(value) is not float and type(value) is not int:
        raise _wrong(name, value, "a number")
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value} is not finite")
    return float(value)


def _instant(raw: Plain, name: str) -> datetime:
    value = raw.get(name)
    if type(value) is not str:
        raise _wrong(name, value, "a time")
    at = datetime.fromisoformat(value)
    if at.tzinfo is UTC:
        return at
    if at.tzinfo is None:
        # Writers of the JSON records forget the offset; what is ours is never naive.
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{name}: {value} is out of range") from exc


def _revision(raw: Plain, name: str, own: int) -> int:
    """The stored number; 0 stands for the record's own revision, which its writer could not know."""
    value = raw.get(name, 0)
    if type(value) is not int or value < 0:
        raise _wrong(name, value, "a revision")
    # The same int object, because most records are at the revision of their acquisition.
    return own if value in (0, own) else value


def _owner(raw: Plain) -> tuple[str, str]:
    service, lease = raw.get("svc"), raw.get("lease")
    if type(service) is not str or type(lease) is not str or not service or not lease:
        raise ValueError("svc, lease: expected two non-empty strings")
    return _shared(service), _shared(lease)


def _text_list(raw: Plain, name: str) -> tuple[str, ...]:
    value = raw.get(name, _NO_TEXTS)
    if value is _NO_TEXTS:
        return _NO_TEXTS
    if type(value) is not list or not all(type(item) is str for item in value):
        raise _wrong(name, value, "a list of strings")
    return tuple(value)


def _text_map(value: object, name: str) -> Mapping[str, object]:
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise _wrong(name, value, "a map with strings as keys")
    return value


@functools.lru_cache(maxsize=16)
def _rendered(at: datetime) -> str:
    """*at* as text; many records of one operation have the same time."""
    return at.isoformat()


def ownership_to_map(record: Ownership, metadata: bytes) -> Plain:
    """The stored fields of *record*; *metadata* is its packed metadata, empty for the default."""
    raw: Plain = {
        "svc": record.service_name,
        "inst": record.instance_id,
        "lease": record.lease,
        "at": _rendered(record.registered_at),
    }
    if record.epoch:
        raw["epoch"] = record.epoch
    if record.reason != "claimed":
        raw["why"] = record.reason
    if record.previous:
        raw["prev"] = record.previous
    if record.as_role:
        raw["role"] = True
    if metadata:
        raw["meta"] = metadata
    return raw


def ownership_from_map(
    key: TargetKey, raw: Plain, revision: int, read: Callable[[bytes], ResourceMetadata]
) -> Ownership:
    """The record of who owns *key*'s target; *read* decodes its packed metadata.

    The metadata is packed on its own, so that *read* can answer the same bytes with the same object.
    """
    service, lease = _owner(raw)
    instance = raw.get("inst")
    if type(instance) is not str:
        raise _wrong("inst", instance, "str")
    epoch, metadata, reason, previous, as_role = revision, DEFAULT_METADATA, "claimed", "", False
    if len(raw) > _LEAST_FIELDS:
        epoch = _revision(raw, "epoch", revision)
        packed = raw.get("meta")
        if type(packed) is bytes:
            metadata = read(packed)
        elif packed is not None:
            raise _wrong("meta", packed, "bytes")
        reason = _shared(_field(raw, "why", str, reason))
        previous = _shared(_field(raw, "prev", str, previous))
        as_role = _field(raw, "role", bool, as_role)
    return Ownership(
        target=key.target,
        service_name=service,
        instance_id=_shared(instance),
        lease=lease,
        epoch=epoch,
        metadata=metadata,
        registered_at=_instant(raw, "at"),
        reason=reason,
        previous=previous,
        as_role=as_role,
        revision=revision,
    )


def metadata_to_map(metadata: ResourceMetadata) -> Plain:
    """The stored fields of *metadata*."""
    raw: Plain = {}
    if metadata.resource_type:
        raw["type"] = metadata.resource_type
    if metadata.version != 1:
        raw["ver"] = metadata.version
    if metadata.tags:
        raw["tags"] = metadata.tags
    if metadata.attributes:
        raw["attrs"] = dict(metadata.attributes)
    if metadata.created_by:
        raw["by"] = metadata.created_by
    if metadata.last_modified is not None:
        raw["mod"] = metadata.last_modified.isoformat()
    if metadata.ttl_seconds is not None:
        raw["ttl"] = metadata.ttl_seconds
    if metadata.priority:
        raw["prio"] = metadata.priority
    return raw


def metadata_from_map(raw: Plain) -> ResourceMetadata:
    """The metadata that `metadata_to_map` wrote; equal texts are shared."""
    return ResourceMetadata(
        resource_type=_shared(_field(raw, "type", str, "")),
        version=_field(raw, "ver", int, 1),
        tags=tuple(map(_shared, _text_list(raw, "tags"))),
        attributes=_text_map(raw["attrs"], "attrs") if "attrs" in raw else None,
        created_by=_shared(_field(raw, "by", str, "")),
        last_modified=_instant(raw, "mod") if "mod" in raw else None,
        ttl_seconds=_number(raw, "ttl", 0.0) if "ttl" in raw else None,
        priority=_field(raw, "prio", int, 0),
    )


def standby_to_map(record: Standby) -> Plain:
    """The stored fields of *record*."""
    raw: Plain = {"svc": record.service_name, "lease": record.lease}
    if record.priority:
        raw["prio"] = record.priority
    if record.joined:
        raw["joined"] = record.joined
    if record.as_role:
        raw["role"] = True
    return raw


def standby_from_map(key: StandbyKey, raw: Plain, revision: int) -> Standby:
    """The place in line that *key* names."""
    service, lease = _owner(raw)
    return Standby(
        target=key.target,
        service_name=service,
        instance_id=_shared(key.instance_id),
        lease=lease,
        priority=_field(raw, "prio", int, 0),
        joined=_revision(raw, "joined", revision),
        as_role=_field(raw, "role", bool, False),
        revision=revision,
    )


def transfer_to_map(record: TransferRecord) -> Plain:
    """The stored fields of *record*."""
    raw: Plain = {
        "kind": record.kind,
        "ids": record.resource_ids,
        "from": record.from_instance_id,
        "to": record.to_instance_id,
        "why": record.reason,
        "by": record.requested_by,
        "at": record.at.isoformat(),
    }
    if record.traceparent:
        raw["trace"] = record.traceparent
    return raw


def transfer_from_map(key: TransferKey, raw: Plain, revision: int) -> TransferRecord:
    """The audit record under *key*."""
    return TransferRecord(
        transfer_id=key.transfer_id,
        kind=_field(raw, "kind", str, ""),
        resource_ids=_text_list(raw, "ids"),
        from_instance_id=_shared(_field(raw, "from", str, "")),
        to_instance_id=_shared(_field(raw, "to", str, "")),
        reason=_field(raw, "why", str, ""),
        requested_by=_shared(_field(raw, "by", str, "")),
        at=_instant(raw, "at"),
        traceparent=_field(raw, "trace", str, ""),
        revision=revision,
    )


def instance_to_map(record: ServiceInstance, offset: tzinfo) -> Plain:
    """The JSON record that other programs read, its time rendered at *offset*; ours is under ``metadata.aegis``."""
    raw: Plain = {
        "serviceName": record.service_name,
        "instanceId": record.instance_id,
        "version": record.version,
        "status": record.status,
        "lastHeartbeat": record.last_heartbeat.astimezone(offset).isoformat(),
    }
    if record.sticky_active_group is not None:
        raw["stickyActiveGroup"] = record.sticky_active_group
    raw["metadata"] = {
        **record.metadata,
        "aegis": {
            "endpoints": record.endpoints,
            "lease": record.lease,
            "health": record.health.value,
            "role": record.role.value,
            "draining": record.draining,
            "ttl": record.ttl,
            "interval": record.heartbeat_interval,
            "registeredAt": record.registered_at.isoformat(),
            "priority": record.priority,
            **({"onDemand": record.on_demand} if record.on_demand else {}),
            **({"adopts": True} if record.adopts else {}),
            **({"idempotent": record.idempotent} if record.idempotent else {}),
        },
    }
    return raw


def instance_from_map(key: InstanceKey, spelled: Plain, revision: int) -> ServiceInstance:
    """The instance record under *key*, ours or another writer's, in camelCase or snake_case.

    A record without ``metadata.aegis`` gets a lease of its own, made of its key, which no minted lease can equal:
    it is alive while the record is there.
    """
    raw = _camel_case(spelled)
    named = (raw.get("serviceName"), raw.get("instanceId"))
    if named != (key.service_name, key.instance_id):
        raise ValueError("serviceName, instanceId: the record is not of the instance that its key names")
    status = raw.get("status", Role.STANDBY.value)
    if status not in ("ACTIVE", "STANDBY", "UNHEALTHY"):
        raise ValueError("status: expected ACTIVE, STANDBY or UNHEALTHY")
    group = raw.get("stickyActiveGroup")
    if group is not None and type(group) is not str:
        raise _wrong("stickyActiveGroup", group, "str")
    metadata = dict(_text_map(raw.get("metadata") or _NOTHING, "metadata"))
    ours = _camel_case(_text_map(metadata.pop("aegis", None) or _NOTHING, "metadata.aegis"))
    heartbeat = _instant(raw, "lastHeartbeat")
    seen_role = Role.ACTIVE if status == "ACTIVE" else Role.STANDBY
    seen_health = Health.UNHEALTHY if status == "UNHEALTHY" else Health.ONLINE
    ttl = _number(ours, "ttl", 30.0)
    interval = _number(ours, "interval", ttl / 3)
    if ttl <= 0 or interval <= 0:
        raise ValueError("ttl, interval: expected positive numbers")
    foreign = f"~{key.service_name}.{key.instance_id}"
    return ServiceInstance(
        service_name=_shared(key.service_name),
        instance_id=_shared(key.instance_id),
        version=_field(raw, "version", str, "0.0.0"),
        role=Role(ours.get("role", seen_role)),
        health=Health(ours.get("health", seen_health)),
        lease=_shared(_field(ours, "lease", str, foreign) or foreign),
        ttl=ttl,
        heartbeat_interval=interval,
        endpoints=_text_list(ours, "endpoints"),
        draining=_field(ours, "draining", bool, False),
        priority=_field(ours, "priority", int, 0),
        sticky_active_group=group,
        on_demand=_text_list(ours, "onDemand"),
        adopts=_field(ours, "adopts", bool, False),
        idempotent=_text_list(ours, "idempotent"),
        metadata=metadata,
        registered_at=_instant(ours, "registeredAt") if "registeredAt" in ours else heartbeat,
        last_heartbeat=heartbeat,
        revision=revision,
    )


def _camel_case(raw: Mapping[str, object]) -> Plain:
    """*raw* with ``snake_case`` names of fields respelled."""
    if not any("_" in name for name in raw):
        return dict(raw)
    return {_camel(name): value for name, value in raw.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
