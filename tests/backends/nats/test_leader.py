"""The leader of a bucket goes in the middle of commits, on a cluster of three."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.server import NatsServer, NatsServers, open_servers
from aegis_core.backend import ABSENT, BackendAddress, Indeterminate, Put, Store, StoreUnavailable, Transaction
from aegis_pytest.conformance.steps import open_mirror
from tests.backends.nats.polling import until

WRITERS = 6
BUCKET = "leader"


@attrs.define
class Count:
    """What commits came to."""

    acknowledged: int = 0
    indeterminate: int = 0
    unavailable: int = 0


async def leader(servers: NatsServers) -> NatsServer:
    """Who leads the bucket; asked over the first."""
    async with open_connection([servers.servers[0].url]) as connection:
        found = await connection.request(f"$JS.API.STREAM.INFO.KV_{BUCKET}", timeout=5.0)
    name = json.loads(found.payload)["cluster"]["leader"]
    (led,) = (server for server in servers.servers if server.name == name)
    return led


async def settle(store: Store, transaction: Transaction, count: Count) -> tuple[int, ...]:
    """Repeat the very same transaction until its fate is known."""
    while True:
        try:
            revisions = await store.commit(transaction)
        except Indeterminate:
            count.indeterminate += 1
        except StoreUnavailable:
            count.unavailable += 1
        else:
            count.acknowledged += 1
            return revisions
        await trio.sleep(0.02)


async def kill(led: NatsServer) -> None:
    """End its process."""
    await led.kill()


async def hang(led: NatsServer) -> None:
    """Stop its process where it stands."""
    led.signal(signal.SIGSTOP)


@pytest.mark.parametrize("strike", [kill, hang])
async def test_commits_are_settled_by_repeating_them(
    strike: Callable[[NatsServer], Awaitable[None]], record_property: Callable[[str, object], None]
) -> None:
    """Each transaction is stored once, however often it was sent; one of two keys never by half.

    Every writer continues a chain: each transaction expects the revisions of the one before, so that one that was lost,
    or stored twice, would end in a conflict.
    """
    count = Count()
    stop = trio.Event()
    chains: dict[tuple[str, ...], int] = {}

    async with open_servers(3) as servers:
        where = BackendAddress(servers.url, "nats", servers.location, {"bucket": BUCKET, "replicas": "3"})

        async def write(*keys: str) -> None:
            """Continue a chain of puts to *keys*, until five links after the end was called."""
            async with open_nats(where) as backend:
                assert backend.store is not None
                at: tuple[int, ...] = (ABSENT,) * len(keys)
                links = after = 0
                while after < 5:
                    puts = [Put(key, b"%d" % links, revision) for key, revision in zip(keys, at, strict=True)]
                    at = await settle(backend.store, Transaction(f"{keys[0]}-{links}", puts), count)
                    links += 1
                    after += stop.is_set()
                chains[keys] = links

        with trio.fail_after(120):
            async with open_nats(where):
                pass
            async with trio.open_nursery() as nursery:
                for number in range(1, WRITERS + 1):
                    nursery.start_soon(write, f"one.{number}", f"two.{number}")
                    nursery.start_soon(write, f"single.{number}")
                await until(lambda: count.acknowledged >= 200, within=60)
                led = await leader(servers)
                await strike(led)
                at_strike = count.acknowledged
                await until(lambda: count.acknowledged >= at_strike + 100, within=90)
                led.signal(signal.SIGCONT)
                stop.set()
            assert count.indeterminate + count.unavailable > 0
            assert count.acknowledged == sum(chains.values())
            async with open_nats(where) as backend:
                assert backend.store is not None
                async with open_mirror(backend.store) as mirror:
                    assert mirror.values == {key: b"%d" % (chains[keys] - 1) for keys in chains for key in keys}
    record_property(
        "counted",
        f"{count.acknowledged} transactions acknowledged; {count.indeterminate} attempts without answer and "
        f"{count.unavailable} that were not stored, all repeated",
    )
