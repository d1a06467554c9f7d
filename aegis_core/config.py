"""The settings of a node, and where they come from.

By rising precedence: the files of the working directory, ``aegis.toml`` and then ``[tool.aegis]`` of ``pyproject.toml``, or
in the place of both the one file that ``open_node(config=path)``, else ``AEGIS_CONFIG``, names; environment variables
``AEGIS_*``; arguments (``open_node(config={...})``); the parameters of the backend's URL. What is wrong is a `ConfigError`
that names source and key, and says what would be right.

All in one file, so that the settings and how each source says them are seen together.
Read by hand: typed-settings would be one more dependency of the core, as long to import as a third of Trio, and its
messages would have to be rewritten to say this much.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qsl

import attrs

from aegis_core.backend import BackendAddress
from aegis_core.errors import ConfigError
from aegis_core.setting_kinds import (
    BOOL,
    COUNT,
    COUNT_OR_NONE,
    LEVEL,
    PATH,
    SECONDS,
    SECONDS_OR_NONE,
    TEXT,
    TEXTS,
    TIME_OFFSET,
    Kind,
)

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = [
    "CircuitSettings",
    "LimitSettings",
    "LogSettings",
    "MetricsSettings",
    "NodeDefaults",
    "PluginSettings",
    "RetrySettings",
    "Settings",
    "TracingSettings",
    "ambient",
    "check_parameters",
    "environment_variable",
    "load_settings",
    "parse_backend",
    "setting_names",
]

T = TypeVar("T")

_MISSING: Final = (
    "no backend is configured: give open_node an argument (open_node('memory://')), set backend in aegis.toml, "
    "AEGIS_BACKEND or --backend; memory:// is the one that needs no server"
)
_URL: Final = "backend URL"
_BY_CODE: Final = frozenset({"", "Settings", "open_node", "test"})
"""Sources of settings that the program gives itself, so that its own traceback shows them."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^?]*)(?:\?(.*))?\Z", re.DOTALL)


def _checked(instance: object, attribute: attrs.Attribute[T], value: T) -> None:
    """Refuse a `Settings` made by hand of values that no source could give."""
    if value == attribute.default:
        return
    kind: Kind = attribute.metadata["kind"]
    try:
        kind.read(value)
    except (TypeError, ValueError):
        raise ConfigError(
            source=type(instance).__name__,
            key=attribute.name,
            problem=f"expected {kind.expected}, got {value!r}",
        ) from None


def _setting(default: T, kind: Kind) -> T:
    # Typed as its default, which is what type checkers make of a field.
    made: T = attrs.field(default=default, validator=_checked, metadata={"kind": kind})
    return made


# --- Settings ----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CircuitSettings:
    """When a circuit breaker opens, and for how long.

    Args:
        failures: So many failures in a row open it.
        cooldown: Seconds until one request is let through to try.
    """

    failures: int = _setting(5, COUNT)
    cooldown: float = _setting(5.0, SECONDS)


@attrs.frozen(kw_only=True)
class RetrySettings:
    """The pause before something is tried again: doubled each time from `initial` to `maximum`, less a random part.

    Args:
        initial: Seconds before the first repetition.
        maximum: Seconds at most.
    """

    initial: float = _setting(0.02, SECONDS)
    maximum: float = _setting(1.0, SECONDS)


@attrs.frozen(kw_only=True)
class LimitSettings:
    """How much is under way at once; beyond that, calls are answered `Overloaded`.

    Args:
        handlers: Calls that one instance handles at once.
        queue: Calls that wait at one instance for a handler.
        per_instance: Calls that this node has under way to one instance.
    """

    handlers: int = _setting(100, COUNT)
    queue: int = _setting(1000, COUNT)
    per_instance: int = _setting(1000, COUNT)


