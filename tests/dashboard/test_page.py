"""What the page shows, and how soon."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from playwright.sync_api import expect

from aegis_core import Health, Role
from tests.dashboard.browser import Visit
from tests.dashboard.scene import Scene

# Notes when, in wall-clock time, the page says that another instance than this is active.
WATCH_HEIR = """
(id) => {
  window.shownAt = null;
  const look = () => {
    const active = document.querySelector("#lines .active code")?.textContent ?? id;
    if (window.shownAt === null && active !== id) window.shownAt = Date.now();
  };
  new MutationObserver(look).observe(document.getElementById("lines"), { subtree: true, childList: true, characterData: true });
}
"""


def test_router_that_knows_nobody_says_so(scene: Scene, visit: Callable[..., Visit]) -> None:
    """Not that it loads for ever; what is there is its own instance, which tells events to clients of other languages."""
    seen = visit(scene.url)
    seen.expect_live()
    expect(seen.page.locator("#count-services")).to_have_text("1")
    expect(seen.row("resources", "aegis:events")).to_be_visible()
    expect(seen.page.get_by_text("What happens from now on")).to_be_visible()
    seen.page.get_by_role("searchbox", name="Filter instances").fill("nobody")
    expect(seen.page.get_by_text("No instance has that in its id.")).to_be_visible()


def test_services_instances_lines_and_resources_are_shown(scene: Scene, visit: Callable[..., Visit]) -> None:
    """With health, role, owner, and who stands by in which order; also what comes later."""
    scene.serve("engine", "engine-a", role=Role.ACTIVE)
    scene.serve("engine", "engine-b", role=Role.STANDBY, priority=1)
    scene.serve("engine", "engine-c", role=Role.STANDBY, priority=2)
    seen = visit(scene.url)
    page = seen.page
    expect(page.locator("#count-instances")).to_have_text("4")
    expect(seen.row("instances", "engine-a").get_by_text("active", exact=True)).to_be_visible()
    expect(seen.row("instances", "engine-b").get_by_text("standby", exact=True)).to_be_visible()
    line = page.get_by_role("listitem").filter(has_text="engine · group")
    expect(line.locator("ol code")).to_have_text(["engine-a", "engine-c", "engine-b"])

    carts = scene.serve("carts", "carts-a", "cart:1", "cart:ö/2")
    expect(seen.row("resources", "cart:1").get_by_role("cell").first).to_have_text("carts-a")
    expect(seen.row("resources", "cart:ö/2")).to_be_visible()
    expect(page.locator("#events")).to_contain_text("carts-a registered")
    scene.serve("carts", "carts-b", waits_for="cart:1")
    line = page.get_by_role("listitem").filter(has_text="carts · resource")
    expect(line.locator("ol code")).to_have_text(["carts-a", "carts-b"])

    scene.run(carts.set_health, Health.UNHEALTHY)
    expect(seen.row("instances", "carts-a").get_by_text("unhealthy")).to_be_visible()
    expect(page.locator("#count-health")).to_have_text("1 unhealthy")

    page.get_by_role("button", name="carts 2 instances").click()
    expect(page.get_by_role("heading", name="Instances of carts")).to_be_visible()
    expect(seen.row("instances", "engine-a")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("heading", name="Instances of carts")).to_be_visible()


def test_fail_over_is_shown_within_a_second(
    scene: Scene, visit: Callable[..., Visit], record_property: Callable[[str, object], None]
) -> None:
    """Each of three processes dies in its turn; the page is told, it does not ask. A busy machine may spoil one turn, not all."""
    mortals = {name: scene.start_mortal(name, 2.0) for name in (f"engine-{number}" for number in range(4))}
    seen = visit(scene.url)
    active = seen.page.locator("#lines .active code")
    dying, took = "engine-0", []
    for _ in range(3):
        expect(active).to_have_text(dying)
        seen.page.evaluate(WATCH_HEIR, dying)
        scene.kill(mortals.pop(dying))
        expect(active).not_to_have_text(dying)
        heir = active.inner_text()
        assert heir in mortals
        entry = seen.page.locator("#events li").filter(has_text=f"{heir} is active for group default")
        expect(entry).to_have_count(1)
        expect(seen.page.locator("#events li").filter(has_text=f"{dying} was lost")).to_have_count(1)
        expect(seen.row("instances", dying)).to_have_count(0)
        happened = datetime.fromisoformat(entry.locator("time").get_attribute("datetime") or "").timestamp() * 1000
        took.append(seen.page.evaluate("window.shownAt") - happened)
        dying = heir
    record_property("counted", f"{min(took):.0f} ms from the event of a fail-over to the page")
    assert min(took) < 1000.0


def test_resources_are_searched_by_the_router(scene: Scene, visit: Callable[..., Visit]) -> None:
    """By part of an id and by owner, in pages that go on and back."""
    scene.serve("accounts", "accounts-a", *[f"account:{number:03}" for number in range(40)])
    scene.serve("accounts", "accounts-b", *[f"account:{number:03}" for number in range(40, 50)])
    seen = visit(scene.url)
    page = seen.page
    expect(page.locator("#resources-pager")).to_contain_text("1–15 of 51")
    page.get_by_role("button", name="Next resources").click()
    expect(seen.row("resources", "account:015")).to_be_visible()
    expect(page.locator("#resources-pager")).to_contain_text("16–30 of 51")
    page.get_by_role("searchbox", name="Search resources by id").fill("t:04")
    expect(seen.row("resources", "account:049")).to_be_visible()
    expect(page.locator("#resources-rows tr")).to_have_count(10)
    expect(page.locator("#resources-pager")).to_be_hidden()

    page.get_by_role("searchbox", name="Search resources by id").fill("nothing")
    expect(page.get_by_text("No resource that is owned matches.")).to_be_visible()
    page.get_by_role("searchbox", name="Search resources by id").fill("")
    page.get_by_role("button", name="Resources of accounts-b").click()
    expect(page.locator("#resources-rows tr")).to_have_count(10)
    expect(page.locator("#count-resources")).to_have_text("51")
    page.get_by_role("button", name="Only those of accounts-b: show all again").click()
    expect(page.locator("#resources-pager")).to_contain_text("1–15 of 51")


def test_events_can_be_paused(scene: Scene, visit: Callable[..., Visit]) -> None:
    """So that one can be read while others happen; alike ones of one instance are one entry."""
    carts = scene.serve("carts", "carts-a")
    seen = visit(scene.url)
    seen.expect_live()
    page = seen.page
    scene.run(carts.claim, *[f"cart:{number}" for number in range(30)])
    expect(page.locator("#events li")).to_have_count(1)
    expect(page.locator("#events li")).to_contain_text("carts-a owns 30 resources")
    page.get_by_role("button", name="Pause").click()
    scene.run(carts.release, "cart:7")
    resume = page.get_by_role("button", name="Resume (1 new)")
    expect(resume).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#events li")).to_have_count(1)
    resume.click()
    expect(page.locator("#events li").first).to_contain_text("cart:7 is free")


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_page_fits_its_window(scene: Scene, visit: Callable[..., Visit], width: int) -> None:
    """Nothing is to be scrolled sideways, however long the names are."""
    name = "a-service-with-a-name-that-is-as-long-as-names-can-be-and-longer"
    scene.serve(name, f"{name}-{'0123456789' * 6}", f"resource:{'abcdefgh/' * 20}")
    seen = visit(scene.url, width=width)
    expect(seen.page.locator("#resources-rows tr")).to_have_count(2)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
