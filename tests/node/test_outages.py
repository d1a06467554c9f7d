"""An instance that is away from the store says so once, and once that it is back, even where nobody configured logging."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import Conflict
from aegis_core.models import Role
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

ROOMS = Service("rooms")


@contextmanager
def unconfigured() -> Iterator[None]:
    """Logging as in a program that never set it up: pytest's own handlers are out of the way."""
    before, logging.root.handlers = logging.root.handlers, []
    try:
        yield
    finally:
        logging.root.handlers = before


async def test_lost_lease_is_heard_until_it_is_back(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed, that all it had is lost, what is in the way of another, and the end of it: each once."""
    faults = Faults()
    async with faults.node() as node, node.serve(ROOMS, instance_id="a", ttl=10) as instance:
        await instance.claim("room:1")
        faults.refusing = faults.sync_refused = True
        with unconfigured():
            await trio.sleep(120)
        assert not instance.claims
        heard = capsys.readouterr().err.splitlines()
        assert [line.partition(":")[0] for line in heard] == [
            "the heartbeat of a failed, it is tried again",
            "lease ended a (reason EXPIRED)",
            "cannot register a anew yet, trying on",
        ]
        faults.refusing = faults.sync_refused = False
        with unconfigured():
            await trio.sleep(60)
        assert instance.claims
        (back,) = capsys.readouterr().err.splitlines()
        assert back.startswith("a is registered anew, 11")


async def test_heartbeats_that_are_answered_again_are_heard(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lease held on; a conflict is an answer, and heard by nobody who does not listen."""
    faults = Faults()
    async with faults.node() as node, node.serve(ROOMS, instance_id="a", ttl=10):
        with unconfigured():
            faults.refusing = True
            await trio.sleep(6)
            faults.refusing = False
            await trio.sleep(60)
        failed, again = capsys.readouterr().err.splitlines()
        assert failed.startswith("the heartbeat of a failed")
        assert again.startswith("the heartbeats of a are answered again, after 2")
        faults.break_down(Conflict(), names_key("service-instances."), times=2)
        with unconfigured():
            await trio.sleep(60)
        assert capsys.readouterr().err == ""


async def test_what_is_tried_again_is_one_warning(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Of each kind, however long the store is away; the others are for who debugs."""
    caplog.set_level(logging.DEBUG, "aegis")
    faults = Faults()
    async with (
        faults.node() as node,
        node.serve(ROOMS, instance_id="a", ttl=10) as a,
        trio.open_nursery() as nursery,
    ):

        async def wait_for_room() -> None:
            async with a.own("room:2", role=Role.STANDBY):
                await trio.sleep_forever()

        await a.claim("room:1")
        async with open_node("memory://test") as other, other.serve(ROOMS, instance_id="b") as b:
            await b.claim("room:2")
            nursery.start_soon(wait_for_room)
            await trio.sleep(1)
            faults.refusing = faults.sync_refused = True
            await trio.sleep(200)
            faults.refusing = faults.sync_refused = False
            nursery.cancel_scope.cancel()
    told = Counter(
        (record.name, record.msg)
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name != "aegis.events"
    )
    assert ("aegis.instance", "cannot register %s anew yet, trying on: %s") in told
    assert ("aegis.claims", "waiting for %s goes on: %s") in told
    assert max(told.values()) == 1, told
    circuits = [record for record in caplog.records if record.getMessage().startswith("circuit state changed")]
    assert len(circuits) > 20
    assert sum(record.levelno == logging.WARNING for record in circuits) == 1
