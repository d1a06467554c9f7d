"""Bytes in a store that are not the record that their key promises, and values that have no stored form."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_core import codec
from aegis_core.codec import DecodeError
from aegis_core.errors import InvalidRequest
from aegis_core.models import Ownership, ResourceMetadata, ServiceInstance
from aegis_core.names import InstanceKey, Key, StandbyKey, TargetKey, TransferKey
from tests.core import wire_values
from tests.core.wire_values import AT

OWNED = TargetKey("account:42")


@pytest.mark.parametrize(
    "fields",
    [
        {"svc": 5},
        {"svc": ""},
        {"lease": ""},
        {"lease": None},
        {"inst": 5},
        {"inst": None},
        {"at": None},
        {"at": "yesterday"},
        {"at": "0001-01-01T00:00:00+14:00"},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": "7"},
        {"why": 5},
        {"prev": []},
        {"role": 1},
        {"meta": {}},
        {"meta": b"\x90"},
        {"meta": msgpack.packb({"ver": 0})},
        {"meta": msgpack.packb({"ver": 1.5})},
        {"meta": msgpack.packb({"tags": "abc"})},
        {"meta": msgpack.packb({"tags": [1]})},
        {"meta": msgpack.packb({"attrs": [1]})},
        {"meta": msgpack.packb({"attrs": {b"k": 1}})},
        {"meta": msgpack.packb({"ttl": "1"})},
        {"meta": msgpack.packb({"ttl": float("inf")})},
        {"meta": msgpack.packb({"ttl": -1})},
    ],
)
def test_ownership_with_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    """Types are strict, and nothing is guessed."""
    sound = {"svc": "s", "inst": "i", "lease": "l", "at": AT.isoformat()}
    assert codec.decode_record(OWNED, msgpack.packb(sound), 1).revision == 1
    with pytest.raises(DecodeError, match="account:42"):
        codec.decode_record(OWNED, msgpack.packb(sound | fields), 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"serviceName": "other"},
        {"instanceId": None},
        {"status": "DRAINING"},
        {"version": 2},
        {"stickyActiveGroup": 5},
        {"lastHeartbeat": 5},
        {"metadata": [1]},
        {"metadata": {"aegis": 5}},
        {"metadata": {"aegis": {"ttl": 0}}},
        {"metadata": {"aegis": {"ttl": 1e999}}},
        {"metadata": {"aegis": {"interval": -1}}},
        {"metadata": {"aegis": {"role": "BOSS"}}},
        {"metadata": {"aegis": {"role": []}}},
        {"metadata": {"aegis": {"health": 1}}},
        {"metadata": {"aegis": {"endpoints": "memory:x"}}},
        {"metadata": {"aegis": {"draining": 0}}},
        {"metadata": {"aegis": {"lease": 7}}},
    ],
)
def test_instance_with_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    """Lenient in spelling, strict in types."""
    sound = {"serviceName": "cart", "instanceId": "cart-1", "lastHeartbeat": "2026-01-31T12:30:15.25Z"}
    key = InstanceKey("cart", "cart-1")
    assert codec.decode_record(key, json.dumps(sound).encode(), 1).revision == 1
    with pytest.raises(DecodeError, match="cart-1"):
        codec.decode_record(key, json.dumps(sound | fields).encode(), 1)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (OWNED, b""),
        (OWNED, b"\x90"),
        (OWNED, b"\xc1"),
        (OWNED, b"\xdf\xff\xff\xff\xff"),
        (OWNED, b"\xc6\xff\xff\xff\xff"),
        (OWNED, b"\x91" * 5000),
        (OWNED, b"\x81\xa1x\xd4\x05x"),
        (InstanceKey("s", "i"), b""),
        (InstanceKey("s", "i"), b"[]"),
        (InstanceKey("s", "i"), b"\xff\xfe"),
        (InstanceKey("s", "i"), b'{"ttl": NaN}'),
        (InstanceKey("s", "i"), b"[" * 100_000),
        (InstanceKey("s", "i"), b"1" * 10_000),
        (TransferKey("t"), b"\x80"),
        (StandbyKey("t", "i"), b"\x80"),
        (OWNED, b"\x80" + bytes(codec.MAX_RECORD)),
    ],
)
def test_bytes_that_are_no_record_are_refused(key: Key, data: bytes) -> None:
    """Damaged, foreign, endless, nested without end: always the one documented error."""
    with pytest.raises(DecodeError):
        codec.decode_record(key, data, 1)


KEYS = (OWNED, InstanceKey("s", "i"), StandbyKey("t", "i"), TransferKey("t"))
SOUND = (wire_values.ownership | wire_values.standby | wire_values.transfer).map(codec.encode_record)


@given(st.sampled_from(KEYS), st.binary(max_size=64) | wire_values.damaged(SOUND))
def test_random_and_damaged_bytes_raise_nothing_else(key: Key, data: bytes) -> None:
    """Either it is a record, or it is a DecodeError."""
    try:
        record = codec.decode_record(key, data, 3)
    except DecodeError:
        return
    assert record.revision == 3


@given(wire_values.damaged(wire_values.instance.map(codec.encode_record)))
def test_damaged_json_raises_nothing_else(data: bytes) -> None:
    """The same for the records that anybody may write."""
    try:
        record = codec.decode_record(InstanceKey("s", "i"), data, 3)
    except DecodeError:
        return
    assert record.revision == 3


def test_memory_grows_in_proportion_to_the_input() -> None:
    """The worst input, empty maps, takes a bounded multiple of its length."""
    size = 200_000
    data = b"\xdd" + size.to_bytes(4, "big") + b"\x80" * size
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode_record(OWNED, data, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(data)


@pytest.mark.parametrize("value", [object(), b"bytes", float("nan"), "\ud800", {1, 2}])
def test_instance_metadata_that_is_no_json_is_refused(value: object) -> None:
    """The user's own metadata is told apart as the user's problem."""
    record = ServiceInstance(
        service_name="s", instance_id="i", metadata={"x": value}, registered_at=AT, last_heartbeat=AT
    )
    with pytest.raises(InvalidRequest, match=r"\$\.metadata"):
        codec.encode_record(record)


def test_our_place_in_the_metadata_cannot_be_taken() -> None:
    """``metadata.aegis`` is the library's; it would be overwritten without a word."""
    record = ServiceInstance(
        service_name="s", instance_id="i", metadata={"aegis": 1}, registered_at=AT, last_heartbeat=AT
    )
    with pytest.raises(InvalidRequest, match=r"\$\.metadata\.aegis"):
        codec.encode_record(record)


@pytest.mark.parametrize("value", [object(), 1 << 70, datetime(2026, 1, 1)])  # noqa: DTZ001
def test_resource_attributes_that_cannot_be_stored_are_refused(value: object) -> None:
    """Objects, numbers past 64 bits and times without offset have no stored form."""
    owned = Ownership(
        target="t",
        service_name="s",
        instance_id="i",
        lease="l",
        registered_at=datetime.now(UTC),
        metadata=ResourceMetadata(attributes={"x": value}),
    )
    with pytest.raises(InvalidRequest, match=r"\$\.metadata"):
        codec.encode_record(owned)
