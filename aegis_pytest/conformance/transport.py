"""The suite for transports: every request has its answer or an error that says what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Final

import attrs
import pytest
import trio
import trio.testing

from aegis_core.backend import Inbound, Transport, TransportUnavailable
from aegis_core.models import Outcome
from aegis_pytest.conformance.spreading import SpreadTransport
from aegis_pytest.conformance.steps import abandoned_after, cancelled_everywhere
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["TransportConformance"]

_LATE: Final = 5.0
"""Seconds by which a timeout may come late on a machine that is busy."""

_LATE_IN_VIRTUAL_TIME: Final = 0.001


@attrs.define(eq=False)
class Inbox:
    """A receiver that keeps what arrives, to be answered by the test."""

    arrived: list[Inbound] = attrs.field(factory=list)
    _moved: trio.Event = attrs.field(factory=trio.Event)

    def receive(self, request: Inbound) -> None:
        """Keep *request*."""
        self.arrived.append(request)
        self._moved.set()
        self._moved = trio.Event()

    @property
    def payloads(self) -> list[bytes]:
        """What arrived, in order."""
        return [request.payload for request in self.arrived]

    async def wait_count(self, number: int) -> None:
        """Wait until *number* requests have arrived."""
        while len(self.arrived) < number:
            await self._moved.wait()


def echo(request: Inbound) -> None:
    """Answer *request* at once with what it brought."""
    request.respond(request.payload)


@asynccontextmanager
async def open_pair(harness: Harness) -> AsyncIterator[tuple[Transport, Transport]]:
    """Two transports on one network: one to serve, one to ask; what hangs with them fails."""
    with trio.fail_after(4 * harness.patience):
        async with harness.open_backend() as here, harness.open_peer() as there:
            one, other = harness.transport(here), harness.transport(there)
            if harness.spreads_subscriptions:
                yield SpreadTransport(one, other), SpreadTransport(other, one)
            else:
                yield one, other


async def left_endpoint(server: Transport, instance_id: str, tag: str) -> str:
    """An endpoint where nobody listens any more."""
    async with server.listen(instance_id, tag, echo) as endpoint:
        return endpoint


async def expect_unavailable(client: Transport, endpoint: str, timeout: float) -> TransportUnavailable:
    """Send a request that cannot be answered; returns the error."""
    with pytest.raises(TransportUnavailable) as caught:
        await client.request(endpoint, b"?", timeout=timeout)
    return caught.value


class TransportConformance(Suite):
    """Every promise of `aegis_core.backend.Transport`. Subclass it as `StoreConformance` is subclassed."""

    # --- Requests and answers ---

    async def test_request_is_answered(self, harness: Harness, clock: object) -> None:
        """A peer asks and gets the answer; the endpoint is a URL of the transport's scheme."""
        async with open_pair(harness) as (server, client):
            assert server.scheme == client.scheme
            async with server.listen("a-1", "t1", echo) as endpoint:
                assert endpoint.startswith(f"{server.scheme}:")
                assert await client.request(endpoint, b"hello", timeout=harness.patience) == b"hello"
                assert await server.request(endpoint, b"self", timeout=harness.patience) == b"self"

    async def test_bytes_arrive_unchanged(self, harness: Harness, clock: object) -> None:
        """Every byte, and none at all, in both directions."""
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", echo) as endpoint:
            for payload in (b"", bytes(range(256)), b"\r\n\r\n", b"\x00" * 1000):
                assert await client.request(endpoint, payload, timeout=harness.patience) == payload

    async def test_payload_may_be_as_large_as_said_and_no_larger(self, harness: Harness, clock: object) -> None:
        """`max_payload` bytes go both ways; one more is a ValueError that nobody receives."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client):
            most = client.max_payload
            assert most == server.max_payload > 0
            async with server.listen("a-1", "t1", inbox.receive) as refusing:
                with pytest.raises(ValueError, match=r"\S"):
                    await client.request(refusing, b"x" * (most + 1), timeout=harness.patience)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert inbox.arrived == []
            async with server.listen("a-1", "t2", echo) as endpoint:
                payload = bytes(n % 251 for n in range(997)) * (most // 997 + 1)
                answer = await client.request(endpoint, payload[:most], timeout=harness.patience)
                assert answer == payload[:most]

    async def test_answer_that_is_too_large_is_dropped(self, harness: Harness, clock: object) -> None:
        """`respond` never raises; the caller gets no answer, and the next request is not disturbed."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", inbox.receive) as endpoint:
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    with pytest.raises((trio.TooSlowError, TransportUnavailable)):
                        await client.request(endpoint, b"1", timeout=harness.ttl)

                nursery.start_soon(ask)
                await inbox.wait_count(1)
                inbox.arrived[0].respond(b"x" * (server.max_payload + 1))
            async with server.listen("a-1", "t2", echo) as other:
                assert await client.request(other, b"2", timeout=harness.patience) == b"2"

    async def test_requests_under_way_get_each_their_own_answer(self, harness: Harness, clock: object) -> None:
        """Many at once, answered in the opposite order from another task: nobody gets another's."""
        inbox = Inbox()
        answers: dict[int, bytes] = {}
        async with open_pair(harness) as (server, client):
            async with server.listen("a-1", "t1", inbox.receive) as endpoint:

                async def ask(number: int) -> None:
                    asking = (server, client)[number % 2]
                    answers[number] = await asking.request(endpoint, b"%d" % number, timeout=harness.patience)

                async with trio.open_nursery() as nursery:
                    for number in range(64):
                        nursery.start_soon(ask, number)
                    await inbox.wait_count(64)
                    for request in reversed(inbox.arrived):
                        request.respond(request.payload * 2)
            assert answers == {n: b"%d" % n * 2 for n in range(64)}

    async def test_requests_of_one_sender_arrive_in_order(self, harness: Harness, clock: object) -> None:
        """What is sent first is received first, though nothing is answered yet."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", inbox.receive) as endpoint:

            async def ask(payload: bytes) -> None:
                assert await client.request(endpoint, payload, timeout=harness.patience) == payload

            payloads = [b"%d" % number for number in range(20)]
            async with trio.open_nursery() as nursery:
                for payload in payloads:
                    nursery.start_soon(ask, payload)
                    # Blocked: it has been handed to the network.
                    await trio.testing.wait_all_tasks_blocked()
                await inbox.wait_count(20)
                assert inbox.payloads == payloads
                for request in inbox.arrived:
                    echo(request)

    async def test_first_answer_counts(self, harness: Harness, clock: object) -> None:
        """A second answer is dropped, without an error and without reaching another request."""

        def answer_twice(request: Inbound) -> None:
            request.respond(b"first " + request.payload)
            request.respond(b"second " + request.payload)

        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", answer_twice) as endpoint:
            for payload in (b"1", b"2", b"3"):
                answer = await client.request(endpoint, payload, timeout=harness.patience)
                assert answer == b"first " + payload

    # --- Who is addressed ---

    async def test_request_to_nobody_is_known_at_once(self, harness: Harness, clock: object) -> None:
        """Where nobody listens any more nothing was sent, and the caller need not wait for its timeout."""
        async with open_pair(harness) as (server, client):
            endpoint = await left_endpoint(server, "a-1", "t1")
            began = trio.current_time()
            error = await expect_unavailable(client, endpoint, harness.patience)
            assert error.outcome is Outcome.NOT_SENT
            assert trio.current_time() - began < harness.patience / 2

    async def test_another_incarnation_never_gets_the_request(self, harness: Harness, clock: object) -> None:
        """The same instance id under another tag is somebody else."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client):
            old = await left_endpoint(server, "a-1", "old")
            async with client.listen("a-1", "new", inbox.receive) as new:
                assert new != old
                for asking in (server, client):
                    error = await expect_unavailable(asking, old, harness.patience)
                    assert error.outcome is Outcome.NOT_SENT
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert inbox.arrived == []

    async def test_endpoint_is_known_without_listening(self, harness: Harness, clock: object) -> None:
        """Each peer (or who serves it) can tell where an incarnation, or an instance without tag, will be served."""
        async with open_pair(harness) as (server, client):
            knowing = client if harness.names_endpoints else server
            endpoints = {knowing.endpoint(name, tag) for name in ("a-1", "a-2") for tag in ("t1", "t2", "")}
            assert len(endpoints) == 6
            for tag in ("t1", ""):
                expected = knowing.endpoint("a-1", tag)
                error = await expect_unavailable(client, expected, harness.patience)
                assert error.outcome is Outcome.NOT_SENT
                async with server.listen("a-1", tag, echo) as endpoint:
                    assert endpoint == expected == server.endpoint("a-1", tag)
                    assert await client.request(endpoint, b"1", timeout=harness.patience) == b"1"

    async def test_each_listener_gets_its_own_requests(self, harness: Harness, clock: object) -> None:
        """Instances and incarnations of them beside each other, on one node and on two."""
        inboxes: dict[str, Inbox] = {}
        async with open_pair(harness) as (server, client), AsyncExitStack() as listening:
            for node, tag in ((server, "s"), (client, "c")):
                for instance_id in ("a-1", "a-2"):
                    inbox = Inbox()
                    listener = node.listen(instance_id, tag, inbox.receive)
                    inboxes[await listening.enter_async_context(listener)] = inbox
            assert len(inboxes) == 4

            async def ask(endpoint: str) -> None:
                assert await client.request(endpoint, endpoint.encode(), timeout=harness.patience) == b"!"

            async with trio.open_nursery() as nursery:
                for endpoint in inboxes:
                    nursery.start_soon(ask, endpoint)
                for inbox in inboxes.values():
                    await inbox.wait_count(1)
                    inbox.arrived[0].respond(b"!")
            assert all(inbox.payloads == [endpoint.encode()] for endpoint, inbox in inboxes.items())

    async def test_endpoint_can_be_served_again(self, harness: Harness, clock: object) -> None:
        """Who stopped listening may start again under the same id and tag."""
        async with open_pair(harness) as (server, client):
            for payload in (b"1", b"2"):
                async with server.listen("a-1", "t1", echo) as endpoint:
                    assert await client.request(endpoint, payload, timeout=harness.patience) == payload

    async def test_endpoint_of_another_transport_is_refused(self, harness: Harness, clock: object) -> None:
        """A URL of a foreign scheme is a ValueError: the caller chose the wrong transport."""
        async with open_pair(harness) as (_, client):
            for endpoint in ("carrier-pigeon:a-1/t1", "", "a-1"):
                with pytest.raises(ValueError, match=r"\S"):
                    await client.request(endpoint, b"?", timeout=harness.patience)

    # --- Time, cancellation, departure ---

    async def test_request_without_answer_times_out(self, harness: Harness, clock: object) -> None:
        """After *timeout* seconds, not before and not much later, it raises `trio.TooSlowError`."""
        inbox = Inbox()
        late = _LATE_IN_VIRTUAL_TIME if isinstance(clock, trio.testing.MockClock) else _LATE
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", inbox.receive) as endpoint:
            for timeout in (harness.ttl, harness.ttl / 2):
                began = trio.current_time()
                with pytest.raises(trio.TooSlowError):
                    await client.request(endpoint, b"?", timeout=timeout)
                assert timeout * 0.999 <= trio.current_time() - began <= timeout + late
            assert len(inbox.arrived) == 2

    async def test_requests_time_out_each_in_its_time(self, harness: Harness, clock: object) -> None:
        """A short timeout is not held up by a long one that began before."""
        ended: list[float] = []
        async with open_pair(harness) as (server, client):
            async with server.listen("a-1", "t1", Inbox().receive) as endpoint:

                async def ask(timeout: float) -> None:
                    with pytest.raises(trio.TooSlowError):
                        await client.request(endpoint, b"?", timeout=timeout)
                    ended.append(timeout)

                timeouts = [harness.ttl * share for share in (1.0, 0.25, 0.75, 0.5)]
                async with trio.open_nursery() as nursery:
                    for timeout in timeouts:
                        nursery.start_soon(ask, timeout)
                        await trio.testing.wait_all_tasks_blocked()
            assert ended == sorted(timeouts)

    async def test_late_answer_is_dropped(self, harness: Harness, clock: object) -> None:
        """Answering who has given up is no error, and the answer goes to nobody else."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", inbox.receive) as endpoint:
            with pytest.raises(trio.TooSlowError):
                await client.request(endpoint, b"late", timeout=harness.ttl / 4)
            await inbox.wait_count(1)

            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    assert await client.request(endpoint, b"next", timeout=harness.patience) == b"on time"

                nursery.start_soon(ask)
                await inbox.wait_count(2)
                inbox.arrived[0].respond(b"too late")
                await trio.testing.wait_all_tasks_blocked(0.01)
                inbox.arrived[1].respond(b"on time")

    async def test_cancelled_request_leaves_nothing_behind(self, harness: Harness, clock: object) -> None:
        """Wherever a caller is cancelled, its answer is dropped and the next request gets its own."""
        inbox = Inbox()
        async with open_pair(harness) as (server, client), server.listen("a-1", "t1", inbox.receive) as endpoint:
            # Cancelled while it waits for an answer that has not been given yet.
            with trio.move_on_after(harness.ttl / 4):
                await client.request(endpoint, b"cancelled", timeout=harness.patience)
            assert inbox.payloads == [b"cancelled"]
            inbox.arrived[0].respond(b"late")
            async with server.listen("a-1", "t2", echo) as echoing:
                numbers = count()

                async def attempt(checkpoints: int) -> Sequence[object]:
                    payload = b"%d" % next(numbers)

                    async def ask() -> bytes:
                        return await client.request(echoing, payload, timeout=harness.patience)

                    done = await abandoned_after(checkpoints, ask)
                    assert done in ((), (payload,))
                    after = b"after " + payload
                    assert await client.request(echoing, after, timeout=harness.patience) == after
                    return done

                await cancelled_everywhere(attempt)

    async def test_departure_of_the_listener_ends_its_requests(self, harness: Harness, clock: object) -> None:
        """An instance that stops listening leaves requests unanswered: they fail as maybe executed, or time out."""
        inbox = Inbox()
        endpoints: list[str] = []
        errors: list[Exception] = []
        async with open_pair(harness) as (server, client):

            async def ask() -> None:
                try:
                    await client.request(endpoints[0], b"?", timeout=harness.ttl)
                except (trio.TooSlowError, TransportUnavailable) as error:
                    errors.append(error)

            async with trio.open_nursery() as nursery:
                async with server.listen("a-1", "t1", inbox.receive) as endpoint:
                    endpoints.append(endpoint)
                    for _ in range(3):
                        nursery.start_soon(ask)
                    await inbox.wait_count(3)
                left = trio.current_time()
            assert len(errors) == 3
            if harness.tells_departure:
                assert all(isinstance(error, TransportUnavailable) for error in errors)
                assert trio.current_time() - left < harness.ttl / 2
            outcomes = {error.outcome for error in errors if isinstance(error, TransportUnavailable)}
            assert outcomes <= {Outcome.MAYBE_EXECUTED}
            inbox.arrived[0].respond(b"too late")
