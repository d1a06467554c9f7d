"""Messages with an id: carried out once, whichever routers they come to, and whichever of them die.

It is one long file because every way in which a message can be lost needs the same few routers.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import ABSENT, ANY, Indeterminate, Put, Transaction
from aegis_core.errors import AegisError, InvalidRequest
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from aegis_core.principals import Principal
from aegis_core.router import messages as messages_module
from aegis_core.router.messages import MessageNotFound
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import Router, open_router
from aegis_pytest.cluster import Cluster
from tests.router.test_operations import do
from tests.router.wired import OldInstance, open_wire

BOOK = {"service_name": "rooms", "method": "book", "message_id": "m-1"}


@attrs.define(eq=False)
class Rooms:
    """A service whose one method counts its calls, and takes its time."""

    calls: int = 0
    seconds: float = 0.0
    fails: bool = False
    refuses: bool = False

    @property
    def service(self) -> Service:
        """It."""
        service = Service("rooms", version="1")

        @service.method
        async def book(call: Call) -> int:
            self.calls += 1
            number = self.calls
            await trio.sleep(self.seconds)
            if self.fails:
                raise ValueError("all taken")
            if self.refuses:
                raise InvalidRequest.at("$.guest", "is known already")
            return number

        return service


@asynccontextmanager
async def routers(number: int, **config: object) -> AsyncIterator[list[Router]]:
    """So many of them, on one memory cluster."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(number):
            node = await stack.enter_async_context(open_node("memory://once", config=config))
            opened.append(await stack.enter_async_context(open_router(node)))
        yield opened


async def refused(router: Router, **fields: object) -> dict[str, Any]:
    """The details of the error that a call ends in, and its code."""
    with pytest.raises(AegisError) as caught:
        await do(router, "route.request", **{**BOOK, **fields})
    return {**caught.value.details, "code": caught.value.code}


async def test_a_message_runs_once_whichever_router_it_comes_to(autojump_clock: MockClock) -> None:
    """Both answer the same, also while it runs; another message is another one."""
    rooms = Rooms(seconds=3)
    async with routers(2) as (one, other), one.node.serve(rooms.service):
        results: list[object] = []

        async def ask(router: Router) -> None:
            results.append((await do(router, "route.request", **BOOK, timeout=10)).result)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one)
            await trio.sleep(1)
            for router in (one, other, other):
                nursery.start_soon(ask, router)
        await ask(other)
        assert (results, rooms.calls) == ([1] * 5, 1)
        assert (await do(other, "route.request", **{**BOOK, "message_id": "m-2"})).result == 2


async def test_a_message_is_forgotten_after_its_retention(autojump_clock: MockClock) -> None:
    """Then the same id is a new message."""
    async with open_wire("once", message_retention=20) as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=100)
        old = OldInstance(wire.bus, "old")
        async with old.listen():
            for seconds, calls in ((10, 1), (15, 1), (0, 2)):
                assert (await do(wire.router, "route.request", **BOOK)).instance_id == "old"
                assert len(old.asked) == calls
                await trio.sleep(seconds)


async def test_who_repeats_a_message_waits_no_longer_than_it_says(autojump_clock: MockClock) -> None:
    """Nobody knows then."""
    rooms = Rooms(seconds=8)
    async with routers(2) as (one, other), one.node.serve(rooms.service), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: do(one, "route.request", **BOOK, timeout=20))
        await trio.sleep(1)
        began = trio.current_time()
        told = await refused(other, timeout=2)
        assert (told["code"], told["outcome"]) == ("TIMEOUT", "MAYBE_EXECUTED")
        assert trio.current_time() - began <= 2
        assert (await do(other, "route.request", **BOOK, timeout=20)).result == 1


async def test_an_error_of_the_method_is_the_end_of_the_message(autojump_clock: MockClock) -> None:
    """It is answered again, and not tried again."""
    rooms = Rooms(fails=True)
    async with routers(2) as (one, other), one.node.serve(rooms.service):
        for router in (one, other):
            told = await refused(router)
            assert (told["code"], told["remote_message"]) == ("REMOTE_ERROR", "all taken")
        assert rooms.calls == 1
        state = await do(other, "message.status", message_id="m-1")
        assert (state.state, state.last_error) == ("failed", "all taken")


