"""Servers of a cluster are killed, stopped and restarted while processes change who owns what."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from tests.chaos.churn import KEYS, churning, tally
from tests.chaos.scene import open_scene
from tests.chaos.servers import bucket_url, leader_of, make_healthy

pytestmark = pytest.mark.thorough

PROCESSES: Final = 4
SHORT_TTL: Final = 5.0
ROUND: Final = 50
"""Changes by each process, after which things are seen to go on."""
Count = Callable[[str, object], None]

_numbers = count(1)


@pytest.fixture
def url(three_servers: NatsServers) -> str:
    """A bucket of the test's own, on three servers."""
    return bucket_url(three_servers, f"servers-{next(_numbers)}")


def epoch_of(told: object) -> int:
    """The epoch that an answer, or an event, tells."""
    assert isinstance(told, dict)
    epoch = told["epoch"]
    assert isinstance(epoch, int)
    return epoch


async def test_leader_is_killed(
    three_servers: NatsServers, url: str, tmp_path: Path, record_property: Count, share: int
) -> None:
    """Twice; work goes on with those that are left, and with the killed one when it is back."""
    await make_healthy(three_servers)
    async with open_scene(url, tmp_path) as scene:
        processes = await scene.start_all(PROCESSES)
        async with churning(processes, changes=share) as churn:
            for _ in range(2):
                await churn.reach(ROUND)
                leader = await leader_of(url, three_servers.servers)
                await leader.kill()
                await churn.reach(ROUND)
                await leader.start()
        history = await scene.close(processes[0], KEYS)
        record_property(
            "counted", f"leader killed twice: {tally(history, share=share)}; {scene.leases_lost} leases lost"
        )


async def test_servers_are_restarted_one_by_one(
    three_servers: NatsServers, url: str, tmp_path: Path, record_property: Count, share: int
) -> None:
    """Each ends in order and comes back, and the next only then; work goes on all the time."""
    await make_healthy(three_servers)
    async with open_scene(url, tmp_path) as scene:
        processes = await scene.start_all(PROCESSES)
        async with churning(processes, changes=share) as churn:
            for server in three_servers.servers:
                await churn.reach(ROUND)
                await server.stop()
                await churn.reach(ROUND)
                await server.start()
        history = await scene.close(processes[0], KEYS)
        record_property("counted", f"rolling restart: {tally(history, share=share)}; {scene.leases_lost} leases lost")


async def test_all_servers_are_away_for_longer_than_a_lease_lasts(
    three_servers: NatsServers, url: str, tmp_path: Path, record_property: Count, share: int
) -> None:
    """Every instance says that its lease ended, registers anew, and claims again what it had."""
    await make_healthy(three_servers)
    async with open_scene(url, tmp_path) as scene:
        processes = await scene.start_all(PROCESSES, ttl=SHORT_TTL)
        before = {process: await process.ask("keep", key=f"kept-by-{process.name}") for process in processes}
        async with churning(processes, changes=share) as churn:
            await churn.reach(ROUND)
            told = {process: len(process.events) for process in processes}
            for server in three_servers.servers:
                await server.kill()
            with trio.CancelScope() as outage:
                outage.deadline = trio.current_time() + SHORT_TTL + 1
                await trio.sleep_forever()
            for process in processes:
                await process.expect("LeaseEnded", after=told[process])
            for server in three_servers.servers:
                server.spawn()
            for server in three_servers.servers:
                await server.wait_ready()
            for process in processes:
                await process.expect("InstanceRegistered", after=told[process])
                key = f"kept-by-{process.name}"
                again = await process.expect("ResourceRegistered", after=told[process], key=key)
                assert epoch_of(again) > epoch_of(before[process])
                assert "registering anew" in process.log
            await churn.reach(ROUND)
        history = await scene.close(processes[0], [*KEYS, *(f"kept-by-{process.name}" for process in processes)])
        record_property(
            "counted",
            f"all servers away for longer than the TTL: {tally(history, share=share)}; {scene.leases_lost} leases lost",
        )


async def test_leader_hangs(
    three_servers: NatsServers, url: str, tmp_path: Path, record_property: Count, share: int
) -> None:
    """It does not answer and does not close its connections; the others elect another, and clients look for one that answers."""
    await make_healthy(three_servers)
    async with open_scene(url, tmp_path) as scene:
        processes = await scene.start_all(PROCESSES)
        async with churning(processes, changes=share) as churn:
            await churn.reach(ROUND)
            leader = await leader_of(url, three_servers.servers)
            leader.signal(signal.SIGSTOP)
            try:
                await churn.reach(ROUND)
            finally:
                leader.signal(signal.SIGCONT)
            await churn.reach(ROUND)
        history = await scene.close(processes[0], KEYS)
        record_property("counted", f"leader stopped: {tally(history, share=share)}; {scene.leases_lost} leases lost")
