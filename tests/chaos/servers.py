"""NATS servers that tests kill and restart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.jetstream import JetStream
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import NatsServer, NatsServers
from aegis_backends.nats.watchdog import temporary_directory
from aegis_core.config import parse_backend

__all__ = ["bucket_url", "directory", "leader_of", "make_healthy", "running"]

_SHARED_MEMORY: Final = Path("/dev/shm")
_PATIENCE: Final = 60.0


@contextmanager
def directory() -> Iterator[Path]:
    """A folder in memory where there is such: what is tested is the servers' word, not somebody's disk."""
    with temporary_directory(parent=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None) as made:
        yield made


@contextmanager
def running(count: int) -> Iterator[NatsServers]:
    """Servers for a whole session of tests."""
    with directory() as folder:
        servers = NatsServers(count, folder)
        trio.run(servers.start)
        try:
            yield servers
        finally:
            trio.run(servers.stop)


def bucket_url(servers: NatsServers, bucket: str) -> str:
    """The URL of a bucket on as many of *servers* as there are."""
    return f"{servers.url}?bucket={bucket}&replicas={len(servers.servers)}"


async def make_healthy(servers: NatsServers) -> None:
    """Start those that a test before left dead, and wait until all answer."""
    for server in servers.servers:
        if not server.running:
            server.spawn()
    for server in servers.servers:
        await server.wait_ready()


async def leader_of(url: str, servers: Sequence[NatsServer]) -> NatsServer:
    """Which of *servers* leads the bucket of *url*, once one of them does."""
    settings = read_address(parse_backend(url))
    with trio.fail_after(_PATIENCE):
        async with open_connection(settings.servers, settings.options) as connection:
            jetstream = JetStream(connection, within=_PATIENCE, random=random.Random())
            while True:
                cluster = (await jetstream.call(f"STREAM.INFO.{settings.bucket.stream}")).get("cluster")
                assert isinstance(cluster, dict)
                for server in servers:
                    if server.name == cluster.get("leader"):
                        return server
                await trio.sleep(0.1)
