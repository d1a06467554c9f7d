"""The commands that only look: what they show to people, and the JSON that programs may rely on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from trio.testing import MockClock

from aegis_core import InvalidRequest, ResourceNotFound, Role, ServiceNotFound
from aegis_core.cli.output import plain
from tests.cli.running import run_command, town


def shape(document: object) -> object:
    """The keys and kinds of *document*: of a list, those of its first item."""
    match document:
        case dict():
            return {key: shape(value) for key, value in document.items()}
        case list():
            return [shape(document[0])] if document else []
    return type(document).__name__


INSTANCE = {
    "service_name": "str",
    "instance_id": "str",
    "version": "str",
    "role": "str",
    "health": "str",
    "draining": "bool",
    "group": "str",
    "priority": "int",
    "ttl": "float",
    "heartbeat_interval": "float",
    "registered_at": "str",
    "last_heartbeat": "str",
    "endpoints": ["str"],
    "metadata": {"zone": "str"},
}
SHAPES: dict[str, tuple[list[str], object]] = {
    "services": (
        ["services", "--json"],
        {"services": [{"service_name": "str", "instances": [{**INSTANCE, "resources": "int"}]}]},
    ),
    "roles": (
        ["roles", "--json"],
        {
            "services": [
                {
                    "service_name": "str",
                    "resources": {},
                    "groups": {"default": {"active": "str", "standbys": ["str"]}},
                }
            ]
        },
    ),
    "resources": (
        ["resources", "--json"],
        {
            "resources": [
                {
                    "resource_id": "str",
                    "owner_instance_id": "str",
                    "service_name": "str",
                    "epoch": "int",
                    "registered_at": "str",
                    "metadata": {
                        "resource_type": "str",
                        "version": "int",
                        "tags": ["str"],
                        "attributes": {},
                        "created_by": "str",
                        "last_modified": "str",
                        "ttl_seconds": "NoneType",
                        "priority": "int",
                    },
                    "is_healthy": "bool",
                }
            ],
            "total_count": "int",
            "has_more": "bool",
        },
    ),
    "explain": (
        ["explain", "room:1", "--json"],
        {
            "resource_id": "str",
            "summary": "str",
            "owner": INSTANCE,
            "epoch": "int",
            "lease_left": "float",
            "standbys": [],
            "calls": "int",
            "last_call_at": "NoneType",
            "history": ["str"],
        },
    ),
    "call": (
        ["call", "rooms", "paint", "colour=red", "--resource", "room:1", "--json"],
        {"by": "str", "room": "str", "colour": "str", "coats": "int"},
    ),
}


@pytest.mark.parametrize("command", SHAPES)
async def test_json_keeps_its_shape(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Programs rely on these keys and kinds: one may be added, none may change or go."""
    arguments, wanted = SHAPES[command]
    async with town():
        assert await run_command(*arguments) == 0
    assert shape(json.loads(capsys.readouterr().out)) == wanted


async def test_services_are_shown_with_role_health_and_load(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each instance; one service alone by its name."""
    async with town():
        assert await run_command("services") == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].split() == [
            "service",
            "instance",
            "role",
            "health",
            "resources",
            "version",
            "last",
            "renewal",
        ]
        rows = [line.split()[:6] for line in shown[2:] if line.strip()]
        assert rows == [
            ["rooms", "a", "ACTIVE", "ONLINE", "2", "1.2.0"],
            ["rooms", "b", "STANDBY", "ONLINE", "0", "1.2.0"],
        ]
        assert await run_command("services", "rooms") == 0
        again = capsys.readouterr().out.splitlines()
        assert [line.split()[:6] for line in again] == [
            line.split()[:6] for line in shown
        ]  # renewals are told by time of day
        with pytest.raises(ServiceNotFound):
            await run_command("services", "cellars")


async def test_roles_are_shown_with_their_line(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is active, and who waits for it."""
    async with town():
        assert await run_command("roles", "rooms") == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["rooms", "group", "default", "a", "b"]


async def test_resources_are_filtered_and_paged(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """By id, service, instance, type and tags; the last line says where the next page begins."""
    async with town():
        for arguments, wanted in (
            ([], ["room:1", "room:2"]),
            (["room:2", "room:9"], ["room:2"]),
            (["--type", "room"], ["room:1"]),
            (["--tag", "blue", "--tag", "big"], ["room:1"]),
            (["--tag", "blue", "--tag", "small"], []),
            (["--instance", "b"], []),
            (["--service", "rooms", "--limit", "1"], ["room:1"]),
            (["--limit", "1", "--offset", "1"], ["room:2"]),
        ):
            assert await run_command("resources", *arguments, "--json") == 0
            document = json.loads(capsys.readouterr().out)
            assert [one["resource_id"] for one in document["resources"]] == wanted
        assert await run_command("resources", "--limit", "1") == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[2].split()[:3] == ["room:1", "a", "rooms"]
        assert shown[-1] == "1 to 1 of 2; more with --offset 1"
        assert await run_command("resources", "--offset", "2") == 0
        assert capsys.readouterr().out.splitlines()[-1] == "2 to 2 of 2"


async def test_explain_tells_owner_line_and_history(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a resource that nobody owns, which is an answer and no failure."""
    async with town() as t:
        await t.node.call("rooms", "paint", {"colour": "red"}, resource_id="room:1")
        assert await run_command("explain", "room:1") == 0
        shown = capsys.readouterr().out
        facts = dict(line.split(maxsplit=1) for line in shown.splitlines()[1:])
        assert facts["owner"].strip() == "rooms/a"
        assert facts["calls"].strip() == "1"
        assert "last" in facts
        assert "history" in facts
        assert await run_command("explain", "room:9") == 0
        assert "nobody" in capsys.readouterr().out


async def test_call_takes_parameters_as_text_and_as_json(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """``name=text``, ``name:=JSON`` and a whole object, of which single ones count more."""
    async with town():
        line = ["call", "rooms", "paint", "colour=12", "coats:=3", "--params-json", '{"coats": 9}', "--instance", "b"]
        assert await run_command(*line) == 0
        assert json.loads(capsys.readouterr().out) == {"by": "b", "room": None, "colour": "12", "coats": 3}
        with pytest.raises(ResourceNotFound):
            await run_command("call", "rooms", "paint", "colour=red", "--resource", "room:9")
        for wrong in (["colour"], ["=red"], ["coats:=x"], ["--params-json", "[]"], ["--params-json", "{"]):
            with pytest.raises(InvalidRequest):
                await run_command("call", "rooms", "paint", *wrong)


def test_whatever_a_method_returns_has_a_form_in_json() -> None:
    """Spans are seconds, bytes are base64, and what has no form of its own is its text."""
    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    given = {
        "at": at,
        "span": timedelta(minutes=1),
        "raw": b"x",
        "who": ("a", 1.5, None),
        "path": Path("x"),
        7: Role.ACTIVE,
    }
    assert plain(given) == {
        "at": "2030-01-31T12:00:00+00:00",
        "span": 60.0,
        "raw": "eA==",
        "who": ["a", 1.5, None],
        "path": "x",
        "7": "ACTIVE",
    }
