"""A client's store, where routers die, lie, stall, or are something else altogether."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http import wire
from aegis_backends.http.asgi import Receive, Scope, Send, respond
from aegis_backends.http.routers import Routers
from aegis_backends.http.store import HttpStore
from aegis_core import errors
from aegis_core.backend import (
    ABSENT,
    Capabilities,
    Change,
    Indeterminate,
    Put,
    Resync,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.errors import AegisError
from aegis_core.models import Outcome
from tests.backends.http.peers import PATIENCE, open_server

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]
TRANSACTION = Transaction("t-1", (Put("k", b"v", ABSENT),))
DONE = wire.revisions_to_bytes((7,))


class Scripted:
    """A router that answers each path as a test wants, and counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {wire.STORE: say(capabilities())}
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self.asked.append(scope["path"])
        await self.answers[scope["path"]](scope, receive, send)


def capabilities(heartbeat: float = 5.0) -> bytes:
    """What a router says of its store."""
    return wire.capabilities_to_bytes(Capabilities(), heartbeat=heartbeat, max_body=500)


def say(body: bytes, status: int = 200) -> Answer:
    """Answer *body*."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, status, body, content_type=wire.MSGPACK)

    return app


def refuse(error: AegisError) -> Answer:
    """Answer *error*."""
    return say(wire.problem(error), wire.status_of(error))


async def hang_up(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Say less than was promised, and close."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"x"})


def stream(*parts: bytes, then: float = 0.0) -> Answer:
    """A watch that tells *parts*, stays silent for *then* seconds, and ends."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await trio.sleep(then)
        await send({"type": "http.response.body"})

    return app


def told(*items: wire.Item) -> bytes:
    """A batch as it travels."""
    return b"".join(wire.frames(items))


@asynccontextmanager
async def open_store(*routers: Scripted) -> AsyncIterator[HttpStore]:
    """A store at *routers*."""
    async with AsyncExitStack() as stack:
        ports = [(await stack.enter_async_context(open_server(router))).port for router in routers]
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE, trust_env=False))
        store = await HttpStore.connect(Routers(client, [f"http://127.0.0.1:{port}" for port in ports], {}))
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.checkpoint()
            yield store
        store.close()


async def test_commit_that_a_router_answers_is_done() -> None:
    """With the revisions that it says."""
    router = Scripted()
    router.answers[wire.COMMIT] = say(DONE)
    async with open_store(router) as store:
        assert await store.commit(TRANSACTION) == (7,)
        assert "127.0.0.1" in repr(store)
        with pytest.raises(ValueError, match="at most 500 bytes"):
            await store.commit(Transaction("t-2", (Put("k", bytes(500), ABSENT),)))
        store.close()
        with pytest.raises(StoreUnavailable, match="has been left"):
            await store.commit(TRANSACTION)


COMMITS: dict[str, tuple[Answer, type[Exception]]] = {
    "lost answer": (hang_up, Indeterminate),
    "another answer": (say(wire.revisions_to_bytes((1, 2))), Indeterminate),
    "no answer of ours": (say(b"<html>"), Indeterminate),
    "crash": (say(b"", 500), Indeterminate),
    "very long answer": (say(bytes((1 << 24) + 1)), Indeterminate),
    "very long refusal": (say(bytes((1 << 24) + 1), 409), Indeterminate),
    "fate open": (refuse(Indeterminate(reason="slow")), Indeterminate),
    "proxy without a router": (say(b"bad gateway", 502), StoreUnavailable),
    "too many requests": (refuse(errors.Overloaded(limit=1, asked=2)), StoreUnavailable),
    "too many requests of a proxy": (say(b"", 429), StoreUnavailable),
    "unknown token": (refuse(errors.Unauthorized(operation="commit")), StoreUnavailable),
    "conflict": (refuse(errors.Conflict(key="k")), errors.Conflict),
    "refusal": (refuse(errors.Forbidden(operation="commit", target="k", reason="no")), errors.Forbidden),
    "nonsense": (refuse(errors.InvalidRequest.at("$[1]", "no such TTL")), ValueError),
}


