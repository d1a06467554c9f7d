"""Several processes on one backend, and the history that they wrote."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from aegis_pytest.history import Died, History, Violation
from tests.chaos.process import Process, Refused, run_process

__all__ = ["Scene", "open_scene"]


class Scene:
    """Processes on one backend. Made by `open_scene`.

    Args:
        url: Of the backend.
        folder: Where records, logs and the shared storage are.
        nursery: Where the processes run.
    """

    def __init__(self, url: str, folder: Path, nursery: trio.Nursery) -> None:
        self.url = url
        self.folder = folder
        self.storage = folder / "storage"
        self.processes: list[Process] = []
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self.storage.mkdir()

    def __repr__(self) -> str:
        return f"<Scene on {self.url}: {self.processes}>"

    async def start(
        self,
        name: str = "",
        *,
        url: str = "",
        ttl: float = 30.0,
        timeout: float = 5.0,
    ) -> Process:
        """Start a process and wait until its instance is registered."""
        name = name or f"p{next(self._numbers)}"
        arguments = [url or self.url, "--name", name, "--records", str(self.folder / f"{name}.records")]
        arguments += ["--ttl", str(ttl), "--timeout", str(timeout)]
        run = functools.partial(run_process, name, arguments, log=self.folder / f"{name}.log", storage=self.storage)
        process: Process = await self._nursery.start(run)
        self.processes.append(process)
        await process.expect("ready")
        return process

    async def start_all(self, count: int, *, ttl: float = 30.0, timeout: float = 5.0) -> list[Process]:
        """Start that many at once."""
        started: dict[int, Process] = {}

        async def start(number: int) -> None:
            started[number] = await self.start(f"p{number}", ttl=ttl, timeout=timeout)

        async with trio.open_nursery() as nursery:
            for number in range(1, count + 1):
                nursery.start_soon(start, number)
        return [started[number] for number in sorted(started)]

    async def read_all(self, reader: Process, keys: Sequence[str]) -> None:
        """Let *reader* read the owner of each key: the reads that a history ends with."""
        for key in keys:
            try:
                await reader.ask("get_owner", key=key)
            except Refused as exc:
                if exc.code != "RESOURCE_NOT_FOUND":
                    raise

    @property
    def leases_lost(self) -> int:
        """How often an instance lost its lease."""
        return sum(event["event"] == "LeaseEnded" for process in self.processes for event in process.events)

    def history(self) -> History:
        """What all processes have recorded so far, and who of them died."""
        history = History.read(*sorted(self.folder.glob("*.records")))
        for process in self.processes:
            if process.died_at is not None:
                history.append(Died(at=process.died_at, process=process.name))
        return history

    async def close(self, reader: Process, keys: Sequence[str]) -> History:
        """Let *reader* read the owner of each key, end all and `check`."""
        await self.read_all(reader, keys)
        return await self.check()

    async def check(self) -> History:
        """End all processes in order; the history, in which no rule is broken.

        Raises:
            AssertionError: One is; its text is the first violation's, and the pictures of all lie in the folder.
        """
        for process in self.processes:
            process.end()
        for process in self.processes:
            await process.wait_ended()
        history = self.history()
        violations = history.check()
        for number, violation in enumerate(violations):
            (self.folder / f"violation-{number}.svg").write_text(violation.svg(), encoding="utf-8")
        assert not violations, _told(violations, self.folder)
        return history


def _told(violations: Sequence[Violation], folder: Path) -> str:
    rules = ", ".join(f"{it.rule.name} of {it.key}" for it in violations[:20])
    return f"{len(violations)} violations ({rules}); pictures in {folder}. The first:\n{violations[0].text()}"


@asynccontextmanager
async def open_scene(url: str, folder: Path) -> AsyncIterator[Scene]:
    """A scene for the block; whatever it started has ended when it is left."""
    async with trio.open_nursery() as nursery:
        yield Scene(url, folder, nursery)
        nursery.cancel_scope.cancel()
