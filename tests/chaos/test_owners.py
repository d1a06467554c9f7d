"""Owners are killed, stopped, ended in order, and raced for: on one server in every run, on a cluster in the thorough one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core import LeaseLost, Node, codec, open_node
from aegis_core.envelopes import RequestEnvelope
from aegis_core.names import instance_key, target_key
from aegis_pytest.history import BeliefBegan, BeliefEnded, History, Invoked
from tests.chaos.process import Process
from tests.chaos.scene import Scene, open_scene
from tests.chaos.servers import bucket_url, make_healthy
from tests.chaos.witness import Seen, open_witness

TTL: Final = 5.0
# What is promised while the store answers, and so what is tested: these times decide.
AFTER_KILL: Final = TTL + 1.0 + 0.1
"""Seconds within which somebody who is killed has a successor."""
IN_ORDER: Final = 0.2
"""Seconds within which somebody who is told to end has a successor."""
Count = Callable[[str, object], None]

_numbers = count(1)


@pytest.fixture(params=[1, pytest.param(3, marks=pytest.mark.thorough)], ids=["one", "cluster"])
def servers(request: pytest.FixtureRequest) -> NatsServers:
    """One server, or three."""
    name = "one_server" if request.param == 1 else "three_servers"
    found: NatsServers = request.getfixturevalue(name)
    return found


@pytest.fixture
def url(servers: NatsServers) -> str:
    """A bucket of the test's own."""
    return bucket_url(servers, f"owners-{next(_numbers)}")


async def own_in_line(scene: Scene, *, ttl: float = TTL) -> tuple[Process, Process]:
    """An owner of ``key`` and its standby."""
    first, second = await scene.start_all(2, ttl=ttl)
    await first.ask("own", key="key")
    await first.expect("owns", key="key")
    await second.ask("own", key="key")
    await second.wait_in_line("key")
    return first, second


def last_of(story: Sequence[Seen], key: str) -> Seen:
    """The last of *story* that is about *key*."""
    return [it for it in story if it.key == key][-1]


async def test_standby_takes_over_from_who_is_killed(
    servers: NatsServers, url: str, tmp_path: Path, record_property: Count
) -> None:
    """Its lease has run out in the store by then, and nobody but its first standby has it next, in time."""
    await make_healthy(servers)
    turns = min(2, len(servers.servers))
    took: list[float] = []
    after_expiry: list[float] = []
    async with open_scene(url, tmp_path) as scene:
        active, standby = await own_in_line(scene)
        async with open_witness(url) as witness:
            for turn in range(turns):
                active.kill()
                owns = await standby.expect("owns", key="key")
                assert active.died_at is not None
                took.append(at_of(owns) - active.died_at)
                story = await witness.up_to(epoch_of(owns))
                ended, claimed = last_of(story, instance_key("chaos", active.name)), last_of(story, target_key("key"))
                assert (ended.what, claimed.what) == ("expired", "put")
                assert ended.revision < claimed.revision == epoch_of(owns)
                after_expiry.append(claimed.at - ended.at)
                if turn + 1 < turns:
                    active, standby = standby, await scene.start(ttl=TTL, name=f"heir-{turn}")
                    await standby.ask("own", key="key")
                    await standby.wait_in_line("key")
        await scene.close(standby, ["key"])
    shown = ", ".join(f"{one:.3f} s" for one in took)
    of_those = ", ".join(f"{1000 * one:.0f} ms" for one in after_expiry)
    record_property(
        "counted", f"TTL {TTL:g} s: from kill -9 to the next owner {shown}; of those from expiry {of_those}"
    )
    assert max(took) <= AFTER_KILL


async def test_standby_takes_over_from_who_ends_in_order(
    servers: NatsServers, url: str, tmp_path: Path, record_property: Count
) -> None:
    """Who ends releases first, so that nobody waits until a lease runs out, nor for long."""
    await make_healthy(servers)
    turns = len(servers.servers)
    took: list[float] = []
    before: list[str] = []
    async with open_scene(url, tmp_path) as scene:
        active, standby = await own_in_line(scene, ttl=30)
        async with open_witness(url) as witness:
            for turn in range(turns):
                told_at = time.monotonic()
                active.end()
                owns = await standby.expect("owns", key="key")
                took.append(at_of(owns) - told_at)
                assert await active.wait_ended() == 0
                *_, released, claimed = (
                    it for it in await witness.up_to(epoch_of(owns)) if it.key == target_key("key")
                )
                before.append(released.what)
                assert claimed.what == "put"
                assert claimed.revision == epoch_of(owns)
                if turn + 1 < turns:
                    active, standby = standby, await scene.start(name=f"heir-{turn}")
                    await standby.ask("own", key="key")
                    await standby.wait_in_line("key")
            assert not [it for it in witness.seen if it.what == "expired"]
            # A bucket keeps one message of a key: what is overwritten before it was delivered is told to nobody.
            assert "deleted" in before
        gaps = gaps_of(await scene.close(standby, ["key"]))
    assert len(gaps) == turns
    shown = ", ".join(f"{1000 * one:.0f}" for one in took)
    without = ", ".join(f"{1000 * gap:.0f}" for gap in gaps)
    record_property("counted", f"from SIGTERM to the next owner {shown} ms; of those without an owner {without} ms")
    assert max(took) <= IN_ORDER


