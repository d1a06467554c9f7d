"""Bodies in JSON from strangers: read strictly, and no larger in memory than they may be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, NoReturn

__all__ = ["MOST_CONTAINERS", "read_json"]

MOST_CONTAINERS: Final = 100_000
"""Lists and maps of one body: two bytes may stand for an empty one, which takes sixty."""

# Matches a string that does not end, too, lest a search for its end begin anew at each of its quotes.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes, *, parse_float: Callable[[str], float] = float) -> object:
    """What *body*, which is of bounded size, says.

    Args:
        body: In UTF-8.
        parse_float: Makes numbers of those that have a fraction or an exponent.

    Raises:
        ValueError: It is no JSON, has text that is none, or more lists and maps than it may have.
        RecursionError: They are too deep.
    """
    text = body.decode()  # strictly: `json.loads` would take halves of pairs of surrogates, and UTF-16
    if _count_containers(text) > MOST_CONTAINERS and _count_containers(_STRING.sub("", text)) > MOST_CONTAINERS:
        raise ValueError(f"more than {MOST_CONTAINERS} lists and maps")
    read: object = json.loads(text, parse_float=parse_float, parse_constant=_refuse_constant)
    if _SURROGATE.search(text):
        json.dumps(read, ensure_ascii=False).encode()  # fails at half of a pair
    return read


def _count_containers(text: str) -> int:
    return text.count("[") + text.count("{")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
