"""The one doorway between values and bytes, and between plain data and what a handler is annotated with.

- `encode_record`, `decode_record`: what a store keeps (its fields: `aegis_core.records`);
- `encode_request`, `decode_request`, `encode_answer`, `decode_answer`: calls (their fields: `aegis_core.envelopes`);
- `encode_plain`, `decode_plain`: what backends say to their own kind;
- `error_to_wire`, `error_from_wire`: errors, by stable codes (`aegis_core.error_codes`);
- `structure_params`, `structure_result`: a handler's parameters and results, strictly as annotated.

Input is hostile. Nothing is made of it but maps, lists, text, bytes, numbers, booleans, nil and MessagePack's own
extension values; each function raises only what it says; and the memory taken is in proportion to the input (at
worst some 100 times its length, for empty maps), so that `MAX_RECORD` and the transports' `max_payload` bound it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import Enum
from typing import Final, NamedTuple, NoReturn, TypeVar

import attrs
import msgpack  # type: ignore[import-untyped]

from aegis_core import error_codes, records
from aegis_core.envelopes import (
    AnswerEnvelope,
    RequestEnvelope,
    request_from_map,
    request_to_map,
)
from aegis_core.errors import AegisError, InvalidRequest, Problem, RemoteError
from aegis_core.models import DEFAULT_METADATA, Ownership, Record, ResourceMetadata, ServiceInstance, Standby
from aegis_core.names import InstanceKey, Key, StandbyKey, TargetKey
from aegis_core.parameters import READERS, SHOWN, UNFIT, Reader, read_parameters

__all__ = [
    "MAX_RECORD",
    "DecodeError",
    "decode_answer",
    "decode_plain",
    "decode_record",
    "decode_request",
    "decode_result",
    "encode_answer",
    "encode_plain",
    "encode_record",
    "encode_request",
    "encode_request_map",
    "encode_result",
    "error_from_wire",
    "error_to_wire",
    "metadata_size",
    "status_of",
    "status_of_class",
    "structure_params",
    "structure_request",
    "structure_result",
    "with_correlation",
]

T = TypeVar("T")

MAX_RECORD: Final = 1 << 20
"""Most bytes of a record that is decoded; stores keep no larger ones."""

_MOST_PROBLEMS: Final = 20
_PACK_BUFFER: Final = 1024
_EXACT: Final = frozenset({object, str, int, float, bool, bytes, dict, list})
_UNSENDABLE: Final = (TypeError, ValueError)


class DecodeError(ValueError):
    """A record that is not what its key promises; another program wrote it, or it was damaged."""


# --- Records -----------------------------------------------------------------------------------


def encode_record(record: Record, offset: tzinfo = UTC) -> bytes:
    """*record* as a store keeps it, without its revision. *offset* is how the JSON record renders its heartbeat.

    Raises:
        InvalidRequest: The user's metadata holds what cannot be stored, e.g. an object, or (of an instance) bytes.
    """
    try:
        match record:
            case ServiceInstance():
                return _encode_instance(record, offset)
            case Ownership():
                known = record.metadata is DEFAULT_METADATA
                metadata = b"" if known else _encode_metadata(record.metadata)
                return _pack(records.ownership_to_map(record, metadata))
            case Standby():
                return _pack(records.standby_to_map(record))
            case _:
                return _pack(records.transfer_to_map(record))
    except _UNSENDABLE as exc:
        raise InvalidRequest.at("$.metadata", f"cannot be stored: {exc}") from None


def _encode_instance(record: ServiceInstance, offset: tzinfo) -> bytes:
    if "aegis" in record.metadata:
        raise InvalidRequest.at("$.metadata.aegis", "this name is the library's own")
    # With the first instance: it takes longer to import than most modules of ours.
    import json  # noqa: PLC0415

    raw = records.instance_to_map(record, offset)
    text = json.dumps(raw, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _encode_metadata(metadata: ResourceMetadata) -> bytes:
    raw = records.metadata_to_map(metadata)
    return _pack(raw) if raw else b""


def metadata_size(metadata: ResourceMetadata) -> int:
    """Bytes that *metadata* take in their resource's record."""
    return 0 if metadata is DEFAULT_METADATA else len(_encode_metadata(metadata))


