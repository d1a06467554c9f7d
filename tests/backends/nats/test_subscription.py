"""How a subscription ends for those who read it."""

from __future__ import annotations

import re

import pytest
import trio

from aegis_backends.nats.errors import PermissionDenied
from aegis_backends.nats.statistics import Counters
from aegis_backends.nats.subscription import Subscription


def make() -> Subscription:
    """A subscription of nothing."""
    return Subscription(
        "a",
        "",
        max_messages=10,
        max_bytes=1000,
        counters=Counters(),
        unsubscribe=lambda _: None,
        flush=trio.lowlevel.checkpoint,
    )


@pytest.mark.parametrize(
    "end",
    [
        PermissionDenied(operation="subscribe", subject="a"),
        trio.EndOfChannel("drained"),
        trio.ClosedResourceError("left"),
    ],
    ids=["denied", "drained", "left"],
)
async def test_each_reader_gets_an_error_of_its_own(end: Exception) -> None:
    """Which says the same, and has no traceback of somebody else's."""
    subscription = make()
    end.__cause__ = OSError("why")
    subscription.end(end)
    caught = []
    for _ in range(3):
        with pytest.raises(type(end), match=re.escape(str(end))) as raised:
            subscription.receive_nowait()
        caught.append(raised.value)
    assert len({id(exc) for exc in (end, *caught)}) == 4
    assert [exc.__cause__ for exc in caught] == [end.__cause__] * 3
    assert end.__traceback__ is None
