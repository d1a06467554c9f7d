"""What can be done on the page, by mouse and by keyboard, and how a refusal is told."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.dashboard.browser import Visit
from tests.dashboard.scene import Scene

FOCUSED = """() => {
    const focused = document.querySelector(":focus-visible");
    if (focused === null) return [[], ""];
    const names = [focused.getAttribute("aria-label"), focused.textContent, focused.id];
    return [names, getComputedStyle(focused).outlineStyle];
}"""
"""What the control that visibly has the focus is called, and the style of its outline."""


def owner(scene: Scene, resource_id: str) -> str:
    """Who owns it, as a node says."""
    return scene.run(scene.node.registry.get_owner, resource_id).owner_instance_id


def tab_to(page: Page, name: str) -> None:
    """Press the tabulator until the focus, which must be visible, is on the control of that name."""
    for _ in range(80):
        page.keyboard.press("Tab")
        # All at once, because the page may change between two questions.
        names, outline = page.evaluate(FOCUSED)
        if name in names:
            assert outline != "none"
            return
    raise AssertionError(f"the tabulator does not lead to {name!r}")


def test_resource_is_transferred_by_click(scene: Scene, visit: Callable[..., Visit]) -> None:
    """After it was asked where to, and why; the audit record has the reason."""
    scene.serve("carts", "carts-a", "cart:1")
    scene.serve("carts", "carts-b")
    scene.serve("others", "others-a")
    seen = visit(scene.url)
    page = seen.page
    seen.row("resources", "cart:1").get_by_role("button", name="Transfer cart:1").click()
    dialog = page.get_by_role("dialog", name="Transfer cart:1")
    expect(dialog.get_by_role("option")).to_have_text(["carts-b – standby"])
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert owner(scene, "cart:1") == "carts-a"

    seen.row("resources", "cart:1").get_by_role("button", name="Transfer cart:1").click()
    dialog.get_by_label("Reason").fill("to try it")
    dialog.get_by_role("button", name="Transfer", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#toast")).to_have_text("cart:1 moved to carts-b")
    expect(seen.row("resources", "cart:1").get_by_role("cell").first).to_have_text("carts-b")
    expect(page.get_by_role("status").filter(has_text="cart:1 moved to carts-b")).to_have_count(1)
    assert owner(scene, "cart:1") == "carts-b"

    page.get_by_role("button", name="cart:1", exact=True).click()
    explained = page.get_by_role("dialog", name="cart:1")
    expect(explained.locator("#explain-history")).to_contain_text("to try it")
    expect(explained.locator("#explain-facts")).to_contain_text("carts-b")


def test_everything_is_done_by_keyboard(scene: Scene, visit: Callable[..., Visit]) -> None:
    """With the focus always visible, and back where it was when a dialog closes."""
    scene.serve("carts", "carts-a", "cart:1")
    scene.serve("carts", "carts-b")
    seen = visit(scene.url)
    page = seen.page
    expect(seen.row("resources", "cart:1")).to_be_visible()
    tab_to(page, "Resources of carts-a")
    page.keyboard.press("Enter")
    expect(page.locator("#resources-search")).to_be_focused()
    page.keyboard.type("cart")
    expect(page.locator("#resources-rows tr")).to_have_count(1)  # what was not asked for has gone, with any focus on it
    tab_to(page, "cart:1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="cart:1")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="cart:1", exact=True)).to_be_focused()
    tab_to(page, "Transfer cart:1")
    page.keyboard.press("Space")
    expect(page.get_by_role("dialog", name="Transfer cart:1")).to_be_visible()
    page.keyboard.press("ArrowDown")
    tab_to(page, "transfer-reason")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_have_text("cart:1 moved to carts-b")
    assert owner(scene, "cart:1") == "carts-b"


def test_instance_is_drained(scene: Scene, visit: Callable[..., Visit]) -> None:
    """After it was asked: what it held goes to others, and it shows that it takes no more."""
    scene.serve("carts", "carts-a", "cart:1")
    scene.serve("carts", "carts-b", waits_for="cart:1")
    seen = visit(scene.url)
    seen.row("instances", "carts-a").get_by_role("button", name="Drain carts-a").click()
    dialog = seen.page.get_by_role("dialog", name="Drain carts-a")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(seen.page.locator("#toast")).to_have_text("carts-a is drained")
    expect(seen.row("resources", "cart:1").get_by_role("cell").first).to_have_text("carts-b")
    expect(seen.row("instances", "carts-a").get_by_text("draining")).to_be_visible()


def test_refusal_is_told_where_it_was_asked(scene: Scene, visit: Callable[..., Visit]) -> None:
    """And the dialog stays, with what was entered; a transfer without a target is not asked for."""
    cart = scene.serve("carts", "carts-a", "cart:1")
    seen = visit(scene.url)
    page = seen.page
    transfer = seen.row("resources", "cart:1").get_by_role("button", name="Transfer cart:1")
    transfer.click()
    dialog = page.get_by_role("dialog", name="Transfer cart:1")
    expect(dialog.get_by_role("alert")).to_have_text("carts has no other instance that is online.")
    dialog.get_by_role("button", name="Transfer", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("Choose the new owner.")
    page.keyboard.press("Escape")

    scene.serve("carts", "carts-b")
    expect(seen.row("instances", "carts-b")).to_be_visible()
    transfer.click()
    dialog.get_by_label("Reason").fill("kept")
    scene.run(cart.release, "cart:1")
    dialog.get_by_role("button", name="Transfer", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("cart:1")
    expect(dialog.get_by_label("Reason")).to_have_value("kept")
    seen.forgive("409|404|403|400|status of 4")


def test_many_targets_are_searched(scene: Scene, visit: Callable[..., Visit]) -> None:
    """A service may have a thousand of them."""
    scene.serve("carts", "carts-a", "cart:1")
    for number in range(12):
        scene.serve("carts", f"carts-target-{number:02}")
    seen = visit(scene.url)
    expect(seen.page.locator("#count-instances")).to_have_text("14")
    seen.row("resources", "cart:1").get_by_role("button", name="Transfer cart:1").click()
    dialog = seen.page.get_by_role("dialog", name="Transfer cart:1")
    expect(dialog.get_by_role("option")).to_have_count(12)
    dialog.get_by_role("searchbox", name="Find an instance").fill("-07")
    expect(dialog.get_by_role("option")).to_have_count(1)
    dialog.get_by_role("button", name="Transfer", exact=True).click()
    expect(seen.page.locator("#toast")).to_have_text("cart:1 moved to carts-target-07")
