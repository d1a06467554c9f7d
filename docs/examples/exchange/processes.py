"""Instances as processes, one each: the parent's side. What runs in such a process is ``exchange.instance``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import trio

from exchange.children import Child, ChildFailed, open_child
from exchange.life import Member, Plan


class Processes:
    """Starts instances as processes, which do not outlive this one.

    Args:
        nursery: Where they are looked after; its end kills them.
        lifelines: Descriptors that each of them holds open as long as it lives.
    """

    def __init__(self, nursery: trio.Nursery, *, lifelines: Sequence[int]) -> None:
        self._nursery = nursery
        self._lifelines = lifelines

    async def start(self, plan: Plan, *, died: Callable[[], None]) -> Member:
        """Start an instance; returns when it is ready. It calls *died* if somebody else sends it a deadly signal.

        Raises:
            ChildFailed: It could not start.
        """
        member: Member = await self._nursery.start(self._look_after, plan, died)
        return member

    async def _look_after(
        self, plan: Plan, died: Callable[[], None], *, task_status: trio.TaskStatus[Member] = trio.TASK_STATUS_IGNORED
    ) -> None:
        answers, receive = trio.open_memory_channel[Sequence[str]](1)
        async with answers, receive, open_child("exchange.instance", lifelines=self._lifelines) as child:
            member = _Process(child, receive)
            await child.tell(attrs.asdict(plan))
            while (message := await child.hear()) is not None:
                if "trouble" in message:
                    await answers.send(message["trouble"])
                else:
                    member.ready = True
                    task_status.started(member)
            status = await child.wait()
        if member.may_end:
            return
        if status >= 0 or not member.ready:
            raise ChildFailed(f"{plan.name}, {member.place}, ended with status {status} before its time")
        died()


@attrs.define
class _Process:
    _child: Child
    _answers: trio.MemoryReceiveChannel[Sequence[str]]
    ready: bool = False
    may_end: bool = False

    @property
    def place(self) -> str:
        return f"process {self._child.pid}"

    async def settle(self) -> None:
        await self._child.tell({"do": "settle"})

    async def transfer(self, symbols: Sequence[str], target: str) -> Sequence[str]:
        await self._child.tell({"do": "transfer", "symbols": symbols, "target": target})
        try:
            return await self._answers.receive()
        except trio.EndOfChannel:
            return (f"not moved: {self.place} is gone",)

    async def leave(self) -> None:
        self.may_end = True
        await self._child.tell({"do": "leave"})
        await self._child.wait()

    async def kill(self) -> None:
        self.may_end = True
        self._child.kill()
        await self._child.wait()
