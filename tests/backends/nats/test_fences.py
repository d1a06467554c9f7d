"""Read barriers when nobody is left to send them."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.fences import Fences
from aegis_backends.nats.mirror import Mirror
from aegis_backends.nats.protocol import Message
from aegis_core.backend import TrioClock
from aegis_core.errors import StoreUnavailable
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess


async def test_who_waits_for_a_fence_is_told_when_the_store_is_left(shared_server: ServerProcess) -> None:
    """Whether the fence was on its way, or was still to be sent; and whoever comes later."""
    sent: list[Message] = []
    told: list[str] = []

    async def wait() -> None:
        """Wait for a fence, and note the error."""
        with pytest.raises(StoreUnavailable, match="has been left") as raised:
            await fences.barrier()
        told.append(raised.value.reason)

    prefix = "$KV.fences."
    async with (
        open_connection([shared_server.url]) as silent,
        silent.listen(f"{prefix}>", sent.append),
        open_connection([shared_server.url]) as connection,
    ):
        await silent.flush()
        mirror = Mirror(prefix, lambda _changes: None)
        fences = Fences(
            connection, mirror, prefix=prefix, stored=lambda *_: None, clock=TrioClock(), random=random.Random(1)
        )
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery, trio.open_nursery() as running:
                running.start_soon(fences.run)
                nursery.start_soon(wait)
                await until(lambda: len(sent) == 1)
                nursery.start_soon(wait)
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                running.cancel_scope.cancel()
            await wait()
    assert len(told) == 4
    assert len(sent) == 1
