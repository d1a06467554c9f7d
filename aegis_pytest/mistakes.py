"""Mistakes of tests that Python and Trio speak of where nobody listens: what was never awaited, blocks never entered or left.

What is not awaited does not happen, so that a test which forgets to await its expectation passes; Python only warns of it.
A block that was entered by hand and never left breaks Trio down, which says so at length, but neither where nor which; what is
left of such a run would later spoil others.
"""

from __future__ import annotations

import contextlib
import gc
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import CoroutineType
from typing import Final, cast

import trio

from aegis_pytest.state_dump import is_users, passes_users_code, tell_line

__all__ = ["MISTAKES", "Listener", "bury_run", "bury_test", "has_broken_down"]

MISTAKES: Final = ("missing_awaits", "unused_faults")
"""What the marker ``aegis_allow`` can allow besides what is left behind."""

_MISNESTED: Final = re.compile(r"(Cancel scope|Nursery) stack corrupted|Nursery misnesting detected!")
_FORGOTTEN: Final = re.compile(r"(?P<what>coroutine '.*' was never awaited)\nCoroutine created at ")
_NOT_ENTERED: Final = re.compile(r"a block was never entered: ")
_ABANDONED: Final = re.compile(r"Async generator '(?P<name>.*)' was garbage collected")
_ORIGIN: Final = 3
"""Frames that are known of where a coroutine was made: those in which the library makes it, up to the user's that asked for it."""
_unburied: list[None] = []  # one for each run of this test that broke down
_ROUNDS: Final = 3  # A generator that is closed comes to life once more, and with it all that it knows.
_NOT_LEFT: Final = (
    "the test entered {} and did not leave it, or not in order, so that Trio broke down.\n"
    "Enter open_node, serve, own, nurseries and cancel scopes by 'async with' or 'with', not by __aenter__ or __enter__; "
    "several, by contextlib.AsyncExitStack.\n"
    "(A node that is to last as long as the test: await aegis_cluster.node('a'), or aegis_cluster.serve.)\n"
    "(Trio says: {})"
)

_Filter = tuple[str, re.Pattern[str] | None, type[Warning], re.Pattern[str] | None, int]
_Show = Callable[[warnings.WarningMessage], None]


