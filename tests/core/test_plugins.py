"""Plug-ins: found, loaded, checked, left out."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aegis_core import plugins
from aegis_core.config import PluginSettings, Settings, parse_backend
from aegis_core.errors import ConfigError, Forbidden
from aegis_core.hookspecs import BalancerRegistrar, ObserverRegistrar, Principal, Target, hookimpl
from aegis_core.plugins import BUILTINS, BuiltIn, load_plugins


def refusal(load: Callable[[], object]) -> str:
    """What whoever loads a wrong plug-in is told."""
    with pytest.raises(ConfigError) as caught:
        load()
    return str(caught.value)


def loaded(*given: object, **settings: tuple[str, ...]) -> plugins.Plugins:
    """The plug-ins of a node that was given these."""
    return load_plugins(Settings(plugins=PluginSettings(**settings)), given)


class Quiet:
    """A plug-in that does nothing."""


class Watching:
    """A plug-in with an observer."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_event(self, event: object) -> None:
        """Remember it."""
        self.seen.append(event)

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Offer itself."""
        register(self)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Makes modules that can be imported while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"from aegis_core.hookspecs import hookimpl\n{text}\n")
        made.append(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes entry points of the group ``aegis``."""

    def install(**entries: str) -> None:
        found = tuple(importlib.metadata.EntryPoint(name, value, "aegis") for name, value in entries.items())
        plugins._entry_points.cache_clear()
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: found if group == "aegis" else ())

    yield install
    plugins._entry_points.cache_clear()


PLUGIN = """
class Seen:
    def on_event(self, event): pass
@hookimpl
def aegis_register_observers(register):
    register(Seen())
"""


# --- How plug-ins are found ---------------------------------------------------------------------


def test_built_ins_come_through_the_same_hooks() -> None:
    """The backend, balancers and logs of the library are plug-ins with names, like everybody's."""
    found = loaded()
    assert found.names == tuple(builtin.module for builtin in BUILTINS)
    assert found.schemes == ("http", "https", "memory", "nats")
    assert found.names[0] in repr(found)


def test_plug_in_is_given_as_an_object_a_module_or_a_dotted_name(package: Callable[[str, str], None]) -> None:
    """Whichever it is, its hooks are called."""
    package("dotted_plugin", PLUGIN)
    package("holder", "import dotted_plugin\nclass Kept(dotted_plugin.Seen):\n    pass\ninner = dotted_plugin")
    module = types.ModuleType("made_module")
    quiet = Quiet()
    found = loaded(Watching(), module, quiet, "dotted_plugin", "holder:inner")
    assert found.names[len(BUILTINS) :] == (
        "tests.core.test_plugins.Watching",
        "made_module",
        "tests.core.test_plugins.Quiet",
        "dotted_plugin",
    )
    assert len(found.observers) == 3


def test_setting_enables_a_plug_in(package: Callable[[str, str], None]) -> None:
    """By its dotted name."""
    package("enabled_plugin", PLUGIN)
    assert "enabled_plugin" in loaded(enabled=("enabled_plugin",)).names


def test_installed_plug_ins_are_found(package: Callable[[str, str], None], installed: Callable[..., None]) -> None:
    """By entry points, under the entry point's name."""
    package("installed_plugin", PLUGIN)
    installed(nice="installed_plugin")
    assert "nice" in loaded().names
    assert "nice" not in loaded(disabled=("nice",)).names


def test_object_given_twice_is_loaded_once() -> None:
    """And a second one of its class beside it."""
    one, other = Watching(), Watching()
    found = loaded(one, one, other)
    assert found.names[len(BUILTINS) :] == (
        "tests.core.test_plugins.Watching",
        "tests.core.test_plugins.Watching#2",
    )


def test_nodes_share_nothing() -> None:
    """Each has a plug-in manager of its own."""
    watching = Watching()
    assert len(loaded(watching).observers) == len(loaded().observers) + 1


@pytest.mark.parametrize("name", ["tests.core.test_plugins.Watching", "some.package:thing"])
def test_disabled_plug_in_is_left_out(name: str) -> None:
    """Whichever way it came; a dotted name is not even imported."""
    given = Watching() if name.endswith("Watching") else name
    assert loaded(given, disabled=(name,)).names == loaded().names


