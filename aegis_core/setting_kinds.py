"""What a setting may be: a number of seconds, a path, one of some words; how it is read, and how it is named to people."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Final

import attrs

__all__ = [
    "BOOL",
    "COUNT",
    "COUNT_OR_NONE",
    "LEVEL",
    "PATH",
    "SECONDS",
    "SECONDS_OR_NONE",
    "TEXT",
    "TEXTS",
    "TIME_OFFSET",
    "Kind",
]

_OFFSET: Final = re.compile(r"[+-]\d\d:\d\d\Z")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_BOOLS: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


@attrs.frozen
class Kind:
    """What a setting may be.

    Args:
        expected: In words.
        read: Makes the value of what TOML or Python say; raises ValueError or TypeError.
        parse: Makes what `read` takes of a text (environment, URL); raises ValueError.
    """

    expected: str
    read: Callable[[object], object]
    parse: Callable[[str], object] = str


def _read_float(value: object, least: float, *, above: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    if value < least or (above and value == least):
        raise ValueError
    return float(value)


def _read_count(value: object, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError
    return value


def _exactly(kind: type, value: object) -> object:
    if type(value) is not kind:
        raise ValueError
    return value


def _read_level(value: object) -> str:
    if value not in _LEVELS:
        raise ValueError
    return str(value)


def _read_path(value: object) -> str:
    return os.fspath(value)  # type: ignore[call-overload, no-any-return]  # raises TypeError for what is no path


def _read_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(type(item) is str for item in value):
        raise ValueError
    return tuple(value)


def _read_offset(value: object) -> tzinfo:
    if isinstance(value, tzinfo):
        return value
    if type(value) is not str or not _OFFSET.match(value):
        raise ValueError
    offset = datetime.fromisoformat(f"2000-01-01T00:00:00{value}").tzinfo
    return offset or UTC


def _parse_bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError
    return _BOOLS[text.lower()]


def _parse_texts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


SECONDS: Final = Kind("a number of seconds, more than 0", functools.partial(_read_float, least=0.0, above=True), float)
SECONDS_OR_NONE: Final = Kind(
    "a number of seconds, 0 or more", functools.partial(_read_float, least=0.0, above=False), float
)
COUNT: Final = Kind("a whole number, 1 or more", _read_count, int)
COUNT_OR_NONE: Final = Kind("a whole number, 0 or more", functools.partial(_read_count, least=0), int)
TEXT: Final = Kind("text", functools.partial(_exactly, str))
PATH: Final = Kind("the path of a file", _read_path)
BOOL: Final = Kind("true or false", functools.partial(_exactly, bool), _parse_bool)
LEVEL: Final = Kind(f"one of {', '.join(_LEVELS)}", _read_level, str.upper)
TEXTS: Final = Kind('a list of names, e.g. ["my_package.plugin"]', _read_texts, _parse_texts)
TIME_OFFSET: Final = Kind("an offset from UTC, e.g. +08:00", _read_offset)