@pytest.mark.parametrize("name", COMMITS)
async def test_commit_fails_as_what_became_of_it(name: str) -> None:
    """What may have happened is Indeterminate, and never anything else."""
    answer, expected = COMMITS[name]
    router = Scripted()
    router.answers[wire.COMMIT] = answer
    async with open_store(router) as store:
        with pytest.raises(expected):
            await store.commit(TRANSACTION)
        assert router.asked == [wire.STORE, wire.COMMIT]


FULL = {
    "store away": refuse(StoreUnavailable(reason="away", outcome=Outcome.NOT_SENT)),
    "too many requests": refuse(errors.Overloaded(limit=1, asked=2)),
    "too many connections": refuse(errors.TransportUnavailable(reason="full")),
}


@pytest.mark.parametrize("name", FULL)
async def test_router_that_cannot_answer_is_left_for_the_next(name: str) -> None:
    """At once where nothing was done; and the next one stays the one that is asked."""
    first, second = Scripted(), Scripted()
    first.answers[wire.COMMIT] = FULL[name]
    second.answers[wire.COMMIT] = say(DONE)
    async with open_store(first, second) as store:
        assert await store.commit(TRANSACTION) == (7,)
        assert await store.commit(TRANSACTION) == (7,)
    assert first.asked == [wire.STORE, wire.COMMIT]
    assert second.asked == [wire.COMMIT, wire.COMMIT]


async def test_commit_without_an_answer_goes_to_the_next_when_it_is_repeated() -> None:
    """Whose fate is open is for the caller to repeat."""
    first, second = Scripted(), Scripted()
    first.answers[wire.COMMIT] = hang_up
    second.answers[wire.COMMIT] = say(DONE)
    async with open_store(first, second) as store:
        with pytest.raises(Indeterminate):
            await store.commit(TRANSACTION)
        assert await store.commit(TRANSACTION) == (7,)


async def test_reads_are_repeated_at_the_next_router() -> None:
    """Asking twice does no harm; where nobody answers, the store is unavailable."""
    first, second = Scripted(), Scripted()
    for router in (first, second):
        router.answers[wire.SYNC] = router.answers[f"{wire.KEYS}/k"] = hang_up
    async with open_store(first, second) as store:
        with pytest.raises(StoreUnavailable):
            await store.sync()
        second.answers[wire.SYNC] = say(wire.revisions_to_bytes((9,)))
        second.answers[f"{wire.KEYS}/k"] = say(wire.entry_to_bytes(None))
        assert await store.sync() == 9
        assert await store.get("k") is None
        second.answers[wire.SYNC] = first.answers[wire.SYNC] = say(b"\x90")
        with pytest.raises(StoreUnavailable, match="expected 1 revisions"):
            await store.sync()


@pytest.mark.parametrize("body", [b"", b"\x80", b"\x81\xa9heartbeat\x01", b"\x90"])
async def test_what_is_no_router_is_not_opened(body: bytes) -> None:
    """Whatever else serves there."""
    router = Scripted()
    router.answers[wire.STORE] = say(body)
    async with open_server(router) as served, httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        with pytest.raises(StoreUnavailable, match="no router answers"):
            await HttpStore.connect(Routers(client, [f"http://127.0.0.1:{served.port}"], {}))


async def test_watch_that_breaks_is_resumed(caplog: pytest.LogCaptureFixture) -> None:
    """After the revision up to which everything was told; nothing is told twice, and each time is counted."""
    queries: list[bytes] = []
    router = Scripted()
    watches = [
        say(b"proxy error", 502),
        stream(told(Change("a", b"1", 1), Synced(1)), told(Change("b", b"2", 2))),
        stream(b"\xff\xff\xff\xff"),
        hang_up,
        stream(told(Change("b", b"2", 2), Change("a", b"3", 3), Synced(3), Synced(2)), told(Synced(2)), then=PATIENCE),
    ]

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        queries.append(scope["query_string"])
        await watches.pop(0)(scope, receive, send)

    router.answers[wire.WATCH] = watch
    async with open_store(router) as store, store.watch() as feed:
        assert await feed.receive() == [Change("a", b"1", 1), Synced(1)]
        assert "revision 1" in repr(feed)
        assert await feed.receive() == [Change("b", b"2", 2)]
        assert await feed.receive() == [Change("a", b"3", 3), Synced(3)]
        assert queries == [b"generation="] * 2 + [b"after=1&generation="] * 3
        assert store._routers.reconnects == 3
    lost = [record for record in caplog.records if record.getMessage().startswith(f"lost {store._routers.current}")]
    assert {record.levelname for record in lost[:1]} == {"WARNING"}


