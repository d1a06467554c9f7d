"""What a test was doing when it was stopped, or failed: how its clusters stood, and where its tasks waited."""

from __future__ import annotations

import contextlib
import dis
import linecache
import os
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Final, Protocol

import attrs
import trio

import aegis_backends
import aegis_core
import aegis_pytest
from aegis_pytest.telling import clip, first_lines

__all__ = [
    "Reporter",
    "all_tasks",
    "describe_state",
    "dump_state",
    "from_users_code",
    "is_dumped",
    "is_refusal",
    "is_users",
    "passes_users_code",
    "reporting",
    "tell_line",
    "to_users_code",
    "where_tasks_wait",
]

_OURS: Final = tuple(str(Path(package.__path__[0])) + os.sep for package in (aegis_core, aegis_backends, aegis_pytest))
_FOREIGN: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_RAISES: Final = dis.opmap["RAISE_VARARGS"]
_MOST_TASKS: Final = 10
_LONGEST: Final = 240  # of a path, and the line of code there
_MOST_LINES: Final = 22
_FEWEST_LINES: Final = 6


class Reporter(Protocol):
    """What can tell how it stands, line by line: a cluster."""

    def describe(self) -> Iterable[str]:
        """How it stands now."""
        ...

    def describe_latest(self) -> Iterable[str]:
        """What happened last."""
        ...


_dumped: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("aegis state dumped", default=False)
_reporters: trio.lowlevel.RunVar[list[Reporter]] = trio.lowlevel.RunVar("aegis state reporters")


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """While the block runs, `dump_state` and `describe_state` of this Trio run include what *reporter* tells."""
    try:
        reporters = _reporters.get()
    except LookupError:
        reporters = []
        _reporters.set(reporters)
    reporters.append(reporter)
    try:
        yield
    finally:
        reporters.remove(reporter)


def dump_state() -> str:
    """The state of this Trio run: what the reporters tell, then where tasks wait. Needs no checkpoint."""
    _dumped.set(True)
    return "\n".join([*_describe_all(), *where_tasks_wait()])


def is_dumped() -> bool:
    """Whether `dump_state` was called in this Trio run."""
    return _dumped.get()


def describe_state() -> str:
    """The state of this Trio run at a failure: what the reporters tell; "" without any, or if it was dumped before."""
    return "" if _dumped.get() else "\n".join(_describe_all())


def _describe_all() -> list[str]:
    reporters = _known_reporters()
    share = _MOST_LINES // max(1, len(reporters))
    lines: list[str] = []
    for reporter in reporters:
        # Where several share the lines, what happened last is the first to go.
        lines += first_lines([*reporter.describe(), *reporter.describe_latest()], max(_FEWEST_LINES, share))
    return first_lines(lines, _MOST_LINES)


def _known_reporters() -> list[Reporter]:
    try:
        return _reporters.get()
    except LookupError:
        return []


@attrs.frozen
class _Place:
    """Where a task waits, in code that is neither ours nor a library's."""

    name: str
    frame: FrameType
    line: int

    def __str__(self) -> str:
        code = self.frame.f_code
        return f"{self.name}: {tell_line(code.co_filename, self.line, code.co_name)}"


def tell_line(filename: str, line: int, function: str = "") -> str:
    """A line of source as people look for it: where it is, and what it says."""
    path = Path(filename)
    with contextlib.suppress(ValueError, OSError):  # a test may have removed the folder that it works in
        path = path.relative_to(Path.cwd())
    within = f" in {function}" if function else ""
    return f"{path}:{line}{within}: {linecache.getline(filename, line).strip()}"


def where_tasks_wait(most: int = _MOST_TASKS, tasks: Iterable[trio.lowlevel.Task] | None = None) -> list[str]:
    """*tasks*, or all, with the line of the user's code that they wait in, *most* of them; those without one are counted."""
    places: list[_Place] = []
    others = 0
    for task in all_tasks() if tasks is None else tasks:
        place = _place(task)
        if place is None:
            others += 1
        else:
            places.append(place)
    # Those of a nursery are a set. The test's own is what its reader looks for first.
    places.sort(key=lambda place: (not place.name.startswith("<test "), place.name, place.line))
    lines = ["tasks:", *(clip(f"  {place}", _LONGEST) for place in places[:most])]
    hidden = len(places) - most
    if hidden > 0:
        lines.append(f"  and {hidden} more")
    if others:
        lines.append(f"  (besides {others} of the libraries)")
    return lines


def all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Every task of this Trio run."""
    return _tasks(trio.lowlevel.current_root_task())


def _tasks(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    if task is None:
        return
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child)


def _place(task: trio.lowlevel.Task) -> _Place | None:
    found = None
    for frame, line in task.iter_await_frames():
        if is_users(frame.f_code.co_filename):
            found = _Place(task.name, frame, line)
    return found


def passes_users_code(traceback: TracebackType | None) -> bool:
    """Whether a frame of *traceback* is one of the user's."""
    return any(is_users(frame.f_code.co_filename) for frame, _ in walk_tb(traceback))


def from_users_code(traceback: TracebackType | None) -> TracebackType | None:
    """*traceback* without the libraries' frames before the first one of the user's; all of it if there is none."""
    entry = traceback
    while entry is not None:
        if is_users(entry.tb_frame.f_code.co_filename):
            return entry
        entry = entry.tb_next
    return traceback


def to_users_code(traceback: TracebackType | None) -> TracebackType | None:
    """*traceback* without the libraries' frames after the last one of the user's; all of it if there is none."""
    entries: list[TracebackType] = []
    entry = traceback
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    while entries and not is_users(entries[-1].tb_frame.f_code.co_filename):
        entries.pop()
    kept: TracebackType | None = None
    for entry in reversed(entries):
        kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept or traceback


def is_refusal(exc: BaseException | None) -> bool:
    """Whether code of ours raised *exc* for what it was asked: a `TypeError`, `ValueError` or `RuntimeError` that a ``raise`` of ours made."""
    if not isinstance(exc, TypeError | ValueError | RuntimeError):
        return False
    entry = exc.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    if entry is None:
        return False
    code = entry.tb_frame.f_code
    return code.co_filename.startswith(_OURS) and code.co_code[entry.tb_lasti] == _RAISES


def is_users(filename: str) -> bool:
    """Whether that file is neither ours nor a library's."""
    # A test's environment may lie within the project, so libraries are told by their own folders.
    return not filename.startswith((*_OURS, *_FOREIGN, "<"))
