"""Parts of the benchmark of calls: nats-py's micro framework, and nats-py bridged into Trio.

All echo bytes. Ours (`tests.benchmarks.parts.echoes`) sends them as a parameter in an envelope, with its deadline and ids,
and checks them; the peers send nothing but the bytes themselves, and check nothing. How much of the difference a parameter
makes shows in what the micro framework takes with one: a map in MessagePack, both ways.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - the peers' loop, in processes of their own
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgpack  # type: ignore[import-untyped]
import nats
import trio
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request

from tests.benchmarks.parts import on_asyncio
from tests.benchmarks.parts.commands import Commands, Taken, obey, rounds
from tests.benchmarks.parts.echoes import PATIENCE

__all__ = ["ask_bridged", "ask_micro", "serve_bridged", "serve_micro"]

_SUBJECT: Final = "bench.echo"
_PACKED: Final = "bench.packed"
_BRIDGED: Final = "bench.bridged"


# --- nats-py, as it is ---------------------------------------------------------------------------


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
        await on_asyncio.obey(commands, {})
        await client.close()

    asyncio.run(main())


def ask_micro(commands: Commands, url: str, subject: str = _SUBJECT) -> None:
    """Ask *subject* with nats-py's client: the echo of its micro framework, or whoever else answers there."""

    async def main() -> None:
        client = await nats.connect(url)

        async def measure(count: int, together: int, size: int, *, packed: bool = False) -> Taken:
            data = b"x" * size

            async def ask_packed() -> None:
                answer = await client.request(_PACKED, _pack(data), timeout=PATIENCE)
                msgpack.unpackb(answer.data)

            ask = partial(client.request, subject, data, timeout=PATIENCE)
            operation: Callable[[], Awaitable[object]] = ask_packed if packed else ask
            return await on_asyncio.rounds(count, together, operation)

        await on_asyncio.obey(commands, {"measure": measure})
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
                return await rounds(count, together, partial(request, _BRIDGED, b"x" * size, timeout=PATIENCE))

            await obey(commands, {"measure": measure})
            await trio_asyncio.aio_as_trio(client.close)()

    trio.run(main)
