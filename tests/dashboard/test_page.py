"""What the page shows, and how soon."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from aegis_core import Health, Role
from tests.dashboard.browser import Visit
from tests.dashboard.pace import SCRIPT, Pace
from tests.dashboard.scene import Scene

SOON = 1000
"""Milliseconds within which the page shows what it was told of."""


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
    """Each of three processes dies in its turn; the page is told, it does not ask.

    The page's own clock decides, which stands still while others let it wait: how busy the machine is makes no difference.
    """
    mortals = {name: scene.start_mortal(name, 2.0) for name in (f"engine-{number}" for number in range(4))}
    seen = visit(scene.url, script=SCRIPT, clock=True)
    active = seen.page.locator("#lines .active code")
    dying, took, by_the_wall = "engine-0", [], []
    expect(active).to_have_text(dying)
    pace = Pace(seen.page)
    pace.stop()
    for _ in range(3):
        pace.run(SOON)  # Whatever had begun has ended.
        seen.page.evaluate("window.streamed = ''")
        scene.kill(mortals.pop(dying))
        pace.wait_for(
            """window.streamed.includes('"reason":"promoted"') || window.streamed.includes('"reason": "promoted"')"""
        )
        heard = time.monotonic()
        took.append(pace.until(lambda: active.inner_text() in mortals, SOON))
        by_the_wall.append(time.monotonic() - heard)
        heir = active.inner_text()
        assert heir in mortals
        pace.until(lambda gone=dying: seen.row("instances", gone).count() == 0, SOON - took[-1])
        expect(seen.row("instances", dying)).to_have_count(0)
        expect(seen.page.locator("#events li").filter(has_text=f"{heir} is active for group default")).to_have_count(1)
        expect(seen.page.locator("#events li").filter(has_text=f"{dying} was lost")).to_have_count(1)
        dying = heir
    told = f"{statistics.median(took)} ms of the page's time ({1000 * statistics.median(by_the_wall):.0f} by the wall)"
    record_property("counted", f"{told} from the event of a fail-over to the page, the median of three")
    assert max(took) < SOON


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
