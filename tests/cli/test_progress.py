"""Long work says how far it is, to who looks at a terminal, and to nobody else."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from aegis_core.cli.progress import progress
from tests.cli.running import PATIENCE, PROGRAM, run_command, town

ERASED = "\x1b[2K"


class Terminal(io.StringIO):
    """What standard error is while somebody looks."""

    def isatty(self) -> bool:
        """It is one."""
        return True

    def written(self) -> str:
        """What has been written since this was asked last."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Standard error is a terminal within the block."""
    with monkeypatch.context() as within:
        within.setenv("TERM", "xterm")
        within.setattr("sys.stderr", shown := Terminal())
        yield shown


def percents(text: str) -> list[int]:
    """The shares that were shown, one after the other, each once."""
    found = [int(share) for share in re.findall(r"(\d+)%", text)]
    return [share for at, share in enumerate(found) if at == 0 or found[at - 1] != share]


def test_bar_is_drawn_as_work_goes_on_and_goes_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once when it is told, without a thread that draws."""
    with terminal(monkeypatch) as shown:
        with progress("transferring", 4) as done:
            begun = shown.written()
            assert "transferring" in begun
            assert percents(begun) == [0]
            done(1)
            assert percents(shown.written()) == [25]
            done(4)
            assert percents(shown.written()) == [100]
        assert ERASED in shown.written()


def test_bar_goes_when_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the error stands on a line of its own."""
    with terminal(monkeypatch) as shown:
        with suppress(ValueError), progress("draining", 2):
            assert "draining" in shown.written()
            raise ValueError("broken")
        assert ERASED in shown.written()


def test_nothing_is_drawn_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """A file, or a pipe, holds what is worth keeping."""
    with progress("transferring", 4) as done:
        done(4)
    assert capsys.readouterr() == ("", "")


async def test_transfer_says_how_far_it_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In parts of a hundred; what it did stands on standard output."""
    async with town() as t:
        ids = [f"room:{number}" for number in range(10, 260)]
        await t.a.claim(*ids)
        with terminal(monkeypatch) as shown:
            assert await run_command("transfer", *ids, "--to", "b") == 0
            drawn = shown.written()
    assert "transferring" in drawn
    assert percents(drawn) == [0, 40, 80, 100]
    assert len(capsys.readouterr().out.splitlines()) == 250


async def test_drain_says_how_far_it_is(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the instance owns still, again and again: that is all as long as a call goes on, and then nothing."""
    async with town() as t, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def sleep() -> None:
            await t.node.call("rooms", "nap", {"seconds": 5}, resource_id="room:1", timeout=10)

        await trio.sleep(1)
        with terminal(monkeypatch) as shown:
            assert await run_command("drain", "a") == 0
            drawn = shown.written()
    assert drawn.count("draining a") > 2
    assert percents(drawn) == [0]


async def test_program_draws_on_its_terminal_alone() -> None:
    """Of a process: the bar is on the terminal, the table in the pipe."""
    ours, theirs = pty.openpty()
    line = [*PROGRAM, "bench", "call", "--seconds", "0.3", "--concurrency", "2", "--backend", "memory://"]
    environment = {**os.environ, "TERM": "xterm"}
    with trio.fail_after(PATIENCE):
        ended = await trio.run_process(line, env=environment, stderr=theirs, capture_stdout=True)
        piped = await trio.run_process(line, env=environment, capture_stderr=True, capture_stdout=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "measuring" in shown
    assert percents(shown)[0] == 0
    assert percents(shown) == sorted(percents(shown))
    assert b"per second" in ended.stdout
    assert "per second" not in shown
    assert (piped.stderr, b"per second" in piped.stdout) == (b"", True)
