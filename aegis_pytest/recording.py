"""Calls that were handled once, kept in a file, and replayed against another instance to see whether it answers the same.

A recording has the requests in the order in which they were received, each with its answer. What differs from run to run
is not in it (ids of messages and traces, deadlines, epochs, who handled it), so that the same calls give the same file,
byte for byte. Replayed, they are sent one after another, each when the one before was answered.

The file is MessagePack: requests and answers as they travel, which is how they are read, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from aegis_core import codec
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_core.errors import AegisError, InvalidRequest
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_pytest.handled_call import show_answer, show_request
from aegis_pytest.telling import brief, first_lines

__all__ = ["MAX_FILE", "RecordedCall", "Recording"]

MAX_FILE: Final = 1 << 26
"""Most bytes of a file that is read."""

_FORMAT: Final = "aegis-recording-1"
_MOST_CALLS: Final = 100_000
_SHOWN_CALLS: Final = 5
_SHOWN_DIFFERENCES: Final = 5
_SHOWN: Final = 13


class _Nothing:
    """Stands where the other side has something."""

    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


@attrs.frozen(eq=False)
class RecordedCall:
    """One call: what was asked, and what was answered."""

    request: RequestEnvelope
    answer: AnswerEnvelope

    def __str__(self) -> str:
        return f"{show_request(self.request)}: {show_answer(self.answer)}"


@attrs.frozen(eq=False)
class Recording:
    """Calls in the order in which they were received. `aegis_pytest.call_log.CallLog.recording` makes one."""

    calls: tuple[RecordedCall, ...]

    def __repr__(self) -> str:
        return f"<Recording of {len(self.calls)} calls>"

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Recording:
        """The recording in the file *path*.

        Raises:
            ValueError: It is none, is damaged, or larger than `MAX_FILE` bytes.
            OSError: It cannot be read.
        """
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ValueError(f"{path} is no recording: it has more than {MAX_FILE} bytes")
        try:
            return cls(tuple(_read_calls(codec.decode_plain(data, most=3 * _MOST_CALLS + 4))))
        except (ValueError, InvalidRequest) as exc:
            raise ValueError(f"{path} is no recording: {exc}") from exc

    def write(self, path: str | PathLike[str]) -> None:
        """Write it to the file *path*, whatever stood there.

        Raises:
            ValueError: It has more than 100,000 calls.
            OSError: It cannot be written.
        """
        if len(self.calls) > _MOST_CALLS:
            raise ValueError(f"{len(self.calls)} calls are too many for a recording: at most {_MOST_CALLS}")
        calls = [[_lasting(call.request), codec.encode_answer(call.answer)] for call in self.calls]
        Path(path).write_bytes(codec.encode_plain({"format": _FORMAT, "calls": calls}))

    async def replay(
        self, node: Node, instance: Instance, *, ignoring: Collection[str] = (), timeout: float = 5.0
    ) -> None:
        """Send every call to *instance*, through *node*, and compare the answers with those that are recorded.

        An error counts as an answer, by its code and attributes. All calls are made, also after the first that differs.

        Args:
            node: Who calls.
            instance: Who is asked. It must have claimed the resources that the calls concern.
            ignoring: Paths within results at which whatever is answered will do: ``"$.booked_at"``, or ``"$.guests[].id"``
                for every element of a list.
            timeout: Seconds for each call.

        Raises:
            AssertionError: Answers differ; tells which, and where.
            pytest.UsageError: There is no call; or *instance* is of another service, or has not claimed a resource that a call
                concerns; or a path of *ignoring* is none within a result.
        """
        __tracebackhide__ = True
        self._check(instance)
        ignored = _paths(ignoring)
        told: list[str] = []
        differing = 0
        for number, call in enumerate(self.calls, 1):
            answer = await _ask(node, instance, call.request, timeout)
            found = list(_compare(call.answer, answer, ignored))
            if not found:
                continue
            differing += 1
            if differing <= _SHOWN_CALLS:
                told.append(f"  call {number}, {show_request(call.request)}:")
                told += (f"    {line}" for line in first_lines(found, _SHOWN_DIFFERENCES, indent=""))
        if not differing:
            await trio.lowlevel.checkpoint()
            return
        if differing > _SHOWN_CALLS:
            told.append(f"  and {differing - _SHOWN_CALLS} more")
        of = f"{differing} of the {len(self.calls)} recorded calls"
        raise AssertionError(
            "\n".join([f"{instance.instance_id} answers {of} differently:", *first_lines(told, _SHOWN)])
        )

    def _check(self, instance: Instance) -> None:
        __tracebackhide__ = True
        if not self.calls:
            raise pytest.UsageError("the recording has no calls, which every instance answers: record some first")
        for call in self.calls:
            wanted, resource_id = call.request.service_name, call.request.resource_id
            if wanted != instance.service.name:
                raise pytest.UsageError(
                    f"a call of service {wanted!r} cannot be replayed against {instance.instance_id}, "
                    f"which serves {instance.service.name!r}"
                )
            if resource_id is not None and resource_id not in instance.claims:
                raise pytest.UsageError(
                    f"a recorded call concerns {resource_id!r}, which {instance.instance_id} has not claimed: claim it first"
                )


def _lasting(request: RequestEnvelope) -> bytes:
    """*request* without what belongs to the moment it was sent in."""
    return codec.encode_request(
        RequestEnvelope(
            request.method,
            request.params,
            service_name=request.service_name,
            resource_id=request.resource_id,
            idempotency_key=request.idempotency_key,
        )
    )


def _read_calls(raw: object) -> Iterator[RecordedCall]:
    match raw:
        case {"format": str(name), "calls": list(calls)} if name == _FORMAT:
            pass
        case {"format": str(name)} if name != _FORMAT:
            raise ValueError(f"its format is {brief(name, 40)}, this version reads {_FORMAT}")
        case _:
            raise ValueError("it does not say its format")
    for number, call in enumerate(calls, 1):
        match call:
            case [bytes(request), bytes(answer)]:
                try:
                    yield RecordedCall(codec.decode_request(request), codec.decode_answer(answer))
                except InvalidRequest as exc:
                    raise ValueError(f"call {number}: {exc}") from exc
            case _:
                raise ValueError(f"call {number}: expected a request and an answer")


async def _ask(node: Node, instance: Instance, request: RequestEnvelope, timeout: float) -> AnswerEnvelope:
    try:
        result = await node.call(
            request.service_name,
            request.method,
            request.params,
            resource_id=request.resource_id,
            instance_id=instance.instance_id if request.resource_id is None else None,
            timeout=timeout,
            idempotency_key=request.idempotency_key,
        )
    except AegisError as exc:
        return AnswerEnvelope(None, exc)
    return AnswerEnvelope(result)


# -- comparing -------------------------------------------------------------------------------------------------


def _compare(recorded: AnswerEnvelope, answered: AnswerEnvelope, ignoring: frozenset[str]) -> Iterator[str]:
    """What differs, line by line; nothing if the two say the same."""
    if recorded.error is None and answered.error is None:
        yield from _differences(recorded.result, answered.result, "$", "$", ignoring)
    elif _facts(recorded.error) != _facts(answered.error):
        yield f"recorded {show_answer(recorded)}"
        yield f"answered {show_answer(answered)}"


def _paths(ignoring: Collection[str]) -> frozenset[str]:
    """The paths that *ignoring* names, each of something within a result."""
    __tracebackhide__ = True
    paths = frozenset([ignoring] if isinstance(ignoring, str) else ignoring)
    for path in sorted(paths):
        if not path.startswith(("$.", "$[")):
            raise pytest.UsageError(
                f"ignoring: {path!r} is no path within a result; name what may differ: '$.booked_at', '$.guests[].id'"
            )
    return paths


def _facts(error: AegisError | None) -> tuple[str, object]:
    return ("", None) if error is None else (error.code, error.details)


def _differences(
    recorded: object, answered: object, path: str, pattern: str, ignoring: frozenset[str]
) -> Iterator[str]:
    """Where two results differ: *path* says where they stand, *pattern* is the path without the numbers of elements."""
    if pattern in ignoring or path in ignoring:
        return
    parts, others = _parts(recorded), _parts(answered)
    if parts is None or others is None or type(recorded) is not type(answered):
        if not _is_same(recorded, answered):
            yield f"{path}: recorded {_shown(recorded)}, answered {_shown(answered)}"
        return
    for where in dict.fromkeys([*parts, *others]):
        like = "[]" if where.startswith("[") else where
        one, other = parts.get(where, _NOTHING), others.get(where, _NOTHING)
        yield from _differences(one, other, f"{path}{where}", f"{pattern}{like}", ignoring)


def _is_same(recorded: object, answered: object) -> bool:
    if isinstance(recorded, float) and isinstance(answered, float) and math.isnan(recorded):
        return math.isnan(answered)
    return type(recorded) is type(answered) and recorded == answered


def _parts(value: object) -> Mapping[str, object] | None:
    """The elements of a list or map by their places, as they stand in a path; None for what has none."""
    match value:
        case dict():
            return {f".{key}" if isinstance(key, str) else f"[{key!r}]": item for key, item in value.items()}
        case list():
            return {f"[{at}]": item for at, item in enumerate(value)}
    return None


def _shown(value: object) -> str:
    return brief(repr(value), 60)
