"""Parts of the benchmark of calls: our node, nats-py's micro framework, and nats-py bridged into Trio.

All echo bytes. Ours sends them as a parameter in an envelope, with its deadline and ids, and checks them; the peers send
nothing but the bytes themselves, and check nothing. How much of the difference a parameter makes shows in what the micro
framework takes with one: a map in MessagePack, both ways.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - the peers' loop, in processes of their own
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgpack  # type: ignore[import-untyped]
import nats
import trio
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request

from aegis_core import Call, Service, open_node
from tests.benchmarks.on_nats.commands import Commands, Taken, at_once, in_turn, obey

__all__ = ["RESOURCE", "ask_bridged", "ask_micro", "call", "serve", "serve_bridged", "serve_micro"]

RESOURCE: Final = "account:42"
_SUBJECT: Final = "bench.echo"
_PACKED: Final = "bench.packed"
_BRIDGED: Final = "bench.bridged"
_PATIENCE: Final = 10.0

echoes = Service("echo-service", version="1.0.0")


@echoes.method
async def echo(call: Call, data: bytes) -> bytes:
    """Answer what was sent."""
    return data


async def _trio_rounds(count: int, together: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    return await (in_turn(count, operation) if together == 1 else at_once(count, [operation] * together))


# --- Ours ----------------------------------------------------------------------------------------


def serve(commands: Commands, url: str) -> None:
    """Serve the echo, and own the resource."""

    async def main() -> None:
        async with open_node(url) as node, node.serve(echoes) as instance:
            await instance.claim(RESOURCE)
            await obey(commands, {})

    trio.run(main)


def call(commands: Commands, url: str) -> None:
    """Call the echo through a node."""

    async def main() -> None:
        async with open_node(url) as node:

            async def measure(count: int, together: int, size: int, resource: str | None) -> Taken:
                params = {"data": b"x" * size}

                async def operation() -> None:
                    await node.call("echo-service", "echo", params, resource_id=resource, timeout=_PATIENCE)

                return await _trio_rounds(count, together, operation)

            await obey(commands, {"measure": measure})

    trio.run(main)


# --- nats-py, as it is ---------------------------------------------------------------------------


async def _obey(commands: Commands, measure: Callable[..., Awaitable[Taken]] | None = None) -> None:
    while (command := await asyncio.to_thread(commands.read)) is not None:
        await commands.carry_out(command, {} if measure is None else {"measure": measure})


async def _asyncio_at_once(count: int, together: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    taken = Taken()

    async def work() -> None:
        for _ in range(max(1, count // together)):
            began = time.perf_counter()
            await operation()
            taken.seconds.append(time.perf_counter() - began)

    with taken.all():
        await asyncio.gather(*(work() for _ in range(together)))
    return taken


async def _echo(request: Request) -> None:
    await request.respond(request.data)


def _pack(data: bytes) -> bytes:
    packed: bytes | None = msgpack.packb({"data": data})
    assert packed is not None
    return packed


async def _echo_packed(request: Request) -> None:
    params = msgpack.unpackb(request.data)
    await request.respond(_pack(params["data"]))


async def _add_echo(client: Client) -> None:
    service = await add_service(client, name="echo", version="1.0.0")
    await service.add_endpoint(name="echo", subject=_SUBJECT, handler=_echo)
    await service.add_endpoint(name="packed", subject=_PACKED, handler=_echo_packed)
    await client.flush()


def serve_micro(commands: Commands, url: str) -> None:
    """Serve the echo with nats-py's micro framework."""

    async def main() -> None:
        client = await nats.connect(url)
        await _add_echo(client)
        await _obey(commands)
        await client.close()

    asyncio.run(main())


def ask_micro(commands: Commands, url: str, subject: str = _SUBJECT) -> None:
    """Ask *subject* with nats-py's client: the echo of its micro framework, or whoever else answers there."""

    async def main() -> None:
        client = await nats.connect(url)

        async def measure(count: int, together: int, size: int, *, packed: bool = False) -> Taken:
            data = b"x" * size

            async def ask_packed() -> None:
                answer = await client.request(_PACKED, _pack(data), timeout=_PATIENCE)
                msgpack.unpackb(answer.data)

            ask = partial(client.request, subject, data, timeout=_PATIENCE)
            operation: Callable[[], Awaitable[object]] = ask_packed if packed else ask
            if together == 1:
                return await in_turn(count, operation)
            return await _asyncio_at_once(count, together, operation)

        await _obey(commands, measure)
        await client.close()

    asyncio.run(main())


# --- nats-py, bridged into Trio -------------------------------------------------------------------


def serve_bridged(commands: Commands, url: str) -> None:
    """Serve the echo with nats-py under trio-asyncio: its subscription, a handler on Trio."""
    import trio_asyncio  # type: ignore[import-untyped]
    from nats.aio.msg import Msg

    async def answer(message: Msg) -> None:
        await trio.lowlevel.checkpoint()
        await trio_asyncio.aio_as_trio(message.respond)(message.data)

    async def main() -> None:
        async with trio_asyncio.open_loop():
            client = await trio_asyncio.aio_as_trio(nats.connect)(url)
            handler = trio_asyncio.trio_as_aio(answer)

            async def receive(message: Msg) -> None:
                await handler(message)

            await trio_asyncio.aio_as_trio(client.subscribe)(_BRIDGED, cb=receive)
            await trio_asyncio.aio_as_trio(client.flush)()
            await obey(commands, {})
            await trio_asyncio.aio_as_trio(client.close)()

    trio.run(main)


def ask_bridged(commands: Commands, url: str) -> None:
    """Ask that echo from tasks on Trio, with nats-py under trio-asyncio."""
    import trio_asyncio

    async def main() -> None:
        async with trio_asyncio.open_loop():
            client = await trio_asyncio.aio_as_trio(nats.connect)(url)

            async def measure(count: int, together: int, size: int) -> Taken:
                request = trio_asyncio.aio_as_trio(client.request)
                return await _trio_rounds(count, together, partial(request, _BRIDGED, b"x" * size, timeout=_PATIENCE))

            await obey(commands, {"measure": measure})
            await trio_asyncio.aio_as_trio(client.close)()

    trio.run(main)
