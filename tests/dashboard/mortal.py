"""A program that stands by for the role of its service until it is killed: ``mortal.py URL INSTANCE_ID TTL``."""

from __future__ import annotations

import sys

import trio

from aegis_core import Role, Service, open_node


async def main() -> None:
    """Stand by, and say when."""
    url, instance_id, ttl = sys.argv[1:]
    engine = Service("engine", version="1.2.3")
    async with (
        open_node(url) as node,
        node.serve(engine, instance_id=instance_id, role=Role.STANDBY, ttl=float(ttl)),
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
