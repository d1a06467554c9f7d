"""What each failure of a NATS server looks like to its clients, and how long it lasts: a table, from real servers.

Run it by hand: it takes about three minutes and decides nothing. Writers commit without a pause, each over a connection of
its own; twenty instances keep their leases beside them (TTL 15 s, heartbeat every 5 s).
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.server import NatsServer, NatsServers, open_servers
from aegis_core import Service, open_node
from aegis_core.backend import ANY, BackendAddress, Indeterminate, Put, StoreUnavailable, Transaction
from aegis_core.events import LeaseEnded

WRITERS: Final = 10
INSTANCES: Final = 20
_AFTER: Final = 3.0
_PATIENCE: Final = 60.0


@attrs.define(eq=False)
class Run:
    """What writers and instances went through."""

    acknowledged: int = 0
    longest: dict[int, float] = attrs.field(factory=dict)
    last: dict[int, float] = attrs.field(factory=dict)
    seen: Counter[str] = attrs.field(factory=Counter)
    leases_lost: int = 0
    serving: int = 0

    def has_begun(self) -> bool:
        """Whether every writer has written, and every instance serves."""
        return self.serving == INSTANCES and len(self.longest) == WRITERS and all(self.longest.values())


Strike = Callable[[NatsServers], Awaitable[None]]


async def _leader(servers: NatsServers) -> NatsServer:
    async with open_connection([servers.servers[0].url]) as connection:
        found = await connection.request("$JS.API.STREAM.INFO.KV_failures", timeout=5.0)
    name = json.loads(found.payload)["cluster"]["leader"]
    return next(server for server in servers.servers if server.name == name)


async def _kill_leader(servers: NatsServers) -> None:
    await (await _leader(servers)).kill()


async def _hang_leader(servers: NatsServers) -> None:
    (await _leader(servers)).signal(signal.SIGSTOP)


async def _stop_leader(servers: NatsServers) -> None:
    await (await _leader(servers)).stop()


async def _kill_follower(servers: NatsServers) -> None:
    led = await _leader(servers)
    await next(server for server in servers.servers if server is not led).kill()


async def _restart_one_after_the_other(servers: NatsServers) -> None:
    for server in servers.servers:
        await server.stop()
        await server.start()
        await trio.sleep(3.0)


async def _restart_all(servers: NatsServers) -> None:
    for server in servers.servers:
        await server.kill()
    async with trio.open_nursery() as nursery:
        for server in servers.servers:
            nursery.start_soon(server.start)


EVENTS: Final[tuple[tuple[str, int, Strike], ...]] = (
    ("one of three killed (kill -9), the leader of the bucket", 3, _kill_leader),
    ("the leader hangs (SIGSTOP)", 3, _hang_leader),
    ("the leader is stopped in order (SIGTERM)", 3, _stop_leader),
    ("one of three killed, not the leader", 3, _kill_follower),
    ("all three restarted in order, one after the other", 3, _restart_one_after_the_other),
    ("all three killed and started again", 3, _restart_all),
    ("the only server killed and started again", 1, _restart_all),
)


async def _write(where: BackendAddress, number: int, run: Run, stop: trio.Event) -> None:
    async with open_nats(where) as backend:
        assert backend.store is not None
        run.last[number] = trio.current_time()
        run.longest[number] = 0.0
        count = 0
        while not stop.is_set():
            transaction = Transaction(f"{number}-{count}", [Put(f"w.{number}", b"%d" % count, ANY)])
            try:
                await backend.store.commit(transaction)
            except (Indeterminate, StoreUnavailable) as exc:
                run.seen[type(exc).__name__] += 1
                await trio.sleep(0.02)
                continue
            now = trio.current_time()
            run.longest[number] = max(run.longest[number], now - run.last[number])
            run.last[number] = now
            run.acknowledged += 1
            count += 1
            await trio.sleep(0.005)


async def _live(url: str, run: Run, stop: trio.Event) -> None:
    service = Service("live")

    async with open_node(url) as node, node.events(LeaseEnded) as events:

        async def count() -> None:
            async for _ in events:
                run.leases_lost += 1

        async def serve(number: int) -> None:
            async with node.serve(service, instance_id=f"i-{number}", ttl=15.0, heartbeat_interval=5.0):
                run.serving += 1
                await stop.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            async with trio.open_nursery() as serving:
                for number in range(INSTANCES):
                    serving.start_soon(serve, number)
            nursery.cancel_scope.cancel()


async def measure(count: int, strike: Strike) -> Run:
    """Let *strike* happen to *count* servers, and wait until every writer writes again."""
    run, stop = Run(), trio.Event()
    async with open_servers(count) as servers:
        parameters = {"bucket": "failures", "replicas": str(count)}
        where = BackendAddress(servers.url, "nats", servers.location, parameters)
        async with open_nats(where):
            pass
        with trio.fail_after(_PATIENCE + 60.0):
            async with trio.open_nursery() as nursery:
                for number in range(WRITERS):
                    nursery.start_soon(_write, where, number, run, stop)
                nursery.start_soon(_live, f"{servers.url}?bucket=failures&replicas={count}", run, stop)
                while not run.has_begun():  # noqa: ASYNC110 - only for a table
                    await trio.sleep(0.05)
                run.seen.clear()
                run.longest = dict.fromkeys(run.longest, 0.0)
                await strike(servers)
                struck = trio.current_time()
                with trio.move_on_after(_PATIENCE):
                    while not all(last > struck + _AFTER for last in run.last.values()):  # noqa: ASYNC110 - only for a table
                        await trio.sleep(0.05)
                for server in servers.servers:
                    server.signal(signal.SIGCONT)
                stop.set()
    return run


def main() -> None:
    """Print the table."""
    print(
        "| What happens | no commit for (median, worst of 10 writers) | what commits raised meanwhile | leases lost |"
    )
    print("| --- | --- | --- | --- |")
    for name, count, strike in EVENTS:
        run = trio.run(measure, count, strike)
        gaps = sorted(run.longest.values())
        seen = ", ".join(f"{times} {kind}" for kind, times in run.seen.most_common()) or "nothing"
        print(
            f"| {name} | {gaps[len(gaps) // 2]:.1f} s, {gaps[-1]:.1f} s | {seen} | {run.leases_lost} of {INSTANCES} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
