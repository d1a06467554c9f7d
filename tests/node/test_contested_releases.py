"""Releases that meet what others do to the same resource: each tells what it has freed itself, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import NotOwner, ResourceConflict, ResourceNotFound, StoreUnavailable
from aegis_core.models import EndReason, Failure, Outcome
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.bulk_world import ForceAllowed, writes
from tests.node.faulty import Faults

ASKED = pytest.mark.parametrize("asked", ["here", "there"])
"""At the node of the owner, or at another one, which has to ask it."""

GOING_ON = pytest.mark.parametrize("going_on", [True, False], ids=["continue", "all or nothing"])


@attrs.define(eq=False)
class World:
    """A node behind faults, with the owner, and another one with who takes from it; ``on_release`` takes `seconds`."""

    faults: Faults
    here: Node
    there: Node
    owner: Instance = attrs.field(init=False)
    taker: Instance = attrs.field(init=False)
    seconds: float = 0.0
    told: list[str] = attrs.field(factory=list)

    def service(self) -> Service:
        """The service ``svc``."""
        service = Service("svc", version="1.0.0")

        @service.on_acquire
        async def load(_claim: Claim) -> None:
            await trio.lowlevel.checkpoint()

        @service.on_release
        async def save(_claim: Claim) -> None:
            await trio.sleep(self.seconds)

        return service

    async def force(self, *targets: str) -> None:
        """The taker takes *targets* by force."""
        await self.there.registry.claim("svc", "taker", *targets, force=True)

    async def release(self, asked: str, *targets: str) -> None:
        """Release *targets* of the owner, as *asked*."""
        await getattr(self, asked).registry.release("svc", "owner", *targets)

    async def note(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do *act*, and note how it ended."""
        try:
            await act()
        except (NotOwner, ResourceNotFound, ResourceConflict) as exc:
            self.told.append(exc.code)
        except StoreUnavailable as exc:
            self.told.append(exc.outcome.value)
        else:
            self.told.append("done")

    async def adopt_nothing(self) -> trio.Event:
        """Have the owner's node busy with a stray until the event is set, and adopt nothing meanwhile."""
        self.faults.slow(3, writes("stray"))
        deletion = self.faults.hold(go := trio.Event(), writes("stray"))
        with trio.move_on_after(0.5):
            await self.owner.claim("stray")
        await deletion.met.wait()
        return go

    def owners(self, *targets: str) -> list[str]:
        """Who owns each of *targets*, "" for nobody."""
        found = [self.there.owner_of(target) for target in targets]
        return ["" if it is None else it.owner_instance_id for it in found]


@asynccontextmanager
async def world(seconds: float = 0.0, **config: object) -> AsyncIterator[World]:
    """Both nodes; everybody may use force."""
    faults = Faults()
    async with (
        open_node("faulty://test", plugins=[faults, ForceAllowed()], config=config) as here,
        open_node("memory://test", plugins=[ForceAllowed()], config=config) as there,
    ):
        it = World(faults, here, there, seconds=seconds)
        async with (
            here.serve(it.service(), instance_id="owner") as it.owner,
            there.serve(it.service(), instance_id="taker") as it.taker,
        ):
            yield it


# -- by force -------------------------------------------------------------------------------------------------------


@ASKED
@pytest.mark.parametrize("targets", [("x",), ("x", "y")], ids=["one", "two"])
@pytest.mark.parametrize("when", ["winding down", "committing"])
async def test_what_is_taken_by_force_meanwhile_was_not_released(
    asked: str, targets: tuple[str, ...], when: str, autojump_clock: MockClock
) -> None:
    """Whose it is now is told, not that it is free; the others are."""
    async with world(seconds=1.0) as it, trio.open_nursery() as nursery:
        await it.owner.claim(*targets)
        if when == "committing":
            held = it.faults.hold(go := trio.Event(), writes("x"))
        nursery.start_soon(it.note, partial(it.release, asked, *targets))
        if when == "committing":
            await held.met.wait()
        else:
            await trio.sleep(0.5)
        await it.force("x")
        if when == "committing":
            go.set()
        await trio.sleep(3)
        assert it.told == ["NOT_OWNER"]
        assert it.owners("x", "y") == ["taker", ""]


async def test_what_came_back_meanwhile_is_released_again(autojump_clock: MockClock) -> None:
    """Taken by force and given back: it is held anew, and freed only after its work has ended."""
    async with world(seconds=1.0) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x", "y")
        nursery.start_soon(it.note, partial(it.release, "here", "x", "y"))
        await trio.sleep(0.5)
        await it.force("x")
        it.seconds = 0.0
        await it.taker.transfer("x", to="owner")
        await trio.sleep(0.1)
        anew = it.owner.claims["x"]
        await trio.sleep(3)
        assert anew.ended is EndReason.RELEASED
        assert it.told == ["done"]
        assert it.owners("x", "y") == ["", ""]


# -- slow moves -----------------------------------------------------------------------------------------------------


