"""``aegis watch``: events as they happen."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

from aegis_core import InvalidRequest, events
from aegis_core.cli.output import event_line, safe
from aegis_core.cli.watch import KINDS
from aegis_core.events import InstanceLost, ResourceReleased, Resync, RoleChanged
from aegis_core.models import Role
from tests.cli.running import Town, run_command, town

AT = datetime(2030, 1, 31, 12, 0, 0, 5000, tzinfo=UTC)


async def watched(t: Town, *arguments: str) -> None:
    """Watch while room 3 is claimed and released."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def happen() -> None:
            await trio.sleep(1)  # virtual: by then it watches
            await t.a.claim("room:3")
            await t.a.release("room:3")

        assert await run_command("watch", *arguments) == 0


async def test_events_are_json_lines_for_programs(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object a line: the event's kind, and its fields."""
    async with town() as t:
        await watched(t, "--json", "--count", "2", "--resource", "room:3")
    claimed, released = map(json.loads, capsys.readouterr().out.splitlines())
    assert claimed.pop("epoch") == released.pop("epoch") > 0
    assert released.pop("revision") > claimed.pop("revision") > 0
    for document in (claimed, released):
        assert datetime.fromisoformat(document.pop("at")).tzinfo is not None
    who = {"service_name": "rooms", "instance_id": "a", "resource_id": "room:3"}
    assert claimed == {"event": "resource_registered", **who, "reason": "claimed"}
    assert released == {"event": "resource_released", **who, "reason": "released"}


async def test_events_are_lines_for_people_and_chosen_by_kind(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not asked for is left out."""
    async with town() as t:
        await watched(t, "--type", "resource_released", "--service", "rooms", "--count", "1")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[1:4] == ["resource_released", "rooms/a", "room:3"]


async def test_an_unknown_kind_is_refused(autojump_clock: MockClock) -> None:
    """And all of those that there are, are named."""
    with pytest.raises(InvalidRequest, match=r"no event resource_lost, only .*instance_lost"):
        await run_command("watch", "--type", "resource_lost")
    assert len(KINDS) == len(events.__all__) - 1


def test_a_line_tells_everything_that_an_event_says() -> None:
    """Lists and enums as words; nothing where there is nothing to tell."""
    lost = InstanceLost(service_name="svc", instance_id="a", released=("x", "y"), at=AT)
    assert event_line(lost, UTC) == "12:00:00.005 instance_lost           svc/a released=x,y"
    changed = RoleChanged(service_name="svc", instance_id="a", old=Role.STANDBY, new=Role.ACTIVE, at=AT)
    assert event_line(changed, UTC) == "12:00:00.005 role_changed            svc/a old=STANDBY new=ACTIVE"
    assert event_line(Resync(at=AT), UTC) == "12:00:00.005 resync"


def test_what_comes_from_elsewhere_does_nothing_to_the_terminal() -> None:
    """Neither colours nor line ends nor the bell, whoever wrote them into a reason."""
    assert safe("a\x1b[31mb\nc\a\u202e") == r"a\x1b[31mb\nc\x07\u202e"
    hostile = ResourceReleased(service_name="svc", resource_id="r", reason="x\x1b]0;title\a", at=AT)
    assert event_line(hostile, UTC).isprintable()
