"""The suite for buses, and for the store of messages beside them: what routers need of a backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio

from aegis_core.backend import ABSENT, Bus, Conflict, Message, Put, Store
from aegis_pytest.conformance.spreading import SpreadBus
from aegis_pytest.conformance.steps import commit
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["BusConformance"]


@attrs.define(eq=False)
class Hearer:
    """A receiver that keeps what arrives."""

    heard: list[Message] = attrs.field(factory=list)
    _moved: trio.Event = attrs.field(factory=trio.Event)

    def receive(self, message: Message) -> None:
        """Keep *message*."""
        self.heard.append(message)
        self._moved.set()
        self._moved = trio.Event()

    @property
    def payloads(self) -> list[bytes]:
        """What arrived, in order."""
        return [message.payload for message in self.heard]

    async def wait_count(self, number: int) -> None:
        """Wait until *number* messages have arrived."""
        while len(self.heard) < number:
            await self._moved.wait()

    async def wait_payload(self, payload: bytes) -> None:
        """Wait until *payload* has arrived, and with it all that its sender published before."""
        while payload not in self.payloads:
            await self._moved.wait()


@asynccontextmanager
async def open_pair(harness: Harness) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two connections to one bus; what hangs with them fails."""
    with trio.fail_after(4 * harness.patience):
        async with harness.open_backend() as here, harness.open_peer() as there:
            one, other = harness.bus(here), harness.bus(there)
            if harness.spreads_subscriptions:
                yield SpreadBus(one, other), SpreadBus(other, one)
            else:
                yield one, other


