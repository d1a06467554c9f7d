"""Requests of routers, read from maps as clients send them."""

from __future__ import annotations

import pytest

from aegis_core import codec
from aegis_core.errors import InvalidRequest
from aegis_core.router import requests
from aegis_core.router.operations import OPERATIONS

ROOMS = {"service_name": "rooms", "instance_id": "rooms-1"}


def problems(name: str, raw: object) -> dict[str, str]:
    """What is wrong with a request, by path."""
    with pytest.raises(InvalidRequest) as caught:
        OPERATIONS[name].read(raw)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_request_has_defaults_for_what_it_lacks() -> None:
    """As the table of subjects has them."""
    request = OPERATIONS["service.register"].read(dict(ROOMS))
    assert (request.role, request.version, dict(request.metadata), request.ttl) == ("standby", "0.0.0", {}, None)
    routed = OPERATIONS["route.request"].read({"service_name": "rooms", "method": "open"})
    assert (routed.timeout, dict(routed.params), routed.require_ack, routed.excluded_instances) == (5.0, {}, False, ())


def test_unknown_fields_are_ignored_in_every_depth() -> None:
    """Newer clients may send them."""
    metadata = {"resource_type": "room", "colour": "red"}
    raw = {**ROOMS, "resources": [{"resource_id": "lobby", "metadata": metadata, "smell": 1}], "mood": "good", 7: 8}
    (resource,) = OPERATIONS["resource.bulk_register"].read(raw).resources
    assert (resource.resource_id, resource.metadata.resource_type) == ("lobby", "room")


def test_nil_means_the_default_unless_it_has_a_meaning_of_its_own() -> None:
    """Old clients send every field; no role at all is something else than to stand by."""
    request = OPERATIONS["service.register"].read({**ROOMS, "role": None, "metadata": None, "version": None})
    assert (request.role, dict(request.metadata), request.version) == (None, {}, "0.0.0")


@pytest.mark.parametrize(
    ("name", "raw", "paths"),
    [
        ("service.register", {}, {"$.service_name", "$.instance_id"}),
        ("service.register", {**ROOMS, "role": "boss", "priority": "1"}, {"$.role", "$.priority"}),
        ("service.register", {**ROOMS, "trace_id": "x" * 1025}, {"$.trace_id"}),
        ("service.register", None, {"$"}),
        ("service.heartbeat", {**ROOMS, "status": "tired"}, {"$.status"}),
        ("service.unregister", {"service_name": None, "instance_id": 1}, {"$.service_name", "$.instance_id"}),
        ("route.request", {"service_name": "rooms", "method": "m", "timeout": 301}, {"$.timeout"}),
        ("route.request", {"service_name": "rooms", "method": "m", "timeout": float("nan")}, {"$.timeout"}),
        ("route.request", {"service_name": "rooms", "method": "m", "params": [1]}, {"$.params"}),
        ("resource.register", {**ROOMS, "resource_ids": "lobby"}, {"$.resource_ids"}),
        ("resource.register", {**ROOMS, "resource_ids": ["a"], "metadata": {"a": {"tags": [1]}}}, {"$.metadata['a'].tags[0]"}),
        ("resource.release", {**ROOMS, "resource_ids": ["a"] * 10_001}, {"$.resource_ids"}),
        ("resource.bulk_register", {**ROOMS, "resources": [{}]}, {"$.resources[0].resource_id"}),
        ("resource.bulk_register", {**ROOMS, "resources": [3], "batch_size": 1}, {"$.resources[0]"}),
        ("resource.bulk_release", {**ROOMS, "resource_ids": ["a"], "batch_size": 0}, {"$.batch_size"}),
        ("resource.transfer", {"service_name": "rooms"}, {"$.resource_ids", "$.from_instance_id", "$.to_instance_id"}),
        ("resource.query", {"limit": 1001, "offset": -1}, {"$.limit", "$.offset"}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_path(name: str, raw: object, paths: set[str]) -> None:
    """All of it at once."""
    assert problems(name, raw).keys() == paths


CALLS: list[dict[object, object]] = [
    {},
    {"params": {"a": 1}, "timeout": 3, "trace_id": "t", "message_id": "m", "resource_id": "r", "require_ack": True},
    {"params": None, "timeout": None, "trace_id": None, "require_ack": None, "excluded_instances": None},
    {"excluded_instances": []},
    {"excluded_instances": ["a"]},
    {"excluded_instances": 0},
    {"colour": "red"},
    {"service_name": 1},
    {"service_name": "x" * 1025},
    {"method": None},
    {"method": "x" * 1025},
    {"params": {1: 2}},
    {"params": []},
    {"timeout": True},
    {"timeout": 0},
    {"timeout": 301},
    {"timeout": float("nan")},
    {"message_id": "x" * 129},
    {"message_id": 5},
    {"resource_id": b"x"},
    {"require_ack": 1},
    {"trace_id": "x" * 1025},
]


@pytest.mark.parametrize("fields", CALLS, ids=range(len(CALLS)))
def test_what_is_read_quickly_is_read_alike(fields: dict[object, object]) -> None:
    """Or left to the long way, which says what is wrong."""
    raw = {"service_name": "rooms", "method": "open", **fields}
    quickly = requests.read_route(raw)
    try:
        slowly = codec.structure_request(raw, requests.RouteRequest)
    except InvalidRequest:
        assert quickly is None
    else:
        assert quickly in (None, slowly)
        assert OPERATIONS["route.request"].read(raw) == slowly
