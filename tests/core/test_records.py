"""Records on their way to a store and back."""

from __future__ import annotations

import json
from datetime import timedelta, timezone

import attrs
import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given

from aegis_core import codec, records
from aegis_core.models import (
    DEFAULT_METADATA,
    Health,
    Ownership,
    Record,
    ResourceMetadata,
    Role,
    ServiceInstance,
    Standby,
    TransferRecord,
)
from aegis_core.names import InstanceKey, Key, StandbyKey, TargetKey, TransferKey
from tests.core import wire_values
from tests.core.wire_values import AT

OWNED = TargetKey("account:42")


def key_of(record: Record) -> Key:
    """The key that *record* is stored under."""
    match record:
        case ServiceInstance():
            return InstanceKey(record.service_name, record.instance_id)
        case Ownership():
            return TargetKey(record.target)
        case Standby():
            return StandbyKey(record.target, record.instance_id)
        case TransferRecord():
            return TransferKey(record.transfer_id)


def round_trip(record: Record) -> Record:
    """*record* after it was stored and read."""
    return codec.decode_record(key_of(record), codec.encode_record(record), record.revision)


# --- What is written, to the byte ---------------------------------------------------------------


def test_ownership_is_a_map_without_defaults() -> None:
    """The stored bytes of a plain claim never change: other versions read them."""
    record = Ownership(
        target="account:42",
        service_name="account-service",
        instance_id="account-service-0a1b2c3d",
        lease="0123456789abcdef",
        registered_at=AT,
    )
    assert codec.encode_record(record) == (
        b"\x84\xa3svc\xafaccount-service\xa4inst\xb8account-service-0a1b2c3d"
        b"\xa5lease\xb00123456789abcdef\xa2at\xd9 2026-01-31T12:30:15.250000+00:00"
    )


def test_ownership_keeps_every_field_that_differs_from_its_default() -> None:
    """All fields have their place in the map, the metadata packed on its own."""
    record = Ownership(
        target="account:42",
        service_name="s",
        instance_id="i",
        lease="l",
        epoch=7,
        metadata=ResourceMetadata(
            resource_type="session",
            version=3,
            tags=("active", "premium"),
            attributes={"tier": "gold"},
            created_by="auth",
            last_modified=AT,
            ttl_seconds=60.0,
            priority=10,
        ),
        registered_at=AT,
        reason="transferred",
        previous="h",
        as_role=True,
    )
    stored = msgpack.unpackb(codec.encode_record(record))
    assert msgpack.unpackb(stored.pop("meta")) == {
        "type": "session",
        "ver": 3,
        "tags": ["active", "premium"],
        "attrs": {"tier": "gold"},
        "by": "auth",
        "mod": "2026-01-31T12:30:15.250000+00:00",
        "ttl": 60.0,
        "prio": 10,
    }
    assert stored == {
        "svc": "s",
        "inst": "i",
        "lease": "l",
        "at": "2026-01-31T12:30:15.250000+00:00",
        "epoch": 7,
        "why": "transferred",
        "prev": "h",
        "role": True,
    }


def test_standby_and_transfer_have_their_stored_forms() -> None:
    """A place in line and an audit record, to the byte."""
    place = Standby(target="t", service_name="s", instance_id="i", lease="l", priority=5)
    assert codec.encode_record(place) == b"\x83\xa3svc\xa1s\xa5lease\xa1l\xa4prio\x05"
    moved = TransferRecord(
        transfer_id="transfer_0",
        kind="transfer",
        resource_ids=("a", "b"),
        from_instance_id="i",
        to_instance_id="j",
        reason="r",
        requested_by="instance:i",
        at=AT,
    )
    assert codec.encode_record(moved) == (
        b"\x87\xa4kind\xa8transfer\xa3ids\x92\xa1a\xa1b\xa4from\xa1i\xa2to\xa1j\xa3why\xa1r"
        b"\xa2by\xaainstance:i\xa2at\xd9 2026-01-31T12:30:15.250000+00:00"
    )


