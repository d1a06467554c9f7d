"""Where the view and the server disagree, and how a watch comes back."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from aegis_backends.nats import background
from aegis_backends.nats.background import open_background
from aegis_backends.nats.bucket import BucketSettings, new_config
from aegis_backends.nats.connection import Connection, ConnectionState, open_connection
from aegis_backends.nats.jetstream import Consumer, JetStream, StoredMessage
from aegis_backends.nats.mirror import Grave
from aegis_backends.nats.opening import open_nats
from aegis_backends.nats.server import open_servers
from aegis_backends.nats.store import NatsStore, open_store
from aegis_core.backend import (
    ABSENT,
    ANY,
    BackendAddress,
    Conflict,
    Delete,
    Entry,
    Put,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_pytest.conformance.steps import open_mirror
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess, running
from tests.backends.nats.shifted import ShiftedClock
from tests.interrupting import Interrupt, interrupt_everywhere


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


async def test_refusal_that_cannot_be_looked_into_is_an_error_of_the_store(tmp_path: Path) -> None:
    """Where this user may not read the message that the server speaks of."""
    denied = 'no_auth_user: a, authorization { users: [{user: a, password: a, permissions: {publish: {deny: "%s"}}}] }'
    settings = f'jetstream {{ store_dir: "{tmp_path}" }}\n{denied % "$JS.API.STREAM.MSG.GET.>"}'
    with running(tmp_path / "server", settings) as server, trio.fail_after(60):
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, BucketSettings(), random=random.Random(1)) as store,
        ):
            (put,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            (gone,) = await store.commit(Transaction("t2", [Delete("a", put)]))
            await store._watch.wait_level(gone)
            store._watch.mirror.graves.clear()
            with pytest.raises(StoreUnavailable, match="does not allow"):
                await store.commit(Transaction("t3", [Put("a", b"2", ABSENT)]))


async def test_transaction_of_many_megabytes_is_committed() -> None:
    """Its members leave as the server takes them; it need not fit into what may wait to be sent."""
    async with open_servers() as servers:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            assert backend.store is not None
            puts = [Put(f"large.{number}", bytes(200_000), ABSENT) for number in range(100)]
            found = await backend.store.commit(Transaction("large", puts))
            assert len(found) == 100


async def delete_consumer(connection: Connection) -> None:
    """Have the server delete the one consumer of the bucket."""
    names = await connection.request("$JS.API.CONSUMER.NAMES.KV_service-registry", timeout=5.0)
    (name,) = json.loads(names.payload)["consumers"]
    await connection.request(f"$JS.API.CONSUMER.DELETE.KV_service-registry.{name}", timeout=5.0)


async def test_own_transaction_is_known_again_before_the_watch_tells_it() -> None:
    """Its acknowledgement is enough, also where nothing was expected of the key."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert isinstance(store, NatsStore)
            await delete_consumer(connection)
            once = Transaction("t1", [Put("a", b"1", ANY), Put("b", b"1", ANY)])
            revisions = await store.commit(once)
            assert store._watch.mirror.applied < revisions[0]
            assert await store.commit(once) == revisions


