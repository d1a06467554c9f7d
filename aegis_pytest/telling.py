"""How the plugin's messages say things: briefly, and never at any length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["brief", "clip", "first_lines", "show_fields", "show_time"]

_LONGEST: Final = 160


def brief(text: str, most: int = _LONGEST) -> str:
    """*text* in one line of at most *most* characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def clip(line: str, most: int = _LONGEST) -> str:
    """*line* as `brief` has it, with the spaces that it begins with."""
    indent = " " * (len(line) - len(line.lstrip(" ")))
    return f"{indent}{brief(line, most)}"


def first_lines(lines: Iterable[str], most: int, *, indent: str = "  ", longest: int = _LONGEST) -> list[str]:
    """*lines*, each as `clip` has it with *longest*, of which *most* at most are shown; if there are more, the last one says how many."""
    lines = [clip(line, longest) for line in lines]
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"{indent}and {len(lines) - most + 1} more lines"]


def show_time(seconds: float) -> str:
    """*seconds* to the hundredth, with their unit."""
    return f"{round(seconds, 2):g} s"


def show_fields(fields: Mapping[str, object]) -> str:
    """``name=value`` of each, with commas between."""
    return ", ".join(f"{name}={value}" for name, value in fields.items())
