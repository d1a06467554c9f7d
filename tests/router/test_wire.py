"""The subjects: what clients of other languages send and get, byte for byte as they know it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import ABSENT, Message, Put, Transaction
from aegis_core.node.call import Call
from aegis_core.node.service import Service
from tests.router.wired import OldInstance, Wire, open_wire, packed, unpacked

A = {"service_name": "rooms", "instance_id": "a"}
B = {"service_name": "rooms", "instance_id": "b"}


async def register(wire: Wire, *names: str, **fields: object) -> None:
    """Register instances of the service ``rooms``."""
    for name in names:
        done = await wire.client.ask("service.register", service_name="rooms", instance_id=name, **fields)
        assert done["success"], done


def trace(answer: dict[str, Any]) -> bool:
    """Whether an answer has a trace id that was minted."""
    return re.fullmatch("[0-9a-f]{32}", answer["trace_id"]) is not None


async def test_registration_says_everything_twice(autojump_clock: MockClock) -> None:
    """Old clients read the one, older ones the other."""
    async with open_wire(time_offset="+08:00") as wire:
        done = await wire.client.ask("service.register", **A, timestamp="2026-01-01", version="1.2.3", trace_id="t")
        data = done.pop("data")
        assert {**done, **data} == done
        assert data.keys() == {"success", "service_name", "instance_id", "role", "registered_at", "message"}
        assert datetime.fromisoformat(done["registered_at"]).utcoffset() == timedelta(hours=8)
        told = {name: done[name] for name in ("success", "role", "ttl", "heartbeat_interval", "trace_id")}
        assert told == {"success": True, "role": "STANDBY", "ttl": 30.0, "heartbeat_interval": 10.0, "trace_id": "t"}
        refused = await wire.client.ask("service.register", **A)
        error = refused.pop("error")
        assert (refused["success"], trace(refused)) == (False, True)
        assert (error["code"], error["details"]["status"], error["details"]["owner"]) == (
            "DUPLICATE_INSTANCE",
            409,
            "a",
        )
        gone = await wire.client.ask("service.unregister", **A)
        assert (gone["success"], "0 resources" in gone["message"]) == (True, True)


async def test_heartbeats_have_a_shape_of_their_own(autojump_clock: MockClock) -> None:
    """Envelope and data, also where they are refused."""
    async with open_wire() as wire:
        unknown = await wire.client.ask("service.heartbeat", **A)
        assert (unknown["envelope"]["error_code"], unknown["data"]) == ("NOT_FOUND", {})
        await register(wire, "a")
        taken = await wire.client.ask("service.heartbeat", **A)
        assert (taken["envelope"]["success"], taken["data"]["instance_id"]) == (True, "a")
        assert taken["envelope"]["timestamp"] == taken["data"]["updated_at"]
        wrong = await wire.client.ask("service.heartbeat", **A, status="tired")
        assert wrong["envelope"]["error_code"] == "VALIDATION_ERROR"


async def test_heartbeats_need_no_answer(autojump_clock: MockClock) -> None:
    """They are published, and count."""
    async with open_wire() as wire:
        await register(wire, "a")
        for _ in range(6):
            await trio.sleep(9)
            wire.bus.publish("ipc.service.heartbeat", packed(A))
        assert wire.node.runtime.directory.snapshot.instance("rooms", "a") is not None
        await trio.sleep(31)
        assert wire.node.runtime.directory.snapshot.instance("rooms", "a") is None


UNREADABLE = {
    "no MessagePack": b"\xc1",
    "nothing": b"",
    "a list": b"\x90",
    "half a text": b"\x81\xa4na",
    "text": b"\xa1\xff",
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_what_cannot_be_read_is_answered(kind: str, autojump_clock: MockClock) -> None:
    """On every subject: nobody waits for nothing."""
    async with open_wire() as wire:
        for subject in ("service.register", "service.heartbeat", "route.request", "message.status", "resource.query"):
            answer = await wire.client.ask_raw(subject, UNREADABLE[kind])
            assert (answer["success"], answer["error"]["code"], trace(answer)) == (False, "VALIDATION_ERROR", True)
        released = await wire.client.ask_raw("resource.release", UNREADABLE[kind])
        assert (released["success"], released["released"], released["error_code"]) == (False, [], "VALIDATION_ERROR")


async def test_what_does_not_fit_is_told_with_its_path(autojump_clock: MockClock) -> None:
    """In the shape of its subject, under the client's own trace id."""
    async with open_wire() as wire:
        plain = await wire.client.ask("resource.register", **A, resource_ids=[1], trace_id="mine")
        assert plain["trace_id"] == "mine"
        assert [p["path"] for p in plain["error"]["details"]["problems"]] == ["$.resource_ids[0]"]
        call = await wire.client.ask("route.request", service_name="rooms", trace_id="mine")
        assert (call["error"]["type"], call["error"]["code"]) == ("ValidationError", 400)
        assert call["trace_id"] == "mine"


