"""A service as its author writes it down: named methods, what to do when a resource comes and goes, and its health.

A `Service` is a declaration. It holds no connection and no state of a run, so a module may make one at import and
several nodes may serve it::

    accounts = Service("account-service", version="1.0.0")

    @accounts.method
    async def balance(call: Call, currency: str) -> dict: ...

    @accounts.on_acquire
    async def load(claim: Claim) -> Book: ...

Parameters after the first are structured from their annotations before the method runs, so a bad call never reaches it.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Concatenate, Final, TypeVar, overload

import attrs

from aegis_core import codec, names
from aegis_core.errors import ConfigError
from aegis_core.models import Health, Shown
from aegis_core.node.call import Call
from aegis_core.parameters import Parameters, read_parameters

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim

__all__ = ["Declaration", "Method", "Service", "declaration_of"]

RESERVED: Final = "aegis."
"""Methods whose names begin so are the library's own."""

FunctionT = TypeVar("FunctionT", bound=Callable[Concatenate[Call, ...], Awaitable[object]])
AcquireT = TypeVar("AcquireT", bound="Callable[[Claim], Awaitable[object]]")
HealthT = TypeVar("HealthT", bound=Callable[[], Awaitable[Health]])


@attrs.define(eq=False, repr=False, slots=False)
class Method(Shown):
    """One method of a service.

    Args:
        name: What callers call it.
        function: The async function behind it.
        idempotent: Whether executing it twice is harmless, so that a call may be repeated whose fate is unknown.
    """

    name: str
    function: Callable[..., Awaitable[object]]
    idempotent: bool = False

    @functools.cached_property
    def structure(self) -> Callable[[Mapping[str, object]], Mapping[str, object]]:
        """Makes the function's keyword arguments of a call's parameters, or raises `InvalidRequest`.

        Made of the annotations when first asked for, because they may name classes that are defined later.

        Raises:
            TypeError: An annotation cannot be evaluated, or names a type that cannot travel; says which.
        """
        return codec.structure_params(self.function)


@attrs.define(eq=False, repr=False, slots=False)
class Declaration(Shown):
    """Of which service a function is a method, and under which name."""

    service_name: str
    method: str
    idempotent: bool
    _function: weakref.ref[Callable[..., object]] = attrs.field(repr=False)

    @functools.cached_property
    def parameters(self) -> Parameters:
        """What the function takes and returns.

        Raises:
            TypeError: An annotation cannot be evaluated; says which.
        """
        function = self._function()
        assert function is not None, "whoever asks has the function"
        return read_parameters(function)

    def says_the_same(self, other: Declaration) -> bool:
        """Whether a call could not tell the two apart."""
        return (self.service_name, self.method, self.idempotent) == (
            other.service_name,
            other.method,
            other.idempotent,
        )


# By function, weakly: the functions themselves are returned unchanged, and nothing here keeps them.
_declarations: Final[weakref.WeakKeyDictionary[Callable[..., object], list[Declaration]]] = weakref.WeakKeyDictionary()


def declaration_of(function: Callable[..., object]) -> Declaration:
    """Where *function* was declared a method.

    Raises:
        TypeError: Nowhere, or in several services, so that a call could not tell which is meant.
    """
    known = _declarations.get(function, ()) if isinstance(function, types.FunctionType) else ()
    if len(known) == 1:
        return known[0]
    if not known:
        raise TypeError(f"{_shown(function)} is not a method of any service: decorate it with @service.method")
    where = ", ".join(f"{it.service_name}.{it.method}" for it in known)
    raise TypeError(f"{_shown(function)} is declared more than once ({where}): use node.call with the names")


