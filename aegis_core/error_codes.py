"""Errors between exceptions and plain maps, by their stable codes; classes never travel.

An error on the wire is ``{code, type, message, details}``. `details` are the error's attributes, and only they and the
code are read back: the message is made anew from them. A code that is unknown here, or details that do not fit its
class, give a `RemoteError` that keeps the code.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from aegis_core import errors
from aegis_core.errors import (
    AegisError,
    ConfigError,
    Conflict,
    Indeterminate,
    NodeCrashed,
    Problem,
    RemoteError,
)
from aegis_core.models import EndReason, Outcome, Value

__all__ = ["error_from_map", "error_to_map", "remote_error", "status_of", "status_of_class"]

MAX_MESSAGE: Final = 4096
# Facts about one process, its store or its configuration, which are not the caller's: it sees a RemoteError.
_LOCAL: Final = (ConfigError, Conflict, Indeterminate, NodeCrashed)

_STATUS: Final[Mapping[type[AegisError], int]] = {
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Held: 409,
    errors.VersionConflict: 409,
    errors.Conflict: 409,
    errors.Misdirected: 421,
    errors.LimitExceeded: 429,
    errors.RemoteError: 500,
    errors.Unavailable: 503,
    errors.CallTimeout: 504,
    errors.Indeterminate: 504,
}


def status_of(error: AegisError) -> int:
    """The HTTP status of *error*: that of its class, or of the nearest class above it that has one."""
    return status_of_class(type(error))


def status_of_class(kind: type[AegisError]) -> int:
    """The HTTP status of errors of *kind*."""
    return next((_STATUS[base] for base in kind.__mro__ if base in _STATUS), 500)


def remote_error(exc: Exception) -> RemoteError:
    """What the exception of a handler is to its caller: its name and its text, never a class path.

    So it is with errors of the library, too, which keep their code as `remote_code`: a handler's *own* calls may raise
    them, and the caller must not take what is said of another resource, or of another instance, for the fate of its call.
    """
    if isinstance(exc, AegisError):
        return RemoteError(
            remote_code=exc.code,
            remote_message=_text(exc),
            kind=type(exc).__name__,
            remote_details=exc.details,
        )
    return RemoteError(kind=type(exc).__name__, remote_message=_text(exc))


def _text(exc: Exception) -> str:
    return str(exc)[:MAX_MESSAGE]


def error_to_map(exc: AegisError) -> dict[str, object]:
    """*exc* as it travels: code, type, message and details."""
    kind, message = type(exc).__name__, _text(exc)
    if isinstance(exc, RemoteError):
        kind, message = exc.kind or kind, exc.remote_message[:MAX_MESSAGE]
    return {"code": exc.code, "type": kind, "message": message, "details": dict(exc.details)}


def error_from_map(raw: object) -> AegisError:
    """The error that *raw* describes; whatever does not fit becomes a `RemoteError`."""
    if not isinstance(raw, Mapping):
        # Old instances may answer with a bare text.
        text = raw if isinstance(raw, str) else f"an error without description ({type(raw).__name__})"
        return RemoteError(remote_message=text[:MAX_MESSAGE])
    code, details = raw.get("code"), raw.get("details")
    told: dict[object, object] = {
        "remote_message": _string(raw.get("message"))[:MAX_MESSAGE],
        "kind": _string(raw.get("type")),
        "remote_details": _strings_as_keys(details) if isinstance(details, Mapping) else {},
    }
    if isinstance(code, str) and code in _by_code() and isinstance(details, Mapping):
        known = _by_code()[code]
        try:
            return known.read({**told, **details} if known.kind is RemoteError else details)
        except ValueError:
            pass  # Its code is kept, and what it told.
    told["remote_code"] = code if isinstance(code, str) and code else RemoteError.code
    return _by_code()[RemoteError.code].read(told)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _strings_as_keys(value: Mapping[object, object]) -> dict[str, object]:
    return {key: item for key, item in value.items() if isinstance(key, str)}


def _exactly(kind: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}")
        return value

    return read


def _exactly_list(value: object) -> list[object]:
    match value:
        case list():
            return value
        case _:
            raise ValueError("expected a list")


def _read_float(value: object) -> object:
    match value:
        # JSON has integers that no float holds.
        case int() | float() if not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return value
        case _:
            raise ValueError("expected a finite number")


def _read_map(value: object) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("expected a map with strings as keys")
    return dict(value)


def _read_text_map(value: object) -> object:
    texts = _read_map(value)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("expected a map of strings")
    return texts


def _read_texts(value: object) -> object:
    texts = _exactly_list(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("expected a list of strings")
    return tuple(texts)


def _read_problems(value: object) -> object:
    problems = []
    for item in _exactly_list(value):
        match item:
            case {"path": str(path), "message": str(message)}:
                problems.append(Problem(path, message))
            case _:
                raise ValueError("expected a path and a message")
    return tuple(problems)


# How an attribute is read, by its annotation in `aegis_core.errors`.
_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "str": _exactly(str),
    "int": _exactly(int),
    "bool": _exactly(bool),
    "float": _read_float,
    "Mapping[str, str]": _read_text_map,
    "Mapping[str, object]": _read_map,
    "tuple[str, ...]": _read_texts,
    "tuple[Problem, ...]": _read_problems,
    "Outcome": Outcome,
    "EndReason": EndReason,
}


@attrs.frozen(eq=False, repr=False)
class _Known(Value):
    """How one class of error is made from its details."""

    kind: type[AegisError]
    required: frozenset[str]
    readers: Mapping[str, Callable[[object], object]]

    def read(self, details: Mapping[object, object]) -> AegisError:
        """The error; attributes that a newer version added are ignored.

        Raises:
            ValueError: *details* lack an attribute, or one does not fit.
        """
        if not self.required <= details.keys():
            raise ValueError("attributes are missing")
        readers = self.readers
        given = {
            name: readers[name](value) for name, value in details.items() if isinstance(name, str) and name in readers
        }
        return self.kind(**given)


def _known(kind: type[AegisError]) -> _Known:
    fields = [field for field in attrs.fields(kind) if field.init]
    return _Known(
        kind,
        frozenset(field.name for field in fields if field.default is attrs.NOTHING),
        {field.name: _READERS[str(field.type)] for field in fields},
    )


@functools.cache
def _by_code() -> Mapping[str, _Known]:
    """The classes that can be read, by code; looked at with the first error that is."""
    # Classes without attributes would lose their message, so their codes are kept in a RemoteError, too.
    return {
        kind.code: _known(kind)
        for kind in map(vars(errors).__getitem__, errors.__all__)
        if issubclass(kind, AegisError)
        and "code" in vars(kind)
        and any(field.init for field in attrs.fields(kind))
        and not issubclass(kind, _LOCAL)
    }