async def test_resources_go_their_way(autojump_clock: MockClock) -> None:
    """Claimed, looked for, moved, released, one by one and in bulk."""
    async with open_wire() as wire:
        await register(wire, "a", "b")
        done = await wire.client.ask("resource.register", **A, resource_ids=["lobby"], metadata=None, role=None)
        assert (done["success"], done["registered"], done["conflicts"]) == (True, ["lobby"], {})
        other = await wire.client.ask("resource.register", **B, resource_ids=["lobby", "attic"])
        assert (other["success"], other["registered"], other["conflicts"]) == (False, ["attic"], {"lobby": "a"})
        found = await wire.client.ask("resource.query", resource_ids=["lobby"])
        (room,) = found["resources"]
        assert (room["owner_instance_id"], room["is_healthy"], room["metadata"]["version"]) == ("a", True, 1)
        assert room["metadata"].keys() == {
            "resource_type", "version", "tags", "attributes", "created_by", "last_modified", "ttl_seconds", "priority",
        }  # fmt: skip
        refused = await wire.client.ask("resource.release", **B, resource_ids=["lobby"])
        assert (refused["success"], refused["released"], "error" in refused) == (False, [], False)
        assert "'a'" in refused["errors"]["lobby"]
        move = {"service_name": "rooms", "from_instance_id": "a", "to_instance_id": "b", "reason": "tired"}
        moved = await wire.client.ask("resource.transfer", **move, resource_ids=["lobby"])
        assert (moved["success"], moved["transferred"], moved["failed"]) == (True, ["lobby"], {})
        assert re.fullmatch("transfer_[0-9a-f]{16}", moved["transfer_id"])
        forced = await wire.client.ask("resource.transfer", **move, resource_ids=["attic"], verify_ownership=False)
        assert forced["error"]["code"] == "FORBIDDEN"
        bulk = await wire.client.ask(
            "resource.bulk_register", **A, resources=[{"resource_id": "x"}, {"resource_id": "lobby"}]
        )
        assert (bulk["success"], bulk["total_registered"], bulk["failed"][0]["error_code"]) == (
            True, 0, "RESOURCE_CONFLICT",
        )  # fmt: skip
        freed = await wire.client.ask("resource.bulk_release", **B, resource_ids=["lobby", "attic"])
        assert (freed["success"], freed["total_released"], freed["batch_results"][0]["batch_number"]) == (True, 2, 1)
        assert (await wire.client.ask("resource.release", **B, resource_ids=["lobby"]))["success"] is False


# --- Calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_reply", [True, False], ids=["reply subject", "correlation id"])
async def test_calls_reach_instances_of_other_programs(by_reply: bool, autojump_clock: MockClock) -> None:  # noqa: FBT001
    """At their inbox, with everything that a call carries."""
    async with open_wire() as wire:
        await register(wire, "a")
        epochs = (await wire.client.ask("resource.register", **A, resource_ids=["lobby"]))["epochs"]
        old = OldInstance(wire.bus, "a", by_reply)
        params = {"when": b"\x00\xff", "deep": [{"x": None}], "big": 2**63}
        async with old.listen():
            call = {"service_name": "rooms", "method": "book", "params": params, "resource_id": "lobby", "timeout": 7.0}
            done = await wire.client.ask("route.request", **call, trace_id="t", message_id="m")
        assert (done["success"], done["result"], done["error"]) == (True, {"by": "a", "params": params}, None)
        assert (done["instance_id"], done["trace_id"], done["message_id"]) == ("a", "t", "m")
        (asked,) = old.asked
        assert {name: asked[name] for name in ("method", "params", "trace_id", "service_name", "resource_id")} == {
            "method": "book", "params": params, "trace_id": "t", "service_name": "rooms", "resource_id": "lobby",
        }  # fmt: skip
        assert (asked["epoch"], asked["timeout"], asked["message_id"]) == (epochs["lobby"], 7.0, "m")