class Service:
    """The declaration of a service.

    Args:
        name: Lower-case words joined by ``-``, at most 64 characters.
        version: Version of the program, any text, told in the registry.
        on_demand: Prefixes of resource ids that come into being when they are first called: a healthy instance claims
            such an id and then serves the call.
        idle_release: Seconds without a call after which a resource that was claimed on demand is released; None for never.

    Raises:
        ConfigError: A name, prefix or time that cannot be.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        on_demand: Iterable[str] = (),
        idle_release: float | None = None,
    ) -> None:
        problem = names.service_name_problem(name)
        if problem is not None:
            raise ConfigError(source="Service", key="name", problem=problem)
        if isinstance(on_demand, str):
            raise ConfigError(
                source=f"Service {name!r}",
                key="on_demand",
                problem=f"expected a collection of prefixes, e.g. ({on_demand!r},), not one string",
            )
        prefixes = tuple(on_demand)
        for prefix in prefixes:
            problem = names.resource_id_problem(prefix)
            if problem is not None:
                raise ConfigError(source=f"Service {name!r}", key="on_demand", problem=problem)
        if idle_release is not None and not (idle_release > 0 and prefixes):
            raise ConfigError(
                source=f"Service {name!r}",
                key="idle_release",
                problem="expected seconds, more than 0, together with on_demand prefixes",
            )
        self._name = name
        self._version = version
        self._on_demand = prefixes
        self._idle_release = idle_release
        self._methods: dict[str, Method] = {}
        self._acquire: Callable[[Claim], Awaitable[object]] | None = None
        self._release: Callable[[Claim], Awaitable[object]] | None = None
        self._health: Callable[[], Awaitable[Health]] | None = None

    def __repr__(self) -> str:
        return f"<Service {self._name!r} {self._version}: {', '.join(self._methods) or 'no methods'}>"

    @property
    def name(self) -> str:
        """The service's name."""
        return self._name

    @property
    def version(self) -> str:
        """The version of the program."""
        return self._version

    @property
    def on_demand(self) -> tuple[str, ...]:
        """Prefixes of resource ids that are claimed when they are first called."""
        return self._on_demand

    @property
    def idle_release(self) -> float | None:
        """Seconds without a call after which a resource claimed on demand is released; None for never."""
        return self._idle_release

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods by name; a live view, read-only."""
        return MappingProxyType(self._methods)

    @property
    def idempotent(self) -> tuple[str, ...]:
        """Names of the methods that may be executed twice."""
        return tuple(name for name, method in self._methods.items() if method.idempotent)

    @property
    def acquire_hook(self) -> Callable[[Claim], Awaitable[object]] | None:
        """What `on_acquire` decorated, or None."""
        return self._acquire

    @property
    def release_hook(self) -> Callable[[Claim], Awaitable[object]] | None:
        """What `on_release` decorated, or None."""
        return self._release

    @property
    def health_hook(self) -> Callable[[], Awaitable[Health]] | None:
        """What `health` decorated, or None."""
        return self._health

    def activates(self, resource_id: str) -> bool:
        """Whether *resource_id* may be claimed on demand."""
        return resource_id.startswith(self._on_demand)

    @overload
    def method(self, function: FunctionT, /) -> FunctionT: ...

    @overload
    def method(self, /, *, name: str | None = None, idempotent: bool = False) -> Callable[[FunctionT], FunctionT]: ...

    def method(
        self,
        function: FunctionT | None = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
    ) -> FunctionT | Callable[[FunctionT], FunctionT]:
        """Make an async function a method; as ``@service.method`` or ``@service.method(idempotent=True)``.

        The function is returned unchanged, so that a test can call it with a `Call` of its own making. Its first
        parameter is the `Call`; the others are what callers send, by name, and are structured from their annotations:
        what does not fit is answered with `InvalidRequest`, which names the path of each problem.

        Args:
            function: The function, when used without arguments.
            name: What callers call it; the function's own name by default.
            idempotent: Executing it twice does the same as once. A call whose fate is unknown is then repeated, where
                that shows while it has time: a connection broke. What shows only as `CallTimeout` the caller repeats.

        Raises:
            TypeError: It is no async function, or takes no `Call`.
            ConfigError: The name is taken, or no name of a method.
        """

        def declare(declared: FunctionT) -> FunctionT:
            self._declare(declared, name, idempotent=idempotent)
            return declared

        return declare if function is None else declare(function)

    def on_acquire(self, function: AcquireT, /) -> AcquireT:
        """Run ``async function(claim)`` when a resource was acquired, before its first call.

        What it returns is `Claim.state` and `Call.state`. Calls for the resource wait for it; raising releases the resource.

        Raises:
            TypeError: It is no async function.
            ConfigError: There is one already.
        """
        _require_async(function, "on_acquire")
        self._require_free("on_acquire", self._acquire)
        self._acquire = function
        return function

    def on_release(self, function: AcquireT, /) -> AcquireT:
        """Run ``async function(claim)`` before a resource is given up of one's own will, while its lease still holds.

        It does not run when the lease was lost: then nothing may be written any more.

        Raises:
            TypeError: It is no async function.
            ConfigError: There is one already.
        """
        _require_async(function, "on_release")
        self._require_free("on_release", self._release)
        self._release = function
        return function

    def health(self, function: HealthT, /) -> HealthT:
        """Ask ``async function()`` for the instance's `Health` before each heartbeat.

        Raises:
            TypeError: It is no async function.
            ConfigError: There is one already.
        """
        _require_async(function, "health")
        self._require_free("health", self._health)
        self._health = function
        return function

    def _declare(self, function: Callable[..., Awaitable[object]], name: str | None, *, idempotent: bool) -> None:
        _require_async(function, "method")
        if not _takes_call(function):
            raise TypeError(f"{_shown(function)} must take the call as its first parameter")
        called = function.__name__ if name is None else name
        problem = names.method_problem(called)
        if problem is None and called.startswith(RESERVED):
            problem = f"names that begin with {RESERVED!r} are the library's own"
        if problem is None and called in self._methods:
            problem = f"there is a method {called!r} already"
        if problem is not None:
            raise ConfigError(source=f"Service {self._name!r}", key="method", problem=problem)
        self._methods[called] = Method(called, function, idempotent)
        declared = Declaration(self._name, called, idempotent, weakref.ref(function))
        known = _declarations.setdefault(function, [])
        if not any(declared.says_the_same(other) for other in known):
            known.append(declared)

    def _require_free(self, what: str, taken: object) -> None:
        if taken is not None:
            raise ConfigError(source=f"Service {self._name!r}", key=what, problem="there is one already")


def _require_async(function: object, what: str) -> None:
    if isinstance(function, types.FunctionType) and inspect.iscoroutinefunction(function):
        return
    kind = "an async generator" if inspect.isasyncgenfunction(function) else _shown(function)
    raise TypeError(f"@service.{what} takes an async function (async def), not {kind}")


def _takes_call(function: Callable[..., object]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    # Whoever forgot the call annotates the first parameter with the type of something else.
    said = first.annotation
    return said not in {
        str,
        int,
        float,
        bool,
        bytes,
        dict,
        list,
        "str",
        "int",
        "float",
        "bool",
        "bytes",
        "dict",
        "list",
    }


def _shown(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
