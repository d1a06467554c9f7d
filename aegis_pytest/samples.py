"""Sample data: the shapes that resources and requests of real services have, the same in every test.

The fixtures of the same names hand these out (`aegis_pytest.fixtures`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from aegis_core.models import Resource, ResourceMetadata

__all__ = [
    "CONFLICTS",
    "METADATA",
    "bulk_registration_data",
    "expired_resources",
    "sample_resources",
]

METADATA: Final = ResourceMetadata(
    resource_type="user_session",
    version=1,
    tags=("active", "premium"),
    attributes={"region": "us-west", "tier": "gold", "max_connections": 10},
    created_by="auth-service",
    ttl_seconds=3600,
    priority=10,
)
"""A gold customer's session."""

CONFLICTS: Final[Mapping[str, tuple[str, str]]] = {
    "conflict-1": ("svc-1", "svc-2"),
    "conflict-2": ("svc-2", "svc-3"),
    "conflict-3": ("svc-1", "svc-3"),
}
"""Resource ids, and the two instances that want each."""


def sample_resources(at: datetime, count: int = 100) -> tuple[Resource, ...]:
    """*count* resources of one owner, in five groups by tag; every other one has a time to live of an hour.

    Args:
        at: When they were registered, aware.
        count: How many.
    """
    return tuple(
        Resource(
            resource_id=f"test-resource-{i}",
            owner_instance_id="test-instance-1",
            service_name="test-service",
            registered_at=at,
            metadata=ResourceMetadata(
                resource_type="test",
                tags=(f"tag-{i % 5}",),
                attributes={"index": i},
                created_by="test-service",
                last_modified=at,
                ttl_seconds=None if i % 2 == 0 else 3600,
                priority=i % 10,
            ),
        )
        for i in range(count)
    )


def expired_resources(now: datetime) -> tuple[Resource, ...]:
    """A resource that a dead instance left two hours before *now*, with a time to live of one."""
    at = now - timedelta(hours=2)
    return (
        Resource(
            resource_id="expired-1",
            owner_instance_id="dead-instance",
            service_name="test-service",
            registered_at=at,
            metadata=ResourceMetadata(resource_type="test", last_modified=at, ttl_seconds=3600),
            is_healthy=False,
        ),
    )


def bulk_registration_data() -> Mapping[str, tuple[tuple[str, ResourceMetadata], ...]]:
    """Resources to register in bulk, as `Instance.bulk_claim` takes them: ids with their metadata, by the batch's name.

    ``small_batch`` has 10, ``medium_batch`` 100, ``large_batch`` 1000 (as many as an instance may hold by default), and
    ``with_conflicts`` 50 and then ``conflict-1`` and ``conflict-2``, for which to have another owner.
    """
    return {
        "small_batch": _batch("small", 10),
        "medium_batch": _batch("medium", 100),
        "large_batch": _batch("large", 1000),
        "with_conflicts": (
            *_batch("mixed", 50),
            *((resource_id, ResourceMetadata(resource_type="test")) for resource_id in ("conflict-1", "conflict-2")),
        ),
    }


def _batch(name: str, count: int) -> tuple[tuple[str, ResourceMetadata], ...]:
    return tuple(
        (f"{name}-{i}", ResourceMetadata(resource_type="test", tags=(name,), attributes={"index": i}))
        for i in range(count)
    )
