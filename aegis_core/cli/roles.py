"""``aegis roles``: who is active, and who waits."""

from __future__ import annotations

from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import plain, print_json, print_rich, table
from aegis_core.cli.session import connect

__all__ = ["roles"]


async def roles(
    service: str | None = None, /, *, backend: BackendUrl = None, timeout: Timeout = 5.0, as_json: AsJson = False
) -> None:
    """Show who is ACTIVE and who stands by, in order: by role group, and by resource with a line.

    Args:
        service: Show this service only; exit status 4 if none of its instances lives.
    """
    async with connect(backend, timeout) as node:
        names = [service] if service else [view.service_name for view in await node.registry.list_services()]
        tables = [await node.registry.list_roles(name) for name in names]
    if as_json:
        print_json({"services": plain(tables)})
        return
    rows = [
        (one.service_name, kind, target, who.active or "-", ", ".join(who.standbys) or "-")
        for one in tables
        for kind, lines in (("group", one.groups), ("resource", one.resources))
        for target, who in sorted(lines.items())
    ]
    print_rich(table(("service", "of", "name", "active", "standbys, in order"), rows))
