"""What the nodes of a simulation run when a test brings nothing of its own: a service whose instances want the same resources."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from aegis_core import AegisError, Call, Claim, Instance, Node, Outcome, Service
from aegis_core.errors import ResourceNotFound, Unavailable
from aegis_core.models import EndReason
from aegis_pytest.history.recorded import RecordedInstance
from aegis_pytest.history.recorder import Recorder
from aegis_pytest.history.records import Answer, Kind
from aegis_pytest.simulation.promptness import Wait
from aegis_pytest.simulation.scenario import Act

__all__ = ["SERVICE", "Program", "Storage"]

SERVICE: Final = "simulated"

_CALL_TIMEOUT: Final = 5.0
_HANDLING: Final = 0.05
_ADOPTING: Final = 0.01
_LETTING_GO: Final = 0.005
_WAIT: Final = 60.0
_REPEATS: Final = 3

_REQUEST: Final = 5.0
_DRAIN: Final = 10.0
"""The configured times by default, which simulations do not change: for a request to the registry, and for work to end."""

_SLACK: Final = 1.0
"""For clocks that drift by 1 %, and what a service does to take over and to let go."""

_PATIENCE: Final = 60.0
"""Longer than any operation may take: who loses it sooner never sees that one takes too long."""

_WITHIN: Final = {
    # Until it is registered anew, until what it gives away is gone, and for the claim itself.
    Kind.CLAIM: 3 * _REQUEST + _SLACK,
    Kind.RELEASE: 2 * _REQUEST + _DRAIN + _SLACK,
    Kind.TRANSFER: 2 * _REQUEST + _DRAIN + _SLACK,
    Kind.GET_OWNER: _REQUEST + _SLACK,
}
"""Seconds within which a program is owed an answer, if its clock neither jumps nor stops."""


@attrs.frozen
class Run:
    """A handler that has begun, for the call named *call*, at *began* (seconds)."""

    instance_id: str
    key: str
    epoch: int
    call: str
    began: float


class Storage:
    """A storage that all programs share, and that takes no write with an epoch older than one it has seen."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def write(self, recorder: Recorder, key: str, epoch: int) -> bool:
        """Write to *key* with *epoch*, which *recorder* notes; whether it was taken."""
        accepted = epoch >= self._seen.get(key, 0)
        if accepted:
            self._seen[key] = epoch
        recorder.wrote(key, epoch, accepted=accepted)
        return accepted


