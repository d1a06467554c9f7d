"""Middleware around sent and handled calls, and the library's own calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from aegis_core.errors import CallTimeout, InvalidRequest, RemoteError
from aegis_core.hookspecs import CallInfo, MiddlewareRegistrar, Principal, hookimpl
from aegis_core.models import Health, Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from tests.node.accounts import accounts
from tests.node.wires import Wire, silence


class Recorder:
    """Middleware that notes what runs in it, and carries a trace context over."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.infos: list[CallInfo] = []

    @hookimpl
    def aegis_register_middleware(self, register: MiddlewareRegistrar) -> None:
        """Run calls in `around`."""
        register(self.around)

    @asynccontextmanager
    async def around(self, info: CallInfo) -> AsyncIterator[None]:
        """Note begin and end."""
        self.infos.append(info)
        if info.side == "sent":
            info.carrier["traceparent"] = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        if info.method == "refused" and info.side == "handled":
            raise InvalidRequest.at("$", "not today")
        self.log.append(f"{info.side} {info.method}")
        try:
            yield
        except Exception as exc:
            self.log.append(f"{info.side} failed: {type(exc).__name__}")
            raise
        self.log.append(f"{info.side} done")


async def test_middleware_runs_around_both_sides() -> None:
    """Sent outside, handled inside; errors pass through; the carrier travels."""
    recorder = Recorder()
    service = accounts()

    @service.method
    async def fail(call: Call) -> None:
        raise ValueError("no")

    async with open_node("memory://", plugins=[recorder]) as node, node.serve(service, instance_id="a") as instance:
        await instance.claim("account:1")
        assert await node.call("account-service", "who", resource_id="account:1") == "a"
        assert recorder.log == ["sent who", "handled who", "handled done", "sent done"]
        sent, handled = recorder.infos
        assert (sent.instance_id, sent.resource_id) == (handled.instance_id, handled.resource_id) == ("a", "account:1")
        assert (sent.trace_id, sent.message_id) == (handled.trace_id, handled.message_id)
        assert handled.carrier == sent.carrier != {}
        recorder.log.clear()
        with pytest.raises(RemoteError):
            await node.call("account-service", "fail")
    assert recorder.log == ["sent fail", "handled fail", "handled failed: ValueError", "sent failed: RemoteError"]


async def test_middleware_can_refuse_a_call_before_it_is_executed() -> None:
    """The refusal reaches the caller as it is."""
    service = accounts()

    @service.method
    async def refused(call: Call) -> None:
        raise AssertionError("executed")

    async with open_node("memory://", plugins=[Recorder()]) as node, node.serve(service):
        with pytest.raises(InvalidRequest, match="not today"):
            await node.call("account-service", "refused")


# --- Reserved calls ----------------------------------------------------------------------------


async def test_reserved_method_is_called_in_the_name_of_a_principal() -> None:
    """An instance may drain itself; a plain call of such a method names nobody."""
    async with open_node("memory://") as node, node.serve(accounts(), instance_id="a") as instance:
        (record,) = node.runtime.directory.snapshot.live("account-service")
        principal = Principal("instance", "a")
        await node.client.reserved(record, "aegis.set_health", {"health": "UNHEALTHY"}, timeout=5, principal=principal)
        assert instance.health is Health.UNHEALTHY
        with pytest.raises(InvalidRequest):
            await node.client.reserved(record, "aegis.nothing", {}, timeout=5, principal=principal)


async def test_reserved_method_that_is_not_answered_times_out(autojump_clock: MockClock) -> None:
    """Once, with the time that was given."""
    wire = Wire()
    async with wire.node() as node, node.serve(accounts(), instance_id="a"):
        wire.always["a"] = silence
        (record,) = node.runtime.directory.snapshot.live("account-service")
        with pytest.raises(CallTimeout) as caught:
            await node.client.reserved(record, "aegis.drain", {}, timeout=2, principal=Principal("node", "test"))
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert wire.asked == ["a"]


async def test_client_shows_how_busy_it_is() -> None:
    """The repr counts peers and requests."""
    async with open_node("memory://") as node, node.serve(accounts(), instance_id="a"):
        await node.call("account-service", "who")
        assert repr(node.client) == "<Client <Peers: 1, 0 requests pending>>"
        (peer,) = node.client._peers.known.values()
        assert "0 pending, circuit closed" in repr(peer)
