"""What happens to a node is logged in one line, and what is refused is told without what lies behind it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine

import pytest
import trio
from trio.testing import MockClock

from aegis_core.config import load_settings
from aegis_core.errors import ConfigError, InvalidRequest, TransportUnavailable
from aegis_core.models import Health
from aegis_core.node.call import Call
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults
from tests.node.scene import scene
from tests.node.wires import lose_request

ECHO = Service("echo-service")


@ECHO.method
async def echo(call: Call, value: object) -> object:
    """Answer *value*."""
    return value


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What people see: the messages from INFO on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


async def test_health_that_is_said_is_one_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Why, the program's own DEBUG log knows."""
    caplog.set_level(logging.DEBUG, "aegis")
    async with open_node("memory://") as node, node.serve(ECHO, instance_id="one") as instance:
        caplog.clear()
        await instance.set_health(Health.UNHEALTHY, "the disk is full")
        assert lines(caplog) == ["instance health changed one (old ONLINE, new UNHEALTHY, reason said)"]
        assert "one says that it is UNHEALTHY: the disk is full" in caplog.messages


async def test_lease_that_ends_is_one_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """With what the node does about it."""
    caplog.set_level(logging.INFO, "aegis")
    faults = Faults()
    async with faults.node() as node, node.serve(ECHO, instance_id="one"):
        faults.cut()
        await trio.sleep(29)
        assert [line for line in lines(caplog) if "ended" in line] == [
            "lease ended one (reason EXPIRED): registering anew"
        ]
        faults.heal()


async def test_circuit_that_changes_is_one_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A warning when it opens, none when it is tried, or closes."""
    caplog.set_level(logging.DEBUG, "aegis")
    async with scene() as it:
        it.wire.always["a"] = lose_request
        for _ in range(5):
            with pytest.raises(TransportUnavailable):
                await it.call()
        it.wire.always.clear()
        await it.call(timeout=10)
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "circuit" in r.getMessage()]
    assert told == [
        ("WARNING", "circuit state changed a (what a, old closed, new open)"),
        ("DEBUG", "circuit state changed a (what a, old open, new half-open)"),
        ("INFO", "circuit state changed a (what a, old half-open, new closed)"),
    ]


async def test_view_that_is_read_anew_is_one_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """With the reason that the store gave."""
    caplog.set_level(logging.INFO, "aegis")
    faults = Faults()
    async with faults.node():
        faults.resync()
        await trio.sleep(1)
        assert lines(caplog) == ["resync (reason by the test)"]


Refused = Callable[[Node], Coroutine[object, object, object]]


async def serve(node: Node) -> None:
    """An instance whose metadata cannot be stored."""
    async with node.serve(ECHO, metadata={"a": object()}):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    "refused",
    [
        lambda node: node.call("echo-service", "echo", {"value": object()}),
        lambda node: node.call("echo-service", "echo", {"value": 1 << 70}),
        serve,
    ],
    ids=["object", "number", "metadata"],
)
async def test_value_that_cannot_be_sent_is_told_without_the_packers_traceback(refused: Refused) -> None:
    """It names the value; how the packer came to it helps nobody."""
    async with open_node("memory://") as node, node.serve(ECHO):
        with pytest.raises(InvalidRequest) as caught:
            await refused(node)
    assert "During handling" not in (shown := "".join(traceback.format_exception(caught.value)))
    assert "direct cause" not in shown


def test_wrong_setting_is_told_without_the_parsers_traceback() -> None:
    """The message has all of it."""
    with pytest.raises(ConfigError) as caught:
        load_settings("memory://?ttl=soon")
    assert "direct cause" not in "".join(traceback.format_exception(caught.value))
