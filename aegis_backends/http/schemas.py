"""JSON Schemas of the models: what a request may hold, what an answer does.

They are made from the annotations, defaults, bounds (in the metadata of fields) and docstrings of the classes. What else the
values must be, above all which texts are names, `GRAMMAR` says by the name of the field.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Final

import attrs

from aegis_backends.http.shapes import shape_of

__all__ = ["GRAMMAR", "MOST_IN_QUERY", "Schema", "Schemas", "without_none"]

Schema = dict[str, object]

_SERVICE_NAME: Final[Schema] = {"maxLength": 64, "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"}
_INSTANCE_ID: Final[Schema] = {"maxLength": 128, "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}
_RESOURCE_ID: Final[Schema] = {
    "minLength": 1,
    "maxLength": 255,
    "format": "resource-id",
    # Printable characters, without white space and those that are listed.
    "pattern": r"^[^\p{C}\p{Z}*><?\"|\\{}$%&`]+$",
}

GRAMMAR: Final[Mapping[str, Schema]] = {
    "service_name": _SERVICE_NAME,
    "instance_id": _INSTANCE_ID,
    "from_instance_id": _INSTANCE_ID,
    "to_instance_id": _INSTANCE_ID,
    "resource_id": _RESOURCE_ID,
    "resource_ids": {"minItems": 1, "items": {"type": "string", **_RESOURCE_ID}},
    "resources": {"minItems": 1},
    "metadata": {"propertyNames": _RESOURCE_ID},
    "method": {"maxLength": 128, "pattern": "^[A-Za-z_][A-Za-z0-9_.]*$"},
    "version": {"minimum": 1},
    "ttl_seconds": {"exclusiveMinimum": 0},
}
"""What the value in a field of this name must be, beyond its type."""

MOST_IN_QUERY: Final = 100
"""Elements of a list in a URL, which is short."""

_BOUNDS: Final = {"ge": "minimum", "le": "maximum"}
_MOST: Final = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
_PLAIN: Final[Mapping[object, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    type(None): {"type": "null"},
    object: {},
}
_LISTS: Final = (tuple, list, Sequence, Collection)


class Schemas:
    """Makes schemas, and collects those of classes as components of one document."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def __repr__(self) -> str:
        return f"<Schemas of {len(self.components)} classes>"

    def of_answer(self, kind: object) -> Schema:
        """The schema of what is answered as a *kind*; every field is there.

        Raises:
            TypeError: It has no form in JSON.
        """
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in _PLAIN:
            return dict(_PLAIN[origin])
        if origin in (types.UnionType, typing.Union):
            return _any_of([self.of_answer(member) for member in arguments])
        if origin in _LISTS:
            return {"type": "array", "items": self.of_answer(arguments[0])}
        if origin is Mapping or origin is dict:
            return {"type": "object", "additionalProperties": self.of_answer(arguments[1])}
        if origin is typing.Literal:
            return {"type": "string", "enum": list(arguments)}
        if isinstance(origin, type) and issubclass(origin, Enum):
            return {"type": "string", "enum": [member.value for member in origin]}
        if isinstance(origin, type) and attrs.has(origin):
            return self._component(origin)
        raise TypeError(f"{kind} has no form in JSON")

    def of_parameter(self, field: attrs.Attribute[object], kind: object, *, in_path: bool) -> Schema:
        """The schema of a parameter in the path or in the query, which becomes the *field* of a request, of *kind*.

        In the query, names are for comparing, and any text will do.
        """
        schema = _bounded(self.of_answer(kind), field)
        if in_path:
            schema |= GRAMMAR.get(field.name, {})
        elif schema["type"] == "array":
            schema["maxItems"] = MOST_IN_QUERY
        elif field.default not in (attrs.NOTHING, None):
            schema["default"] = field.default
        return schema

    def of_body(self, fields: Iterable[tuple[attrs.Attribute[object], object]], says: Mapping[str, str]) -> Schema:
        """The schema of the body of a request with *fields*, each with its type, of which its class *says* this.

        What has a default may be null, which means the default. Fields that nobody knows are ignored.
        """
        fields = tuple(fields)
        return {
            "type": "object",
            "properties": {
                field.name: _with_description(self._of_field(field, kind), says.get(field.name, ""))
                for field, kind in fields
            },
            "required": [field.name for field, _ in fields if field.default is attrs.NOTHING],
        }

    def _of_field(self, field: attrs.Attribute[object], kind: object) -> Schema:
        schema = _bounded(self._of_request(without_none(kind)), field) | GRAMMAR.get(field.name, {})
        if field.default is attrs.NOTHING or not schema:
            return schema
        return {"anyOf": [schema, {"type": "null"}], "default": field.default}

    def _of_request(self, kind: object) -> Schema:
        """The schema of what is taken as a *kind*."""
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in _LISTS:
            return {"type": "array", "items": self._of_request(arguments[0])}
        if origin is Mapping:
            return {"type": "object", "additionalProperties": self._of_request(arguments[1])}
        if isinstance(origin, type) and attrs.has(origin):
            hints = typing.get_type_hints(origin)
            return self.of_body(((field, hints[field.name]) for field in attrs.fields(origin)), shape_of(origin).says)
        return self.of_answer(kind)

    def _component(self, kind: type) -> Schema:
        if kind.__name__ not in self.components:
            self.components[kind.__name__] = {}  # for classes that hold their like
            shape = shape_of(kind)
            self.components[kind.__name__] = {
                "type": "object",
                "description": _first_paragraph(kind),
                "properties": {
                    name: _with_description(self.of_answer(field), shape.says.get(name, ""))
                    for name, field in shape.fields.items()
                },
                "required": list(shape.fields),
            }
        return {"$ref": f"#/components/schemas/{kind.__name__}"}


def without_none(kind: object) -> object:
    """*kind*, if that is a union with None, without it."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        others = [member for member in typing.get_args(kind) if member is not type(None)]
        if len(others) == 1:
            return others[0]
    return kind


def _bounded(schema: Schema, field: attrs.Attribute[object]) -> Schema:
    """*schema* with the bounds that the *field* has in its metadata."""
    found = {said: field.metadata[bound] for bound, said in _BOUNDS.items() if bound in field.metadata}
    if "most" in field.metadata:
        found[_MOST[str(schema["type"])]] = field.metadata["most"]
    return {**schema, **found}


def _any_of(members: list[Schema]) -> Schema:
    kinds = [member.get("type") for member in members]
    if all(isinstance(kind, str) for kind in kinds) and all(len(member) == 1 for member in members):
        return {"type": kinds}
    return {"anyOf": members}


def _with_description(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text} if text else schema


def _first_paragraph(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n\n")[0].strip()