@ASKED
async def test_slow_transfer_that_was_quicker_is_told(asked: str, autojump_clock: MockClock) -> None:
    """Also where it takes longer than a request may."""
    async with world(seconds=3.0, request_timeout=1, drain=5) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x")
        nursery.start_soon(partial(it.owner.transfer, "x", to="taker"))
        await trio.sleep(0.5)
        nursery.start_soon(it.note, partial(it.release, asked, "x"))
        await trio.sleep(5)
        assert it.told == ["NOT_OWNER"]
        assert it.owners("x") == ["taker"]


@ASKED
async def test_slow_transfer_that_is_overtaken_itself_released_nothing(asked: str, autojump_clock: MockClock) -> None:
    """Force is quicker than both."""
    async with world(seconds=1.0) as it, it.there.serve(it.service(), instance_id="third"):
        async with trio.open_nursery() as nursery:
            await it.owner.claim("x")
            nursery.start_soon(partial(it.owner.transfer, "x", to="third"))
            await trio.sleep(0.3)
            nursery.start_soon(it.note, partial(it.release, asked, "x"))
            await trio.sleep(0.3)
            await it.force("x")
            await trio.sleep(3)
            assert it.told == ["NOT_OWNER"]
            assert it.owners("x") == ["taker"]


# -- in bulk --------------------------------------------------------------------------------------------------------


def failures(failed: tuple[Failure, ...]) -> list[tuple[str, str, str | None]]:
    """What failed, why, and who has it."""
    return [(it.resource_id, it.error_code, it.current_owner) for it in failed]


@ASKED
@GOING_ON
@pytest.mark.parametrize("how", ["force", "transfer"])
async def test_a_bulk_release_tells_what_others_took_meanwhile(
    *, asked: str, going_on: bool, how: str, autojump_clock: MockClock
) -> None:
    """Each id by itself; all or nothing, the others are owned again."""
    async with world(seconds=1.0) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x", "y")
        if how == "transfer":
            nursery.start_soon(partial(it.owner.transfer, "x", to="taker"))
            await trio.sleep(0.1)
        else:

            async def force() -> None:
                await trio.sleep(0.5)
                await it.force("x")

            nursery.start_soon(force)
        node: Node = getattr(it, asked)
        reply = await node.registry.bulk_release("svc", "owner", ["x", "y"], continue_on_error=going_on)
        assert failures(reply.failed) == [("x", "NOT_OWNER", "taker")]
        assert reply.done == (("y",) if going_on else ())
        await trio.sleep(1)
        assert it.owners("x", "y") == ["taker", "" if going_on else "owner"]
        assert set(it.owner.claims) == (set() if going_on else {"y"})


async def test_a_release_that_waits_for_a_bulk_release_is_the_same(autojump_clock: MockClock) -> None:
    """It returns when that has freed it."""
    async with world(seconds=1.0) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x", "y")
        nursery.start_soon(partial(it.owner.bulk_release, ["x", "y"]))
        await trio.sleep(0.5)
        await it.release("here", "x")
        assert it.owners("x") == [""]


@GOING_ON
async def test_a_bulk_release_leaves_what_another_task_claims(*, going_on: bool, autojump_clock: MockClock) -> None:
    """Whose claim is believed as soon as it is there: its record must not go."""
    async with world() as it, trio.open_nursery() as nursery:
        await it.owner.claim("y")
        go = await it.adopt_nothing()
        await it.there.registry.claim("svc", "owner", "x")
        await it.here.runtime.directory.sync()
        slow = it.faults.slow(1, writes("x"))
        nursery.start_soon(it.owner.claim, "x")
        await slow.met.wait()
        reply = await it.owner.bulk_release(["x", "y"], continue_on_error=going_on)
        assert failures(reply.failed) == [("x", "RESOURCE_CONFLICT", "owner")]
        assert reply.done == (("y",) if going_on else ())
        go.set()
        await trio.sleep(2)
        assert it.owner.claims["x"].held
        assert it.owners("x", "y") == ["owner", "" if going_on else "owner"]


# -- what has just come ---------------------------------------------------------------------------------------------


async def test_of_two_releases_of_a_stray_one_is_done(autojump_clock: MockClock) -> None:
    """Also where the node deletes it by itself already, and is quicker."""
    async with world() as it, trio.open_nursery() as nursery:
        it.faults.slow(3, writes("x"))
        own = it.faults.hold(go := trio.Event(), writes("x"))
        it.faults.hold(later := trio.Event(), writes("x"), times=10)
        with trio.move_on_after(0.5):
            await it.owner.claim("x")
        await own.met.wait()
        for _ in range(2):
            nursery.start_soon(it.note, partial(it.release, "here", "x"))
        await trio.sleep(0.5)
        go.set()
        await trio.sleep(0.5)
        later.set()
        await trio.sleep(5)
        assert sorted(it.told) == ["RESOURCE_NOT_FOUND", "done"]
        assert it.owners("x") == [""]


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "free"])
async def test_of_two_releases_of_what_has_just_come_one_is_done(*, taken: bool, autojump_clock: MockClock) -> None:
    """However often it has to be asked for; to the other it is nobody's, or whose it is now."""
    async with world() as it, trio.open_nursery() as nursery:
        go = await it.adopt_nothing()
        await it.there.registry.claim("svc", "owner", "x")
        it.faults.lose(writes("x"))
        slow = it.faults.slow(1, writes("x"))
        for _ in range(2):
            nursery.start_soon(it.note, partial(it.release, "here", "x"))
        await slow.met.wait()
        if taken:
            await it.taker.claim("x")
        await trio.sleep(3)
        assert sorted(it.told) == ["NOT_OWNER" if taken else "RESOURCE_NOT_FOUND", "done"]
        go.set()
        await trio.sleep(3)
        assert it.owners("x", "stray") == ["taker" if taken else "", ""]
        assert not it.owner.claims


