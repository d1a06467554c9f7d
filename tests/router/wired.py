"""A client of the subjects, as the tests of routers on the memory backend use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Bus, Message
from aegis_core.node.node import Node, open_node
from aegis_core.router.router import Router, open_router
from aegis_core.router.wire import serve_subjects

__all__ = ["Client", "OldInstance", "open_wire"]


def packed(value: object) -> bytes:
    """*value* as a client packs it."""
    return codec.encode_plain(value)


def unpacked(data: bytes) -> Any:  # noqa: ANN401 - whatever was sent
    """What a client unpacks."""
    return codec.decode_plain(data, most=100_000)


@attrs.define(eq=False)
class Client:
    """Publishes requests, and waits for their answers."""

    bus: Bus
    prefix: str = "answers"
    _number: int = 0

    async def ask(self, subject: str, /, **fields: object) -> Any:  # noqa: ANN401 - as above
        """The answer to a request on ``ipc.{subject}``."""
        return await self.ask_raw(subject, packed(fields))

    async def ask_raw(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - as above
        """The answer to any bytes."""
        self._number += 1
        reply = f"{self.prefix}.{id(self)}.{self._number}"
        got: list[Message] = []
        there = trio.Event()

        def receive(message: Message) -> None:
            got.append(message)
            there.set()

        async with self.bus.subscribe(reply, receive):
            self.bus.publish(f"ipc.{subject}", payload, reply, headers)
            await there.wait()
        assert not got[0].unheard, "no router"
        return unpacked(got[0].payload)


@attrs.define(eq=False)
class OldInstance:
    """An instance of another program: it reads its inbox, and answers by the correlation id."""

    bus: Bus
    instance_id: str
    by_reply: bool = False
    answers: bool = True
    asked: list[dict[str, Any]] = attrs.field(factory=list)

    def receive(self, message: Message) -> None:
        """Answer a call: with its parameters, or the error that they ask for."""
        call = unpacked(message.payload)
        self.asked.append(call)
        if not self.answers:
            return
        answer: dict[str, object] = {"success": True, "result": {"by": self.instance_id, "params": call["params"]}}
        if call["method"] == "fail":
            answer = {"success": False, "error": {"code": "NO_ROOM", "type": "NoRoom", "message": "all taken"}}
        subject = message.reply if self.by_reply else f"ipc.response.{call['correlation_id']}"
        self.bus.publish(subject, packed(answer))

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        async with self.bus.subscribe(f"ipc.instance.{self.instance_id}.inbox", self.receive):
            yield


@attrs.define(eq=False)
class Wire:
    """A router that serves the subjects, and a client."""

    router: Router
    client: Client
    bus: Bus

    @property
    def node(self) -> Node:
        """The router's node."""
        return self.router.node


@asynccontextmanager
async def open_wire(name: str = "wire", **config: object) -> AsyncIterator[Wire]:
    """A router on the memory backend, and a client of its subjects."""
    async with open_node(f"memory://{name}", config=config) as node, open_router(node) as router:
        bus = router.bus
        assert bus is not None
        async with serve_subjects(router, bus):
            yield Wire(router, Client(bus), bus)
