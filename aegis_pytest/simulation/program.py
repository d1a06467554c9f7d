"""What the nodes of a simulation run when a test brings nothing of its own: a service whose instances want the same resources."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from aegis_core import AegisError, Call, Claim, Instance, Node, Outcome, Service
from aegis_core.errors import Unavailable
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
_WAIT: Final = 60.0
_REPEATS: Final = 3


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
    """

    def __init__(self, recorder: Recorder, storage: Storage, instance_of: Callable[[str], Instance | None]) -> None:
        self.service: Final = Service(SERVICE, version="1.0.0")
        self.waiting: dict[str, float] = {}
        """The resources in whose lines it stands, with the time since which it does."""
        self.waits: list[Wait] = []
        """Where it stood in line before."""
        self._recorder = recorder
        self._storage = storage
        self._instance_of = instance_of
        self._calls = itertools.count(1)
        self._node: Node | None = None

        @self.service.on_acquire
        async def adopt(_claim: Claim) -> None:
            await self._sleep(_ADOPTING)

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

    def stop_waiting(self) -> None:
        """It died: it stands in no line any more."""
        for key in tuple(self.waiting):
            self._waited(key)

    async def _touch(self, call: Call, name: str, lasts: float, *, stubborn: bool) -> dict[str, object]:
        """Take *lasts* seconds, and write to the storage."""
        began = self._recorder.clock()
        assert call.instance is not None
        assert call.resource_id is not None
        with trio.CancelScope(shield=stubborn):
            await self._sleep(lasts)
        self._storage.write(self._recorder, call.resource_id, call.epoch)
        self._recorder.handled(call.instance.instance_id, call.resource_id, call.epoch, name, began=began)
        return {"instance": call.instance.instance_id, "epoch": call.epoch}

    async def perform(self, node: Node, instance: Instance, act: Act) -> None:
        """Ask for what *act* says; what is refused, or fails, is in the history."""
        recorded = RecordedInstance(node, instance, self._recorder)
        with suppress(AegisError, trio.TooSlowError):
            match act.kind:
                case "claim":
                    await recorded.claim(act.key)
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
                case _:
                    raise ValueError(f"a program does not know the act {act.kind!r}")

    async def _own(self, recorded: RecordedInstance, act: Act) -> None:
        self.waiting.setdefault(act.key, trio.current_time())
        try:
            async with recorded.own(act.key, wait=_WAIT):
                self._waited(act.key)
                await self._sleep(act.lasts)
        finally:
            self._waited(act.key)

    def _waited(self, key: str) -> None:
        began = self.waiting.pop(key, None)
        if began is not None:
            self.waits.append(Wait(self._recorder.process, key, began, trio.current_time()))

    async def _call(self, node: Node, act: Act) -> None:
        name = f"{self._recorder.process}-{next(self._calls)}"
        is_once = act.kind == "call_once"
        number = self._recorder.invoke(Kind.CALL, act.key, call=name, once=is_once)
        params = {"name": name, "lasts": act.lasts or _HANDLING, "stubborn": act.kind == "call_stubborn"}
        repeats = _REPEATS if is_once else 1
        try:
            while True:
                repeats -= 1
                try:
                    answer = await node.call(
                        SERVICE,
                        "touch",
                        params,
                        resource_id=act.key,
                        timeout=_CALL_TIMEOUT + act.lasts,
                        idempotency_key=name if is_once else None,
                    )
                except Unavailable as exc:
                    # Somebody who was told that it may have run asks again, with the same key.
                    if not repeats or exc.outcome is not Outcome.MAYBE_EXECUTED:
                        raise
                else:
                    break
        except AegisError as exc:
            maybe = isinstance(exc, Unavailable) and exc.outcome is Outcome.MAYBE_EXECUTED
            self._recorder.answer(number, Answer.UNKNOWN if maybe else Answer.FAILED, said=str(exc))
            raise
        except trio.Cancelled:
            self._recorder.answer(number, Answer.UNKNOWN, said="nobody waits any longer")
            raise
        assert isinstance(answer, dict)
        self._recorder.answer(number, Answer.DONE, owner=answer["instance"], epoch=answer["epoch"])
