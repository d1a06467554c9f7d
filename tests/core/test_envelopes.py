"""Calls and answers on their way."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from uuid import UUID

import attrs
import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_core import codec
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_core.errors import InvalidRequest, Misdirected, Problem, RemoteError
from tests.core import wire_values

FIELDS: Mapping[str, st.SearchStrategy[object]] = {
    "method": wire_values.word,
    "params": st.dictionaries(wire_values.text, wire_values.anything, max_size=3),
    "trace_id": wire_values.text,
    "correlation_id": wire_values.text,
    "service_name": wire_values.text,
    "resource_id": st.none() | wire_values.text.filter(lambda text: not text.startswith("%")),
    "epoch": st.integers(0, 2**63),
    "timeout": st.none() | wire_values.seconds,
    "message_id": st.none() | wire_values.text,
    "idempotency_key": st.none() | wire_values.text,
    "activate": st.booleans(),
    "principal": wire_values.text,
    "traceparent": st.none() | wire_values.text,
}


# --- To the byte --------------------------------------------------------------------------------


def test_plain_request_has_what_old_instances_expect() -> None:
    """Method, params, trace_id and correlation_id are always there; the rest only when it says something."""
    request = RequestEnvelope(method="balance", params={"currency": "EUR"}, trace_id="t", correlation_id="c")
    assert codec.encode_request(request) == (
        b"\x84\xa6method\xa7balance\xa6params\x81\xa8currency\xa3EUR\xa8trace_id\xa1t\xaecorrelation_id\xa1c"
    )


def test_full_request_carries_every_field() -> None:
    """Each field under its own name."""
    full = {
        "method": "balance",
        "params": {"currency": "EUR"},
        "trace_id": "t",
        "correlation_id": "c",
        "service_name": "account-service",
        "resource_id": "account:42",
        "epoch": 7,
        "timeout": 4.5,
        "message_id": "m",
        "idempotency_key": "k",
        "activate": True,
        "principal": "instance:cart-1",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    }
    assert set(full) == {field.name for field in attrs.fields(RequestEnvelope)}
    request = RequestEnvelope(**full)  # type: ignore[arg-type]
    assert msgpack.unpackb(codec.encode_request(request)) == full


def test_answers_have_their_forms() -> None:
    """A result, or an error with code, type, message and details."""
    assert codec.encode_answer(AnswerEnvelope({"a": 1})) == b"\x82\xa7success\xc3\xa6result\x81\xa1a\x01"
    error = AnswerEnvelope(None, Misdirected(resource_id="r", epoch=7, owner="i"))
    assert msgpack.unpackb(codec.encode_answer(error)) == {
        "success": False,
        "error": {
            "code": "MISDIRECTED",
            "type": "Misdirected",
            "message": "resource 'r' is not here (epoch 7, owner i)",
            "details": {"resource_id": "r", "epoch": 7, "owner": "i"},
        },
    }


# --- Round trips --------------------------------------------------------------------------------


def test_every_field_of_a_request_is_in_the_round_trip() -> None:
    """A field that is added cannot be forgotten."""
    assert set(FIELDS) == {field.name for field in attrs.fields(RequestEnvelope)}


@given(st.builds(RequestEnvelope, **FIELDS))
def test_request_survives_its_bytes(request: RequestEnvelope) -> None:
    """What is sent is what is handled, whatever the values."""
    assert codec.decode_request(codec.encode_request(request)) == request


@given(wire_values.anything)
def test_result_survives_its_bytes(result: object) -> None:
    """Every MessagePack type passes unchanged, keys that are no strings included."""
    assert codec.decode_answer(codec.encode_answer(AnswerEnvelope(result))) == AnswerEnvelope(result)


def test_extension_types_pass_unchanged() -> None:
    """Timestamps and extension values of other programs are none of our business."""
    values = [msgpack.Timestamp(5, 10), msgpack.ExtType(7, b"x")]
    assert codec.decode_answer(codec.encode_answer(AnswerEnvelope(values))).result == values


def test_nil_stands_for_a_field_that_is_absent() -> None:
    """Other clients send nil where they have nothing."""
    data = msgpack.packb({"method": "m", "params": None, "timeout": None, "epoch": None, "unknown": 1, 5: 6})
    assert codec.decode_request(data) == RequestEnvelope(method="m")


class Colour(Enum):
    """An enumeration that a handler may answer."""

    RED = "red"


@attrs.frozen
class Point:
    """A class that a handler may answer."""

    x: int
    at: datetime
    hidden: int = attrs.field(init=False, default=0)


@dataclass
class Line:
    """A dataclass that a handler may answer."""

    start: Point


AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Colour.RED, "red"),
        (Point(1, AT), {"x": 1, "at": "2026-01-31T12:00:00+00:00"}),
        (Line(Point(1, AT)), {"start": {"x": 1, "at": "2026-01-31T12:00:00+00:00"}}),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (deque([1, 2]), [1, 2]),
        ((1, (2,)), [1, [2]]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (date(2026, 1, 31), "2026-01-31"),
        (time(12, 30), "12:30:00"),
        (timedelta(seconds=90), 90.0),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Decimal("1.50"), "1.50"),
    ],
)
def test_values_of_handlers_travel_as_plain_data(value: object, sent: object) -> None:
    """Classes as maps, enumerations as their values, times as ISO 8601, exact numbers as text."""
    assert codec.decode_answer(codec.encode_answer(AnswerEnvelope({"v": value}))).result == {"v": sent}


# --- What does not fit --------------------------------------------------------------------------


def problems_of(data: bytes) -> tuple[Problem, ...]:
    """What is wrong with a request."""
    with pytest.raises(InvalidRequest) as caught:
        codec.decode_request(data)
    return caught.value.problems


def test_every_wrong_field_is_told() -> None:
    """All problems at once, each with its path."""
    wrong = {
        "method": 5,
        "params": [],
        "trace_id": b"t",
        "epoch": True,
        "timeout": "5",
        "activate": 1,
        "resource_id": "r" * 2000,
    }
    assert problems_of(msgpack.packb(wrong)) == (
        Problem("$.method", "expected str, got int"),
        Problem("$.params", "expected a map, got list"),
        Problem("$.trace_id", "expected str, got bytes"),
        Problem("$.epoch", "expected int, got bool"),
        Problem("$.timeout", "expected a number of seconds, got str"),
        Problem("$.activate", "expected bool, got int"),
        Problem("$.resource_id", "longer than 1024 characters"),
    )


def test_values_out_of_range_are_told() -> None:
    """The right type is not enough."""
    wrong = {"method": "", "params": {5: 1}, "timeout": -1.0, "epoch": -1}
    assert problems_of(msgpack.packb(wrong)) == (
        Problem("$.method", "must not be empty"),
        Problem("$.timeout", "expected a finite number, 0 or more"),
        Problem("$.epoch", "expected 0 or more"),
        Problem("$.params", "expected the names of parameters as keys"),
    )
    for endless in (float("inf"), float("nan")):
        assert problems_of(msgpack.packb({"method": "m", "timeout": endless}))[0].path == "$.timeout"


def test_parameter_without_a_name_is_told_in_a_request_that_is_right_otherwise() -> None:
    """Requests of our own are read in one look, and no less strictly."""
    raw = msgpack.unpackb(codec.encode_request(RequestEnvelope(method="m", params={"a": 1}, trace_id="t", timeout=1.0)))
    raw["params"] = {5: 1}
    assert problems_of(msgpack.packb(raw)) == (Problem("$.params", "expected the names of parameters as keys"),)


@pytest.mark.parametrize("rare", [{}, {"idempotency_key": "k"}], ids=["common fields", "a rare field"])
def test_a_role_is_no_resource(rare: dict[str, str]) -> None:
    """Nor in a request that is right otherwise; other ids are for who serves them to judge."""
    raw = {"method": "m", "params": {}, "trace_id": "t", "correlation_id": "", **rare}
    wrong = msgpack.packb({**raw, "resource_id": "%svc%default"})
    assert problems_of(wrong) == (Problem("$.resource_id", "a role is called as its service, not as a resource"),)
    assert codec.decode_request(msgpack.packb({**raw, "resource_id": "a%b"})).resource_id == "a%b"


def test_request_without_a_method_says_so() -> None:
    """The one field that has no default."""
    assert problems_of(msgpack.packb({})) == (Problem("$.method", "required field missing"),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91\x01",
        b"\x05",
        b"\x81\xa6method",
        b"\x81\x90\x01",
        b"\x81\xa1\xff\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 5000,
        b"\xd6\xff\x00",
        msgpack.packb({"method": "m"}) + b"x",
    ],
)
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    """Nothing, garbage, half a map, unhashable keys, lengths that were made up, nesting without end."""
    assert problems_of(data)[0].path == "$"


@given(st.binary(max_size=64) | wire_values.damaged(st.builds(RequestEnvelope, **FIELDS).map(codec.encode_request)))
def test_random_and_damaged_requests_raise_nothing_else(data: bytes) -> None:
    """Either it is a request, or an InvalidRequest."""
    try:
        request = codec.decode_request(data)
    except InvalidRequest:
        return
    assert request.method


@given(st.binary(max_size=64) | wire_values.damaged(wire_values.anything.map(AnswerEnvelope).map(codec.encode_answer)))
def test_random_and_damaged_answers_raise_nothing(data: bytes) -> None:
    """An answer that is none is the other side's error."""
    answer = codec.decode_answer(data)
    assert answer.success or isinstance(answer.error, Exception)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xc1", "not MessagePack"),
        (b"\x90", "expected a map, got list"),
        (msgpack.packb({"result": 1}), "neither success nor failure"),
        (msgpack.packb({"success": 1}), "neither success nor failure"),
    ],
)
def test_answer_that_is_none_is_a_remote_error(data: bytes, why: str) -> None:
    """The caller learns that the instance answered nonsense, as it learns of any failure there."""
    answer = codec.decode_answer(data)
    assert not answer.success
    assert isinstance(answer.error, RemoteError)
    assert answer.error.kind == "InvalidAnswer"
    assert why in answer.error.remote_message


