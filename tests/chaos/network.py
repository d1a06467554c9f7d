"""A cluster whose every way, between servers and to each client, can be cut: relays in one process, so that it needs no rights."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from aegis_backends.nats.server import NatsServer, NatsServers
from aegis_pytest.relay import Relay
from tests.chaos.servers import directory

__all__ = ["Network", "open_network"]

_HOST: Final = "127.0.0.1"
_NOWHERE: Final = f"{_HOST}:1"
"""Where servers tell each other that others are: nobody listens there, so that nobody finds a way around the relays."""


@attrs.define(eq=False)
class Network:
    """Three servers whose every way to each other, and from each client, goes through a relay of its own.

    The servers do not tell anybody where others are.
    """

    servers: tuple[NatsServer, ...]
    between: dict[tuple[str, str], Relay]
    nursery: trio.Nursery
    clients: dict[str, dict[str, Relay]] = attrs.Factory(dict)

    async def client(self, name: str, bucket: str) -> str:
        """The URL by which a client of that name reaches the servers."""
        ways = {server.name: Relay(server.port) for server in self.servers}
        for relay in ways.values():
            await self.nursery.start(relay.run)
        self.clients[name] = ways
        location = ",".join(f"{_HOST}:{relay.port}" for relay in ways.values())
        return f"nats://{location}?bucket={bucket}&replicas={len(self.servers)}"

    def url(self, bucket: str, *, without: NatsServer | None = None) -> str:
        """The URL by which the test itself reaches the servers (but one), past all relays."""
        location = ",".join(f"{_HOST}:{server.port}" for server in self.servers if server is not without)
        return f"nats://{location}?bucket={bucket}&replicas={len(self.servers)}"

    def ways_of(self, name: str, *, clients: bool = True) -> list[Relay]:
        """Every relay between the server or client of that name and anybody else, or (not *clients*) other servers."""
        ways = [relay for pair, relay in self.between.items() if name in pair]
        if not clients:
            return ways
        ways += [ways[name] for ways in self.clients.values() if name in ways]
        return ways + list(self.clients.get(name, {}).values())

    @contextmanager
    def cut_off(self, name: str, *, clients: bool = True) -> Iterator[None]:
        """While the block runs, no byte passes between the server or client of that name and anybody else.

        Not *clients*: a server's own clients reach it.
        """
        ways = self.ways_of(name, clients=clients)
        for relay in ways:
            relay.cut()
        try:
            yield
        finally:
            for relay in ways:
                relay.heal()


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    """A cluster of three behind relays, for the block."""
    with directory() as folder:
        plain = NatsServers(3, folder)
        async with trio.open_nursery() as nursery:
            names = [server.name for server in plain.servers]
            client_ports, cluster_ports = _free_ports(3), _free_ports(3)
            between = {(a, b): Relay(cluster_ports[names.index(b)]) for a in names for b in names if a != b}
            for relay in between.values():
                await nursery.start(relay.run)
            for at, server in enumerate(plain.servers):
                routes = [f"nats://{_HOST}:{relay.port}" for (a, _), relay in between.items() if a == server.name]
                lines = [
                    f"server_name: {server.name}",
                    f'listen: "{_HOST}:{client_ports[at]}"',
                    f"jetstream {{ store_dir: {json.dumps(str(server.directory / 'data'))} }}",
                    f'cluster {{ name: aegis, listen: "{_HOST}:{cluster_ports[at]}"',
                    f'no_advertise: true, advertise: "{_NOWHERE}", routes: {json.dumps(routes)} }}',
                ]
                server.configure(client_ports[at], "\n".join(lines) + "\n")
                server.spawn()
            try:
                for server in plain.servers:
                    await server.wait_ready()
                yield Network(tuple(plain.servers), between, nursery)
            finally:
                with trio.CancelScope(shield=True):
                    for server in plain.servers:
                        await server.kill()
            nursery.cancel_scope.cancel()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((_HOST, 0))
        return [opened.getsockname()[1] for opened in sockets]