def decode_record(key: Key, data: bytes, revision: int) -> Record:
    """The record that *data* under *key* is, at *revision*.

    Epochs and places in line that were written as 0 ("the revision of this record") are filled in. Equal texts and
    equal metadata of many records are shared objects.

    Raises:
        DecodeError: *data* is no such record.
    """
    try:
        if len(data) > MAX_RECORD:
            raise DecodeError(f"{len(data)} bytes are too many for a record")
        if isinstance(key, TargetKey):
            return records.ownership_from_map(key, _unpack_map(data), revision, _decode_metadata)
        if isinstance(key, InstanceKey):
            return records.instance_from_map(key, _load_json(data), revision)
        if isinstance(key, StandbyKey):
            return records.standby_from_map(key, _unpack_map(data), revision)
        return records.transfer_from_map(key, _unpack_map(data), revision)
    except (TypeError, ValueError, RecursionError) as exc:
        raise DecodeError(f"{key}: {exc}") from exc


@functools.lru_cache(maxsize=4096)
def _decode_metadata(data: bytes) -> ResourceMetadata:
    """Packed metadata; those of many resources are often the same, and then the same object."""
    return records.metadata_from_map(_unpack_map(data))


def _unpack_map(data: bytes) -> dict[str, object]:
    raw = msgpack.unpackb(data, max_ext_len=0)
    if type(raw) is not dict:
        raise ValueError(f"expected a map, got {type(raw).__name__}")
    return raw


def _load_json(data: bytes) -> dict[str, object]:
    import json  # noqa: PLC0415 - as above

    raw = json.loads(data, parse_constant=_refuse_constant)
    if type(raw) is not dict:
        raise ValueError(f"expected an object, got {type(raw).__name__}")
    return raw


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# --- Calls -------------------------------------------------------------------------------------


def encode_request(request: RequestEnvelope) -> bytes:
    """*request* as it travels.

    Raises:
        InvalidRequest: A parameter cannot be sent; names which.
    """
    return encode_request_map(request_to_map(request))


def encode_request_map(raw: Mapping[str, object]) -> bytes:
    """`encode_request` for a caller that has the fields at hand, as `aegis_core.envelopes.request_map` puts them."""
    try:
        return _pack(raw)
    except _UNSENDABLE as exc:
        for name, value in raw.items():
            where = f"$.{name}"
            for part, inner in value.items() if isinstance(value, Mapping) else (("", value),):
                _check_sendable(inner, f"{where}.{part}" if part else where)
        raise InvalidRequest.at("$", f"cannot be sent: {exc}") from None


def with_correlation(data: bytes, correlation_id: str) -> bytes:
    """The request *data*, which `encode_request_map` made, with another correlation id."""
    raw = _unpack(data)
    assert isinstance(raw, dict)
    raw["correlation_id"] = correlation_id
    return _pack(raw)


def _check_sendable(value: object, path: str) -> None:
    try:
        _pack(value)
    except _UNSENDABLE as exc:
        raise InvalidRequest.at(path, f"cannot be sent: {exc}") from None


def decode_request(data: bytes) -> RequestEnvelope:
    """The request that *data* is.

    Raises:
        InvalidRequest: It is none; every wrong field is named with its path.
    """
    try:
        raw = _unpack(data)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest.at("$", f"not MessagePack: {_reason(exc)}") from None
    return request_from_map(raw, len(data))


def encode_answer(answer: AnswerEnvelope) -> bytes:
    """*answer* as it travels. An answer with an error can always be sent.

    Raises:
        TypeError: The result holds an object that has no form on the wire.
        ValueError: The result is nested too deeply, holds a number past 64 bits, or half a surrogate pair.
    """
    return encode_result(answer.result) if answer.error is None else _encode_error(answer.error)


def encode_result(result: object) -> bytes:
    """The answer with *result* as it travels; raises as `encode_answer` does."""
    return _pack({"success": True, "result": result})


