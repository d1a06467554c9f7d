"""``aegis claim``: a command runs while a resource is held."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core.cli.exit_statuses import ExitStatus
from aegis_core.cli.options import BackendUrl, Timeout
from aegis_core.cli.output import tell
from aegis_core.cli.session import connect
from aegis_core.errors import ConfigError, InvalidRequest, LeaseLost
from aegis_core.models import Role
from aegis_core.node.service import Service

__all__ = ["claim"]

_GRACE: Final = 5.0


async def claim(
    resource: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    wait: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    wait_at_most: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    priority: int = 0,
    grace: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    ttl: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    service: str = "aegis-claim",
    instance: str | None = None,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
) -> int:
    """Hold a resource while a command runs, and end the command when it is lost.

    As in: aegis claim shard:7 -- ./worker. The command finds AEGIS_RESOURCE_ID, AEGIS_EPOCH and AEGIS_INSTANCE_ID in its environment. It, and what it
    started, is ended before anybody else can own the resource: by SIGTERM, and by SIGKILL after a grace. Signals are
    passed on to it. The exit status is the command's own; 75 when the resource was lost.

    Args:
        resource: The resource id.
        command: The command with its arguments, after --.
        wait: Stand by while somebody else owns the resource; without it that is exit status 5.
        wait_at_most: Stand by for so many seconds, and exit with 5 then.
        priority: The place in the line: higher first, then earlier.
        grace: Seconds between SIGTERM and SIGKILL, a third of the TTL at most; 5 by default, where the TTL allows it.
        ttl: Seconds until others may own the resource when this machine dies; by default as the setting ttl says (30).
        service: The service that owns it, in the eyes of others.
        instance: The instance id; a new one for each start if left out.
    """
    if not command:
        raise InvalidRequest.at("command", f"say what to run: aegis claim {resource} -- COMMAND")
    if os.name != "posix":
        raise ConfigError(source="aegis claim", problem="it needs process groups and signals, which this system lacks")
    if shutil.which(command[0]) is None:
        return _cannot_start(command[0])
    standing_by = wait or wait_at_most is not None
    async with (
        connect(backend, timeout) as node,
        node.serve(Service(service), instance_id=instance, ttl=ttl) as member,
    ):
        from aegis_core.cli.child import run_under  # noqa: PLC0415 - not where there are no process groups

        longest = member.ttl / 3
        if grace is None:
            grace = min(_GRACE, longest)
        elif grace > longest:
            raise InvalidRequest.at("--grace", f"{grace:g} s is more than a third of the TTL of {member.ttl:g} s")
        owner = node.owner_of(resource)
        if standing_by and owner is not None:
            tell(f"{resource} is owned by {owner.service_name}/{owner.owner_instance_id}; standing by")
        status, why = int(ExitStatus.LEASE_LOST), "somebody has released it"
        try:
            async with member.own(
                resource,
                role=Role.STANDBY if standing_by else Role.ACTIVE,
                priority=priority,
                wait=math.inf if wait_at_most is None else wait_at_most,
                grace=grace,
            ) as held:
                if standing_by:
                    tell(f"{resource} is ours at epoch {held.epoch}; starting {command[0]}")
                status, why = await run_under(held, command, grace=grace)
        except LeaseLost as exc:
            why = str(exc)
    if why:
        tell(f"{resource} is lost: {why}")
        return ExitStatus.LEASE_LOST
    return status


def _cannot_start(command: str) -> int:
    """Say why *command* is none, before anything is claimed; the exit status that a shell has for it."""
    is_there = os.sep in command and Path(command).exists()
    tell(f"{command} cannot be started: {'it is not executable' if is_there else 'there is no such command'}")
    return ExitStatus.NOT_EXECUTABLE if is_there else ExitStatus.NO_SUCH_COMMAND