class BusConformance(Suite):
    """Every promise of `aegis_core.backend.Bus`. Subclass it as `StoreConformance` is subclassed."""

    # --- Who hears what ---

    async def test_everybody_hears_what_is_published(self, harness: Harness, clock: object) -> None:
        """Two subscribers without a queue, on two connections, hear each message whole and in order."""
        here, there, elsewhere = Hearer(), Hearer(), Hearer()
        async with open_pair(harness) as (one, other), AsyncExitStack() as stack:
            await stack.enter_async_context(one.subscribe("ipc.test.a", here.receive))
            await stack.enter_async_context(other.subscribe("ipc.test.a", there.receive))
            await stack.enter_async_context(other.subscribe("ipc.test.b", elsewhere.receive))
            payloads = [b"", bytes(range(256)), b"\r\n\r\n", *(b"%d" % n for n in range(50))]
            for payload in payloads:
                one.publish("ipc.test.a", payload)
            one.publish("ipc.test.b", b"end")
            for hearer in (here, there):
                await hearer.wait_count(len(payloads))
                assert hearer.payloads == payloads
                assert {(m.subject, m.reply, m.unheard) for m in hearer.heard} == {("ipc.test.a", "", False)}
            await elsewhere.wait_count(1)
            assert elsewhere.payloads == [b"end"]

    async def test_reply_and_headers_travel(self, harness: Harness, clock: object) -> None:
        """A message carries where the answer goes, and headers beside the payload."""
        hearer, answers = Hearer(), Hearer()
        async with open_pair(harness) as (one, other), AsyncExitStack() as stack:
            await stack.enter_async_context(one.subscribe("ipc.test.ask", hearer.receive))
            await stack.enter_async_context(other.subscribe("ipc.response.7", answers.receive))
            headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            other.publish("ipc.test.ask", b"?", reply="ipc.response.7", headers=headers)
            await hearer.wait_count(1)
            (asked,) = hearer.heard
            assert (asked.payload, asked.reply, dict(asked.headers)) == (b"?", "ipc.response.7", headers)
            one.publish(asked.reply, b"!")
            await answers.wait_count(1)
            assert (answers.payloads, answers.heard[0].unheard) == ([b"!"], False)

    async def test_one_member_of_a_queue_gets_each_message(self, harness: Harness, clock: object) -> None:
        """Members on two connections share the messages; another queue, and who has none, get all of them."""
        members, together, audit, plain = [Hearer() for _ in range(4)], Hearer(), Hearer(), Hearer()

        def both(member: Hearer) -> Callable[[Message], None]:
            def receive(message: Message) -> None:
                member.receive(message)
                together.receive(message)

            return receive

        async with open_pair(harness) as (one, other), AsyncExitStack() as stack:
            for number, member in enumerate(members):
                bus = (one, other)[number % 2]
                await stack.enter_async_context(bus.subscribe("ipc.test.work", both(member), queue="workers"))
            await stack.enter_async_context(other.subscribe("ipc.test.work", audit.receive, queue="audit"))
            await stack.enter_async_context(one.subscribe("ipc.test.work", plain.receive))
            payloads = [b"%d" % n for n in range(200)]
            for payload in payloads:
                other.publish("ipc.test.work", payload)
            for hearer in (audit, plain):
                await hearer.wait_count(200)
                assert hearer.payloads == payloads
            await together.wait_count(200)
            assert Counter(together.payloads) == Counter(payloads)
            assert sum(1 for member in members if member.heard) > 1

    async def test_queue_goes_on_without_a_member_that_left(self, harness: Harness, clock: object) -> None:
        """Nothing is lost to a subscription that was left."""
        gone, stays = Hearer(), Hearer()
        async with open_pair(harness) as (one, other):
            async with one.subscribe("ipc.test.work", stays.receive, queue="workers"):
                async with other.subscribe("ipc.test.work", gone.receive, queue="workers"):
                    pass
                for number in range(20):
                    other.publish("ipc.test.work", b"%d" % number)
                await stays.wait_count(20)
            assert gone.heard == []

    @pytest.mark.parametrize(
        ("pattern", "heard"),
        [
            ("ipc.events.*.cart", {"ipc.events.lost.cart", "ipc.events.role.cart"}),
            ("ipc.*.lost.cart", {"ipc.events.lost.cart"}),
            ("ipc.events.>", {"ipc.events.lost.cart", "ipc.events.role.cart", "ipc.events.lost.desk"}),
            ("ipc.events.lost", set()),
            ("*.events.lost.desk", {"ipc.events.lost.desk"}),
        ],
    )
    async def test_wildcards(self, harness: Harness, clock: object, pattern: str, heard: set[str]) -> None:
        """``*`` is one token, ``>`` one or more at the end, and a subject is not heard by its beginning."""
        hearer, end = Hearer(), Hearer()
        async with open_pair(harness) as (one, other), one.subscribe(pattern, hearer.receive):
            async with one.subscribe("ipc.end", end.receive):
                for subject in ("ipc.events.lost.cart", "ipc.events.role.cart", "ipc.events.lost.desk", "ipc.events"):
                    other.publish(subject, b"x")
                other.publish("ipc.end", b"x")
                await end.wait_count(1)
            assert {message.subject for message in hearer.heard} == heard

    async def test_subscription_counts_when_its_block_is_entered(self, harness: Harness, clock: object) -> None:
        """Whoever publishes afterwards, over any connection, is heard; what came before is not."""
        async with open_pair(harness) as (one, other):
            for number in range(10):
                hearer = Hearer()
                other.publish("ipc.test.late", b"early")
                async with one.subscribe("ipc.test.mark", hearer.receive):
                    other.publish("ipc.test.mark", b"mark")
                    await hearer.wait_payload(b"mark")
                async with one.subscribe("ipc.test.late", hearer.receive):
                    other.publish("ipc.test.late", b"%d" % number)
                    await hearer.wait_count(2)
                assert hearer.payloads == [b"mark", b"%d" % number]

    async def test_receiver_may_publish(self, harness: Harness, clock: object) -> None:
        """A long exchange between two receivers needs no task, and no depth of calls."""
        ends = Hearer()

        async with open_pair(harness) as (one, other), AsyncExitStack() as stack:

            def count_down(message: Message) -> None:
                left = int(message.payload)
                if left:
                    one.publish("ipc.test.pong", b"%d" % (left - 1))
                else:
                    one.publish("ipc.test.end", b"done")

            await stack.enter_async_context(one.subscribe("ipc.test.ping", count_down))
            await stack.enter_async_context(
                other.subscribe("ipc.test.pong", lambda message: other.publish("ipc.test.ping", message.payload))
            )
            await stack.enter_async_context(one.subscribe("ipc.test.end", ends.receive))
            other.publish("ipc.test.ping", b"1200")
            await ends.wait_count(1)

    # --- Nobody ---

    async def test_unheard_message_is_told_to_its_reply_subject(self, harness: Harness, clock: object) -> None:
        """Nobody subscribed: whoever awaits the answer learns it at once; without a reply subject nothing happens."""
        answers = Hearer()
        async with open_pair(harness) as (one, other), one.subscribe("ipc.response.x.*", answers.receive):
            other.publish("ipc.test.nobody", b"lost")
            one.publish("ipc.test.nobody", b"?", reply="ipc.response.x.1")
            await answers.wait_count(1)
            (told,) = answers.heard
            assert (told.subject, told.payload, told.unheard) == ("ipc.response.x.1", b"", True)

    async def test_heard_message_is_not_told_as_unheard(self, harness: Harness, clock: object) -> None:
        """A subscriber that does not answer is somebody, also as the only member of a queue."""
        answers, mute = Hearer(), Hearer()
        async with open_pair(harness) as (one, other), one.subscribe("ipc.response.x.*", answers.receive):
            async with other.subscribe("ipc.test.mute", mute.receive, queue="mutes"):
                one.publish("ipc.test.mute", b"?", reply="ipc.response.x.1")
                await mute.wait_count(1)
                other.publish("ipc.response.x.2", b"end")
                await answers.wait_payload(b"end")
            assert [message.subject for message in answers.heard] == ["ipc.response.x.2"]

    # --- Limits ---

    async def test_payload_may_be_as_large_as_said_and_no_larger(self, harness: Harness, clock: object) -> None:
        """`max_payload` bytes arrive; one more is a ValueError."""
        hearer = Hearer()
        async with open_pair(harness) as (one, other), one.subscribe("ipc.test.large", hearer.receive):
            most = other.max_payload
            payload = bytes(n % 251 for n in range(997)) * (most // 997 + 1)
            with pytest.raises(ValueError, match=r"\S"):
                other.publish("ipc.test.large", b"x" * (most + 1))
            other.publish("ipc.test.large", payload[:most])
            await hearer.wait_count(1)
            assert hearer.payloads == [payload[:most]]

    @pytest.mark.parametrize(
        "subject", ["", ".", "ipc..test", "ipc.test.", "ipc test", "ipc.te\r\nst", "ipc.*", "ipc.>"]
    )
    async def test_what_is_no_subject_is_refused(self, harness: Harness, clock: object, subject: str) -> None:
        """As a subject and as a reply subject, before anything is sent."""
        async with open_pair(harness) as (one, _):
            with pytest.raises(ValueError, match=r"\S"):
                one.publish(subject, b"x")
            if subject:
                with pytest.raises(ValueError, match=r"\S"):
                    one.publish("ipc.test.a", b"x", reply=subject)

    @pytest.mark.parametrize("subject", ["", "ipc..test", "ipc.>.test", "ipc test", "ipc.\r\n"])
    async def test_what_is_no_subject_is_not_subscribed_to(self, harness: Harness, clock: object, subject: str) -> None:
        """A pattern that cannot be is a ValueError."""
        async with open_pair(harness) as (one, _):
            with pytest.raises(ValueError, match=r"\S"):
                async with one.subscribe(subject, Hearer().receive):
                    pass

    # --- The store of messages ---

    async def test_messages_are_shared_and_apart_from_the_registry(self, harness: Harness, clock: object) -> None:
        """What one connection puts there, all see there, first come first served; the registry's store has none of it."""
        async with harness.open_backend() as one, harness.open_peer() as other, AsyncExitStack() as stack:
            assert one.open_messages is not None
            assert other.open_messages is not None
            assert one.store is not None
            here: Store = await stack.enter_async_context(one.open_messages())
            there: Store = await stack.enter_async_context(other.open_messages())
            (revision,) = await commit(here, Put("messages.a", b"1", ABSENT, ttl=100.0))
            with pytest.raises(Conflict):
                await commit(there, Put("messages.a", b"2", ABSENT, ttl=100.0))
            entry = await there.get("messages.a")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"1", revision)
            assert await one.store.get("messages.a") is None
            await commit(there, Put("messages.a", b"3", revision, ttl=100.0))
            with pytest.raises(Conflict):
                await commit(here, Put("messages.a", b"4", revision, ttl=100.0))
            entry = await here.get("messages.a")
            assert entry is not None
            assert entry.value == b"3"

    async def test_messages_expire(self, harness: Harness, clock: object) -> None:
        """Their TTL ends them, watched or not."""
        async with harness.open_backend() as one:
            assert one.open_messages is not None
            async with one.open_messages() as messages:
                await commit(messages, Put("messages.a", b"1", ABSENT, ttl=harness.ttl))
                await harness.advance(harness.ttl + harness.expiry_lateness + 0.1)
                await commit(messages, Put("messages.a", b"2", ABSENT, ttl=harness.ttl))