async def test_key_that_others_put_since_is_put_again_though_the_view_was_behind() -> None:
    """What was acknowledged is forgotten as soon as the view shows more: who expects nothing never gets a conflict."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert isinstance(store, NatsStore)
            await delete_consumer(connection)
            (mine,) = await store.commit(Transaction("t1", [Put("a", b"1", ANY)]))
            async with open_nats(address) as others:
                assert others.store is not None
                (theirs,) = await others.store.commit(Transaction("t2", [Put("a", b"2", ANY)]))
            assert store._watch.mirror.applied < mine < theirs
            (again,) = await store.commit(Transaction("t3", [Put("a", b"3", ANY)]))
            assert theirs < again
            with pytest.raises(Conflict):
                await store.commit(Transaction("t4", [Put("a", b"4", mine)]))


async def test_key_that_others_put_while_its_end_is_looked_up_is_put_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server speaks of a deletion that the view has forgotten, and before that was read the key is there again."""
    async with open_servers() as servers:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend, open_nats(address) as others:
            store = backend.store
            assert isinstance(store, NatsStore)
            assert others.store is not None
            theirs = others.store
            (put,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            (gone,) = await store.commit(Transaction("t2", [Delete("a", put)]))
            await store._watch.wait_level(gone)
            store._watch.mirror.graves.clear()
            read = JetStream.message
            looked_up: list[int] = []

            async def read_slowly(self: JetStream, stream: str, sequence: int) -> StoredMessage | None:
                found = await read(self, stream, sequence)
                (revision,) = await theirs.commit(Transaction("t3", [Put("a", b"2", ANY)]))
                await store._watch.wait_level(revision)
                looked_up.append(revision)
                return found

            monkeypatch.setattr(JetStream, "message", read_slowly)
            (again,) = await store.commit(Transaction("t4", [Put("a", b"3", ANY)]))
            assert again > looked_up[0]


async def test_watch_whose_consumer_is_gone_makes_another() -> None:
    """Nothing tells that it is gone but its silence; nothing is missed."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        address = BackendAddress(servers.url, "nats", servers.location, {"storage": "memory"})
        async with open_nats(address) as backend:
            store = backend.store
            assert store is not None
            async with open_mirror(store) as mirror:
                await delete_consumer(connection)
                with trio.fail_after(60):
                    (revision,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
                    await mirror.wait_revision(revision)
                assert mirror.values == {"a": b"1"}


async def test_view_is_loaded_again_after_a_long_absence(tmp_path: Path) -> None:
    """Once; with more keys than come before the consumer is first looked at, which must not be taken for a lost one."""
    settings, clock, keys = BucketSettings(), ShiftedClock(), 5000
    with running(tmp_path / "server", f'jetstream {{ store_dir: "{tmp_path}" }}') as server, trio.fail_after(60):
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, settings, clock=clock, random=random.Random(1)) as store,
            open_mirror(store) as mirror,
        ):
            for first in range(0, keys, 1000):
                puts = [Put(f"k{number}", b"v", ABSENT) for number in range(first, first + 1000)]
                await mirror.wait_revision((await store.commit(Transaction(f"t{first}", puts)))[-1])
            made: list[str] = []
            create_consumer = store._jetstream.create_consumer

            async def create(stream: str, config: Mapping[str, object]) -> Consumer:
                """Make a consumer, and note it."""
                made.append(stream)
                return await create_consumer(stream, config)

            store._jetstream.create_consumer = create  # type: ignore[method-assign]
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            clock.ahead = 400.0
            server.start()
            await until(lambda: store._watch.mirror.loads == 2, within=60)
            (revision,) = await store.commit(Transaction("last", [Put("last", b"v", ABSENT)]))
            await mirror.wait_revision(revision)
            assert len(mirror.values) == keys + 1
            assert len(made) < 10


async def make_anew(server: ServerProcess, _earlier: Path) -> None:
    """The bucket is removed, and made again by somebody who counts from 1."""
    async with open_connection([server.url]) as connection:
        jetstream = JetStream(connection, random=random.Random(1))
        await jetstream.delete_stream(BucketSettings().stream)
        await jetstream.create_stream(new_config(BucketSettings(), 1))


async def set_back(server: ServerProcess, earlier: Path) -> None:
    """The server's files are those of earlier."""
    server.kill()
    shutil.rmtree(server.folder / "jetstream")
    shutil.copytree(earlier, server.folder / "jetstream")
    server.start()


@pytest.mark.parametrize("strike", [make_anew, set_back])
async def test_bucket_that_counts_anew_leaves_nothing_of_before(
    strike: Callable[[ServerProcess, Path], Awaitable[None]], tmp_path: Path
) -> None:
    """No reader waits for a revision of before, and no transaction is taken for applied that went with it."""
    folder, earlier, settings = tmp_path / "server", tmp_path / "earlier", BucketSettings()
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, settings, random=random.Random(1)) as store,
        ):
            await store.commit(Transaction("first", [Put("a", b"1", ABSENT)]))
        server.kill()
        shutil.copytree(folder / "jetstream", earlier)
        server.start()
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, settings, random=random.Random(1)) as store,
        ):
            watch = store._watch
            for number in range(20):
                (shown,) = await store.commit(Transaction(f"t{number}", [Put(f"k{number}", b"1", ABSENT)]))
            await watch.wait_level(shown)
            names = await connection.request(f"$JS.API.CONSUMER.NAMES.{settings.stream}", timeout=5.0)
            (name,) = json.loads(names.payload)["consumers"]
            await connection.request(f"$JS.API.CONSUMER.DELETE.{settings.stream}.{name}", timeout=5.0)
            once = Transaction("once", [Put("b", b"1", ANY)])
            (lost,) = await store.commit(once)
            assert watch.mirror.applied < lost
            async with store.watch() as earlier_reader:
                await strike(server, earlier)
                await until(lambda: watch.mirror.loads == 2, within=60)
                assert watch.mirror.revision < lost
                async with store.watch() as reader:
                    for feed in (earlier_reader, reader):
                        assert isinstance((await feed.receive())[-1], Synced)
            (again,) = await store.commit(once)
            assert await store.get("b") == Entry(b"1", again)
            assert again < lost


async def test_consumers_that_get_nowhere_are_not_made_in_a_loop() -> None:
    """The pauses between them grow."""
    made: list[float] = []

    async def create(_stream: str, _config: Mapping[str, object]) -> Consumer:
        """Make none, as if it were lost before it delivered what it promised."""
        made.append(trio.current_time())
        store._watch._life.cancel()
        return Consumer(pending=1, server="")

    async with open_servers() as servers, open_connection([servers.url]) as connection:
        settings = BucketSettings(storage="memory")
        async with open_store(connection, settings, random=random.Random(1)) as store:
            store._jetstream.create_consumer = create  # type: ignore[method-assign]
            store._watch._life.cancel()
            await until(lambda: len(made) == 5)
    pauses = [later - earlier for earlier, later in pairwise(made)]
    # At least half of 0.16 s, 0.32 s: the other half is chance's.
    assert pauses[2] >= 0.08
    assert pauses[3] >= 0.16


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


def test_ctrl_c_ends_a_block_before_a_background_wherever_it_hits() -> None:
    """The tasks behind it are shielded from everything else."""

    async def end(interrupt: Interrupt) -> None:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            interrupt.arm(nursery.cancel_scope.cancel)

    async def fail(interrupt: Interrupt) -> None:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            interrupt.arm(nursery.cancel_scope.cancel)
            raise KeyError("before")

    async def fail_before(interrupt: Interrupt) -> None:
        with suppress(KeyError):
            await fail(interrupt)

    for program in (end, fail_before):
        interrupts = interrupt_everywhere(program, background)
        assert [interrupt.place for interrupt in interrupts if interrupt.hung] == []
        assert "if body is not None:" in [interrupt.place for interrupt in interrupts]
