"""axe-core finds nothing wrong, in dark and in light, wherever the page can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from playwright.sync_api import expect

from aegis_core import Health, Role
from tests.dashboard.browser import Visit, axe_violations
from tests.dashboard.scene import Scene


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing(scene: Scene, visit: Callable[..., Visit], scheme: Literal["dark", "light"]) -> None:
    """On the whole page, with each dialog, narrow, and when the router is gone."""
    scene.serve("engine", "engine-a", role=Role.ACTIVE)
    scene.serve("engine", "engine-b", role=Role.STANDBY)
    ill = scene.serve("carts", "carts-a", *[f"cart:{number}" for number in range(40)])
    scene.serve("carts", "carts-b", waits_for="cart:1")
    scene.run(ill.set_health, Health.UNHEALTHY)
    seen = visit(scene.url, scheme=scheme)
    page = seen.page
    expect(seen.row("instances", "carts-a").get_by_text("unhealthy")).to_be_visible()
    scene.run(ill.release, "cart:39")
    expect(page.locator("#events li")).to_have_count(1)
    assert axe_violations(page) == []
    for opener, dialog in (
        (page.get_by_role("button", name="Transfer cart:1", exact=True), "Transfer cart:1"),
        (page.get_by_role("button", name="Drain carts-a"), "Drain carts-a"),
        (page.get_by_role("button", name="cart:1", exact=True), "cart:1"),
    ):
        opener.click()
        expect(page.get_by_role("dialog", name=dialog, exact=True)).to_be_visible()
        assert axe_violations(page) == []
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Resources of carts-b").click()
    expect(page.get_by_text("No resource that is owned matches.")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert axe_violations(page) == []
    scene.stop_router()
    expect(page.locator("#banner")).to_be_visible()
    assert axe_violations(page) == []
    seen.forgive("ERR_|Failed to load resource")
