"""``aegis top``: who lives and what happens, drawn anew every moment."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import (
    event_document,
    event_line,
    instance_document,
    print_json_line,
    print_rich,
    safe,
    table,
)
from aegis_core.cli.services import health_of, role_of
from aegis_core.cli.session import connect, count_held, shown_backend
from aegis_core.errors import Unavailable
from aegis_core.events import Event
from aegis_core.models import Health, ServiceInstance
from aegis_core.node.node import Node
from aegis_core.node.subscription import EventStream

__all__ = ["Frame", "draw", "top"]

_NEWS: Final = 8
_LINES_AROUND: Final = 5
"""Of a screen, besides instances and news: the head, the table's head with its rule, and what sets the news apart."""


@attrs.frozen(kw_only=True)
class Frame:
    """One picture.

    Args:
        backend: Where it was taken, for people.
        at: When.
        instances: The live ones that were asked for, each with how many resources it owns.
        news: The last events on a line each, the newest last.
        fresh: The events since the picture before.
        per_second: How many a second these are.
        problem: Why the instances are those of the picture before, or "".
    """

    backend: str
    at: datetime
    instances: tuple[tuple[ServiceInstance, int], ...]
    news: tuple[str, ...] = ()
    fresh: tuple[Event, ...] = ()
    per_second: float = 0.0
    problem: str = ""


async def top(
    *,
    service: str | None = None,
    interval: Annotated[float, Parameter(validator=Number(gte=0.1))] = 1.0,
    count: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show instances, what they own, and events, drawn anew until Ctrl-C; one after the other where there is no terminal.

    Args:
        service: Only this service.
        interval: Seconds between two pictures.
        count: End after so many pictures.
    """
    async with connect(backend, timeout) as node, node.events(service=service) as stream:
        settings, news = node.runtime.settings, deque[str](maxlen=_NEWS)
        frame = Frame(backend=shown_backend(settings.backend), at=datetime.now(UTC), instances=())
        with _screen(as_json=as_json) as show:
            shown = 0
            while True:
                fresh = _happened(stream)
                news.extend(event_line(event, settings.time_offset) for event in fresh)
                frame = attrs.evolve(
                    frame, at=datetime.now(UTC), news=tuple(news), fresh=fresh, per_second=len(fresh) / interval
                )
                try:
                    frame = attrs.evolve(frame, instances=await _instances(node, service), problem="")
                except Unavailable as exc:
                    frame = attrs.evolve(frame, problem=str(exc))
                show(frame)
                shown += 1
                if shown == count:
                    return
                await trio.sleep(interval)


def _happened(stream: EventStream[Event]) -> tuple[Event, ...]:
    """The events since the last time."""
    events: list[Event] = []
    with suppress(trio.WouldBlock):
        while True:
            events.append(stream.receive_nowait())
    return tuple(events)


async def _instances(node: Node, service: str | None) -> tuple[tuple[ServiceInstance, int], ...]:
    views = await node.registry.list_services()
    return tuple(
        (one, count_held(node, one))
        for view in views
        if service is None or view.service_name == service
        for one in view.instances
    )


@contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[Frame], None]]:
    """What shows pictures: on the whole of a terminal, one after the other elsewhere, as JSON lines for programs."""
    if as_json:
        yield lambda frame: print_json_line(_document(frame))
    elif not sys.stdout.isatty():
        yield lambda frame: print_rich(draw(frame, math.inf))
    else:
        console = Console(highlight=False)
        # No thread draws: a picture is drawn when there is a new one.
        with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            yield lambda frame: live.update(draw(frame, console.size.height), refresh=True)


def draw(frame: Frame, height: float) -> Group:
    """*frame* on at most *height* lines."""
    instances = [one for one, _ in frame.instances]
    services = len({one.service_name for one in instances})
    owned = sum(held for _, held in frame.instances)
    head = Text(f"aegis {frame.backend}", style="bold").append(
        f"  {frame.at:%H:%M:%S} UTC  services {services}, instances {len(instances)}, resources {owned}, "
        f"events/s {frame.per_second:.1f}",
        style="not bold",
    )
    unwell = sum(one.health is not Health.ONLINE for one in instances)
    if unwell:
        head.append(f"  {unwell} unhealthy", style="bold red")
    room = int(min(len(instances), max(1, height - _LINES_AROUND - len(frame.news))))
    rows = [
        (
            one.service_name,
            one.instance_id,
            role_of(one.role),
            health_of(one),
            held,
            f"{(frame.at - one.last_heartbeat).total_seconds():.0f} s ago",
        )
        for one, held in frame.instances[:room]
    ]
    parts: list[RenderableType] = [head]
    if frame.problem:
        parts.append(Text(f"as last seen: {safe(frame.problem)}", style="bold red"))
    parts.append(table(("service", "instance", "role", "health", "resources #", "last renewal"), rows))
    if room < len(instances):
        parts.append(Text(f"and {len(instances) - room} more", style="dim"))
    if frame.news:
        parts += [Text(), *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in frame.news)]
    return Group(*parts)


def _document(frame: Frame) -> dict[str, object]:
    return {
        "at": frame.at.isoformat(),
        "backend": frame.backend,
        "instances": [{**instance_document(one), "resources": held} for one, held in frame.instances],
        "events_per_second": frame.per_second,
        "events": [event_document(event) for event in frame.fresh],
        "problem": frame.problem,
    }
