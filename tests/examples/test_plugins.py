"""The two example plug-ins: each program runs, and each plug-in does what it says."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import balancer_plugin
import observer_plugin
import pytest
from balancer_plugin import SameZone
from observer_plugin import Ledger

from aegis_core import open_node
from aegis_core.errors import ConfigError
from aegis_core.models import ServiceInstance

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
AT = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("program", "output"),
    [
        (
            "balancer_plugin.py",
            "both zones live: {'north-1': 5, 'north-2': 5}\nthe north is gone: south-1\n",
        ),
        (
            "observer_plugin.py",
            "owners: {'room:1': 'second'}\nchanges: {'room:1': 2, 'room:2': 1}\n",
        ),
    ],
)
def test_program_runs_as_it_is_shown(program: str, output: str) -> None:
    """By hand, as a reader runs it."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", "")},
    )
    assert (done.stdout, done.stderr) == (output, "")


@pytest.mark.parametrize("program", ["balancer_plugin.py", "observer_plugin.py"])
def test_import_runs_nothing(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A plug-in that is loaded must not begin to work by itself."""
    runpy.run_path(str(EXAMPLES / program), run_name="a_plugin")
    assert capsys.readouterr().out == ""


async def test_programs_run_in_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    """Their `main` needs no process of its own, nor real time."""
    await balancer_plugin.main()
    await observer_plugin.main()
    assert "the north is gone: south-1" in capsys.readouterr().out


def instance(name: str, zone: str | None) -> ServiceInstance:
    """One of the candidates."""
    metadata = {} if zone is None else {"zone": zone}
    return ServiceInstance(service_name="s", instance_id=name, metadata=metadata, registered_at=AT, last_heartbeat=AT)


def test_balancer_stays_in_its_zone_while_it_can() -> None:
    """Those of the zone in turn; all of them when the zone is empty; anew whenever the candidates change."""
    balancer = SameZone("north")
    here = (instance("a", "north"), instance("b", "south"), instance("c", "north"), instance("d", None))
    chosen = [balancer.choose(here, key=None, pending=lambda _: 0).instance_id for _ in range(4)]
    assert sorted(chosen) == ["a", "a", "c", "c"]
    elsewhere = here[1:2] + here[3:]
    chosen = [balancer.choose(elsewhere, key=None, pending=lambda _: 0).instance_id for _ in range(4)]
    assert sorted(chosen) == ["b", "b", "d", "d"]


async def test_balancer_can_be_named_by_the_setting_once_it_is_loaded() -> None:
    """Without the plug-in the name is unknown, and the error lists those that are known."""
    async with open_node("memory://", config={"balancer": "same-zone", "plugins": {"enabled": ["balancer_plugin"]}}):
        pass
    with pytest.raises(ConfigError, match="there is no balancer 'same-zone', only consistent-hash"):
        async with open_node("memory://", config={"balancer": "same-zone"}):
            pass


async def test_observer_sees_what_the_cluster_does() -> None:
    """Also what another node does."""
    ledger = Ledger()
    async with (
        open_node("memory://", plugins=[ledger]) as node,
        open_node("memory://") as other,
        other.serve(observer_plugin.rooms, instance_id="elsewhere") as served,
    ):
        (claim,) = await served.claim("room:1")
        await node.registry.get_owner("room:1")  # a fresh answer: the observing node has seen all that went before
        assert claim.resource_id in ledger.owner
