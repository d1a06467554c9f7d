"""Serving: how handlers run, how they fail, how many at once, and how it ends."""

from __future__ import annotations

import contextvars
import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core import codec
from aegis_core.errors import (
    CallTimeout,
    InvalidRequest,
    RemoteError,
    ResourceNotFound,
    Unauthorized,
)
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import Outcome
from aegis_core.node.call import Call, current_call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.served import served, work

mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="unset")


# --- How they fail -----------------------------------------------------------------------------


async def test_crash_is_the_callers_error_and_not_the_servers_end(caplog: pytest.LogCaptureFixture) -> None:
    """Name and text travel, the traceback is logged here, and the next call is served."""
    async with served(work()) as it:
        with pytest.raises(RemoteError) as caught:
            await it.ask("crash", trace_id="t1")
        assert (caught.value.kind, caught.value.remote_message) == ("ZeroDivisionError", "by zero")
        assert caught.value.remote_code == "REMOTE_ERROR"
        assert await it.ask("ping") == "pong"
    (record,) = (entry for entry in caplog.records if entry.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert record.trace_id == "t1"  # type: ignore[attr-defined]


async def test_group_of_errors_is_one_error() -> None:
    """A handler's own nursery may raise a group."""
    service = work()

    @service.method
    async def both(call: Call) -> None:
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

    async with served(service) as it:
        with pytest.raises(RemoteError, match="two"):
            await it.ask("both")


async def test_error_of_a_nested_call_does_not_pass_for_ones_own() -> None:
    """The caller learns the code, but is not told that its own resource is missing or its own request wrong."""
    service = work()
    async with served(service) as it:

        @service.method
        async def nested(call: Call, method: str, resource_id: str | None) -> None:
            await it.node.call("work", method, {"seconds": "long"}, resource_id=resource_id)

        with pytest.raises(RemoteError) as caught:
            await it.ask("nested", params={"method": "ping", "resource_id": "gone"})
        assert caught.value.remote_code == ResourceNotFound.code
        assert caught.value.remote_details["resource_id"] == "gone"
        with pytest.raises(RemoteError) as caught:
            await it.ask("nested", params={"method": "wait", "resource_id": None})
        assert caught.value.remote_code == InvalidRequest.code


async def test_handler_may_refuse_its_own_parameters() -> None:
    """`InvalidRequest` that it raises itself reaches the caller as such."""
    service = work()

    @service.method
    async def pick(call: Call, color: str) -> None:
        raise InvalidRequest.at("$.color", "not in stock")

    async with served(service) as it:
        with pytest.raises(InvalidRequest, match=r"not in stock @ \$\.color"):
            await it.ask("pick", params={"color": "red"})


async def test_result_that_cannot_travel_is_an_error_of_the_handler() -> None:
    """The caller is told, instead of waiting for nothing."""
    service = work()

    @service.method
    async def thing(call: Call) -> object:
        return object()

    @service.method
    async def flood(call: Call) -> bytes:
        return b"x" * (1 << 21)

    async with served(service) as it:
        with pytest.raises(RemoteError, match="has no form on the wire"):
            await it.ask("thing")
        with pytest.raises(RemoteError, match="carries at most") as caught:
            await it.ask("flood")
        assert caught.value.kind == "ResultTooLarge"


async def test_request_that_makes_no_sense_is_answered() -> None:
    """Bytes that are no request, an unknown method, another service, a wrong parameter."""
    async with served(work()) as it:
        with pytest.raises(InvalidRequest, match="not MessagePack"):
            codec.decode_result(await it.send(b"\xc1"))
        with pytest.raises(InvalidRequest, match="it has: wait, crash, ping"):
            await it.ask("sing")
        with pytest.raises(InvalidRequest, match="serves 'work'"):
            await it.ask("ping", service_name="play")
        with pytest.raises(InvalidRequest, match="no parameter is taken"):
            await it.ask("ping", params={"loud": True})


async def test_reserved_methods_need_a_principal() -> None:
    """Nobody in particular may not drain an instance."""
    async with served(work()) as it:
        for principal in ("", "instance", "instance:", "ghost:a"):
            with pytest.raises(Unauthorized):
                await it.ask("aegis.drain", principal=principal)
        assert not it.instance.draining


class TokensAllowed:
    """A plug-in that lets whoever showed a credential, and programs on their own node, do everything."""

    @hookimpl
    def aegis_authorize(self, principal: Principal) -> bool | None:
        """Allow it."""
        return True if principal.kind in {"token", "node"} else None


@pytest.mark.parametrize("principal", ["token:ops", "node:main"])
async def test_credential_is_not_taken_from_a_request(principal: str) -> None:
    """A plug-in that trusts tokens, which routers check, is not told of one that nobody checked."""
    async with served(work(), plugins=[TokensAllowed()]) as it:
        with pytest.raises(Unauthorized):
            await it.ask("aegis.drain", principal=principal)
        assert not it.instance.draining


async def test_handler_is_not_told_what_a_request_says_of_its_sender() -> None:
    """`Call.principal` is what was established, and nothing was."""
    seen: list[str] = []
    service = work()

    @service.method
    async def look(call: Call) -> None:
        seen.append(call.principal)

    async with served(service) as it:
        for principal in ("token:admin", "instance:a", ""):
            await it.ask("look", principal=principal)
    assert seen == ["", "", ""]


async def test_request_of_an_old_client_is_served(autojump_clock: MockClock) -> None:
    """Without service, ids and timeout, as others write it."""
    seen: list[Call] = []
    service = work()

    @service.method
    async def look(call: Call) -> None:
        seen.append(call)

    async with served(service) as it:
        payload = {"method": "look", "params": {}, "trace_id": "t", "correlation_id": "c"}
        assert codec.decode_result(await it.send(codec.encode_request_map(payload))) is None
        await it.ask("look", timeout=None)
        assert await it.ask("wait", timeout=None, params={"seconds": 500.0}) == "waited"
    assert (seen[0].trace_id, seen[0].message_id) == ("t", "t")
    assert len(seen[1].trace_id) == 32


async def test_method_that_cannot_be_served_stops_the_start() -> None:
    """A parameter of a type that cannot travel is found when the service is served, not when it is called."""
    service = Service("work")

    @service.method
    async def bad(call: Call, callback: trio.Event) -> None:
        return None

    async with open_node("memory://") as node:
        with pytest.raises(TypeError, match="Event"):
            async with node.serve(service):
                raise AssertionError("served")


# --- How they run ------------------------------------------------------------------------------


async def test_handlers_run_at_the_same_time(autojump_clock: MockClock) -> None:
    """Each in a task of its own; a slow one holds up nobody."""
    async with served(work()) as it, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: it.ask("wait", params={"seconds": 3.0}))
        await trio.sleep(1)
        assert it.server.running == 50
        assert await it.ask("ping") == "pong"
    assert trio.current_time() == pytest.approx(3)