async def test_the_callers_trace_context_goes_with_the_call(autojump_clock: MockClock) -> None:
    """From the header of its message."""
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with open_wire() as wire:
        await register(wire, "a")
        old = OldInstance(wire.bus, "a")
        async with old.listen():
            call = packed({"service_name": "rooms", "method": "book"})
            await wire.client.ask_raw("route.request", call, {"traceparent": context})
        assert [asked["traceparent"] for asked in old.asked] == [context]


async def test_calls_reach_instances_of_ours_with_their_trace(autojump_clock: MockClock) -> None:
    """At the endpoint of their lease; the caller's trace goes with it."""
    service = Service("rooms", version="1")
    seen: list[float] = []

    @service.method
    async def book(call: Call) -> str:
        await trio.lowlevel.checkpoint()
        seen.append(call.deadline - trio.current_time())
        return call.trace_id

    async with open_wire() as wire, wire.node.serve(service):
        answer = await wire.client.ask(
            "route.request", service_name="rooms", method="book", trace_id="t-1", timeout=3, excluded_instances=None
        )
        assert (answer["result"], answer["success"]) == ("t-1", True)
        assert seen == [pytest.approx(3.0)]


FAILURES = {
    "ServiceNotFoundError": ({"service_name": "nobody"}, 404, "SERVICE_NOT_FOUND"),
    "ResourceNotFoundError": ({"resource_id": "nothing"}, 404, "RESOURCE_NOT_FOUND"),
    "RemoteError": ({"method": "fail"}, 500, "REMOTE_ERROR"),
    "InstanceTimeoutError": ({"method": "never", "timeout": 0.5}, 504, "TIMEOUT"),
    "ServiceUnavailableError": ({"excluded_instances": ["a"], "timeout": 0.5}, 503, "NO_INSTANCE"),
    "ValidationError": ({"params": 1}, 400, "VALIDATION_ERROR"),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_calls_that_fail_say_what_happened(kind: str, autojump_clock: MockClock) -> None:
    """By type, number, code and outcome, with the fields of every answer."""
    fields, number, code = FAILURES[kind]
    async with open_wire() as wire:
        await register(wire, "a")
        old = OldInstance(wire.bus, "a")
        old.answers = fields.get("method") != "never"
        async with old.listen():
            answer = await wire.client.ask(
                "route.request", **{"service_name": "rooms", "method": "x", "message_id": "m", **fields}
            )
        error = answer["error"]
        assert (answer["success"], error["type"], error["code"], error["error_code"]) == (False, kind, number, code)
        assert (answer["result"], answer["message_id"], trace(answer)) == (None, "m", True)
        if kind == "ResourceNotFoundError":
            assert "resource" in error["message"]
        if kind == "InstanceTimeoutError":
            assert error["outcome"] == "MAYBE_EXECUTED"
        if kind == "RemoteError":
            assert (error["details"]["remote_code"], answer["instance_id"]) == ("NO_ROOM", "a")


async def test_an_instance_that_does_not_listen_is_known_at_once(autojump_clock: MockClock) -> None:
    """The call goes to another one."""
    async with open_wire() as wire:
        await register(wire, "a", "b")
        async with OldInstance(wire.bus, "b").listen():
            began = trio.current_time()
            for _ in range(4):
                answer = await wire.client.ask("route.request", service_name="rooms", method="x")
                assert answer["instance_id"] == "b"
            assert trio.current_time() - began < 1


async def test_a_mute_instance_delays_nobody_else(autojump_clock: MockClock) -> None:
    """Its callers wait; all others do not."""
    async with open_wire() as wire, trio.open_nursery() as nursery:
        await register(wire, "mute", "quick")
        await wire.client.ask("resource.register", service_name="rooms", instance_id="mute", resource_ids=["slow"])
        mute, quick = OldInstance(wire.bus, "mute", answers=False), OldInstance(wire.bus, "quick")
        ended: list[str] = []

        async def ask(**fields: object) -> None:
            answer = await wire.client.ask("route.request", service_name="rooms", method="x", timeout=20, **fields)
            ended.append(answer["instance_id"] or answer["error"]["type"])

        async with mute.listen(), quick.listen():
            for _ in range(50):
                nursery.start_soon(lambda: ask(resource_id="slow"))
            await trio.sleep(1)
            began = trio.current_time()
            for _ in range(20):
                await ask(excluded_instances=["mute"])
            assert trio.current_time() == began
            assert ended == ["quick"] * 20
            nursery.cancel_scope.cancel()


async def test_the_end_of_a_call_is_told_to_who_asked_for_it(autojump_clock: MockClock) -> None:
    """On a subject of the message; of its failure, too."""
    heard: list[Message] = []
    async with open_wire() as wire, wire.bus.subscribe("ipc.ack.*", heard.append):
        await register(wire, "a")
        async with OldInstance(wire.bus, "a").listen():
            call = {"service_name": "rooms", "require_ack": True, "trace_id": "t"}
            await wire.client.ask("route.request", **call, method="x", message_id="m-1")
            await wire.client.ask("route.request", **call, method="fail", message_id="m 2")
            await wire.client.ask("route.request", **call, method="x")
        assert [message.subject for message in heard] == ["ipc.ack.m-1", "ipc.ack.m=202"]
        first, second = (unpacked(message.payload) for message in heard)
        assert first["processing_time_ms"] >= 0
        told = [[ack[name] for name in ("message_id", "instance_id", "status", "trace_id")] for ack in (first, second)]
        assert told == [["m-1", "a", "success", "t"], ["m 2", "a", "failure", "t"]]
        assert (first["error_message"], "all taken" in second["error_message"]) == (None, True)


async def test_requests_under_way_are_answered_when_a_router_leaves(autojump_clock: MockClock) -> None:
    """Within the drain time; new ones find nobody."""
    async with open_wire("leaving") as keeper, trio.open_nursery() as nursery:
        answers: list[object] = []
        await register(keeper, "a")
        old = OldInstance(keeper.bus, "a", answers=False)

        async def ask() -> None:
            answers.append(await keeper.client.ask("route.request", service_name="rooms", method="x", timeout=4))

        async with old.listen():
            async with open_wire("leaving"):
                for _ in range(4):
                    nursery.start_soon(ask)
                await trio.sleep(1)
                assert len(old.asked) == 4
            # Both routers' requests were answered: one of them would not have been here without its router.
            assert len(answers) == 4


async def test_calls_reach_instances_that_other_programs_wrote_into_the_registry(autojump_clock: MockClock) -> None:
    """Without a lease, and with names of their own."""
    async with open_wire() as wire:
        for name in ("Old_1", "Old_2"):
            at = "2026-01-01T08:00:00+08:00"
            record = {
                "serviceName": "OldRooms",
                "instanceId": name,
                "version": "1",
                "status": "ACTIVE",
                "lastHeartbeat": at,
            }
            put = Put(f"service-instances.OldRooms.{name}", json.dumps(record).encode(), ABSENT, ttl=1000.0)
            await wire.node.runtime.store.commit(Transaction(name, (put,)))
        async with OldInstance(wire.bus, "Old_1").listen(), OldInstance(wire.bus, "Old_2").listen():
            answers = [await wire.client.ask("route.request", service_name="OldRooms", method="x") for _ in range(4)]
        assert {answer["instance_id"] for answer in answers} == {"Old_1", "Old_2"}
        assert all(answer["result"]["by"] == answer["instance_id"] for answer in answers)
