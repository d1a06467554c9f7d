"""The OpenAPI 3.1 document of the router's REST interface, made from its routes and their models.

A framework could make one, too, but only of handlers written in its own way: routes on decoded paths, where a resource id
may hold a slash; limits that it shows and does not check, or checks and does not show. Here routes name operations, the
operations name their models, and this file says how that looks in OpenAPI.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, cast

import attrs

from aegis_backends.http import wire
from aegis_backends.http.schemas import Schema, Schemas, without_none
from aegis_backends.http.shapes import shape_of
from aegis_core import codec, errors
from aegis_core.errors import AegisError

__all__ = ["Operation", "Route", "describe", "refusals", "too_long"]

_ALWAYS: Final[tuple[type[AegisError], ...]] = (
    errors.InvalidRequest,
    errors.Unauthorized,
    errors.Forbidden,
    errors.Overloaded,
    errors.StoreUnavailable,
    errors.TransportUnavailable,
)
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "What went wrong, as problem details (RFC 9457).",
    "properties": {
        "type": {"type": "string", "description": "A URN that ends in the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence for people."},
        "code": {"type": "string", "description": "Stable; what programs decide by."},
        "kind": {"type": "string", "description": "Class of the error."},
        "details": {"type": "object", "description": "The error's attributes, by name."},
    },
    "required": ["type", "status", "detail"],
}
_TEXT: Final[Schema] = {"type": "string"}
_STATUS: Final[Schema] = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}
_ETAG: Final = {"ETag": {"description": "Names this very answer, on every router.", "schema": _TEXT}}


class Operation(Protocol):
    """What a router lets people do."""

    @property
    def name(self) -> str:
        """``resource.query``, ..."""
        ...

    @property
    def request(self) -> type:
        """The class of what it takes."""
        ...

    @property
    def reply(self) -> type:
        """The class of what it answers."""
        ...

    @property
    def action(self) -> Callable[..., object]:
        """What does it; its docstring says what that is."""
        ...

    def read(self, raw: object) -> object:
        """The request that a map is, or `InvalidRequest`."""
        ...


@attrs.frozen
class Route:
    """Where an operation is to be asked for.

    Args:
        method: ``GET``, for what changes nothing, or ``POST``.
        path: With names of fields of its request in braces.
        operation: Its name.
        refusals: Errors that it may end in, beside those that each may.
    """

    method: str
    path: str
    operation: str
    refusals: tuple[type[AegisError], ...] = ()

    @property
    def in_path(self) -> tuple[str, ...]:
        """The fields of the request that stand in the path."""
        return tuple(re.findall(r"{(\w+)}", self.path))


def describe(
    routes: Iterable[Route],
    operations: Mapping[str, Operation],
    *,
    others: Mapping[str, Schema] | None = None,
    asks_tokens: bool,
) -> Schema:
    """The document.

    Args:
        routes: Of the operations.
        operations: By name.
        others: Further paths, ready made.
        asks_tokens: Whether requests need a bearer token.
    """
    schemas = Schemas()
    paths: dict[str, Schema] = {}
    for route in routes:
        described = _operation(route, operations[route.operation], schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AegisIPC router",
            "version": "1",
            "description": "What a router knows of its registry, and what may be done to it. "
            "Resource ids in paths are percent-encoded.",
        },
        "security": [{"bearer": []}] if asks_tokens else [],
        "paths": {**paths, **(others or {}), **_health()},
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), "Problem": _PROBLEM},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}} if asks_tokens else {},
        },
    }


def _operation(route: Route, operation: Operation, schemas: Schemas) -> Schema:
    answer: Schema = {
        "description": "The answer.",
        "content": {"application/json": {"schema": schemas.of_answer(operation.reply)}},
    }
    described: Schema = {
        "operationId": operation.name.replace(".", "_"),
        "tags": [route.path.split("/")[4]],
        "summary": inspect.getdoc(operation.action),
    }
    kinds = typing.get_type_hints(operation.request)
    fields = [(field, kinds[field.name]) for field in _fields(operation.request)]
    in_path = [(field, kind) for field, kind in fields if field.name in route.in_path]
    others = [(field, kind) for field, kind in fields if field.name not in route.in_path]
    says = shape_of(operation.request).says
    parameters = [_parameter("path", *each, says, schemas) for each in in_path]
    if route.method == "GET":
        parameters += [_parameter("query", *each, says, schemas) for each in others]
        answer["headers"] = _ETAG
        same: Mapping[str, object] = {"304": {"description": "It is still the answer that `If-None-Match` names."}}
    else:
        same = {"413": _problem("The body is too long"), "415": _problem("The body is not JSON")}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas.of_body(others, says)}},
        }
    if parameters:
        described["parameters"] = parameters
    refused = refusals((*_ALWAYS, *route.refusals))
    described["responses"] = dict(sorted({"200": answer, **same, **refused, **too_long()}.items()))
    return described


def _fields(request: type) -> tuple[attrs.Attribute[object], ...]:
    found: tuple[attrs.Attribute[object], ...] = attrs.fields(cast("type[attrs.AttrsInstance]", request))
    return found


def _parameter(
    place: str, field: attrs.Attribute[object], kind: object, says: Mapping[str, str], schemas: Schemas
) -> Schema:
    return {
        "name": field.name,
        "in": place,
        "required": field.default is attrs.NOTHING,
        "description": says.get(field.name, ""),
        "schema": schemas.of_parameter(field, without_none(kind), in_path=place == "path"),
    }


def refusals(kinds: Iterable[type[AegisError]]) -> dict[str, Schema]:
    """The responses that errors of *kinds* are, by status."""
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        codes.setdefault(codec.status_of_class(kind), []).append(kind.code)
    return {str(status): _problem(", ".join(dict.fromkeys(named))) for status, named in sorted(codes.items())}


def too_long() -> dict[str, Schema]:
    """The response to a request that is longer than any may be."""
    return {"431": _problem("Path, query and headers are too long")}


def _problem(description: str) -> Schema:
    content = {wire.PROBLEM.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}


def _health() -> dict[str, Schema]:
    content = {"application/json": {"schema": _STATUS}}
    always = (errors.InvalidRequest, errors.Overloaded, errors.TransportUnavailable)
    live = {
        "operationId": "live",
        "tags": ["health"],
        "summary": "Whether the router runs.",
        "security": [],
        "responses": {"200": {"description": "It does.", "content": content}, **refusals(always), **too_long()},
    }
    ready = {
        "tags": ["health"],
        "summary": "Whether the router knows its store, and the store answers.",
        "security": [],
        "responses": {
            "200": {"description": "It does.", "content": content},
            **refusals([*always, errors.StoreUnavailable]),
            **too_long(),
        },
    }
    return {
        "/health": {"get": {"operationId": "health", **ready}},
        "/health/live": {"get": live},
        "/health/ready": {"get": {"operationId": "ready", **ready}},
    }
