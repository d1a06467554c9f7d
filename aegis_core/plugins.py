"""The plug-ins of one node: found, loaded, checked, and resolved so that a running node calls no hook in vain.

`load_plugins` makes one plug-in manager per node, so that two nodes of a process share nothing. Built-ins are loaded
first, by dotted name and through the same hooks as everybody's; then what is installed (entry points of the group
``aegis``), what the setting ``plugins.enabled`` names, and what ``open_node(plugins=...)`` was given. A plug-in whose
name is in ``plugins.disabled`` is left out, whichever way it came.

pluggy finds and checks implementations; they are called from here, in its order (last loaded first, unless they say
``tryfirst`` or ``trylast``), because what one raises must name its plug-in. For that reason loading and use are in one
file, too.

It is long because each way in which a plug-in can be wrong has a message of its own.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import inspect
import logging
import types
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import pluggy

from aegis_core import hookspecs
from aegis_core.backend import Backend, BackendAddress, OpenBackend
from aegis_core.config import Settings
from aegis_core.errors import AegisError, ConfigError, Forbidden
from aegis_core.events import Event
from aegis_core.hookspecs import Balancer, CallInfo, Middleware, Observer, Principal, Target
from aegis_core.models import ServiceInstance, Standby
from aegis_core.observe.observers import Observers

if TYPE_CHECKING:
    from aegis_core.engine.view import View

__all__ = ["BUILTINS", "BuiltIn", "Plugins", "load_plugins"]

_log = logging.getLogger("aegis.plugins")

T = TypeVar("T")


@attrs.frozen
class BuiltIn:
    """A plug-in that comes with the library.

    Args:
        module: Its dotted name, which is also the plug-in's name.
        schemes: The URL schemes that it serves, known even while its packages are missing.
        extra: The extra of the distribution that brings its packages, or "".
    """

    module: str
    schemes: tuple[str, ...] = ()
    extra: str = ""


BUILTINS: Final = (
    BuiltIn("aegis_core.balancers"),
    BuiltIn("aegis_core.observe.logs"),
    BuiltIn("aegis_backends.memory", schemes=("memory",)),
    BuiltIn("aegis_backends.nats", schemes=("nats",), extra="nats"),
    BuiltIn("aegis_backends.http", schemes=("http", "https"), extra="http"),
)
"""What every node loads first."""

_HOOKS: Final = tuple(hook for hook in hookspecs.__all__ if hook.startswith("aegis_"))
_FOR_ALL: Final = frozenset({
    "list_services", "get_service", "get_instance", "list_roles", "query_resources", "get_owner", "explain",
    "list_transfers", "events", "watch", "call", "message_status", "register",
})  # fmt: skip


class _Implementation:
    """One plug-in's implementation of one hook."""

    def __init__(self, found: pluggy.HookImpl) -> None:
        self.plugin = found.plugin_name
        self._function = found.function
        self._takes = found.argnames

    def __call__(self, **arguments: object) -> object:
        answer = self._function(*(arguments[name] for name in self._takes))
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("it returned a coroutine, which nobody awaits: hooks are synchronous")
        return answer

    def failed(self, exc: Exception) -> str:
        """What to tell of its failure."""
        return f"plug-in {self.plugin!r} failed: {type(exc).__name__}: {exc}"


