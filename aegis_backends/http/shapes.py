"""How values of the library look in JSON: which fields of each class, with which types, and the text itself.

One list of fields serves the answers and the description of them. A class shows its own fields, without those that
`LEFT_OUT` names, and the properties that `BESIDES` names.

The text of an instance is kept as long as its record stays the same, because most of a long list does from one request to
the next, and writing it anew is what would take the time.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from json.encoder import encode_basestring
from typing import Final, TypeVar

import attrs

from aegis_core.events import Event
from aegis_core.models import (
    BulkReply,
    ClaimReply,
    ReleaseReply,
    ServiceInstance,
    TransferRecord,
    TransferReply,
)

__all__ = ["JsonText", "Shape", "shape_of"]

T = TypeVar("T")

LEFT_OUT: Final[Mapping[type, frozenset[str]]] = {
    # Its lease and what else only nodes can make sense of.
    ServiceInstance: frozenset({"lease", "adopts", "idempotent", "revision"}),
    TransferRecord: frozenset({"revision"}),
}
BESIDES: Final[Mapping[type, tuple[str, ...]]] = {
    ServiceInstance: ("status",),
    Event: ("kind",),
    **dict.fromkeys((BulkReply, ClaimReply, ReleaseReply, TransferReply), ("success",)),
}


@attrs.frozen
class Shape:
    """What of a class is shown.

    Args:
        name: Of the class.
        fields: Their types by name, in order.
        says: What its docstring says of each.
    """

    name: str
    fields: Mapping[str, object]
    says: Mapping[str, str]


@functools.cache
def shape_of(kind: type) -> Shape:
    """The shape of *kind*, a class of attrs."""
    hints = typing.get_type_hints(kind)
    family = [base for base in kind.__mro__ if base in BESIDES or base in LEFT_OUT]
    besides = [name for base in family for name in BESIDES.get(base, ())]
    left_out = {name for base in family for name in LEFT_OUT.get(base, ())}
    fields = {a.name: hints[a.name] for a in attrs.fields(kind) if a.name not in left_out}
    fields |= {name: _property(kind, name) for name in besides}
    return Shape(kind.__name__, fields, _said(kind))


def _property(kind: type, name: str) -> object:
    found = inspect.getattr_static(kind, name)
    return typing.get_type_hints(found.fget)["return"] if isinstance(found, property) else str


def _said(kind: type) -> dict[str, str]:
    """What the docstrings of *kind* and its bases say under ``Args:``, by name."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        said |= _listed(base)
    return said


def _listed(kind: type) -> dict[str, str]:
    _, _, listed = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("\nArgs:\n")
    said: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("     "):
            said[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            said[name] = text
    return said


def _plain(value: object) -> object:
    """*value*, for which JSON has no form, in one that has."""
    match value:
        case Mapping():
            return dict(value)
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case bytes():
            return value.hex()
    return str(value)


_encode: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode


class JsonText:
    """Writes values as JSON. What JSON has no form for is written as text: times by ISO 8601, bytes by their hex digits.

    Args:
        kept: How many instances' texts are kept.
    """

    def __init__(self, *, kept: int = 20_000) -> None:
        self._most = kept
        self._instances: dict[tuple[str, str], tuple[ServiceInstance, str]] = {}
        self._writers: dict[type, Callable[[object], str]] = {}

    def __repr__(self) -> str:
        return f"<JsonText, {len(self._instances)} instances kept>"

    def __call__(self, value: object) -> str:
        """The JSON text of *value*."""
        kind = type(value)
        write = self._writers.get(kind)
        if write is None:
            write = self._writers[kind] = self._writer(kind)
        return write(value)

    def _writer(self, kind: type) -> Callable[..., str]:
        if attrs.has(kind):
            named = [(f"{encode_basestring(name)}:", name) for name in shape_of(kind).fields]
            return partial(self._instance if kind is ServiceInstance else self._fields, named)
        for base, write in (
            (str, encode_basestring),
            (bool, lambda value: "true" if value else "false"),
            (int, int.__repr__),
            (float, lambda value: float.__repr__(value) if math.isfinite(value) else "null"),
            ((Enum, datetime, bytes), lambda value: self(_plain(value))),
            (dict, partial(self._opaque, self._map)),
            (list, partial(self._opaque, self._list)),
            (Mapping, self._map),
            (tuple, self._list),
            (type(None), lambda _: "null"),
        ):
            if issubclass(kind, base):
                return write
        return lambda value: encode_basestring(str(value))

    def _fields(self, named: list[tuple[str, str]], value: object) -> str:
        return "{" + ",".join([text + self(getattr(value, name)) for text, name in named]) + "}"

    def _map(self, value: Mapping[object, object]) -> str:
        return "{" + ",".join([f"{encode_basestring(str(key))}:{self(item)}" for key, item in value.items()]) + "}"

    def _list(self, value: Sequence[object]) -> str:
        return "[" + ",".join(map(self, value)) + "]"

    @staticmethod
    def _opaque(write: Callable[[T], str], value: T) -> str:
        """What users put together, as deep as they like: *write* is for what the standard library's encoder refuses."""
        try:
            try:
                return _encode(value)
            except (TypeError, ValueError):
                return write(value)
        except RecursionError:
            return '"nested too deeply"'

    def _instance(self, named: list[tuple[str, str]], value: ServiceInstance) -> str:
        key = (value.service_name, value.instance_id)
        kept = self._instances.get(key)
        if kept is not None and kept[0] is value:
            return kept[1]
        text = self._fields(named, value)
        if len(self._instances) >= self._most:
            self._instances.clear()
        self._instances[key] = (value, text)
        return text
