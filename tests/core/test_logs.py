"""Logs: their fields, their levels, where they go."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aegis_core import events
from aegis_core.config import LogSettings, PluginSettings, Settings
from aegis_core.errors import ConfigError
from aegis_core.events import Event
from aegis_core.models import Health, Role
from aegis_core.observe.logs import FIELDS, EventLog, JsonFormatter, logging_to
from aegis_core.plugins import load_plugins

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LIBRARY = logging.getLogger("aegis")


def subclasses(parent: type[Event]) -> Iterator[type[Event]]:
    """Every kind of event."""
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


# One of each kind, with its level and its line.
TOLD: tuple[tuple[Event, int, str], ...] = (
    (events.InstanceRegistered(instance_id="i", at=AT), logging.INFO, "instance registered i"),
    (
        events.InstanceHealthChanged(instance_id="i", old=Health.ONLINE, new=Health.UNHEALTHY, reason="silent", at=AT),
        logging.WARNING,
        "instance health changed i (old ONLINE, new UNHEALTHY, reason silent)",
    ),
    (
        events.InstanceHealthChanged(instance_id="i", old=Health.UNHEALTHY, new=Health.ONLINE, at=AT),
        logging.INFO,
        "instance health changed i (old UNHEALTHY, new ONLINE)",
    ),
    (
        events.InstanceDeregistered(instance_id="i", released=("a", "b"), at=AT),
        logging.INFO,
        "instance deregistered i (released a, b)",
    ),
    (
        events.InstanceLost(instance_id="i", released=tuple(f"r{n}" for n in range(12)), at=AT),
        logging.WARNING,
        "instance lost i (released r0, r1, r2, r3, r4, r5, r6, r7, r8, r9 and 2 more)",
    ),
    (
        events.RoleChanged(instance_id="i", old=Role.STANDBY, new=Role.ACTIVE, group="g", reason="promoted", at=AT),
        logging.INFO,
        "role changed i (old STANDBY, new ACTIVE, group g, reason promoted)",
    ),
    (
        events.ResourceRegistered(resource_id="r", instance_id="i", epoch=5, reason="claimed", at=AT),
        logging.INFO,
        "resource registered r (epoch 5, reason claimed)",
    ),
    (
        events.ResourceReleased(resource_id="r", epoch=5, reason="released", at=AT),
        logging.INFO,
        "resource released r (epoch 5, reason released)",
    ),
    (events.ResourceExpired(resource_id="r", epoch=5, at=AT), logging.INFO, "resource expired r (epoch 5)"),
    (
        events.ResourceTransferred(resource_id="r", instance_id="j", old="i", epoch=6, reason="load", at=AT),
        logging.INFO,
        "resource transferred r (old i, epoch 6, reason load)",
    ),
    (
        events.BulkProgress(instance_id="i", operation="claim", done=5, failed=0, total=9, at=AT),
        logging.DEBUG,
        "bulk progress i (operation claim, done 5, total 9)",
    ),
    (
        events.OrphanSwept(instance_id="i", resource_ids=("r",), reason="lease_expired", at=AT),
        logging.INFO,
        "orphan swept i (resource_ids r, reason lease_expired)",
    ),
    (
        events.LeaseEnded(instance_id="i", reason="EXPIRED", at=AT),
        logging.WARNING,
        "lease ended i (reason EXPIRED): registering anew",
    ),
    (
        events.ScopeOverran(resource_id="r", epoch=5, seconds=1.5, at=AT),
        logging.ERROR,
        "scope overran r (epoch 5, seconds 1.5): only its epoch protects the resource",
    ),
    (
        events.CircuitStateChanged(what="store", old="closed", new="open", at=AT),
        logging.WARNING,
        "circuit state changed (what store, old closed, new open)",
    ),
    (
        events.CircuitStateChanged(what="store", old="half-open", new="open", at=AT),
        logging.DEBUG,
        "circuit state changed (what store, old half-open, new open)",
    ),
    (events.Resync(reason="gap", at=AT), logging.WARNING, "resync (reason gap)"),
)


def test_every_kind_of_event_has_its_line() -> None:
    """A new kind cannot be forgotten here."""
    assert {type(event) for event, _, _ in TOLD} == set(subclasses(Event))


@pytest.mark.parametrize(("event", "level", "line"), TOLD, ids=lambda value: getattr(value, "kind", None))
def test_event_is_logged_at_its_level(event: Event, level: int, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """One readable line, with old, new and reason."""
    with caplog.at_level(logging.DEBUG, "aegis.events"):
        EventLog().on_event(event)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.message) == ("aegis.events", level, line)


def test_event_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    """For those who search rather than read."""
    changed = events.RoleChanged(
        service_name="s", instance_id="i", resource_id="r", old=Role.STANDBY, new=Role.ACTIVE, at=AT
    )
    with caplog.at_level(logging.INFO, "aegis.events"):
        EventLog().on_event(changed)
    (record,) = caplog.records
    fields = {name: vars(record)[name] for name in FIELDS if vars(record).get(name)}
    assert fields == {
        "service_name": "s",
        "instance_id": "i",
        "resource_id": "r",
        "role": "ACTIVE",
        "operation": "role_changed",
    }


def test_event_below_the_level_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is put together for a level that is off."""
    with caplog.at_level(logging.WARNING, "aegis.events"):
        EventLog().on_event(events.InstanceRegistered(instance_id="i", at=AT))
    assert caplog.records == []


