"""The calls of a test's cluster: what each instance handled, and whether every caller got an answer.

It sees what passes between a node and its transports, and so needs nothing of the application, nor of the backend. What
a caller sends is entered with its first attempt, and struck out when an answer of a handler reaches the caller, whichever
attempt it answers; what stands there in the end is *lost*. Who had no answer may repeat the call with its idempotency
key: the answer to that is one to both, unless another instance may have been meant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

import attrs
import trio

from aegis_core import codec
from aegis_core.envelopes import RequestEnvelope
from aegis_core.errors import InvalidRequest, Unavailable
from aegis_core.node.service import RESERVED
from aegis_pytest.handled_call import HandledCall, is_refusal
from aegis_pytest.known_services import KnownServices
from aegis_pytest.recording import RecordedCall, Recording
from aegis_pytest.sent_call import SentCall
from aegis_pytest.telling import brief, clip, first_lines, show_fields, show_time

__all__ = ["DEFAULT_WITHIN", "CallLog", "read_call"]

DEFAULT_WITHIN: Final = 5.0
"""Seconds: the time that a call has by default."""

_MOST: Final = 100_000
_SHOWN: Final = 12
_FIELDS: Final = (
    "node",
    "instance_id",
    "service_name",
    "method",
    "params",
    "resource_id",
    "epoch",
    "idempotency_key",
    "trace_id",
    "message_id",
    "result",
    "error",
)


def read_call(payload: bytes) -> RequestEnvelope | None:
    """The call of an application that *payload* is; None for what is none, or is the library's own."""
    try:
        request = codec.decode_request(payload)
    except InvalidRequest:
        return None
    return None if request.method.startswith(RESERVED) else request


@attrs.define(eq=False)
class _Expectation:
    """Somebody who waits for a call."""

    pattern: Mapping[str, object]
    came: trio.Event = attrs.field(factory=trio.Event)
    call: HandledCall | None = None


