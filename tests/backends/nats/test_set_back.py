"""Nodes whose bucket is set back to an earlier state, or made anew: their view goes on, and their instances come back."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.routers import Routers
from aegis_backends.http.store import HttpFeed, HttpStore
from aegis_backends.nats.bucket import BucketSettings, ensure_bucket
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.errors import NoResponders
from aegis_backends.nats.generation import name_generation, read_generation
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_backends.nats.server import open_servers
from aegis_backends.nats.store import NatsStore, open_store
from aegis_core import Call, EndReason, Node, Resync, Service, backend, open_node
from aegis_core.backend import ANY, Change, Put, Synced, Transaction
from aegis_core.hookspecs import Principal
from tests.backends.http.peers import permit_all
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess, running
from tests.backends.nats.test_store import make_anew, set_back

TTL = 4


def rooms() -> Service:
    """A service that says who serves it."""
    service = Service("rooms", version="1")

    @service.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        await trio.lowlevel.checkpoint()
        return call.instance.instance_id

    return service


async def owner(node: Node, resource_id: str, wanted: str) -> None:
    """Wait until *node* sees that the instance has the resource, or ("") that nobody has."""

    def is_so() -> bool:
        found = node.owner_of(resource_id)
        return ("" if found is None else found.owner_instance_id) == wanted

    await until(is_so, within=60)


@pytest.mark.parametrize("strike", [make_anew, set_back])
async def test_nodes_go_on_with_a_bucket_that_counts_anew(
    strike: Callable[[ServerProcess, Path], Awaitable[None]], tmp_path: Path
) -> None:
    """All leases end, all register and claim again, and every node sees what there is."""
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        async with (
            open_node(server.url, config={"ttl": TTL}) as one,
            open_node(server.url, config={"ttl": TTL}) as two,
            one.serve(rooms(), instance_id="a") as a,
            one.events(Resync) as told_one,
            two.events(Resync) as told_two,
        ):
            await a.claim("first")
            server.kill()
            shutil.copytree(folder / "jetstream", earlier)
            server.start()
            async with two.serve(rooms(), instance_id="b") as b:
                claims = [*await a.claim("later"), *await b.claim("hers")]
                await a.release("first")
                for node in (one, two):
                    await node.runtime.directory.sync()
                await strike(server, earlier)
                for claim in claims:
                    assert await claim.wait_ended() in {EndReason.ERASED, EndReason.EXPIRED}
                for told in (told_one, told_two):
                    assert "bucket" in (await told.receive()).reason
                for node in (one, two):
                    await owner(node, "later", "a")
                    await owner(node, "hers", "b")
                    # What had been released may have come back, with a lease that nobody renews.
                    await owner(node, "first", "")
                    found = await node.registry.get_service("rooms")
                    assert {each.instance_id for each in found.instances} == {"a", "b"}
                assert await one.call("rooms", "who", resource_id="hers") == "b"
                assert await two.call("rooms", "who", resource_id="later") == "a"
                assert [claim.held for claim in await b.claim("first", "new")] == [True, True]


async def test_of_several_names_of_a_history_the_first_counts() -> None:
    """Whoever puts another one at the same time wanted no more than that."""
    settings = BucketSettings(storage="memory")
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        jetstream = JetStream(connection, random=random.Random())
        await ensure_bucket(jetstream, settings)
        assert await read_generation(jetstream, settings) == (b"", 0)
        await name_generation(connection, settings, "first", 0)
        await name_generation(connection, settings, "second", 0)
        name, revision = await read_generation(jetstream, settings)
        assert name == b"first"
        await name_generation(connection, settings, "third", revision)
        assert (await read_generation(jetstream, settings))[0] == b"third"
        await jetstream.delete_stream(settings.stream)
        with pytest.raises(NoResponders):
            await name_generation(connection, settings, "fourth", 0)


async def write(store: NatsStore, key: str, times: int) -> int:
    """Put *key* so often; the last revision."""
    revision = 0
    for _ in range(times):
        (revision,) = await store.commit(Transaction(f"{key}-{random.getrandbits(64)}", [Put(key, b"v", ANY)]))
    return revision


async def counts_anew(store: NatsStore, times: int = 1) -> None:
    """Wait until *store* has noticed that the bucket was set back so often, and has read it anew."""
    await until(lambda: store._watch.recounts == 1 + times and store._watch.mirror.level, within=60)


@pytest.mark.parametrize("denied", ["$KV.service-registry.~generation", "$JS.API.STREAM.MSG.GET.>"])
async def test_who_may_not_name_a_history_goes_on_all_the_same(tmp_path: Path, denied: str) -> None:
    """By what it sees for itself."""
    folder, earlier, settings = tmp_path / "server", tmp_path / "earlier", BucketSettings()
    users = f'{{ user: app, password: pw, permissions: {{ publish: {{ deny: "{denied}" }} }} }}'
    configuration = f'jetstream {{ store_dir: "{folder}" }}\nauthorization {{ users: [ {users} ] }}'
    with running(folder, configuration) as server, trio.fail_after(60):
        url = server.url.replace("//", "//app:pw@")
        async with (
            open_connection([url]) as connection,
            open_store(connection, settings, random=random.Random()) as store,
        ):
            await write(store, "kept", 1)
        server.kill()
        shutil.copytree(folder / "jetstream", earlier)
        server.start()
        async with (
            open_connection([url]) as connection,
            open_store(connection, settings, random=random.Random()) as store,
        ):
            watch = store._watch
            await watch.wait_level(await write(store, "lost", 5))
            for _ in range(2):
                watch._end_life()
                await watch.wait_level(await write(store, "lost", 1))
            assert watch.recounts == 1
            await set_back(server, earlier)
            await counts_anew(store)
            assert (list(watch.mirror.records), watch.mirror.named) == (["kept"], b"")


async def test_who_began_after_a_set_back_loses_nothing_by_it(tmp_path: Path) -> None:
    """When one comes back that was there before, and has proof: the history that all others know has not changed."""
    folder, earlier, settings = tmp_path / "server", tmp_path / "earlier", BucketSettings()
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, settings, random=random.Random()) as store,
        ):
            await write(store, "kept", 1)
        server.kill()
        shutil.copytree(folder / "jetstream", earlier)
        server.start()
        async with (
            open_connection([server.url]) as connection,
            open_store(connection, settings, random=random.Random()) as late,
        ):
            await late._watch.wait_level(await write(late, "lost", 200))
            may_look, look = trio.Event(), late._watch._check

            async def look_later() -> StreamInfo:
                await may_look.wait()
                return await look()

            late._watch._check = look_later
            await set_back(server, earlier)
            async with (
                open_node(server.url) as node,
                node.events(Resync) as told,
                node.serve(rooms(), instance_id="new") as instance,
            ):
                (claim,) = await instance.claim("room")
                may_look.set()
                await counts_anew(late)
                assert late._watch.mirror.named
                await node.runtime.directory.sync()
                assert claim.held
                with pytest.raises(trio.WouldBlock):
                    told.receive_nowait()


@asynccontextmanager
async def open_router(url: str) -> AsyncIterator[tuple[NatsStore, str]]:
    """A router over a bucket: its store, and where it serves that."""
    async with (
        open_connection([url]) as connection,
        open_store(connection, BucketSettings(), random=random.Random()) as store,
        trio.open_nursery() as nursery,
    ):

        async def commit(_principal: Principal, transaction: Transaction) -> tuple[int, ...]:
            return await store.commit(transaction)

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await nursery.start(partial(serve_router, RouterApp(store, commit, permit_all), [listener]))
        yield store, f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def test_who_comes_back_over_http_learns_that_a_bucket_was_set_back(tmp_path: Path) -> None:
    """From routers that are past what that one knew; but one that is new, or another one, is no reason to begin anew."""
    folder, earlier = tmp_path / "server", tmp_path / "earlier"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}') as server, trio.fail_after(60):
        async with open_router(server.url) as (store, _):
            await write(store, "kept", 1)
        server.kill()
        shutil.copytree(folder / "jetstream", earlier)
        server.start()
        async with AsyncExitStack() as stack:
            routers = [await stack.enter_async_context(open_router(server.url)) for _ in range(2)]
            one = routers[0][0]
            client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            everywhere = Routers(client, [url for _, url in routers], {})
            feed = await stack.enter_async_context((await HttpStore.connect(everywhere)).watch())
            assert isinstance(feed, HttpFeed)

            async def told_until(key: str, revision: int) -> list[Change | Synced | backend.Resync]:
                """What is told until *key* has its *revision*."""
                found: list[Change | Synced | backend.Resync] = []
                while Change(key, b"v", revision) not in found or not isinstance(found[-1], Synced):
                    found += await feed.receive()
                return found

            async def leave() -> None:
                """Lose the router, so that the next one is asked."""
                await feed.disconnect()
                everywhere.leave(everywhere.current)

            known = await write(one, "lost", 1)
            await told_until("lost", known)
            await leave()
            await set_back(server, earlier)
            for router, _ in routers:
                await counts_anew(router)
            last = await write(one, "often", 30)
            assert last > known
            resync, *rest = await told_until("often", last)
            assert isinstance(resync, backend.Resync)
            assert resync.recounted
            assert [item.key for item in rest if isinstance(item, Change)] == ["kept", "often"]
            # Another router, and one that was not there before, tell the same history.
            await leave()
            last = await write(one, "often", 1)
            assert not [item for item in await told_until("often", last) if isinstance(item, backend.Resync)]
            _, url = await stack.enter_async_context(open_router(server.url))
            await leave()
            everywhere._urls = (url,)
            everywhere._at = 0
            again = await told_until("often", await write(one, "often", 1))
            assert not [item for item in again if isinstance(item, backend.Resync) and item.recounted]
