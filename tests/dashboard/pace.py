"""The time of a page, which a test lets pass: as the page sees it, nothing takes longer because the machine is busy.

The page's clock stands still unless `Pace` moves it, and it moves only while the page waits for nobody: so what is measured
by it is how long the page takes its time, not how long others let it wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import attrs
from playwright.sync_api import Page

from tests.dashboard.browser import PATIENCE

__all__ = ["SCRIPT", "Pace"]

SCRIPT: Final = """
(() => {
  window.asked = 0;      // requests under way, but for the stream of events
  window.streamed = "";  // what that has brought
  window.looked = 0;     // when the metrics were asked for, by the page's clock
  const counted = (work) => { window.asked += 1; return work.finally(() => { window.asked -= 1; }); };
  const { fetch } = window;
  window.fetch = (url, ...options) => {
    if (String(url).endsWith("metrics")) window.looked = performance.now();
    return counted(fetch(url, ...options));
  };
  for (const how of ["json", "text"]) {
    const read = Response.prototype[how];
    Response.prototype[how] = function () { return counted(read.call(this)); };
  }
  const { read } = ReadableStreamDefaultReader.prototype;
  ReadableStreamDefaultReader.prototype.read = async function () {
    const got = await read.call(this);
    if (got.value) window.streamed += new TextDecoder().decode(got.value);
    return got;
  };
})();
"""
"""What the page runs first, so that it can be seen what it waits for."""

_FRAME: Final = 16
_LOOK: Final = 2000


@attrs.define(eq=False)
class Pace:
    """A page's clock.

    Args:
        page: The page, which was opened with a clock to move and with `SCRIPT`.
    """

    page: Page

    def stop(self) -> None:
        """From now on the clock moves only as it is told to; the page has just looked at the metrics."""
        at = datetime.fromtimestamp(self.page.evaluate("Date.now()") / 1000 + 1, UTC)
        self.page.clock.pause_at(at)
        before = self.page.evaluate("window.looked")
        assert self.until(lambda: self.page.evaluate("window.looked") != before, 2 * _LOOK) < 2 * _LOOK

    def wait_for(self, condition: str) -> None:
        """Wait, while the page's clock stands still, until a JavaScript expression is true there."""
        until = time.monotonic() + PATIENCE
        while not self.page.evaluate(condition):
            assert time.monotonic() < until, condition
            self.page.wait_for_timeout(10)

    def run(self, milliseconds: int) -> None:
        """Let time pass, once nothing is asked for any more."""
        self.wait_for("window.asked === 0")
        self.page.clock.run_for(milliseconds)

    def until(self, happened: Callable[[], bool], most: int) -> int:
        """Let time pass, frame by frame, until something has happened; so many milliseconds, *most* if it has not."""
        for passed in range(0, most, _FRAME):
            self.wait_for("window.asked === 0")
            if happened():
                return passed
            self.page.clock.run_for(_FRAME)
        return most

    def look(self) -> None:
        """Let the page look at the metrics once more, and draw what it found; 2 s after it did the last time."""
        since = self.page.evaluate("performance.now() - window.looked")
        self.run(_LOOK - round(since))
        self.run(_FRAME)