def test_instance_is_compact_json_that_others_read() -> None:
    """Camel case, the fields that strict readers allow, ours under ``metadata.aegis``, the time at the offset."""
    record = ServiceInstance(
        service_name="cart",
        instance_id="cart-1",
        version="1.2.0",
        role=Role.ACTIVE,
        lease="0123456789abcdef",
        endpoints=("memory://x/cart-1",),
        sticky_active_group="default",
        on_demand=("session:",),
        adopts=True,
        idempotent=("get",),
        metadata={"zone": "a"},
        registered_at=AT,
        last_heartbeat=AT,
    )
    assert codec.encode_record(record, timezone(timedelta(hours=8))).decode() == (
        '{"serviceName":"cart","instanceId":"cart-1","version":"1.2.0","status":"ACTIVE",'
        '"lastHeartbeat":"2026-01-31T20:30:15.250000+08:00","stickyActiveGroup":"default",'
        '"metadata":{"zone":"a","aegis":{"endpoints":["memory://x/cart-1"],"lease":"0123456789abcdef",'
        '"health":"ONLINE","role":"ACTIVE","draining":false,"ttl":30.0,"interval":10.0,'
        '"registeredAt":"2026-01-31T12:30:15.250000+00:00","priority":0,"onDemand":["session:"],'
        '"adopts":true,"idempotent":["get"]}}}'
    )


# --- Round trips --------------------------------------------------------------------------------


@given(wire_values.ownership | wire_values.standby | wire_values.transfer | wire_values.instance)
def test_record_survives_its_bytes(record: Record) -> None:
    """What is stored is what is read, whatever the values."""
    assert round_trip(record) == record


@given(wire_values.instance, wire_values.offset)
def test_offset_changes_how_a_heartbeat_looks_not_what_it_is(record: ServiceInstance, offset: timezone) -> None:
    """Any offset renders the same instant."""
    assert codec.decode_record(key_of(record), codec.encode_record(record, offset), record.revision) == record


def test_every_field_of_the_records_is_in_the_round_trips() -> None:
    """A field that is added to a record cannot be forgotten in its stored form."""
    for kind, fields in (
        (Ownership, wire_values.OWNERSHIP),
        (Standby, wire_values.STANDBY),
        (TransferRecord, wire_values.TRANSFER),
        (ServiceInstance, wire_values.INSTANCE),
    ):
        assert set(fields) == {field.name for field in attrs.fields(kind)}


def test_epoch_and_place_of_zero_are_the_records_own_revision() -> None:
    """A writer cannot know the revision that its record will get; the reader fills it in."""
    owned = Ownership(target="account:42", service_name="s", instance_id="i", lease="l", registered_at=AT)
    read = codec.decode_record(OWNED, codec.encode_record(owned), 12)
    assert isinstance(read, Ownership)
    assert (read.epoch, read.revision) == (12, 12)
    waiting = Standby(target="t", service_name="s", instance_id="i", lease="l")
    place = codec.decode_record(StandbyKey("t", "i"), codec.encode_record(waiting), 9)
    assert isinstance(place, Standby)
    assert (place.joined, place.revision) == (9, 9)


def test_equal_texts_and_metadata_of_many_records_are_shared() -> None:
    """A million records of a few instances keep their names once."""
    metadata = ResourceMetadata(tags=("active",), last_modified=AT)
    stored = [
        codec.encode_record(
            Ownership(
                target=f"r{n}", service_name="s1", instance_id="i1", lease="l1", registered_at=AT, metadata=metadata
            )
        )
        for n in range(2)
    ]
    first, second = (codec.decode_record(TargetKey("r"), data, 1) for data in stored)
    assert isinstance(first, Ownership)
    assert isinstance(second, Ownership)
    assert first.metadata is second.metadata
    assert first.lease is second.lease
    assert first.instance_id is second.instance_id
    assert first.service_name is second.service_name


