"""Processes are killed and stopped while all change who owns what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from aegis_backends.nats.server import NatsServers
from tests.chaos.churn import KEYS, churning, tally
from tests.chaos.scene import open_scene
from tests.chaos.servers import bucket_url, make_healthy

pytestmark = pytest.mark.thorough

PROCESSES: Final = 5
TTL: Final = 5.0
ROUND: Final = 50
"""Changes by each process, after which things are seen to go on."""
Count = Callable[[str, object], None]


async def test_one_is_killed_and_one_is_stopped(
    three_servers: NatsServers, tmp_path: Path, record_property: Count, share: int
) -> None:
    """What they held falls free, in the middle of whatever they did; who was only stopped takes part again."""
    await make_healthy(three_servers)
    async with open_scene(bucket_url(three_servers, "processes"), tmp_path) as scene:
        processes = await scene.start_all(PROCESSES, ttl=TTL)
        killed, stopped, *_, other = processes
        async with churning(processes, changes=share) as churn:
            await churn.reach(ROUND)
            killed.kill()
            churn.leave_out(killed)
            await other.expect("InstanceLost", instance=killed.name)
            await churn.reach(ROUND)
            told = len(stopped.events)
            with stopped.stopped():
                await other.expect("InstanceLost", instance=stopped.name)
                await churn.reach(ROUND, without=stopped)
            await stopped.expect("LeaseEnded", after=told, instance=stopped.name)
            await stopped.expect("InstanceRegistered", after=told, instance=stopped.name)
            await churn.reach(ROUND)
        history = await scene.close(other, KEYS)
        record_property(
            "counted", f"one killed, one stopped: {tally(history, share=share)}; {scene.leases_lost} leases lost"
        )
