"""Ctrl-C at every place in the code where Python may deliver it, one run for each."""

from __future__ import annotations

import itertools
import linecache
import sys
from collections.abc import Awaitable, Callable
from types import FrameType, ModuleType

import attrs
import trio
from trio.testing import MockClock

__all__ = ["Interrupt", "interrupt_everywhere"]


@attrs.define(eq=False)
class Interrupt:
    """One that is raised before the line that comes after *passed* others in *files*, counted from `arm` on."""

    files: frozenset[str]
    passed: int
    place: str = ""
    hung: bool = False
    _rescue: Callable[[], object] | None = None

    def arm(self, rescue: Callable[[], object]) -> None:
        """Begin to count; *rescue* ends the program where the interrupt does not."""
        self._rescue = rescue

    def trace(self, frame: FrameType, event: str, _argument: object) -> Callable[..., object] | None:
        """What Python calls before each line."""
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line" and self._rescue is not None and not trio.lowlevel.currently_ki_protected():
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            # Between a block and what its context manager does at its end, Python looks for no signals.
            if not line.startswith(("async with ", "with ")):
                if self.passed == 0:
                    self.place = line
                    raise KeyboardInterrupt
                self.passed -= 1
        return self.trace

    async def watch(self) -> None:
        """Notice that the program does not end."""
        await trio.sleep(3600)
        self.hung = True
        assert self._rescue is not None
        self._rescue()


def interrupt_everywhere(program: Callable[[Interrupt], Awaitable[object]], *modules: ModuleType) -> list[Interrupt]:
    """Run *program* until it was interrupted once at every line of *modules* that it comes to after `Interrupt.arm`."""
    files = frozenset(str(module.__file__) for module in modules)
    interrupts: list[Interrupt] = []
    for number in itertools.count():
        interrupt = Interrupt(files, number)

        async def run(interrupt: Interrupt = interrupt) -> None:
            trio.lowlevel.spawn_system_task(interrupt.watch)
            await program(interrupt)

        before = sys.gettrace()
        sys.settrace(interrupt.trace)
        try:
            trio.run(run, clock=MockClock(autojump_threshold=0))
        except KeyboardInterrupt:
            interrupts.append(interrupt)
        else:
            return interrupts
        finally:
            sys.settrace(before)
    raise AssertionError
