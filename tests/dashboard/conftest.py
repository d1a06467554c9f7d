"""One browser for all of these tests, and a scene for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser

from tests.dashboard.browser import Visit, open_browser
from tests.dashboard.scene import Scene, open_scene


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A router with nothing registered."""
    with open_scene() as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens the page of a URL; at the end the browser has had no reason to complain."""
    begun: list[Visit] = []

    def begin(
        url: str,
        *,
        scheme: Literal["dark", "light"] = "light",
        width: int = 1440,
        script: str | None = None,
        clock: bool = False,
    ) -> Visit:
        begun.append(Visit.begin(browser, url, scheme=scheme, width=width, script=script, clock=clock))
        return begun[-1]

    yield begin
    for one in begun:
        one.end()