def _encode_error(error: AegisError) -> bytes:
    wire = error_to_wire(error)
    for details in (wire["details"], {}):
        try:
            return _pack({"success": False, "error": {**wire, "details": details}})
        except _UNSENDABLE:
            continue
    # Not even the text can be sent: it holds half a surrogate pair.
    return _pack({"success": False, "error": {"code": error.code, "type": type(error).__name__}})


def decode_answer(data: bytes) -> AnswerEnvelope:
    """The answer that *data* is; what is no answer counts as a `RemoteError` of the instance that sent it."""
    try:
        return AnswerEnvelope(decode_result(data))
    except AegisError as exc:
        return AnswerEnvelope(None, exc)


def decode_result(data: bytes) -> object:
    """The result in the answer that *data* is.

    Raises:
        AegisError: The error in it; `RemoteError` for what is no answer.
    """
    try:
        raw = _unpack(data)
    except (TypeError, ValueError) as exc:
        raise _no_answer(f"not MessagePack: {_reason(exc)}") from None
    if type(raw) is not dict:
        raise _no_answer(f"expected a map, got {type(raw).__name__}")
    success = raw.get("success")
    if success is True:
        return raw.get("result")
    if success is False:
        raise error_from_wire(raw.get("error"))
    raise _no_answer("it says neither success nor failure")


def _no_answer(why: str) -> RemoteError:
    return RemoteError(kind="InvalidAnswer", remote_message=why)


class _Packing(threading.local):
    """A packer for each thread: making one for each message would take longer than to pack it."""

    def __init__(self) -> None:
        # Strict, so that it runs no code but its own: what is not plain is left to another one.
        self.pack: Callable[[object], bytes] = msgpack.Packer(strict_types=True).pack  # pyright: ignore[reportAttributeAccessIssue]


_packing: Final = _Packing()


def _pack(value: object) -> bytes:
    try:
        return _packing.pack(value)
    except (TypeError, ValueError, OverflowError):
        pass  # What the other one says of it is enough.
    packed: bytes = msgpack.packb(value, default=_plain)  # pyright: ignore[reportAssignmentType]
    return packed


def _unpack(data: bytes) -> object:
    # Maps may have keys that are no strings: a handler's result is its own business.
    return msgpack.unpackb(data, strict_map_key=False)


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _plain(value: object) -> object:
    """What MessagePack does not know, as what it knows; it asks again for the parts."""
    # With the first such value: importing them takes longer than all else of this module.
    import dataclasses  # noqa: PLC0415
    from decimal import Decimal  # noqa: PLC0415
    from uuid import UUID  # noqa: PLC0415

    kind = type(value)
    names = _field_names(kind)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    match value:
        case Mapping():
            return dict(value)
        case AbstractSet() | Sequence():
            return list(value)
        case Enum():
            return value.value
        case datetime() if value.tzinfo is None:
            raise TypeError("a time without an offset has no form on the wire")
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID() | Decimal():
            return str(value)
        case int():
            raise ValueError("a number past 64 bits has no form on the wire")
        case _ if dataclasses.is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        case _:
            raise TypeError(f"{kind.__name__} has no form on the wire")


# --- What is neither ---------------------------------------------------------------------------


def encode_plain(value: object) -> bytes:
    """Plain data of a protocol that a backend speaks with its own kind.

    Raises:
        TypeError: *value* holds an object that has no form on the wire.
        ValueError: It is nested too deeply, holds a number past 64 bits, or half a surrogate pair.
    """
    names = _field_names(type(value))
    if names is not None:
        # A reply, with few fields that are more than plain: made plain here, they are packed in one go.
        value = {name: item.isoformat() if type(item := getattr(value, name)) is datetime else item for name in names}
    return _pack(value)


def _read_field_names(kind: type) -> tuple[str, ...] | None:
    """The fields of a class that travel; None for what is no class of attrs."""
    return tuple(field.name for field in attrs.fields(kind) if field.init) if attrs.has(kind) else None