def test_events_are_logged_by_a_plug_in_that_can_be_disabled(caplog: pytest.LogCaptureFixture) -> None:
    """Built in, and left out by its name."""
    event = events.Resync(at=AT)
    with caplog.at_level(logging.INFO, "aegis.events"):
        load_plugins(Settings()).notify(event)
        load_plugins(Settings(plugins=PluginSettings(disabled=("aegis_core.observe.logs",)))).notify(event)
    assert len(caplog.records) == 1


# --- JSON ---------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler with the JSON formatter writes for the logger ``aegis.test``."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("aegis.test")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_json_line_has_the_documented_fields(lines: io.StringIO) -> None:
    """Time in UTC, level, logger, message, and those extra fields that say something."""
    extra = {"trace_id": "t", "resource_id": "r", "duration_ms": 1.5, "role": None, "operation": "", "secret": "x"}
    logging.getLogger("aegis.test").warning("claim of %s", "r", extra=extra)
    line = json.loads(lines.getvalue())
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo == UTC
    assert line == {
        "level": "WARNING",
        "logger": "aegis.test",
        "message": "claim of r",
        "trace_id": "t",
        "resource_id": "r",
        "duration_ms": 1.5,
    }


def test_json_line_of_an_exception_is_one_line(lines: io.StringIO) -> None:
    """The traceback is a field."""
    try:
        json.loads("}")
    except ValueError:
        logging.getLogger("aegis.test").exception("failed")
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["exception"].endswith("Expecting value: line 1 column 1 (char 0)")


# --- The settings log.* -------------------------------------------------------------------------


@contextmanager
def unconfigured() -> Iterator[None]:
    """Logging as in a program that never set it up: pytest's own handlers are out of the way."""
    before, logging.root.handlers = logging.root.handlers, []
    try:
        yield
    finally:
        logging.root.handlers = before


def test_only_errors_are_heard_where_nobody_configured_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """A hook of the program that fails is seen, with its traceback; a warning about the cluster waits to be asked for."""
    before = list(LIBRARY.handlers)
    with unconfigured(), logging_to(LogSettings()):
        assert LIBRARY.handlers == before
        logging.getLogger("aegis.test").warning("nobody asked")
        try:
            json.loads("")
        except ValueError:
            logging.getLogger("aegis.test").exception("on_release of r failed")
    heard = capsys.readouterr().err.splitlines()
    assert heard[0] == "on_release of r failed"
    assert heard[-1].endswith("Expecting value: line 1 column 1 (char 0)")


def test_errors_are_heard_once_where_logging_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    """Handlers of the program's, or those of ``log.*``, take the place of standard error."""
    log = logging.getLogger("aegis.test")
    lines = io.StringIO()
    with unconfigured():
        logging.root.addHandler(logging.StreamHandler(lines))
        log.error("to the program")
    with unconfigured(), logging_to(LogSettings(level="ERROR")):
        log.error("to the setting")
    assert lines.getvalue() == "to the program\n"
    assert capsys.readouterr().err.count("to the setting") == 1


def test_file_is_made_with_its_folders(tmp_path: Path) -> None:
    """Text by default: the message, and behind it the fields."""
    path = tmp_path / "deep" / "er" / "aegis.log"
    with logging_to(LogSettings(file=str(path), level="INFO")):
        logging.getLogger("aegis.test").info("claimed", extra={"resource_id": "r"})
        logging.getLogger("aegis.test").debug("unheard")
    (line,) = path.read_text().splitlines()
    assert line.endswith("INFO    aegis.test: claimed resource_id=r")


def test_json_goes_to_standard_error_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a container's logs are collected."""
    with logging_to(LogSettings(json=True)):
        logging.getLogger("aegis.test").error("broken")
    assert json.loads(capsys.readouterr().err)["message"] == "broken"


def test_level_and_handlers_are_as_before_afterwards(tmp_path: Path) -> None:
    """Leaving takes back what entering did."""
    before = (LIBRARY.level, list(LIBRARY.handlers))
    with logging_to(LogSettings(file=str(tmp_path / "x.log"), level="DEBUG")):
        assert LIBRARY.level == logging.DEBUG
    assert (LIBRARY.level, list(LIBRARY.handlers)) == before


def test_nodes_with_the_same_settings_share_an_output(tmp_path: Path) -> None:
    """No line comes twice, and the output stays until the last one leaves."""
    path = tmp_path / "x.log"
    settings = LogSettings(file=str(path))
    with logging_to(settings):
        with logging_to(settings):
            LIBRARY.error("one")
        LIBRARY.error("two")
    assert [line.rpartition(": ")[2] for line in path.read_text().splitlines()] == ["one", "two"]


def test_each_output_has_its_own_level(tmp_path: Path) -> None:
    """Whoever leaves first changes nothing for the other."""
    loud, quiet = (LogSettings(file=str(tmp_path / f"{level}.log"), level=level) for level in ("DEBUG", "ERROR"))
    first, second = logging_to(loud), logging_to(quiet)
    before = LIBRARY.level
    first.__enter__()
    second.__enter__()
    LIBRARY.debug("one")
    first.__exit__(None, None, None)
    LIBRARY.debug("two")
    LIBRARY.error("three")
    second.__exit__(None, None, None)
    assert LIBRARY.level == before
    assert (tmp_path / "DEBUG.log").read_text().count("\n") == 1
    assert (tmp_path / "ERROR.log").read_text().count("\n") == 1


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Also where a folder cannot be made."""
    (tmp_path / "taken").write_text("")
    for name in (str(tmp_path), str(tmp_path / "taken" / "x.log")):
        with (
            pytest.raises(ConfigError, match=r"log\.file: .* cannot be written") as caught,
            logging_to(LogSettings(file=name)),
        ):
            pass
        assert name in str(caught.value)