@attrs.frozen(kw_only=True)
class PluginSettings:
    """Which plug-ins are loaded.

    Args:
        enabled: Dotted names to load besides those that are installed: ``package.module`` or ``package.module:object``.
        disabled: Names of plug-ins to leave out.
    """

    enabled: tuple[str, ...] = _setting((), TEXTS)
    disabled: tuple[str, ...] = _setting((), TEXTS)


@attrs.frozen(kw_only=True)
class LogSettings:
    """Where the library's logs go. With none of these set it leaves logging to the program.

    Args:
        level: The least level that is logged, e.g. ``INFO``; None leaves the loggers as they are.
        file: A file to append to, made with its folders; None for standard error.
        json: One JSON object per line instead of text.
    """

    level: str | None = _setting(None, LEVEL)
    file: str | None = _setting(None, PATH)
    json: bool = _setting(False, BOOL)


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Whether a node counts what it does, for Prometheus.

    Args:
        enabled: Count; `aegis_core.observe.metrics.exposition` tells it, and a router serves it.
        address: Count, and serve the metrics on this ``HOST:PORT``, under ``/metrics``, to whoever asks.
        conflict_resource_ids: So many resource ids are told apart among conflicts; the rest count as ``other``.
    """

    enabled: bool = _setting(False, BOOL)
    address: str | None = _setting(None, TEXT)
    conflict_resource_ids: int = _setting(0, COUNT_OR_NONE)


@attrs.frozen(kw_only=True)
class TracingSettings:
    """Whether a node makes spans of its work, for OpenTelemetry.

    Args:
        enabled: Make them, by the tracer provider that the program has set up.
    """

    enabled: bool = _setting(False, BOOL)


def _shown(url: str) -> str:
    """A URL for people, without the password that it may hold, and without its parameters."""
    location, _, parameters = url.partition("?")
    scheme, _, location = location.rpartition("//")
    secret, _, host = location.rpartition("@")
    shown = (f"{scheme}//" if scheme else "") + ("***@" if secret else "") + host
    return repr(shown + ("?..." if parameters else ""))


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that can be configured. All times are seconds.

    Args:
        backend: URL of the backend, e.g. ``nats://127.0.0.1:4222``; a password in it is not shown in a repr.
        request_timeout: How long an operation on the registry may take. A call has a `timeout` of its own, 5 s by default.
        ttl: How long an instance's registration lives without a renewal.
        heartbeat_interval: Time between two renewals, at most half of `ttl`; None for a third of it.
        max_resources_per_instance: How many resources one instance may hold; exact for what one node brings to it.
        drain: How long calls may take to finish when a resource is released or moved, or an instance or node leaves.
        audit_retention: How long records of transfers are kept.
        message_retention: How long a router remembers a message that is to be carried out once.
        time_offset: Offset from UTC at which times are shown to other programs.
        balancer: Name of the balancer that chooses among instances.
        circuit: Circuit breakers of the instances that are called.
        store_circuit: Circuit breaker of the store.
        retry: Pauses before calls and commits are repeated.
        limits: How much is under way at once.
        plugins: Which plug-ins are loaded.
        log: Where logs go.
        metrics: What is counted.
        tracing: Whether spans are made.
        sources: Where each of them that was given comes from, by its name with dots: ``"AEGIS_TTL"``.

    Raises:
        ConfigError: A value that cannot be.
    """

    backend: str = attrs.field(default="", validator=_checked, metadata={"kind": TEXT}, repr=_shown)
    request_timeout: float = _setting(5.0, SECONDS)
    ttl: float = _setting(30.0, SECONDS)
    heartbeat_interval: float | None = _setting(None, SECONDS)
    max_resources_per_instance: int = _setting(1000, COUNT)
    drain: float = _setting(10.0, SECONDS_OR_NONE)
    audit_retention: float = _setting(7 * 86400.0, SECONDS)
    message_retention: float = _setting(300.0, SECONDS)
    time_offset: tzinfo = _setting(UTC, TIME_OFFSET)  # noqa: RUF009 - it is attrs.field
    balancer: str = _setting("round-robin", TEXT)
    circuit: CircuitSettings = CircuitSettings()
    store_circuit: CircuitSettings = CircuitSettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    plugins: PluginSettings = PluginSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    sources: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.heartbeat_interval is not None and self.heartbeat_interval > self.ttl / 2:
            raise ConfigError(
                source="Settings",
                key="heartbeat_interval",
                problem=f"expected at most half of ttl ({self.ttl:g} s), got {self.heartbeat_interval:g}",
            )