async def test_watch_is_resumed_in_the_history_that_was_told() -> None:
    """The last one, whatever characters its name has."""
    queries: list[bytes] = []
    router = Scripted()
    watches = [
        stream(told(Synced(1, "a+b&c"))),
        stream(told(Resync("set back", recounted=True))),
        stream(told(Change("a", b"1", 7), Synced(8, "d")), then=PATIENCE),
    ]

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        queries.append(scope["query_string"])
        await watches.pop(0)(scope, receive, send)

    router.answers[wire.WATCH] = watch
    async with open_store(router) as store, store.watch() as feed:
        assert await feed.receive() == [Synced(1, "a+b&c")]
        assert await feed.receive() == [Resync("set back", recounted=True)]
        assert await feed.receive() == [Change("a", b"1", 7), Synced(8, "d")]
        assert queries == [b"generation=", b"after=1&generation=a%2Bb%26c", b"generation="]


async def test_nothing_is_told_of_a_snapshot_that_breaks_off() -> None:
    """Or what was deleted before the next one would stay: that one says nothing of what it lacks."""
    router = Scripted()
    snapshot: list[wire.Item] = [Change(f"k{number}", b"v", number) for number in range(1, 1200)]
    *most, last = wire.frames([*snapshot, Synced(1200)])
    assert len(most) == 2
    watches = [
        stream(*most, last[:-1]),
        stream(told(Resync("set back", recounted=True)), *most),
        stream(told(Change("b", b"1", 7), Synced(8)), then=PATIENCE),
    ]

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["query_string"] == b"generation="
        await watches.pop(0)(scope, receive, send)

    router.answers[wire.WATCH] = watch
    async with open_store(router) as store, store.watch() as feed:
        assert await feed.receive() == [Resync("set back", recounted=True)]
        assert await feed.receive() == [Change("b", b"1", 7), Synced(8)]


async def test_watch_that_begins_anew_is_told_as_such() -> None:
    """Revisions may be lower then: another store has come into its place."""
    router = Scripted()
    router.answers[wire.WATCH] = stream(
        told(Change("a", b"9", 9), Synced(9)), told(Resync("gap"), Change("b", b"1", 1), Synced(1)), then=PATIENCE
    )
    async with open_store(router) as store, store.watch() as feed:
        assert await feed.receive() == [Change("a", b"9", 9), Synced(9)]
        assert await feed.receive() == [Resync("gap"), Change("b", b"1", 1), Synced(1)]


async def test_router_without_a_sign_of_life_is_left() -> None:
    """After three heartbeats that did not come, the next one is watched."""
    first, second = Scripted(), Scripted()
    first.answers[wire.STORE] = say(capabilities(heartbeat=0.05))
    first.answers[wire.WATCH] = stream(told(Synced(1)), then=PATIENCE)
    second.answers[wire.WATCH] = stream(wire.HEARTBEAT, told(Synced(2)), then=PATIENCE)
    async with open_store(first, second) as store, store.watch() as feed:
        assert await feed.receive() == [Synced(1)]
        assert await feed.receive() == [Synced(2)]
        assert second.asked == [wire.WATCH]


async def test_feed_ends_with_its_block_or_its_store() -> None:
    """For a reader that waits, and for one that comes later."""
    router = Scripted()
    router.answers[wire.WATCH] = stream(told(Synced(1)), then=PATIENCE)
    async with open_store(router) as store:
        async with store.watch() as feed, trio.open_nursery() as nursery:
            assert await feed.receive() == [Synced(1)]

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await feed.receive()

            await trio.testing.wait_all_tasks_blocked()
            store.close()
        with pytest.raises(trio.ClosedResourceError):
            await feed.receive()
        with pytest.raises(StoreUnavailable):
            async with store.watch():
                pass