class Listener:
    """Hears what Python warns of while one test runs.

    Args:
        allow: Of `MISTAKES`, what is none in this test.

    Attributes:
        found: The mistakes of the test, in words.
    """

    def __init__(self, allow: frozenset[str] = frozenset()) -> None:
        self.found: list[str] = []
        self._awaits = "missing_awaits" not in allow
        self._heard = ""
        self._collects = False
        self._abandoned: list[tuple[str, type[Warning], str, int]] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block such warnings are noted; all others, and what is not the test's doing, are what they ever are.

        A missing await is the test's doing if the coroutine was made within the block, and so is a block of the library's that is
        never entered. It is shown as well. One that the
        garbage collector finds may have been made by any earlier test: the user's filters alone decide on it. Where filters of the user ignore
        it, or the test records warnings itself, nothing is noted.
        """
        show, depth = _get_show(), sys.get_coroutine_origin_tracking_depth()

        def note(message: warnings.WarningMessage) -> None:
            text = str(message.message)
            if text == self._heard and not self._collects:
                self._note_forgotten(message)
            if _ABANDONED.match(text):
                # Without its source, which is the generator: nobody may keep that alive.
                self._abandoned.append((text, message.category, message.filename, message.lineno))
            else:
                show(message)

        with warnings.catch_warnings():
            if self._awaits:
                sys.set_coroutine_origin_tracking_depth(max(depth, _ORIGIN))
                filters = _get_filters()
                filters[:] = self._before(filters)
            warnings.filterwarnings("always", _ABANDONED.pattern, ResourceWarning)
            gc.callbacks.append(self._note_collection)
            _set_show(note)
            try:
                yield
            finally:
                _set_show(show)
                gc.callbacks.remove(self._note_collection)
                sys.set_coroutine_origin_tracking_depth(depth)

    def warn(self) -> None:
        """Warn of generators that nobody exhausted, as Python does: they were none of the blocks that `tell_block` tells of."""
        for message, category, filename, line in self._abandoned:
            warnings.warn_explicit(message, category, filename, line)

    def tell_block(self, raised: BaseException | None) -> str:
        """That a block was never left, which it was, if that is known, and what to write instead.

        "" if nothing says that this is why Trio broke down, so that *raised* is to be shown.
        """
        chain = list(_chain(raised))
        said = [str(exc) for exc in chain if _is_misnesting(exc)]
        if not said:
            # Else a generator that was never left is the cause, unless it was code of the user's that raised within Trio.
            internal = isinstance(raised, trio.TrioInternalError)
            if not internal or not self._abandoned or any(passes_users_code(exc.__traceback__) for exc in chain[1:]):
                return ""
        matches = [_ABANDONED.match(message) for message, *_ in self._abandoned]
        names = dict.fromkeys(match["name"].rpartition(".")[2] for match in matches if match)
        first, *_ = (said[-1] if said else f"{type(chain[-1]).__name__}: {chain[-1]}").splitlines()
        return _NOT_LEFT.format(f"a block of {' and of '.join(names)}" if names else "a block", first)

    def _before(self, filters: Sequence[_Filter]) -> Iterator[_Filter]:
        """*filters*, where each but those that ignore has one before it that lets what it matches be heard."""
        for action, message, category, module, line in filters:
            if action != "ignore" and issubclass(RuntimeWarning, category):
                yield "always", self._hearing(message), RuntimeWarning, module, line
            yield action, message, category, module, line
        yield "always", self._hearing(None), RuntimeWarning, None, 0

    def _hearing(self, besides: re.Pattern[str] | None) -> re.Pattern[str]:
        # Python only calls what it finds here: it need be no pattern.
        return cast("re.Pattern[str]", _Hearing(self._hear, besides))

    def _hear(self, text: str) -> bool:
        if self._collects:
            return False
        self._heard = text
        return True

    def _note_forgotten(self, message: warnings.WarningMessage) -> None:
        text, source = str(message.message), message.source
        forgotten = _FORGOTTEN.match(text)
        if forgotten is None:
            # A block is dropped where it was made, or by code that is not the user's.
            if is_users(message.filename):
                self._note(f"{text}: {tell_line(message.filename, message.lineno)}")
        elif isinstance(source, CoroutineType) and source.cr_origin:
            places = [(filename, line) for filename, line, _ in source.cr_origin]
            filename, line = next((place for place in places if is_users(place[0])), places[0])
            self._note(f"an await is missing: {forgotten['what']}: {tell_line(filename, line)}")

    def _note(self, mistake: str) -> None:
        if mistake not in self.found:  # as it is where each node of a simulation makes it
            self.found.append(mistake)

    def _note_collection(self, phase: str, _info: object) -> None:
        self._collects = phase == "start"


class _Hearing:
    """Stands in a filter for the pattern of what was never awaited, or entered, and matches *besides*, too."""

    def __init__(self, hear: Callable[[str], bool], besides: re.Pattern[str] | None) -> None:
        self._hear = hear
        self._besides = besides

    def match(self, text: str) -> bool:
        """Whether the filter is one for *text*; that it was asked tells that no filter of the test's own came first."""
        fits = (_FORGOTTEN.match(text) or _NOT_ENTERED.match(text)) and (
            self._besides is None or self._besides.match(text)
        )
        return bool(fits) and self._hear(text)


# What warnings.showwarning gets lacks the warning's source, and on Python 3.14 catch_warnings may not put it back: these
# are the functions, and the filters of the context, that the module itself goes by.

_SHOW: Final = "_showwarnmsg"


def _get_show() -> _Show:
    show: _Show = vars(warnings)[_SHOW]
    return show


def _set_show(show: _Show) -> None:
    setattr(warnings, _SHOW, show)


def _get_filters() -> list[_Filter]:
    get = vars(warnings).get("_get_filters")
    filters: list[_Filter] = vars(warnings)["filters"] if get is None else get()
    return filters


def has_broken_down(raised: BaseException | None) -> bool:
    """Whether Trio broke down, so that what is left of the run must be buried: *raised* says so."""
    return isinstance(raised, trio.TrioInternalError) or (isinstance(raised, RuntimeError) and _is_misnesting(raised))


def _is_misnesting(exc: BaseException) -> bool:
    """Whether Trio found, by *exc*, that a block was never left, or left elsewhere than it was entered."""
    return isinstance(exc, RuntimeError | AssertionError) and _MISNESTED.match(str(exc)) is not None


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """*exc* and what caused it, and what those are groups of."""
    seen: dict[int, BaseException] = {}
    ahead = [exc]
    while ahead:
        exc = ahead.pop()
        if exc is not None and id(exc) not in seen:
            seen[id(exc)] = exc
            ahead += (exc.__context__, exc.__cause__)
            if isinstance(exc, BaseExceptionGroup):
                ahead += exc.exceptions
            yield exc


def bury_run() -> None:
    """Let what is left of a Trio run that broke down be collected now, in silence.

    What fixtures of its test hold is left until `bury_test`.
    """
    _unburied.append(None)
    _collect()


def bury_test() -> None:
    """Let what is left of a test whose Trio run broke down be collected, once its fixtures are gone; else do nothing."""
    if not _unburied:
        return
    _unburied.clear()
    # The frames of its failure know all that the test knew.
    traceback.clear_frames(getattr(sys, "last_traceback", None))
    _collect()


def _collect() -> None:
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(_ROUNDS):
                gc.collect()
    finally:
        sys.unraisablehook = hook
