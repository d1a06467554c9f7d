"""One scenario while it runs: the nodes with their programs, what goes wrong with them, and what they owe."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import attrs
import pytest
import trio

from aegis_core import AegisError, Claim, Instance, Node
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults
from aegis_pytest.faults.kinds import STORE
from aegis_pytest.faults.member import Member
from aegis_pytest.history import BeliefProbe, Died, History, Record, Recorder
from aegis_pytest.simulation.program import Program, Storage
from aegis_pytest.simulation.scenario import Act, Scenario, Trouble

__all__ = ["Application", "World"]

_FREED: Final = 1.0
"""Seconds beyond the TTL within which the resources of a dead instance are free (L1)."""

_PROMOTED: Final = 0.1
"""Seconds more within which one of the first two in line is active (L1)."""

_LOOK: Final = 0.01
_RETRY: Final = 1.0
_SETTLED: Final = 3.0


@attrs.frozen
class Application:
    """What the nodes of a simulation run.

    Args:
        main: The application, whose bare ``open_node()`` is the node. Without one, each node serves an instance that does
            what the scenario's acts say.
        work: ``await work(node, random)`` besides, on each node: calls, say. It dies with the node.
    """

    main: Callable[[], Awaitable[object]] | None = None
    work: Callable[[Node, random.Random], Awaitable[object]] | None = None


@attrs.define(eq=False)
class _Process:
    """One life of a node, with its program."""

    name: str
    program: Program
    probe: BeliefProbe
    node: Node
    notes: _Notes

    @property
    def claims(self) -> Mapping[str, Claim]:
        """What its instances hold."""
        return {key: claim for instance in self.node.hosted.values() for key, claim in instance.claims.items()}


@attrs.define(eq=False)
class _Notes:
    """Takes a process's records as long as it lives: what its tasks do when they unwind, no process would do."""

    history: History
    is_open: bool = True

    def take(self, record: Record) -> None:
        if self.is_open:
            self.history.append(record)


def _runs(member: Member) -> bool:
    return not member.is_stopped


