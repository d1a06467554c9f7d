"""Requests of operations as they come over HTTP, as plain maps: from path and query of a URL, or from a body of JSON.

What is wrong with the values is for the operation to tell; this tells what is no form of them at all.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from typing import Final, cast
from urllib.parse import parse_qsl

import attrs

from aegis_backends.http.json_bodies import read_json
from aegis_backends.http.schemas import MOST_IN_QUERY, without_none
from aegis_core.errors import InvalidRequest, Problem

__all__ = ["map_of_body", "map_of_url", "read_query"]

_MOST_PARAMETERS: Final = 2000
_EXACT: Final = 1 << 53
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_BOOLEANS: Final = {"true": True, "false": False}


def read_query(query: bytes) -> list[tuple[str, str]]:
    """The parameters after the question mark, in order.

    Raises:
        InvalidRequest: There are very many.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as exc:
        raise InvalidRequest.at("$", f"more than {_MOST_PARAMETERS} parameters") from exc


def map_of_url(kind: type, path: Mapping[str, str], query: Iterable[tuple[str, str]]) -> dict[str, object]:
    """The request that a URL is; numbers and truth values are those, where *kind* has them.

    Args:
        kind: The class of the request.
        path: Parameters in its path.
        query: Parameters in its query; lists by repeating their name.

    Raises:
        InvalidRequest: Each parameter that *kind* does not have, or that is there twice and no list.
    """
    kinds = typing.get_type_hints(kind)
    known = [field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", kind))]
    read: dict[str, object] = dict(path)
    problems: list[Problem] = []
    for name, text in query:
        if name not in known or name in path:
            others = ", ".join(other for other in known if other not in path)
            problems.append(Problem(f"$.{name[:80]}", f"no such parameter; there are {others}"))
            continue
        wanted = without_none(kinds[name])
        if typing.get_origin(wanted) is tuple:
            cast("list[str]", read.setdefault(name, [])).append(text)
        elif name in read:
            problems.append(Problem(f"$.{name}", "it is there more than once"))
        else:
            read[name] = _value(wanted, text)
    for name, value in read.items():
        if isinstance(value, list) and len(value) > MOST_IN_QUERY:
            problems.append(Problem(f"$.{name}", f"more than {MOST_IN_QUERY} elements"))
    if problems:
        raise InvalidRequest(problems=tuple(problems[:20]))
    return read


def _value(kind: object, text: str) -> object:
    if kind is int and _WHOLE.fullmatch(text):
        return int(text)
    if kind is bool:
        return _BOOLEANS.get(text, text)
    return text


def map_of_body(body: bytes, path: Mapping[str, str]) -> object:
    """The request that a *body* of JSON is, with the parameters in the *path*; an empty body is an empty map.

    Raises:
        InvalidRequest: `read_json` refuses it.
    """
    try:
        read = read_json(body or b"{}", parse_float=_number)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest.at("$", f"not JSON: {exc}") from exc
    return {**read, **path} if type(read) is dict else read


def _number(text: str) -> float:
    """The number that *text* is: JSON does not tell 2.0 from 2."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _EXACT else number