def _leaves(owner: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Kind]]:
    for field in attrs.fields(owner):
        if "kind" in field.metadata:
            yield (*path, field.name), field.metadata["kind"]
        elif attrs.has(type(field.default)):
            yield from _leaves(type(field.default), (*path, field.name))


_KINDS: Final[Mapping[tuple[str, ...], Kind]] = dict(_leaves(Settings))
_SECTIONS: Final = frozenset(path[:-1] for path in _KINDS if len(path) > 1)


def setting_names() -> tuple[str, ...]:
    """Every setting as it is written with dots: ``ttl``, ``circuit.failures``."""
    return tuple(map(".".join, _KINDS))


def environment_variable(name: str) -> str:
    """The environment variable of the setting *name* (with dots): ``AEGIS_CIRCUIT_FAILURES``."""
    return "AEGIS_" + name.replace(".", "_").upper()


@attrs.frozen
class NodeDefaults:
    """What a bare ``open_node()`` means where `ambient` says so.

    Args:
        backend: The backend's URL, unless an argument names another.
        plugins: Plug-ins that are loaded before those of the arguments.
        opened: Told of each node that was opened so.
    """

    backend: str
    plugins: tuple[object, ...] = ()
    opened: Callable[[Node], None] | None = None


ambient: Final[ContextVar[NodeDefaults | None]] = ContextVar("aegis_node_defaults", default=None)
"""For tests: makes the nodes that an unmodified application opens in this context members of a test's cluster."""


# --- Sources -----------------------------------------------------------------------------------


