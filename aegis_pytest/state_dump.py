"""What a test was doing when it was stopped, or failed: how its clusters stood, and where its tasks waited."""

from __future__ import annotations

import contextlib
import linecache
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Protocol

import attrs
import trio

import aegis_backends
import aegis_core
import aegis_pytest

__all__ = ["Reporter", "describe_state", "dump_state", "from_users_code", "reporting", "where_tasks_wait"]

_OURS: Final = tuple(str(Path(package.__path__[0])) for package in (aegis_core, aegis_backends, aegis_pytest))
_FOREIGN: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_MOST_TASKS: Final = 10


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


def describe_state() -> str:
    """The state of this Trio run at a failure: what the reporters tell; "" without any, or if it was dumped before."""
    return "" if _dumped.get() else "\n".join(_describe_all())


def _describe_all() -> Iterator[str]:
    for reporter in _known_reporters():
        yield from reporter.describe()
        yield from reporter.describe_latest()


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
        path = Path(code.co_filename)
        with contextlib.suppress(ValueError):
            path = path.relative_to(Path.cwd())
        text = linecache.getline(code.co_filename, self.line).strip()
        return f"{self.name}: {path}:{self.line} in {code.co_name}: {text}"


def where_tasks_wait() -> list[str]:
    """Every task of the test with the line of the user's code that it waits in; tasks without one are counted."""
    places: list[_Place] = []
    others = 0
    for task in _tasks(trio.lowlevel.current_root_task()):
        place = _place(task)
        if place is None:
            others += 1
        else:
            places.append(place)
    # Those of a nursery are a set. The test's own is what its reader looks for first.
    places.sort(key=lambda place: (not place.name.startswith("<test "), place.name, place.line))
    lines = ["tasks:", *(f"  {place}" for place in places[:_MOST_TASKS])]
    hidden = len(places) - _MOST_TASKS
    if hidden > 0:
        lines.append(f"  and {hidden} more")
    lines.append(f"  (besides {others} of the libraries)")
    return lines


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
        if _is_users(frame.f_code.co_filename):
            found = _Place(task.name, frame, line)
    return found


def from_users_code(traceback: TracebackType | None) -> TracebackType | None:
    """*traceback* without the libraries' frames before the first one of the user's; all of it if there is none."""
    entry = traceback
    while entry is not None:
        if _is_users(entry.tb_frame.f_code.co_filename):
            return entry
        entry = entry.tb_next
    return traceback


def _is_users(filename: str) -> bool:
    # A test's environment may lie within the project, so libraries are told by their own folders.
    return not filename.startswith((*_OURS, *_FOREIGN, "<"))
