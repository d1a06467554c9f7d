"""A router that knows 1,000 instances and 100,000 resources: ``large.py`` prints where it serves, as ``aegis serve`` does."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final

import trio

from aegis_backends.memory import open_memory
from aegis_core.backend import ABSENT, BackendAddress, Put, Store, Transaction
from aegis_core.cli.serve import serve
from aegis_core.codec import encode_record
from aegis_core.models import Ownership, ServiceInstance
from aegis_core.names import instance_key, target_key

INSTANCES: Final = 1000
RESOURCES: Final = 100_000
_SERVICES: Final = 50


async def fill(store: Store) -> None:
    """Write the records as the instances would have."""
    at = datetime.now(UTC)
    instances = [
        ServiceInstance(
            service_name=f"service-{number % _SERVICES:02}",
            instance_id=f"instance-{number:04}",
            lease=f"{number:016x}",
            registered_at=at,
            last_heartbeat=at,
            ttl=3600.0,
            heartbeat_interval=1200.0,
        )
        for number in range(INSTANCES)
    ]
    for instance in instances:
        key = instance_key(instance.service_name, instance.instance_id)
        await store.commit(Transaction(instance.lease, (Put(key, encode_record(instance), ABSENT, 3600.0),)))
    for first in range(0, RESOURCES, 1000):
        puts = []
        for number in range(first, first + 1000):
            owner = instances[number % INSTANCES]
            record = Ownership(
                target=f"account:{number:06}",
                service_name=owner.service_name,
                instance_id=owner.instance_id,
                lease=owner.lease,
                registered_at=at,
            )
            puts.append(Put(target_key(record.target), encode_record(record), ABSENT))
        await store.commit(Transaction(f"fill-{first}", tuple(puts)))


async def main() -> int:
    """Fill a memory, and serve it until a signal."""
    async with open_memory(BackendAddress("memory://large", "memory", "large")) as backend:
        assert backend.store is not None
        await fill(backend.store)
        return await serve(http="127.0.0.1:0", backend="memory://large")


if __name__ == "__main__":
    sys.exit(trio.run(main))
