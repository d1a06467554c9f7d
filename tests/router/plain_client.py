"""A program that uses routers by nats-py and MessagePack alone: calls, claims and heartbeats, until its input ends.

It counts what it did, writes a line now and then, and at the end what failed, as JSON.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - nats-py needs it; that is why this is a program of its own
import json
import secrets
import sys
from typing import Any

import msgpack  # type: ignore[import-untyped]
import nats
from nats.aio.client import Client
from nats.errors import NoRespondersError, TimeoutError  # noqa: A004 - as nats-py names it

WHO = {"service_name": "thin", "instance_id": f"thin-{secrets.token_hex(4)}", "lease_id": secrets.token_hex(16)}
CALLERS = 8
TRIES = 20


class Load:
    """What it does, and how that went."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.counts = {"calls": 0, "claims": 0, "beats": 0, "repeats": 0}
        self.failures: list[str] = []
        self.results: list[int] = []
        self.going_on = True

    async def ask(self, subject: str, **fields: object) -> dict[str, Any]:
        """The answer of a router, the next one where one does not answer."""
        for _ in range(TRIES):
            try:
                answer = await self.client.request(f"ipc.{subject}", msgpack.packb(fields), timeout=2.0)
            except (TimeoutError, NoRespondersError):
                self.counts["repeats"] += 1
                await asyncio.sleep(0.1)
            else:
                read: dict[str, Any] = msgpack.unpackb(answer.data)
                return read
        return {"success": False, "error": "no answer", "envelope": {"success": False}}

    def count(self, what: str, answer: dict[str, Any], *, success: bool) -> None:
        """One more, or one that failed."""
        if success:
            self.counts[what] += 1
        else:
            self.failures.append(f"{what}: {answer}")

    async def call(self) -> None:
        """Call, one call after the other; each has an id, so that it may be asked for again."""
        while self.going_on:
            message = {"service_name": "counter", "method": "count", "message_id": secrets.token_hex(16)}
            # The call has more time than each attempt to hear of it: who asks again joins the one that is under way.
            answer = await self.ask("route.request", **message, timeout=20.0)
            self.count("calls", answer, success=answer["success"])
            if answer["success"]:
                self.results.append(answer["result"])

    async def claim(self) -> None:
        """Claim one resource after the other; twice is as good as once."""
        for number in range(100_000):
            if not self.going_on:
                return
            answer = await self.ask("resource.register", **WHO, resource_ids=[f"r:{number % 500}"])
            self.count("claims", answer, success=answer["success"])
            await asyncio.sleep(0.01)

    async def beat(self) -> None:
        """Keep the lease."""
        while self.going_on:
            answer = await self.ask("service.heartbeat", **WHO)
            self.count("beats", answer, success=answer["envelope"]["success"])
            await asyncio.sleep(0.5)

    async def report(self) -> None:
        """Write how far it is."""
        while self.going_on:
            sys.stdout.write(json.dumps(self.counts) + "\n")
            sys.stdout.flush()
            await asyncio.sleep(0.2)


async def main(url: str) -> None:
    """Do it."""
    client = await nats.connect(url)
    load = Load(client)
    registered = await load.ask("service.register", **WHO, ttl=60)
    assert registered["success"], registered
    tasks = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
    tasks += [asyncio.create_task(work()) for work in (load.claim, load.beat, load.report)]
    await asyncio.to_thread(sys.stdin.read)
    load.going_on = False
    await asyncio.gather(*tasks)
    sys.stdout.write(json.dumps({**load.counts, "failures": load.failures[:20], "results": load.results}) + "\n")
    await client.close()


asyncio.run(main(sys.argv[1]))
