"""A program of the tests: ``worker.py count|own URL NAME``. It says on standard output what it did, a line for each."""

from __future__ import annotations

import sys
from itertools import count

import trio
from aegis_sqlite import open_sqlite

from aegis_core import Call, LeaseLost, Role, Service, open_node
from aegis_core.backend import ABSENT, ANY, Conflict, Put, Transaction
from aegis_core.config import parse_backend


async def count_up(url: str, name: str) -> None:
    """Add to one counter by compare-and-set, for ever, and say each number that was acknowledged."""
    async with open_sqlite(parse_backend(url)) as backend:
        store = backend.store
        assert store is not None
        for number in count():
            entry = await store.get("counter")
            value, expect = (0, ABSENT) if entry is None else (int(entry.value), entry.revision)
            operations = (Put("counter", b"%d" % (value + 1), expect), Put(f"log.{value + 1}", name.encode(), ANY))
            try:
                await store.commit(Transaction(f"{name}-{number}", operations))
            except Conflict:
                continue
            print("counted", value + 1, flush=True)


async def own(url: str, name: str) -> None:
    """Own one room, or wait for it in line, and answer who has it."""
    rooms = Service("rooms", version="1.0.0")

    @rooms.method
    async def who(_call: Call) -> str:
        return name

    async with open_node(url) as node, node.serve(rooms, instance_id=name) as instance:
        while True:
            try:
                print("waiting", flush=True)
                async with instance.own("room:7", role=Role.STANDBY) as claim:
                    print("owns", claim.epoch, flush=True)
                    await trio.sleep_forever()
            except LeaseLost:
                continue


if __name__ == "__main__":
    _, what, its_url, its_name = sys.argv
    trio.run({"count": count_up, "own": own}[what], its_url, its_name)
