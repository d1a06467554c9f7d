"""Arguments that cannot be are refused where they are given, each with its path, before anything is written."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import InstanceNotFound, InvalidRequest, ResourceConflict
from aegis_core.models import Role
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults

LIKE_A_ROLE = "active"


def paths(refused: pytest.ExceptionInfo[InvalidRequest]) -> list[str]:
    """Where the problems are."""
    return [problem.path for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"instance_id": "a b"}, ["$.instance_id"]),
        ({"instance_id": ""}, ["$.instance_id"]),
        ({"instance_id": 1}, ["$.instance_id"]),
        ({"group": "a b"}, ["$.group"]),
        ({"role": LIKE_A_ROLE}, ["$.role"]),
        ({"role": Role}, ["$.role"]),
        ({"priority": "high"}, ["$.priority"]),
        ({"metadata": [1]}, ["$.metadata"]),
        ({"metadata": ""}, ["$.metadata"]),
        ({"role": LIKE_A_ROLE, "group": "", "priority": 0.5}, ["$.group", "$.role", "$.priority"]),
    ],
    ids=str,
)
async def test_instance_is_not_served_with_what_cannot_be(
    autojump_clock: MockClock, options: dict[str, object], where: list[str]
) -> None:
    """A role given as text is none: it would wait in line where its owner means it to be the active one."""
    faults = Faults()
    async with faults.node() as node:
        with pytest.raises(InvalidRequest) as caught:
            async with node.serve(Service("svc"), **options):  # type: ignore[arg-type]
                pytest.fail("it was registered")
        assert paths(caught) == where
        assert not faults.commits


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"role": LIKE_A_ROLE}, ["$.role"]),
        ({"role": None}, ["$.role"]),
        ({"priority": "high"}, ["$.priority"]),
        ({"priority": True}, ["$.priority"]),
        ({"priority": 2**40}, ["$.priority"]),
        ({"wait": math.nan}, ["$.wait"]),
        ({"wait": -1}, ["$.wait"]),
        ({"wait": None}, ["$.wait"]),
        ({"grace": math.nan}, ["$.grace"]),
        ({"grace": -0.5}, ["$.grace"]),
        ({"grace": "1"}, ["$.grace"]),
        ({"role": LIKE_A_ROLE, "wait": "long", "grace": -math.inf}, ["$.role", "$.wait", "$.grace"]),
    ],
    ids=str,
)
async def test_resource_is_not_owned_with_what_cannot_be(
    autojump_clock: MockClock, options: dict[str, object], where: list[str]
) -> None:
    """Neither at once nor in line."""
    async with open_node("memory://") as node, node.serve(Service("svc")) as instance:
        with pytest.raises(InvalidRequest) as caught:
            async with instance.own("r", **options):  # type: ignore[arg-type]
                pytest.fail("it is owned")
        assert paths(caught) == where
        assert node.owner_of("r") is None


async def test_waiting_and_grace_may_be_none_at_all_or_endless(autojump_clock: MockClock) -> None:
    """0 asks once; endless are what they say."""
    async with open_node("memory://") as node, node.serve(Service("svc")) as one, node.serve(Service("svc")) as two:
        async with one.own("r", role=Role.STANDBY, wait=math.inf, grace=math.inf, priority=-1) as claim:
            assert claim.held
            with pytest.raises(ResourceConflict):
                async with two.own("r", role=Role.STANDBY, wait=0, grace=0):
                    pytest.fail("it is owned twice")
        assert trio.current_time() == 0


async def test_list_in_the_place_of_ids_is_told_how_to_write_it(autojump_clock: MockClock) -> None:
    """Each id is an argument of its own."""
    async with open_node("memory://") as node, node.serve(Service("svc"), instance_id="one") as one:
        with pytest.raises(InvalidRequest, match=r"got list: write claim\(\*ids\) @ \$\.resource_ids\[0\]"):
            await one.claim(["r:1", "r:2"])  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=r"got tuple: write release\(\*ids\)"):
            await one.release(("r:1",))  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=r"got list: write transfer\(\*ids\)"):
            await one.transfer("r:1", ["r:2"], to="one")  # type: ignore[arg-type]


async def test_unknown_instance_is_told_with_those_that_there_are(autojump_clock: MockClock) -> None:
    """Five of them at most: what is called by its node's name has another id."""
    async with open_node("memory://") as node, node.serve(Service("svc"), instance_id="svc-1") as one:
        await one.claim("r:1")
        with pytest.raises(InstanceNotFound, match=r"not registered; its instance ids are 'svc-1'$"):
            await one.transfer("r:1", to="b")
        with pytest.raises(InstanceNotFound, match=r"not registered; its instance ids are 'svc-1'$"):
            await node.call("svc", "method", instance_id="b")
        for number in range(6, 1, -1):
            await node.registry.register("svc", f"svc-{number}")
        with pytest.raises(InstanceNotFound) as caught:
            await one.transfer("r:1", to="b")
        assert caught.value.registered == ("svc-1", "svc-2", "svc-3", "svc-4", "svc-5")


async def test_role_as_text_changes_no_role(autojump_clock: MockClock) -> None:
    """Neither by request, nor is it waited for."""
    async with open_node("memory://") as node:
        async with node.serve(Service("svc"), role=Role.ACTIVE, instance_id="one") as one:
            with pytest.raises(InvalidRequest) as asked:
                await node.registry.set_role("svc", LIKE_A_ROLE, "one")  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest) as waited:
                await one.wait_role(LIKE_A_ROLE)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest) as registered:
                await node.registry.register("svc", "two", role=LIKE_A_ROLE)  # type: ignore[arg-type]
            assert paths(asked) == paths(waited) == paths(registered) == ["$.role"]
            assert one.role is Role.ACTIVE
