"""A router whose store is NATS dies under load, and comes back: nothing acknowledged is lost, and its clients go on."""

from __future__ import annotations

from itertools import count

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core.errors import AegisError
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.conformance.test_nats import one_server
from tests.router.processes import eventually, free_port, open_router
from tests.router.wired import Client

__all__ = ["one_server"]

TTL = 2.0
ENOUGH = 20


class Load:
    """An instance that claims one resource after the other, and writes down what was acknowledged."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.acknowledged: list[str] = []

    async def run(self) -> None:
        """Claim until cancelled; what fails may or may not have been done."""
        for number in count():
            try:
                await self._instance.claim(f"r-{number}")
            except AegisError:
                continue
            self.acknowledged.append(f"r-{number}")

    async def wait_more(self) -> None:
        """Wait until more has been acknowledged."""
        wanted = len(self.acknowledged) + ENOUGH
        await eventually(lambda: len(self.acknowledged) >= wanted)


def lost(load: Load, witness: Node) -> list[str]:
    """What was acknowledged and is not owned, as somebody sees it who needs no router."""
    return [one for one in load.acknowledged if getattr(witness.owner_of(one), "owner_instance_id", "") != "worker"]


@pytest.mark.parametrize("outlives", [True, False], ids=["briefly", "past the lease"])
async def test_killed_router_loses_nothing(one_server: NatsServers, outlives: bool) -> None:  # noqa: FBT001
    """Away for less than a lease, nobody notices; for longer, the instance registers anew, and claims what it had."""
    bucket = f"killed-{'briefly' if outlives else 'long'}"
    nats = f"nats://{one_server.location}?bucket={bucket}&storage=memory&replicas=1"
    port = await free_port()
    service = Service("svc", version="1.0.0")
    ttl = 30.0 if outlives else TTL
    async with (
        open_node(nats) as witness,
        open_router("--backend", nats, "--http", f"127.0.0.1:{port}") as router,
        open_node(router.url, config={"request_timeout": 2.0}) as node,
        node.serve(service, instance_id="worker", ttl=ttl) as instance,
    ):
        load = Load(instance)
        await witness.runtime.directory.sync()
        first = witness.runtime.directory.snapshot.instance("svc", "worker")
        assert first is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            for _ in range(2 if outlives else 1):
                await load.wait_more()
                await router.kill()
                if not outlives:
                    await eventually(lambda: witness.runtime.directory.snapshot.instance("svc", "worker") is None)
                await router.start()
                await load.wait_more()
            nursery.cancel_scope.cancel()
        await eventually(lambda: not lost(load, witness))
        second = witness.runtime.directory.snapshot.instance("svc", "worker")
        assert second is not None
        assert (second.lease == first.lease) is outlives


async def test_silent_instance_of_an_old_client_is_known_to_the_next_router(one_server: NatsServers) -> None:
    """The one that it registered with was killed; what that knew of it is in the store."""
    backend = f"nats://{one_server.location}?bucket=silent&storage=memory&replicas=1"
    old: dict[str, object] = {"service_name": "svc", "instance_id": "old"}
    async with open_node(backend) as witness:
        assert witness.runtime.bus is not None
        client, view = Client(witness.runtime.bus), witness.runtime.directory.snapshot
        async with open_router("--backend", backend) as first:
            assert (await client.ask("service.register", **old, version="1.2.3", ttl=TTL))["success"]
            await first.kill()
        await eventually(lambda: view.instance("svc", "old") is None)
        async with open_router("--backend", backend):
            assert (await client.ask("service.heartbeat", **old))["envelope"]["success"]
            await eventually(lambda: view.instance("svc", "old") is not None)
            assert view.instance("svc", "old").version == "1.2.3"  # type: ignore[union-attr]
