"""What a process of a benchmark is told, and how it tells what its work took."""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import trio

__all__ = ["Act", "Commands", "Taken", "at_once", "in_turn", "obey", "rounds"]

Act = Callable[..., Awaitable[object]]


@attrs.define
class Taken:
    """What the operations of one round took.

    Other programs' use of the processors is not taken off, as it is where one process is measured: most of the waiting
    here is for the server and the peer, and that belongs to it. The quietest round counts, as ever.

    Attributes:
        seconds: Of each operation.
        elapsed: Seconds from the first one's beginning to the last one's end.
        cpu: Seconds of processor time that this process used meanwhile.
    """

    seconds: list[float] = attrs.field(factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Time one operation that runs alone; what happens between two of them does not count."""
        used, began = time.process_time(), time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.seconds.append(took)
        self.elapsed += took
        self.cpu += time.process_time() - used

    @contextmanager
    def all(self) -> Iterator[None]:
        """Time operations that run together; each adds its own `seconds`."""
        used, began = time.process_time(), time.perf_counter()
        yield
        self.elapsed += time.perf_counter() - began
        self.cpu += time.process_time() - used


class Commands:
    """The commands of this process.

    Args:
        profiled: What is profiled: the `name` of a command, "" for none.
    """

    def __init__(self, profiled: str = "") -> None:
        self._profiled: Final = profiled
        self._profile: Final = cProfile.Profile()
        self._has_profile = False

    def read(self) -> dict[str, object] | None:
        """The next command; None at the end. It blocks."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def answer(self, result: object) -> None:
        """Answer the command that was read last."""
        if isinstance(result, Taken):
            result = attrs.asdict(result)
        elif isinstance(result, Mapping):
            result = {key: attrs.asdict(each) if isinstance(each, Taken) else each for key, each in result.items()}
        sys.stdout.write(f"{json.dumps(result)}\n")
        sys.stdout.flush()

    def begin(self, name: str) -> None:
        """*name* is about to be measured."""
        if name and name == self._profiled:
            self._has_profile = True
            self._profile.enable()

    def end(self, name: str) -> None:
        """*name* has been measured."""
        if name and name == self._profiled:
            self._profile.disable()

    def show_profile(self, part: str) -> None:
        """Print where the time of what was profiled went, if this process had a part in it."""
        if self._has_profile:
            print(f"\n{part}", file=sys.stderr)
            pstats.Stats(self._profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(45)

    async def carry_out(self, command: dict[str, object], acts: Mapping[str, Act]) -> None:
        """Let the act that *command* names do it, and answer.

        ``begin`` and ``end`` are known to every part: they enclose what another process does with this one's help, and tell
        the processor time that this one has used so far.
        """
        name = str(command.pop("name", ""))
        match command.pop("do"):
            case "begin":
                self.begin(name)
                self.answer(time.process_time())
            case "end":
                self.answer(time.process_time())
                self.end(name)
            case do:
                self.begin(name)
                try:
                    result = await acts[str(do)](**command)
                finally:
                    self.end(name)
                self.answer(result)


async def obey(commands: Commands, acts: Mapping[str, Act]) -> None:
    """Carry out what *commands* say until they end; for programs on Trio."""
    while True:
        command = await trio.to_thread.run_sync(commands.read, abandon_on_cancel=True)
        if command is None:
            return
        await commands.carry_out(command, acts)


async def in_turn(count: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    """Carry out *operation* *count* times, one after another; on any loop."""
    taken = Taken()
    for _ in range(count):
        with taken.one():
            await operation()
    return taken


async def at_once(count: int, operations: Sequence[Callable[[], Awaitable[object]]]) -> Taken:
    """Carry out *count* operations: as many tasks at once as there are *operations*, each repeating its own; on Trio."""
    taken = Taken()

    async def work(operation: Callable[[], Awaitable[object]]) -> None:
        for _ in range(max(1, count // len(operations))):
            began = time.perf_counter()
            await operation()
            taken.seconds.append(time.perf_counter() - began)

    with taken.all():
        async with trio.open_nursery() as nursery:
            for operation in operations:
                nursery.start_soon(work, operation)
    return taken


async def rounds(count: int, together: int, operation: Callable[[], Awaitable[object]]) -> Taken:
    """Carry out *operation* *count* times, *together* of them at once; on Trio."""
    return await (in_turn(count, operation) if together == 1 else at_once(count, [operation] * together))
