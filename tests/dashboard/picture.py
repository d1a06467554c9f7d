"""Draws the picture of the dashboard for the documentation: ``picture.py FILE``. Takes minutes, for a history to show."""

from __future__ import annotations

import math
import os
import random
import sys
from typing import Final

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio
from playwright.sync_api import expect

from aegis_core import Health
from tests.dashboard.browser import PATIENCE, open_browser
from tests.dashboard.scene import Scene, open_scene

HISTORY: Final = 200.0
"""Seconds."""
ACCOUNTS: Final = 250


async def call(scene: Scene, seconds: float) -> None:
    """Call accounts through the router, more and less by turns."""
    chance = random.Random(7)
    limiter = trio.CapacityLimiter(8)
    async with httpx.AsyncClient(base_url=scene.url, timeout=PATIENCE) as client, trio.open_nursery() as nursery:

        async def once() -> None:
            resource = f"account:{chance.randrange(4 * ACCOUNTS)}"
            async with limiter:
                asked = {"service_name": "account-service", "method": "ping", "resource_id": resource}
                await client.post("/api/v1/admin/calls", json=asked)

        began = trio.current_time()
        while (passed := trio.current_time() - began) < seconds:
            nursery.start_soon(once)
            rate = 25 + 12 * math.sin(passed / 14) + 5 * math.sin(passed / 5)
            await trio.sleep(chance.expovariate(rate))


async def move(scene: Scene, seconds: float) -> None:
    """Let accounts come and go."""
    chance = random.Random(8)
    began = trio.current_time()
    while trio.current_time() - began < seconds:
        await trio.sleep(chance.expovariate(0.25))
        resource = f"account:{chance.randrange(4 * ACCOUNTS)}"
        owner = (await scene.node.registry.get_owner(resource)).owner_instance_id
        other = chance.choice([f"account-service-{tag}" for tag in ("1c6f", "57ab", "a3d0", "e94b")])
        if other != owner:
            await scene.node.registry.transfer("account-service", [resource], owner, other, reason="rebalance")


def furnish(scene: Scene) -> None:
    """Three services with something to see of each."""
    for number, tag in enumerate(("1c6f", "57ab", "a3d0", "e94b")):
        ids = [f"account:{number * ACCOUNTS + index}" for index in range(ACCOUNTS)]
        scene.serve("account-service", f"account-service-{tag}", *ids)
    for tag in ("2f81", "b7c5", "d0e3"):
        scene.start_mortal(f"engine-{tag}", 2.0)
    scene.serve("session-gateway", "session-gateway-3d9a", "session:eu-1", "session:eu-2")
    scene.serve("session-gateway", "session-gateway-8e02", waits_for="session:eu-1")
    ill = scene.serve("session-gateway", "session-gateway-c41f")
    scene.run(ill.set_health, Health.UNHEALTHY)


def main(path: str) -> None:
    """Draw it."""
    os.environ["AEGIS_METRICS_ENABLED"] = "true"
    with open_scene() as scene, open_browser() as browser:
        furnish(scene)
        page = browser.new_page(viewport={"width": 1440, "height": 1100}, device_scale_factor=1.25)
        page.goto(scene.url)
        scene.spawn(call, scene, HISTORY)
        scene.spawn(move, scene, HISTORY)
        page.wait_for_timeout((HISTORY - 12) * 1000)
        (active,) = page.locator("#lines .active code").filter(has_text="engine-").all_inner_texts()
        scene.kill(next(mortal for mortal in scene.mortals if mortal.instance_id == active))
        expect(page.locator("#events")).to_contain_text(f"{active} was lost")
        page.wait_for_timeout(3000)
        page.screenshot(path=path)


if __name__ == "__main__":
    main(sys.argv[1])
