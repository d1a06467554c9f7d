"""Servers and clients are cut off from all others while processes change who owns what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.churn import KEYS, churning, tally
from tests.chaos.network import Network, open_network
from tests.chaos.process import Process
from tests.chaos.scene import Scene, open_scene
from tests.chaos.servers import leader_of

pytestmark = pytest.mark.thorough

PROCESSES: Final = 4
SHORT_TTL: Final = 5.0
ROUND: Final = 50
"""Changes by each process, after which things are seen to go on."""
BUCKET: Final = "partitions"
Count = Callable[[str, object], None]


async def start_all(scene: Scene, network: Network, *, ttl: float) -> list[Process]:
    """Processes that reach the servers each by ways of its own."""
    names = [f"p{number}" for number in range(1, PROCESSES + 1)]
    return [await scene.start(name, url=await network.client(name, BUCKET), ttl=ttl) for name in names]


async def test_leader_is_cut_off(tmp_path: Path, record_property: Count, share: int) -> None:
    """The others elect another, those who were connected to it look for them, and it finds its way back."""
    async with open_network() as network, open_scene("", tmp_path) as scene:
        processes = await start_all(scene, network, ttl=30)
        async with churning(processes, changes=share) as churn:
            await churn.reach(ROUND)
            leader = await leader_of(network.url(BUCKET), network.servers)
            others = [server for server in network.servers if server is not leader]
            with network.cut_off(leader.name):
                await leader_of(network.url(BUCKET, without=leader), others)
                await churn.reach(ROUND)
            await churn.reach(ROUND)
        history = await scene.close(processes[0], KEYS)
        record_property("counted", f"leader cut off: {tally(history, share=share)}; {scene.leases_lost} leases lost")


async def test_client_is_cut_off_for_longer_than_its_lease_lasts(
    tmp_path: Path, record_property: Count, share: int
) -> None:
    """It stops before another begins, with nobody to tell it; back again, it takes part."""
    async with open_network() as network, open_scene("", tmp_path) as scene:
        processes = await start_all(scene, network, ttl=SHORT_TTL)
        heir, *_, lost = processes
        await lost.ask("own", key="owned")
        await lost.expect("owns", key="owned")
        await heir.ask("own", key="owned")
        async with churning(processes, changes=share) as churn:
            await churn.reach(ROUND)
            await heir.wait_in_line("owned")
            told = len(lost.events)
            with network.cut_off(lost.name):
                await heir.expect("owns", key="owned")
                await lost.expect("LeaseEnded", after=told)
                await churn.reach(ROUND, without=lost)
            await lost.expect("InstanceRegistered", after=told)
            await churn.reach(ROUND)
        history = await scene.close(heir, [*KEYS, "owned"])
        record_property(
            "counted", f"one client cut off: {tally(history, share=share)}; {scene.leases_lost} leases lost"
        )
