"""Where the instances meet: in this process, on a NATS server that is started for them, or on one that is there.

A server of our own, and a bucket on somebody else's, must be gone when the demo is, even if it was killed. So they are
looked after by a process, ``python -m exchange.meeting``: it prepares the place, and clears it when its standard input
ends, whatever it ended from. The instances hold the other end of that pipe too, so that it ends with the last of them:
an instance that finds its bucket gone would make it anew.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from aegis_backends.nats import remove_bucket
from aegis_backends.nats.server import open_servers
from aegis_core import ConfigError
from aegis_core.config import parse_backend
from exchange.children import ChildFailed, Parent, close_stdin, open_child
from exchange.failures import FAILURES, sentences

_PATIENCE = 5.0
"""Seconds for a server of somebody else's to remove the bucket, in the end."""


@attrs.frozen
class MeetingPlace:
    """Where the instances meet.

    Attributes:
        url: What they open.
        in_process: Whether only nodes of this process can meet there.
        lifelines: Descriptors that each process that uses it has to hold open.
    """

    url: str = attrs.field(repr=False)  # It may hold a password.
    in_process: bool = False
    lifelines: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The URL without secrets and parameters."""
        address = parse_backend(self.url)
        return f"{address.scheme}://{address.location.rpartition('@')[2]}"


@asynccontextmanager
async def open_meeting_place(backend: str) -> AsyncIterator[MeetingPlace]:
    """Prepare the place that *backend* names, and clear it with the block.

    Args:
        backend: ``memory`` or ``memory://name``; ``nats`` for a server that is started; ``nats://host:port`` for one
            that runs, and gets a bucket for the time of the run unless the URL names one.

    Raises:
        ConfigError: It is none of these.
        ChildFailed: There is no server to start, or none that answers; says what to do.
    """
    if backend == "memory" or backend.startswith("memory://"):
        yield MeetingPlace("memory://" if backend == "memory" else backend, in_process=True)
        return
    if backend != "nats" and not backend.startswith("nats://"):
        expected = "expected memory, nats, memory://name or nats://host:port"
        raise ConfigError(source="--backend", key=backend, problem=expected)
    if backend != "nats" and "bucket" in parse_backend(backend).parameters:
        yield MeetingPlace(backend)
        return
    async with open_child("exchange.meeting", end=close_stdin) as keeper:
        await keeper.tell({"backend": backend})
        place = await keeper.hear()
        if place is None:
            raise ChildFailed(f"the process that keeps {backend} ended with status {await keeper.wait()}")
        yield MeetingPlace(place["url"], lifelines=(keeper.stdin,))


async def main() -> int:
    """Keep the place that the first line of standard input names until that ends.

    Returns:
        0 when all went well, 1 when not, which the parent is told.
    """
    parent = Parent()
    wanted = await parent.hear()
    if wanted is None:
        return 1
    failures: list[str] = []
    try:
        await (_keep_server(parent) if wanted["backend"] == "nats" else _keep_bucket(parent, wanted["backend"]))
    except* FAILURES as errors:
        failures.extend(sentences(errors))
    if failures:
        parent.tell({"failed": "; ".join(failures)})
    return 1 if failures else 0


async def _keep_server(parent: Parent) -> None:
    async with open_servers() as servers:
        parent.tell({"url": f"{servers.url}?storage=memory"})
        await parent.hear()


async def _keep_bucket(parent: Parent, backend: str) -> None:
    parameters = f"bucket=order-book-demo-{secrets.token_hex(4)}"
    if "storage" not in parse_backend(backend).parameters:
        parameters += "&storage=memory"
    url = f"{backend}{'&' if '?' in backend else '?'}{parameters}"
    address = parse_backend(url)
    await remove_bucket(address)  # There is none: this asks whether the server is one that could have it.
    parent.tell({"url": url})
    await parent.hear()
    with trio.move_on_after(_PATIENCE):
        await remove_bucket(address)


if __name__ == "__main__":
    sys.exit(trio.run(main))
