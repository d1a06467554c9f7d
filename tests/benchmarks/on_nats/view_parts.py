"""Parts of the benchmarks of the view and of heartbeats: who fills a bucket, and who reads it, each with a fresh process."""

from __future__ import annotations

import gc
import json
import os
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from aegis_backends.nats import open_nats
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.protocol import Message
from aegis_core import Service, open_node
from aegis_core.backend import BackendAddress
from tests.benchmarks.looking_up import fill
from tests.benchmarks.on_nats.bare_socket import BareSocket
from tests.benchmarks.parts.commands import Commands, Taken, obey

__all__ = ["beat", "fill_bucket", "load_view", "read_bare", "read_socket"]

# Of this process alone: what an earlier one left may still be sent to that one's.
_READER = f"reader-{os.getpid()}"
_INBOX = f"_INBOX.{_READER}"
_QUICKLY = 60.0

devices = Service("device-service", version="1.0.0")


def _resident() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _most_resident() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fill_bucket(commands: Commands, url: str, location: str, bucket: str) -> None:
    """Write so many records of who owns a resource into the bucket."""

    async def main() -> None:
        async def write(many: int) -> None:
            parameters = {"storage": "memory", "bucket": bucket}
            async with open_nats(BackendAddress(url, "nats", location, parameters)) as backend:
                assert backend.store is not None
                await fill(backend.store, many)

        await obey(commands, {"write": write})

    trio.run(main)


def load_view(commands: Commands, url: str) -> None:
    """Open a node, which loads the view; the seconds, and the bytes that it takes then, and took at most."""

    async def main() -> None:
        async def load(resource_id: str) -> dict[str, object]:
            taken, before = Taken(), _resident()
            async with AsyncExitStack() as stack:
                with taken.one():
                    node = await stack.enter_async_context(open_node(url))
                assert node.owner_of(resource_id) is not None
                return {"taken": taken, "kept": _resident() - before, "most": _most_resident() - before}

        await obey(commands, {"load": load})

    trio.run(main)


def _consumer(stream: str) -> tuple[str, bytes]:
    """The request for a consumer that sends everything, and does not wait to be asked for more."""
    config = {
        "name": _READER,
        "deliver_subject": _INBOX,
        "deliver_policy": "all",
        "ack_policy": "none",
        "max_deliver": 1,
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
    }
    body = {"stream_name": stream, "action": "create", "config": config}
    return f"$JS.API.CONSUMER.CREATE.{stream}.{_READER}", json.dumps(body).encode()


def read_bare(commands: Commands, url: str, stream: str, many: int) -> None:
    """Read *many* messages of *stream* with our client, and do nothing with it: what the view's load is held against."""

    @asynccontextmanager
    async def reading() -> AsyncIterator[trio.Event]:
        level = trio.Event()
        async with open_connection([url]) as connection:
            read = 0

            def receive(message: Message) -> None:
                nonlocal read
                read += 1
                if read == many:
                    level.set()

            async with connection.listen(_INBOX, receive):
                await connection.request(*_consumer(stream), timeout=10.0)
                yield level

    async def main() -> None:
        async def load() -> Taken:
            taken = Taken()
            async with AsyncExitStack() as stack:
                with taken.one():
                    level = await stack.enter_async_context(reading())
                    with trio.fail_after(_QUICKLY):
                        await level.wait()
            return taken

        await obey(commands, {"load": load})

    trio.run(main)


def read_socket(commands: Commands, url: str, stream: str, many: int) -> None:
    """Read *many* messages of *stream* over a blocking socket."""

    async def main() -> None:
        async def load() -> Taken:
            taken = Taken()
            subject, body = _consumer(stream)
            with taken.one():
                connection = BareSocket(url)
                connection.set_patience(10.0)
                connection.send(b"SUB %b 1\r\n" % _INBOX.encode())
                connection.send(b"PUB %b no.reply %d\r\n%b\r\n" % (subject.encode(), len(body), body))
                read = 0
                while read < many:
                    read += sum(1 for _ in connection.receive())
            return taken

        await obey(commands, {"load": load})

    trio.run(main)


def beat(commands: Commands, url: str, many: int) -> None:
    """Serve *many* instances, and tell what processor time that takes while nothing else happens."""

    async def main() -> None:
        async with open_node(url) as node:

            async def use(seconds: float) -> float:
                began, used = time.perf_counter(), time.process_time()
                await trio.sleep(seconds)
                return (time.process_time() - used) / (time.perf_counter() - began)

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                async with node.serve(devices):
                    task_status.started()
                    await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                for _ in range(many):
                    await nursery.start(serve)
                await obey(commands, {"use": use})
                nursery.cancel_scope.cancel()

    trio.run(main)
