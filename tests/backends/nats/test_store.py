"""Where the view and the server disagree, and how a watch comes back."""

from __future__ import annotations

import json

import pytest
import trio

from aegis_backends.nats.background import open_background
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.mirror import Grave
from aegis_backends.nats.opening import open_nats
from aegis_backends.nats.server import open_servers
from aegis_backends.nats.store import NatsStore
from aegis_core.backend import ABSENT, ANY, BackendAddress, Conflict, Delete, Put, Transaction
from aegis_pytest.conformance.steps import open_mirror


async def test_deletions_that_only_one_side_remembers_are_sorted_out() -> None:
    """A key is free whether the server has forgotten its end before the view has, or the other way round."""
    async with open_servers() as servers:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert isinstance(store, NatsStore)
            (put,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            (gone,) = await store.commit(Transaction("t2", [Delete("a", put)]))
            await store._watch.wait_level(gone)
            graves = store._watch.mirror.graves
            graves.clear()
            (again,) = await store.commit(Transaction("t3", [Put("a", b"2", ABSENT)]))
            assert again > gone
            graves["b"] = Grave(gone, b"", gone, 0)
            graves["c"] = Grave(put, b"", put, 0)
            both = await store.commit(Transaction("t4", [Put("b", b"1", ABSENT), Put("c", b"1", ABSENT)]))
            assert again < both[0] < both[1]
            with pytest.raises(Conflict):
                await store.commit(Transaction("t5", [Put("b", b"2", ABSENT)]))


async def test_own_transaction_is_known_again_before_the_watch_tells_it() -> None:
    """Its acknowledgement is enough, also where nothing was expected of the key."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert isinstance(store, NatsStore)
            names = await connection.request("$JS.API.CONSUMER.NAMES.KV_service-registry", timeout=5.0)
            (name,) = json.loads(names.payload)["consumers"]
            await connection.request(f"$JS.API.CONSUMER.DELETE.KV_service-registry.{name}", timeout=5.0)
            once = Transaction("t1", [Put("a", b"1", ANY), Put("b", b"1", ANY)])
            revisions = await store.commit(once)
            assert store._watch.mirror.applied < revisions[0]
            assert await store.commit(once) == revisions


async def test_watch_whose_consumer_is_gone_makes_another() -> None:
    """Nothing tells that it is gone but its silence; nothing is missed."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert store is not None
            async with open_mirror(store) as mirror:
                names = await connection.request("$JS.API.CONSUMER.NAMES.KV_service-registry", timeout=5.0)
                (name,) = json.loads(names.payload)["consumers"]
                await connection.request(f"$JS.API.CONSUMER.DELETE.KV_service-registry.{name}", timeout=5.0)
                with trio.fail_after(30):
                    (revision,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
                    await mirror.wait_revision(revision)
                assert mirror.values == {"a": b"1"}


async def test_block_before_a_background_raises_as_itself() -> None:
    """Its own error, or that of a task behind it, never in a group."""

    async def crash() -> None:
        raise LookupError("behind")

    async def raise_before() -> None:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("before")

    async def wait_before() -> None:
        async with open_background() as nursery:
            nursery.start_soon(crash)
            await trio.sleep_forever()

    with pytest.raises(KeyError):
        await raise_before()
    with pytest.raises(LookupError, match="behind"):
        await wait_before()
