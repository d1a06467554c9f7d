"""A worker's process as a test sees it: commands go in, answers and events come out, signals do what they do."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

__all__ = ["Process", "Refused", "run_process"]

_WORKER: Final = Path(__file__).with_name("worker.py")
_PATIENCE: Final = 120.0


class Refused(Exception):
    """A command ended in an error. `code` is the error's."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(f"{code}: {said}")
        self.code = code


class Process:
    """One worker. Made by `run_process`, which ends it whatever happens.

    Args:
        name: Of the process, and of its instance.
        process: As it was started.
        log: The file that its standard error goes to.
        storage: The folder that it shares with the others.
    """

    def __init__(self, name: str, process: trio.Process, log: Path, storage: Path) -> None:
        self.name = name
        self.died_at: float | None = None
        self.events: list[dict[str, object]] = []
        self._process = process
        self._log = log
        self._storage = storage
        self._answers: dict[int, dict[str, object]] = {}
        self._numbers = 0
        self._moved = trio.Event()
        self._gone = False

    def __repr__(self) -> str:
        return f"<Process {self.name} {self._process.pid}{', gone' if self._gone else ''}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def ask(self, do: str, **arguments: object) -> object:
        """Let it carry the command *do* out; the result.

        Raises:
            Refused: It ended in an error.
            AssertionError: It did not answer within two minutes, or ended.
        """
        number = await self.begin(do, **arguments)
        return await self.result(number)

    async def begin(self, do: str, **arguments: object) -> int:
        """Let it begin with the command *do*; its number, for `result`."""
        self._numbers += 1
        command = {"id": self._numbers, "do": do, **arguments}
        number = self._numbers
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{json.dumps(command)}\n".encode())
        return number

    async def result(self, number: int, *, within: float = _PATIENCE) -> object:
        """What the command of that number came to; see `ask`."""
        with trio.move_on_after(within):
            while number not in self._answers and not self._gone:
                await self._moved.wait()
        if number not in self._answers:
            raise AssertionError(f"{self!r} did not answer command {number}; it logged:\n{self.log[-4000:]}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Refused(str(answer["error"]), str(answer["said"]))
        return answer["result"]

    async def expect(
        self, event: str, *, after: int = 0, within: float = _PATIENCE, **fields: object
    ) -> dict[str, object]:
        """Wait for an event with these fields, not among the first *after* ones."""
        wanted = {"event": event, **fields}
        with trio.move_on_after(within):
            while True:
                moved = self._moved
                for known in self.events[after:]:
                    if wanted.items() <= known.items():
                        return known
                if self._gone:
                    break
                await moved.wait()
        raise AssertionError(f"{self!r} did not tell {wanted}; it told {self.events}; it logged:\n{self.log[-4000:]}")

    async def wait_in_line(self, key: str) -> None:
        """Wait until its instance stands in the line of *key*."""
        with trio.fail_after(_PATIENCE):
            while await self.ask("line", key=key) == 0:  # noqa: ASYNC110 - it is another process's
                await trio.sleep(0.05)

    def kill(self) -> None:
        """``kill -9``."""
        self._note_death()
        self._process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP: it does nothing until `go_on`. It has stopped when this returns, not while it writes to the storage.

        Who stops for long with the storage's lock makes all the others wait for it, and they are what a test goes on with.
        """
        with (self._storage / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process.send_signal(signal.SIGSTOP)
            # Until it has stopped, it may still be given the lock that it waits for.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._note_death()

    def go_on(self) -> None:
        """SIGCONT."""
        self.died_at = None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """`stop` for the block, then `go_on`."""
        self.stop()
        try:
            yield
        finally:
            self.go_on()

    def end(self) -> None:
        """SIGTERM: it ends in order, if it has not ended yet."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def wait_ended(self, *, within: float = _PATIENCE) -> int:
        """Wait until the process has ended; its exit code."""
        with trio.fail_after(within):
            return await self._process.wait()

    def _note_death(self) -> None:
        if self.died_at is None:
            self.died_at = time.monotonic()

    async def listen(self) -> None:
        """Take in what it says, until it ends."""
        heard = b""
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            *lines, heard = (heard + chunk).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if "event" in told:
                    self.events.append(told)
                else:
                    self._answers[told["id"]] = told
            self._tell()
        self._gone = True
        self._tell()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def end_surely(self) -> None:
        """End it, stopped or not, and wait for that."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self.end()
            with trio.move_on_after(5):
                await self._process.wait()
        if self._process.returncode is None:
            self.kill()
            await self._process.wait()


async def run_process(
    name: str,
    arguments: Sequence[str],
    *,
    log: Path,
    storage: Path,
    task_status: trio.TaskStatus[Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a worker until it ends, or until this is cancelled, which ends it; started with the `Process`.

    Args:
        name: Of the process, and of its instance.
        arguments: Of `tests/chaos/worker.py`.
        log: Where its standard error goes.
        storage: The folder that it shares with the others.
        task_status: Told once the process is there.
    """
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", str(_WORKER), *arguments, "--storage", str(storage)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    worker = Process(name, process, log, storage)
    try:
        task_status.started(worker)
        await worker.listen()
        await process.wait()
    finally:
        with trio.move_on_after(_PATIENCE, shield=True):
            await worker.end_surely()
