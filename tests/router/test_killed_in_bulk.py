"""A router in a process is killed in the midst of a bulk claim: the next one tells what the dead one left."""

from __future__ import annotations

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core.node.node import Node, open_node
from tests.conformance.test_nats import one_server
from tests.router.processes import PATIENCE, RouterProcess, open_router

__all__ = ["one_server"]

MANY = 5000
IDS = [f"r-{number}" for number in range(MANY)]
ONE = {"service_name": "rooms", "instance_id": "one"}
REQUEST: dict[str, object] = {**ONE, "resources": [{"resource_id": name} for name in IDS]}


def held(witness: Node) -> list[str]:
    """What instance one owns."""
    return [name for name in IDS if getattr(witness.owner_of(name), "owner_instance_id", "") == "one"]


async def ask(router: RouterProcess, operation: str, request: dict[str, object]) -> dict[str, object]:
    """The reply of *router*."""
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        answer = await client.post(f"{router.url}/api/v1/admin/resources/{operation}", json=request)
    assert answer.status_code == 200, answer.text
    told: dict[str, object] = answer.json()
    return told


async def test_what_a_killed_router_left_is_told_to_who_asks_again(one_server: NatsServers) -> None:
    """It is not undone, because nobody knows why it is owned; whoever asked frees it, or does not."""
    backend = f"nats://{one_server.location}?bucket=in-bulk&storage=memory&replicas=1&max_resources_per_instance={MANY}"
    async with (
        open_node(backend) as witness,
        open_router("--backend", backend, "--http", "127.0.0.1:0") as killed,
        open_router("--backend", backend, "--http", "127.0.0.1:0") as other,
    ):
        for name in ("one", "two"):
            await witness.registry.register("rooms", name, ttl=600)
        await witness.registry.claim("rooms", "two", IDS[-1])

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask_who_dies() -> None:
                with pytest.raises(httpx.TransportError):
                    await ask(killed, "bulk_register", {**REQUEST, "batch_size": 1})  # thousands of commits

            with trio.fail_after(PATIENCE):
                while not held(witness):  # noqa: ASYNC110 - another process sets no event
                    await trio.sleep(0.001)
            await killed.kill()

        await witness.runtime.directory.sync()
        left = held(witness)
        assert 0 < len(left) < MANY - 1
        told = await ask(other, "bulk_register", {**REQUEST, "batch_size": 1000})
        assert told["held_before"] == left
        assert (told["registered"], told["rollback_performed"]) == ([], True)
        assert [(f["resource_id"], f["current_owner"]) for f in told["failed"]] == [(IDS[-1], "two")]  # type: ignore[attr-defined]
        await witness.runtime.directory.sync()
        assert held(witness) == left
        freed = await ask(other, "bulk_release", {**ONE, "resource_ids": left, "batch_size": 1000})
        assert freed["released"] == left
        await witness.runtime.directory.sync()
        assert held(witness) == []
