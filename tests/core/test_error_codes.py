"""Errors on their way: by stable codes, never by classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_core import codec, error_codes, errors
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    ConfigError,
    Conflict,
    Forbidden,
    Held,
    Indeterminate,
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    LeaseLost,
    LimitExceeded,
    Misdirected,
    NodeCrashed,
    NoInstance,
    NotFound,
    NotOwner,
    Overloaded,
    Problem,
    RemoteError,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
    RoleConflict,
    ServiceNotFound,
    StoreUnavailable,
    TransportUnavailable,
    Unauthorized,
    Unavailable,
    VersionConflict,
)
from aegis_core.models import EndReason, Outcome
from tests.core import wire_values

# One of each that travels, no attribute at its default where it can be helped.
TRAVELLING: tuple[AegisError, ...] = (
    InvalidRequest(problems=(Problem("$.a", "wrong"), Problem("$.b[1]", "missing"))),
    Unauthorized(operation="claim", target="r"),
    Forbidden(operation="force", target="r", reason="no admin"),
    NotOwner(operation="release", target="r", reason="x", owner="i"),
    ServiceNotFound(service_name="s"),
    InstanceNotFound(instance_id="i", service_name="s", registered=("j", "k")),
    ResourceNotFound(resource_id="r", service_name="s", owned_by_service="o", is_served=False, similar="t"),
    InstanceConflict(owner="i", service_name="s"),
    ResourceConflict(owner="i", resource_id="r", conflicts={"r": "i"}, reason="why"),
    RoleConflict(owner="i", service_name="s", target="r"),
    VersionConflict(resource_id="r", expected=1, actual=2),
    Misdirected(resource_id="r", epoch=5, owner="i"),
    ResourceLimitExceeded(limit=10, asked=2, held=9, instance_id="i"),
    Overloaded(limit=10, asked=1, what="w"),
    RemoteError(remote_code="X", remote_message="m", kind="K", remote_details={"a": [1]}),
    NoInstance(service_name="s", reason="r", outcome=Outcome.REJECTED),
    StoreUnavailable(reason="r", outcome=Outcome.MAYBE_EXECUTED),
    TransportUnavailable(reason="r", endpoint="memory:x", outcome=Outcome.MAYBE_EXECUTED),
    LeaseLost(resource_id="r", epoch=5, reason=EndReason.FORCED, outcome=Outcome.REJECTED),
    CallTimeout(timeout=2.5, what="w", outcome=Outcome.NOT_SENT),
)
# Facts of one process, and classes that are only there to be caught.
STAYING = (AegisError, ConfigError, NodeCrashed, Conflict, Indeterminate, NotFound, Held, LimitExceeded, Unavailable)


def classes(parent: type[AegisError]) -> Iterator[type[AegisError]]:
    """Every error class of the library."""
    yield parent
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from classes(child)


def test_every_error_travels_or_stays_by_decision() -> None:
    """A new class is either in the table or excluded from it on purpose."""
    assert set(classes(AegisError)) == {*map(type, TRAVELLING), *STAYING}
    assert set(error_codes._by_code()) == {type(error).code for error in TRAVELLING}


def test_codes_are_stable() -> None:
    """Other programs compare these words."""
    assert sorted(type(error).code for error in TRAVELLING) == [
        "DUPLICATE_INSTANCE", "FORBIDDEN", "INSTANCE_NOT_FOUND", "LEASE_LOST", "MISDIRECTED", "NOT_OWNER",
        "NO_INSTANCE", "OVERLOADED", "REMOTE_ERROR", "RESOURCE_CONFLICT", "RESOURCE_LIMIT_EXCEEDED",
        "RESOURCE_NOT_FOUND", "ROLE_CONFLICT", "SERVICE_NOT_FOUND", "STORE_UNAVAILABLE", "TIMEOUT",
        "TRANSPORT_UNAVAILABLE", "UNAUTHORIZED", "VALIDATION_ERROR", "VERSION_CONFLICT",
    ]  # fmt: skip


@pytest.mark.parametrize("error", TRAVELLING, ids=lambda error: type(error).__name__)
def test_error_arrives_as_it_was_raised(error: AegisError) -> None:
    """Class, attributes and message are the same on the other side."""
    wire = codec.error_to_wire(error)
    assert set(wire) == {"code", "type", "message", "details"}
    arrived = codec.error_from_wire(wire)
    assert type(arrived) is type(error)
    assert arrived.details == error.details
    assert str(arrived) == str(error)


@pytest.mark.parametrize("error", TRAVELLING, ids=lambda error: type(error).__name__)
def test_outcome_is_in_the_message(error: AegisError) -> None:
    """Whether it may have been executed is seen in a log, too; who finds nobody to ask has not asked."""
    if isinstance(error, Unavailable) and not isinstance(error, NoInstance):
        assert f"({error.outcome.value})" in str(error)


@pytest.mark.parametrize("error", TRAVELLING, ids=lambda error: type(error).__name__)
def test_newer_attributes_are_ignored(error: AegisError) -> None:
    """An attribute that only the sender knows does no harm."""
    wire = codec.error_to_wire(error)
    arrived = codec.error_from_wire(wire | {"details": dict[object, object](error.details) | {"status": 409, 5: 6}})
    assert type(arrived) is type(error)
    assert arrived.details == error.details


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("RESOURCE_CONFLICT", {"resource_id": "r"}),
        ("RESOURCE_CONFLICT", {"resource_id": "r", "owner": 5}),
        ("RESOURCE_CONFLICT", {"resource_id": "r", "owner": "i", "conflicts": []}),
        ("RESOURCE_CONFLICT", {"resource_id": "r", "owner": "i", "conflicts": {"r": 5}}),
        ("INSTANCE_NOT_FOUND", {"instance_id": "i", "registered": [5]}),
        ("MISDIRECTED", {"resource_id": "r", "epoch": True}),
        ("VALIDATION_ERROR", {"problems": "x"}),
        ("VALIDATION_ERROR", {"problems": [{"path": "$"}]}),
        ("TIMEOUT", {"outcome": "PERHAPS", "timeout": 5}),
        ("TIMEOUT", {"outcome": "NOT_SENT", "timeout": float("nan")}),
        ("TIMEOUT", {"outcome": "NOT_SENT", "timeout": "5"}),
        ("TIMEOUT", {"outcome": "NOT_SENT", "timeout": True}),
        ("TIMEOUT", {"outcome": "NOT_SENT", "timeout": 10**400}),
        ("NO_INSTANCE", {"service_name": "s", "retry_after": -(10**400), "outcome": "NOT_SENT"}),
        ("LEASE_LOST", {"resource_id": "r", "reason": []}),
        ("NO_INSTANCE", None),
        ("INSUFFICIENT_FUNDS", {"missing": 5}),
        ("CONFIG_ERROR", {"problem": "x"}),
        ("NOT_FOUND", {}),
    ],
)
def test_code_is_kept_where_the_class_does_not_fit(code: str, details: object) -> None:
    """Unknown codes, and details that are not of the class, are told as the remote error that they are."""
    arrived = codec.error_from_wire({"code": code, "type": "T", "message": "m", "details": details})
    assert isinstance(arrived, RemoteError)
    assert (arrived.remote_code, arrived.kind, arrived.remote_message) == (code, "T", "m")
    assert arrived.remote_details == (details or {})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("it broke", "it broke"),
        (None, "an error without description (NoneType)"),
        ({}, ""),
        ({"code": 500, "message": 5, "type": [], "details": "x"}, ""),
        ({"code": "", "message": "m"}, "m"),
        ({"code": "REMOTE_ERROR", "message": "m", "details": {}}, "m"),
    ],
)
def test_odd_errors_of_old_instances_are_remote_errors(raw: object, message: str) -> None:
    """Whatever it is, the caller gets an error that says what is known."""
    arrived = codec.error_from_wire(raw)
    assert isinstance(arrived, RemoteError)
    assert (arrived.remote_code, arrived.remote_message) == ("REMOTE_ERROR", message)


def test_foreign_details_of_a_remote_error_are_kept() -> None:
    """An old instance may put what it likes beside its message."""
    arrived = codec.error_from_wire({"code": "REMOTE_ERROR", "type": "T", "message": "m", "details": {"a": 1}})
    assert isinstance(arrived, RemoteError)
    assert (arrived.kind, arrived.remote_message, arrived.remote_details) == ("T", "m", {"a": 1})


def test_exception_of_a_handler_shows_its_name_and_its_text_alone() -> None:
    """Class paths, attributes and causes stay where they are."""

    class Broke(Exception):
        """An exception of an application."""

    wire = codec.error_to_wire(Broke("no change"))
    assert (wire["code"], wire["type"], wire["message"]) == ("REMOTE_ERROR", "Broke", "no change")
    assert not re.search(r"tests|locals", repr(wire))


def test_error_of_the_library_out_of_a_handler_is_a_remote_error() -> None:
    """What the handler's own calls met must not look like the fate of the caller's call; its code is told."""
    inner = NoInstance(service_name="other")
    seen = error_codes.remote_error(inner)
    assert (seen.remote_code, seen.kind, seen.remote_message) == ("NO_INSTANCE", "NoInstance", str(inner))
    arrived = codec.error_from_wire(codec.error_to_wire(seen))
    assert isinstance(arrived, RemoteError)
    assert arrived.details == seen.details


def test_messages_are_bounded() -> None:
    """A text of any length cannot make an answer too large."""
    for error in (ValueError("x" * 100_000), InvalidRequest.at("$", "x" * 100_000)):
        wire = codec.error_to_wire(error)
        assert len(str(wire["message"])) == error_codes.MAX_MESSAGE
    arrived = codec.error_from_wire({"message": "x" * 100_000})
    assert isinstance(arrived, RemoteError)
    assert len(arrived.remote_message) == error_codes.MAX_MESSAGE


CODES = st.sampled_from(sorted(error_codes._by_code())) | wire_values.text
NAMES = st.sampled_from(sorted({a.name for error in TRAVELLING for a in attrs.fields(type(error))})) | wire_values.text


@given(
    wire_values.anything
    | st.fixed_dictionaries(
        {},
        optional={
            "code": CODES | wire_values.anything,
            "type": wire_values.anything,
            "message": wire_values.anything,
            "details": wire_values.anything | st.dictionaries(NAMES, wire_values.anything, max_size=6),
        },
    )
)
def test_anything_becomes_an_error(raw: object) -> None:
    """Reading an error never raises."""
    arrived = codec.error_from_wire(raw)
    assert isinstance(arrived, AegisError)
    assert isinstance(str(arrived), str)