def epoch_of(event: dict[str, object]) -> int:
    """The epoch that *event* tells."""
    epoch = event["epoch"]
    assert isinstance(epoch, int)
    return epoch


def at_of(event: dict[str, object]) -> float:
    """When *event* happened, by the monotonic clock, which all processes share."""
    at = event["at"]
    assert isinstance(at, float)
    return at


def gaps_of(history: History) -> list[float]:
    """Seconds in which nobody believed, between one owner of ``key`` and the next."""
    begins = sorted(it.at for it in history if isinstance(it, BeliefBegan) and it.key == "key")
    ends = sorted(it.at for it in history if isinstance(it, BeliefEnded) and it.key == "key")
    return [begin - end for end, begin in zip(ends, begins[1:], strict=False)]


async def ask_slowly(node: Node, owner: str, gate: Path, answers: list[object]) -> None:
    """Ask *owner*, by its endpoint, for a call of ``key`` that blocks until there is a *gate*; its answer to *answers*."""
    record = node.runtime.directory.snapshot.instance("chaos", owner)
    held = node.owner_of("key")
    assert record is not None
    assert held is not None
    params = {"name": "slow", "gate": str(gate)}
    request = RequestEnvelope(
        method="touch", params=params, service_name="chaos", resource_id="key", epoch=held.epoch, timeout=120.0
    )
    (transport,) = node.runtime.transports.values()
    payload = await transport.request(record.endpoints[0], codec.encode_request(request), timeout=120.0)
    answers.append(codec.decode_answer(payload).error)


async def test_stopped_owner_finds_itself_replaced(
    servers: NatsServers, url: str, tmp_path: Path, record_property: Count
) -> None:
    """Stopped past its time to live in the middle of a handler: what it answers and writes then is refused."""
    await make_healthy(servers)
    answers: list[object] = []
    gate = tmp_path / "gate"
    async with open_scene(url, tmp_path) as scene, open_node(url) as node:
        owner, heir = await own_in_line(scene)
        await node.runtime.directory.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_slowly, node, "p1", gate, answers)
            await owner.expect("handling", name="slow")
            with owner.stopped():
                owns = await heir.expect("owns", key="key")
                await heir.ask("call", key="key")
                gate.touch()
            assert (await owner.expect("wrote", name="slow"))["accepted"] is False
            lost = await owner.expect("lost", key="key")
        assert lost["reason"] == "EXPIRED"
        (answer,) = answers
        assert isinstance(answer, LeaseLost)
        await owner.wait_in_line("key")  # it waits for its turn again
        first, second = beliefs_of(await scene.close(owner, ["key"]))
    assert (first.instance, second.instance, second.epoch) == ("p1", "p2", epoch_of(owns))
    assert first.at <= second.at
    record_property("counted", f"stopped: it believed until {1000 * (second.at - first.at):.0f} ms before the next did")


def beliefs_of(history: History) -> tuple[BeliefEnded, BeliefBegan]:
    """The end of the first owner's belief in ``key``, by its own clock, and the beginning of the second's."""
    ends = sorted((it for it in history if isinstance(it, BeliefEnded) and it.key == "key"), key=lambda it: it.epoch)
    begins = sorted((it for it in history if isinstance(it, BeliefBegan) and it.key == "key"), key=lambda it: it.epoch)
    return ends[0], begins[1]


@pytest.mark.parametrize(
    ("processes", "claimants"),
    [(2, 50), pytest.param(8, 125, marks=pytest.mark.thorough)],
    ids=["hundred", "thousand"],
)
async def test_one_of_many_claims_at_once_wins(
    servers: NatsServers, url: str, tmp_path: Path, record_property: Count, processes: int, claimants: int
) -> None:
    """As many instances as there are claims want one resource at the same time, from several processes."""
    await make_healthy(servers)
    async with open_scene(url, tmp_path) as scene:
        started = await scene.start_all(processes, timeout=30)
        races = [await process.begin("race", key="key", claimants=claimants) for process in started]
        for process in started:
            await process.expect("registered", within=120)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for process in started:
                nursery.start_soon(process.ask, "go")
        results = [await process.result(race) for process, race in zip(started, races, strict=True)]
        took = time.monotonic() - began
        history = await scene.close(started[0], ["key"])
    winners = [winner for result in results if isinstance(result, dict) for winner in result["winners"]]
    refused = sum(result["refused"] for result in results if isinstance(result, dict))
    claims = sum(isinstance(it, Invoked) and it.instance != "" for it in history)
    record_property(
        "counted",
        f"{claims} claims of one resource from {processes} processes in {took:.1f} s: 1 won, {refused} refused",
    )
    assert len(winners) == 1
    assert refused == processes * claimants - 1