async def test_each_handler_has_a_context_of_its_own() -> None:
    """What one sets is not seen by the next, though they may share a task."""
    seen: list[tuple[str, Call | None]] = []
    tasks: set[trio.lowlevel.Task] = set()
    service = Service("work")

    @service.method
    async def look(call: Call) -> None:
        tasks.add(trio.lowlevel.current_task())
        seen.append((mark.get(), current_call.get()))
        assert current_call.get() is call
        mark.set("dirty")

    mark.set("served")
    async with served(service) as it:
        mark.set("called")
        for _ in range(5):
            await it.ask("look")
    assert [value for value, _ in seen] == ["served"] * 5
    assert len({id(call) for _, call in seen}) == 5
    assert len(tasks) < 5


async def test_idle_workers_go_when_there_is_nothing_to_do(autojump_clock: MockClock) -> None:
    """After a burst no tasks are left over, and calls are served as before."""
    async with served(work()) as it:
        before = len(it.node.runtime.nursery.child_tasks)
        async with trio.open_nursery() as nursery:
            for _ in range(90):
                nursery.start_soon(lambda: it.ask("wait", params={"seconds": 1.0}))
        await wait_all_tasks_blocked()
        assert before < len(it.node.runtime.nursery.child_tasks) <= before + 64
        await trio.sleep(10)
        assert len(it.node.runtime.nursery.child_tasks) == before
        assert await it.ask("ping") == "pong"


async def test_handler_is_cancelled_at_its_deadline(autojump_clock: MockClock) -> None:
    """The answer says that it may have been executed; the handler sees the deadline in its scope."""
    deadlines: list[tuple[float, float]] = []
    service = work()

    @service.method
    async def forever(call: Call) -> None:
        deadlines.append((call.deadline, trio.current_effective_deadline()))
        await trio.sleep_forever()

    async with served(service) as it:
        for timeout in (0.25, 3.0, 0.3, 2.345):
            start = trio.current_time()
            with pytest.raises(CallTimeout) as caught:
                await it.ask("forever", timeout=timeout)
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            assert trio.current_time() - start == pytest.approx(timeout, rel=0.01)
            assert deadlines[-1][0] == pytest.approx(start + timeout)
            assert deadlines[-1][0] <= deadlines[-1][1] <= start + timeout * (1 + 1 / 128)


async def test_handler_may_finish_what_it_began_when_its_time_is_over(autojump_clock: MockClock) -> None:
    """A result that comes in spite of the cancellation is an answer."""
    service = work()

    @service.method
    async def stubborn(call: Call) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        return "done"

    async with served(service) as it:
        assert await it.ask("stubborn", timeout=1) == "done"
        assert await it.ask("ping") == "pong"


async def test_handler_that_fails_while_it_is_cancelled_ends_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone or together with the cancellation, its error is logged and the server goes on."""
    service = work()

    @service.method
    async def alone(call: Call) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    @service.method
    async def together(call: Call) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the clean-up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async with served(service) as it:
        with pytest.raises(RemoteError, match="in the clean-up"):
            await it.ask("alone", timeout=1)
        with pytest.raises(CallTimeout):
            await it.ask("together", timeout=1)
        assert await it.ask("ping") == "pong"
    assert sum("in the clean-up" in str(entry.exc_info) or "clean-up" in entry.getMessage() for entry in caplog.records)
