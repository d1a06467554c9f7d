"""``aegis serve --backend sqlite:///... --http ...`` is killed again and again under load: nothing acknowledged is lost."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import attrs
import trio
from processes import ROUTER, eventually, free_port, open_programs

from aegis_core import AegisError, Instance, Service, open_node

DEATHS = 10
MORE = 25
CLIENTS = 3


@attrs.define(eq=False)
class Load:
    """Claims and releases, and what was acknowledged of them."""

    instance: Instance
    owned: dict[str, int] = attrs.field(factory=dict)  # with the epoch
    released: set[str] = attrs.field(factory=set)

    @property
    def acknowledged(self) -> int:
        """How many."""
        return len(self.owned) + 2 * len(self.released)

    async def run(self, name: str) -> None:
        """Claim one after the other and release most; of what fails nothing is known, and nothing is said."""
        for number in count():
            resource_id = f"{name}:{number}"
            try:
                (claim,) = await self.instance.claim(resource_id)
                self.owned[resource_id] = claim.epoch
                if number % 8:
                    del self.owned[resource_id]
                    await self.instance.release(resource_id)
                    self.released.add(resource_id)
            except AegisError:
                await trio.sleep(0.01)

    async def wait_more(self) -> None:
        """Wait until more has been acknowledged."""
        wanted = self.acknowledged + MORE
        await eventually(lambda: self.acknowledged >= wanted)

    async def compare(self, url: str) -> None:
        """What was acknowledged so far is in the file, for somebody who needs no router."""
        owned, released = dict(self.owned), set(self.released)
        async with open_node(url) as witness:
            for resource_id, epoch in owned.items():
                found = await witness.registry.get_owner(resource_id)
                assert (found.owner_instance_id, found.epoch) == (self.instance.instance_id, epoch)
            found_ids = {entry.resource_id for entry in (await witness.registry.query_resources(limit=1000)).resources}
            assert not released & found_ids


async def test_killed_router_loses_nothing(tmp_path: Path) -> None:
    """Killed ten times, at whatever it was doing; between its lives the file is looked at, or left to it, in turns."""
    url = f"sqlite://{tmp_path / 'registry.db'}"
    port = await free_port()
    serve = (*ROUTER, "--backend", url, "--http", f"127.0.0.1:{port}")
    async with open_programs() as start:
        router = start(*serve)
        await router.said("serving")
        async with (
            open_node(f"http://127.0.0.1:{port}?ttl=60") as node,
            node.serve(Service("load", version="1.0.0")) as instance,
        ):
            load = Load(instance)
            async with trio.open_nursery() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(load.run, f"client-{number}")
                for death in range(DEATHS):
                    await load.wait_more()
                    await router.kill()
                    if death % 2:
                        await load.compare(url)
                    router = start(*serve)
                    await router.said("serving")
                await load.wait_more()
                clients.cancel_scope.cancel()
            await load.compare(url)
            assert instance.ready
            assert load.acknowledged > DEATHS * MORE
