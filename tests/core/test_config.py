"""Settings and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from aegis_core.config import (
    CircuitSettings,
    LogSettings,
    NodeDefaults,
    PluginSettings,
    Settings,
    ambient,
    environment_variable,
    load_settings,
    parse_backend,
    setting_names,
    told_with_source,
)
from aegis_core.errors import ConfigError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and none of our variables in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in setting_names():
        monkeypatch.delenv(environment_variable(name), raising=False)
    monkeypatch.delenv("AEGIS_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def in_a_test_cluster() -> Iterator[None]:
    """What a test's cluster sets for the application that it starts."""
    token = ambient.set(NodeDefaults("memory://test", plugins=("a.plugin",)))
    yield
    ambient.reset(token)


def refusal(load: Callable[[], object]) -> str:
    """What the refused configuration is told."""
    with pytest.raises(ConfigError) as caught:
        load()
    return str(caught.value)


# --- Precedence ---------------------------------------------------------------------------------


def test_defaults_hold_without_any_source() -> None:
    """The numbers that the documentation promises."""
    settings = load_settings("memory://")
    assert settings == Settings(backend="memory://")
    assert (settings.request_timeout, settings.ttl, settings.heartbeat_interval) == (5.0, 30.0, None)
    assert (settings.max_resources_per_instance, settings.drain) == (1000, 10.0)
    assert settings.audit_retention == 7 * 24 * 3600
    assert settings.balancer == "round-robin"


