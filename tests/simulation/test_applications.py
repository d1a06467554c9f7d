"""What a simulation judges of an application that runs in its nodes unchanged: all of its nodes, its lines, what it has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

import attrs
import pytest
import trio

from aegis_core import (
    Health,
    Instance,
    LeaseLost,
    Node,
    ResourceConflict,
    Role,
    Service,
    StoreUnavailable,
    hookspecs,
    open_node,
)
from aegis_core.engine import roles
from aegis_core.models import Outcome, Resource
from aegis_core.node.claims import Claim
from aegis_core.node.deletions import Deleted, Deletions
from aegis_core.node.registry import Registry
from aegis_pytest.history import BeliefBegan
from aegis_pytest.simulation import Application, Scenario, Simulation, Trouble, draw_scenario, simulate
from tests.simulation.planted import PLANTED, Change

ROOMS = Service("rooms")
QUIET = Scenario(seed="quiet", nodes=("a", "b", "c"), seconds=60.0, ttl=3.0)


async def _share(node: Node, ttl: float | None = None) -> None:
    """Hold the room for a while, in turn with the other nodes."""
    async with node.serve(ROOMS, ttl=ttl) as instance:
        while True:
            with suppress(LeaseLost):
                async with instance.own("room", role=Role.STANDBY):
                    await trio.sleep(4.0)


async def share() -> None:
    """The same node for ever."""
    async with open_node() as node:
        await _share(node)


async def share_anew() -> None:
    """A new node every now and then."""
    while True:
        with trio.move_on_after(15.0):
            async with open_node() as node:
                await _share(node)


def test_every_node_that_an_application_opens_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only its first: a bug that makes two owners only later is found."""
    good = simulate(QUIET, Application(share_anew))
    assert good.is_good, good.text()
    beliefs = [record for record in good.history if isinstance(record, BeliefBegan)]
    assert max(record.at for record in beliefs) > 50.0
    assert len({record.instance for record in beliefs}) > 2 * len(QUIET.nodes)  # each has an id of its own

    monkeypatch.setitem(vars(roles), "_is_late", lambda: trio.current_time() > 40.0)
    taken = "if record is not None and holder is not None:"
    late = f"{taken[:-1]} and not (_is_late() and holder.lease != lease):"
    Change("aegis_core.engine.roles:promote", taken, late).make(monkeypatch)
    bad = simulate(QUIET, Application(share_anew))
    assert 40.0 <= bad.seconds < 60.0
    assert "room" in bad.text()


def test_dead_owner_is_not_looked_for_on_a_node_that_its_application_has_closed() -> None:
    """What that knew last will never change."""

    async def look() -> None:
        async with open_node() as node, node.serve(ROOMS) as instance:
            with suppress(ResourceConflict):
                await instance.claim("room")
                await trio.sleep_forever()
            await trio.sleep(5.0)

    outcome = simulate(
        attrs.evolve(QUIET, latencies=(0.0, 0.01, 0.01), troubles=(Trouble(10.0, 20.0, "crash", ("a",)),)),
        Application(look),
    )
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.freed == 1


def test_who_stands_in_an_applications_line_is_promoted_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program of the simulation itself is; it is counted."""
    good = simulate(QUIET, Application(share))
    assert good.is_good, good.text()
    assert good.evidence.promotions > 5

    (bug,) = (it for it in PLANTED if it.name == "who stands in line is never promoted")
    for change in bug.changes:
        change.make(monkeypatch)
    assert simulate(QUIET, Application(share)).text().startswith("nobody owns room from")


@pytest.mark.parametrize("ends", ["gives up", "dies"])
def test_line_is_left_by_who_gives_up_or_dies(monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Until then he was owed what was free, and afterwards nobody is."""
    (bug,) = (it for it in PLANTED if it.name == "who stands in line is never promoted")
    for change in bug.changes:
        change.make(monkeypatch)

    async def wait() -> None:
        async with open_node() as node, node.serve(ROOMS) as instance:
            await instance.claim("room")
            await trio.sleep(10.0)
            await instance.release("room")
            await trio.sleep(1.0)
            with trio.move_on_after(5.0 if ends == "gives up" else 90.0):
                await _hold(instance)
            await trio.sleep_forever()

    crash = (Trouble(16.0, 60.0, "crash", ("a",)),) if ends == "dies" else ()
    outcome = simulate(attrs.evolve(QUIET, nodes=("a",), troubles=crash), Application(wait))
    assert outcome.problems == ("nobody owns room from 11.000 s to 16.000 s, although a stands in line since 11.000 s",)


def test_who_is_unhealthy_is_owed_nothing() -> None:
    """Nor at once when it is well again, where it stood in line before that."""

    async def suffer() -> None:
        async with open_node() as node, node.serve(ROOMS) as instance:
            await instance.set_health(Health.UNHEALTHY)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hold, instance)
                await trio.sleep(10.3)
                await instance.set_health(Health.ONLINE)

    outcome = simulate(QUIET, Application(suffer))
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.beliefs == 1