async def test_a_refusal_by_the_method_is_its_end_too(autojump_clock: MockClock) -> None:
    """Although the same error of the router says that nothing was executed."""
    rooms = Rooms(refuses=True)
    async with routers(2) as (one, other), one.node.serve(rooms.service), other.node.serve(rooms.service):
        for router in (one, other, one):
            assert (await refused(router))["code"] == "VALIDATION_ERROR"
        assert rooms.calls == 1


async def test_what_was_not_executed_may_come_again(autojump_clock: MockClock) -> None:
    """Once somebody can take it."""
    rooms = Rooms()
    async with open_wire("once") as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="away")
        told = await refused(wire.router, timeout=1)
        assert told["outcome"] == "NOT_SENT"
        state = await do(wire.router, "message.status", message_id="m-1")
        assert (state.state, state.instance_id, state.retry_count > 0) == ("failed", "away", True)
        async with wire.node.serve(rooms.service):
            assert (await do(wire.router, "route.request", **BOOK)).result == 1


async def test_an_id_is_one_messages(autojump_clock: MockClock) -> None:
    """Whoever uses it for another call is told."""
    rooms = Rooms()
    async with routers(1) as (router,), router.node.serve(rooms.service):
        await do(router, "route.request", **BOOK)
        told = await refused(router, method="other")
        assert (told["code"], told["problems"][0]["path"]) == ("VALIDATION_ERROR", "$.message_id")


@pytest.mark.parametrize(
    "params",
    [{"guest": "b"}, {"guest": b"a"}, {"guest": {1: "a"}}, {"guest": {1: "a", "1": "b"}}, {}],
    ids=["another", "bytes", "a map", "a map of any keys", "none"],
)
async def test_an_id_is_one_content_s(params: dict[str, object], autojump_clock: MockClock) -> None:
    """With other parameters it is another call, whose answer the first one's is not."""
    async with open_wire("once") as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=100)
        old = OldInstance(wire.bus, "old")
        async with old.listen():
            await do(wire.router, "route.request", **BOOK, params={"guest": "a"})
            told = await refused(wire.router, params=params)
            assert (told["code"], told["problems"][0]["path"]) == ("VALIDATION_ERROR", "$.message_id")
            await do(wire.router, "route.request", **{**BOOK, "message_id": "m-2"}, params=params)
            assert (await do(wire.router, "route.request", **{**BOOK, "message_id": "m-2"}, params=params)).result
            assert len(old.asked) == 2


async def test_the_order_of_parameters_is_no_content(autojump_clock: MockClock) -> None:
    """Some languages give maps another order each time."""
    async with open_wire("once") as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=100)
        old = OldInstance(wire.bus, "old")
        async with old.listen():
            for params in ({"a": {"x": 1, "y": 2}, "b": 3}, {"b": 3, "a": {"y": 2, "x": 1}}):
                await do(wire.router, "route.request", **BOOK, params=params)
            assert len(old.asked) == 1


async def test_parameters_without_a_form_are_refused(autojump_clock: MockClock) -> None:
    """Nothing is written of such a message."""
    async with routers(1) as (router,):
        deep: list[object] = []
        for _ in range(2000):
            deep = [deep]
        told = await refused(router, params={"x": deep})
        assert (told["code"], told["problems"][0]["path"]) == ("VALIDATION_ERROR", "$.params")
        with pytest.raises(MessageNotFound):
            await do(router, "message.status", message_id="m-1")


async def test_an_id_is_one_caller_s(autojump_clock: MockClock) -> None:
    """Nobody gets the answer to a call of somebody else; whoever may publish on the subjects is one caller."""
    rooms = Rooms()
    mine, yours = Principal("token", "mine"), Principal("token", "yours")
    async with routers(1) as (router,), router.node.serve(rooms.service):
        assert (await do(router, "route.request", mine, **BOOK)).result == 1
        operation = OPERATIONS["route.request"]
        for other in (yours, None):
            with pytest.raises(InvalidRequest, match="another caller"):
                await operation.carry_out(router, operation.read(BOOK), other)
        assert (await do(router, "route.request", mine, **BOOK)).result == 1