class Plugins:
    """The plug-ins of one node, ready for use. Made by `load_plugins`.

    What the ``register`` hooks offer is taken at once; the other hooks are called when the node asks.
    """

    def __init__(self, manager: pluggy.PluginManager, missing: Mapping[str, str]) -> None:
        self._manager = manager
        self._missing = missing
        self._backends: dict[str, OpenBackend] = {}
        self._balancers: dict[str, Callable[[], Balancer]] = {}
        observers: list[Observer] = []
        middleware: list[Middleware] = []
        self._register("aegis_register_backends", self._backends)
        self._register("aegis_register_balancers", self._balancers)
        self._collect("aegis_register_observers", observers)
        self._collect("aegis_register_middleware", middleware)
        self.observers = Observers(observers)
        self.middleware = tuple(middleware)
        self._check = self._implementations("aegis_check_registration")
        self._authorize = self._implementations("aegis_authorize")
        self._promote = self._implementations("aegis_promote")
        self._plan = self._implementations("aegis_plan_rebalance")

    def __repr__(self) -> str:
        return f"<Plugins: {', '.join(self.names)}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the plug-ins are loaded, and can be disabled."""
        return tuple(name for name, plugin in self._manager.list_name_plugin() if plugin)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The URL schemes that can be opened."""
        return tuple(sorted(self._backends))

    def open_backend(self, address: BackendAddress) -> AbstractAsyncContextManager[Backend]:
        """The backend at *address*, to be entered.

        Raises:
            ConfigError: No plug-in serves its scheme; says what to install, or which there are.
        """
        opener = self._backends.get(address.scheme)
        if opener is not None:
            return opener(address)
        why = self._missing.get(address.scheme) or _unknown("scheme", address.scheme, self._backends)
        raise ConfigError(key="backend", problem=why)

    def balancer(self, name: str) -> Balancer:
        """A new balancer of that name.

        Raises:
            ConfigError: No plug-in offers one.
        """
        make = self._balancers.get(name)
        if make is None:
            raise ConfigError(key="balancer", problem=_unknown("balancer", name, self._balancers))
        return make()

    def notify(self, event: Event) -> None:
        """Hand *event* to all observers; never raises."""
        self.observers.notify(event)

    @asynccontextmanager
    async def around(self, info: CallInfo) -> AsyncIterator[None]:
        """The context of one call: all middleware, entered in order. Ask for it only when there is `middleware`."""
        async with AsyncExitStack() as stack:
            for enter in self.middleware:
                await stack.enter_async_context(enter(info))
            yield

    def commands(self) -> Mapping[str, Callable[..., object]]:
        """The commands that plug-ins add to the command line, by name.

        Raises:
            ConfigError: A plug-in failed, or two offer the same name.
        """
        offered: dict[str, Callable[..., object]] = {}
        self._register("aegis_register_cli", offered)
        return offered

    def check_registration(self, instance: ServiceInstance) -> None:
        """Let plug-ins refuse the registration of *instance*.

        Raises:
            AegisError: One refused, in its own words; `Forbidden` when it failed.
        """
        for check in self._check:
            try:
                check(instance=instance)
            except AegisError:
                raise
            except Exception as exc:
                raise Forbidden(operation="register", target=instance.instance_id, reason=check.failed(exc)) from exc

    def authorize(self, principal: Principal, operation: str, target: Target, *, own: bool = False) -> None:
        """Let *principal* carry out *operation*, or not; without a plug-in's word by the default policy.

        Args:
            principal: Who asks.
            operation: What for.
            target: What it concerns.
            own: It showed the lease of the instance that it concerns, and so may, unless a plug-in refuses.

        Raises:
            Forbidden: It may not.
        """
        reason = None if own else _refusal(principal, operation, target)
        for decide in self._authorize:
            try:
                verdict = decide(principal=principal, operation=operation, target=target)
            except Exception as exc:
                raise Forbidden(operation=operation, target=str(target), reason=decide.failed(exc)) from exc
            if verdict is not None:
                reason = None if verdict else f"plug-in {decide.plugin!r} refuses it to {principal}"
                break
        if reason is not None:
            raise Forbidden(operation=operation, target=str(target), reason=reason)

    def promote(self, target: str, standbys: Sequence[Standby]) -> tuple[str, ...]:
        """The instance ids of *standbys*, who should be promoted first first; never raises."""
        line = [standby.instance_id for standby in standbys]
        ranking: Sequence[str] = ()
        for rank in self._promote:
            try:
                answer = rank(target=target, standbys=standbys)
                if answer is not None:
                    ranking = _texts(answer)
                    break
            except Exception:  # noqa: BLE001 - a plug-in's bug must not keep a resource without an owner
                _log.exception("plug-in %r failed to rank %s; the line's order holds", rank.plugin, target)
                break
        return tuple(dict.fromkeys([*(one for one in ranking if one in line), *line]))

    def plan_rebalance(self, view: View, service_name: str, max_moves: int) -> Mapping[str, str] | None:
        """Which resources move where, at most *max_moves* of them; None when no plug-in has a plan.

        Raises:
            AegisError: A plug-in refused; `Forbidden` when it failed.
        """
        for plan in self._plan:
            try:
                answer = plan(view=view, service_name=service_name, max_moves=max_moves)
                if answer is not None:
                    return dict(list(_text_map(answer).items())[:max_moves])
            except AegisError:
                raise
            except Exception as exc:
                raise Forbidden(operation="rebalance", target=service_name, reason=plan.failed(exc)) from exc
        return None

    def _implementations(self, hook: str) -> tuple[_Implementation, ...]:
        found: Sequence[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return tuple(map(_Implementation, reversed(found)))

    def _collect(self, hook: str, offered: list[T]) -> None:
        for implementation in self._implementations(hook):
            _offer(implementation, offered.append)

    def _register(self, hook: str, offered: dict[str, T]) -> None:
        for implementation in self._implementations(hook):

            def register(name: str, value: T, /) -> None:
                if name in offered:
                    raise ConfigError(
                        problem=f"{name!r} is taken; disable one of the two plug-ins that offer it "
                        "with the setting plugins.disabled"
                    )
                if not callable(value):
                    kind = type(value).__name__
                    raise ConfigError(
                        problem=f"{name!r} takes a class or function that makes it, not an object of {kind}"
                    )
                offered[name] = value

            _offer(implementation, register)


def _offer(implementation: _Implementation, register: Callable[..., None]) -> None:
    try:
        implementation(register=register)
    except ConfigError as exc:
        raise attrs.evolve(exc, source=exc.source or f"plug-in {implementation.plugin!r}") from exc
    except Exception as exc:
        raise ConfigError(problem=implementation.failed(exc)) from exc


def _refusal(principal: Principal, operation: str, target: Target) -> str | None:
    """Why the default policy refuses, or None."""
    if principal.is_admin or operation in _FOR_ALL:
        return None
    own = principal.kind == "instance" and principal.name == target.instance_id
    if own and operation != "force":
        return None
    return (
        f"{principal} is no admin; a plug-in may allow it (hook aegis_authorize)"
        if own
        else f"{principal} may only act for itself"
    )


def _texts(answer: object) -> Sequence[str]:
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise TypeError(f"expected a sequence of instance ids, got {type(answer).__name__}")
    return tuple(map(str, answer))


def _text_map(answer: object) -> Mapping[str, str]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"expected a map of resource ids to instance ids, got {type(answer).__name__}")
    return {str(resource): str(instance) for resource, instance in answer.items()}


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"there is no {what} {name!r}, only {', '.join(names) or 'none'}{hint}"


# --- Loading -----------------------------------------------------------------------------------


def load_plugins(
    settings: Settings, extra: Iterable[object] = (), *, builtins: Iterable[BuiltIn] = BUILTINS
) -> Plugins:
    """Load the plug-ins of one node.

    Args:
        settings: Says which are enabled and disabled.
        extra: Modules, objects with hook methods, or dotted names of either (``package.module:object``).
        builtins: Those that come with the library.

    Raises:
        ConfigError: One cannot be imported, implements a hook that does not exist or with parameters that it does not
            have, is asynchronous, or failed; names the plug-in.
    """
    manager = pluggy.PluginManager("aegis")
    manager.add_hookspecs(hookspecs)
    disabled = frozenset(settings.plugins.disabled)
    missing: dict[str, str] = {}
    for builtin in builtins:
        if builtin.module in disabled:
            missing |= dict.fromkeys(builtin.schemes, f"plugins.disabled names {builtin.module!r}")
            continue
        try:
            _add(manager, builtin.module, importlib.import_module(builtin.module))
        except ModuleNotFoundError as exc:
            if not builtin.extra:
                raise
            why = f"{exc}; install it with: pip install 'aegis-ipc[{builtin.extra}]'"
            missing |= dict.fromkeys(builtin.schemes, why)
    for entry in _entry_points():
        if entry.name not in disabled:
            _add(manager, entry.name, _entered(entry))
    for given in (*settings.plugins.enabled, *extra):
        name = given if isinstance(given, str) else _name(given)
        if name not in disabled:
            _add(manager, name, _imported(given) if isinstance(given, str) else given)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as exc:
        raise _misfit(_name(exc.plugin), exc) from exc
    return Plugins(manager, missing)


@functools.cache
def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    # Looking through all that is installed takes longer than opening a node, so it is done once per process.
    return tuple(importlib.metadata.entry_points(group="aegis"))


def _entered(entry: importlib.metadata.EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as exc:
        raise ConfigError(
            source=f"plug-in {entry.name!r}",
            problem=f"{entry.value} cannot be loaded: {exc}; mend it, or name it in plugins.disabled",
        ) from exc


def _imported(dotted: str) -> object:
    module, _, name = dotted.partition(":")
    try:
        found: object = importlib.import_module(module)
        return getattr(found, name) if name else found
    except Exception as exc:
        raise ConfigError(
            source=f"plug-in {dotted!r}",
            problem=f"it cannot be imported ({type(exc).__name__}: {exc}); expected package.module or "
            "package.module:object, installed or on PYTHONPATH, on which the working directory need not be",
        ) from exc


def _name(plugin: object) -> str:
    if isinstance(plugin, types.ModuleType):
        return plugin.__name__
    kind = plugin if isinstance(plugin, type) else type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"


def _add(manager: pluggy.PluginManager, name: str, plugin: object) -> None:
    """Register *plugin*, unless it is there already under whichever name."""
    if manager.is_registered(plugin):
        return
    if isinstance(plugin, type):
        raise ConfigError(source=f"plug-in {name!r}", problem="it is a class; give an object of it, or a module")
    others = sum(known.partition("#")[0] == name for known, _ in manager.list_name_plugin())
    try:
        manager.register(plugin, f"{name}#{others + 1}" if others else name)
    except pluggy.PluginValidationError as exc:
        raise _misfit(name, exc) from exc
    callers = manager.get_hookcallers(plugin) or ()
    for caller in callers:
        for found in caller.get_hookimpls():
            if found.plugin is plugin:
                _check(name, caller.name, found)
    marked = {caller.name for caller in callers}
    for hook in _HOOKS:
        # The specifications themselves come along where they are imported with an asterisk.
        if hook not in marked and callable(given := getattr(plugin, hook, None)) and given is not vars(hookspecs)[hook]:
            problem = "it is not marked with hookimpl, so that it would never be called"
            raise ConfigError(source=f"plug-in {name!r}", key=hook, problem=problem)


def _check(name: str, hook: str, found: pluggy.HookImpl) -> None:
    function = inspect.unwrap(found.function)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if asynchronous:
        problem = "it is an async def; hooks are synchronous, what they register may be async"
    elif found.wrapper or found.hookwrapper:
        problem = "it is a hook wrapper, which this library does not use"
    else:
        return
    raise ConfigError(source=f"plug-in {name!r}", key=hook, problem=problem)


def _misfit(name: str, exc: pluggy.PluginValidationError) -> ConfigError:
    words = str(exc).replace("'", " ").split()
    wrong = [word for word in words if word.startswith("aegis_") and word not in _HOOKS]
    close = difflib.get_close_matches(wrong[0], _HOOKS, 1) if wrong else []
    hint = f"; did you mean {close[0]}?" if close else ""
    text = " ".join(str(exc).split())
    return ConfigError(source=f"plug-in {name!r}", problem=text + hint)
