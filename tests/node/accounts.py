"""A small service for tests of calls."""

from __future__ import annotations

import trio

from aegis_core.node.call import Call
from aegis_core.node.service import Service

__all__ = ["accounts"]


def accounts(calls: list[Call] | None = None, name: str = "account-service", **options: object) -> Service:
    """A service whose methods note their calls in *calls*."""
    service = Service(name, **options)  # type: ignore[arg-type]
    seen = [] if calls is None else calls

    @service.method
    async def who(call: Call) -> str:
        seen.append(call)
        assert call.instance is not None
        return call.instance.instance_id

    @service.method
    async def sleep(call: Call, seconds: float) -> str:
        seen.append(call)
        await trio.sleep(seconds)
        return "slept"

    @service.method
    async def echo(call: Call, value: object = None) -> object:
        return value

    return service
