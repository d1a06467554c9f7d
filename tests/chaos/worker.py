"""A node in a process of its own, told what to do line by line; what it does is recorded for the check of the history.

Run by path: ``python worker.py URL --name p1 --records FILE --storage FOLDER``. It serves one instance of the service
``chaos``, whose id is the process's name. Commands come as JSON lines on standard input, ``{"id": 1, "do": "claim", ...}``;
each is carried out in a task of its own and answered by one line on standard output, ``{"id": 1, "result": ...}`` or
``{"id": 1, "error": CODE, "said": ...}``. Lines with ``"event"`` come unasked. SIGTERM ends it in order, as does the end of the
commands: it does not outlive who commands it.

It is one long file, because none of the tests' modules can be imported where it is run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from aegis_core import AegisError, Call, Instance, LeaseLost, Node, Outcome, Role, Service, open_node
from aegis_core.errors import Unavailable
from aegis_core.events import Event, InstanceLost, InstanceRegistered, LeaseEnded, ResourceRegistered
from aegis_core.node.subscription import EventStream
from aegis_pytest.history import Answer, Kind, Recorder, record_to, watch_beliefs
from aegis_pytest.history.recorded import RecordedInstance, what_is_known

SERVICE: Final = "chaos"
_PATIENCE: Final = 20.0

Settings = Mapping[str, object]
Told = dict[str, object]


class Storage:
    """A storage that all processes share, and that fences: it takes no write with an epoch older than one it has seen."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        self._folder = folder
        self._recorder = recorder

    def write(self, key: str, epoch: int) -> bool:
        """Write to *key* with *epoch*; whether it was taken."""
        path = self._folder / f"{key.replace('/', '_')}.epoch"
        with (self._folder / "lock").open("ab") as lock, path.open("a+", encoding="utf-8") as file:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file.seek(0)
            seen = int(file.read() or 0)
            accepted = epoch >= seen
            if accepted:
                file.seek(0)
                file.truncate()
                file.write(str(epoch))
                file.flush()
            self._recorder.wrote(key, epoch, accepted=accepted)
        return accepted


