"""Reserved calls: what nodes ask of each other's instances is checked like anything that comes over a wire."""

from __future__ import annotations

import pytest

from aegis_core.errors import InvalidRequest, ResourceNotFound
from aegis_core.models import Health, Role
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from aegis_core.principals import Principal

NO_IDS: list[object] = [None, 7, "x", [], ["x", 7], {"x": "y"}]


async def asked(operation: str, params: dict[str, object]) -> object:
    """What instance ``a``, which claims x, answers."""
    async with open_node("memory://") as node, node.serve(Service("svc"), instance_id="a", role=Role.ACTIVE) as a:
        await a.claim("x")
        (record,) = node.runtime.directory.snapshot.live("svc")
        try:
            return await node.client.reserved(
                record, f"aegis.{operation}", params, timeout=5, principal=Principal("instance", "a")
            )
        finally:
            assert a.claims["x"].held
            assert a.role is Role.ACTIVE
            assert a.health is Health.ONLINE
            assert not a.draining


@pytest.mark.parametrize("operation", ["transfer", "release", "explain"])
@pytest.mark.parametrize("ids", NO_IDS, ids=repr)
async def test_ids_are_a_list_of_strings(operation: str, ids: object) -> None:
    """At least one; anything else is refused with its path, before anything is done."""
    params = {"resource_ids": ids, "to_instance_id": "b", "reason": ""}
    with pytest.raises(InvalidRequest) as caught:
        await asked(operation, params)
    assert "$.params.resource_ids" in caught.value.message


@pytest.mark.parametrize(
    ("operation", "params", "path"),
    [
        ("transfer", {"resource_ids": ["x"], "to_instance_id": 7}, "$.params.to_instance_id"),
        ("transfer", {"resource_ids": ["x"], "to_instance_id": "b", "reason": ["why"]}, "$.params.reason"),
        ("set_health", {"health": "FINE"}, "$.params.health"),
        ("set_health", {"health": None}, "$.params.health"),
        ("set_role", {"role": "LEADER", "instance_ids": ["a"]}, "$.params.role"),
        ("set_role", {"role": "STANDBY", "instance_ids": "a"}, "$.params.instance_ids"),
        ("nothing", {}, "$.method"),
    ],
)
async def test_parameters_that_do_not_fit_are_refused_with_their_path(
    operation: str, params: dict[str, object], path: str
) -> None:
    """Nothing is done then."""
    with pytest.raises(InvalidRequest) as caught:
        await asked(operation, params)
    assert path in caught.value.message


@pytest.mark.parametrize("operation", ["release", "explain"])
@pytest.mark.parametrize("resource_id", ["%svc%default", "a b", ""])
async def test_only_resources_are_released_and_explained(operation: str, resource_id: str) -> None:
    """A role that the instance has is neither given up nor told of this way; nor is anything, with one such id."""
    with pytest.raises(InvalidRequest) as caught:
        await asked(operation, {"resource_ids": ["x", resource_id]})
    assert "$.params.resource_ids" in caught.value.message


async def test_what_would_be_right_is_named() -> None:
    """Of a choice, every value."""
    with pytest.raises(InvalidRequest, match=r"expected one of ONLINE, UNHEALTHY, OFFLINE, got 'FINE'"):
        await asked("set_health", {"health": "FINE"})


async def test_an_owner_tells_nothing_of_what_it_does_not_hold() -> None:
    """Whoever asked looks again who does."""
    with pytest.raises(ResourceNotFound) as caught:
        await asked("explain", {"resource_ids": ["y"]})
    assert (caught.value.resource_id, caught.value.service_name) == ("y", "svc")
