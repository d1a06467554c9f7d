"""``aegis call``: one request, one answer."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from aegis_core.cli.options import AsJson, BackendUrl
from aegis_core.cli.output import plain, print_json, print_json_line
from aegis_core.cli.session import connect
from aegis_core.errors import InvalidRequest

__all__ = ["call", "parse_params"]


async def call(
    service: str,
    method: str,
    /,
    *params: str,
    resource: str | None = None,
    instance: str | None = None,
    params_json: str | None = None,
    idempotency_key: str | None = None,
    backend: BackendUrl = None,
    timeout: Annotated[
        float,
        Parameter(validator=Number(gt=0), help="Seconds for the connection, and for the call with its repetitions."),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Call a method and print what it returns, as JSON; with --json on one line.

    Goes to the owner of --resource, to --instance, or to a healthy instance.

    Args:
        service: The service.
        method: The method.
        params: Its parameters: name=text, or name:=JSON for anything else (amount:=12, tags:='["a"]').
        resource: Call the owner of this resource.
        instance: Call this instance.
        params_json: Parameters as one JSON object; those given as name=text count more.
        idempotency_key: Execute it once per incarnation, however often it is sent with this key.
    """
    given = parse_params(params, params_json)
    async with connect(backend, timeout) as node:
        result: object = await node.call(
            service,
            method,
            given,
            resource_id=resource,
            instance_id=instance,
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
    (print_json_line if as_json else print_json)(plain(result))


def parse_params(params: tuple[str, ...], params_json: str | None) -> dict[str, object]:
    """The parameters that a command line gives.

    Raises:
        InvalidRequest: One of them is neither ``name=text`` nor ``name:=JSON``, or *params_json* is no JSON object.
    """
    found: object = {} if params_json is None else _parse("--params-json", params_json)
    if not isinstance(found, dict):
        raise InvalidRequest.at("--params-json", f"expected a JSON object, got {params_json}")
    for param in params:
        name, equals, text = param.partition("=")
        if not equals or not name.removesuffix(":"):
            raise InvalidRequest.at(param, "expected name=text or name:=JSON")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        found[name] = _parse(param, text) if is_json else text
    return found


def _parse(where: str, text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except ValueError as exc:
        raise InvalidRequest.at(where, f"no JSON: {exc}") from None
    return parsed
