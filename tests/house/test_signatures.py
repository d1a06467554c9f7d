"""What programs outside this repository write down: the names, keywords and defaults of the program interface.

A parameter may be added with a default; one that stands here keeps its name, its kind and its default until a major version.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
from trio.testing import MockClock

import aegis_core
from aegis_core import Call, Claim, Instance, Node, ResourceMetadata, Role, Service
from aegis_core.node.bulk import BulkRequest
from aegis_core.node.client import Client
from aegis_core.node.registry import Registry

Function = Callable[..., Any]


def _call(
    service: object,
    method: object,
    params: object = None,
    *,
    resource_id: object = None,
    instance_id: object = None,
    timeout: object = 5.0,
    idempotency_key: object = None,
    returns: object = None,
) -> None: ...


def _serve(
    service: object,
    *,
    instance_id: object = None,
    role: object = None,
    group: object = None,
    ttl: object = None,
    heartbeat_interval: object = None,
    priority: object = 0,
    metadata: object = None,
    register: object = True,
) -> None: ...


def _own(
    resource_id: object,
    *,
    role: object = Role.ACTIVE,
    priority: object = 0,
    wait: object = math.inf,
    grace: object = 0.0,
    ready: object = True,
    metadata: object = None,
) -> None: ...


def _call_fields(
    service_name: object = "",
    method: object = "",
    resource_id: object = None,
    epoch: object = 0,
    trace_id: object = "",
    deadline: object = math.inf,
    message_id: object = "",
    idempotency_key: object = None,
    claim: object = None,
    state: object = None,
    instance: object = None,
    principal: object = "",
) -> None: ...


def _metadata_fields(
    *,
    resource_type: object = "",
    version: object = 1,
    tags: object = (),
    created_by: object = "",
    last_modified: object = None,
    ttl_seconds: object = None,
    priority: object = 0,
) -> None: ...


def _bulk_options(
    *,
    batch_size: object = 100,
    continue_on_error: object = False,
    on_progress: object = None,
    retries: object = 2,
    concurrency: object = 4,
) -> None: ...


def _query(
    *,
    service_name: object = None,
    instance_id: object = None,
    resource_ids: object = None,
    resource_type: object = None,
    tags: object = None,
    include_metadata: object = True,
    limit: object = 100,
    offset: object = 0,
) -> None: ...


def _transfer(
    service_name: object,
    resource_ids: object,
    from_instance_id: object,
    to_instance_id: object,
    *,
    verify_ownership: object = True,
    reason: object = "",
) -> None: ...


def _register(
    service_name: object,
    instance_id: object,
    metadata: object = None,
    *,
    role: object = None,
    ttl: object = None,
    version: object = "0.0.0",
    endpoints: object = (),
    priority: object = 0,
) -> None: ...


def _heartbeat(
    service_name: object,
    instance_id: object,
    *,
    status: object = "healthy",
    metadata: object = None,
    lease_id: object = None,
) -> None: ...


PROMISED: dict[str, tuple[Function, Function]] = {
    "open_node": (aegis_core.open_node, lambda backend=None, *, config=None, plugins=(): None),
    "Service": (Service, lambda name, *, version="0.0.0", on_demand=(), idle_release=None: None),
    "Service.method": (Service.method, lambda self, function=None, /, *, name=None, idempotent=False: None),
    "Call": (Call, _call_fields),
    "ResourceMetadata": (ResourceMetadata, _metadata_fields),
    "Node.serve": (Node.serve, _serve),
    "Node.call": (Node.call, _call),
    "Node.bind": (Node.bind, lambda function, *, resource_id=None, timeout=5.0: None),
    "Node.events": (Node.events, lambda *types, service=None, resource_id=None: None),
    "Node.owner_of": (Node.owner_of, lambda resource_id: None),
    "Node.explain": (Node.explain, lambda resource_id: None),
    "Instance.claim": (Instance.claim, lambda *ids, metadata=None, force=False: None),
    "Instance.own": (Instance.own, _own),
    "Instance.release": (Instance.release, lambda *ids: None),
    "Instance.transfer": (Instance.transfer, lambda *ids, to, reason="": None),
    "Instance.bulk_claim": (Instance.bulk_claim, lambda items, **options: None),
    "Instance.bulk_release": (Instance.bulk_release, lambda items, **options: None),
    "options of a bulk": (BulkRequest, _bulk_options),
    "Instance.drain": (Instance.drain, lambda deadline=None: None),
    "Instance.set_health": (Instance.set_health, lambda health, reason="": None),
    "Instance.wait_role": (Instance.wait_role, lambda role: None),
    "Instance.run_until_signal": (Instance.run_until_signal, lambda *signals: None),
    "Claim.check": (Claim.check, lambda: None),
    "Claim.set_ready": (Claim.set_ready, lambda state=None: None),
    "Claim.release": (Claim.release, lambda: None),
    "Claim.wait_leaving": (Claim.wait_leaving, lambda: None),
    "Claim.wait_ended": (Claim.wait_ended, lambda: None),
    "Registry.register": (Registry.register, _register),
    "Registry.heartbeat": (Registry.heartbeat, _heartbeat),
    "Registry.deregister": (Registry.deregister, lambda service_name, instance_id, *, lease_id=None: None),
    "Registry.list_services": (Registry.list_services, lambda: None),
    "Registry.get_service": (Registry.get_service, lambda service_name: None),
    "Registry.list_roles": (Registry.list_roles, lambda service_name: None),
    "Registry.claim": (
        Registry.claim,
        lambda service_name, instance_id, *resource_ids, metadata=None, force=False: None,
    ),
    "Registry.release": (Registry.release, lambda service_name, instance_id, *resource_ids: None),
    "Registry.bulk_register": (Registry.bulk_register, lambda service_name, instance_id, resources, **options: None),
    "Registry.bulk_release": (Registry.bulk_release, lambda service_name, instance_id, resource_ids, **options: None),
    "Registry.transfer": (Registry.transfer, _transfer),
    "Registry.rebalance": (Registry.rebalance, lambda service_name, max_moves=100: None),
    "Registry.query_resources": (Registry.query_resources, _query),
    "Registry.get_owner": (Registry.get_owner, lambda resource_id: None),
    "Registry.explain": (Registry.explain, lambda resource_id: None),
    "Registry.drain": (Registry.drain, lambda service_name, instance_id: None),
    "Registry.disconnect": (Registry.disconnect, lambda service_name, instance_id: None),
    "Registry.set_health": (Registry.set_health, lambda service_name, instance_id, health, reason="": None),
    "Registry.set_role": (Registry.set_role, lambda service_name, role, *instance_ids: None),
}


def parameters(function: Function) -> dict[str, tuple[object, object]]:
    """Kind and default of each parameter; "self" of a method is left out."""
    found = inspect.signature(function).parameters
    return {name: (p.kind, p.default) for name, p in found.items() if name != "self"}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_signature_is_kept(name: str) -> None:
    """Each parameter is there with its kind and default, in this order; what was added since need not be given."""
    actual, promised = (parameters(function) for function in PROMISED[name])
    kept = {parameter: actual.get(parameter) for parameter in promised}
    assert kept == promised
    assert [parameter for parameter in actual if parameter in promised] == list(promised)
    added = {p: default for p, (kind, default) in actual.items() if p not in promised}
    assert inspect.Parameter.empty not in added.values()


@pytest.mark.parametrize(
    ("handle", "names"),
    [
        (Instance, "instance_id role health ready deadline ttl claims"),
        (Claim, "resource_id epoch metadata instance state deadline remaining ended leaving"),
        (Node, "registry"),
    ],
    ids=["Instance", "Claim", "Node"],
)
def test_promised_attributes_are_kept(handle: type, names: str) -> None:
    """They are there, and are read without a call."""
    for name in names.split():
        assert not inspect.isfunction(inspect.getattr_static(handle, name)), name


async def test_node_calls_as_the_client_does(autojump_clock: MockClock) -> None:
    """What the class shows as `Node.call` and `Node.bind` a node has of its client; its registry is the one from above."""
    assert Node.call is Client.call
    assert Node.bind is Client.bind
    async with aegis_core.open_node("memory://") as node:
        assert node.call.__func__ is Client.call
        assert node.bind.__func__ is Client.bind
        assert isinstance(node.registry, Registry)
