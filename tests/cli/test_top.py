"""``aegis top``: pictures of who lives and what happens."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
from contextlib import suppress
from datetime import UTC, datetime

import attrs
import pytest
import trio
from rich.console import Console, Group
from trio.testing import MockClock

from aegis_core import Health, ServiceInstance
from aegis_core.cli.top import Frame, draw
from tests.cli.running import PATIENCE, PROGRAM, run_command, town

AT = datetime(2030, 1, 31, 12, 0, 0, tzinfo=UTC)


def instances(count: int) -> tuple[tuple[ServiceInstance, int], ...]:
    """So many instances, each of which owns as many resources as its number."""
    return tuple(
        (ServiceInstance(service_name="svc", instance_id=f"i-{n}", registered_at=AT, last_heartbeat=AT), n)
        for n in range(count)
    )


def lines(drawn: Group) -> list[str]:
    """What stands on each line."""
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(drawn)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_picture_fits_the_screen() -> None:
    """What has no room is counted; the news stay."""
    frame = Frame(backend="memory://", at=AT, instances=instances(50), news=("one", "two"), per_second=2.5)
    shown = lines(draw(frame, 20))
    assert len(shown) <= 20
    assert shown[0] == "aegis memory://  12:00:00 UTC  services 1, instances 50, resources 1225, events/s 2.5"
    assert [line.split()[1] for line in shown if line.startswith("svc")] == [f"i-{n}" for n in range(13)]
    assert shown[-4:] == ["and 37 more", "", "one", "two"]
    assert len(lines(draw(frame, math.inf))) == 50 + 6
    assert any(line.startswith("svc") for line in lines(draw(frame, 1)))


def test_what_is_wrong_stands_out() -> None:
    """How many are unhealthy; why the picture is old."""
    ((well, _), (other, _)) = instances(2)
    frame = Frame(backend="memory://", at=AT, instances=((well, 0), (other.mark_unhealthy(), 0)), problem="no\nstore")
    shown = lines(draw(frame, math.inf))
    assert shown[0].endswith("events/s 0.0  1 unhealthy")
    assert shown[1] == r"as last seen: no\nstore"
    draining = attrs.evolve(well, draining=True)
    assert "ONLINE draining" in "".join(lines(draw(attrs.evolve(frame, instances=((draining, 0),)), math.inf)))
    assert other.health is Health.ONLINE


async def test_without_a_terminal_pictures_follow_each_other(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """So many as were asked for, of the service that was."""
    async with town() as t:
        await t.a.claim("room:3")
        assert await run_command("top", "--count", "2", "--service", "rooms") == 0
        shown = capsys.readouterr().out
        assert shown.count("instances 2, resources 3") == 2
        assert await run_command("top", "--count", "1", "--service", "cellars") == 0
        assert "instances 0" in capsys.readouterr().out


async def test_programs_get_a_json_line_for_each_picture(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the events since the one before."""
    async with town() as t, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def happen() -> None:
            await trio.sleep(1)
            await t.a.release("room:1")

        assert await run_command("top", "--count", "2", "--interval", "2", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    keys = {"at", "backend", "instances", "events_per_second", "events", "problem"}
    assert set(first) == set(second) == keys
    assert [one["resources"] for one in first["instances"]] == [2, 0]
    assert [one["resources"] for one in second["instances"]] == [1, 0]
    assert (first["events_per_second"], second["events_per_second"]) == (0, 0.5)
    assert first["events"] == []
    assert [(one["event"], one["resource_id"]) for one in second["events"]] == [("resource_released", "room:1")]


async def test_a_store_that_is_away_leaves_the_last_picture(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:silent")
    assert await run_command("top", "--count", "1", "--timeout", "1", "--json", backend="faulty://silent") == 0
    assert "unavailable" in json.loads(capsys.readouterr().out)["problem"]


async def test_a_terminal_gets_its_screen_back() -> None:
    """Drawn on a screen of its own, which is left at Ctrl-C, with the cursor shown."""
    master, slave = pty.openpty()
    process = await trio.lowlevel.open_process(
        [*PROGRAM, "top", "--backend", "memory://"], stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(slave)
    drawn = b""
    async with trio.lowlevel.FdStream(master) as stream:
        with trio.fail_after(PATIENCE):
            while b"instances 0" not in drawn:
                drawn += await stream.receive_some()
            process.send_signal(signal.SIGINT)
            with suppress(trio.BrokenResourceError):  # the end of a terminal
                while True:
                    drawn += await stream.receive_some()
            assert await process.wait() == 130
    assert drawn.index(b"\x1b[?1049h") < drawn.index(b"\x1b[?1049l")
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert b"Traceback" not in drawn
