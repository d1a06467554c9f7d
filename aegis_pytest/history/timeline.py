"""A timeline as a picture: lanes of bars under an axis of time, as the text of an SVG file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final
from xml.sax.saxutils import escape

import attrs

__all__ = ["Bar", "draw"]

_LEFT: Final = 190
_WIDTH: Final = 1000
_ROW: Final = 22
_TOP: Final = 56
_LETTER: Final = 7.0
"""The width of one, a little more than most have."""

_STYLE: Final = (
    "text{font:12px sans-serif;fill:black}.title{font-weight:bold;font-size:14px}.axis{fill:dimgray;font-size:11px}"
    ".bar{fill:lightsteelblue;stroke:steelblue}.blamed{fill:lightpink;stroke:firebrick}.grid{stroke:lightgray}"
)


@attrs.frozen
class Bar:
    """Something that lasted a while.

    Args:
        lane: Where it is drawn: bars of one lane stand together, each in a row of its own.
        label: What it is.
        began: Seconds.
        ended: Seconds; `math.inf` for what did not end.
        blamed: Whether it is what the picture is about.
        note: More words, for the text alone.
    """

    lane: str
    label: str
    began: float
    ended: float
    blamed: bool = attrs.field(default=False, kw_only=True)
    note: str = attrs.field(default="", kw_only=True)


def draw(bars: Iterable[Bar], *, title: str) -> str:
    """The picture of *bars*, as the text of an SVG file. Equal bars give equal text."""
    shown = sorted(bars, key=lambda bar: (bar.lane, bar.began, bar.ended, bar.label))
    times = [time for bar in shown for time in (bar.began, bar.ended) if time != math.inf]
    start, end = min(times, default=0.0), max(times, default=1.0)
    span = (end - start) or 1e-6
    end += 0.05 * span  # what did not end goes beyond all that did
    bottom = _TOP + _ROW * len(shown)
    scale = _WIDTH / (end - start)

    def x(time: float) -> float:
        return _LEFT + (min(time, end) - start) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{bottom + 12}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
    ]
    for step in range(6):
        time = start + (end - start) * step / 5
        parts.append(f'<line class="grid" x1="{x(time):.1f}" y1="{_TOP - 8}" x2="{x(time):.1f}" y2="{bottom}"/>')
        anchor = "start" if step < 5 else "end"
        told = f"{time - start:.6f} s"
        parts.append(f'<text class="axis" x="{x(time):.1f}" y="{_TOP - 14}" text-anchor="{anchor}">{told}</text>')
    named: set[str] = set()
    for row, bar in enumerate(shown):
        y = _TOP + _ROW * row
        if bar.lane not in named:
            named.add(bar.lane)
            parts.append(f'<text x="8" y="{y + 14}">{escape(bar.lane)}</text>')
        width = max(2.0, x(bar.ended) - x(bar.began))
        kind = "bar blamed" if bar.blamed else "bar"
        parts.append(
            f'<rect class="{kind}" x="{x(bar.began):.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 6}" rx="3"/>'
        )
        words = f"{bar.label} …" if bar.ended == math.inf else bar.label
        # Words that would not end before the right edge go to the left.
        is_room = x(bar.began) + _LETTER * len(words) <= _LEFT + _WIDTH
        at, anchor = (x(bar.began) + 4, "start") if is_room else (x(bar.ended), "end")
        parts.append(f'<text x="{at:.1f}" y="{y + 12}" text-anchor="{anchor}">{escape(words)}</text>')
    return "\n".join([*parts, "</svg>", ""])
