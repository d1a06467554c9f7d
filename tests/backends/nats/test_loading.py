"""A large bucket: what a view of it takes, in messages and in bytes."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.connection import Connection, open_connection
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import open_servers
from aegis_backends.nats.store import NatsStore, open_store
from aegis_core.backend import BackendAddress, Change, Resync, Synced

BATCH = 1000
VALUE = b"v" * 200


@attrs.frozen
class Bucket:
    """A bucket on a server, and who writes to it."""

    address: BackendAddress
    writer: Connection

    async def fill(self, keys: int) -> None:
        """Write all keys, a thousand in a transaction."""
        turn = random.getrandbits(64)
        for first in range(0, keys, BATCH):
            for number in range(1, BATCH):
                self.writer.publish(*self._message(first + number - 1), headers=self._place(f"{turn}-{first}", number))
            head = Headers([*self._place(f"{turn}-{first}", BATCH).pairs, ("Nats-Batch-Commit", "1")])
            answer = await self.writer.request(*self._message(first + BATCH - 1), headers=head, timeout=30.0)
            assert b'"error"' not in answer.payload, answer.payload

    def _message(self, number: int) -> tuple[str, bytes]:
        return f"$KV.large.resources.k{number}", VALUE

    def _place(self, batch: str, number: int) -> Headers:
        return Headers([("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", str(number))])

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Connection, NatsStore]]:
        """A store on the bucket, with the connection that it alone uses."""
        async with (
            open_connection([self.address.url]) as connection,
            open_store(connection, read_address(self.address).bucket, random=random.Random(1)) as store,
        ):
            yield connection, store


@asynccontextmanager
async def open_bucket() -> AsyncIterator[Bucket]:
    """An empty bucket in the memory of a server."""
    async with open_servers(jetstream="max_mem: 1GB") as servers, open_connection([servers.url]) as writer:
        address = BackendAddress(servers.url, "nats", servers.location, {"bucket": "large", "storage": "memory"})
        async with open_nats(address):
            pass
        yield Bucket(address, writer)


@pytest.mark.parametrize("keys", [10_000, pytest.param(100_000, marks=pytest.mark.thorough)])
async def test_large_bucket_is_delivered_once(record_property: Callable[[str, object], None], keys: int) -> None:
    """Each of its keys once, for any number of readers; one that sleeps is told each key's newest value, once."""
    async with open_bucket() as bucket:
        await bucket.fill(keys)
        async with bucket.open() as (connection, store), store.watch() as quick, store.watch() as sleeper:
            mirror = store._watch.mirror
            assert len(mirror.records) == keys
            assert mirror.loads == 1
            delivered = connection.statistics().in_messages
            assert keys <= delivered <= keys + 100
            for feed in (quick, sleeper):
                snapshot = await feed.receive()
                assert [type(item) for item in snapshot] == [Change] * keys + [Synced]
            assert connection.statistics().in_messages - delivered < 10
            revision = await store.sync()
            await bucket.fill(keys)
            with trio.fail_after(120):
                await store._watch.wait_level(revision + keys)
            batch = await sleeper.receive()
            told = [item for item in batch if isinstance(item, Change)]
            assert len({change.key for change in told}) == len(told) == keys
            assert not any(isinstance(item, Resync) for item in batch)
            assert all(change.revision > revision for change in told)
    record_property("counted", f"{delivered} messages for {keys} keys; {len(told)} changes for a reader that slept")


async def test_view_is_loaded_in_bounded_memory(record_property: Callable[[str, object], None]) -> None:
    """Loading takes what the view takes; so does a reader that sleeps through any number of changes."""
    keys = 10_000
    async with open_bucket() as bucket:
        await bucket.fill(keys)
        tracemalloc.start()
        try:
            async with bucket.open() as (_, store):
                kept, most = tracemalloc.get_traced_memory()
                assert len(store._watch.mirror.records) == keys
                async with store.watch() as sleeper:
                    await sleeper.receive()
                    asleep = []
                    for _turn in range(2):
                        revision = await store.sync()
                        await bucket.fill(keys)
                        with trio.fail_after(120):
                            await store._watch.wait_level(revision + keys)
                        asleep.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # What was received, and not dealt with yet, does not grow with the bucket.
    assert most < 1.5 * kept
    assert asleep[-1] < asleep[0] + 2**20
    assert asleep[-1] < 2 * kept
    record_property(
        "counted",
        f"{kept // keys} bytes for a key with {len(VALUE)}; at most {most // keys} while loading, "
        f"{asleep[-1] // keys} beside a reader that slept through twice as many changes",
    )
