"""``aegis services``: who lives."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import instance_document, print_json, print_rich, table
from aegis_core.cli.session import connect, count_held
from aegis_core.models import Health, Role, ServiceInstance, ServiceView

__all__ = ["health_of", "role_of", "services"]


async def services(
    name: str | None = None, /, *, backend: BackendUrl = None, timeout: Timeout = 5.0, as_json: AsJson = False
) -> None:
    """Show the live instances of every service: role, health, what they hold.

    Args:
        name: Show this service only; exit status 4 if none of its instances lives.
    """
    async with connect(backend, timeout) as node:
        registry = node.registry
        found = await registry.list_services() if name is None else (await registry.get_service(name),)
        held = {(view.service_name, one.instance_id): count_held(node, one) for view in found for one in view.instances}
    if as_json:
        print_json({"services": [_document(view, held) for view in found]})
        return
    now = datetime.now(UTC)
    columns = ("service", "instance", "role", "health", "resources #", "version", "last renewal")
    rows = [
        (
            view.service_name,
            one.instance_id,
            role_of(one.role),
            health_of(one),
            held[view.service_name, one.instance_id],
            one.version,
            f"{(now - one.last_heartbeat).total_seconds():.0f} s ago",
        )
        for view in found
        for one in view.instances
    ]
    print_rich(table(columns, rows))


def role_of(role: Role) -> Text:
    """A role, in colour."""
    return Text(role.value, style="bold green" if role is Role.ACTIVE else "cyan")


def health_of(instance: ServiceInstance) -> Text:
    """An instance's health in colour, and whether it is draining."""
    style = "green" if instance.health is Health.ONLINE else "bold red"
    shown = Text(instance.health.value, style=style)
    return shown.append(" draining", style="yellow") if instance.draining else shown


def _document(view: ServiceView, held: dict[tuple[str, str], int]) -> dict[str, object]:
    instances = [
        {**instance_document(one), "resources": held[view.service_name, one.instance_id]} for one in view.instances
    ]
    return {"service_name": view.service_name, "instances": instances}