class _Merge:
    """Values of settings with their sources; what is put later counts."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], tuple[object, str]] = {}

    def put(self, path: tuple[str, ...], raw: object, source: str) -> None:
        kind = _KINDS[path]
        try:
            # A text is what environment and URL have; TOML and Python say what they mean.
            value = kind.read(kind.parse(raw) if isinstance(raw, _Text) else raw)
        except (TypeError, ValueError):
            shown = _shown(raw) if path == ("backend",) and isinstance(raw, str) else repr(raw)
            raise ConfigError(
                source=source, key=".".join(path), problem=f"expected {kind.expected}, got {shown}"
            ) from None
        self.values[path] = (value, source)

    def table(self, table: object, source: str, path: tuple[str, ...] = ()) -> None:
        if not isinstance(table, Mapping):
            problem = f"expected a table with {', '.join(_names_in(path))}, got {table!r}"
            raise ConfigError(source=source, key=".".join(path), problem=problem)
        for name, raw in table.items():
            here = (*path, str(name))
            if here in _SECTIONS:
                self.table(raw, source, here)
            elif here in _KINDS:
                self.put(here, raw, source)
            else:
                known = _names_in(path)
                close = difflib.get_close_matches(str(name), known, 1)
                hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(known)}"
                raise ConfigError(source=source, key=".".join(here), problem=f"there is no such setting; {hint}")

    def environment(self, environ: Mapping[str, str]) -> None:
        variables = {environment_variable(".".join(path)): path for path in _KINDS}
        for name, text in environ.items():
            if name in variables:
                self.put(variables[name], _Text(text), name)
            elif name.startswith("AEGIS_") and name != "AEGIS_CONFIG":
                # Other programs may have variables that begin so; one slip of a finger off is no coincidence.
                for known in (*variables, "AEGIS_CONFIG"):
                    if _is_slip(name, known):
                        raise ConfigError(source=name, problem=f"there is no such setting; did you mean {known}?")

    def url(self, url: str, source: str) -> None:
        with _url_told_with(source):
            for name, text in _parameters(url, source):
                path = tuple(name.split("."))
                if path in _KINDS and path != ("backend",):
                    self.put(path, _Text(text), _URL)

    def settings(self) -> Settings:
        interval = self.values.get(("heartbeat_interval",))
        sections = {
            section[0]: attrs.evolve(getattr(_DEFAULTS, section[0]), **self._in(section)) for section in _SECTIONS
        }
        sources = {".".join(path): source for path, (_, source) in self.values.items()}
        try:
            return Settings(sources=sources, **sections, **self._in(()))  # type: ignore[arg-type]  # read by kind
        except ConfigError as exc:
            raise attrs.evolve(exc, source=interval[1] if interval else exc.source) from None

    def _in(self, section: tuple[str, ...]) -> dict[str, object]:
        return {path[-1]: value for path, (value, _) in self.values.items() if path[:-1] == section}


def _is_slip(name: str, known: str) -> bool:
    """Whether *name* is *known* with one letter wrong, missing, too many, or changed for the next one."""
    if abs(len(name) - len(known)) > 1:
        return False
    same = next((at for at, (a, b) in enumerate(zip(name, known, strict=False)) if a != b), min(len(name), len(known)))
    mine, right = name[same:], known[same:]
    return (
        mine[1:] == right[1:]
        or mine[1:] == right
        or mine == right[1:]
        or (mine[:2] == right[1::-1] and mine[2:] == right[2:])
    )


class _Text(str):
    """A value from where everything is text."""

    __slots__ = ()


def _names_in(section: tuple[str, ...]) -> list[str]:
    depth = len(section)
    return list(dict.fromkeys(path[depth] for path in _KINDS if path[:depth] == section))


_DEFAULTS: Final = Settings()


def load_settings(
    backend: str | None = None,
    config: Settings | Mapping[str, object] | str | os.PathLike[str] | None = None,
) -> Settings:
    """The settings of a node, from all sources.

    Args:
        backend: URL of the backend, from whoever opens the node.
        config: Settings as a nested mapping, over those of the environment; or the path of a TOML file to read instead of
            those of the working directory, under the environment. A `Settings` object is taken as it is: then only
            *backend* and the parameters of the URL are added.

    Raises:
        ConfigError: An unknown key, a value that cannot be, a file that cannot be read, or no backend.
    """
    defaults = ambient.get()
    merge = _Merge()
    if isinstance(config, Settings):
        chosen = backend or config.backend or (defaults.backend if defaults else "")
        for path in _KINDS:
            source = config.sources.get(".".join(path), "Settings")
            merge.values[path] = (functools.reduce(getattr, path, config), source)
    else:
        given: Mapping[str, object] = config if isinstance(config, Mapping) else {}
        _read_files(merge, None if config is None or isinstance(config, Mapping) else Path(config))
        merge.environment(os.environ)
        if defaults is not None:
            merge.put(("backend",), defaults.backend, "test")
        merge.table(given, "open_node(config=...)")
        chosen = backend or str(merge.values.get(("backend",), ("", ""))[0])
    if not chosen:
        raise ConfigError(key="backend", problem=_MISSING)
    source = "open_node" if backend else merge.values.get(("backend",), ("", "test"))[1]
    merge.put(("backend",), chosen, source)
    merge.url(chosen, source)
    return merge.settings()


@contextmanager
def told_with_source(settings: Settings) -> Iterator[None]:
    """Where a setting of *settings* turns out wrong in the block: its `ConfigError` names where the setting is from."""
    try:
        with _url_told_with(settings.sources.get("backend", "")):
            yield
    except ConfigError as exc:
        if exc.source or exc.key not in settings.sources:
            raise
        raise attrs.evolve(exc, source=settings.sources[exc.key]) from exc.__cause__


@contextmanager
def _url_told_with(source: str) -> Iterator[None]:
    """Where something in the backend's URL turns out wrong in the block: which variable or file has it."""
    try:
        yield
    except ConfigError as exc:
        if exc.source != _URL or source in _BY_CODE:
            raise
        raise attrs.evolve(exc, source=f"{_URL} of {source}") from exc.__cause__


