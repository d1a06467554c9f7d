"""The page with the OpenAPI document, in the browser: it shows everything, tries it, and asks nobody else."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from aegis_backends.http.rest import ROUTES
from tests.dashboard.browser import Visit
from tests.dashboard.scene import Scene


def test_operations_are_shown_and_tried(scene: Scene, visit: Callable[..., Visit]) -> None:
    """Without another server, and without a complaint of the browser's."""
    scene.serve("carts", "carts-a")
    page = visit(f"{scene.url}/docs").page
    blocks = page.locator(".opblock")
    expect(blocks.first).to_be_visible()
    assert blocks.count() >= len(ROUTES)
    block = page.locator("#operations-services-service_list")
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table")).to_contain_text("carts-a")