@attrs.define(eq=False)
class Worker:
    """One node and its instance, and what the scene may tell them."""

    node: Node
    instance: Instance
    recorder: Recorder
    nursery: trio.Nursery
    tell: Callable[[Settings], None]
    may_race: trio.Event = attrs.Factory(trio.Event)
    enough: trio.Event = attrs.Factory(trio.Event)
    moved: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    done: int = 0
    kept: set[str] = attrs.Factory(set)
    recorded: RecordedInstance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.recorded = RecordedInstance(self.node, self.instance, self.recorder, patience=_PATIENCE)

    async def carry_out(self, command: dict[str, object]) -> None:
        """Carry *command* out and answer it."""
        name, number = command.pop("do"), command.pop("id")
        act: Callable[..., Awaitable[object]] = getattr(self, f"do_{name}")
        try:
            result = await act(**command)
        except AegisError as exc:
            self.tell({"id": number, "error": exc.code, "said": str(exc)})
        else:
            self.tell({"id": number, "result": result})

    # -- operations, recorded -------------------------------------------------------------------------------------

    async def do_claim(self, key: str) -> Told:
        """Claim *key*."""
        return _told(await self.recorded.claim(key))

    async def do_release(self, key: str) -> Told:
        """Release *key*."""
        return _told(await self.recorded.release(key))

    async def do_transfer(self, key: str, to: str) -> Told:
        """Transfer *key* to *to*."""
        return _told(await self.recorded.transfer(key, to))

    async def do_get_owner(self, key: str) -> Told:
        """Who owns *key*."""
        return _told(await self.recorded.get_owner(key))

    async def do_call(self, key: str, *, timeout: float = _PATIENCE) -> object:
        """Call the owner of *key*."""
        name = f"{self.recorder.process}-{random.getrandbits(64):x}"
        number = self.recorder.invoke(Kind.CALL, key, call=name)
        params = {"name": name, "gate": ""}
        try:
            answer = await self.node.call(SERVICE, "touch", params, resource_id=key, timeout=timeout)
        except AegisError as exc:
            maybe = isinstance(exc, Unavailable) and exc.outcome is Outcome.MAYBE_EXECUTED
            self.recorder.answer(number, Answer.UNKNOWN if maybe else Answer.FAILED, said=str(exc))
            raise
        assert isinstance(answer, dict)
        self.recorder.answer(number, Answer.DONE, owner=answer["instance"], epoch=answer["epoch"])
        return answer

    async def do_own(self, key: str, *, standby: bool = True, priority: int = 0) -> object:
        """Own *key* in a task, in turn; events ``owns`` and ``lost`` tell how that goes. A lost one is owned again."""
        self.nursery.start_soon(self._own, key, Role.STANDBY if standby else Role.ACTIVE, priority)
        await trio.lowlevel.checkpoint()
        return None

    async def do_race(self, key: str, *, claimants: int) -> object:
        """Let *claimants* instances, which this registers, claim *key* at the same time; those that got it, and how many were refused."""
        ids = [f"{self.recorder.process}-{number}" for number in range(claimants)]
        limiter = trio.CapacityLimiter(32)

        async def register(instance_id: str) -> None:
            async with limiter:
                await self.node.registry.register(SERVICE, instance_id, ttl=120)

        async with trio.open_nursery() as nursery:
            for instance_id in ids:
                nursery.start_soon(register, instance_id)
        self.tell({"event": "registered"})
        winners: list[str] = []
        refused: list[str] = []

        async def claim(instance_id: str) -> None:
            number = self.recorder.invoke(Kind.CLAIM, key, instance=instance_id)
            try:
                reply = await self.node.registry.claim(SERVICE, instance_id, key)
            except Unavailable as exc:
                self.recorder.answer(number, what_is_known(exc), said=str(exc))
                return
            if key in reply.registered:
                self.recorder.answer(number, Answer.DONE, epoch=reply.epochs[key])
                winners.append(instance_id)
            else:
                self.recorder.answer(number, Answer.HELD, owner=reply.conflicts[key])
                refused.append(instance_id)

        await self.may_race.wait()
        async with trio.open_nursery() as nursery:
            for instance_id in ids:
                nursery.start_soon(claim, instance_id)
        return {"winners": winners, "refused": len(refused)}

    async def do_go(self) -> object:
        """Let the race begin."""
        self.may_race.set()
        await trio.lowlevel.checkpoint()
        return None

    async def do_churn(self, keys: Sequence[str], *, peers: Sequence[str], seed: int, tasks: int = 4) -> object:
        """Claim, release, transfer, read and call at random until it is enough; how many changes were done."""
        # Tasks of one process that release the same thing share one release: each is told that it is done.
        changing: set[str] = set()
        self.enough = trio.Event()
        self.done = 0

        async def change(key: str, chance: random.Random) -> None:
            if key not in self.instance.claims:
                told = await self.do_claim(key)
            elif chance.random() < 0.5:
                told = await self.do_transfer(key, chance.choice(peers))
            else:
                told = await self.do_release(key)
            # A transfer may be answered without having been done.
            self.done += told["answer"] == Answer.DONE.value
            self.moved.unpark_all()

        async def act(chance: random.Random) -> None:
            while not self.enough.is_set():
                dice = chance.random()
                idle = [key for key in keys if key not in changing]
                # What others hold is claimed, too, but less often than it would be by chance.
                likely = [key for key in idle if key in self.instance.claims or self.node.owner_of(key) is None]
                key = chance.choice(likely if likely and 0.2 <= dice < 0.9 else idle)
                try:
                    if dice < 0.1:
                        await self.do_get_owner(key)
                    elif dice < 0.2:
                        await self.do_call(key, timeout=5.0)
                    else:
                        changing.add(key)
                        try:
                            await change(key, chance)
                        finally:
                            changing.remove(key)
                except Unavailable:
                    await trio.sleep(0.1 * chance.random())  # as anybody would who is told that there is no store now
                except AegisError:
                    pass

        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(act, random.Random(f"{seed}-{number}"))
        return self.done

    async def do_reach(self, count: int, *, further: bool) -> object:
        """Wait until the churn has done *count* changes, *further* ones or in all."""
        count += self.done if further else 0
        while self.done < count:
            await self.moved.park()
        return self.done

    async def do_enough(self) -> object:
        """Let the churn end."""
        self.enough.set()
        await trio.lowlevel.checkpoint()
        return None

    # -- the rest -------------------------------------------------------------------------------------------------

    async def do_keep(self, key: str) -> object:
        """Claim *key* for good; the events of its claims are told."""
        self.kept.add(key)
        return await self.do_claim(key)

    async def tell_events(self, stream: EventStream[Event]) -> None:
        """Tell who was lost, when the own lease ended, of the new registration, and of what it then claimed again."""
        async for event in stream:
            told: Settings = {"event": type(event).__name__, "instance": event.instance_id}
            if isinstance(event, ResourceRegistered):
                if event.resource_id in self.kept and event.instance_id == self.instance.instance_id:
                    self.tell({**told, "key": event.resource_id, "epoch": event.epoch})
            elif isinstance(event, InstanceLost) or event.instance_id == self.instance.instance_id:
                self.tell(told)

    async def do_status(self) -> object:
        """How the instance stands."""
        await trio.lowlevel.checkpoint()
        return {
            "ready": self.instance.ready,
            "lease": self.instance.lease_tag,
            "claims": {key: claim.epoch for key, claim in self.instance.claims.items()},
        }

    async def do_line(self, key: str) -> object:
        """This instance's place in the line for *key*, from 1 on; 0 if it does not wait."""
        standbys = (await self.node.explain(key)).standbys
        return standbys.index(self.instance.instance_id) + 1 if self.instance.instance_id in standbys else 0

    async def _own(self, key: str, role: Role, priority: int) -> None:
        while True:
            try:
                async with self.recorded.own(key, role=role, priority=priority) as claim:
                    self.tell({"event": "owns", "key": key, "epoch": claim.epoch, "at": time.monotonic()})
                    await trio.sleep_forever()
            except LeaseLost as exc:
                self.tell({"event": "lost", "key": key, "reason": exc.reason.value, "at": time.monotonic()})
            except AegisError:
                return


