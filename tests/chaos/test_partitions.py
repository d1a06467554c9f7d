"""Servers and clients are cut off from all others while processes change who owns what."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import trio

from aegis_backends.nats import absence, batch
from aegis_backends.nats.bucket import BucketSettings, ensure_bucket
from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.jetstream import JetStream
from aegis_backends.nats.store import open_store
from aegis_core.backend import ABSENT, Delete, Put, Transaction
from tests.backends.nats.polling import until
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


async def test_server_that_comes_back_after_long_brings_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees the bucket by it forgets what was deleted meanwhile, though no deletion is remembered any more."""
    monkeypatch.setattr(batch, "MARKER_TTL", 3)
    monkeypatch.setattr(absence, "LONGEST", 1.5)
    monkeypatch.setattr(absence, "_PROOF_AFTER", 0.5)
    settings = BucketSettings(name="ghosts", replicas=3, marker_ttl=3)
    async with open_network() as network, AsyncExitStack() as stack:
        seeds = [f"nats://127.0.0.1:{server.port}" for server in network.servers]
        connection = await stack.enter_async_context(open_connection(seeds))
        await ensure_bucket(JetStream(connection, random=random.Random(1)), settings)
        leader = await leader_of(network.url(settings.name), network.servers)
        lonely = next(server for server in network.servers if server is not leader)
        others = [url for url, server in zip(seeds, network.servers, strict=True) if server is not lonely]
        far = await stack.enter_async_context(open_connection(others))
        writer = await stack.enter_async_context(open_store(far, settings, random=random.Random(2)))
        (put,) = await writer.commit(Transaction("put", [Put("ghost", b"v", ABSENT)]))
        near = await stack.enter_async_context(open_connection([seeds[network.servers.index(lonely)]]))
        reader = await stack.enter_async_context(open_store(near, settings, random=random.Random(3)))
        with trio.fail_after(60):
            await reader._watch.wait_level(put)
            with network.cut_off(lonely.name, clients=False):
                await writer.commit(Transaction("delete", [Delete("ghost", put)]))
                await until(lambda: reader._watch._absence.too_long(reader._watch.now()))
                while await writer.get("ghost") is not None:  # noqa: ASYNC110 - it is the server that forgets
                    await trio.sleep(0.1)
                assert near.state is ConnectionState.CONNECTED
                assert "ghost" in reader._watch.mirror.records
                loads = reader._watch.mirror.loads
        with trio.fail_after(60):
            await until(lambda: reader._watch.mirror.loads > loads, within=60)
            await reader._watch.wait_level(await writer.sync())
        assert "ghost" not in reader._watch.mirror.records
