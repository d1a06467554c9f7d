"""One scenario while it runs: the nodes with their programs, what goes wrong with them, and what they owe."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import pytest
import trio

from aegis_core import AegisError, Claim, Instance, Node, names
from aegis_core.errors import Held
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults.kinds import STORE, Delay
from aegis_pytest.history import Answer, BeliefBegan, BeliefProbe, Died, History, Kind, Recorder
from aegis_pytest.simulation.aftermath import not_well_again
from aegis_pytest.simulation.application import Application
from aegis_pytest.simulation.calls import Calls
from aegis_pytest.simulation.calm import (
    lost_for_nothing,
    not_claimed_again,
    out_of_turn,
    refused_for_nothing,
    run_twice,
)
from aegis_pytest.simulation.lines import Lines
from aegis_pytest.simulation.monitor import Monitor
from aegis_pytest.simulation.process import Notes, Process, Watch
from aegis_pytest.simulation.program import SERVICE, Program, Storage
from aegis_pytest.simulation.promptness import FREED, Wait, calm, is_punctual, judge_promptness
from aegis_pytest.simulation.scenario import ENDS, Act, Scenario, Trouble
from aegis_pytest.simulation.spoiling import spoil

__all__ = ["Stopped", "World"]

_LOOK: Final = 0.01
_MOMENT: Final = 1e-6
_RETRY: Final = 1.0
_SETTLED: Final = 3.0


class Stopped(Exception):
    """What must hold at every moment did not: there is no use in going on."""


class World:
    """Runs *scenario* on *cluster*, and notes what happens in *history*.

    Args:
        scenario: What is to happen.
        application: What the nodes run.
        cluster: Without nodes yet.
        history: Takes the records.
        problems: Takes what is wrong besides: promises about time that were not kept.
        seen: Takes what was seen to be wrong while it ran. The run ends with the first such breach.
    """

    def __init__(
        self,
        scenario: Scenario,
        application: Application,
        cluster: Cluster,
        history: History,
        problems: list[str],
        seen: list[str],
    ) -> None:
        self._scenario = scenario
        self._application = application
        self._cluster = cluster
        self._history = history
        self._problems = problems
        self._seen = seen
        self._scope = trio.CancelScope()
        self._monitor = Monitor(self._believes, self._stop)
        self._waits: list[Wait] = []
        self._deaths: list[float] = []
        self.promotions = self.freed = 0
        self.calls = Calls(self._stop)
        """Of an application that has *work*."""
        self._storage = Storage()
        self._living: dict[str, Process] = {}
        self._lines = Lines(self._living, ttl=scenario.ttl)
        self._lives: dict[str, int] = {}
        self._busy: dict[str, trio.Lock] = {name: trio.Lock() for name in scenario.nodes}
        cluster.opened = self._opened

    def __repr__(self) -> str:
        return f"<World of {list(self._living)} in {self._scenario.seed!r}>"

    async def run(self) -> None:
        """Let everything happen, heal what is wrong, wait until all has settled, and see that all is well again.

        Raises:
            Stopped: Something was seen to be wrong while it ran.
        """
        watches: list[trio.abc.Instrument] = [Watch(self._living, self._stop)]
        if self._application.main is not None or self._application.work is not None:
            watches.append(self._lines)  # the simulation's own program notes by itself where it stands
        for watch in watches:
            trio.lowlevel.add_instrument(watch)
        try:
            with self._scope:
                await self._run()
        finally:
            for watch in watches:
                trio.lowlevel.remove_instrument(watch)
            for process in self._living.values():
                process.program.stop()
                self._waits += process.program.waits
                self._lines.close(process)
        if self._seen:
            # Nothing of what unwinds now happened in the cluster. What began in the last step lasts for a moment, to be seen.
            for process in self._living.values():
                self._bury(process, trio.current_time() + _MOMENT)
            raise Stopped
        # An application's instances may have longer TTLs than the scenario's; and it stands in lines by itself.
        scenario = attrs.evolve(self._scenario, ttl=self._lines.ttl)
        promptness = judge_promptness(scenario, self._history, [*self._waits, *self._lines.waits], self._deaths)
        self.promotions = promptness.promotions
        self._problems += promptness.late
        self._problems += lost_for_nothing(scenario, self._history)
        if self._application.work is None:  # which may do what is in no history
            self._problems += refused_for_nothing(self._scenario, self._history)
        self._problems += run_twice(self._scenario, self._history)
        self._problems += out_of_turn(self._scenario, self._history, self._waits)

    async def _run(self) -> None:
        scenario = self._scenario
        for name, seconds in zip(scenario.nodes, scenario.latencies, strict=False):
            if seconds:
                self._cluster.plane.begin(Delay(frozenset({name, STORE}), seconds))
        async with trio.open_nursery() as nursery:
            for name in scenario.nodes:
                nursery.start_soon(self._start, name)
            for trouble in scenario.troubles:
                nursery.start_soon(self._suffer, trouble)
            await trio.sleep(scenario.seconds)
        self._cluster.plane.heal()
        await trio.sleep(_SETTLED * self._lines.ttl)
        living = {process.name for process in self._living.values()}
        claimed = [each for process in self._living.values() for each in process.program.claimed]
        self._problems += not_claimed_again(self._scenario, self._history, living, claimed)
        for key in sorted({act.key for act in scenario.acts}):
            for process in self._living.values():
                self._problems += await process.program.read(process.node, key)
            await self._see_that_it_works(key)
        self._problems += await not_well_again(
            self._living, self._own_keys(), latency=max(scenario.latencies, default=0.0)
        )

    def _own_keys(self) -> list[str]:
        """The resources that the application alone has held or waited for."""
        held = {record.key for record in self._history if isinstance(record, BeliefBegan)}
        waited_for = {wait.key for wait in self._lines.waits}
        asked_for = {act.key for act in self._scenario.acts}
        return sorted(key for key in (held | waited_for) - asked_for if not names.is_role(key))

    async def _see_that_it_works(self, key: str) -> None:
        """All is well again: *key* is somebody's or can be claimed, and everybody can call its owner."""
        first, *_ = self._living.values()
        for instance in first.node.hosted.values():
            try:
                await instance.claim(key)
            except Held:
                pass  # as it may be
            except (AegisError, trio.TooSlowError) as exc:
                self._problems.append(f"nothing is wrong any more, but {first.name} cannot claim {key}: {exc}")
        for process in self._living.values():
            before = self._holders(key)
            number = process.recorder.invoke(Kind.CALL, key, call=f"last {process.name} {key}")
            params = {"name": f"last {process.name} {key}", "lasts": 0.0, "stubborn": False}
            try:
                answer = await process.node.call(SERVICE, "touch", params, resource_id=key)
            except AegisError as exc:
                process.recorder.failed(number, Answer.UNKNOWN, exc)
                if len(before) == 1 and before == self._holders(key):
                    self._problems.append(f"nothing is wrong any more, but {process.name} cannot call {key}: {exc}")
            else:
                process.program.answered(number, f"last {process.name} {key}", answer)

    def _holders(self, key: str) -> list[Claim]:
        """The claims of *key* that take calls."""
        claims = [process.claims.get(key) for process in self._living.values()]
        return [claim for claim in claims if claim is not None and claim.held and not claim.leaving]

    def _believes(self, process_name: str, key: str) -> bool:
        """Whether that process believes now to hold *key*."""
        process = next((it for it in self._living.values() if it.name == process_name), None)
        claim = None if process is None else process.claims.get(key)
        return claim is not None and claim.held

    def _robbed(self, name: str, process_name: str, claim: Claim) -> None:
        """S4: what is held stays held, unless its owner gives it up, its lease ends, or it is taken by force."""
        process = self._living.get(name)
        if process is None or process.name != process_name:
            return  # It unwinds, and hears of nothing any more.
        snapshot, key = process.node.runtime.directory.snapshot, claim.resource_id
        record = snapshot.held(key)
        # Who took it by force may have given it up already: then the audit record alone tells.
        by_force = any(it.kind == "forced" and key in it.resource_ids for it in snapshot.transfers())
        if by_force or (record is not None and record.reason == "forced"):
            return
        taker = "nobody" if record is None else record.instance_id
        self._stop(
            f"lost: {key} is {taker}'s at {trio.current_time():.6f} s, although {claim.instance.instance_id}, "
            f"whose lease lives, has not given up its epoch {claim.epoch}"
        )

    def _lag(self) -> float:
        """Seconds after which no watch lags any more that lags now, or begins to before it has told of now."""
        began = end = trio.current_time()
        for it in sorted(self._scenario.troubles, key=lambda it: it.at):
            if it.kind == "lag" and it.at <= end + self._scenario.ttl and it.at + it.lasts >= began:
                end = max(end, it.at + it.lasts + it.size)
        return end - began

    def _stop(self, why: str) -> None:
        self._seen.append(why)
        self._scope.cancel()

    def _bury(self, process: Process, at: float) -> None:
        """Take nothing more from *process*: it has died."""
        self._deaths.append(at)
        process.program.stop()  # which notes how far it came
        died = Died(at=at, process=process.name)
        self._history.append(died)
        self._monitor.take(died)
        self._close(process)

    def _close(self, process: Process) -> None:
        process.program.stop()
        process.notes.is_open = False
        self._lines.close(process)
        self._waits += process.program.waits
        process.program.waits = []

    # --- Programs ---

    async def _start(self, name: str) -> None:
        """Start the node and its program, again and again while the store cannot be reached."""
        async with self._busy[name]:
            number = self._lives[name] = self._lives.get(name, 0) + 1
            process = name if number == 1 else f"{name}.{number}"
            notes = Notes(self._history, self._monitor)
            recorder = Recorder(process, notes.take, clock=trio.current_time)
            punctual = partial(is_punctual, self._scenario, name)
            program = Program(recorder, self._storage, self._instance_of, broken=self._stop, is_punctual=punctual)
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
            probe = BeliefProbe(recorder, robbed=partial(self._robbed, name, process), lag=self._lag)
            probe.watch_node(node)
            self._living[name] = Process(process, program, recorder, probe, node, member, notes)
            if self._application.work is not None:
                self.calls.watch(node)
                chance = random.Random(f"{self._scenario.seed}:{process}")
                await self._cluster.run(name, self._application.work, node, chance)
            acts = [act for act in self._scenario.acts if act.node == name and act.at >= trio.current_time()]
            await self._cluster.run(name, self._work, name, self._living[name], acts)

    def _opened(self, name: str, node: Node) -> None:
        process, member = self._living.get(name), self._cluster.plane.member(name)
        if process is not None and member is not None:
            process.enter(node, member)

    async def _open(self, name: str, program: Program) -> Node:
        if self._application.main is not None:
            return await self._cluster.start(name, self._application.main)
        node = await self._cluster.node(name)
        program.enter(node)
        await self._cluster.serve(name, program.service, ttl=self._scenario.ttl)
        return node

    async def _work(self, name: str, process: Process, acts: Sequence[Act]) -> None:
        member = self._cluster.plane.member(name)
        assert member is not None
        async with trio.open_nursery() as nursery:
            process.tasks = nursery
            try:
                for act in acts:
                    await trio.sleep_until(act.at)
                    await self._cluster.plane.wait_running(member)
                    asked = self._asked(process, act)
                    if asked.tasks is not None:
                        asked.tasks.start_soon(self._perform, asked, act)
                await trio.sleep_forever()  # others may ask it to hand on what it holds
            finally:
                process.tasks = None

    def _asked(self, process: Process, act: Act) -> Process:
        """Whose program performs *act*: its tasks end with it, and nobody else's."""
        if act.kind != "hand_on":
            return process
        holders = (it for it in self._living.values() if not it.member.is_stopped and act.key in it.claims)
        return next(holders, process)

    async def _perform(self, process: Process, act: Act) -> None:
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
        elif trouble.kind == "leave":
            await self._leave(trouble)
        elif trouble.kind == "skew":
            # For good: a machine that was suspended does not get the time back.
            member = self._cluster.plane.member(trouble.names[0])
            if member is not None and not member.is_dead:
                member.clock.jump(trouble.size)
        else:
            # It hits nobody who is dead.
            with suppress(pytest.UsageError), spoil(trouble, self._scenario, self._cluster.plane):
                await trio.sleep(trouble.lasts)

    async def _crash(self, trouble: Trouble) -> None:
        (name,) = trouble.names
        if name not in self._living or self._busy[name].locked():
            return
        async with trio.open_nursery() as nursery:
            async with self._busy[name]:
                dead = self._living.pop(name)
                # Looked at now: on the clock of a dead node everything is over. It may have served with TTLs of its own.
                held = [claim for claim in dead.claims.values() if claim.held]
                ttl = max((claim.instance.ttl for claim in held), default=self._scenario.ttl)
                if self._is_quiet(trouble, ttl):
                    owners = {claim.resource_id: claim.instance.instance_id for claim in held}
                    nursery.start_soon(self._expect_free, dead.name, owners, trio.current_time(), ttl)
                self._bury(dead, trio.current_time())
                await self._cluster.kill(name)
                await trio.sleep(trouble.lasts)
            await self._start(name)

    async def _leave(self, trouble: Trouble) -> None:
        """A planned new start: the node hands over, ends, and comes back."""
        (name,) = trouble.names
        if name not in self._living or self._busy[name].locked():
            return
        async with self._busy[name]:
            leaving = self._living[name]
            left_over = await self._cluster.stop(name)
            if calm(self._scenario, trouble.at) and calm(self._scenario, trio.current_time()):
                is_excused = self._may_outlast(leaving.node.runtime.settings.drain)
                kept = [it for it in left_over if it.kind != "unanswered_calls" or not is_excused]
                self._problems += [f"left behind: {it.what.splitlines()[0]}" for it in kept]
            del self._living[name]
            self._close(leaving)
            await trio.sleep(trouble.lasts)
        await self._start(name)

    def _may_outlast(self, drain: float) -> bool:
        """Whether handlers may be at work for longer than a node drains: they are interrupted, without an answer."""
        is_own = self._application.main is not None or self._application.work is not None
        return is_own or any(it.kind.startswith("call") and it.lasts > drain for it in self._scenario.acts)

    # --- What is owed ---

    def _is_quiet(self, crash: Trouble, ttl: float) -> bool:
        """Whether nothing else goes wrong from before *crash*, of instances with *ttl*, until all that follows from it has happened."""
        end = crash.at + ttl + FREED + 2 * _LOOK
        # Other nodes that end disturb nobody. A commit that is applied later is still to come after its trouble has healed; a clock that jumped stays wrong.
        return not any(
            other.kind not in ENDS and other.at <= end and crash.at <= other.at + other.lasts + other.size + ttl
            for other in self._scenario.troubles
        )

    async def _expect_free(self, name: str, owners: Mapping[str, str], died_at: float, ttl: float) -> None:
        """L1: what *name* held when it died, each under an instance id of *owners*, is free in time, with leases of *ttl* at most."""
        await trio.sleep_until(died_at + ttl + FREED + _LOOK)
        self.freed += len(owners)
        for key, owner in owners.items():
            for process in self._living.values():
                found = process.node.owner_of(key) if process.is_open else None
                if found is not None and found.owner_instance_id == owner:
                    late = f"{process.name} still takes {name}, dead since {died_at:.3f} s, for the owner of {key}"
                    self._problems.append(f"{late} at {trio.current_time():.3f} s")