def _read_files(merge: _Merge, given: Path | None) -> None:
    named = os.environ.get("AEGIS_CONFIG")
    if given is None and named:
        given = Path(named)
    if given is not None:  # who names a file means it, and not what happens to lie in the working directory
        merge.table(_read_toml(given), str(given))
        return
    merge.table(_read_toml(Path("aegis.toml"), optional=True), "aegis.toml")
    tools = _read_toml(Path("pyproject.toml"), optional=True).get("tool")
    if isinstance(tools, dict):
        merge.table(tools.get("aegis", {}), "pyproject.toml [tool.aegis]")


def _read_toml(path: Path, *, optional: bool = False) -> Mapping[str, object]:
    try:
        seen = path.stat()
        return _parse_toml(path.absolute(), seen.st_mtime_ns, seen.st_size)
    except FileNotFoundError:
        if optional:
            return {}
        raise ConfigError(source=str(path), problem="there is no such file") from None
    except OSError as exc:
        raise ConfigError(source=str(path), problem=f"it cannot be read: {exc.strerror}") from None
    except ValueError as exc:  # not TOML, or not UTF-8
        raise ConfigError(source=str(path), problem=f"it is not TOML: {exc}") from None


@functools.lru_cache(maxsize=8)
def _parse_toml(path: Path, _mtime: int, _size: int) -> Mapping[str, object]:
    # A program may open many nodes, tests do; a large pyproject.toml takes longer to read than a node to open.
    import tomllib  # noqa: PLC0415 - most programs have no file to read

    return tomllib.loads(path.read_text(encoding="utf-8"))


def _parameters(url: str, source: str = "") -> list[tuple[str, str]]:
    match = _SCHEME.match(url)
    if match is None:
        raise ConfigError(
            source=source,
            key="backend",
            problem=f"expected scheme://location, e.g. memory://, got {_shown(url)}",
        )
    try:
        return parse_qsl(match[3] or "", keep_blank_values=True, strict_parsing=bool(match[3]))
    except ValueError as exc:
        raise ConfigError(source=_URL, key="backend", problem=f"expected ?name=value&..., {exc}") from None


def check_parameters(address: BackendAddress, known: Iterable[str] = ()) -> None:
    """For backends: refuse parameters of the URL that are neither settings nor among *known*.

    Args:
        address: As the backend's opener is given it, without the settings.
        known: The parameters of the backend's own.

    Raises:
        ConfigError: There is one; says which is much like it.
    """
    own = tuple(known)
    for name in address.parameters:
        if name not in own:
            close = difflib.get_close_matches(name, (*own, *setting_names()[1:]), 1)  # the first is the backend
            listed = (
                f"{address.scheme}:// knows {', '.join(own)}" if own else f"{address.scheme}:// has none of its own"
            )
            hint = f"did you mean {close[0]}?" if close else f"{listed}, besides the settings"
            raise ConfigError(source=_URL, key=name, problem=f"there is no such parameter; {hint}")


def parse_backend(url: str) -> BackendAddress:
    """The parts of a backend's URL; its parameters without those that are settings of the node.

    Raises:
        ConfigError: It is no URL, or names a parameter twice.
    """
    pairs = _parameters(url)
    own = [(name, text) for name, text in pairs if tuple(name.split(".")) not in _KINDS]
    names = [name for name, _ in own]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(source=_URL, key=name, problem="it is given twice")
    scheme, _, rest = url.partition("://")
    return BackendAddress(url=url, scheme=scheme, location=rest.partition("?")[0], parameters=dict(own))
