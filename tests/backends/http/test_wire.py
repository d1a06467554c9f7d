"""What routers and their clients say to each other: there and back, and what is refused of strangers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_backends.http import wire
from aegis_core import codec, errors
from aegis_core.backend import (
    ABSENT,
    Capabilities,
    Change,
    Delete,
    DeleteReason,
    Entry,
    Put,
    Resync,
    Synced,
    Transaction,
)
from aegis_core.errors import AegisError, InvalidRequest
from aegis_core.models import Outcome

TRANSACTION = Transaction(
    "id-1", (Put("a.b", b"\x00value", ABSENT, 2.5), Put("c", b"", 7), Delete("d", -1)), proofs=("secret",)
)
BATCH = [
    Resync("why"),
    Resync("why", recounted=True),
    Change("a", b"1", 1),
    Change("b", None, 2, DeleteReason.EXPIRED),
    Change("c", None, 3),
    Synced(3),
    Synced(4, "2026-01-01T00:00:00Z0123456789abcdef"),
]


def test_transaction_arrives_as_it_was_sent() -> None:
    """With its proofs, which its repr does not show."""
    found = wire.transaction_from_bytes(wire.transaction_to_bytes(TRANSACTION), most=10)
    assert found == TRANSACTION
    assert found.proofs == ("secret",)
    assert "secret" not in repr(found)


NO_TRANSACTIONS: dict[str, tuple[object, str]] = {
    "map": ({}, "$"),
    "short": (["id", []], "$"),
    "empty id": (["", [["k", 0]], []], "$[0]"),
    "long id": (["x" * 129, [["k", 0]], []], "$[0]"),
    "id with a line break": (["x\r\nPUB", [["k", 0]], []], "$[0]"),
    "no operations": (["id", [], []], "$[1]"),
    "too many": (["id", [[f"k{n}", 0] for n in range(4)], []], "$[1]"),
    "operations of another kind": (["id", "k", []], "$[1]"),
    "same key twice": (["id", [["k", 0], ["k", 0]], []], "$[1]"),
    "operation that is no list": (["id", ["k"], []], "$[1][0]"),
    "operation without a revision": (["id", [["k"]], []], "$[1][0]"),
    "revision that is a bool": (["id", [["k", True]], []], "$[1][0]"),
    "revision below any": (["id", [["k", -2]], []], "$[1][0]"),
    "value that is a text": (["id", [["k", 0, "v", None]], []], "$[1][0]"),
    "TTL that is a bool": (["id", [["k", 0, b"v", True]], []], "$[1][0]"),
    "proofs of another kind": (["id", [["k", 0]], [1]], "$[2]"),
    "no list of proofs": (["id", [["k", 0]], None], "$[2]"),
    "too many proofs": (["id", [["k", 0]], ["p"] * 4097], "$[2]"),
}


@pytest.mark.parametrize("name", NO_TRANSACTIONS)
def test_what_is_no_transaction_is_refused_with_the_place(name: str) -> None:
    """Nothing is coerced."""
    raw, path = NO_TRANSACTIONS[name]
    with pytest.raises(InvalidRequest) as caught:
        wire.transaction_from_bytes(codec.encode_plain(raw), most=3)
    assert caught.value.problems[0].path == path


@given(st.binary(max_size=300))
def test_any_bytes_are_a_transaction_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    try:
        found = wire.transaction_from_bytes(data, most=3)
    except InvalidRequest:
        return
    assert found.operations


def test_bytes_that_would_fill_the_memory_are_refused_unread() -> None:
    """A million empty lists, and one list in another, a thousand deep."""
    for data in (b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000, b"\x91" * 1000 + b"\x90", b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(InvalidRequest):
            wire.transaction_from_bytes(data, most=1000)


def test_answers_arrive_as_they_were_sent() -> None:
    """Revisions, an entry or none, capabilities."""
    assert wire.revisions_from_bytes(wire.revisions_to_bytes((3, 0)), of=2) == (3, 0)
    for entry in (None, Entry(b"v", 5), Entry(b"v", 5, 1.5)):
        assert wire.entry_from_bytes(wire.entry_to_bytes(entry)) == entry
    capabilities = Capabilities(min_ttl=1.0, ttl_resolution=1.0, max_transaction=5, max_value=9, durable=True)
    told = wire.capabilities_to_bytes(capabilities, heartbeat=5.0, max_body=100)
    assert wire.router_limits_from_bytes(told) == (5.0, 100)
    assert wire.capabilities_from_bytes(told).guarded
    assert wire.capabilities_from_bytes(told).max_value == 9


@pytest.mark.parametrize("body", [b"\xc1", b"\x91\xa1x", b"\x92\x01\x02", b"\x80", b"\x01"])
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    """Whatever was asked for."""
    with pytest.raises(ValueError, match=r"expected|MessagePack"):
        wire.revisions_from_bytes(body, of=1)
    with pytest.raises(ValueError, match=r"expected|MessagePack"):
        wire.entry_from_bytes(body)
    with pytest.raises(ValueError, match=r"expected|MessagePack"):
        wire.capabilities_from_bytes(body)


@given(st.integers(1, 50))
def test_batches_are_whole_however_the_bytes_come(size: int) -> None:
    """Also with signs of life in between."""
    data = b"".join([wire.HEARTBEAT, *wire.frames(BATCH), wire.HEARTBEAT, *wire.frames([Synced(4)])])
    reader = wire.FrameReader()
    found = [batch for at in range(0, len(data), size) for batch in reader.feed(data[at : at + size])]
    assert found == [BATCH, [Synced(4)]]


def test_histories_are_named_to_those_alone_who_ask() -> None:
    """Who is older reads what it always read."""
    (part,) = wire.frames([Synced(4, "second")], with_generations=False)
    assert [part] == list(wire.frames([Synced(4)]))


def test_long_batches_come_in_frames_of_bounded_size() -> None:
    """And are one batch again at the reader's."""
    batch: list[wire.Item] = [Change(f"k.{n}", b"x" * 1000, n) for n in range(1, 1300)]
    parts = list(wire.frames(batch))
    assert len(parts) > 3
    assert max(map(len, parts)) < 1 << 19
    reader = wire.FrameReader()
    assert [found for part in parts for found in reader.feed(part)] == [batch]


