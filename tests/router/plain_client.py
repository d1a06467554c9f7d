"""A program that uses routers by nats-py and MessagePack alone: all that they do, again and again, until its input ends.

Where no answer comes it asks again, and takes for success what says that it had been done (`Load.ask`). It counts what it
did, writes a line now and then, and at the end what failed, as JSON.
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
LIVES = 3
MANY = 20
TRIES = 20


class Load:
    """What it does, and how that went."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.counts = dict.fromkeys(("calls", "echoes", "claims", "beats", "lives", "repeats"), 0)
        self.failures: list[str] = []
        self.results: list[int] = []
        self.going_on = True

    async def ask(self, subject: str, /, **fields: object) -> tuple[dict[str, Any], bool]:
        """The answer of a router, the next one where one does not answer; and whether it was asked again."""
        for attempt in range(TRIES):
            try:
                answer = await self.client.request(f"ipc.{subject}", msgpack.packb(fields), timeout=2.0)
            except (TimeoutError, NoRespondersError):
                self.counts["repeats"] += 1
                await asyncio.sleep(0.1)
            else:
                read: dict[str, Any] = msgpack.unpackb(answer.data)
                return read, attempt > 0
        return {"success": False, "error": {"code": "no answer"}, "envelope": {"success": False}}, True

    def count(self, what: str, answer: object, *, success: bool) -> None:
        """One more, or one that failed."""
        if success:
            self.counts[what] = self.counts.get(what, 0) + 1
        else:
            self.failures.append(f"{what}: {answer}")

    async def call(self) -> None:
        """Call, one call after the other; each has an id, so that it may be asked for again."""
        while self.going_on:
            message = {"service_name": "counter", "method": "count", "message_id": secrets.token_hex(16)}
            # The call has more time than each attempt to hear of it: who asks again joins the one that is under way.
            answer, _ = await self.ask("route.request", **message, timeout=20.0)
            self.count("calls", answer, success=answer["success"])
            if answer["success"]:
                self.results.append(answer["result"])

    async def echo(self) -> None:
        """Call what may be carried out twice, without an id."""
        while self.going_on:
            said = secrets.token_hex(4)
            call = {"service_name": "counter", "method": "echo", "params": {"said": said}}
            answer, _ = await self.ask("route.request", **call, timeout=20.0)
            self.count("echoes", answer, success=answer["success"] and answer["result"] == said)

    async def live(self, name: str) -> None:
        """Live the lives of two instances, one after the other."""
        number = 0
        while self.going_on:
            number += 1
            await Life(self, f"{name}-{number}", shows_lease=number % 2 == 1).run()
            self.counts["lives"] += 1

    async def claim(self) -> None:
        """Claim one resource after the other; twice is as good as once."""
        for number in range(100_000):
            if not self.going_on:
                return
            answer, _ = await self.ask("resource.register", **WHO, resource_ids=[f"r:{number % 500}"])
            self.count("claims", answer, success=answer["success"])
            await asyncio.sleep(0.01)

    async def beat(self) -> None:
        """Keep the lease."""
        while self.going_on:
            answer, _ = await self.ask("service.heartbeat", **WHO)
            self.count("beats", answer, success=answer["envelope"]["success"])
            await asyncio.sleep(0.5)

    async def report(self) -> None:
        """Write how far it is."""
        while self.going_on:
            sys.stdout.write(json.dumps(self.counts) + "\n")
            sys.stdout.flush()
            await asyncio.sleep(0.2)


class Life:
    """Two instances, from their registration to their end, with each operation once or more.

    Args:
        load: Asks.
        name: Names both, and what they own.
        shows_lease: Whether they show lease ids of their own.
    """

    def __init__(self, load: Load, name: str, *, shows_lease: bool) -> None:
        self._load = load
        self._one, self._two = (self._instance(f"{name}-{which}", shows_lease=shows_lease) for which in ("a", "b"))
        self._ids = [f"{name}:{number}" for number in range(MANY)]

    @staticmethod
    def _instance(instance_id: str, *, shows_lease: bool) -> dict[str, object]:
        who: dict[str, object] = {"service_name": "lives", "instance_id": instance_id}
        return {**who, "lease_id": secrets.token_hex(16)} if shows_lease else who

    async def run(self) -> None:
        """Live it."""
        one, two, ids = self._one, self._two, self._ids
        for who in (one, two):
            await self._do("service.register", "DUPLICATE_INSTANCE", **who, ttl=60)
        answer, _ = await self._load.ask("service.heartbeat", **one)
        self._load.count("service.heartbeat", answer, success=answer["envelope"]["success"])
        await self._do("resource.register", **one, resource_ids=ids[:2])
        await self._bulk("resource.bulk_register", "registered", **one, resources=[{"resource_id": i} for i in ids])
        await self._see(one, ids)
        move = {"from_instance_id": one["instance_id"], "to_instance_id": two["instance_id"], "resource_ids": ids[:2]}
        proof = {name: one[name] for name in ("service_name", "lease_id") if name in one}
        await self._do("resource.transfer", "NOT_OWNER", **proof, **move)
        await self._see(two, ids[:2])
        await self._see(one, ids[2:])
        await self._do("resource.release", "RESOURCE_NOT_FOUND", **two, resource_ids=ids[:1])
        await self._bulk("resource.bulk_release", "released", **one, resource_ids=ids[2:-1])
        await self._see(two, ids[1:2])
        await self._see(one, ids[-1:])
        for who in (one, two):
            await self._do("service.unregister", "INSTANCE_NOT_FOUND", **who)
        await self._see(one, [])
        await self._see(two, [])

    async def _do(self, subject: str, done: str = "", /, **fields: object) -> None:
        """Ask for something; *done* is the error that says, to who asks again, that it had been done."""
        answer, again = await self._load.ask(subject, **fields)
        code = answer.get("error_code") or (answer.get("error") or {}).get("code")
        self._load.count(subject, answer, success=answer["success"] or (again and code == done))

    async def _bulk(self, subject: str, field: str, /, **fields: Any) -> None:  # noqa: ANN401 - as they are sent
        answer, again = await self._load.ask(subject, **fields)
        wanted = fields.get("resource_ids") or [each["resource_id"] for each in fields["resources"]]
        gone = [each["resource_id"] for each in answer.get("failed", ()) if each["error_code"] == "RESOURCE_NOT_FOUND"]
        success = answer.get(field) == wanted or (again and field == "released" and gone == wanted)
        self._load.count(subject, answer, success=success)

    async def _see(self, who: dict[str, object], ids: list[str]) -> None:
        """Look what an instance owns; it is *ids*."""
        answer, _ = await self._load.ask("resource.query", instance_id=who["instance_id"])
        found = sorted(each["resource_id"] for each in answer.get("resources", ()))
        self._load.count("resource.query", (answer, ids), success=found == sorted(ids))


async def main(url: str) -> None:
    """Do it."""
    client = await nats.connect(url)
    load = Load(client)
    registered, _ = await load.ask("service.register", **WHO, ttl=60)
    assert registered["success"], registered
    tasks = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
    tasks += [asyncio.create_task(load.live(f"life-{number}")) for number in range(LIVES)]
    tasks += [asyncio.create_task(work()) for work in (load.echo, load.claim, load.beat, load.report)]
    await asyncio.to_thread(sys.stdin.read)
    load.going_on = False
    await asyncio.gather(*tasks)
    sys.stdout.write(json.dumps({**load.counts, "failures": load.failures[:20], "results": load.results}) + "\n")
    await client.close()


asyncio.run(main(sys.argv[1]))
