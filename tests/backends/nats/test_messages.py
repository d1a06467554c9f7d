"""The store of messages, and the bus, where they differ from a single server's easy life."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.bus import NatsBus
from aegis_backends.nats.connection import ConnectionState, open_connection
from aegis_backends.nats.messages import MessageStore, messages_bucket, open_messages
from aegis_core.backend import (
    ABSENT,
    ANY,
    Conflict,
    Delete,
    Message,
    Put,
    StoreUnavailable,
    Transaction,
    TransportUnavailable,
)
from aegis_core.errors import ConfigError
from tests.backends.nats.processes import ServerProcess, running

_buckets = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with JetStream, not to be stopped."""
    folder = tmp_path_factory.mktemp("messages")
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as process:
        yield process


@asynccontextmanager
async def open_store(server: ServerProcess) -> AsyncIterator[MessageStore]:
    """A store of messages of the test's own."""
    registry = BucketSettings(name=f"test-{next(_buckets)}", storage="memory")
    async with (
        open_connection([server.url]) as connection,
        open_messages(connection, registry, random=random.Random(1)) as store,
    ):
        yield store


async def test_repeated_transaction_is_found_applied(server: ServerProcess) -> None:
    """Whatever it expected: its own id is under the key."""
    async with open_store(server) as store:
        put = Transaction("t1", [Put("messages.a", b"1", ABSENT, ttl=100.0)])
        (first,) = await store.commit(put)
        assert await store.commit(put) == (first,)
        change = Transaction("t2", [Put("messages.a", b"2", first)])
        (second,) = await store.commit(change)
        assert await store.commit(change) == (second,)
        with pytest.raises(Conflict):
            await store.commit(put)
        anyway = Transaction("t3", [Put("messages.a", b"3", ANY)])
        (third,) = await store.commit(anyway)
        assert first < second < third
        entry = await store.get("messages.a")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"3", third)