def test_disabled_built_in_is_named_when_it_is_missed() -> None:
    """Its scheme says why it is not there."""
    found = loaded(disabled=("aegis_backends.memory",))
    told = refusal(lambda: found.open_backend(parse_backend("memory://")))
    assert told == "backend: plugins.disabled names 'aegis_backends.memory'"


def test_built_in_whose_packages_are_missing_says_what_to_install(package: Callable[[str, str], None]) -> None:
    """It is no error until its scheme is asked for."""
    package("needy", "import a_package_that_nobody_has")
    builtins = [BuiltIn("needy", schemes=("web",), extra="http")]
    found = load_plugins(Settings(), builtins=builtins)
    told = refusal(lambda: found.open_backend(parse_backend("web://x")))
    assert told == (
        "backend: No module named 'a_package_that_nobody_has'; install it with: pip install 'aegis-ipc[http]'"
    )


def test_built_in_without_an_extra_must_be_there() -> None:
    """A broken installation is not hidden."""
    with pytest.raises(ModuleNotFoundError):
        load_plugins(Settings(), builtins=[BuiltIn("aegis_core.gone")])


# --- What is refused ----------------------------------------------------------------------------


def test_unknown_scheme_names_those_there_are() -> None:
    """And what was probably meant."""
    told = refusal(lambda: loaded().open_backend(parse_backend("memroy://")))
    assert told == "backend: there is no scheme 'memroy', only http, https, memory, nats; did you mean 'memory'?"


def test_unknown_balancer_names_those_there_are() -> None:
    """The setting is named."""
    told = refusal(lambda: loaded().balancer("fastest"))
    assert told.startswith("balancer: there is no balancer 'fastest', only consistent-hash, least-pending, ")


class Misspelt:
    """Implements a hook that does not exist."""

    @hookimpl
    def aegis_register_observer(self, register: object) -> None:
        """One letter is missing."""


class Foreign:
    """Implements a hook of something else."""

    @hookimpl
    def mutter(self) -> None:
        """No hook of ours."""


class Greedy:
    """Wants a parameter that the hook does not have."""

    @hookimpl
    def aegis_register_observers(self, register: object, priority: int) -> None:
        """There is no priority."""


class Asynchronous:
    """Implements a hook with an async function."""

    @hookimpl
    async def aegis_register_observers(self, register: object) -> None:
        """Nobody would await it."""


class Wrapping:
    """Implements a hook as a wrapper."""

    @hookimpl(wrapper=True)
    def aegis_check_registration(self) -> Iterator[None]:
        """Around the others."""
        return (yield)


class Deferred:
    """Returns a coroutine without being an async function."""

    @hookimpl
    def aegis_register_observers(self, register: object) -> object:
        """Calls one."""
        return Asynchronous().aegis_register_observers(register)


class Failing:
    """Fails when it is asked."""

    @hookimpl
    def aegis_register_middleware(self) -> None:
        """Raises."""
        raise LookupError("no licence")


