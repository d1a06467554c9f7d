"""A headless Chromium, and what it must not do while it shows the dashboard."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import attrs
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

__all__ = ["PATIENCE", "Visit", "axe_violations", "open_browser"]

PATIENCE: Final = 30.0
"""Seconds after which something will not happen any more."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
# It runs as root in a container, has no graphics card, and asks nobody but the router.
_OPTIONS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium as the system has it."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    assert path is not None, "these tests look through Chromium: install it, e.g. with apt-get install chromium"
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@attrs.define(slots=False)  # Playwright notes on it which handlers it has wrapped
class Visit:
    """The page as one visitor sees it.

    Args:
        page: The page.
        origin: Of the router: nothing else may be asked.
        complaints: What the browser's console said, and what was asked elsewhere.
        forgiven: Patterns of complaints that a test causes.
    """

    page: Page
    origin: str
    complaints: list[str] = attrs.field(factory=list)
    forgiven: list[str] = attrs.field(factory=list)

    @classmethod
    def begin(
        cls,
        browser: Browser,
        url: str,
        *,
        scheme: Literal["dark", "light"],
        width: int,
        script: str | None,
        clock: bool,
    ) -> Visit:
        """Open the page in a context of its own; *script* runs before the page's own, which has a *clock* to be moved."""
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        visit = cls(page, _origin(url))
        page.on("console", visit._hear)
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("request", visit._see)
        if script is not None:
            page.add_init_script(script)
        if clock:
            page.clock.install()
        page.goto(url)
        return visit

    def expect_live(self) -> None:
        """Wait until the page follows the router."""
        expect(self.page.locator("#link-text")).to_have_text("Live")

    def row(self, table: str, first: str) -> Locator:
        """The row of a table that begins with the text *first*."""
        heading = self.page.get_by_role("rowheader", name=first, exact=True)
        return self.page.locator(f"#{table}-rows tr").filter(has=heading)

    def end(self) -> None:
        """Leave, if nothing was wrong but what is forgiven."""
        self.page.context.close()
        for pattern in self.forgiven:
            assert any(re.search(pattern, complaint) for complaint in self.complaints), (
                f"nothing like {pattern} was said"
            )
        assert [one for one in self.complaints if not any(re.search(pattern, one) for pattern in self.forgiven)] == []

    def forgive(self, pattern: str) -> None:
        """Expect complaints like *pattern*, now or later."""
        self.forgiven.append(pattern)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.location.get("url", "").endswith("/metrics"):
            self.complaints.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _see(self, request: Request) -> None:
        if _origin(request.url) != self.origin:
            self.complaints.append(f"asked {request.url}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def axe_violations(page: Page) -> list[str]:
    """What axe-core, whose path is in the environment, finds wrong with the page as it is."""
    file = os.environ.get("AEGIS_AXE")
    assert file, "AEGIS_AXE names no axe.min.js: run these tests by nox -s dashboard, which fetches it"
    page.evaluate(Path(file).read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 10, "axe looked at nothing"
    return [
        f"{rule['id']}: {node['target']}: {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