_field_names: Final[Callable[[type], tuple[str, ...] | None]] = functools.lru_cache(maxsize=1024)(_read_field_names)


def decode_plain(data: bytes, *, most: int) -> object:
    """The plain data that *data* is, with at most *most* values in its lists and maps altogether.

    A byte may stand for an empty list, which takes fifty: so it is not the size of *data* that bounds what is kept.

    Raises:
        DecodeError: It is none, or has more.
    """
    if len(data) <= most:  # Each value takes a byte at least.
        try:
            return _unpack(data)
        except (TypeError, ValueError, RecursionError) as exc:
            raise DecodeError(f"not MessagePack: {_reason(exc)}") from exc
    left = most

    def count(found: list[object] | dict[object, object]) -> list[object] | dict[object, object]:
        nonlocal left
        left -= len(found)
        if left < 0:
            raise ValueError(f"more than {most} values")
        return found

    try:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            max_array_len=most,
            max_map_len=most,
            list_hook=count,
            object_hook=count,
        )
    except (TypeError, ValueError, RecursionError) as exc:
        raise DecodeError(f"not MessagePack: {_reason(exc)}") from exc


# --- Errors ------------------------------------------------------------------------------------


def error_to_wire(exc: Exception) -> dict[str, object]:
    """*exc* as ``{code, type, message, details}``.

    What is no error of the library becomes a REMOTE_ERROR with its class's name and its text. For the exception of a
    handler use `aegis_core.error_codes.remote_error` first, so that no failure of its own calls passes for the
    callee's refusal.
    """
    return error_codes.error_to_map(exc if isinstance(exc, AegisError) else error_codes.remote_error(exc))


def status_of(error: AegisError) -> int:
    """The number that tells of *error* on the wire, the HTTP status of its class."""
    return error_codes.status_of(error)


def status_of_class(kind: type[AegisError]) -> int:
    """`status_of` errors of *kind*."""
    return error_codes.status_of_class(kind)


def error_from_wire(raw: object) -> AegisError:
    """The error that *raw* describes; an unknown code or unfit details give a `RemoteError` that keeps the code."""
    return error_codes.error_from_map(raw)


# --- Parameters and results --------------------------------------------------------------------


def structure_params(
    function: Callable[..., object],
) -> Callable[[Mapping[str, object]], Mapping[str, object]]:
    """How to make *function*'s keyword arguments of a call's parameters, strictly as it is annotated.

    Nothing is coerced: ``"1"`` is no int and 1 no bool, but an int may stand for a float. Times are ISO 8601 text with
    an offset, time spans are seconds, classes are maps. What is not annotated is passed as it came. Build it once per
    handler; one without annotations then costs next to nothing.

    The returned function raises `InvalidRequest` with the problems and their paths (``$.currency``): values that do
    not fit, parameters that are unknown, and those that are missing.

    Raises:
        TypeError: *function* takes no call, or a parameter without a name, or one of a type that cannot be sent.
    """
    signature = read_parameters(function)
    readers = {name: _reader(kind) for name, kind in signature.kinds.items()}
    others = None if signature.others is None else _reader(signature.others)
    names, required = readers.keys(), signature.required
    # Where every kind is one of these, parameters that fit are passed on as they are.
    exact = signature.kinds if _EXACT.issuperset(signature.kinds.values()) else None
    in_order, kinds = [*signature.kinds], [*signature.kinds.values()]
    unknown = f"unknown; the parameters are {', '.join(names)}" if names else "no parameter is taken"

    def structure(params: Mapping[str, object]) -> Mapping[str, object]:
        if exact is not None and [*params] == in_order and [*map(type, params.values())] == kinds:
            return params
        if exact is not None and required <= params.keys():
            for name, value in params.items():
                kind = exact.get(name)
                if kind is not type(value) and kind is not object:
                    break
            else:
                return params
        arguments: dict[str, object] = {}
        problems: list[Problem] = []
        for name, value in params.items():
            read = readers.get(name, others)
            if read is None:
                problems.append(Problem(f"$.{name[:SHOWN]}", unknown))
                continue
            try:
                arguments[name] = read(value)
            except UNFIT as exc:
                problems += _problems(exc, f"$.{name[:SHOWN]}")
        if not problems and required <= params.keys():
            return arguments
        problems += (Problem(f"$.{name}", "missing") for name in required - params.keys())
        raise InvalidRequest(problems=sorted(problems, key=_by_path)[:_MOST_PROBLEMS])

    return structure


