"""Instances as services of NATS's own kind, so that tools like ``nats micro`` see them.

An instance answers ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS``, to all services, to those of its name, and to itself
alone, as the architecture decision record 32 of NATS says. Its methods are shown as endpoints, all on the subject that the
instance is called at; who calls them still has to speak the library's envelopes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Final

import trio

from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.protocol import Message
from aegis_backends.nats.subjects import is_reserved
from aegis_backends.nats.transport import QUEUE, subject_of
from aegis_core.served import MethodStatistics, Served

__all__ = ["Micro"]

_log: Final = logging.getLogger("aegis.nats")

# The grammar that semver.org recommends.
_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_NANO: Final = 1_000_000_000


class Micro:
    """Answers for the instances that are served over one connection.

    Args:
        connection: The client.
        nursery: Where the subscriptions are kept.
    """

    def __init__(self, connection: Connection, nursery: trio.Nursery) -> None:
        self._connection: Final = connection
        self._nursery: Final = nursery

    def __repr__(self) -> str:
        return f"<Micro over {self._connection!r}>"

    @contextmanager
    def announce(self, served: Served) -> Iterator[None]:
        """Answer for *served* from soon after the block begins until it ends.

        Where the server does not allow that, it is logged, and nothing else suffers.
        """
        scope = trio.CancelScope()
        self._nursery.start_soon(self._answer, served, scope)
        try:
            yield
        finally:
            scope.cancel()

    async def _answer(self, served: Served, scope: trio.CancelScope) -> None:
        name, instance = served.instance.service_name, served.instance.instance_id

        def arrived(message: Message) -> None:
            answer = _answer_to(message.subject.split(".")[1], served)
            if message.reply and not is_reserved(message.reply) and answer is not None:
                try:
                    self._connection.publish(message.reply, json.dumps(answer).encode())
                except NatsError as exc:
                    _log.debug("%s was not answered: %s", message.subject, exc)

        with scope:
            try:
                subjects = "$SRV.*", f"$SRV.*.{name}", f"$SRV.*.{name}.{instance}"
                async with self._connection.listen(subjects, arrived):
                    await trio.sleep_forever()
            except NatsError as exc:
                _log.warning("the tools of NATS do not see %s: %s", instance, exc)


def _answer_to(verb: str, served: Served) -> Mapping[str, object] | None:
    """What is answered to *verb*; None for one that nobody knows."""
    instance, statistics = served.instance, served.statistics
    is_semver = _SEMVER.fullmatch(instance.version)
    answer: dict[str, object] = {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": instance.service_name,
        "id": instance.instance_id,
        "version": instance.version if is_semver else "0.0.0",
        "metadata": {} if is_semver else {"version": instance.version},
    }
    subjects = [subject for subject in map(subject_of, instance.endpoints) if subject is not None]
    called = [(method, subject) for method in statistics for subject in subjects]
    match verb:
        case "PING":
            return answer
        case "INFO":
            endpoints = [{**_endpoint(method, subject), "metadata": {"method": method}} for method, subject in called]
            return {**answer, "description": "", "endpoints": endpoints}
        case "STATS":
            started = f"{instance.registered_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            counted = [{**_endpoint(method, subject), **_counted(statistics[method])} for method, subject in called]
            return {**answer, "started": started, "endpoints": counted}
    return None


def _endpoint(method: str, subject: str) -> dict[str, object]:
    return {"name": _NO_NAME.sub("_", method), "subject": subject, "queue_group": QUEUE}


def _counted(statistics: MethodStatistics) -> dict[str, object]:
    nanoseconds = int(statistics.seconds * _NANO)
    return {
        "num_requests": statistics.requests,
        "num_errors": statistics.errors,
        "last_error": statistics.last_error,
        "processing_time": nanoseconds,
        "average_processing_time": nanoseconds // statistics.requests if statistics.requests else 0,
        "data": {},
    }
