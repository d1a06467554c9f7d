"""What commands print: tables for people, JSON for programs. What comes from elsewhere can do nothing to a terminal."""

from __future__ import annotations

import base64
import enum
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Final

import attrs
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from aegis_core.events import Event
from aegis_core.models import ServiceInstance

__all__ = [
    "event_document",
    "event_line",
    "instance_document",
    "plain",
    "print_json",
    "print_json_line",
    "print_rich",
    "safe",
    "table",
    "tell",
]

_ENDLESS: Final = 1_000_000


def safe(text: object) -> str:
    """*text* on one line, with whatever a terminal would obey written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def plain(value: object) -> object:
    """*value* as JSON has it: objects are maps by field, times are ISO 8601 with an offset, spans are seconds, bytes are base64."""
    match value:
        case enum.Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    kind = type(value)
    if attrs.has(kind):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(kind)}
    return str(value)


def instance_document(instance: ServiceInstance) -> dict[str, object]:
    """An instance as ``--json`` shows it."""
    return {
        "service_name": instance.service_name,
        "instance_id": instance.instance_id,
        "version": instance.version,
        "role": instance.role.value,
        "health": instance.health.value,
        "draining": instance.draining,
        "group": instance.sticky_active_group,
        "priority": instance.priority,
        "ttl": instance.ttl,
        "heartbeat_interval": instance.heartbeat_interval,
        "registered_at": instance.registered_at.isoformat(),
        "last_heartbeat": instance.last_heartbeat.isoformat(),
        "endpoints": list(instance.endpoints),
        "metadata": plain(instance.metadata),
    }


def event_document(event: Event) -> dict[str, object]:
    """An event as ``--json`` shows it: its kind as ``event``, then its fields."""
    return {
        "event": event.kind,
        **{field.name: plain(getattr(event, field.name)) for field in attrs.fields(type(event))},
    }


def event_line(event: Event, offset: tzinfo) -> str:
    """An event on one line for people, its time at *offset* from UTC."""
    told = {"service_name", "instance_id", "resource_id", "revision", "at"}
    more = []
    for field in attrs.fields(type(event)):
        value = plain(getattr(event, field.name))
        if field.name not in told and value not in (None, "", [], 0):
            more.append(f"{field.name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    who = "/".join(part for part in (event.service_name, event.instance_id) if part)
    at = event.at.astimezone(offset).strftime("%H:%M:%S.%f")[:-3]
    return safe(" ".join(part for part in (at, f"{event.kind:23}", who, event.resource_id, *more) if part).rstrip())


def print_json(document: object) -> None:
    """Print *document*, which is JSON already, over several lines."""
    print(json.dumps(document, ensure_ascii=False, indent=2))


def print_json_line(document: object) -> None:
    """Print *document* on one line, at once."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; what ends in "#" among *columns* is a number, and nothing is cut off."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        number = column.endswith("#")
        made.add_column(column.removesuffix("#").strip(), justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(safe(cell)) for cell in row))
    return made


def print_rich(shown: RenderableType) -> None:
    """Print what rich makes of *shown*: as wide as it needs to be where no terminal sets a limit."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _ENDLESS
        console.width = max(1, console.measure(shown).maximum)
    # Not written by rich, which would end the program with a status of its own when nobody reads any more.
    with console.capture() as captured:
        console.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def tell(message: str) -> None:
    """Say *message* to whoever started the command, on standard error: the output is the command's."""
    print(f"aegis: {safe(message)}", file=sys.stderr, flush=True)
