"""What a router answers to a request that had been carried out: as the reference of the subjects has it."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from tests.router.wired import open_wire

A, B = ({"service_name": "rooms", "instance_id": name} for name in ("a", "b"))
NEW = {"service_name": "rooms", "instance_id": "new"}
MOVE = {"service_name": "rooms", "from_instance_id": "a", "to_instance_id": "b", "resource_ids": ["x"]}

SAME: dict[str, tuple[str, dict[str, object]]] = {
    "register with one's own lease id": ("service.register", {**NEW, "lease_id": "secret"}),
    "heartbeat": ("service.heartbeat", A),
    "claim": ("resource.register", {**A, "resource_ids": ["y"]}),
    "claim many": ("resource.bulk_register", {**A, "resources": [{"resource_id": "y"}]}),
    "query": ("resource.query", {"instance_id": "a"}),
}
DONE: dict[str, tuple[str, dict[str, object], str]] = {
    "register": ("service.register", NEW, "DUPLICATE_INSTANCE"),
    "unregister": ("service.unregister", A, "INSTANCE_NOT_FOUND"),
    "release": ("resource.release", {**A, "resource_ids": ["x"]}, "RESOURCE_NOT_FOUND"),
    "release many": ("resource.bulk_release", {**A, "resource_ids": ["x"]}, "RESOURCE_NOT_FOUND"),
    "transfer": ("resource.transfer", MOVE, "NOT_OWNER"),
}


def codes(answer: dict[str, Any]) -> list[str]:
    """The errors that an answer tells, wherever it does."""
    plain = [answer.get("error_code"), (answer.get("error") or {}).get("code")]
    listed = answer.get("failed")
    each = [failure["error_code"] for failure in listed] if isinstance(listed, list) else []
    return [code for code in (*plain, answer.get("envelope", {}).get("error_code"), *each) if code]


@pytest.mark.parametrize("name", SAME)
async def test_what_may_be_repeated_is_answered_the_same(name: str, autojump_clock: MockClock) -> None:
    """But for its times and trace ids."""
    subject, fields = SAME[name]
    async with open_wire() as wire:
        for who in (A, B):
            await wire.client.ask("service.register", **who)
        await wire.client.ask("resource.register", **A, resource_ids=["x"])
        first = await wire.client.ask(subject, **fields, trace_id="t")
        again = await wire.client.ask(subject, **fields, trace_id="t")
        assert codes(first) == codes(again) == []
        told = ("success", "registered", "epochs", "resources", "lease_id", "role")
        assert {key: first[key] for key in told if key in first} == {key: again[key] for key in told if key in again}


@pytest.mark.parametrize("name", DONE)
async def test_what_was_done_is_told_to_who_repeats_it(name: str, autojump_clock: MockClock) -> None:
    """By an error that says how things are."""
    subject, fields, code = DONE[name]
    async with open_wire() as wire:
        for who in (A, B):
            await wire.client.ask("service.register", **who)
        await wire.client.ask("resource.register", **A, resource_ids=["x"])
        assert codes(await wire.client.ask(subject, **fields)) == []
        again = await wire.client.ask(subject, **fields)
        assert codes(again) == [code]
        if name == "transfer":
            assert again["error"]["details"]["owner"] == "b"
