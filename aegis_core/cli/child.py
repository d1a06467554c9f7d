"""A command that runs while a claim is held, and not a moment longer.

The command is the leader of a process group of its own, so that what it starts ends with it. It is asked to end by SIGTERM
and, after a grace, made to by SIGKILL: when the resource is to be handed over; when so little is left of the lease that
the grace must begin; at once when somebody else may own the resource already. `aegis_core.cli.guard` does the last for us
where we cannot.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

import trio

from aegis_core.cli.guard import DONE, OPEN, READY, notice
from aegis_core.node.claims import Claim

__all__ = ["run_under"]

_FORWARDED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PYTHON: Final = (sys.executable, "-P", str(Path(__file__).with_name("guard.py")))
_LONGEST_SILENCE: Final = 1.0


async def run_under(claim: Claim, command: Sequence[str], *, grace: float) -> tuple[int, str]:
    """Run *command* while *claim* is held. Signals that come meanwhile are its.

    Args:
        claim: What it works under; resource id and epoch are in its environment.
        command: The program with its arguments.
        grace: Seconds between SIGTERM and SIGKILL, as far as the claim still holds.

    Returns:
        Its exit status (128 + the signal's number if one ended it), and why it was ended early, or "".

    Cancelled, it is ended: killed at once if the claim holds no longer.
    """
    why = ""
    with trio.open_signal_receiver(*_FORWARDED) as signals:
        async with _open_guard() as guard:
            process, gate = await _start(claim, command)
            try:
                with gate, suppress(BrokenPipeError):  # a signal may have ended it already
                    if await _tell(guard, process, claim.remaining):
                        gate.write(OPEN)
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def forward() -> None:
                        async for number in signals:
                            _signal(process, number)

                    @nursery.start_soon
                    async def hand_over() -> None:
                        nonlocal why
                        await claim.wait_leaving()
                        why = (
                            "it is handed over"
                            if claim.ended is None
                            else f"the claim of {claim.resource_id!r} ended: {claim.ended.value}"
                        )
                        nursery.cancel_scope.cancel()

                    @nursery.start_soon
                    async def keep() -> None:
                        nonlocal why
                        why = await _keep(claim, guard, process, grace)
                        nursery.cancel_scope.cancel()

                    await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _end(process, claim, grace)
    assert process.returncode is not None
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, why


async def _start(claim: Claim, command: Sequence[str]) -> tuple[trio.Process, BinaryIO]:
    """Start *command*, behind a gate; the process, and what opens the gate."""
    reading, gate = _gate()
    try:
        process = await trio.lowlevel.open_process(
            [*_PYTHON, str(reading), *command],
            stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
            env={**os.environ, **_environment(claim)},
            process_group=0,
            pass_fds=(reading,),
        )
    except BaseException:
        gate.close()
        raise
    finally:
        os.close(reading)
    return process, gate


def _gate() -> tuple[int, BinaryIO]:
    """A pipe: where the command waits, and what opens it."""
    reading, writing = os.pipe()
    return reading, cast(BinaryIO, os.fdopen(writing, "wb", buffering=0))


def _environment(claim: Claim) -> dict[str, str]:
    return {
        "AEGIS_RESOURCE_ID": claim.resource_id,
        "AEGIS_EPOCH": str(claim.epoch),
        "AEGIS_INSTANCE_ID": claim.instance.instance_id,
    }


async def _keep(claim: Claim, guard: trio.Process, process: trio.Process, grace: float) -> str:
    """Tell the guard how long the lease lasts, until no more than *grace* is left of it; why that was the end."""
    silence = min(_LONGEST_SILENCE, claim.instance.ttl / 20)
    while True:
        left = claim.remaining
        if not await _tell(guard, process, left):
            return "the process that guards it was killed"
        if left <= grace:
            return "its lease is running out and could not be renewed"
        await trio.sleep(min(silence, left - grace))


async def _tell(guard: trio.Process, process: trio.Process, left: float) -> bool:
    """Tell *guard* that *process* may run for *left* seconds more; whether there is anybody to be told."""
    assert guard.stdin is not None
    try:
        await guard.stdin.send_all(notice(process.pid, left))
    except trio.BrokenResourceError:
        return False
    return True


async def _end(process: trio.Process, claim: Claim, grace: float) -> None:
    """End *process* and all that it started and left running."""
    left = min(grace, claim.remaining)
    if process.returncode is None and left > 0:
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(left):
            await process.wait()
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: trio.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@asynccontextmanager
async def _open_guard() -> AsyncIterator[trio.Process]:
    """The process that kills the command where we cannot; dismissed when the block is left."""
    guard = await trio.lowlevel.open_process(
        _PYTHON,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to our group is not for it
        cwd="/",
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        async with guard.stdout:
            await guard.stdout.receive_some(len(READY))  # or its end: then nobody can be told, and nothing runs
        yield guard
    finally:
        with trio.CancelScope(shield=True):
            with suppress(trio.BrokenResourceError):
                await guard.stdin.send_all(DONE)
            await guard.stdin.aclose()
            await guard.wait()
