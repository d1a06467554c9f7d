"""``aegis watch``: what happens, as it happens."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core import events
from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import event_document, event_line, print_json_line
from aegis_core.cli.session import connect
from aegis_core.errors import InvalidRequest
from aegis_core.events import Event, Resync

__all__ = ["KINDS", "watch"]

KINDS: Final[dict[str, type[Event]]] = {
    kind.kind: kind for name in sorted(events.__all__) if name != "Event" for kind in (getattr(events, name),)
}
"""The kinds of events, by the name that ``--type`` takes."""


async def watch(
    *,
    type: Annotated[list[str] | None, Parameter(negative=())] = None,  # noqa: A002 - the option's name
    service: str | None = None,
    resource: str | None = None,
    count: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Print events as lines, from now on until Ctrl-C; with --json one JSON object a line.

    A resync says that events may have been missed: look at the registry again.

    Args:
        type: Only events of this kind, e.g. instance_lost; give it again for several. A resync comes in any case.
        service: Only events of this service.
        resource: Only events of this resource.
        count: End after so many events.
    """
    unknown = [name for name in type or () if name not in KINDS]
    if unknown:
        raise InvalidRequest.at("--type", f"there is no event {', '.join(unknown)}, only {', '.join(KINDS)}")
    wanted = [KINDS[name] for name in type or ()]
    async with connect(backend, timeout) as node:
        offset = node.runtime.settings.time_offset
        async with node.events(*(wanted or [Event]), service=service, resource_id=resource) as stream:
            seen = 0
            async for event in stream:
                if as_json:
                    print_json_line(event_document(event))
                else:
                    print(event_line(event, offset), flush=True)
                seen += not isinstance(event, Resync)
                if seen == count:
                    break
