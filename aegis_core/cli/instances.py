"""``aegis drain`` and ``aegis disconnect``: an instance hands over, or is cut off."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core.cli.options import AsJson, BackendUrl, InService, Timeout
from aegis_core.cli.output import print_json, safe
from aegis_core.cli.progress import progress
from aegis_core.cli.session import connect, find_instance
from aegis_core.errors import AegisError, Unavailable
from aegis_core.models import ServiceInstance
from aegis_core.node.errands import has_scopes
from aegis_core.node.node import Node

__all__ = ["disconnect", "drain"]

_LOOK_EVERY = 0.5


async def drain(
    instance: str,
    /,
    *,
    service: InService = None,
    wait: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Let an instance hand over everything that it owns and take no more; it stays registered, and gets no calls.

    Running calls finish first, within the instance's own drain time. Interrupted, or with exit status 3 for an answer that
    did not come, it goes on.

    Args:
        instance: The instance id.
        wait: Seconds to wait for the end, on top of the timeout; by default as the setting drain says (10).
    """
    async with connect(backend, timeout, drain=wait) as node:
        found = await find_instance(node, instance, service)
        before = await _held(node, found)
        refused: AegisError | None = None  # carried past the nursery, so that it does not come in a group
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, node, found, before)
            try:
                await node.registry.drain(found.service_name, instance)
            except AegisError as exc:
                refused = exc
            nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        after = await _held(node, found)
    if as_json:
        who = {"service_name": found.service_name, "instance_id": instance}
        print_json({**who, "resources_before": before, "resources": after})
    elif has_scopes(found):
        print(safe(f"{found.service_name}/{instance} is drained: it owned {before} resources, and owns {after} now"))
    else:
        print(
            safe(f"{found.service_name}/{instance} has been told to drain; no node serves it, so that is all there is")
        )


async def disconnect(
    instance: str,
    /,
    *,
    service: InService = None,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """End an instance's lease from outside: what it owned is free at once, and its work is cancelled when it learns of it.

    For one that hangs, or cannot be reached any more; any other is better drained. One that is well registers anew.

    Args:
        instance: The instance id.
    """
    async with connect(backend, timeout) as node:
        found = await find_instance(node, instance, service)
        released = await node.registry.disconnect(found.service_name, instance)
    if as_json:
        print_json({"service_name": found.service_name, "instance_id": instance, "released": list(released)})
        return
    print(safe(f"{found.service_name}/{instance} is disconnected; {len(released)} resources are free"))
    for resource_id in released:
        print(safe(resource_id))


async def _held(node: Node, instance: ServiceInstance) -> int:
    """How many resources *instance* owns."""
    page = await node.registry.query_resources(
        service_name=instance.service_name, instance_id=instance.instance_id, include_metadata=False, limit=1
    )
    return page.total_count


async def _show(node: Node, instance: ServiceInstance, before: int) -> None:
    """Show how far *instance* is with handing over, until cancelled."""
    with progress(f"draining {safe(instance.instance_id)}", before) as done:
        while True:
            await trio.sleep(_LOOK_EVERY)
            with suppress(Unavailable):
                done(before - await _held(node, instance))
