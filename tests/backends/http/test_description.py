"""The OpenAPI document says what the interface does, and the interface does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from aegis_backends.http import wire
from aegis_backends.http.refusals import full, refusals
from aegis_backends.http.rest import ADMIN, ROUTES
from aegis_backends.http.schemas import GRAMMAR, Schemas
from aegis_backends.http.server import Limits
from aegis_backends.http.shapes import shape_of
from aegis_backends.http.tokens import Tokens
from aegis_core.errors import ResourceNotFound
from aegis_core.hookspecs import Principal
from aegis_core.models import Explanation, ServiceInstance
from tests.backends.http.managed import open_managed

TOKENS = Tokens({"secret": Principal("token", "tester", is_admin=True)})


async def describe(tokens: Tokens | None = None) -> dict[str, Any]:
    """The document."""
    async with open_managed(tokens) as router:
        answer = await router.client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        document: dict[str, Any] = answer.json()
        return document


async def test_every_route_is_described() -> None:
    """With all that it may answer, and where each of its fields goes."""
    document = await describe()
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {(route.method, route.path) for route in ROUTES} < described
    query = document["paths"][f"{ADMIN}/resources"]["get"]
    parameters = {parameter["name"]: parameter for parameter in query["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert parameters["tags"]["schema"] == {"type": "array", "items": {"type": "string"}, "maxItems": 100}
    assert parameters["containing"]["description"]
    claim = document["paths"][f"{ADMIN}/resources/claim"]["post"]
    body = claim["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["service_name", "instance_id", "resource_ids"]
    assert body["properties"]["force"]["default"] is False
    assert "409" in claim["responses"]
    operations = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) == len(set(operations))


async def test_every_reference_leads_somewhere() -> None:
    """And every component is referred to."""
    document = await describe()
    text = json.dumps(document)
    names = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names == set(document["components"]["schemas"])


async def test_tokens_are_asked_for_where_they_are() -> None:
    """But not of who looks at the health."""
    document = await describe(TOKENS)
    assert document["security"] == [{"bearer": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert (await describe())["security"] == []


async def test_problems_are_as_described() -> None:
    """Every field that an error has."""
    problem = json.loads(wire.problem(ResourceNotFound(resource_id="a")))
    schema = (await describe())["components"]["schemas"]["Problem"]
    assert set(problem) == set(schema["properties"])


async def test_refusals_of_the_server_itself_are_as_described() -> None:
    """Of every operation: its problems have the fields that the document says, under the statuses that it names."""
    document = await describe()
    required = set(document["components"]["schemas"]["Problem"]["required"])
    told = {status: json.loads(body) for status, body in refusals(Limits(rate=5.0)).items()}
    told[503] = json.loads(full("it is full").partition(b"\r\n\r\n")[2])
    for status, problem in told.items():
        assert required <= set(problem)
        assert problem["status"] == status
    assert told[429]["details"] == {"limit": 5, "asked": 6, "what": told[429]["details"]["what"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status in (400, 429, 431, 503, *((413,) if method == "post" else ())):
                described = operation["responses"][str(status)]["content"]
                assert (path, list(described)) == (path, ["application/problem+json"])


def test_shapes_leave_out_what_is_nobodys_business() -> None:
    """And say of the rest what the class says."""
    shape = shape_of(ServiceInstance)
    assert "lease" not in shape.fields
    assert shape.fields["status"] is str
    assert shape.says["ttl"] == "Seconds the record lives without a renewal."
    assert "as the owner says; None when it was not asked" in shape_of(Explanation).says["calls"]


def test_grammar_is_that_of_fields_that_there_are() -> None:
    """A rule for a name that nobody has would be none."""
    assert "resource_ids" in GRAMMAR
    assert GRAMMAR["resource_ids"]["items"]["pattern"] == GRAMMAR["resource_id"]["pattern"]  # type: ignore[index]


def test_what_has_no_form_in_json_is_a_mistake() -> None:
    """Told when the document is made."""
    schemas = Schemas()
    assert "0 classes" in repr(schemas)
    with pytest.raises(TypeError, match="no form in JSON"):
        schemas.of_answer(Path)


@attrs.frozen
class Node:
    """One that may have its like below it."""

    below: tuple[Node, ...] = ()


def test_class_that_holds_its_like_is_described_once() -> None:
    """By a reference to itself."""
    schemas = Schemas()
    assert schemas.of_answer(Node) == {"$ref": "#/components/schemas/Node"}
    below = schemas.components["Node"]["properties"]["below"]  # type: ignore[index]
    assert below == {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}