async def test_key_that_was_deleted_is_free(server: ServerProcess) -> None:
    """The server counts a deletion as the key's last message; a check sees that the key is not there."""
    async with open_store(server) as store:
        (first,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
        with pytest.raises(Conflict):
            await store.commit(Transaction("t2", [Delete("a", ABSENT)]))
        with pytest.raises(Conflict):
            await store.commit(Transaction("t3", [Delete("a", first + 7)]))
        gone = Transaction("t4", [Delete("a", first)])
        assert await store.commit(gone) == await store.commit(gone)
        assert await store.commit(Transaction("t5", [Delete("a", ABSENT)])) == (ABSENT,)
        assert await store.get("a") is None
        (again,) = await store.commit(Transaction("t6", [Put("a", b"2", ABSENT)]))
        assert again > first
        assert await store.sync() > again


async def test_what_it_cannot_do_is_said(server: ServerProcess) -> None:
    """Two operations, a key that is none, watching; and nothing at all once it has been left."""
    async with open_store(server) as store:
        with pytest.raises(ValueError, match="at most 1 operations"):
            await store.commit(Transaction("t2", [Put("a", b"", ANY), Put("b", b"", ANY)]))
        with pytest.raises(ValueError, match="is not a key"):
            await store.commit(Transaction("t3", [Put("a b", b"", ANY)]))
        assert await store.get("a b") is None
        with pytest.raises(StoreUnavailable, match="cannot be watched"):
            store.watch()
    for operation in (store.sync, lambda: store.get("a")):
        with pytest.raises(StoreUnavailable, match="left"):
            await operation()


async def test_expired_message_leaves_nothing_behind(server: ServerProcess) -> None:
    """Not even a marker: thousands of them a minute would be of use to nobody."""
    async with open_store(server) as store:
        for number in range(20):
            await store.commit(Transaction(f"t{number}", [Put(f"messages.{number}", b"1", ABSENT, ttl=1.0)]))
        with trio.fail_after(60):
            while True:
                if not await stored(store):
                    break
                await trio.sleep(0.05)


async def stored(store: MessageStore) -> int:
    """How many messages the bucket of *store* has."""
    info = await store._jetstream.call(f"STREAM.INFO.{store._settings.stream}")
    state = info["state"]
    assert isinstance(state, dict)
    return int(state["messages"])


def test_messages_lie_beside_their_registry() -> None:
    """Kept where that is."""
    assert messages_bucket(BucketSettings(name="x", storage="memory", replicas=3)) == BucketSettings(
        name="x-messages", storage="memory", replicas=3, marker_ttl=0
    )


async def test_bus_without_a_server_says_so(tmp_path: Path) -> None:
    """It keeps nothing for later: whoever waits for an answer learns at once that nothing left."""
    heard: list[Message] = []
    with running(tmp_path / "one") as process:
        async with open_connection([process.url]) as connection:
            bus = NatsBus(connection)
            async with bus.subscribe("ipc.a", heard.append):
                process.kill()
                await connection.wait_state(ConnectionState.RECONNECTING)
                with pytest.raises(TransportUnavailable, match="no connection"):
                    bus.publish("ipc.a", b"")
                process.start()
                await connection.wait_state(ConnectionState.CONNECTED)
                bus.publish("ipc.a", b"again")
                await connection.flush()
                assert [message.payload for message in heard] == [b"again"]
        for use in (publishing(bus), subscribing(bus)):
            with pytest.raises(TransportUnavailable, match="left"):
                await use()


async def test_bus_hands_on_no_reply_that_names_a_subject_of_the_systems(server: ServerProcess) -> None:
    """Who answers may be allowed to publish where who asks is not: into a bucket, say."""
    heard: list[Message] = []
    async with open_connection([server.url]) as connection:
        bus = NatsBus(connection)
        async with bus.subscribe("ipc.a", heard.append):
            for reply in ("$KV.service-registry.roles.rooms.default", "$JS.API.STREAM.DELETE.X", "answers.1"):
                bus.publish("ipc.a", b"", reply)
                bus.publish("ipc.a", b"", reply, {"traceparent": "00"})
            await connection.flush()
    assert [message.reply for message in heard] == ["", "", "", "", "answers.1", "answers.1"]


async def test_bus_takes_what_is_on_the_way_when_a_queue_is_left(server: ServerProcess) -> None:
    """Nobody else would get it."""
    heard: list[Message] = []
    async with (
        open_connection([server.url]) as one,
        open_connection([server.url]) as other,
        NatsBus(one).subscribe("ipc.b", heard.append, queue="routers"),
    ):
        for _ in range(100):
            NatsBus(other).publish("ipc.b", b"")
        await other.flush()
    assert len(heard) == 100


def publishing(bus: NatsBus) -> Callable[[], Awaitable[None]]:
    """Publish something."""

    async def publish() -> None:
        bus.publish("ipc.a", b"")

    return publish


def subscribing(bus: NatsBus) -> Callable[[], Awaitable[None]]:
    """Subscribe to something."""

    async def subscribe() -> None:
        async with bus.subscribe("ipc.a", lambda _: None):
            pass

    return subscribe


async def test_bus_says_what_it_is_not_allowed(tmp_path: Path) -> None:
    """At the subscription; and headers must be ones."""
    permissions = (
        'authorization { users: [{ user: u, password: p, permissions: { subscribe: "_INBOX.>", publish: ">" } }] }'
    )
    with running(tmp_path / "one", permissions) as process:
        url = process.url.replace("nats://", "nats://u:p@")
        async with open_connection([url]) as connection:
            bus = NatsBus(connection)
            with pytest.raises(TransportUnavailable, match="does not allow"):
                async with bus.subscribe("ipc.a", lambda _: None):
                    pass
            with pytest.raises(ValueError, match="no name for a header"):
                bus.publish("ipc.a", b"", headers={"a b": "c"})


async def test_messages_need_a_server_that_can_hold_them(shared_server: ServerProcess) -> None:
    """As the registry does: without JetStream, what to do is told."""
    async with open_connection([shared_server.url]) as connection:
        with pytest.raises((ConfigError, StoreUnavailable), match="nats-server -js"):
            async with open_messages(connection, BucketSettings(), random=random.Random(1)):
                pass
