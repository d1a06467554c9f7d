"""What the page says when the router goes away, or asks who is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.browser import Visit
from tests.dashboard.scene import Scene, open_scene

TOKENS = """
[operators]
token = "o-secret"
admin = true
"""


def test_router_that_goes_away_is_told_and_its_return_shown(scene: Scene, visit: Callable[..., Visit]) -> None:
    """What was known stays, as old; what is asked for meanwhile fails where it was asked; then all is new again."""
    carts = scene.serve("carts", "carts-a", "cart:1")
    scene.serve("carts", "carts-b")
    seen = visit(scene.url)
    page = seen.page
    expect(seen.row("resources", "cart:1")).to_be_visible()
    seen.forgive("ERR_|Failed to load resource")
    scene.stop_router()
    expect(page.get_by_role("alert").filter(has_text="The router has not answered since")).to_be_visible()
    expect(page.locator("#link-text")).to_have_text("No router")
    expect(seen.row("resources", "cart:1")).to_be_visible()
    seen.row("instances", "carts-b").get_by_role("button", name="Drain carts-b").click()
    dialog = page.get_by_role("dialog", name="Drain carts-b")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("The router does not answer.")
    page.keyboard.press("Escape")

    scene.start_router()
    seen.expect_live()
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.get_by_role("status").filter(has_text="The router answers again")).to_have_count(1)
    scene.run(carts.claim, "cart:2")
    expect(seen.row("resources", "cart:2")).to_be_visible()
    expect(seen.row("instances", "carts-b")).to_be_visible()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Scene]:
    """A router that asks for tokens."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    with open_scene("--tokens", str(tmp_path / "tokens.toml")) as opened:
        yield opened


def test_token_is_asked_for_and_kept_in_the_tab_alone(locked: Scene, visit: Callable[..., Visit]) -> None:
    """A wrong one is told; the right one is in the session's storage and nowhere else, until it is to be forgotten."""
    locked.serve("carts", "carts-a", "cart:1")
    seen = visit(locked.url)
    page = seen.page
    dialog = page.get_by_role("dialog", name="This router asks for a token")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert").filter(has_text="This router asks for a token.")).to_be_visible()
    page.get_by_role("button", name="Sign in").click()
    dialog.get_by_label("Bearer token").fill("two words")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("A token is one word of ASCII characters.")
    dialog.get_by_label("Bearer token").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("The router does not know this token.")
    dialog.get_by_label("Bearer token").fill("o-secret")
    page.keyboard.press("Enter")
    seen.expect_live()
    expect(seen.row("resources", "cart:1")).to_be_visible()
    expect(dialog).to_be_hidden()

    kept = page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie, location.href])")
    session, local, cookies, address = json.loads(kept)
    assert (list(session.values()), local, cookies) == (["o-secret"], {}, "")
    assert "o-secret" not in address + page.content()
    page.reload()
    seen.expect_live()
    page.get_by_role("button", name="Forget the token").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    seen.forgive("status of 401")
