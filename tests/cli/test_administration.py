"""The commands that change what is others': transfer, drain, disconnect, and who may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from aegis_core import Forbidden, InstanceNotFound, InvalidRequest, ResourceNotFound, Service
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.node.node import open_node
from tests.cli.running import BACKEND, rooms, run_command, run_program, town
from tests.router.processes import open_router


async def test_resources_move_and_those_that_are_there_stay(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever owns them; the epoch of each is shown."""
    async with town() as t:
        await t.b.claim("room:3")
        assert (
            await run_command("transfer", "room:1", "room:2", "room:3", "room:1", "--to", "b", "--reason", "paint") == 0
        )
        assert sorted(t.b.claims) == ["room:1", "room:2", "room:3"]
        epoch = t.b.claims["room:1"].epoch
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == f"room:1: a -> b, epoch {epoch}"
        assert shown[-1] == "room:3: b owns it already"
        assert await run_command("transfer", "room:1", "--to", "a", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["unchanged"] == []
        (moved,) = document["transfers"]
        assert moved.pop("transfer_id").startswith("transfer_")
        assert moved.pop("epochs") == {"room:1": t.a.claims["room:1"].epoch}
        assert moved == {
            "service_name": "rooms",
            "from_instance_id": "b",
            "to_instance_id": "a",
            "transferred": ["room:1"],
            "failed": [],
            "forced": False,
        }


async def test_many_resources_move_in_parts(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part is a transfer of its own."""
    ids = [f"shelf:{n}" for n in range(130)]
    async with town() as t:
        await t.a.bulk_claim(ids)
        assert await run_command("transfer", *ids, "--to", "b", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert [len(part["transferred"]) for part in document["transfers"]] == [100, 30]
        assert sorted(t.b.claims) == sorted(ids)


async def test_what_cannot_move_is_said(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """One refusal of everything is an error of its kind; where others moved, it is exit status 1."""
    async with town() as t, t.node.serve(Service("cellars"), instance_id="c") as c:
        await c.claim("cellar:1")
        with pytest.raises(InvalidRequest, match="at least one"):
            await run_command("transfer", "--to", "b")
        with pytest.raises(ResourceNotFound, match="room:9"):
            await run_command("transfer", "room:1", "room:9", "--to", "b")
        with pytest.raises(InstanceNotFound, match="nobody"):
            await run_command("transfer", "room:1", "--to", "nobody")
        assert await run_command("transfer", "room:1", "cellar:1", "--to", "b") == 1
        out, err = capsys.readouterr()
        assert out.startswith("room:1: a -> b")
        assert err.startswith("aegis: cellar:1 did not move: ")
        assert "cellar:1" in c.claims


async def test_force_is_permitted_to_who_says_so(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the owner is not asked."""
    async with town() as t:
        assert await run_command("transfer", "room:1", "--to", "b", "--force") == 0
        assert capsys.readouterr().out.rstrip().endswith(", by force")
        assert sorted(t.b.claims) == ["room:1"]


PLUGIN = """
from aegis_core.hookspecs import hookimpl

@hookimpl
def aegis_authorize(principal, operation, target):
    return False if operation == "force" else None
"""


async def test_the_word_of_a_plug_in_counts_more_than_the_operator_s(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it denies stays denied."""
    (tmp_path / "no_force_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "no_force_plugin")
    async with town() as t:
        with pytest.raises(Forbidden, match="no_force_plugin"):
            await run_command("transfer", "room:1", "--to", "b", "--force")
        assert "room:1" in t.a.claims


async def test_a_drained_instance_has_handed_everything_over(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays, and takes no more."""
    async with town() as t:
        assert await run_command("drain", "a", "--wait", "3") == 0
        assert capsys.readouterr().out == "rooms/a is drained: it owned 2 resources, and owns 0 now\n"
        assert t.a.draining
        assert await run_command("drain", "b", "--service", "rooms", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {
            "service_name": "rooms",
            "instance_id": "b",
            "resources_before": 0,
            "resources": 0,
        }


async def test_draining_waits_for_calls(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """While it does, it looks how far things are."""
    async with town() as t, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def sleep() -> None:
            await t.node.call("rooms", "nap", {"seconds": 2}, resource_id="room:1")

        await trio.sleep(1)
        assert await run_command("drain", "a") == 0
        assert trio.current_time() >= 2
        assert not t.a.claims


async def test_one_that_was_merely_registered_is_told_to_drain(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """No node could carry it out."""
    async with open_node(BACKEND) as node:
        await node.registry.register("lamps", "l")
        assert await run_command("drain", "l") == 0
        assert "no node serves it" in capsys.readouterr().out
        assert (await node.registry.get_service("lamps")).instances[0].draining


class Denied:
    """A plug-in of the instance's node that denies draining."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """No to that."""
        return False if operation == "drain" else None


async def test_the_instance_s_own_policy_decides_on_draining(autojump_clock: MockClock) -> None:
    """What it refuses is an error, not a group of errors."""
    async with open_node(BACKEND, plugins=[Denied()]) as node, node.serve(rooms, instance_id="a") as a:
        with pytest.raises(Forbidden):
            await run_command("drain", "a")
        assert not a.draining


async def test_an_id_of_two_services_needs_the_service(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """And an id of none is not found."""
    async with town() as t, t.node.serve(Service("cellars"), instance_id="a"):
        with pytest.raises(InvalidRequest, match="cellars, rooms have an instance 'a' each @ --service"):
            await run_command("drain", "a")
        with pytest.raises(InstanceNotFound):
            await run_command("drain", "z")
        assert await run_command("disconnect", "a", "--service", "cellars") == 0
        assert capsys.readouterr().out == "cellars/a is disconnected; 0 resources are free\n"


async def test_a_disconnected_instance_has_lost_everything(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it owned is named."""
    async with town() as t:
        before = t.a.lease_tag
        assert await run_command("disconnect", "a") == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == "rooms/a is disconnected; 2 resources are free"
        assert sorted(shown[1:]) == ["room:1", "room:2"]
        await t.a.claim("room:1")
        assert t.a.lease_tag != before
        assert await run_command("disconnect", "a", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["service_name"], document["instance_id"]) == ("rooms", "a")
        assert "room:1" in document["released"]


TOKENS = """
[nodes]
token = "n-secret"

[operators]
token = "o-secret"
admin = true
"""


async def test_a_router_asks_for_an_admin_s_token(tmp_path: Path) -> None:
    """To end another's lease, or to take by force what it owns."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    (tmp_path / "nodes").write_text("n-secret")
    (tmp_path / "operators").write_text("o-secret")
    tokens = str(tmp_path / "tokens.toml")
    async with open_router("--backend", "memory://", "--http", "127.0.0.1:0", "--tokens", tokens) as router:
        nodes, operators = (f"{router.url}?token_file={tmp_path / name}" for name in ("nodes", "operators"))
        async with town(nodes) as t:
            for line in (("disconnect", "a"), ("transfer", "room:1", "--to", "b", "--force")):
                done = await run_program(*line, "--backend", nodes)
                assert (done.returncode, done.stdout) == (1, b"")
                assert b"token:nodes may only act for itself" in done.stderr
                assert b"(on a router, a token with admin = true may)" in done.stderr
            assert "room:1" in t.a.claims
            done = await run_program("transfer", "room:1", "--to", "b", "--force", "--backend", operators)
            assert (done.returncode, done.stderr) == (0, b"")
            done = await run_program("disconnect", "b", "--json", "--backend", operators)
            assert json.loads(done.stdout)["released"] == ["room:1"]