def test_each_source_overrides_those_below(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOML file, pyproject.toml, environment, arguments, URL."""
    (place / "aegis.toml").write_text(
        'backend = "memory://file"\nttl = 1\ndrain = 1\nrequest_timeout = 1\naudit_retention = 1\n'
    )
    (place / "pyproject.toml").write_text("[tool.aegis]\nttl = 2\ndrain = 2\nrequest_timeout = 2\n")
    assert load_settings().backend == "memory://file"
    assert load_settings().ttl == 2.0
    monkeypatch.setenv("AEGIS_TTL", "3")
    monkeypatch.setenv("AEGIS_DRAIN", "3")
    settings = load_settings("memory://x?ttl=5", {"drain": 4, "ttl": 4})
    found = (settings.audit_retention, settings.request_timeout, settings.drain, settings.ttl)
    assert found == (1.0, 2.0, 4.0, 5.0)
    assert load_settings().ttl == 3.0


def test_file_can_be_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, or as an argument; each instead of the one before."""
    for name, ttl in (("aegis.toml", 1), ("named.toml", 2), ("given.toml", 3)):
        (place / name).write_text(f'backend = "memory://"\nttl = {ttl}\n')
    assert load_settings().ttl == 1.0
    monkeypatch.setenv("AEGIS_CONFIG", "named.toml")
    assert load_settings().ttl == 2.0
    assert load_settings(config=Path("given.toml")).ttl == 3.0
    assert load_settings(config="given.toml").ttl == 3.0


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_named_file_stands_for_those_found_and_under_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """What lies in the working directory by accident is not read then, be it wrong or not."""
    (place / "x.toml").write_text('backend = "memory://x"\nttl = 5\nrequest_timeout = 3\n')
    (place / "pyproject.toml").write_text("[tool.aegis]\nttl = 60\ndrain = 60\n")
    (place / "aegis.toml").write_text("no TOML")
    monkeypatch.setenv("AEGIS_REQUEST_TIMEOUT", "7")
    if by == "variable":
        monkeypatch.setenv("AEGIS_CONFIG", "x.toml")
    settings = load_settings(config="x.toml" if by == "argument" else None)
    assert (settings.backend, settings.ttl, settings.request_timeout, settings.drain) == ("memory://x", 5.0, 7.0, 10.0)
    assert settings.sources == {"backend": "x.toml", "ttl": "x.toml", "request_timeout": "AEGIS_REQUEST_TIMEOUT"}


def test_file_that_changed_is_read_again(place: Path) -> None:
    """A program that opens nodes for a long time sees its configuration change."""
    (place / "aegis.toml").write_text('backend = "memory://"\nttl = 1\n')
    assert load_settings().ttl == 1.0
    (place / "aegis.toml").write_text('backend = "memory://"\nttl = 100\n')
    assert load_settings().ttl == 100.0


def test_settings_know_their_sources(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that was given names the last source that gave it; defaults have none."""
    (place / "aegis.toml").write_text('backend = "memory://?drain=7"\nbalancer = "weighted"\n[log]\nlevel = "INFO"\n')
    monkeypatch.setenv("AEGIS_BALANCER", "least-pending")
    settings = load_settings(config={"ttl": 9})
    known = {
        "backend": "aegis.toml",
        "balancer": "AEGIS_BALANCER",
        "drain": "backend URL",
        "log.level": "aegis.toml",
        "ttl": "open_node(config=...)",
    }
    assert settings.sources == known
    again = load_settings("memory://", settings)
    assert {name: again.sources[name] for name in known} == {**known, "backend": "open_node"}
    assert again.sources["retry.initial"] == "Settings"


def test_what_turns_out_wrong_later_is_told_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a balancer of that name exists is known when the plug-ins are loaded; who set it is still told."""
    monkeypatch.setenv("AEGIS_BALANCER", "rr")
    settings = load_settings("memory://")
    with pytest.raises(ConfigError, match=r"^AEGIS_BALANCER: balancer: there is none$"), told_with_source(settings):
        raise ConfigError(key="balancer", problem="there is none")
    with pytest.raises(ConfigError, match=r"^plug-in 'x': balancer: broken$"), told_with_source(settings):
        raise ConfigError(source="plug-in 'x'", key="balancer", problem="broken")
    with pytest.raises(ConfigError, match=r"^ttl: why$"), told_with_source(settings):
        raise ConfigError(key="ttl", problem="why")


def test_settings_object_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the backend argument and the URL's parameters are above it."""
    monkeypatch.setenv("AEGIS_DRAIN", "3")
    given = Settings(backend="memory://a?drain=7", ttl=9, circuit=CircuitSettings(failures=2))
    settings = load_settings(config=given)
    assert settings == attrs.evolve(given, drain=7.0)
    assert load_settings("memory://b", given).backend == "memory://b"
    assert load_settings("memory://b", given).drain == 10.0


def test_every_setting_can_be_given_by_every_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same value from a table and from a text of the environment."""
    texts = {
        "backend": "memory://x",
        "heartbeat_interval": "2.5",
        "time_offset": "+08:00",
        "balancer": "weighted",
        "plugins.enabled": "a.b, c.d:e",
        "plugins.disabled": "x",
        "log.level": "debug",
        "log.file": "log/aegis.log",
        "log.json": "yes",
        "metrics.enabled": "on",
        "tracing.enabled": "1",
        "metrics.address": "127.0.0.1:9464",
    }
    values: Mapping[str, object] = {
        "heartbeat_interval": 2.5,
        "plugins.enabled": ["a.b", "c.d:e"],
        "plugins.disabled": ["x"],
        "log.level": "DEBUG",
        "log.json": True,
        "metrics.enabled": True,
        "tracing.enabled": True,
        "metrics.address": "127.0.0.1:9464",
    }
    nested: dict[str, object] = {}
    for name in setting_names():
        text = texts.get(name, "7")
        monkeypatch.setenv(environment_variable(name), text)
        *sections, last = name.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})  # type: ignore[assignment]
        table[last] = values.get(name, texts.get(name, 7))
    by_environment = load_settings()
    for name in setting_names():
        monkeypatch.delenv(environment_variable(name))
    assert load_settings(config=nested) == by_environment
    assert by_environment.time_offset == timezone(timedelta(hours=8))
    assert by_environment.plugins == PluginSettings(enabled=("a.b", "c.d:e"), disabled=("x",))
    assert by_environment.log == LogSettings(level="DEBUG", file="log/aegis.log", json=True)


def test_offset_of_zero_and_a_timezone_are_offsets() -> None:
    """An application may give what it has."""
    assert load_settings("memory://", {"time_offset": "+00:00"}).time_offset == UTC
    eastern = timezone(timedelta(hours=-5))
    assert load_settings("memory://", {"time_offset": eastern}).time_offset is eastern


# --- In tests -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_a_test_cluster")
def test_bare_node_of_an_application_joins_its_test(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's backend stands above what the application is configured with, and below its arguments."""
    (place / "aegis.toml").write_text('backend = "nats://production"\n')
    monkeypatch.setenv("AEGIS_BACKEND", "nats://production")
    assert load_settings().backend == "memory://test"
    assert load_settings(config={"ttl": 5}).backend == "memory://test"
    assert load_settings(config=Settings(ttl=5)).backend == "memory://test"
    assert load_settings("memory://own").backend == "memory://own"
    assert load_settings(config={"backend": "memory://own"}).backend == "memory://own"


# --- What is wrong ------------------------------------------------------------------------------


def test_no_backend_names_every_way_to_give_one() -> None:
    """Never a memory node in silence."""
    told = refusal(load_settings)
    for way in ("open_node('memory://')", "aegis.toml", "AEGIS_BACKEND", "--backend", "memory://"):
        assert way in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tll": 5}, "open_node(config=...): tll: there is no such setting; did you mean ttl?"),
        ({"circuit": {"failurs": 5}}, "circuit.failurs: there is no such setting; did you mean failures?"),
        ({"circuit": {"x": 5}}, "circuit.x: there is no such setting; expected failures, cooldown"),
        ({"circuit": 5}, "circuit: expected a table with failures, cooldown, got 5"),
        ({"ttl": "5"}, "ttl: expected a number of seconds, more than 0, got '5'"),
        ({"ttl": True}, "ttl: expected a number of seconds, more than 0, got True"),
        ({"ttl": 0}, "ttl: expected a number of seconds, more than 0, got 0"),
        ({"ttl": float("inf")}, "ttl: expected a number of seconds, more than 0, got inf"),
        ({"drain": -1}, "drain: expected a number of seconds, 0 or more, got -1"),
        ({"limits": {"queue": 0}}, "limits.queue: expected a whole number, 1 or more, got 0"),
        ({"limits": {"queue": 1.5}}, "limits.queue: expected a whole number, 1 or more, got 1.5"),
        ({"balancer": 5}, "balancer: expected text, got 5"),
        ({"time_offset": "Asia/Tokyo"}, "time_offset: expected an offset from UTC, e.g. +08:00, got 'Asia/Tokyo'"),
        ({"time_offset": "+99:00"}, "time_offset: expected an offset from UTC, e.g. +08:00, got '+99:00'"),
        ({"time_offset": 8}, "time_offset: expected an offset from UTC, e.g. +08:00, got 8"),
        ({"plugins": {"enabled": "a.b"}}, "plugins.enabled: expected a list of names"),
        ({"plugins": {"enabled": [5]}}, "plugins.enabled: expected a list of names"),
        ({"log": {"level": "LOUD"}}, "log.level: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, got 'LOUD'"),
        ({"log": {"file": 5}}, "log.file: expected the path of a file, got 5"),
        ({"log": {"json": 1}}, "log.json: expected true or false, got 1"),
        ({"backend": 5}, "backend: expected text, got 5"),
    ],
)
def test_wrong_setting_is_named_with_what_would_be_right(given: Mapping[str, object], told: str) -> None:
    """Source, key, value, and what is expected."""
    assert told in refusal(lambda: load_settings("memory://", given))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("AEGIS_TTL", "soon", "AEGIS_TTL: ttl: expected a number of seconds, more than 0, got 'soon'"),
        ("AEGIS_LOG_JSON", "perhaps", "AEGIS_LOG_JSON: log.json: expected true or false, got 'perhaps'"),
        ("AEGIS_LIMITS_QUEUE", "1.5", "AEGIS_LIMITS_QUEUE: limits.queue: expected a whole number"),
        ("AEGIS_REQUEST_TIMOUT", "5", "there is no such setting; did you mean AEGIS_REQUEST_TIMEOUT?"),
        ("AEGIS_TLL", "5", "AEGIS_TLL: there is no such setting; did you mean AEGIS_TTL?"),
        ("AEGIS_TTTL", "5", "did you mean AEGIS_TTL?"),
        ("AEGIS_TL", "5", "did you mean AEGIS_TTL?"),
        ("AEGIS_DRIAN", "5", "did you mean AEGIS_DRAIN?"),
        ("AEGIS_DRAINS", "5", "did you mean AEGIS_DRAIN?"),
        ("AEGIS_CONFG", "5", "did you mean AEGIS_CONFIG?"),
    ],
)
def test_wrong_variable_is_named(name: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is the source, and a misspelt one is found."""
    monkeypatch.setenv(name, text)
    assert told in refusal(lambda: load_settings("memory://"))


@pytest.mark.parametrize("name", ["AEGIS_OF_ATHENA", "AEGIS_TESTED_WHEEL", "AEGIS_TLS", "AEGIS_TRAINS", "AEGIS_"])
def test_variables_of_other_programs_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is two slips or more from any setting is not ours."""
    monkeypatch.setenv(name, "1")
    assert load_settings("memory://").backend == "memory://"


def test_variable_that_says_something_else_than_true_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both words for both answers."""
    monkeypatch.setenv("AEGIS_LOG_JSON", "off")
    assert load_settings("memory://").log.json is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ttl = ", "aegis.toml: it is not TOML"),
        ("tll = 5", "aegis.toml: tll: there is no such setting; did you mean ttl?"),
        ("ttl = -5", "aegis.toml: ttl: expected a number of seconds, more than 0, got -5"),
    ],
)
def test_wrong_file_is_named(text: str, told: str, place: Path) -> None:
    """The file is the source."""
    (place / "aegis.toml").write_text(text)
    assert told in refusal(lambda: load_settings("memory://"))


def test_file_that_cannot_be_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was named must be there, and be a file of text."""
    assert "gone.toml: there is no such file" in refusal(lambda: load_settings(config="gone.toml"))
    monkeypatch.setenv("AEGIS_CONFIG", "lost.toml")
    assert "lost.toml: there is no such file" in refusal(load_settings)
    (place / "folder.toml").mkdir()
    assert "folder.toml: it cannot be read" in refusal(lambda: load_settings(config="folder.toml"))
    (place / "binary.toml").write_bytes(b"\xff\xfe")
    assert "binary.toml: it is not TOML" in refusal(lambda: load_settings(config="binary.toml"))


def test_wrong_section_of_pyproject_is_named(place: Path) -> None:
    """And other tools' sections are none of our business."""
    (place / "pyproject.toml").write_text("[tool.other]\nttl = 1\n[tool.aegis]\ntll = 1\n")
    assert "pyproject.toml [tool.aegis]: tll" in refusal(lambda: load_settings("memory://"))
    (place / "pyproject.toml").write_text("[tool]\naegis = 5\n")
    assert "pyproject.toml [tool.aegis]: expected a table" in refusal(lambda: load_settings("memory://"))
    (place / "pyproject.toml").write_text("[project]\n")
    assert load_settings("memory://").ttl == 30.0


def test_interval_must_leave_time_for_a_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most half of the TTL, whichever sources the two come from."""
    monkeypatch.setenv("AEGIS_HEARTBEAT_INTERVAL", "10")
    assert load_settings("memory://").heartbeat_interval == 10.0
    told = refusal(lambda: load_settings("memory://?ttl=5"))
    assert told == "AEGIS_HEARTBEAT_INTERVAL: heartbeat_interval: expected at most half of ttl (5 s), got 10"


def test_settings_made_by_hand_are_checked() -> None:
    """The same rules, with the class as the source."""
    assert refusal(lambda: Settings(ttl=0)) == "Settings: ttl: expected a number of seconds, more than 0, got 0"
    assert "CircuitSettings: failures" in refusal(lambda: CircuitSettings(failures=0))
    assert "heartbeat_interval" in refusal(lambda: Settings(ttl=10, heartbeat_interval=6))


# --- The backend's URL --------------------------------------------------------------------------


def test_url_is_taken_apart() -> None:
    """Several servers, a path, parameters; those that are settings are taken out."""
    address = parse_backend("nats://me:secret@a:4222,b:4222/x?bucket=b&ttl=5&circuit.failures=3")
    assert address.scheme == "nats"
    assert address.location == "me:secret@a:4222,b:4222/x"
    assert dict(address.parameters) == {"bucket": "b"}
    assert parse_backend("memory://").location == ""


def test_parameters_of_the_url_are_settings() -> None:
    """Nested ones with a dot; those of the backend are left to it."""
    settings = load_settings("memory://x?circuit.failures=3&ttl=5&shards=9")
    assert (settings.circuit.failures, settings.ttl) == (3, 5.0)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory", "backend: expected scheme://location, e.g. memory://, got 'memory'"),
        ("://x", "backend: expected scheme://location"),
        ("memory://?ttl", "backend: expected ?name=value&..."),
        ("memory://?ttl=long", "backend URL: ttl: expected a number of seconds, more than 0, got 'long'"),
    ],
)
def test_wrong_url_is_told(url: str, told: str) -> None:
    """What a URL looks like, and which parameter is wrong."""
    assert told in refusal(lambda: load_settings(url))


def test_parameter_that_is_given_twice_is_refused() -> None:
    """Neither value is the obvious one."""
    assert refusal(lambda: parse_backend("memory://?a=1&a=2")) == "backend URL: a: it is given twice"


def test_password_is_never_shown() -> None:
    """Not in a repr, not in an error."""
    url = "nats://me:secret@host?x"
    assert "secret" not in repr(Settings(backend=url))
    assert "secret" not in repr(parse_backend("nats://me:secret@host"))
    assert "secret" not in refusal(lambda: load_settings(url))
    assert "secret" not in refusal(lambda: load_settings("me:secret@host"))


def test_every_setting_is_checked_and_documented() -> None:
    """No section is without a kind, and the reference has an entry for each setting."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text()
    assert [name for name in setting_names() if f"`{name}`" not in page] == []