def test_memory_grows_in_proportion_to_a_request() -> None:
    """The worst input takes a bounded multiple of its length."""
    size = 200_000
    data = b"\x82\xa6method\xa1m\xa6params\x81\xa1x\xdd" + size.to_bytes(4, "big") + b"\x80" * size
    tracemalloc.start()
    try:
        codec.decode_request(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(data)


# --- What cannot be sent ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [object(), 1 << 70, "\ud800", datetime(2026, 1, 1), len])  # noqa: DTZ001
def test_parameter_that_cannot_be_sent_is_named(value: object) -> None:
    """The caller's mistake, told before anything is sent."""
    request = RequestEnvelope(method="m", params={"good": 1, "bad": [value]})
    with pytest.raises(InvalidRequest) as caught:
        codec.encode_request(request)
    assert [problem.path for problem in caught.value.problems] == ["$.params.bad"]


def test_other_field_that_cannot_be_sent_is_named() -> None:
    """The same for what is beside the parameters."""
    with pytest.raises(InvalidRequest, match=r"\$\.trace_id"):
        codec.encode_request(RequestEnvelope(method="m", trace_id="\ud800"))


def test_parameters_nested_without_end_cannot_be_sent() -> None:
    """A list that holds itself has no bytes."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidRequest, match=r"\$\.params\.x"):
        codec.encode_request(RequestEnvelope(method="m", params={"x": endless}))


def test_parameter_whose_name_cannot_be_sent_is_refused() -> None:
    """Where no single value is to blame, the request is."""
    with pytest.raises(InvalidRequest, match=r"@ \$$"):
        codec.encode_request(RequestEnvelope(method="m", params={"\ud800": 1}))


@pytest.mark.parametrize(("result", "error"), [(object(), TypeError), (1 << 70, ValueError), ("\ud800", ValueError)])
def test_result_that_cannot_be_sent_is_the_handlers_error(result: object, error: type[Exception]) -> None:
    """It raises where the handler's own errors are caught."""
    with pytest.raises(error):
        codec.encode_answer(AnswerEnvelope([result]))


def test_error_can_always_be_sent() -> None:
    """Details that have no form on the wire are left out, rather than the answer."""
    odd = RemoteError(kind="Odd", remote_message="m", remote_details={"x": object()})
    read = codec.decode_answer(codec.encode_answer(AnswerEnvelope(None, odd))).error
    assert isinstance(read, RemoteError)
    assert (read.kind, read.remote_message, read.remote_details) == ("Odd", "m", {})
    broken = RemoteError(kind="Odd", remote_message="\ud800")
    read = codec.decode_answer(codec.encode_answer(AnswerEnvelope(None, broken))).error
    assert isinstance(read, RemoteError)
    assert read.remote_code == "REMOTE_ERROR"
