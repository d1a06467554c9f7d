"""Parts of the benchmark of routers: one of ours, one on nats-py that handles a request at a time, and who asks them.

Who asks is a client as those of other languages are: a connection and MessagePack. Both routers pass what is asked on to the
same instance, over its inbox.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - nats-py's loop, in a process of its own
from functools import partial
from typing import Final, cast

import msgpack  # type: ignore[import-untyped]
import nats
import trio
from nats.aio.msg import Msg

from aegis_backends.nats.connection import open_connection
from aegis_core import Call, Service, open_node
from aegis_core.router.router import open_router
from aegis_core.router.wire import serve_subjects
from tests.benchmarks.parts import on_asyncio
from tests.benchmarks.parts.commands import Commands, Taken, obey, rounds
from tests.benchmarks.parts.echoes import PATIENCE

__all__ = ["INSTANCE", "ONE_BY_ONE", "ROUTE", "ask_router", "be_router", "be_router_one_by_one", "serve"]

ROUTE: Final = "ipc.route.request"
ONE_BY_ONE: Final = "bench.route"
INSTANCE: Final = "echo-one"

echoes = Service("echo-service", version="1.0.0")
mute = Service("mute-service", version="1.0.0")


@echoes.method
async def echo(call: Call, data: bytes) -> bytes:
    """Answer what was sent."""
    return data


@echoes.method
async def echo_late(call: Call, data: bytes, seconds: float) -> bytes:
    """Answer what was sent, some time later: who asks something else waits so."""
    await trio.sleep(seconds)
    return data


def serve(commands: Commands, url: str) -> None:
    """Serve the echo, and an instance that does not answer before it is told to."""
    may_answer = trio.Event()

    @mute.method
    async def wait(call: Call) -> None:
        await may_answer.wait()

    async def answer() -> None:
        nonlocal may_answer
        may_answer.set()
        may_answer = trio.Event()
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with open_node(url) as node, node.serve(mute), node.serve(echoes, instance_id=INSTANCE):
            await obey(commands, {"answer": answer})

    trio.run(main)


def be_router(commands: Commands, url: str) -> None:
    """Be a router of ours."""

    async def main() -> None:
        async with open_node(url) as node, open_router(node) as router:
            assert router.bus is not None
            async with serve_subjects(router, router.bus):
                await obey(commands, {})

    trio.run(main)


def be_router_one_by_one(commands: Commands, url: str) -> None:
    """Be the simplest router: nats-py gives a subscription's messages to its callback one after the other."""

    async def main() -> None:
        client = await nats.connect(url)
        known = {"echo-service": INSTANCE}

        async def route(message: Msg) -> None:
            asked = msgpack.unpackb(message.data)
            instance_id = known[asked["service_name"]]
            passed_on = {name: asked[name] for name in ("method", "params", "trace_id")}
            answer = await client.request(
                f"ipc.instance.{instance_id}.inbox", _pack(passed_on), timeout=asked["timeout"]
            )
            told = msgpack.unpackb(answer.data)
            await message.respond(_pack({**told, "instance_id": instance_id, "trace_id": asked["trace_id"]}))

        await client.subscribe(ONE_BY_ONE, queue="service-router", cb=route)
        await client.flush()
        await on_asyncio.obey(commands, {})
        await client.close()

    asyncio.run(main())


def ask_router(commands: Commands, url: str) -> None:
    """Ask a router for calls, as clients without a node do."""

    async def main() -> None:
        async with open_connection([url]) as connection, trio.open_nursery() as nursery:

            async def ask(subject: str, service: str, method: str, params: dict[str, object]) -> object:
                asked = {
                    "service_name": service,
                    "method": method,
                    "params": params,
                    "timeout": PATIENCE,
                    "trace_id": "0af7651916cd43dd8448eb211c80319c",
                }
                answer = await connection.request(subject, _pack(asked), timeout=PATIENCE)
                told = msgpack.unpackb(answer.payload)
                if not told["success"]:
                    raise RuntimeError(f"the router answered {told}")
                return told["result"]

            async def echo(subject: str, method: str, params: dict[str, object]) -> None:
                assert await ask(subject, "echo-service", method, params) == params["data"]

            async def measure(count: int, together: int, size: int, subject: str, seconds: float = 0.0) -> Taken:
                params: dict[str, object] = {"data": b"x" * size}
                if seconds:
                    params["seconds"] = seconds
                return await rounds(count, together, partial(echo, subject, "echo_late" if seconds else "echo", params))

            async def ask_mute(together: int) -> None:
                for _ in range(together):
                    nursery.start_soon(ask, ROUTE, "mute-service", "wait", {})
                await trio.lowlevel.checkpoint()

            await obey(commands, {"measure": measure, "ask_mute": ask_mute})
            nursery.cancel_scope.cancel()

    trio.run(main)


def _pack(value: object) -> bytes:
    return cast(bytes, msgpack.packb(value))
