"""Taking records while a program runs: into a list, or into a file that survives the process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_pytest.history.records import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Handled,
    Invoked,
    Kind,
    Record,
    Returned,
    Wrote,
    to_line,
)

if TYPE_CHECKING:
    from aegis_core.errors import AegisError

__all__ = ["Recorder", "record_to"]


class Recorder:
    """Notes what one process does, with the time.

    Args:
        process: Its name, unique in the history.
        take: Receives each record: ``history.append``, or what `record_to` gives.
        clock: Seconds on the clock that all processes of the history share.
    """

    def __init__(
        self, process: str, take: Callable[[Record], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.process = process
        self.clock = clock
        self._take = take
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Recorder of {self.process}>"

    def invoke(
        self,
        kind: Kind,
        key: str,
        *,
        instance: str = "",
        to: str = "",
        epoch: int = 0,
        forced: bool = False,
        call: str = "",
        once: bool = False,
        within: float = 0.0,
    ) -> int:
        """Note that an operation begins, right before it does; the number to give to `answer`. See `Invoked`."""
        number = next(self._numbers)
        self._take(
            Invoked(
                at=self.clock(),
                process=self.process,
                number=number,
                kind=kind,
                key=key,
                instance=instance,
                to=to,
                epoch=epoch,
                forced=forced,
                call=call,
                once=once,
                within=within,
            )
        )
        return number

    def answer(
        self, number: int, answer: Answer, *, owner: str = "", epoch: int = 0, said: str = "", code: str = ""
    ) -> None:
        """Note what came of operation *number*. See `Returned`."""
        self._take(
            Returned(
                at=self.clock(),
                process=self.process,
                number=number,
                answer=answer,
                owner=owner,
                epoch=epoch,
                said=said,
                code=code,
            )
        )

    def failed(self, number: int, answer: Answer, exc: AegisError, *, owner: str = "") -> None:
        """Note that operation *number* was answered with *exc*, which means *answer*, and names *owner*."""
        self.answer(number, answer, owner=owner, said=str(exc), code=exc.code)

    def believes(
        self,
        instance: str,
        key: str,
        epoch: int,
        *,
        since: float | None = None,
        forced: bool = False,
        ttl: float = 30.0,
        lag: float = 0.0,
    ) -> None:
        """Note that *instance* believes, from *since* or now on, that it holds *key*. See `BeliefBegan`."""
        began = BeliefBegan(
            at=self.clock() if since is None else since,
            process=self.process,
            instance=instance,
            key=key,
            epoch=epoch,
            forced=forced,
            ttl=ttl,
            lag=lag,
        )
        self._take(began)

    def believed(self, instance: str, key: str, epoch: int, *, until: float, reason: str = "") -> None:
        """Note that *instance* believed in that only until *until*. See `BeliefEnded`."""
        self._take(BeliefEnded(at=until, process=self.process, instance=instance, key=key, epoch=epoch, reason=reason))

    def handled(self, instance: str, key: str, epoch: int, call: str, *, began: float) -> None:
        """Note that a handler which began at *began* returns now. See `Handled`."""
        done = Handled(
            at=self.clock(), process=self.process, instance=instance, key=key, epoch=epoch, call=call, began=began
        )
        self._take(done)

    def wrote(self, key: str, epoch: int, *, accepted: bool) -> None:
        """Note a write to a storage that fences; call it while the storage is locked. See `Wrote`."""
        self._take(Wrote(at=self.clock(), process=self.process, key=key, epoch=epoch, accepted=accepted))


@contextmanager
def record_to(path: Path) -> Iterator[Callable[[Record], None]]:
    """Append records to the file at *path* while the block runs, each handed to the system before the call returns.

    What was handed over outlives the process, however that ends; not the machine.
    """
    with path.open("a", encoding="utf-8") as file:

        def take(record: Record) -> None:
            file.write(f"{to_line(record)}\n")
            file.flush()

        yield take
