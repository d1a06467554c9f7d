"""Buckets that are set back, once or again, also to a history that has a name: who comes late takes nothing for a new one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http.routers import Routers
from aegis_backends.http.store import HttpFeed, HttpStore
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.generation import name_generation, read_generation
from aegis_backends.nats.histories import is_no_newer, next_name
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_backends.nats.store import NatsStore, open_store
from aegis_core.backend import Change, Resync, Synced
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess, running
from tests.backends.nats.shifted import ShiftedClock
from tests.backends.nats.test_absence import Cluster, open_cluster
from tests.backends.nats.test_set_back import counts_anew, open_router, write
from tests.backends.nats.test_store import set_back

SETTINGS = BucketSettings()
FIRST = "0123456789abcdef"
"""As nodes of earlier versions put it."""


async def back_up(server: ServerProcess, url: str, earlier: Path, *names: str) -> None:
    """Make the bucket, and a copy of it within a history of the first of *names*, if any; it goes on, and has the others one by one."""
    async with open_connection([url]) as connection, open_store(connection, SETTINGS, random=random.Random()) as store:
        await write(store, "kept", 1)
        for name in names[:1]:
            await name_generation(connection, SETTINGS, name, 0)
    server.kill()
    shutil.copytree(server.folder / "jetstream", earlier)
    server.start()
    async with open_connection([url]) as connection:
        jetstream = JetStream(connection, random=random.Random())
        for name in names[1:]:
            _, revision = await read_generation(jetstream, SETTINGS)
            await name_generation(connection, SETTINGS, name, revision)


def keep_away(store: NatsStore) -> trio.Event:
    """Let *store* not look at the bucket again before the event is set."""
    may_look, look = trio.Event(), store._watch._check

    async def look_later() -> StreamInfo:
        await may_look.wait()
        return await look()

    store._watch._check = look_later
    return may_look


@pytest.mark.parametrize(("before", "times"), [((), 1), ((FIRST,), 2)])
async def test_restoring_a_backup_is_noticed_by_who_comes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...], times: int
) -> None:
    """When the bucket is past what that one knew, and all that could tell was overwritten, also if it happened twice.

    Those who saw it name the new history, one of them, and once.
    """
    monkeypatch.setattr("aegis_backends.nats.mirror._OVERLAP", 8)
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        await back_up(server, server.url, earlier, *before)
        async with AsyncExitStack() as stack:
            stores = []
            for _ in range(3):
                connection = await stack.enter_async_context(open_connection([server.url]))
                stores.append(await stack.enter_async_context(open_store(connection, SETTINGS, random=random.Random())))
            one, two, late = stores
            await write(one, "lost", 1)
            known = await write(one, "often", 30)
            for store in stores:
                await store._watch.wait_level(known)
            may_look, names = keep_away(late), [one._watch.mirror.named]
            for time in range(1, times + 1):
                await set_back(server, earlier)
                for store in (one, two):
                    await counts_anew(store, time)
                assert one._watch.mirror.named == two._watch.mirror.named
                names.append(one._watch.mirror.named)
            assert len(set(names)) == 1 + times
            assert all(is_no_newer(older, names[-1]) for older in names)
            last = await write(one, "often", 60)
            assert last > known + 8
            assert "lost" in late._watch.mirror.records
            may_look.set()
            await late._watch.wait_level(last)
            assert list(late._watch.mirror.records) == ["kept", "often"]
            # What was agreed on is no reason to begin anew once more, nor to put another name.
            for store in stores:
                store._watch._end_life()
            last = await write(one, "often", 1)
            for store in stores:
                await store._watch.wait_level(last)
            assert [store._watch.recounts for store in stores] == [1 + times, 1 + times, 2]
            assert {store._watch.mirror.named for store in stores} == {names[-1]}


async def test_restoring_the_same_backup_twice_is_noticed_by_who_comes_back_over_http(tmp_path: Path) -> None:
    """From a router that saw both, and is past what that one knew."""
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        await back_up(server, server.url, earlier, FIRST)
        async with open_router(server.url) as (store, url), httpx.AsyncClient(trust_env=False) as client:
            connected = await HttpStore.connect(Routers(client, [url], {}))
            async with connected.watch() as feed:
                assert isinstance(feed, HttpFeed)
                known = await write(store, "lost", 1)
                batch: Sequence[Change | Synced | Resync] = ()
                while Change("lost", b"v", known) not in batch:
                    batch = await feed.receive()
                await feed.disconnect()
                for times in (1, 2):
                    await set_back(server, earlier)
                    await counts_anew(store, times)
                last = await write(store, "often", 30)
                assert last > known
                resync, *rest = await feed.receive()
                assert isinstance(resync, Resync)
                assert resync.recounted
                while Change("often", b"v", last) not in rest:
                    rest += await feed.receive()
                assert [item.key for item in rest if isinstance(item, Change)] == ["kept", "often"]


async def test_who_may_not_write_names_goes_on_with_a_backup_that_has_one(tmp_path: Path) -> None:
    """By the name of before, which stays, and is no proof a second time."""
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    denied = '{ publish: { deny: "$KV.service-registry.~generation" } }'
    users = f"{{ user: admin, password: pw }}, {{ user: app, password: pw, permissions: {denied} }}"
    configuration = f'jetstream {{ store_dir: "{folder}" }}\nauthorization {{ users: [ {users} ] }}'
    with running(folder, configuration) as server, trio.fail_after(60):
        admin, url = (server.url.replace("//", f"//{user}:pw@") for user in ("admin", "app"))
        await back_up(server, admin, earlier, FIRST, next_name(2, found=FIRST.encode(), known=FIRST.encode()))
        async with (
            open_connection([url]) as connection,
            open_store(connection, SETTINGS, random=random.Random()) as store,
        ):
            watch = store._watch
            await watch.wait_level(await write(store, "lost", 5))
            assert watch.mirror.named != FIRST.encode()
            assert is_no_newer(FIRST.encode(), watch.mirror.named)
            await set_back(server, earlier)
            await counts_anew(store, 1)
            for _ in range(2):
                watch._end_life()
                await watch.wait_level(await write(store, "later", 1))
            assert (list(watch.mirror.records), watch.mirror.named) == (["kept", "later"], FIRST.encode())
            assert watch.recounts == 2


@pytest.mark.parametrize("back_to", [FIRST.encode(), b""], ids=["a name", "no name"])
async def test_second_set_back_is_noticed_while_the_first_is_still_read(back_to: bytes) -> None:
    """By the name that was put for the first: nothing else is known that could tell; who comes late needs another one."""
    before = {"~generation": 100} if back_to else {}
    cluster = Cluster(contents={**before, "kept": 101, "lost": 102}, generation=back_to)
    async with open_cluster(cluster, ShiftedClock()) as store:
        watch = store._watch
        cluster.contents, cluster.last, cluster.withheld = {**before, "kept": 101}, 50, 1
        watch._end_life()
        await until(lambda: watch.recounts == 2 and watch.mirror.loading and watch.mirror.applied)
        first = cluster.generation
        assert is_no_newer(back_to, first)
        assert first != back_to
        cluster.contents, cluster.last, cluster.withheld = {**before, "kept": 101}, 101, 0
        cluster.generation = back_to
        watch._end_life()
        await counts_anew(store, 2)
        assert watch.mirror.named == cluster.generation
        assert cluster.generation not in {back_to, first}
        assert is_no_newer(first, cluster.generation)


async def test_load_that_breaks_off_after_a_set_back_is_no_other_one() -> None:
    """The name is still the one that was put."""
    cluster = Cluster()
    async with open_cluster(cluster, ShiftedClock()) as store:
        watch = store._watch
        cluster.contents, cluster.last, cluster.withheld = {"kept": 40}, 50, 1
        watch._end_life()
        await until(lambda: watch.recounts == 2 and watch.mirror.loading)
        named, made = cluster.generation, len(cluster.made)
        cluster.withheld = 0
        watch._end_life()
        await until(lambda: len(cluster.made) > made and watch.mirror.level)
        assert (watch.recounts, watch.mirror.named, cluster.generation) == (2, named, named)


async def test_name_that_somebody_else_put_first_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was too late with another one goes by that, and is not set back by it once more."""
    cluster = Cluster()
    async with open_cluster(cluster, ShiftedClock()) as store:
        watch = store._watch

        async def be_late(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            cluster.last += 1
            cluster.generation, cluster.contents["~generation"] = b"theirs", cluster.last

        monkeypatch.setattr("aegis_backends.nats.watch.name_generation", be_late)
        cluster.contents, cluster.last, cluster.withheld = {"kept": 40}, 50, 1
        watch._end_life()
        await until(lambda: watch.recounts == 2 and watch.mirror.loading and watch.mirror.applied)
        cluster.withheld = 0
        watch._end_life()
        await until(lambda: watch.mirror.level)
        assert (watch.recounts, watch.mirror.named) == (2, b"theirs")