class Particular:
    """Has an opinion about its configuration."""

    @hookimpl
    def aegis_register_middleware(self) -> None:
        """Raises what is shown as it is."""
        raise ConfigError(key="licence", problem="expected a licence")


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (Misspelt(), "Misspelt': unknown hook 'aegis_register_observer'.*did you mean aegis_register_observers"),
        (Foreign(), "Foreign': unknown hook 'mutter'"),
        (Greedy(), "Greedy': .*priority"),
        (Asynchronous(), "Asynchronous': aegis_register_observers: it is an async def; hooks are synchronous"),
        (Wrapping(), "Wrapping': aegis_check_registration: it is a hook wrapper"),
        (Deferred(), "Deferred' failed: TypeError: it returned a coroutine"),
        (Failing(), "Failing' failed: LookupError: no licence"),
        (Particular(), "plug-in 'tests.core.test_plugins.Particular': licence: expected a licence"),
        (Quiet, "Quiet': it is a class; give an object of it"),
        ("not_a_module_at_all", "plug-in 'not_a_module_at_all': it cannot be imported"),
        ("json:nothing", "plug-in 'json:nothing': it cannot be imported"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_wrong_plug_in_is_named_when_it_is_loaded(plugin: object, told: str) -> None:
    """Never half loaded, never in silence."""
    with pytest.raises(ConfigError, match=told):
        loaded(plugin)


def test_broken_installed_plug_in_is_named(package: Callable[[str, str], None], installed: Callable[..., None]) -> None:
    """With the way to go on without it."""
    package("broken_plugin", "1 / 0")
    installed(nice="broken_plugin")
    told = refusal(loaded)
    assert told.startswith("plug-in 'nice': broken_plugin cannot be loaded: division by zero")
    assert "plugins.disabled" in told
    assert loaded(disabled=("nice",)).schemes == ("http", "https", "memory", "nats")


class Usurper:
    """Offers what another plug-in offers."""

    @hookimpl
    def aegis_register_balancers(self, register: BalancerRegistrar) -> None:
        """The name is taken."""
        register("round-robin", lambda: None)  # type: ignore[arg-type, return-value]


class Unmarked:
    """Its author forgot the mark."""

    def aegis_register_balancers(self, register: BalancerRegistrar) -> None:
        """Never called."""


def test_hook_without_the_mark_is_refused() -> None:
    """It would never be called, and nothing else would say so."""
    told = refusal(lambda: loaded(Unmarked()))
    assert told == (
        "plug-in 'tests.core.test_plugins.Unmarked': aegis_register_balancers: "
        "it is not marked with hookimpl, so that it would never be called"
    )


def test_imported_specifications_are_no_hooks_of_the_plug_in(package: Callable[[str, str], None]) -> None:
    """An import with an asterisk brings all of them."""
    package("starred_plugin", "from aegis_core.hookspecs import *\n" + PLUGIN)
    assert "starred_plugin" in loaded("starred_plugin").names


class Ready:
    """Registers an object where what makes one is asked for."""

    @hookimpl
    def aegis_register_balancers(self, register: BalancerRegistrar) -> None:
        """As who forgets the class would."""
        register("ready", object())  # type: ignore[arg-type]


def test_object_in_the_place_of_what_makes_it_is_refused() -> None:
    """When the node opens, rather than with a traceback when the balancer is asked for."""
    assert refusal(lambda: loaded(Ready())).endswith(
        "'ready' takes a class or function that makes it, not an object of object"
    )


def test_name_that_is_taken_is_refused() -> None:
    """Which of two would count must not depend on the order of loading."""
    told = refusal(lambda: loaded(Usurper()))
    assert "'round-robin' is taken; disable one of the two plug-ins" in told


# --- The default policy -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principal", "operation", "instance_id", "allowed"),
    [
        (Principal("instance", "a-1"), "release", "a-1", True),
        (Principal("instance", "a-1"), "transfer", "a-1", True),
        (Principal("instance", "a-1"), "release", "b-1", False),
        (Principal("instance", "a-1"), "force", "a-1", False),
        (Principal("instance", "a-1"), "list_services", "", True),
        (Principal("node", "n"), "get_owner", "", True),
        (Principal("node", "n"), "drain", "n", False),
        (Principal("token", "ops"), "force", "b-1", False),
        (Principal("token", "ops", is_admin=True), "force", "b-1", True),
        (Principal("node", "n", is_admin=True), "drain", "b-1", True),
    ],
)
def test_default_policy(principal: Principal, operation: str, instance_id: str, *, allowed: bool) -> None:
    """One's own is one's own; reading is free; force and other people's instances are for admins."""
    target = Target(instance_id=instance_id)
    if allowed:
        loaded().authorize(principal, operation, target)
        return
    with pytest.raises(Forbidden) as caught:
        loaded().authorize(principal, operation, target)
    assert (caught.value.operation, caught.value.target) == (operation, instance_id)
    assert str(principal) in caught.value.reason


def test_target_is_shown_by_what_it_names() -> None:
    """The first resources, else the instance, else the service."""
    many = tuple(f"r{n}" for n in range(5))
    assert str(Target(service_name="s", instance_id="i", resource_ids=many)) == "r0, r1, r2, ..."
    assert str(Target(service_name="s", instance_id="i", resource_ids=("r",))) == "r"
    assert str(Target(service_name="s", instance_id="i")) == "i"
    assert str(Target(service_name="s")) == "s"