def structure_request(raw: object, kind: type[T]) -> T:
    """The request of class *kind* that the map *raw* is; what it lacks, or has as nil, has its default.

    Unknown fields are ignored: newer clients may send them, and older ones others. All else is as strict as parameters.
    Fields may bound their values by their metadata: numbers by ``ge`` and ``le``, texts and collections by ``most``.

    Raises:
        InvalidRequest: It does not fit; each problem with its path.
    """
    if type(raw) is not dict:
        raise InvalidRequest.at("$", f"expected a map, got {type(raw).__name__}")
    read, bounded = _request_reader(kind)  # type: ignore[arg-type]  # classes are hashable
    try:
        request = read(raw)
    except UNFIT as exc:
        raise InvalidRequest(problems=sorted(_problems(exc, "$"), key=_by_path)) from None
    found = [
        Problem(f"$.{name}", problem)
        for name, bounds in bounded
        if (problem := _out_of_bounds(getattr(request, name), bounds)) is not None
    ]
    if found:
        raise InvalidRequest(problems=found)
    return request  # type: ignore[return-value]  # what the reader of *kind* makes


@functools.cache
def _request_reader(kind: type) -> tuple[Reader, tuple[tuple[str, _Bounds], ...]]:
    """What makes a request of a map, and which of its fields have bounds."""
    from aegis_core import structuring  # noqa: PLC0415 - as in `_reader`

    read, understood = _reader(kind), structuring.understanding(kind)
    bounded = tuple(
        (field.name, _Bounds(field.metadata.get("ge"), field.metadata.get("le"), field.metadata.get("most")))
        for field in attrs.fields(kind)
        if field.metadata
    )
    return (read if understood is None else lambda raw: read(understood(raw))), bounded


class _Bounds(NamedTuple):
    """What a field may be: a number from *ge* to *le*, a text or a collection of *most* characters or elements."""

    ge: float | None
    le: float | None
    most: int | None


def _out_of_bounds(value: object, bounds: _Bounds) -> str | None:
    low, high, most = bounds
    if most is not None and isinstance(value, str | tuple | Mapping):
        what = "characters" if isinstance(value, str) else "elements"
        return f"more than {most} {what}" if len(value) > most else None
    if low is not None and high is not None and isinstance(value, int | float) and not low <= value <= high:
        return f"{value} is not between {low:g} and {high:g}"
    return None


def structure_result(value: object, kind: object) -> object:
    """*value*, which a handler answered, as a *kind*: any type that a parameter may have.

    Raises:
        RemoteError: It does not fit: the instance that answered has another idea of the method.
        TypeError: *kind* is a type that cannot be sent.
    """
    read = _reader(kind)
    try:
        return read(value)
    except UNFIT as exc:
        why = "; ".join(f"{problem.message} @ {problem.path}" for problem in _problems(exc, "$"))
        raise RemoteError(kind="InvalidResult", remote_message=why) from None


def _by_path(problem: Problem) -> str:
    return problem.path


def _reader(kind: object) -> Reader:
    """What makes a *kind* of a value from the wire, or raises one of UNFIT."""
    read = READERS.get(kind)
    if read is not None:
        return read
    # Imported with the first handler that needs it: cattrs takes a third of the time that Trio takes.
    from aegis_core import structuring  # noqa: PLC0415

    return structuring.reader(kind)


def _problems(exc: Exception, path: str) -> list[Problem]:
    if not isinstance(exc, ExceptionGroup):
        return [Problem(path, str(exc.args[0])[:SHOWN] if exc.args else type(exc).__name__)]
    from aegis_core import structuring  # noqa: PLC0415

    return structuring.problems(exc, path)
