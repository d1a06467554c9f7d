"""The charts: they show what the router counted, and when."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser import PATIENCE, Visit
from tests.dashboard.pace import SCRIPT, Pace
from tests.dashboard.scene import Scene, open_scene
from tests.observe.scraping import parse


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A router that counts calls."""
    monkeypatch.setenv("AEGIS_METRICS_ENABLED", "true")
    with open_scene() as opened:
        yield opened


def call(scene: Scene, times: int, method: str = "ping", **params: object) -> None:
    """Have the router call ``engine`` so many times."""
    with httpx.Client(base_url=scene.url, timeout=PATIENCE) as client:
        for _ in range(times):
            asked = {"service_name": "engine", "method": method, "params": params}
            assert client.post("/api/v1/admin/calls", json=asked).json()["success"]


def legend(page: Page, chart: str) -> dict[str, str]:
    """What stands beside each name above the chart: its latest value."""
    names, values = (page.locator(f"#{chart} .legend {kind}").all_inner_texts() for kind in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def drawn(page: Page, chart: str, series: int) -> list[float]:
    """The values that a line of the chart goes through, read off by its scale."""
    scale = page.evaluate(
        """chart => [...document.querySelectorAll(`#${chart} svg text[text-anchor=end]`)]
            .map(label => [label.textContent, Number(label.getAttribute("y"))])""",
        chart,
    )
    levels = [(float(re.sub(r"[^\d.]", "", text)), y) for text, y in scale if text != "now"]
    (low, bottom), (high, top) = min(levels), max(levels)
    path = page.locator(f"#{chart} path.series-{series}").get_attribute("d") or ""
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    # The labels stand a little below their lines.
    return [low + (bottom - 4 - y) / (bottom - top) * (high - low) for y in heights]


Buckets = Mapping[float, float]


def buckets(scene: Scene) -> Buckets:
    """How many calls took at most how long, as the router tells it to anybody."""
    page = parse(httpx.get(f"{scene.url}/metrics", timeout=PATIENCE).text)
    found: dict[float, float] = {}
    for labels, value in page.series("ipc_call_duration_seconds_bucket").items():
        bound = float(dict(labels)["le"])
        found[bound] = found.get(bound, 0) + value
    return found


def milliseconds(share: float, before: Buckets, after: Buckets) -> str:
    """What a share of the calls between took at most, as the page writes it."""
    counts = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    below = lower = 0.0
    for bound, count in sorted(counts.items()):
        if count >= share * counts[float("inf")]:
            value = lower + (bound - lower) * (share * counts[float("inf")] - below) / (count - below)
            return f"{float(f'{1000 * value:.2g}'):,g} ms"
        below, lower = count, bound
    raise AssertionError("nothing was counted")


def test_charts_show_calls_and_their_latency(counting: Scene, visit: Callable[..., Visit]) -> None:
    """Per second, between two looks at the router's metrics: what came, that nothing came, and what was slow."""
    counting.serve("engine", "engine-a")
    seen = visit(counting.url, script=SCRIPT, clock=True)
    seen.expect_live()
    expect(seen.row("instances", "engine-a")).to_be_visible()
    page, pace = seen.page, Pace(seen.page)
    pace.stop()
    pace.look()
    assert legend(page, "chart-latency") == {"Median": "–", "99 %": "–"}
    expect(page.locator("#chart-latency .empty")).to_contain_text("No call has come through this router yet")
    shown: list[float] = []
    medians: list[float] = []
    for times, method, params in ((40, "ping", {}), (0, "ping", {}), (4, "nap", {"seconds": 0.3})):
        before = buckets(counting)
        call(counting, times, method, **params)
        after = buckets(counting)
        pace.look()
        assert legend(page, "chart-rate")["Calls"] == f"{times / 2:g}"
        shown.append(times / 2)
        expected = {"Median": "–", "99 %": "–"}
        if times:
            expected = {"Median": milliseconds(0.5, before, after), "99 %": milliseconds(0.99, before, after)}
            medians.append(float(expected["Median"].removesuffix(" ms").replace(",", "")))
        assert legend(page, "chart-latency") == expected
    assert medians[1] > 250
    assert drawn(page, "chart-rate", 0)[-3:] == pytest.approx(shown, abs=0.2)
    assert drawn(page, "chart-latency", 0) == pytest.approx(medians, rel=0.02, abs=3)
    expect(page.locator("#chart-latency .empty")).to_be_hidden()


def test_chart_shows_every_event(counting: Scene, visit: Callable[..., Visit]) -> None:
    """Each in the two seconds in which the page heard of it."""
    carts = counting.serve("carts", "carts-a")
    seen = visit(counting.url, script=SCRIPT, clock=True)
    seen.expect_live()
    expect(seen.row("instances", "carts-a")).to_be_visible()
    page, pace = seen.page, Pace(seen.page)
    pace.stop()
    counting.run(carts.claim, *[f"cart:{number}" for number in range(6)])
    pace.wait_for('window.streamed.split("event: resource_registered").length === 7')
    pace.look()
    assert legend(page, "chart-rate")["Events"] == "3"
    pace.look()
    assert legend(page, "chart-rate")["Events"] == "0"
    assert drawn(page, "chart-rate", 1)[-2:] == pytest.approx([3, 0], abs=0.05)


def test_router_that_counts_nothing_says_so(scene: Scene, visit: Callable[..., Visit]) -> None:
    """And how it would."""
    seen = visit(scene.url)
    seen.expect_live()
    expect(seen.page.locator("#chart-latency .empty")).to_contain_text("started without the setting metrics.enabled")
    assert legend(seen.page, "chart-rate")["Calls"] == "–"
