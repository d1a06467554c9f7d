"""A router in a process of its own on a NATS server, and nodes on that, which run in a thread beside the browser."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from aegis_backends.nats.server import open_servers
from aegis_core import Call, Claim, Instance, Node, Role, Service, open_node
from tests.dashboard.browser import PATIENCE
from tests.router.processes import RouterProcess, free_port

__all__ = ["Mortal", "Scene", "open_scene", "service"]

R = TypeVar("R")

_MORTAL: Final = Path(__file__).with_name("mortal.py")


def service(name: str) -> Service:
    """A service that takes what is transferred to it."""
    made = Service(name, version="1.2.3")

    @made.method
    async def ping(call: Call) -> str:
        """Answer."""
        return call.instance.instance_id if call.instance else ""

    @made.method
    async def nap(call: Call, seconds: float) -> None:
        """Take so long."""
        await trio.sleep(seconds)

    @made.on_acquire
    async def acquire(claim: Claim) -> None:
        """Take it as it is."""

    return made


@attrs.define(eq=False)
class Mortal:
    """An instance in a process of its own, which can be killed."""

    instance_id: str
    process: trio.Process


class Scene:
    """What a test has done at one router. All methods are called from the thread of the browser.

    Args:
        router: The router.
        nats: URL of the NATS server.
        node: A node there.
        nursery: Where instances live.
        token: Of the thread's Trio.
    """

    def __init__(
        self,
        router: RouterProcess,
        nats: str,
        node: Node,
        nursery: trio.Nursery,
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self.router = router
        self.nats = nats
        self.node = node
        self.url = router.url
        self.mortals: list[Mortal] = []
        self._nursery = nursery
        self._token = token
        self._services: dict[str, Service] = {}

    def run(self, work: Callable[..., Awaitable[R]], *args: object) -> R:
        """Do *work* in the thread of the nodes."""
        return trio.from_thread.run(self._limited, work, args, trio_token=self._token)

    async def _limited(self, work: Callable[..., Awaitable[R]], args: tuple[object, ...]) -> R:
        with trio.fail_after(PATIENCE):
            return await work(*args)

    def serve(
        self,
        service_name: str,
        instance_id: str,
        *claims: str,
        waits_for: str | None = None,
        role: Role | None = None,
        priority: int = 0,
    ) -> Instance:
        """Register an instance, which claims ids, and perhaps waits in line for one."""
        known = self._services.get(service_name) or self._services.setdefault(service_name, service(service_name))
        serving = self.node.serve(known, instance_id=instance_id, role=role, priority=priority)
        instance: Instance = self.run(self._nursery.start, partial(_live, serving, claims, waits_for))
        return instance

    def spawn(self, work: Callable[..., Awaitable[object]], *args: object) -> None:
        """Have *work* done in the background."""
        self.run(_spawn, self._nursery, work, args)

    def start_mortal(self, instance_id: str, ttl: float) -> Mortal:
        """Start a process whose instance stands by for its service's role."""
        self.mortals.append(self.run(self._start_mortal, instance_id, ttl))
        return self.mortals[-1]

    async def _start_mortal(self, instance_id: str, ttl: float) -> Mortal:
        command = [sys.executable, str(_MORTAL), self.nats, instance_id, str(ttl)]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"ready\n"
        return Mortal(instance_id, process)

    def kill(self, mortal: Mortal) -> None:
        """As ``kill -9`` does it."""
        self.run(_kill, mortal.process)

    def stop_router(self) -> None:
        """Kill the router."""
        self.run(self.router.kill)

    def start_router(self) -> None:
        """Start one again where it was."""
        self.run(self.router.start)


async def _spawn(nursery: trio.Nursery, work: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
    nursery.start_soon(work, *args)


async def _live(
    serving: AbstractAsyncContextManager[Instance],
    claims: tuple[str, ...],
    waits_for: str | None,
    *,
    task_status: trio.TaskStatus[Instance],
) -> None:
    async with serving as instance:
        if claims:
            await instance.claim(*claims)
        task_status.started(instance)
        if waits_for is not None:
            async with instance.own(waits_for, role=Role.STANDBY):
                await trio.sleep_forever()
        await trio.sleep_forever()


async def _kill(process: trio.Process) -> None:
    process.kill()
    await process.wait()


@contextmanager
def open_scene(*arguments: str) -> Iterator[Scene]:
    """A router on a NATS server of its own, started with *arguments* too."""
    scenes: list[Scene] = []
    ready, done = threading.Event(), trio.Event()
    crashed: list[BaseException] = []

    async def live() -> None:
        async with AsyncExitStack() as stack:
            nats = (await stack.enter_async_context(open_servers())).url
            # The same port each time that it is started.
            router = RouterProcess("--backend", nats, "--http", f"127.0.0.1:{await free_port()}", *arguments)
            await router.start()
            stack.push_async_callback(_end, router)
            node = await stack.enter_async_context(open_node(nats))
            nursery = await stack.enter_async_context(trio.open_nursery())
            scenes.append(Scene(router, nats, node, nursery, trio.lowlevel.current_trio_token()))
            ready.set()
            await done.wait()
            for mortal in scenes[0].mortals:
                await _kill(mortal.process)
            nursery.cancel_scope.cancel()

    def main() -> None:
        try:
            trio.run(live)
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised again in the test's own thread
            crashed.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="nodes")
    thread.start()
    ready.wait()
    try:
        if scenes:
            yield scenes[0]
    finally:
        if scenes and thread.is_alive():
            scenes[0].run(_set, done)
        thread.join()
        if crashed:
            raise crashed[0]


async def _set(done: trio.Event) -> None:
    done.set()


async def _end(router: RouterProcess) -> None:
    with trio.CancelScope(shield=True):
        if router.process.returncode is None:
            await router.kill()
