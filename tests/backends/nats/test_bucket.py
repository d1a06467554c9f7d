"""A bucket on real servers: its numbers, what is in it when nobody does anything, and how others read it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import count

import pytest
import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.batch import MARKER_TTL, ttl_seconds
from aegis_backends.nats.connection import Connection, open_connection
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.jetstream import JetStream
from aegis_backends.nats.server import NatsServers
from aegis_core import Service, open_node
from aegis_core.backend import ABSENT, Backend, BackendAddress, Delete, Put, Store, Transaction
from aegis_core.models import Role

_numbers = count(1)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """One server for all tests here."""
    servers = NatsServers(1, tmp_path_factory.mktemp("one"))
    trio.run(servers.start)
    yield servers
    trio.run(servers.stop)


@pytest.fixture(scope="module")
def three_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """A cluster for all tests here."""
    servers = NatsServers(3, tmp_path_factory.mktemp("three"))
    trio.run(servers.start)
    yield servers
    trio.run(servers.stop)


def address(servers: NatsServers, **parameters: str) -> BackendAddress:
    """A bucket of its own on *servers*."""
    return BackendAddress(servers.url, "nats", servers.location, {"bucket": f"b{next(_numbers)}", **parameters})


def store_of(backend: Backend) -> Store:
    """The store of *backend*."""
    assert backend.store is not None
    return backend.store


async def info(connection: Connection, bucket: str) -> Mapping[str, Mapping[str, object]]:
    """What the server tells of *bucket*."""
    answer = await connection.request(f"$JS.API.STREAM.INFO.KV_{bucket}", timeout=5.0)
    found: Mapping[str, Mapping[str, object]] = json.loads(answer.payload)
    return found


async def messages(connection: Connection, bucket: str) -> int:
    """How many messages there are in *bucket*."""
    stored = (await info(connection, bucket))["state"]["messages"]
    assert isinstance(stored, int)
    return stored


# --- Its numbers ---


@pytest.mark.parametrize("storage", ["memory", "file"])
@pytest.mark.parametrize("replicas", ["1", "3"])
async def test_revisions_never_return(
    storage: str, replicas: str, one_server: NatsServers, three_servers: NatsServers
) -> None:
    """They begin at the microseconds since 1970, so that those of a bucket made anew are above those of the old one."""
    servers = one_server if replicas == "1" else three_servers
    where = address(servers, storage=storage, replicas=replicas)
    stream = f"KV_{where.parameters['bucket']}"
    seen = []
    async with open_connection([servers.servers[0].url]) as connection:
        for _ in range(2):
            before = time.time_ns() // 1000
            async with open_nats(where) as backend:
                seen += await store_of(backend).commit(
                    Transaction("t", [Put("a", b"1", ABSENT), Put("b", b"1", ABSENT)])
                )
                assert await store_of(backend).sync() > seen[-1]
            assert before <= seen[-2] <= time.time_ns() // 1000
            told = await info(connection, where.parameters["bucket"])
            assert (told["config"]["storage"], told["config"]["num_replicas"]) == (storage, int(replicas))
            await connection.request(f"$JS.API.STREAM.DELETE.{stream}", timeout=10.0)
    assert seen == sorted(set(seen))


# --- What is in it when nobody does anything ---


async def test_idle_bucket_does_not_grow(one_server: NatsServers) -> None:
    """Barriers and checks vanish within seconds; of a key that is gone one small message is left, which has a TTL."""
    where = address(one_server, storage="memory")
    bucket = where.parameters["bucket"]
    async with open_connection([one_server.servers[0].url]) as connection, open_nats(where) as backend:
        store = store_of(backend)
        (kept,) = await store.commit(Transaction("kept", [Put("kept", b"1", ABSENT)]))
        for number in range(30):
            key = f"k.{number % 10}"
            (put,) = await store.commit(Transaction(f"put-{number}", [Put(key, b"x" * 1000, ABSENT)]))
            await store.commit(Transaction(f"del-{number}", [Delete(key, put), Delete("other", ABSENT)]))
            await store.sync()
        await store.commit(Transaction("lease", [Put("lease", b"1", ABSENT, ttl=1.0)]))
        with trio.fail_after(60):
            while True:
                if await messages(connection, bucket) == 12:
                    break
                await trio.sleep(0.05)
        jetstream = JetStream(connection, random=backend.random)
        for key in (*(f"k.{number}" for number in range(10)), "lease"):
            found = await jetstream.last_message(f"KV_{bucket}", f"$KV.{bucket}.{key}")
            assert found is not None
            assert found.payload == b""
            assert ttl_seconds(found.headers.get("Nats-TTL", "")) == MARKER_TTL
        entry = await store.get("kept")
        assert entry is not None
        assert entry.revision == kept


async def test_what_a_deletion_leaves_goes_without_a_trace(one_server: NatsServers) -> None:
    """The server forgets it when its TTL ends, and writes nothing in its place."""
    where = address(one_server, storage="memory")
    bucket = where.parameters["bucket"]
    async with open_connection([one_server.servers[0].url]) as connection, open_nats(where):
        short = Headers({"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "1s"})
        before = (await info(connection, bucket))["state"]["last_seq"]
        assert isinstance(before, int)
        for number in range(20):
            await connection.request(f"$KV.{bucket}.k.{number}", b"1", timeout=5.0)
            await connection.request(f"$KV.{bucket}.k.{number}", headers=short, timeout=5.0)
        with trio.fail_after(60):
            while True:
                state = (await info(connection, bucket))["state"]
                if state["messages"] == 0:
                    break
                await trio.sleep(0.05)
        assert state["last_seq"] == before + 40


# --- How others read it ---

READER = """
import asyncio, json, sys
import nats