class World:
    """Runs *scenario* on *cluster*, and notes what happens in *history*.

    Args:
        scenario: What is to happen.
        application: What the nodes run.
        cluster: Without nodes yet.
        history: Takes the records.
        problems: Takes what is wrong besides: promises about time that were not kept.
    """

    def __init__(
        self,
        scenario: Scenario,
        application: Application,
        cluster: Cluster,
        history: History,
        problems: list[str],
    ) -> None:
        self._scenario = scenario
        self._application = application
        self._cluster = cluster
        self._faults = Faults(cluster.plane)
        self._history = history
        self._problems = problems
        self._storage = Storage()
        self._living: dict[str, _Process] = {}
        self._lives: dict[str, int] = {}
        self._busy: dict[str, trio.Lock] = {name: trio.Lock() for name in scenario.nodes}

    def __repr__(self) -> str:
        return f"<World of {list(self._living)} in {self._scenario.seed!r}>"

    async def run(self) -> None:
        """Let everything happen, heal what is wrong, wait until all has settled, and read every owner once more."""
        scenario = self._scenario
        async with trio.open_nursery() as nursery:
            for name in scenario.nodes:
                nursery.start_soon(self._start, name)
            for trouble in scenario.troubles:
                nursery.start_soon(self._suffer, trouble)
            await trio.sleep(scenario.seconds)
        self._cluster.plane.heal()
        await trio.sleep(_SETTLED * scenario.ttl)
        for key in sorted({act.key for act in scenario.acts}):
            for name, process in self._living.items():
                await self._perform(process, Act(0.0, name, "get_owner", key))

    # --- Programs ---

    async def _start(self, name: str) -> None:
        """Start the node and its program, again and again while the store cannot be reached."""
        async with self._busy[name]:
            number = self._lives[name] = self._lives.get(name, 0) + 1
            process = name if number == 1 else f"{name}.{number}"
            notes = _Notes(self._history)
            recorder = Recorder(process, notes.take, clock=trio.current_time)
            program = Program(recorder, self._storage, self._instance_of)
            while True:
                try:
                    node = await self._open(name, program)
                    break
                except AegisError:
                    with suppress(pytest.UsageError):
                        await self._cluster.kill(name)
                    await trio.sleep(_RETRY)
            member = self._cluster.plane.member(name)
            assert member is not None
            probe = BeliefProbe(recorder, runs=partial(_runs, member))
            probe.watch_node(node)
            trio.lowlevel.add_instrument(probe)
            self._living[name] = _Process(process, program, probe, node, notes)
            if self._application.work is not None:
                chance = random.Random(f"{self._scenario.seed}:{process}")
                await self._cluster.run(name, self._application.work, node, chance)
            acts = [act for act in self._scenario.acts if act.node == name and act.at >= trio.current_time()]
            await self._cluster.run(name, self._work, name, self._living[name], acts)

    async def _open(self, name: str, program: Program) -> Node:
        if self._application.main is not None:
            return await self._cluster.start(name, self._application.main)
        node = await self._cluster.node(name)
        program.enter(node)
        await self._cluster.serve(name, program.service, ttl=self._scenario.ttl)
        return node

    async def _work(self, name: str, process: _Process, acts: Sequence[Act]) -> None:
        member = self._cluster.plane.member(name)
        assert member is not None
        async with trio.open_nursery() as nursery:
            for act in acts:
                await trio.sleep_until(act.at)
                await self._cluster.plane.wait_running(member)
                nursery.start_soon(self._perform, process, act)

    async def _perform(self, process: _Process, act: Act) -> None:
        for instance in process.node.hosted.values():
            await process.program.perform(process.node, instance, act)
            break

    def _instance_of(self, name: str) -> Instance | None:
        process = self._living.get(name)
        return None if process is None else next(iter(process.node.hosted.values()), None)

    # --- Troubles ---

    async def _suffer(self, trouble: Trouble) -> None:
        await trio.sleep_until(trouble.at)
        if trouble.kind == "crash":
            await self._crash(trouble)
        elif trouble.kind == "skew":
            # For good: a machine that was suspended does not get the time back.
            member = self._cluster.plane.member(trouble.names[0])
            if member is not None and not member.is_dead:
                member.clock.jump(trouble.size)
        else:
            with suppress(pytest.UsageError), self._spoil(trouble):  # it hits nobody who is dead
                await trio.sleep(trouble.lasts)

    @contextmanager
    def _spoil(self, trouble: Trouble) -> Iterator[None]:
        faults, names, size = self._faults, trouble.names, trouble.size
        match trouble.kind:
            case "partition":
                others = [name for name in (*self._scenario.nodes, STORE) if name not in names]
                fault = faults.partition(names, others)
            case "store_down":
                fault = faults.partition(names)
            case "pause":
                fault = faults.pause(names[0])
            case "drift":
                fault = faults.drift(names[0], size)
            case "slow":
                fault = faults.slow((names[0], names[1]), size)
            case "drop":
                fault = faults.drop((names[0], names[1]))
            case "duplicate":
                fault = faults.duplicate((names[0], names[1]))
            case "lose_lease":
                fault = faults.lose_lease(names[0])
            case "doubt_applied":
                fault = faults.indeterminate(names[0], applied=True, times=None)
            case "doubt_lost":
                fault = faults.indeterminate(names[0], applied=False, times=None)
            case "doubt_later":
                fault = faults.indeterminate(names[0], applied="later", after=size, times=None)
            case _:
                raise ValueError(f"there is no trouble {trouble.kind!r}")
        with fault:
            yield

    async def _crash(self, trouble: Trouble) -> None:
        (name,) = trouble.names
        if name not in self._living or self._busy[name].locked():
            return
        async with trio.open_nursery() as nursery:
            async with self._busy[name]:
                dead = self._living.pop(name)
                died_at = trio.current_time()
                if self._is_quiet(trouble):
                    nursery.start_soon(self._expect_heirs, dead, died_at)
                trio.lowlevel.remove_instrument(dead.probe)
                dead.notes.is_open = False
                self._history.append(Died(at=died_at, process=dead.name))
                await self._cluster.kill(name)
                await trio.sleep(trouble.lasts)
            await self._start(name)

    # --- What is owed ---

    def _is_quiet(self, crash: Trouble) -> bool:
        """Whether nothing else goes wrong from before *crash* until all that follows from it has happened."""
        end = crash.at + self._scenario.ttl + _FREED + _PROMOTED + 2 * _LOOK
        # A commit that is applied later is still to come after its trouble has healed; a clock that jumped stays wrong.
        return not any(
            other is not crash
            and other.at <= end
            and crash.at <= other.at + other.lasts + other.size + self._scenario.ttl
            for other in self._scenario.troubles
        )

    async def _expect_heirs(self, dead: _Process, died_at: float) -> None:
        """L1: what *dead* held is free in time; of those who wait for it, one is active in time."""
        held = [key for key, claim in dead.claims.items() if claim.held]
        owners = {claim.instance.instance_id for claim in dead.claims.values()}
        heirs = {
            key: until
            for key in held
            for process in self._living.values()
            if (until := process.program.waiting.get(key)) is not None
        }
        freed_at = died_at + self._scenario.ttl + _FREED
        await trio.sleep_until(freed_at + _LOOK)
        for key in held:
            for process in self._living.values():
                if process.node.owner_of(key) in owners:
                    late = f"{process.name} still takes {dead.name}, dead since {died_at:.3f} s, for the owner of {key}"
                    self._problems.append(f"{late} at {trio.current_time():.3f} s")
        await trio.sleep_until(freed_at + _PROMOTED + _LOOK)
        for key, until in heirs.items():
            if until > trio.current_time() and not any(
                key in process.claims or process.node.owner_of(key) is not None for process in self._living.values()
            ):
                self._problems.append(
                    f"nobody owns {key} at {trio.current_time():.3f} s, although {dead.name} died at {died_at:.3f} s and there "
                    "was somebody in line"
                )
