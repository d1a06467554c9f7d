"""A plug-in with a balancer: calls stay in the caller's zone while an instance there can take them.

A plug-in is a module with hook functions. This one offers the balancer ``same-zone``, and a node uses it when the
setting ``balancer`` says so. Run me: ``python balancer_plugin.py``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from aegis_core import Call, Service, open_node
from aegis_core.hookspecs import BalancerRegistrar, hookimpl
from aegis_core.models import ServiceInstance


class SameZone:
    """The instances whose metadata names our zone, each in turn; all of them when there is none."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._turn = 0
        self._candidates: Sequence[ServiceInstance] = ()
        self._near: Sequence[ServiceInstance] = ()

    def choose(
        self,
        candidates: Sequence[ServiceInstance],
        *,
        key: str | None,
        pending: Callable[[ServiceInstance], int],
    ) -> ServiceInstance:
        """The next one in our zone. Called for each call, so what was looked for once is kept while nothing changes."""
        if candidates is not self._candidates:
            self._candidates = candidates
            near = [instance for instance in candidates if instance.metadata.get("zone") == self.zone]
            self._near = near or candidates
        self._turn += 1
        return self._near[self._turn % len(self._near)]


@hookimpl
def aegis_register_balancers(register: BalancerRegistrar) -> None:
    """Offer it to the node that loads this plug-in; the zone is this process's."""
    register("same-zone", lambda: SameZone(os.environ.get("ZONE", "north")))


greetings = Service("greeting-service")


@greetings.method
async def greet(call: Call) -> str:
    """Say which instance answered."""
    assert call.instance is not None
    return call.instance.instance_id


async def main() -> None:
    """Two instances here, one far away: all calls stay here until both are gone."""
    plugins = [sys.modules[__name__]]
    async with (
        open_node("memory://", config={"balancer": "same-zone"}, plugins=plugins) as node,
        node.serve(greetings, instance_id="south-1", metadata={"zone": "south"}),
    ):
        async with (
            node.serve(greetings, instance_id="north-1", metadata={"zone": "north"}),
            node.serve(greetings, instance_id="north-2", metadata={"zone": "north"}),
        ):
            answered = Counter([await node.call("greeting-service", "greet") for _ in range(10)])
            print("both zones live:", dict(sorted(answered.items())))
        print("the north is gone:", await node.call("greeting-service", "greet"))


if __name__ == "__main__":
    trio.run(main)
