"""Structured logs through the standard library.

The library logs to loggers named ``aegis.*`` with fields as ``extra``, and by itself sets nothing up: without the
settings ``log.*`` that is the program's choice, and where it made none only errors are shown, and that an instance is away
from the store and back. Events are logged to ``aegis.events`` by a built-in observer, which can be left out as
``aegis_core.observe.logs``. No field ever holds a lease id, a password or the content of a call.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from aegis_core import events
from aegis_core.config import LogSettings
from aegis_core.errors import ConfigError
from aegis_core.events import Event
from aegis_core.hookspecs import ObserverRegistrar, hookimpl
from aegis_core.models import Health
from aegis_core.node.call import current_call
from aegis_core.observe.outages import HEARD

__all__ = [
    "FIELDS",
    "EventLog",
    "JsonFormatter",
    "aegis_register_observers",
    "logging_to",
]

FIELDS: Final = (
    "trace_id",
    "span_id",
    "service_name",
    "instance_id",
    "resource_id",
    "role",
    "operation",
    "duration_ms",
    "metadata_size_bytes",
    "error_code",
)
"""What a record may carry as ``extra`` besides what every record has."""

_library: Final = logging.getLogger("aegis")


class _Unheard(logging.Handler):
    """Errors where nobody configured logging: on standard error, as the standard library does it.

    A hook or handler of the program's that fails must not do so in silence, nor an instance that loses all it has because
    the store is away. Other warnings tell of the cluster, and many nodes tell the same: they wait to be asked for.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Hand *record* on, unless the program has handlers of its own."""
        if record.levelno < logging.ERROR and not getattr(record, "is_heard", False):
            return
        if logging.lastResort is not None and not logging.root.handlers and _library.handlers == [self]:
            logging.lastResort.handle(record)


_library.addHandler(_Unheard(logging.WARNING))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``timestamp`` (UTC), ``level``, ``logger``, ``message``, `FIELDS` that the record has, ``exception``.

    It may be put on any handler, and then shows records of other loggers the same way.
    """

    def format(self, record: logging.LogRecord) -> str:
        """*record* as one line."""
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    """The same for people: the message, and behind it the fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = [f"{name}={value}" for name, value in _fields_of(record).items()]
        return " ".join([super().formatMessage(record), *fields])


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Those of `FIELDS` that *record* has; and what it is logged in the middle of, where it says nothing itself."""
    given = vars(record)
    found = {name: given[name] for name in FIELDS if given.get(name) not in (None, "")}
    # Loaded only where spans are made; then the trace of what is going on is theirs.
    tracing = sys.modules.get("aegis_core.observe.tracing")
    around: Mapping[str, str] = tracing.current_ids() if tracing is not None else {}
    call = current_call.get()
    if not around and call is not None:
        around = {"trace_id": call.trace_id}
    known = {**around, **found}
    return {name: known[name] for name in FIELDS if name in known}


# --- The setting log.* -------------------------------------------------------------------------


@attrs.define(eq=False)
class _Outputs:
    """What is set up in this process: each output with its number of users, and the level of the time before."""

    handlers: dict[LogSettings, logging.Handler] = attrs.field(factory=dict)
    users: Counter[LogSettings] = attrs.field(factory=Counter)
    level_before: int = logging.NOTSET

    def enter(self, settings: LogSettings) -> None:
        """One more user."""
        if not self.handlers:
            self.level_before = _library.level
        if settings not in self.handlers:
            handler = self.handlers[settings] = _open_handler(settings)
            _library.addHandler(handler)
        self.users[settings] += 1
        self._set_level()

    def leave(self, settings: LogSettings) -> None:
        """One less, in whichever order they leave."""
        self.users[settings] -= 1
        if not self.users[settings]:
            handler = self.handlers.pop(settings)
            _library.removeHandler(handler)
            handler.close()
            self._set_level()

    def _set_level(self) -> None:
        levels = [handler.level for handler in self.handlers.values() if handler.level]
        _library.setLevel(min(levels, default=self.level_before))


_outputs: Final = _Outputs()


