"""Nodes whose bucket is set back to an earlier state, or made anew: their view goes on, and their instances come back."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from aegis_core import Call, EndReason, Node, Resync, Service, open_node
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess, running
from tests.backends.nats.test_store import make_anew, set_back

TTL = 4


def rooms() -> Service:
    """A service that says who serves it."""
    service = Service("rooms", version="1")

    @service.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        await trio.lowlevel.checkpoint()
        return call.instance.instance_id

    return service


async def owner(node: Node, resource_id: str, wanted: str) -> None:
    """Wait until *node* sees that the instance has the resource, or ("") that nobody has."""

    def is_so() -> bool:
        found = node.owner_of(resource_id)
        return ("" if found is None else found.owner_instance_id) == wanted

    await until(is_so, within=30.0)


@pytest.mark.parametrize("strike", [make_anew, set_back])
async def test_nodes_go_on_with_a_bucket_that_counts_anew(
    strike: Callable[[ServerProcess, Path], Awaitable[None]], tmp_path: Path
) -> None:
    """All leases end, all register and claim again, and every node sees what there is."""
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        async with (
            open_node(server.url, config={"ttl": TTL}) as one,
            open_node(server.url, config={"ttl": TTL}) as two,
            one.serve(rooms(), instance_id="a") as a,
            one.events(Resync) as told_one,
            two.events(Resync) as told_two,
        ):
            await a.claim("first")
            server.kill()
            shutil.copytree(folder / "jetstream", earlier)
            server.start()
            async with two.serve(rooms(), instance_id="b") as b:
                claims = [*await a.claim("later"), *await b.claim("hers")]
                await a.release("first")
                for node in (one, two):
                    await node.runtime.directory.sync()
                await strike(server, earlier)
                for claim in claims:
                    assert await claim.wait_ended() in {EndReason.ERASED, EndReason.EXPIRED}
                for told in (told_one, told_two):
                    assert "bucket" in (await told.receive()).reason
                for node in (one, two):
                    await owner(node, "later", "a")
                    await owner(node, "hers", "b")
                    # What had been released may have come back, with a lease that nobody renews.
                    await owner(node, "first", "")
                    found = await node.registry.get_service("rooms")
                    assert {each.instance_id for each in found.instances} == {"a", "b"}
                assert await one.call("rooms", "who", resource_id="hers") == "b"
                assert await two.call("rooms", "who", resource_id="later") == "a"
                assert [claim.held for claim in await b.claim("first", "new")] == [True, True]