class Program:
    """One process of the simulation, from the start of its node to its end.

    Args:
        recorder: Of this process.
        storage: That all share.
        instance_of: The instance that a node serves now, for transfers; None if it serves none.
        broken: Told of each promise to a program that was not kept, in words.
        is_punctual: Whether its clock neither jumps nor stops in the next so many seconds, nor has so shortly before: then all
            that runs under a claim ends before the claim does, and all that is asked is answered in its time.
    """

    def __init__(
        self,
        recorder: Recorder,
        storage: Storage,
        instance_of: Callable[[str], Instance | None],
        *,
        broken: Callable[[str], None] = lambda _: None,
        is_punctual: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self.service: Final = Service(SERVICE, version="1.0.0")
        self.waits: list[Wait] = []
        """When its tasks stood in line, and do no more."""
        self.claimed: set[tuple[str, str, int]] = set()
        """What it claimed, as `aegis_pytest.simulation.calm.not_claimed_again` wants it told."""
        self._recorder = recorder
        self._storage = storage
        self._instance_of = instance_of
        self._broken = broken
        self._is_punctual = is_punctual
        # What runs now, by the handler's number: a process that dies leaves it as it is.
        self._running: dict[int, Run] = {}
        self._runs = itertools.count()
        # The tasks that stand in line now, by number: for which resource, and since when.
        self._waiting: dict[int, tuple[str, float]] = {}
        self._tasks = itertools.count()
        self._is_over = False
        self._calls = itertools.count(1)
        self._node: Node | None = None

        @self.service.on_acquire
        async def adopt(claim: Claim) -> int:
            await self._sleep(_ADOPTING)
            return claim.epoch

        @self.service.on_release
        async def let_go(claim: Claim) -> None:
            self._check_held(claim)
            await self._sleep(_LETTING_GO)
            if is_punctual(0.0):
                self._check_held(claim)

        @self.service.method
        async def touch(call: Call, name: str, lasts: float, stubborn: bool) -> dict[str, object]:  # noqa: FBT001
            return await self._touch(call, name, lasts, stubborn=stubborn)

    def __repr__(self) -> str:
        return f"<Program {self._recorder.process}>"

    def enter(self, node: Node) -> None:
        """Begin to run on *node*."""
        self._node = node

    async def _sleep(self, seconds: float) -> None:
        """Wait on the node's own clock, which stands still while the node is stopped."""
        assert self._node is not None
        clock = self._node.runtime.clock
        await clock.sleep_until(clock.now() + seconds)

    def stop(self) -> None:
        """It died: it stands in no line any more, and what ran has run as far as it came."""
        for number in tuple(self._waiting):
            self._waited(number)
        for number in tuple(self._running):
            self._ran(number)
        self._is_over = True

    def _check_held(self, claim: Claim) -> None:
        if not self._is_over and not claim.held:
            self._broken(f"on_release of {claim.resource_id} runs in {self._recorder.process}, which does not hold it")

    def _check_in_time(self, claim: Claim, what: str) -> None:
        """What runs under *claim* is over: it was to be cancelled half a margin before the lease ends."""
        if not self._is_over and claim.ended is EndReason.EXPIRED and self._is_punctual(0.0):
            self._broken(
                f"{what} of {claim.resource_id} still runs in {self._recorder.process} when its lease has ended"
            )

    def _ran(self, number: int) -> None:
        run = self._running.pop(number, None)
        if run is not None:
            self._recorder.handled(run.instance_id, run.key, run.epoch, run.call, began=run.began)

    async def _touch(self, call: Call, name: str, lasts: float, *, stubborn: bool) -> dict[str, object]:
        """Take *lasts* seconds, and write to the storage."""
        assert call.instance is not None
        assert call.resource_id is not None
        assert call.claim is not None
        if call.state != call.epoch:
            self._broken(
                f"a handler of {call.resource_id} runs in {self._recorder.process} with epoch {call.epoch}, "
                f"and on_acquire has not: the state is {call.state!r}"
            )
        number = next(self._runs)
        began = self._recorder.clock()
        self._running[number] = Run(call.instance.instance_id, call.resource_id, call.epoch, name, began)
        try:
            with trio.CancelScope(shield=stubborn):
                await self._sleep(lasts)
            if not self._storage.write(self._recorder, call.resource_id, call.epoch) and call.claim.held:
                self._broken(
                    f"fenced: a write to {call.resource_id} with epoch {call.epoch} is refused, "
                    f"although {self._recorder.process} believes to hold it"
                )
        finally:
            self._ran(number)
            if not stubborn:
                self._check_in_time(call.claim, "a handler")
        return {"name": name, "instance": call.instance.instance_id, "epoch": call.epoch}

    async def perform(self, node: Node, instance: Instance, act: Act) -> None:
        """Ask for what *act* says; what is refused, or fails, is in the history."""
        recorded = self._recorded(node, instance, wait=_WAIT if act.kind == "own" else 0.0)
        with suppress(AegisError, trio.TooSlowError):
            match act.kind:
                case "claim":
                    *_, epoch = await recorded.claim(act.key)
                    self.claimed.add((self._recorder.process, act.key, epoch))
                case "release":
                    await recorded.release(act.key)
                case "get_owner":
                    await recorded.get_owner(act.key)
                case "call" | "call_once" | "call_stubborn":
                    await self._call(node, act)
                case "own":
                    await self._own(recorded, act)
                case "transfer" | "hand_on":
                    target = self._instance_of(act.to)
                    if target is not None:
                        await recorded.transfer(act.key, target.instance_id)

    async def read(self, node: Node, key: str) -> list[str]:
        """Ask who owns *key* while nothing is wrong; what is wrong with the answer, in words. Nobody is an answer as well."""
        for instance in node.hosted.values():
            try:
                await self._recorded(node, instance).get_owner(key)
            except ResourceNotFound:
                pass
            except (AegisError, trio.TooSlowError) as exc:
                return [f"nothing is wrong any more, but {self._recorder.process} cannot read who owns {key}: {exc}"]
            break
        return []

    def _recorded(self, node: Node, instance: Instance, *, wait: float = 0.0) -> RecordedInstance:
        within = {kind: owed for kind, owed in _WITHIN.items() if self._is_punctual(owed + wait)}
        return RecordedInstance(node, instance, self._recorder, patience=_PATIENCE, within=within)

    async def _own(self, recorded: RecordedInstance, act: Act) -> None:
        number = next(self._tasks)
        self._waiting[number] = act.key, trio.current_time()
        try:
            async with recorded.own(act.key, wait=_WAIT) as claim:
                self._waited(number)
                try:
                    await self._sleep(act.lasts)
                finally:
                    self._check_in_time(claim, "a block")
        finally:
            self._waited(number)

    def _waited(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            key, began = waiting
            self.waits.append(Wait(self._recorder.process, key, began, trio.current_time()))

    async def _call(self, node: Node, act: Act) -> None:
        name = f"{self._recorder.process}-{next(self._calls)}"
        is_once = act.kind == "call_once"
        params = {"name": name, "lasts": act.lasts or _HANDLING, "stubborn": act.kind == "call_stubborn"}
        repeats = _REPEATS if is_once else 1
        timeout = _CALL_TIMEOUT + act.lasts
        within = repeats * timeout + _SLACK
        within = within if self._is_punctual(within) else 0.0
        number = self._recorder.invoke(Kind.CALL, act.key, call=name, once=is_once, within=within)
        may_have_run = False
        try:
            while True:
                repeats -= 1
                try:
                    answer = await node.call(
                        SERVICE,
                        "touch",
                        params,
                        resource_id=act.key,
                        timeout=timeout,
                        idempotency_key=name if is_once else None,
                    )
                except Unavailable as exc:
                    # Somebody who was told that it may have run asks again, with the same key. What that is told is about
                    # the repeat alone: the call before may have run all the same.
                    may_have_run = may_have_run or exc.outcome is Outcome.MAYBE_EXECUTED
                    if not repeats or exc.outcome is not Outcome.MAYBE_EXECUTED:
                        raise
                else:
                    break
        except AegisError as exc:
            self._recorder.failed(number, Answer.UNKNOWN if may_have_run else Answer.FAILED, exc)
            raise
        except trio.Cancelled:
            self._recorder.answer(number, Answer.UNKNOWN, said="nobody waits any longer")
            raise
        self.answered(number, name, answer)

    def answered(self, number: int, name: str, answer: object) -> None:
        """Note *answer* to the call that is named *name*, operation *number*, and see that it is no other's."""
        assert isinstance(answer, dict)
        self._recorder.answer(number, Answer.DONE, owner=answer["instance"], epoch=answer["epoch"])
        if answer["name"] != name:
            self._broken(
                f"the answer to call {answer['name']} reaches {self._recorder.process}, which had made call {name}"
            )
