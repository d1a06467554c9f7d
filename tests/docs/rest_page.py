"""The page of the reference on REST, made from the OpenAPI document. Run as a module, it writes the page anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio

from aegis_backends.http.tokens import Tokens
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import open_managed

__all__ = ["PAGE", "load", "render"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "rest.md"

_INTRODUCTION: Final = """# REST

What a router offers to programs and people that speak HTTP and JSON; [the HTTP backend](http.md) says what all of it has in
common: tokens, pages, entity tags, errors, events. A router describes itself at `/openapi.json`, and shows that at
`/docs`. This page is made from the same document.

Everything but the health asks for a bearer token, where the router knows any. Lists in a query are given by repeating their name. What
is below `/api/v1/admin/services` is also there below `/services` and `/api/services`.
"""


async def load() -> dict[str, Any]:
    """The document of a router that asks for tokens."""
    async with open_managed(Tokens({"secret": Principal("token", "reader")})) as router:
        document: dict[str, Any] = (await router.client.get("/openapi.json")).json()
        return document


def render(document: dict[str, Any]) -> str:
    """The page."""
    lines = [_INTRODUCTION]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(method.upper(), path, operation)
    lines += ["## Answers", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", ""]
        if "description" in schema:
            lines += [_text(schema["description"]), ""]
        lines += _table("Field", _fields(schema))
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method} {path}"
    yield ""
    yield _text(operation["summary"])
    yield ""
    parameters = [
        (
            p["name"],
            _kind(p["schema"]),
            _default(p["schema"], required=p.get("required", False)),
            p.get("description", ""),
        )
        for p in operation.get("parameters", ())
    ]
    yield from _table("Parameter", parameters)
    if "requestBody" in operation:
        yield from _table(
            "Field of the body", _fields(operation["requestBody"]["content"]["application/json"]["schema"])
        )
    for kind, content in operation["responses"]["200"]["content"].items():
        yield f"Answers {_kind(content['schema'])} as `{kind}`."
    refused = [
        f"{status} ({response['description']})" for status, response in operation["responses"].items() if status > "304"
    ]
    if refused:
        yield f"Refused by {', '.join(refused)}."
    yield ""


def _fields(schema: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    return [
        (name, _kind(field), _default(field, required=name in required), field.get("description", ""))
        for name, field in schema["properties"].items()
    ]


def _table(first: str, rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    if not rows:
        return
    has_defaults = any(default for _, _, default, _ in rows)
    yield f"| {first} | Type |{' Default |' if has_defaults else ''} Meaning |"
    yield f"|---|---|{'---|' if has_defaults else ''}---|"
    for name, kind, default, meaning in rows:
        shown = f" {default} |" if has_defaults else ""
        yield f"| `{name}` | {kind} |{shown} {_text(meaning)} |"
    yield ""


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def _default(schema: dict[str, Any], *, required: bool) -> str:
    if required:
        return ""
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "none"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(member) for member in schema["anyOf"] if member != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"`{word}`" for word in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_kind(schema['items'])}"
        case "object" if "properties" in schema:
            return f"object of {', '.join(f'`{name}`' for name in schema['properties'])}"
        case "object":
            return (
                f"object of {_kind(schema['additionalProperties'])}" if schema.get("additionalProperties") else "object"
            )
        case list() as kinds:
            return " or ".join(kinds)
        case "integer" | "number" if "maximum" in schema:
            return f"{schema['type']}, {schema['minimum']} to {schema['maximum']}"
        case None:
            return "anything"
        case kind:
            return str(kind)


if __name__ == "__main__":
    PAGE.write_text(render(trio.run(load)), encoding="utf-8")