def test_default_metadata_is_one_object() -> None:
    """Most resources have none of their own."""
    owned = Ownership(target="account:42", service_name="s", instance_id="i", lease="l", registered_at=AT)
    read = round_trip(owned)
    assert isinstance(read, Ownership)
    assert read.metadata is DEFAULT_METADATA
    equal = attrs.evolve(owned, metadata=ResourceMetadata())
    assert codec.encode_record(equal) == codec.encode_record(owned)


def test_sharing_is_bounded() -> None:
    """Names that a hostile writer makes up are not kept for ever, and what comes after is still read."""
    template = codec.encode_record(Standby(target="t", service_name="s", instance_id="i", lease="@@@@@@"))
    for n in range(records._SHARED_TEXTS + 10):
        data = template.replace(b"@@@@@@", f"{n:06}".encode())
        codec.decode_record(StandbyKey("t", "i"), data, 1)
    assert len(records._texts) <= records._SHARED_TEXTS
    last = codec.decode_record(StandbyKey("t", "i"), data, 1)
    assert isinstance(last, Standby)
    assert last.lease == f"{n:06}"


# --- Other writers ------------------------------------------------------------------------------


def foreign(**fields: object) -> ServiceInstance:
    """An instance record of another program, read."""
    raw = {"serviceName": "Cart_Service", "instanceId": "cart-1", "lastHeartbeat": "2026-01-31T20:30:15.25+08:00"}
    data = json.dumps(raw | fields).encode()
    read = codec.decode_record(InstanceKey("Cart_Service", "cart-1"), data, 5)
    assert isinstance(read, ServiceInstance)
    return read


def test_record_of_another_writer_is_read() -> None:
    """Without anything of ours it is an instance with defaults, alive while its record is there."""
    read = foreign(version="2.0", status="ACTIVE", metadata={"zone": "a"})
    assert read == ServiceInstance(
        service_name="Cart_Service",
        instance_id="cart-1",
        version="2.0",
        role=Role.ACTIVE,
        lease="~Cart_Service.cart-1",
        metadata={"zone": "a"},
        registered_at=AT,
        last_heartbeat=AT,
        revision=5,
    )


@pytest.mark.parametrize(
    ("status", "role", "health"),
    [
        ("ACTIVE", Role.ACTIVE, Health.ONLINE),
        ("STANDBY", Role.STANDBY, Health.ONLINE),
        ("UNHEALTHY", Role.STANDBY, Health.UNHEALTHY),
    ],
)
def test_status_of_another_writer_is_role_and_health(status: str, role: Role, health: Health) -> None:
    """The one word of others tells both of our axes."""
    read = foreign(status=status)
    assert (read.role, read.health) == (role, health)


def test_snake_case_is_read_too() -> None:
    """Either spelling, of our fields as well."""
    raw = {
        "service_name": "s",
        "instance_id": "i",
        "last_heartbeat": "2026-01-31T12:30:15.25Z",
        "sticky_active_group": "g",
        "metadata": {"aegis": {"registered_at": "2026-01-30T12:30:15.25+00:00", "lease": "l"}},
    }
    read = codec.decode_record(InstanceKey("s", "i"), json.dumps(raw).encode(), 1)
    assert read == ServiceInstance(
        service_name="s",
        instance_id="i",
        lease="l",
        sticky_active_group="g",
        registered_at=AT - timedelta(days=1),
        last_heartbeat=AT,
        revision=1,
    )


def test_time_without_offset_is_taken_as_utc() -> None:
    """Other writers forget it; times decide nothing."""
    assert foreign(lastHeartbeat="2026-01-31T12:30:15.250000").last_heartbeat == AT


def test_unknown_fields_are_ignored() -> None:
    """A newer version may add fields to any record."""
    owned = Ownership(target="account:42", service_name="s", instance_id="i", lease="l", registered_at=AT)
    raw = msgpack.unpackb(codec.encode_record(owned)) | {"new": [1, 2]}
    assert codec.decode_record(OWNED, msgpack.packb(raw), 1) == attrs.evolve(owned, epoch=1, revision=1)
    assert foreign(new=1, metadata={"aegis": {"new": 1}}).metadata == {}