async def test_what_comes_again_while_it_is_being_deleted_is_adopted(autojump_clock: MockClock) -> None:
    """The answer to the deletion is late, and the resource is there anew before it."""
    async with world() as it, trio.open_nursery() as nursery:
        go = await it.adopt_nothing()
        await it.there.registry.claim("svc", "owner", "x")
        slow = it.faults.slow(3, writes("x"))
        nursery.start_soon(it.note, partial(it.release, "here", "x"))
        await slow.met.wait()
        go.set()
        await trio.sleep(1)
        await it.there.registry.claim("svc", "owner", "x")
        await trio.sleep(5)
        assert it.told == ["done"]
        assert it.owners("x") == ["owner"]
        assert it.owner.claims["x"].held


@ASKED
async def test_what_others_of_its_tasks_keep_claiming_stays(asked: str, autojump_clock: MockClock) -> None:
    """The release gives up then, and what has come is adopted after all."""
    async with world(request_timeout=1) as it, trio.open_nursery() as nursery:
        holdings = (await it.owner.membership.wait_registered()).holdings
        with holdings.attempt(("x",)):
            await it.there.registry.claim("svc", "owner", "x")
            nursery.start_soon(it.note, partial(it.release, asked, "x"))
            await trio.sleep(2)
            assert it.told == ["RESOURCE_CONFLICT"]
        await trio.sleep(1)
        assert it.owner.claims["x"].held
        assert it.owners("x") == ["owner"]


# -- a store that does not answer -----------------------------------------------------------------------------------


@ASKED
async def test_release_without_an_answer_may_have_been(asked: str, autojump_clock: MockClock) -> None:
    """Others own it by the time that it is given up: because it was released, for all that is known."""
    async with world(request_timeout=2) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x", "y")
        it.faults.unanswered(writes("x"))
        it.faults.lose(writes("x"), times=10_000)
        nursery.start_soon(it.note, partial(it.release, asked, "x", "y"))
        await trio.sleep(0.5)
        await it.taker.claim("x", "y")
        await trio.sleep(5)
        assert it.told == [Outcome.MAYBE_EXECUTED.value]
        it.faults.heal_commits()


@ASKED
async def test_release_that_is_done_in_part_may_have_been(asked: str, autojump_clock: MockClock) -> None:
    """One was taken by force, and the store does not tell by whom; the other one is free."""
    async with world(seconds=1.0, request_timeout=2) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x", "y")
        nursery.start_soon(it.note, partial(it.release, asked, "x", "y"))
        await trio.sleep(0.5)
        await it.force("x")
        if asked == "here":
            it.faults.on_commit = lambda _: setattr(it.faults, "sync_refused", True)
        await trio.sleep(5)
        assert it.told == ([Outcome.MAYBE_EXECUTED.value] if asked == "here" else ["NOT_OWNER"])
        assert it.owners("x", "y") == ["taker", ""]


async def test_who_waits_for_a_release_without_an_answer_is_told_the_same(autojump_clock: MockClock) -> None:
    """Its work has ended, and it is freed when the store answers: who asks again has not asked in vain."""
    async with world(seconds=1.0, request_timeout=2) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x")
        for _ in range(2):
            nursery.start_soon(it.note, partial(it.release, "here", "x"))
            await trio.sleep(0.2)
        it.faults.refusing = True
        await trio.sleep(6)
        assert it.told == [Outcome.MAYBE_EXECUTED.value] * 2
        it.faults.refusing = False
        await trio.sleep(10)
        assert it.owners("x") == [""]


async def test_bulk_release_without_an_answer_may_be_carried_out_yet(autojump_clock: MockClock) -> None:
    """What has ended is freed when the store answers, though no commit of it was sent."""
    async with world(seconds=1.0, request_timeout=2) as it, trio.open_nursery() as nursery:
        await it.owner.claim("x")
        failed: list[Failure] = []

        async def release() -> None:
            reply = await it.owner.bulk_release(["x"], retries=0)
            failed.extend(reply.failed)

        nursery.start_soon(release)
        await trio.sleep(0.5)
        it.faults.refusing = True
        await trio.sleep(6)
        (failure,) = failed
        assert failure.error_code == StoreUnavailable.code
        assert Outcome.MAYBE_EXECUTED.value in failure.reason
        it.faults.refusing = False
        await trio.sleep(10)
        assert it.owners("x") == [""]