NO_FRAMES: dict[str, tuple[bytes, str]] = {
    "too long": (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
    "no MessagePack": (b"\x00\x00\x00\x01\xc1", "not MessagePack"),
    "no list": (b"\x00\x00\x00\x01\x01", "expected a part of a batch"),
    "no change": (b"\x00\x00\x00\x05\x92\xc2\x91\x91\x01", "expected a change"),
    "name of a history that is none": (b"\x00\x00\x00\x08\x92\xc2\x91\x92\x01\xa2 a", "expected a change"),
    "unknown reason": (b"\x00\x00\x00\x0a\x92\xc2\x91\x94\xa1k\xc0\x01\xa1X", "not a valid DeleteReason"),
}


@pytest.mark.parametrize("name", NO_FRAMES)
def test_what_is_no_frame_is_a_value_error(name: str) -> None:
    """The connection is of no use then."""
    data, reason = NO_FRAMES[name]
    with pytest.raises(ValueError, match=reason):
        wire.FrameReader().feed(data)


ERRORS: list[tuple[AegisError, int]] = [
    (InvalidRequest.at("$.x", "no"), 400),
    (errors.Unauthorized(operation="x"), 401),
    (errors.Forbidden(operation="claim", target="a", reason="no"), 403),
    (errors.ServiceNotFound(service_name="x"), 404),
    (errors.ResourceConflict(resource_id="a", owner="b", conflicts={"a": "b"}), 409),
    (errors.Conflict(key="k"), 409),
    (errors.Conflict(key=None), 409),
    (errors.Overloaded(limit=1, asked=2), 429),
    (errors.StoreUnavailable(reason="away", outcome=Outcome.NOT_SENT), 503),
    (errors.Indeterminate(reason="lost"), 504),
]


@pytest.mark.parametrize(
    ("error", "status"), ERRORS, ids=[f"{type(e).__name__}-{n}" for n, (e, _) in enumerate(ERRORS)]
)
def test_errors_arrive_as_themselves(error: AegisError, status: int) -> None:
    """As problem details with a status, a code and what they carry."""
    body = wire.problem(error)
    assert json.loads(body)["status"] == wire.status_of(error) == status
    found = wire.error_from_problem(body, status)
    assert type(found) is type(error)
    assert found.details == error.details


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"code": 1}', b"[" * 100_000, b""])
def test_response_of_another_program_is_a_remote_error(body: bytes) -> None:
    """With its status, and the beginning of its text."""
    found = wire.error_from_problem(body, 502)
    assert isinstance(found, errors.RemoteError)
    assert found.kind == "HTTP 502"


def test_problem_with_unfit_details_is_read_all_the_same() -> None:
    """A conflict without a key names none."""
    body = json.dumps({"code": errors.Conflict.code, "details": [1]}).encode()
    found = wire.error_from_problem(body, 409)
    assert isinstance(found, errors.Conflict)
    assert found.key is None
    assert wire.status_of(AegisError()) == 500