class CallLog:
    """What the instances of a cluster were asked, and what they answered; the fixture ``aegis_calls``.

    Iterating over it gives every `HandledCall` in the order in which they were received. What an instance refused before a
    handler began is none (the call went elsewhere, or its caller was told so), and neither is what the library asks for
    itself. The last 100,000 are kept.
    """

    def __init__(self) -> None:
        self.known: Final = KnownServices()
        self._began = trio.current_time()
        self._received: deque[HandledCall] = deque(maxlen=_MOST)
        self._taken: set[HandledCall] = set()
        self._cleared: set[HandledCall] = set()
        self._sent: dict[str, SentCall] = {}
        self._listening: set[str] = set()
        self._expectations: dict[_Expectation, None] = {}
        self._count = 0
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<CallLog of {len(self)} calls>"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[HandledCall]:
        return (call for call in tuple(self._received) if not call.refused)

    # -- looking at them --------------------------------------------------------------------------------------

    def of(self, service_name: str | None = None, method: str | None = None, /, **fields: object) -> list[HandledCall]:
        """The calls that were handled so far; what `expect` took is among them, and so is what has no answer yet.

        That there were none of a service can be said only of one that there is: a name that is misspelt is refused.

        Args:
            service_name: Only those of this service.
            method: Only those of this method.
            fields: Values that attributes of `HandledCall` must have. Of ``params`` those that are named must be so,
                others may be anything; ``error`` may be a class.

        Raises:
            TypeError: A call has no such field.
            pytest.UsageError: The cluster has never had an instance of the service, or none with the method, and no call
                names it.
        """
        __tracebackhide__ = True
        self.known.check(service_name, method)
        pattern = _pattern(service_name, method, fields)
        return [call for call in self if _matches(call, pattern)]

    def clear(self) -> None:
        """Let `expect` and `expect_none_lost` look only at what comes from now on: what is under way came before."""
        self._cleared = set(self._received)
        self._taken.clear()
        self._sent.clear()
        self._count = 0

    def recording(self, service_name: str, method: str | None = None, /, **fields: object) -> Recording:
        """The calls of one service that were handled and answered so far, to be written to a file and replayed.

        Args:
            service_name: The service.
            method: Only those of this method.
            fields: As of `of`.

        Raises:
            TypeError, pytest.UsageError: As of `of`.
        """
        __tracebackhide__ = True
        return Recording(
            tuple(
                RecordedCall(request=call.request, answer=call.answer)
                for call in self.of(service_name, method, **fields)
                if call.answer is not None
            )
        )

    # -- expecting --------------------------------------------------------------------------------------------

    async def expect(
        self,
        service_name: str | None = None,
        method: str | None = None,
        /,
        *,
        within: float = DEFAULT_WITHIN,
        **fields: object,
    ) -> HandledCall:
        """Wait until a call has been handled and answered, and return it.

        What was answered before counts too, and each call is taken once: the next `expect` wants another.

        Args:
            service_name: Its service.
            method: Its method.
            within: Seconds, virtual where the test's time is.
            fields: As of `of`.

        Raises:
            AssertionError: There was none in time; tells what was handled.
            TypeError: A call has no such field.

        Cancelled, it has taken nothing.
        """
        __tracebackhide__ = True
        pattern = _pattern(service_name, method, fields)
        await trio.lowlevel.checkpoint_if_cancelled()
        for call in self:
            if call.answered and self._is_open(call) and _matches(call, pattern):
                self._taken.add(call)
                await trio.lowlevel.cancel_shielded_checkpoint()
                return call
        waiting = _Expectation(pattern)
        self._expectations[waiting] = None
        try:
            with trio.move_on_after(within):
                await waiting.came.wait()
        except trio.Cancelled:
            if waiting.call is not None:  # it came when the cancellation was under way
                self._taken.discard(waiting.call)
                self._offer(waiting.call)
            raise
        finally:
            del self._expectations[waiting]
        if waiting.call is not None:  # in time, even if it came in the very step in which the time was over
            return waiting.call
        raise AssertionError(self._missed(pattern, within))

    async def expect_none_lost(
        self, service_name: str | None = None, method: str | None = None, /, *, within: float = DEFAULT_WITHIN
    ) -> None:
        """Wait until every call that nodes of the cluster have sent was handled, and its caller has the answer.

        An error that the handler raised is an answer. Lost is what no instance took, or whose answer did not come. Who gave up
        waiting by itself has lost nothing if the call is handled all the same; nor has a node that was killed, nor who
        had no answer, called again with the same idempotency key (service, method, resource and parameters), and had it then:
        without a resource, from the same instance, or when that was gone, since of two instances both may have been meant.

        Args:
            service_name: Only calls of this service.
            method: Only calls of this method.
            within: Seconds for what is still under way, virtual where the test's time is.

        Raises:
            AssertionError: Calls are lost, or not answered in time; tells which, and how far each came.
            pytest.UsageError: As of `of`.
        """
        __tracebackhide__ = True
        self.known.check(service_name, method)
        pattern = _pattern(service_name, method, {})
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(within):
            while True:
                moved = self._moved
                if not self._lost(pattern):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return
                await moved.wait()
        lost = self._lost(pattern)
        raise AssertionError(
            "\n".join(
                [
                    f"{len(lost)} of the {self._count} calls that were sent {'is' if len(lost) == 1 else 'are'} lost:",
                    *first_lines(lost, _SHOWN, longest=500),  # each part has been made short
                ]
            )
        )

    def describe(self, most: int) -> Iterator[str]:
        """The last calls, *most* of them, line by line."""
        for call in list(self)[-most:]:
            yield f"{show_time(call.at - self._began)}: {call}"

    def _missed(self, pattern: Mapping[str, object], within: float) -> str:
        open_calls = [call for call in self if self._is_open(call)]
        hidden = len(open_calls) - _SHOWN
        wanted = brief(f"no call with {show_fields(pattern)}") if pattern else "no call"
        return "\n".join(
            [
                f"{wanted} was handled within {within:g} s. What was handled and not expected yet:",
                *([f"  ({hidden} before)"] if hidden > 0 else []),
                *(clip(f"  {call}") for call in open_calls[-_SHOWN:]),
                *(["  nothing"] if not open_calls else []),
            ]
        )

    def _lost(self, pattern: Mapping[str, object]) -> list[str]:
        """Every call that matches and was not answered, with how far it came."""
        lost: list[str] = []
        for sent in self._sent.values():
            wanted = all(getattr(sent.request, name) == value for name, value in pattern.items())
            how = sent.how_lost() if wanted and not sent.is_dead() else None
            if how is not None:
                lost.append(f"  {sent.describe(self._began)}: {how}")
        return lost

    # -- for the transports -----------------------------------------------------------------------------------

    def received(self, node: str, instance_id: str, request: RequestEnvelope) -> HandledCall:
        """Take note that an instance was asked."""
        call = HandledCall(node, instance_id, request, trio.current_time())
        self._received.append(call)
        self.known.name(request)
        sent = self._sent.get(call.message_id)
        if sent is not None:
            sent.attempts.append(call)
        return call

    def answered(self, call: HandledCall, payload: bytes) -> None:
        """Take note of the answer to *call*."""
        call.conclude(payload)
        if not call.refused:
            self._offer(call)
        self._tell()

    @contextmanager
    def listening(self, endpoint: str) -> Iterator[None]:
        """Take note that an instance is there to be asked, while the block lasts."""
        self._listening.add(endpoint)
        try:
            yield
        finally:
            self._listening.discard(endpoint)

    def sent(self, node: str, endpoint: str, request: RequestEnvelope, is_dead: Callable[[], bool]) -> SentCall:
        """Take note that a node asks, for the first time or again."""
        call = SentCall(node, endpoint, request, trio.current_time(), is_dead)
        self.known.name(request)
        known = self._sent.get(call.message_id)
        if known is None:
            call.repeated = tuple(it for it in self._sent.values() if it.fate and it.is_like(call))
            self._sent[call.message_id] = known = call
            self._count += 1
        known.endpoint, known.fate = endpoint, ""
        return known

    def ended(self, call: SentCall, fate: str, *, given_up: bool = False) -> None:
        """Take note of how an attempt of *call* ended: "" for an answer of a handler, else in words."""
        call.fate, call.given_up = fate, given_up
        if not fate:
            for it in (call, *filter(partial(self._answers, call), call.repeated)):
                self._sent.pop(it.message_id, None)
        self._tell()

    def came(self, call: SentCall, payload: bytes) -> None:
        """Take note of the answer *payload* that reached the caller of *call*."""
        error = codec.decode_answer(payload).error
        if is_refusal(error):
            self.ended(call, f"refused: {error}")
        else:
            self.ended(call, str(error) if isinstance(error, Unavailable) else "")

    def _answers(self, call: SentCall, before: SentCall) -> bool:
        """Whether the answer to *call* is one to *before*, which it is like: no other instance was meant by that.

        A resource has one owner. Without one, nobody can tell from a request whether its caller chose the instance.
        """
        same = before.endpoint == call.endpoint or before.endpoint not in self._listening
        return same or call.request.resource_id is not None

    def _is_open(self, call: HandledCall) -> bool:
        """Whether *call* can still be expected."""
        return call not in self._taken and call not in self._cleared

    def _offer(self, call: HandledCall) -> None:
        """Let the first who waits for *call* take it."""
        for waiting in self._expectations:
            if waiting.call is None and self._is_open(call) and _matches(call, waiting.pattern):
                self._taken.add(call)
                waiting.call = call
                waiting.came.set()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


def _pattern(service_name: str | None, method: str | None, fields: Mapping[str, object]) -> dict[str, object]:
    for name in fields:
        if name not in _FIELDS:
            raise TypeError(f"a call has no field {name!r}; it has {', '.join(_FIELDS)}")
    named = {"service_name": service_name, "method": method}
    return {**{name: value for name, value in named.items() if value is not None}, **fields}


def _matches(call: HandledCall, pattern: Mapping[str, object]) -> bool:
    return all(_fits(name, getattr(call, name), value) for name, value in pattern.items())


def _fits(name: str, actual: object, wanted: object) -> bool:
    if name == "params" and isinstance(actual, Mapping) and isinstance(wanted, Mapping):
        return all(key in actual and actual[key] == value for key, value in wanted.items())
    if isinstance(wanted, type) and name == "error":
        return isinstance(actual, wanted)
    return actual == wanted
