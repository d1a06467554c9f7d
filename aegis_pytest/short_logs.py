"""What the library logged, in the report of a test that fails: its last lines, so that what is to be read is not pushed away.

While the store is away, nodes say so again and again. pytest shows what was logged above how the cluster stood, all of it; of
the library's own loggers it shows a few lines here, and of all others what it ever does. `caplog`, the files and the terminal
that pytest logs to, and the fixture ``aegis_logs`` have everything.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import pytest

__all__ = ["MOST_LINES", "shorten", "watching"]

MOST_LINES: Final = 10
"""For the library's records, one of them for how many are left out."""

_LOGGER: Final = "aegis"
_TITLE: Final = "Captured log call"

_shown: Final[pytest.StashKey[str]] = pytest.StashKey()


@attrs.frozen
class _Record:
    begins: int
    """In the text that pytest keeps."""
    is_ours: bool


class _Watch(logging.Filter):
    """Notes where each record begins in what *handler*, pytest's own, keeps for the report."""

    def __init__(self, handler: logging.StreamHandler[io.StringIO]) -> None:
        super().__init__()
        self.handler = handler
        self._stream = handler.stream
        self._records: list[_Record] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Let *record* pass."""
        if self.handler.stream is not self._stream:  # pytest takes a new one for each phase of a test
            self._stream = self.handler.stream
            self._records.clear()
        is_ours = record.name == _LOGGER or record.name.startswith(f"{_LOGGER}.")
        self._records.append(_Record(self._stream.tell(), is_ours))
        return True

    def text(self) -> str:
        """What the handler has kept of this phase, with the last of our records only."""
        whole = self.handler.stream.getvalue()
        if self.handler.stream is not self._stream:
            return whole
        ends = [*(record.begins for record in self._records[1:]), len(whole)]
        texts = [whole[record.begins : end] for record, end in zip(self._records, ends, strict=True)]
        ours = [at for at, record in enumerate(self._records) if record.is_ours]
        if len(ours) < 2 or sum(_lines(texts[at]) for at in ours) <= MOST_LINES:
            return whole
        room = MOST_LINES - 1 - _lines(texts[ours[-1]])
        kept = 1  # the last, however long it is
        while (room := room - _lines(texts[ours[-kept - 1]])) >= 0:
            kept += 1
        for at in ours[:-kept]:
            texts[at] = ""
        return f"({len(ours) - kept} records of {_LOGGER}.* are left out: the fixture aegis_logs has all)\n{''.join(texts)}"


def _lines(text: str) -> int:
    return text.count("\n")


@contextmanager
def watching(item: pytest.Item) -> Iterator[None]:
    """The call of *item* runs in the block; `shorten` knows then what it logged."""
    handler = getattr(item.config.pluginmanager.get_plugin("logging-plugin"), "report_handler", None)
    if handler is None:  # -p no:logging
        yield
        return
    watch = _Watch(handler)
    handler.addFilter(watch)
    try:
        yield
    finally:
        handler.removeFilter(watch)
        item.stash[_shown] = watch.text().strip()


def shorten(item: pytest.Item, report: pytest.TestReport) -> None:
    """Have *report*, of the call of *item*, show no more of the library's records than the last."""
    shown = item.stash.get(_shown, None)
    if shown is not None:
        report.sections = [(title, shown if title == _TITLE else text) for title, text in report.sections]
