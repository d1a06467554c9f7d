"""Requests that come together are served by one turn of the scheduler where that does, and none waits for another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar, copy_context

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import codec
from aegis_core.envelopes import RequestEnvelope
from aegis_core.errors import AegisError, CallTimeout, NoInstance, RemoteError
from aegis_core.models import EndReason, Outcome
from aegis_core.node.call import Call, current_call
from aegis_core.node.service import Service
from aegis_core.node.stepping import Begun, take_step
from tests.node.served import Served, served

mark: ContextVar[str] = ContextVar("mark", default="")


@attrs.define(eq=False)
class Asked:
    """A request, and what became of it."""

    payload: bytes
    answer: bytes | None = None

    def respond(self, payload: bytes) -> None:
        """Keep the answer."""
        assert self.answer is None
        self.answer = payload

    @property
    def result(self) -> object:
        """What was answered: a result, or an error."""
        assert self.answer is not None
        try:
            return codec.decode_result(self.answer)
        except AegisError as exc:
            return exc


def ask_together(it: Served, *methods: str, timeout: float = 5.0, resource_id: str | None = None) -> list[Asked]:
    """Let the server receive one request for each of *methods* in this step."""
    requests = [
        RequestEnvelope(method, {}, service_name="noting", resource_id=resource_id, timeout=timeout)
        for method in methods
    ]
    asked = [Asked(codec.encode_request(request)) for request in requests]
    for each in asked:
        it.server.receive(each)
    return asked


@attrs.define(eq=False)
class Seen:
    """What handlers saw."""

    order: list[str] = attrs.field(factory=list)
    tasks: list[trio.lowlevel.Task] = attrs.field(factory=list)
    marks: list[str] = attrs.field(factory=list)

    def note(self, call: Call) -> None:
        """A handler of *call* runs."""
        assert current_call.get() is call
        self.order.append(call.method)
        self.tasks.append(trio.lowlevel.current_task())
        self.marks.append(mark.get())
        mark.set(call.method)


def noting(seen: Seen, during: Callable[[], object] = lambda: None) -> Service:
    """A service whose methods note what they see: ``quick``, ``slow``, ``odd`` which does *during* and is quick, ``crash``."""
    service = Service("noting")

    @service.method
    async def quick(call: Call) -> str:
        seen.note(call)
        return "quick"

    @service.method
    async def slow(call: Call) -> str:
        seen.note(call)
        await trio.sleep(1)
        assert current_call.get() is call
        assert mark.get() == "slow"
        await trio.sleep(1)
        return "slow"

    @service.method
    async def odd(call: Call) -> str:
        seen.note(call)
        during()
        return "odd"

    @service.method
    async def crash(call: Call) -> None:
        seen.note(call)
        raise ZeroDivisionError("by zero")

    return service


async def test_who_need_not_wait_are_served_by_one_task_in_their_order(autojump_clock: MockClock) -> None:
    """Each in a context of its own, as the instance was served in; one that fails fails alone."""
    seen = Seen()
    mark.set("served")
    async with served(noting(seen)) as it:
        for _ in range(2):
            asked = ask_together(it, "quick", "odd", "crash", "quick")
            assert it.server.running == 4
            await trio.testing.wait_all_tasks_blocked()
            assert it.server.running == 0
            results = [each.result for each in asked]
            assert [results[0], results[1], results[3]] == ["quick", "odd", "quick"]
            assert isinstance(results[2], RemoteError)
    assert seen.order == ["quick", "odd", "crash", "quick"] * 2
    assert set(seen.marks) == {"served"}
    assert len(set(seen.tasks)) == 1


async def test_who_has_to_wait_holds_up_nobody(autojump_clock: MockClock) -> None:
    """The others go on in tasks of their own; after its wait it has the context that it had before."""
    seen = Seen()
    async with served(noting(seen)) as it:
        for _ in range(2):
            asked = ask_together(it, "quick", "slow", "quick", "slow", "quick")
            await trio.testing.wait_all_tasks_blocked()
            assert it.server.running == 2
            assert [each.answer is not None for each in asked] == [True, False, True, False, True]
            await trio.sleep(3)
            assert [each.result for each in asked] == ["quick", "slow", "quick", "slow", "quick"]
    assert set(seen.marks) == {""}


@pytest.mark.parametrize(
    "first",
    [("quick", "quick"), ("quick", "slow"), ("slow", "quick")],
    ids=["no one waits", "the last waits", "the first waits"],
)
async def test_room_that_a_turn_has_made_is_taken_by_all_for_whom_it_does(
    first: tuple[str, str], autojump_clock: MockClock
) -> None:
    """What is queued waits for nothing but room: as many begin as may."""
    seen = Seen()
    async with served(noting(seen), limits={"handlers": 2}) as it:
        asked = ask_together(it, *first, "slow", "slow")
        assert len(it.server.queue) == 2
        await trio.testing.wait_all_tasks_blocked()
        assert it.server.running == 2
        assert len(it.server.queue) == first.count("slow")
        await trio.sleep(2.5)  # a slow one takes two seconds
        assert [each.answer is not None for each in asked] == [True, True, True, first.count("slow") == 0]
        await trio.sleep(2)
        assert asked[-1].result == "slow"


async def test_drain_ends_when_what_is_left_has_run_out_of_time(autojump_clock: MockClock) -> None:
    """It is answered, and nobody waits for it any longer."""
    seen = Seen()
    async with served(noting(seen), limits={"handlers": 1}) as it:
        (running,) = ask_together(it, "slow")
        (queued,) = ask_together(it, "quick", timeout=0.5)
        with trio.fail_after(2.1):
            await it.server.drained()
        assert running.result == "slow"
        assert isinstance(queued.result, CallTimeout)


async def test_place_where_a_handler_waits_can_be_found(autojump_clock: MockClock) -> None:
    """As for any coroutine: by the frames behind its task."""
    seen = Seen()
    async with served(noting(seen)) as it:
        ask_together(it, "slow", "quick")
        await trio.testing.wait_all_tasks_blocked()
        frames = [frame.f_code.co_name for frame, _ in seen.tasks[0].iter_await_frames()]
        assert frames[frames.index("run") :][:2] == ["run", "slow"]
        assert frames[-1] != "slow"


async def test_who_waits_is_cancelled_at_its_own_deadline(autojump_clock: MockClock) -> None:
    """Whoever came together with it."""
    seen = Seen()
    async with served(noting(seen)) as it:
        (quick,) = ask_together(it, "quick", timeout=0.5)
        (slow,) = ask_together(it, "slow", timeout=1.5)
        (patient,) = ask_together(it, "slow", timeout=5.0)
        await trio.sleep(1.6)
        assert quick.result == "quick"
        assert isinstance(slow.result, CallTimeout)
        assert patient.answer is None
        await trio.sleep(1)
        assert patient.result == "slow"


async def test_time_that_ran_out_is_not_the_next_ones(autojump_clock: MockClock) -> None:
    """A handler that blocks past its deadline without waiting for anything has its answer; the next are not cancelled."""
    seen = Seen()
    async with served(noting(seen, lambda: autojump_clock.jump(2.0))) as it:
        asked = [*ask_together(it, "odd", timeout=1.0), *ask_together(it, "slow", "quick", timeout=60.0)]
        await trio.sleep(5)
        assert [each.result for each in asked] == ["odd", "slow", "quick"]


async def test_time_that_ran_out_before_its_turn_is_not_the_next_ones(autojump_clock: MockClock) -> None:
    """Who came together with a request that had next to no time is served as if it had come alone."""
    seen = Seen()
    async with served(noting(seen)) as it:
        for _ in range(2):  # by a new worker, and by one that was idle
            asked = [*ask_together(it, "quick", timeout=0.001), *ask_together(it, "quick", "slow", timeout=60.0)]
            autojump_clock.jump(1.0)
            await trio.sleep(5)
            assert [each.result for each in asked[1:]] == ["quick", "slow"]


async def test_interrupted_claim_takes_along_only_what_runs_under_it(autojump_clock: MockClock) -> None:
    """What came together with its calls is done by another worker."""
    seen = Seen()

    def interrupt() -> None:
        it.instance.claims_table["thing"].interrupt(EndReason.EXPIRED)

    async with served(noting(seen, interrupt)) as it:
        await it.instance.claim("thing")
        asked = [*ask_together(it, "odd", resource_id="thing"), *ask_together(it, "slow", "quick")]
        await trio.sleep(5)
        assert [each.result for each in asked] == ["odd", "slow", "quick"]
    assert seen.tasks[0] is not seen.tasks[1]


async def test_what_has_not_begun_when_all_is_cancelled_was_not_executed(autojump_clock: MockClock) -> None:
    """Also where a handler is the cause, with others waiting for their turn after it."""
    seen = Seen()

    def cancel_all() -> None:
        it.server.cancel_all()

    async with served(noting(seen, cancel_all)) as it:
        asked = ask_together(it, "odd", "quick", "slow")
        await trio.testing.wait_all_tasks_blocked()
        assert asked[0].result == "odd"
        for each in asked[1:]:
            assert isinstance(each.result, NoInstance)
            assert each.result.outcome is Outcome.REJECTED
        assert it.server.running == 0
    assert seen.order == ["odd"]


async def test_who_was_called_and_cancelled_before_its_turn_is_called_no_more(autojump_clock: MockClock) -> None:
    """What would come next is not handed to somebody who has ended."""
    async with served(noting(Seen())) as it:
        (asked,) = ask_together(it, "quick")
        assert it.server.called is not None
        it.server.cancel_all()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(asked.result, NoInstance)
        assert (it.server.called, it.server.running) == (None, 0)


# --- The step itself --------------------------------------------------------------------------


class Plain:
    """Something to wait for that is no coroutine."""

    def __init__(self, waits: int) -> None:
        self._waits = waits

    def __await__(self) -> Generator[object, object, object]:
        async def wait() -> object:
            for _ in range(self._waits):
                await trio.lowlevel.checkpoint()
            return mark.get()

        return wait().__await__()


async def _raise() -> None:
    await trio.lowlevel.checkpoint()
    raise KeyError("later")


async def test_anything_can_be_waited_for() -> None:
    """A step is enough, or it goes on as if it had been awaited from the beginning."""
    context = copy_context()
    context.run(mark.set, "stepped")
    assert take_step(context, Plain(0)) == "stepped"
    mark.set("stepped")
    begun = take_step(context, Plain(3))
    assert isinstance(begun, Begun)
    assert await begun == "stepped"


async def test_error_after_the_first_step_is_its_own() -> None:
    """And so is a cancellation."""

    async def outcome_of(awaitable: Awaitable[object]) -> object:
        begun = take_step(copy_context(), awaitable)
        assert isinstance(begun, Begun)
        return await begun

    with pytest.raises(KeyError, match="later"):
        await outcome_of(_raise())
    with trio.CancelScope() as scope:
        scope.cancel()
        await outcome_of(Plain(1))
    assert scope.cancelled_caught