async def main(url, bucket, key):
    client = await nats.connect(url)
    kv = await client.jetstream().key_value(bucket)
    entry = await kv.get(key)
    watcher = await kv.watch("service-instances.>")
    first = await watcher.updates(timeout=5)
    print(json.dumps({
        "value": entry.value.decode(), "revision": entry.revision, "keys": sorted(await kv.keys()),
        "watched": first.value.decode(), "ttl": (await kv.status()).history,
    }))
    await client.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_instances_are_read_by_other_clients(one_server: NatsServers) -> None:
    """As JSON with the agreed fields and no other: by the key-value interface of another client, and without any."""
    accounts = Service("account-service", version="1.2.0")
    bucket = f"b{next(_numbers)}"
    url = f"{one_server.url}?bucket={bucket}&storage=memory"
    key = "service-instances.account-service.a-1"
    async with (
        open_node(url) as node,
        node.serve(accounts, instance_id="a-1", role=Role.ACTIVE, metadata={"zone": "x"}),
    ):
        command = [sys.executable, "-c", READER, one_server.servers[0].url, bucket, key]
        done = await trio.run_process(command, capture_stdout=True, check=True)
        told = json.loads(done.stdout)
        async with open_connection([one_server.servers[0].url]) as connection:
            raw = await connection.request(
                f"$JS.API.STREAM.MSG.GET.KV_{bucket}",
                json.dumps({"last_by_subj": f"$KV.{bucket}.{key}"}).encode(),
                timeout=5,
            )
    assert json.loads(raw.payload)["message"]["subject"] == f"$KV.{bucket}.{key}"
    assert key in told["keys"]
    assert told["watched"] == told["value"]
    record = json.loads(told["value"])
    assert set(record) <= {
        *("serviceName", "instanceId", "version", "status", "lastHeartbeat", "stickyActiveGroup", "metadata"),
    }
    assert (record["serviceName"], record["instanceId"], record["version"]) == ("account-service", "a-1", "1.2.0")
    assert record["status"] == "ACTIVE"
    assert record["metadata"]["zone"] == "x"