@contextmanager
def logging_to(settings: LogSettings) -> Iterator[None]:
    """Send the library's logs where *settings* say while the block runs; nothing is set up when they say nothing.

    Nodes with the same settings share one output, so that no line comes twice.

    Raises:
        ConfigError: The file cannot be made or written.
    """
    if settings == LogSettings():
        yield
        return
    _outputs.enter(settings)
    try:
        yield
    finally:
        _outputs.leave(settings)


def _open_handler(settings: LogSettings) -> logging.Handler:
    handler = logging.StreamHandler() if settings.file is None else _open_file(settings.file)
    handler.setFormatter(JsonFormatter() if settings.json else _TextFormatter())
    handler.setLevel(settings.level or logging.NOTSET)
    return handler


def _open_file(name: str) -> logging.Handler:
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(name, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(key="log.file", problem=f"{name} cannot be written: {exc.strerror}") from None


# --- Events ------------------------------------------------------------------------------------

_LEVELS: Final[Mapping[type[Event], int]] = {
    events.BulkProgress: logging.DEBUG,
    events.CircuitStateChanged: logging.WARNING,
    events.InstanceDeregistered: logging.INFO,
    events.InstanceLost: logging.WARNING,
    events.InstanceRegistered: logging.INFO,
    events.LeaseEnded: logging.WARNING,
    events.OrphanSwept: logging.INFO,
    events.ResourceExpired: logging.INFO,
    events.ResourceRegistered: logging.INFO,
    events.ResourceReleased: logging.INFO,
    events.ResourceTransferred: logging.INFO,
    events.Resync: logging.WARNING,
    events.RoleChanged: logging.INFO,
    events.ScopeOverran: logging.ERROR,
}
_MEANING: Final[Mapping[type[Event], str]] = {
    events.LeaseEnded: ": registering anew",
    events.ScopeOverran: ": only its epoch protects the resource",
}
_MOST_SHOWN: Final = 10
_BASE: Final = frozenset(field.name for field in attrs.fields(Event))


class EventLog:
    """The observer that writes every event to the logger ``aegis.events``, at the level that it deserves."""

    def __init__(self) -> None:
        self._log = logging.getLogger("aegis.events")

    def on_event(self, event: Event) -> None:
        """Log *event*; costs next to nothing when its level is off."""
        level = _level(event)
        if not self._log.isEnabledFor(level):
            return
        said = {
            field.name: _shown(getattr(event, field.name))
            for field in attrs.fields(type(event))
            if field.name not in _BASE
        }
        what = event.kind.replace("_", " ")
        about = event.resource_id or event.instance_id or event.service_name
        parts = [f"{name} {value}" for name, value in said.items() if value]
        self._log.log(
            level,
            "%s",
            f"{what} {about}".rstrip() + (f" ({', '.join(parts)})" if parts else "") + _MEANING.get(type(event), ""),
            extra={
                "service_name": event.service_name,
                "instance_id": event.instance_id,
                "resource_id": event.resource_id,
                "role": said.get("new") if isinstance(event, events.RoleChanged) else None,
                "operation": event.kind,
                **(HEARD if isinstance(event, events.LeaseEnded) else {}),
            },
        )


def _level(event: Event) -> int:
    if isinstance(event, events.InstanceHealthChanged):
        return logging.INFO if event.new is Health.ONLINE else logging.WARNING
    if isinstance(event, events.CircuitStateChanged) and event.new == "closed":
        return logging.INFO
    if isinstance(event, events.CircuitStateChanged) and "half-open" in (event.old, event.new):
        return logging.DEBUG  # a peer that stays away is tried now and then
    return _LEVELS.get(type(event), logging.INFO)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        more = f" and {len(value) - _MOST_SHOWN} more" if len(value) > _MOST_SHOWN else ""
        return ", ".join(map(str, value[:_MOST_SHOWN])) + more
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value in (None, "", 0) else str(getattr(value, "value", value))


@hookimpl
def aegis_register_observers(register: ObserverRegistrar) -> None:
    """The built-in plug-in: events are logged."""
    register(EventLog())
