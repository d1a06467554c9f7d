"""What a handler takes and returns, read once from its signature, and how plain types are read from the wire."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from typing import Final, TypeVar

import attrs

from aegis_core.models import Value

__all__ = ["READERS", "SHOWN", "UNFIT", "Parameters", "Reader", "as_is", "read_parameters", "read_text"]

T = TypeVar("T")


@attrs.frozen(eq=False, repr=False)
class Parameters(Value):
    """The parameters of a handler after the first, which is the call.

    Args:
        kinds: Their types by name; `object` where anything goes.
        required: Those without a default.
        others: The type of further parameters that ``**kwargs`` takes, or None when there are none.
        returns: The type of the result; `object` where anything goes.
    """

    kinds: Mapping[str, object]
    required: frozenset[str]
    others: object | None
    returns: object


def read_parameters(function: Callable[..., object]) -> Parameters:
    """The parameters of *function*; its annotations are evaluated where it was defined.

    The annotation of the call itself is not looked at, so its type may be imported for the type checker alone.

    Raises:
        TypeError: *function* takes no call, or takes parameters that have no name on the wire, or has an annotation
            that cannot be evaluated at run time; says which.
    """
    plain = inspect.unwrap(function)
    name = getattr(plain, "__qualname__", repr(plain))
    if not isinstance(plain, types.FunctionType):
        raise TypeError(f"{name} is not a function")
    first, *rest = _signature(plain).parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"{name} must take the call as its first parameter")
    kinds: dict[str, object] = {}
    required = set()
    others: object | None = None
    for parameter in rest:
        kind = _evaluate(plain, name, parameter.name, parameter.annotation)
        match parameter.kind:
            case inspect.Parameter.VAR_KEYWORD:
                others = kind
            case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.POSITIONAL_ONLY:
                raise TypeError(f"{name}: parameter {parameter.name!r} has no name that a caller could use")
            case _:
                kinds[parameter.name] = kind
                if parameter.default is parameter.empty:
                    required.add(parameter.name)
    returns = _evaluate(plain, name, "return", _signature(plain).return_annotation)
    return Parameters(kinds, frozenset(required), others, returns)


def _signature(function: Callable[..., object]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # Annotations are evaluated on demand there; a name that is unknown now must not hide the others.
        import annotationlib  # noqa: PLC0415 - there is none before 3.14

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _evaluate(function: types.FunctionType, function_name: str, name: str, annotation: object) -> object:
    if annotation in (inspect.Parameter.empty, typing.Any):
        return object
    # get_type_hints reads any object's __annotations__; a class in the function's closure counts as known.
    only_this = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        kind = typing.get_type_hints(
            only_this,
            globalns=function.__globals__,
            localns=inspect.getclosurevars(function).nonlocals,
        )[name]
    except NameError as exc:
        raise TypeError(
            f"{function_name}: the type of {name!r} is not known at run time ({exc}); "
            f"import it outside 'if TYPE_CHECKING'"
        ) from exc
    return object if kind is typing.Any else kind


# --- Plain types -------------------------------------------------------------------------------

Reader = Callable[[object], object]
"""Makes a value of the annotated type of one from the wire, or raises one of UNFIT."""

UNFIT: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, ExceptionGroup)
"""What a reader raises for a value that does not fit."""
SHOWN: Final = 200
"""How many characters of a wrong value are shown."""


def as_is(value: object) -> object:
    """*value* itself: what is not annotated is the handler's business."""
    return value


def _exactly(kind: type) -> Reader:
    def read(value: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value

    return read


def _read_float(value: object) -> object:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise TypeError(f"expected float, got {type(value).__name__}")


def read_text(parse: Callable[[str], T], value: object) -> T:
    """What *parse* makes of *value*, which has to be text.

    Raises:
        TypeError: It is none.
        ValueError: *parse* does not take it.
    """
    if type(value) is not str:
        raise TypeError(f"expected str, got {type(value).__name__}")
    try:
        return parse(value)
    except (ArithmeticError, ValueError) as exc:
        raise ValueError(f"{value[:SHOWN]!r} has not the right form") from exc


def _read_datetime(value: object) -> object:
    from_timestamp = getattr(value, "to_datetime", None)  # of MessagePack's own timestamp, which is UTC
    if from_timestamp is not None:
        return from_timestamp()
    at = read_text(datetime.fromisoformat, value)
    if at.tzinfo is None:
        raise ValueError("expected a time with its offset, e.g. 2030-01-31T12:00:00+00:00")
    return at


def _read_timedelta(value: object) -> object:
    seconds = _read_float(value)
    return timedelta(seconds=seconds)  # type: ignore[arg-type]  # a float


READERS: Final[Mapping[object, Reader]] = {
    object: as_is,
    **{kind: _exactly(kind) for kind in (str, int, bool, bytes, dict, list, types.NoneType)},
    float: _read_float,
    datetime: _read_datetime,
    date: functools.partial(read_text, date.fromisoformat),
    time: functools.partial(read_text, time.fromisoformat),
    timedelta: _read_timedelta,
}
"""Readers of the types that most handlers make do with; `aegis_core.structuring` knows the others."""
