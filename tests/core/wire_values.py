"""Strategies for what travels and is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from aegis_core.models import (
    Health,
    Ownership,
    ResourceMetadata,
    Role,
    ServiceInstance,
    Standby,
    TransferRecord,
)

AT = datetime(2026, 1, 31, 12, 30, 15, 250000, tzinfo=UTC)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(text, max_size=3).map(tuple)
word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
revision = st.integers(1, 2**62)
instant = st.datetimes(datetime(1971, 1, 1), datetime(2900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
offset = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
number = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(0.001, 1e9)

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | number | text | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | st.integers(-100, 100) | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)

metadata = st.builds(
    ResourceMetadata,
    resource_type=text,
    version=st.integers(1, 2**31),
    tags=st.lists(text, max_size=3),
    attributes=st.dictionaries(text, json_like, max_size=3),
    created_by=text,
    last_modified=st.none() | instant,
    ttl_seconds=st.none() | seconds,
    priority=st.integers(-100, 100),
)
# Every field of every record, so that none can be forgotten in the stored forms.
OWNERSHIP: Mapping[str, st.SearchStrategy[object]] = {
    "target": word,
    "service_name": word,
    "instance_id": word,
    "lease": word,
    "epoch": revision,
    "metadata": metadata,
    "registered_at": instant,
    "reason": text,
    "previous": text,
    "as_role": st.booleans(),
    "revision": revision,
}
STANDBY: Mapping[str, st.SearchStrategy[object]] = {
    "target": word,
    "service_name": word,
    "instance_id": word,
    "lease": word,
    "priority": st.integers(-100, 100),
    "joined": revision,
    "as_role": st.booleans(),
    "revision": revision,
}
TRANSFER: Mapping[str, st.SearchStrategy[object]] = {
    "transfer_id": word,
    "kind": text,
    "resource_ids": texts,
    "from_instance_id": text,
    "to_instance_id": text,
    "reason": text,
    "requested_by": text,
    "at": instant,
    "traceparent": text,
    "revision": revision,
}
INSTANCE: Mapping[str, st.SearchStrategy[object]] = {
    "service_name": word,
    "instance_id": word,
    "version": text,
    "role": st.sampled_from(Role),
    "health": st.sampled_from([Health.ONLINE, Health.UNHEALTHY]),
    "lease": word,
    "ttl": seconds,
    "heartbeat_interval": seconds,
    "endpoints": texts,
    "draining": st.booleans(),
    "priority": st.integers(-100, 100),
    "sticky_active_group": st.none() | text,
    "on_demand": texts,
    "adopts": st.booleans(),
    "idempotent": texts,
    "metadata": st.dictionaries(text.filter(lambda name: name != "aegis"), json_like, max_size=3),
    "registered_at": instant,
    "last_heartbeat": instant,
    "revision": revision,
}
ownership = st.builds(Ownership, **OWNERSHIP)
standby = st.builds(Standby, **STANDBY)
transfer = st.builds(TransferRecord, **TRANSFER)
instance = st.builds(ServiceInstance, **INSTANCE)


@st.composite
def damaged(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """What *sound* yields, with some bytes replaced, removed or added."""
    data = bytearray(draw(sound))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 3)))
        data[at:end] = draw(st.binary(max_size=3))
    return bytes(data)
