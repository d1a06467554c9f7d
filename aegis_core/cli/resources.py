"""``aegis resources`` and ``aegis explain``: what is owned by whom, and why."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import instance_document, plain, print_json, print_rich, safe, table
from aegis_core.cli.session import connect

__all__ = ["explain", "resources"]


async def resources(
    *ids: str,
    service: str | None = None,
    instance: str | None = None,
    type: str | None = None,  # noqa: A002 - the option's name
    tag: Annotated[list[str] | None, Parameter(negative=())] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 100,
    offset: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show which resources are owned, and by whom: what matches everything given, oldest change first, one page of it.

    Args:
        ids: Among these.
        service: Of this service.
        instance: Owned by this instance.
        type: With this type in their metadata.
        tag: With this tag; give it again for each that must be there.
        limit: So many at most.
        offset: Leave so many out first.
    """
    async with connect(backend, timeout) as node:
        page = await node.registry.query_resources(
            service_name=service,
            instance_id=instance,
            resource_ids=ids or None,
            resource_type=type,
            tags=tag,
            limit=limit,
            offset=offset,
        )
    if as_json:
        print_json({"resources": plain(page.resources), "total_count": page.total_count, "has_more": page.has_more})
        return
    shown = table(
        ("resource", "owner", "service", "epoch #", "owned since", "type", "tags"),
        [
            (
                one.resource_id,
                one.owner_instance_id if one.is_healthy else f"{one.owner_instance_id} (unhealthy)",
                one.service_name,
                one.epoch,
                one.registered_at.astimezone(node.runtime.settings.time_offset).isoformat(" ", "seconds"),
                one.metadata.resource_type,
                ", ".join(one.metadata.tags),
            )
            for one in page.resources
        ],
    )
    print_rich(shown)
    first = offset + 1 if page.resources else offset
    print(f"{first} to {offset + len(page.resources)} of {page.total_count}", end="")
    print(f"; more with --offset {offset + limit}" if page.has_more else "")


async def explain(
    resource: str, /, *, backend: BackendUrl = None, timeout: Timeout = 5.0, as_json: AsJson = False
) -> None:
    """Say everything known about a resource: owner, epoch, lease, line, history, and its calls as the owner counts them.

    A resource without owner is no failure: that is the answer.

    Args:
        resource: The resource id.
    """
    async with connect(backend, timeout) as node:
        known = await node.explain(resource)
    owner = known.owner
    if as_json:
        print_json(
            {
                "resource_id": known.resource_id,
                "summary": known.summary,
                "owner": None if owner is None else instance_document(owner),
                "epoch": known.epoch,
                "lease_left": known.lease_left,
                "standbys": list(known.standbys),
                "calls": known.calls,
                "last_call_at": plain(known.last_call_at),
                "history": list(known.history),
            }
        )
        return
    print(safe(known.summary))
    facts: list[tuple[str, object]] = []
    if owner is not None:
        facts += [("owner", f"{owner.service_name}/{owner.instance_id}"), ("epoch", known.epoch)]
        facts.append(("health", owner.health.value))
    if known.lease_left is not None:
        facts.append(("lease left", f"at most {known.lease_left:.1f} s"))
    facts.append(("standbys", ", ".join(known.standbys) or "nobody waits"))
    if known.calls is not None:
        facts.append(("calls", known.calls))
    if known.last_call_at is not None:
        at = known.last_call_at.astimezone(node.runtime.settings.time_offset)
        facts.append(("last call", at.isoformat(" ", "seconds")))
    facts += [("history", line) for line in known.history[:1]] + [("", line) for line in known.history[1:]]
    shown = table(("", ""), facts)
    shown.show_header, shown.box = False, None
    print_rich(shown)
