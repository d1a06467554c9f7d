"""One request as an instance of a test's cluster received it, and what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from aegis_core import codec
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_core.errors import AegisError, Misdirected, NotFound, Overloaded, Unavailable
from aegis_core.models import Outcome
from aegis_pytest.telling import brief

__all__ = ["HandledCall", "is_refusal", "show_answer", "show_request"]


def is_refusal(error: AegisError | None) -> bool:
    """Whether *error*, which was answered to a request, says that no handler has seen it."""
    if isinstance(error, Unavailable):
        return error.outcome is not Outcome.MAYBE_EXECUTED
    return isinstance(error, Misdirected | NotFound | Overloaded)


def show_request(request: RequestEnvelope) -> str:
    """*request* in a few words: ``rooms.book(guest='Ada') of room:7``."""
    params = ", ".join(f"{name}={value!r}" for name, value in request.params.items())
    where = "" if request.resource_id is None else f" of {request.resource_id}"
    return f"{request.service_name}.{request.method}({brief(params, 80)}){where}"


def show_answer(answer: AnswerEnvelope | None) -> str:
    """*answer* in a few words: ``3``, ``RemoteError: ValueError: ...``, ``no answer``."""
    if answer is None:
        return "no answer"
    if answer.error is None:
        return brief(repr(answer.result), 80)
    return brief(f"{type(answer.error).__name__}: {answer.error}", 120)


class HandledCall:
    """A call that an instance of the cluster received. Made by `aegis_pytest.call_log.CallLog`.

    Args:
        node: The node that serves the instance.
        instance_id: The instance.
        request: What was asked.
        at: When it was received, on Trio's clock.
    """

    def __init__(self, node: str, instance_id: str, request: RequestEnvelope, at: float) -> None:
        self.node = node
        self.instance_id = instance_id
        self.request = request
        self.at = at
        self._payload: bytes | None = None

    def __repr__(self) -> str:
        return f"<HandledCall {self}>"

    def __str__(self) -> str:
        return f"{show_request(self.request)}, by {self.instance_id} on node {self.node}: {show_answer(self.answer)}"

    def conclude(self, payload: bytes) -> None:
        """It was answered with the bytes *payload*."""
        self._payload = payload

    @property
    def answered(self) -> bool:
        """Whether the instance has answered it, with a result or an error."""
        return self._payload is not None

    @cached_property
    def _decoded(self) -> AnswerEnvelope:
        assert self._payload is not None, "it is asked for once there is one"
        return codec.decode_answer(self._payload)

    @property
    def answer(self) -> AnswerEnvelope | None:
        """What was answered; None as long as nothing was."""
        return self._decoded if self.answered else None

    @property
    def result(self) -> object:
        """What the handler returned, as it travels; None also if it did not return."""
        return None if self.answer is None else self.answer.result

    @property
    def error(self) -> AegisError | None:
        """The error that was answered: `RemoteError` for what the handler raised; None if there is none."""
        return None if self.answer is None else self.answer.error

    @property
    def refused(self) -> bool:
        """Whether the instance answered that it had not begun it: the resource is elsewhere, it is draining, it is full."""
        return is_refusal(self.error)

    @property
    def service_name(self) -> str:
        """The service that was called."""
        return self.request.service_name

    @property
    def method(self) -> str:
        """The method that was called."""
        return self.request.method

    @property
    def params(self) -> Mapping[str, object]:
        """Its parameters by name, as they travel."""
        return self.request.params

    @property
    def resource_id(self) -> str | None:
        """The resource that it concerns, or None."""
        return self.request.resource_id

    @property
    def epoch(self) -> int:
        """The fencing number that the caller knew of the resource; 0 without one."""
        return self.request.epoch

    @property
    def idempotency_key(self) -> str | None:
        """As the caller gave it, or None."""
        return self.request.idempotency_key

    @property
    def trace_id(self) -> str:
        """The same for all calls that one outermost call led to."""
        return self.request.trace_id

    @property
    def message_id(self) -> str:
        """The same in each attempt to deliver one call."""
        return self.request.message_id or self.request.trace_id
