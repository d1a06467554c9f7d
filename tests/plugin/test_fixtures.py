"""The smaller fixtures: a node, a store, faults, logs and sample data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
import trio

from aegis_core import Node, Resource, ResourceConflict, ResourceMetadata, Service
from aegis_core.backend import ABSENT, Conflict, Put, Store, Transaction
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults
from aegis_pytest.logs import CapturedLogs, capture_logs

rooms = Service("rooms")


async def test_node_is_one_of_the_cluster(aegis_node: Node, aegis_cluster: Cluster) -> None:
    """So that a test of one node can grow into a test of several."""
    async with aegis_node.serve(rooms) as instance:
        await instance.claim("room")
        other = await aegis_cluster.serve("b", rooms)
        with pytest.raises(ResourceConflict):
            await other.claim("room")
    assert aegis_cluster.nodes["node"] is aegis_node


async def test_store_is_empty_and_keeps_the_contract(aegis_store: Store) -> None:
    """A memory store with nobody on it."""
    assert await aegis_store.get("key") is None
    put = Transaction("one", (Put("key", b"value", ABSENT),))
    (revision,) = await aegis_store.commit(put)
    assert await aegis_store.commit(put) == (revision,)
    with pytest.raises(Conflict):
        await aegis_store.commit(Transaction("two", (Put("key", b"other", ABSENT),)))


async def test_faults_are_those_of_the_cluster(aegis_faults: Faults, aegis_cluster: Cluster) -> None:
    """What is cut off between two of its nodes does not arrive."""
    instance = await aegis_cluster.serve("a", rooms)
    with aegis_faults.partition({"a"}, {"store"}):
        await trio.sleep(aegis_cluster.ttl)
        assert not instance.ready
    await trio.sleep(5)
    assert instance.ready


async def test_store_is_no_name_of_a_node(aegis_cluster: Cluster) -> None:
    """Faults know the store by that name."""
    with pytest.raises(pytest.UsageError, match="'store' is the store's name"):
        await aegis_cluster.node("store")


# --- Logs ---


async def test_logs_of_the_library_are_captured(aegis_logs: CapturedLogs, aegis_node: Node) -> None:
    """By level, message and structured field, whatever the program's loggers are set to."""
    async with aegis_node.serve(rooms, instance_id="room-1") as instance:
        await instance.claim("lobby")
    assert "instance registered room-1" in aegis_logs.messages
    assert aegis_logs.at_least("WARNING") == aegis_logs.at_least(logging.WARNING) == []
    assert aegis_logs.with_fields(resource_id="lobby", levelname="INFO")
    assert aegis_logs.with_fields(resource_id="nowhere") == aegis_logs.with_fields(no_such_field=None) == []
    assert "records" in repr(aegis_logs)
    aegis_logs.clear()
    assert aegis_logs.records == []


def test_capturing_leaves_the_logger_as_it_was() -> None:
    """Its level and handlers come back, and nothing is captured afterwards."""
    logger = logging.getLogger("aegis")
    before = (logger.level, list(logger.handlers))
    with capture_logs() as captured:
        logging.getLogger("aegis.anything").debug("heard")
        logging.getLogger("elsewhere").warning("not ours")
    assert (logger.level, list(logger.handlers)) == before
    logging.getLogger("aegis.anything").warning("not heard")
    assert captured.messages == ["heard"]


# --- Sample data ---


def test_sample_metadata(sample_resource_metadata: ResourceMetadata) -> None:
    """A user's session."""
    assert sample_resource_metadata == ResourceMetadata(
        resource_type="user_session",
        version=1,
        tags=("active", "premium"),
        attributes={"region": "us-west", "tier": "gold", "max_connections": 10},
        created_by="auth-service",
        ttl_seconds=3600,
        priority=10,
    )


def test_sample_resources(sample_resources: tuple[Resource, ...]) -> None:
    """A hundred of one owner, alike but for tag, index, time to live and priority."""
    assert [resource.resource_id for resource in sample_resources] == [f"test-resource-{i}" for i in range(100)]
    assert {resource.owner_instance_id for resource in sample_resources} == {"test-instance-1"}
    for i, resource in enumerate(sample_resources):
        assert resource.metadata.tags == (f"tag-{i % 5}",)
        assert resource.metadata.attributes["index"] == i
        assert resource.metadata.ttl_seconds == (None if i % 2 == 0 else 3600)
        assert resource.metadata.priority == i % 10
        assert not resource.metadata.is_expired(datetime.now(UTC))


def test_conflicting_resources(conflicting_resources: Mapping[str, tuple[str, str]]) -> None:
    """Each is wanted by two of three."""
    assert conflicting_resources == {
        "conflict-1": ("svc-1", "svc-2"),
        "conflict-2": ("svc-2", "svc-3"),
        "conflict-3": ("svc-1", "svc-3"),
    }


def test_expired_resources(expired_resources: tuple[Resource, ...]) -> None:
    """Its hour was over an hour ago."""
    (expired,) = expired_resources
    assert (expired.resource_id, expired.owner_instance_id) == ("expired-1", "dead-instance")
    assert expired.metadata.is_expired(datetime.now(UTC))


async def test_bulk_registration_data_can_be_claimed(
    aegis_cluster: Cluster,
    bulk_registration_data: Mapping[str, tuple[tuple[str, ResourceMetadata], ...]],
    conflicting_resources: Mapping[str, tuple[str, str]],
) -> None:
    """Batches of three sizes, and one with two ids that have another owner."""
    sizes = {name: len(batch) for name, batch in bulk_registration_data.items()}
    assert sizes == {"small_batch": 10, "medium_batch": 100, "large_batch": 1000, "with_conflicts": 52}
    owner = await aegis_cluster.serve("a", rooms)
    await owner.claim(*conflicting_resources)
    for name, batch in bulk_registration_data.items():
        instance = await aegis_cluster.serve("b", rooms)
        reply = await instance.bulk_claim(batch, continue_on_error=True)
        failed = ["conflict-1", "conflict-2"] if name == "with_conflicts" else []
        assert [failure.resource_id for failure in reply.failed] == failed
        assert len(reply.done) == len(batch) - len(failed)