def _told(came: tuple[Answer, str, int]) -> Told:
    answer, owner, epoch = came
    return {"answer": answer.value, "owner": owner, "epoch": epoch}


def make_service(recorder: Recorder, storage: Storage, tell: Callable[[Settings], None]) -> Service:
    """The service ``chaos``: its handler writes to the storage that fences, and records under which epoch it ran."""
    service = Service(SERVICE, version="1.0.0")

    @service.on_acquire
    async def adopt(claim: object) -> None:
        await trio.lowlevel.checkpoint()

    @service.method
    async def touch(call: Call, name: str, gate: str) -> dict[str, object]:
        began = recorder.clock()
        assert call.instance is not None
        assert call.resource_id is not None
        tell({"event": "handling", "name": name})
        while gate and not Path(gate).exists():  # noqa: ASYNC240 - a handler that reaches no checkpoint
            threading.Event().wait(0.01)  # whatever happens to its claim
        await trio.lowlevel.cancel_shielded_checkpoint()
        accepted = storage.write(call.resource_id, call.epoch)
        tell({"event": "wrote", "name": name, "accepted": accepted})
        recorder.handled(call.instance.instance_id, call.resource_id, call.epoch, name, began=began)
        return {"instance": call.instance.instance_id, "epoch": call.epoch, "accepted": accepted}

    return service


def say(line: Settings) -> None:
    """Write *line* to standard output, at once and whole."""
    os.write(1, f"{json.dumps(line)}\n".encode())


async def obey(worker: Worker) -> None:
    """Carry out the commands that come; when there are no more, end."""
    heard = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for chunk in stdin:
            *lines, heard = (heard + chunk).split(b"\n")
            for line in lines:
                worker.nursery.start_soon(worker.carry_out, json.loads(line))
    signal.raise_signal(signal.SIGTERM)


async def main(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, or until nobody commands any more."""
    config: dict[str, object] = {"drain": options.drain, "request_timeout": options.timeout}
    with record_to(options.records) as take:
        recorder = Recorder(options.name, take)
        service = make_service(recorder, Storage(options.storage, recorder), say)
        with trio.open_signal_receiver(signal.SIGTERM) as terms, watch_beliefs(recorder) as probe:
            async with (
                open_node(options.url, config=config) as node,
                node.serve(service, instance_id=options.name, ttl=options.ttl) as instance,
                node.events(LeaseEnded, InstanceLost, InstanceRegistered, ResourceRegistered) as stream,
                trio.open_nursery() as nursery,
            ):
                probe.watch(instance)
                worker = Worker(node, instance, recorder, nursery, say)
                nursery.start_soon(worker.tell_events, stream)
                nursery.start_soon(obey, worker)
                say({"event": "ready", "at": time.monotonic()})
                async for _ in terms:
                    break
                say({"event": "ending", "at": time.monotonic()})
                nursery.cancel_scope.cancel()
    say({"event": "ended"})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--name", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--ttl", type=float, default=30.0)
    parser.add_argument("--drain", type=float, default=2.0)
    parser.add_argument("--timeout", type=float, default=5.0)
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(name)s %(message)s")
    trio.run(main, parse())