async def test_status_tells_what_became_of_a_message(autojump_clock: MockClock) -> None:
    """From its first attempt on."""
    rooms = Rooms(seconds=4)
    async with routers(2) as (one, other), one.node.serve(rooms.service, instance_id="a"):
        with pytest.raises(MessageNotFound, match="m-1"):
            await do(one, "message.status", message_id="m-1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: do(one, "route.request", **BOOK, timeout=10))
            await trio.sleep(1)
            state = await do(other, "message.status", message_id="m-1")
            told = (state.state, state.service_name, state.method, state.instance_id, state.retry_count)
            assert told == ("pending", "rooms", "book", "a", 0)
        assert (await do(other, "message.status", message_id="m-1")).state == "acknowledged"


# --- Ends that are not recorded ------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["at the same router", "at another router"])
@pytest.mark.parametrize("remembers", [True, False], ids=["an instance that remembers", "an instance that forgets"])
async def test_a_message_whose_end_is_not_recorded_is_not_pending_for_ever(
    remembers: bool,  # noqa: FBT001
    same: bool,  # noqa: FBT001
    autojump_clock: MockClock,
) -> None:
    """Its router lives and has forgotten it: who repeats it gets the instance's answer, or hears that nobody knows."""
    rooms = Rooms()
    async with routers(2) as (one, other), AsyncExitStack() as stack:
        assert other.bus is not None
        old = OldInstance(other.bus, "old")
        if remembers:
            await stack.enter_async_context(other.node.serve(rooms.service, instance_id="own"))
        else:
            await do(other, "service.register", service_name="rooms", instance_id="old", ttl=1000)
            await stack.enter_async_context(old.listen())
        heal = forget_ends(one)
        await do(one, "route.request", **BOOK)
        heal()
        assert (await do(other, "message.status", message_id="m-1")).state == "pending"
        if not same:
            told = await refused(other, timeout=1)
            assert (told["code"], told["outcome"]) == ("TIMEOUT", "MAYBE_EXECUTED")
            await trio.sleep(10)  # The time that it had, and some more.
        began = trio.current_time()
        again = one if same else other
        if remembers:
            assert (await do(again, "route.request", **BOOK)).result == 1
        else:
            for _ in range(2):
                told = await refused(again)
                assert (told["code"], told["outcome"]) == ("TIMEOUT", "MAYBE_EXECUTED")
        assert trio.current_time() - began < 1
        assert (len(old.asked), rooms.calls) == ((0, 1) if remembers else (1, 0))


async def test_since_when_messages_are_known_is_remembered_of_some(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that were asked for last; a record that was written again is another one."""
    monkeypatch.setattr(messages_module, "MOST_KNOWN", 2)
    async with routers(1) as (router,):
        messages = router.messages
        assert messages is not None
        assert [messages.known_for(name, 1) for name in ("a", "b")] == [0, 0]
        await trio.sleep(5)
        assert [messages.known_for("a", 2), messages.known_for("b", 1), messages.known_for("c", 1)] == [0, 5, 0]
        await trio.sleep(5)
        assert [messages.known_for(name, 2) for name in ("a", "b")] == [5, 0]


async def test_who_gives_a_message_up_too_late_tells_what_was_written_meanwhile(autojump_clock: MockClock) -> None:
    """Somebody else has ended it: that is its end."""
    async with open_wire("once") as wire:
        router = wire.router
        assert router.messages is not None
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=1000)
        async with OldInstance(wire.bus, "old").listen():
            heal = forget_ends(router)
            await do(router, "route.request", **BOOK)
            heal()
            kept, revision = await router.messages.find("m-1")
            assert kept is not None
            ended, store = attrs.evolve(kept, state="acknowledged", result="late"), router.messages._store

            async def overtaken(transaction: Transaction) -> tuple[int, ...]:
                assert router.messages is not None
                router.messages._store = store
                await router.messages.put(ended, revision, until=trio.current_time() + 1)
                return await store.commit(transaction)

            router.messages._store = Doubtful(store, overtaken)  # type: ignore[assignment]
            assert (await do(router, "route.request", **BOOK)).result == "late"


@pytest.mark.parametrize("seconds", [2, 100], ids=["for a while", "for longer than the message has time"])
async def test_a_copy_that_is_behind_is_not_asked_without_pause(seconds: int, autojump_clock: MockClock) -> None:
    """The store refuses what is built on it, until it has caught up."""
    async with open_wire("once") as wire:
        router = wire.router
        assert router.messages is not None
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=1000)
        async with OldInstance(wire.bus, "old").listen():
            heal = forget_ends(router)
            await do(router, "route.request", **BOOK)
            heal()
        store, (kept, revision) = router.messages._store, await router.messages.find("m-1")
        assert kept is not None
        behind = Behind(store, store.commit, await store.get("messages.m-1"), trio.current_time() + seconds)
        await router.messages.put(attrs.evolve(kept, state="acknowledged", result="late"), revision, until=math.inf)
        router.messages._store = behind  # type: ignore[assignment]
        if seconds < 5:
            assert (await do(router, "route.request", **BOOK)).result == "late"
        else:
            told = await refused(router)
            assert (told["code"], told["outcome"]) == ("TIMEOUT", "MAYBE_EXECUTED")


async def test_a_message_that_cannot_be_given_up_is_answered_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one who repeats it finds it as it was."""
    async with open_wire("once") as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=1000)
        async with OldInstance(wire.bus, "old").listen():
            forget_ends(wire.router)
            await do(wire.router, "route.request", **BOOK)
            caplog.clear()
            assert (await refused(wire.router))["outcome"] == "MAYBE_EXECUTED"
            assert "the end of message m-1 is not recorded" in caplog.text


def forget_ends(router: Router) -> Callable[[], None]:
    """Let nothing reach the store of messages any more but that one has begun; what heals it."""
    assert router.messages is not None
    messages, store = router.messages, router.messages._store

    async def commit(transaction: Transaction) -> tuple[int, ...]:
        (write,) = transaction.operations
        if write.expect == ABSENT:
            return await store.commit(transaction)
        await trio.lowlevel.checkpoint()
        raise Indeterminate(reason="by the test")

    messages._store = Doubtful(store, commit)  # type: ignore[assignment]

    def heal() -> None:
        messages._store = store

    return heal


# --- Routers that die ----------------------------------------------------------------------------------------------


async def routing(router: Router) -> None:
    """Ask *router*, which dies meanwhile."""
    operation = OPERATIONS["route.request"]
    await operation.carry_out(router, operation.read({**BOOK, "timeout": 100}), None)


async def doomed(cluster: Cluster) -> None:
    """Be a router that has one message under way, until it dies."""
    node = await cluster.node("doomed")
    async with open_router(node) as router:
        await routing(router)


async def test_a_message_of_a_dead_router_goes_to_the_same_instance(aegis_cluster: Cluster) -> None:
    """Which executes it once, and answers the one that took it over."""
    rooms = Rooms(seconds=50)
    await aegis_cluster.serve("worker", rooms.service)
    async with open_router(await aegis_cluster.node("other")) as other:
        await aegis_cluster.run("doomed", doomed, aegis_cluster)
        await trio.sleep(5)
        await aegis_cluster.kill("doomed")
        reply = await do(other, "route.request", **BOOK, timeout=100)
        assert (reply.result, rooms.calls) == (1, 1)
        assert (await do(other, "message.status", message_id="m-1")).retry_count == 1


@pytest.mark.parametrize("lives", [True, False], ids=["an instance that forgets", "a dead instance"])
async def test_what_became_of_a_message_of_a_dead_router_may_be_unknown(
    lives: bool,  # noqa: FBT001
    aegis_cluster: Cluster,
) -> None:
    """It is never executed twice: nobody is asked, and everybody is told the same."""
    rooms = Rooms(seconds=50)
    async with open_router(await aegis_cluster.node("other")) as other:
        bus = other.bus
        assert bus is not None
        old = OldInstance(bus, "old", answers=False)
        if lives:
            await do(other, "service.register", service_name="rooms", instance_id="old", ttl=1000)
        else:
            await aegis_cluster.serve("worker", rooms.service)
        async with old.listen():
            await aegis_cluster.run("doomed", doomed, aegis_cluster)
            await trio.sleep(5)
            await aegis_cluster.kill("doomed")
            if not lives:
                await aegis_cluster.kill("worker")
            for _ in range(2):
                told = await refused(other, timeout=100)
                assert (told["code"], told["outcome"]) == ("TIMEOUT", "MAYBE_EXECUTED")
        assert (len(old.asked), rooms.calls) == ((1, 0) if lives else (0, 1))


# --- The store of messages -----------------------------------------------------------------------------------------


async def test_a_result_that_is_too_large_to_be_kept_is_not_known_to_others(autojump_clock: MockClock) -> None:
    """Its first caller gets it; who repeats the message learns that it was carried out."""
    service = Service("rooms", version="1")

    @service.method
    async def book(call: Call) -> str:
        await trio.lowlevel.checkpoint()
        return "x" * 1_040_000

    async with routers(2) as (one, other), one.node.serve(service):
        assert len((await do(one, "route.request", **BOOK)).result) == 1_040_000
        told = await refused(other)
        assert (told["code"], told["outcome"], "too large" in told["what"]) == ("TIMEOUT", "MAYBE_EXECUTED", True)
        assert (await do(other, "message.status", message_id="m-1")).state == "acknowledged"


@pytest.mark.parametrize("value", [b"\xc1", b"\x80"], ids=["no record", "half a record"])
async def test_a_record_that_cannot_be_read_stops_the_message(value: bytes, autojump_clock: MockClock) -> None:
    """Whether it was executed, nobody can tell from that."""
    rooms = Rooms()
    async with routers(1) as (router,), router.node.serve(rooms.service):
        opened = router.node.runtime.open_messages
        assert opened is not None
        async with opened() as store:
            await store.commit(Transaction("t", (Put("messages.m-1", value, ANY, ttl=100.0),)))
        told = await refused(router)
        assert (told["code"], told["outcome"]) == ("STORE_UNAVAILABLE", "MAYBE_EXECUTED")
        assert "cannot be read" in told["reason"]
        assert rooms.calls == 0


async def test_a_store_that_does_not_answer_is_asked_again(autojump_clock: MockClock) -> None:
    """With the same transaction, for as long as the message has time."""
    rooms = Rooms()
    async with routers(1) as (router,), router.node.serve(rooms.service):
        assert router.messages is not None
        store = router.messages._store
        commit, doubts = store.commit, [3]

        async def doubt(transaction: Transaction) -> tuple[int, ...]:
            revisions = await commit(transaction)
            if doubts[0]:
                doubts[0] -= 1
                raise Indeterminate(reason="by the test")
            return revisions

        router.messages._store = Doubtful(store, doubt)  # type: ignore[assignment]
        assert (await do(router, "route.request", **BOOK)).result == 1
        doubts[0] = 1000
        told = await refused(router, message_id="m-2", timeout=1)
        assert (told["outcome"], rooms.calls) == ("MAYBE_EXECUTED", 1)


@attrs.define(eq=False)
class Doubtful:
    """A store whose commits are another function's business."""

    store: Any
    commit: Any

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the store has it
        return getattr(self.store, name)


@attrs.define(eq=False)
class Behind(Doubtful):
    """A store that is read from a copy, which is behind for a while."""

    old: Any
    until: float
    looks: int = 0

    async def get(self, key: str) -> Any:  # noqa: ANN401 - as the store has it
        """What was there once; not too often."""
        self.looks += 1
        assert self.looks < 100, "it is asked without pause"
        if trio.current_time() < self.until:
            await trio.lowlevel.checkpoint()
            return self.old
        return await self.store.get(key)