def test_who_holds_as_much_as_he_may_is_owed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor at once when he has given it up, where he stood in line before that."""
    monkeypatch.setenv("AEGIS_MAX_RESOURCES_PER_INSTANCE", "1")

    async def hold_two() -> None:
        async with open_node() as node, node.serve(ROOMS) as instance:
            await instance.claim(f"hall:{instance.instance_id}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hold, instance)
                await trio.sleep(10.3)
                await instance.release(f"hall:{instance.instance_id}")

    outcome = simulate(QUIET, Application(hold_two))
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.beliefs == 4


async def _hold(instance: Instance) -> None:
    async with instance.own("room", role=Role.STANDBY):
        await trio.sleep_forever()


def test_lines_know_the_ttl_that_an_application_has() -> None:
    """Whoever waits for a dead owner waits for the lease of that, not for the scenario's TTL."""

    async def share_slowly() -> None:
        async with open_node() as node:
            await _share(node, ttl=30.0)

    crashes = tuple(Trouble(10.0, 1.0, "crash", (name,)) for name in "abc")
    outcome = simulate(attrs.evolve(QUIET, nodes=("a", "b", "c", "d"), troubles=crashes), Application(share_slowly))
    assert outcome.is_good, outcome.text()
    assert outcome.seconds >= 60.0 + 3 * 30.0


async def _refuse(_self: Registry, resource_id: str) -> Resource:
    raise StoreUnavailable(reason=f"nobody tells of {resource_id}", outcome=Outcome.NOT_SENT)


async def _keep(_self: Deletions, targets: Sequence[str], _timeout: float, moving: Collection[Claim]) -> Deleted:
    """Tell of what was wound down that it is deleted, and never end with what is found to be left."""
    if not moving:
        await trio.sleep_forever()
    await trio.lowlevel.checkpoint()
    return dict.fromkeys(targets, True)


@pytest.mark.parametrize(
    ("where", "name", "instead", "told"),
    [
        (Registry, "get_owner", _refuse, "b cannot tell who owns room: "),
        (Deletions, "_delete", _keep, "b is told that rooms-"),
    ],
    ids=["untold", "kept"],
)
def test_what_an_application_held_is_well_again(
    monkeypatch: pytest.MonkeyPatch, where: type, name: str, instead: Callable[..., Awaitable[object]], told: str
) -> None:
    """When it has healed, every node is told who holds it, and he believes so. Of a node that was closed nothing is asked."""

    async def release(*, stays: bool) -> None:
        async with open_node() as node, node.serve(ROOMS) as instance:
            with suppress(ResourceConflict, StoreUnavailable):
                await instance.claim("room")
                await trio.sleep(5.0)
                await instance.release("room")
            if stays:
                await trio.sleep_forever()

    async def stay() -> None:
        await release(stays=True)

    async def end() -> None:
        await release(stays=False)

    assert simulate(QUIET, Application(stay)).is_good
    monkeypatch.setattr(where, name, instead)
    assert simulate(QUIET, Application(stay)).text().startswith(f"nothing is wrong any more, but {told}")
    assert simulate(QUIET, Application(end)).is_good


async def _serve_nothing() -> None:
    async with open_node():
        await trio.sleep_forever()


async def _end() -> None:
    async with open_node() as node, node.serve(ROOMS):
        await trio.sleep(0.5)


@pytest.mark.parametrize("main", [_serve_nothing, _end])
def test_application_that_does_nothing_is_refused(
    aegis_simulation: Simulation, main: Callable[[], Awaitable[None]]
) -> None:
    """Else the test would pass, with nothing checked."""
    with pytest.raises(ValueError, match="main held no resource and no role, and no call came to a handler"):
        aegis_simulation(main, seeds=range(2), seconds=20.0)


class _Permit:
    @hookspecs.hookimpl
    def aegis_authorize(self) -> bool:
        return True


@pytest.mark.parametrize("seed", ["0", "1"])
def test_application_may_take_by_force(seed: str) -> None:
    """Who is robbed learns of it late, after more than a TTL if his watch lags, and of what he took himself perhaps only then."""

    async def take() -> None:
        async with open_node(plugins=[_Permit()]) as node, node.serve(ROOMS) as instance:
            while True:
                await trio.sleep(11.3 + node.runtime.random.random() * 9)
                with suppress(ResourceConflict, StoreUnavailable):
                    await instance.claim("room", force=True)

    scenario = draw_scenario(seed, nodes=("a", "b", "c"), ttl=10.0, acts=0, troubles=6, kinds=("lag",))
    outcome = simulate(scenario, Application(take))
    assert outcome.is_good, outcome.text()
    assert any(it.forced for it in outcome.history if isinstance(it, BeliefBegan))
