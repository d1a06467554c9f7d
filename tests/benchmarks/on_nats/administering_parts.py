"""Part of the benchmark of a registry that is asked through a router: a client as those of other languages are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

import msgpack  # type: ignore[import-untyped]
import trio

from aegis_backends.nats.connection import open_connection
from tests.benchmarks.parts.commands import Commands, Taken, obey

__all__ = ["administer"]

_PATIENCE: Final = 10.0
_SERVICE: Final = "book-service"
_TTL: Final = 300.0


def administer(commands: Commands, url: str) -> None:
    """Register instances over ``ipc.*``, and claim, release and transfer in their names, one request at a time."""

    async def main() -> None:
        async with open_connection([url]) as connection:

            async def ask(operation: str, **fields: object) -> dict[str, object]:
                asked = cast(bytes, msgpack.packb({"service_name": _SERVICE, **fields}))
                answer = await connection.request(f"ipc.{operation}", asked, timeout=_PATIENCE)
                told = cast("dict[str, object]", msgpack.unpackb(answer.payload))
                if not told["success"]:
                    raise RuntimeError(f"{operation} was answered {told}")
                return told

            async def be_there() -> None:
                for name in ("one", "other"):
                    await ask("service.register", instance_id=name, ttl=_TTL)

            async def register(count: int) -> Taken:
                taken = Taken()
                for number in range(count):
                    name = f"book-{number}"
                    with taken.one():
                        await ask("service.register", instance_id=name)
                    await ask("service.unregister", instance_id=name)
                return taken

            async def claim(count: int) -> Taken:
                taken = Taken()
                for _ in range(count):
                    with taken.one():
                        await ask("resource.register", instance_id="one", resource_ids=["claimed"])
                    await ask("resource.release", instance_id="one", resource_ids=["claimed"])
                return taken

            async def release(count: int) -> Taken:
                taken = Taken()
                for _ in range(count):
                    await ask("resource.register", instance_id="one", resource_ids=["released"])
                    with taken.one():
                        await ask("resource.release", instance_id="one", resource_ids=["released"])
                return taken

            async def bulk(count: int, size: int) -> Taken:
                taken, ids = Taken(), [f"order:{number}" for number in range(size)]
                resources = [{"resource_id": resource_id} for resource_id in ids]
                for _ in range(count):
                    with taken.one():
                        told = await ask("resource.bulk_register", instance_id="one", resources=resources)
                    assert not told["failed"]
                    await ask("resource.bulk_release", instance_id="one", resource_ids=ids)
                return taken

            async def transfer(count: int, size: int) -> Taken:
                """There and back."""
                taken, ids = Taken(), [f"moved:{number}" for number in range(size)]
                await ask("resource.register", instance_id="one", resource_ids=ids)
                names = ["one", "other"]
                for _ in range(count):
                    with taken.one():
                        await ask(
                            "resource.transfer",
                            resource_ids=ids,
                            from_instance_id=names[0],
                            to_instance_id=names[1],
                            reason="balance",
                        )
                    names.reverse()
                await ask("resource.release", instance_id=names[0], resource_ids=ids)
                return taken

            acts: dict[str, Callable[..., Awaitable[object]]] = {
                "be_there": be_there,
                "register": register,
                "claim": claim,
                "release": release,
                "bulk": bulk,
                "transfer": transfer,
            }
            await obey(commands, acts)

    trio.run(main)
