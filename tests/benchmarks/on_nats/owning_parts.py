"""Parts of the benchmark of registrations and ownership: a node with an instance, and bare writes by our client."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.headers import Headers
from aegis_core import Claim, Role, Service, open_node
from tests.benchmarks.parts.commands import Commands, Taken, at_once, in_turn, obey

__all__ = ["be_member", "write_bare"]

_PATIENCE: Final = 10.0

books = Service("book-service", version="1.0.0")
carts = Service("cart-service", version="1.0.0")


@books.on_acquire
async def load_book(claim: Claim) -> str:
    """Adopt what is transferred."""
    return claim.resource_id


def be_member(commands: Commands, url: str, instance_id: str) -> None:
    """Serve an instance that claims, releases and transfers; register others beside it."""

    async def main() -> None:
        async with open_node(url) as node, node.serve(books, instance_id=instance_id) as instance:

            async def register(count: int, *, role: bool) -> Taken:
                taken = Taken()
                for _ in range(count):
                    serving = node.serve(carts, role=Role.ACTIVE if role else None)
                    with taken.one():
                        await serving.__aenter__()
                    await serving.__aexit__(None, None, None)
                return taken

            async def record(count: int) -> Taken:
                taken = Taken()
                for number in range(count):
                    name = f"cart-{instance_id}-{number}"
                    with taken.one():
                        reply = await node.registry.register("cart-service", name)
                    await node.registry.deregister("cart-service", name, lease_id=reply.lease_id)
                return taken

            async def register_at_once(count: int) -> Taken:
                taken, leave, all_there = Taken(), trio.Event(), trio.Event()

                async def serve() -> None:
                    began = time.perf_counter()
                    async with node.serve(carts):
                        taken.seconds.append(time.perf_counter() - began)
                        if len(taken.seconds) == count:
                            all_there.set()
                        await leave.wait()

                async with trio.open_nursery() as nursery:
                    with taken.all():
                        for _ in range(count):
                            nursery.start_soon(serve)
                        await all_there.wait()
                    leave.set()
                return taken

            async def claim(count: int) -> Taken:
                taken = Taken()
                for number in range(count):
                    with taken.one():
                        await instance.claim(f"order:{number}")
                    await instance.release(f"order:{number}")
                return taken

            async def release(count: int) -> Taken:
                taken = Taken()
                for number in range(count):
                    await instance.claim(f"order:{number}")
                    with taken.one():
                        await instance.release(f"order:{number}")
                return taken

            async def claim_at_once(count: int, together: int) -> Taken:
                ids = [f"order:{number}" for number in range(count)]
                unclaimed = iter(ids)

                async def operation() -> None:
                    await instance.claim(next(unclaimed))

                taken = await at_once(count, [operation] * together)
                await instance.bulk_release(ids)
                return taken

            async def bulk(count: int, size: int) -> Taken:
                taken = Taken()
                ids = [f"order:{number}" for number in range(size)]
                for _ in range(count):
                    with taken.one():
                        report = await instance.bulk_claim(ids)
                    assert not report.failed
                    await instance.bulk_release(ids)
                return taken

            async def own(size: int) -> None:
                await instance.claim(*(f"book:{number}" for number in range(size)))

            async def transfer(count: int, size: int, to: str) -> Taken:
                taken = Taken()
                ids = [f"book:{number}" for number in range(size)]
                for _ in range(count):
                    while not instance.claims.keys() >= set(ids):  # noqa: ASYNC110 - it comes from elsewhere
                        await trio.sleep(0.001)
                    with taken.one():
                        reply = await instance.transfer(*ids, to=to)
                    assert not reply.failed
                return taken

            acts: dict[str, Callable[..., Awaitable[object]]] = {
                "register": register,
                "record": record,
                "register_at_once": register_at_once,
                "claim": claim,
                "release": release,
                "claim_at_once": claim_at_once,
                "bulk": bulk,
                "own": own,
                "transfer": transfer,
            }
            await obey(commands, acts)

    trio.run(main)


def write_bare(commands: Commands, url: str) -> None:
    """Put into a stream with our client alone: what a write costs without a store and a node."""

    async def main() -> None:
        async with open_connection([url]) as connection:
            revisions: dict[str, int] = {}

            def expecting(key: str, *more: tuple[str, str]) -> Headers:
                return Headers((("Nats-Expected-Last-Subject-Sequence", str(revisions.get(key, 0))), *more))

            async def put_one(key: str, payload: bytes) -> None:
                answer = await connection.request(key, payload, headers=expecting(key), timeout=_PATIENCE)
                revisions[key] = _sequence(answer.payload)

            async def put(count: int, together: int, size: int, prefix: str) -> Taken:
                payload = b"x" * size
                operations = [partial(put_one, f"{prefix}ours.{number}", payload) for number in range(together)]
                return await (in_turn(count, operations[0]) if together == 1 else at_once(count, operations))

            async def batch(count: int, together: int, size: int, prefix: str) -> Taken:
                payload = b"x" * size
                *first, last = keys = [f"{prefix}ours-batch.{number}" for number in range(together)]
                taken = Taken()
                for number in range(count):
                    name = ("Nats-Batch-Id", f"ours-{revisions.get(last, 0)}-{number}")
                    with taken.one():
                        for place, key in enumerate(first, 1):
                            headers = expecting(key, name, ("Nats-Batch-Sequence", str(place)))
                            connection.publish(key, payload, headers=headers)
                        end = (name, ("Nats-Batch-Sequence", str(together)), ("Nats-Batch-Commit", "1"))
                        answer = await connection.request(
                            last, payload, headers=expecting(last, *end), timeout=_PATIENCE
                        )
                        following = _sequence(answer.payload) - together
                        revisions.update({key: following + place for place, key in enumerate(keys, 1)})
                return taken

            await obey(commands, {"put": put, "batch": batch})

    trio.run(main)


def _sequence(payload: bytes) -> int:
    told = json.loads(payload)
    if "error" in told:
        raise RuntimeError(payload.decode())
    return int(told["seq"])
