"""The faults that a test can put in force, each for the length of a block: the fixture ``aegis_faults``.

It is one long file because `Faults` is one fixture, whose methods stand together with what each of them refuses.
"""

from __future__ import annotations

import dis
import functools
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, Literal, NoReturn, ParamSpec

import attrs
import pytest
import trio

from aegis_core.backend import Conflict, Put, Store, Transaction
from aegis_pytest.faults.kinds import (
    STORE,
    Counted,
    Cut,
    Delay,
    Doubling,
    Doubt,
    Drift,
    Fault,
    Loss,
    LostLease,
    Reset,
    Stop,
)
from aegis_pytest.faults.member import Member
from aegis_pytest.faults.plane import FaultPlane

__all__ = ["FAULTS", "Faults"]

FAULTS: Final = (
    "partition",
    "pause",
    "skew",
    "drift",
    "slow",
    "drop",
    "duplicate",
    "indeterminate",
    "lose_lease",
    "reset",
)
"""Everything that can go wrong, by the names of the methods."""

P = ParamSpec("P")


_DROPS_A_RESULT: Final = dis.opmap["POP_TOP"]


@attrs.frozen(eq=False)
class Entered:
    """That a task has entered the block of the fault *name*."""

    name: str
    task: trio.lowlevel.Task

    @property
    def is_left_behind(self) -> bool:
        """Whether the task is over, so that nobody leaves the block any more."""
        return self.task.coro.cr_frame is None


class _Block(AbstractContextManager[None]):
    """The block of one fault, which adds its *name* to *unused* if nobody ever took it: the call stands there by itself.

    From when it is entered until it is left, that is in *within*. What is kept, in a list say, and not entered is somebody's choice.
    """

    def __init__(
        self, name: str, block: AbstractContextManager[None], unused: list[str], within: list[Entered]
    ) -> None:
        self.name = name
        self._block = block
        self._unused = unused
        self._within = within
        self._entered: Entered | None = None

    def __repr__(self) -> str:
        return f"<Block of {self.name}>"

    def __enter__(self) -> None:
        self._entered = Entered(self.name, trio.lowlevel.current_task())
        self._block.__enter__()
        self._within.append(self._entered)

    # Type checkers are not shown these: to them it is an error to use any.
    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            self._refuse()

        def __aenter__(self) -> NoReturn:
            self._refuse()

        def __aexit__(self, *_: object) -> NoReturn:
            self._refuse()

        def _refuse(self) -> NoReturn:
            raise TypeError(f"it is entered otherwise: write 'with aegis_faults.{self.name}(...)'")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._entered is not None:
            self._within.remove(self._entered)
        return self._block.__exit__(kind, exc, traceback)

    def __del__(self) -> None:
        frame = sys._getframe().f_back
        if self._entered is None and frame is not None and frame.f_code.co_code[frame.f_lasti] == _DROPS_A_RESULT:
            self._unused.append(self.name)


def _fault(
    method: Callable[Concatenate[Faults, P], Iterator[None]],
) -> Callable[Concatenate[Faults, P], AbstractContextManager[None]]:
    """Make a context manager of *method*, which `Faults.expect_entered` knows of."""
    make = contextmanager(method)
    signature = inspect.signature(method)
    _, *parameters = (it.replace(annotation=it.empty) for it in signature.parameters.values())
    taken = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)

    @functools.wraps(method)
    def announce(self: Faults, /, *args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[None]:
        __tracebackhide__ = True
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{exc}: it is {method.__name__}{taken}") from None
        return _Block(method.__name__, make(self, *args, **kwargs), self.unused, self.within)

    return announce


class Faults:
    """What goes wrong in a cluster. Every method is a context manager: the fault is in force in its block, and healed after.

    Names are those of nodes, and ``"store"``. A node may be named before it is there; one that never came by the end of the
    block is a usage error, because a fault that hit nobody proves nothing. So is a fault that is counted and hit nothing, and
    what cannot be: a cut with one side, a way from a node to itself, a number of seconds that is none. If the block raises
    something else, that is noted on it.

    They are the same on every backend: what goes wrong does so between a node and its store and transports. Where nodes are
    connected to servers that the plugin started, a node that is cut off from everybody is cut off by its connections, which
    fall silent; a delay of all that it says and hears is one of its connections; and `reset` breaks them.

    Args:
        plane: The cluster's.
        allow_unused: Whether faults that are counted may hit nothing.

    Attributes:
        unused: The names of those that were called by themselves, without a block.
        within: The blocks that were entered and not left.
    """

    def __init__(self, plane: FaultPlane, *, allow_unused: bool = False) -> None:
        self.plane = plane
        self._allow_unused = allow_unused
        self.unused: Final[list[str]] = []
        self.within: Final[list[Entered]] = []

    def __repr__(self) -> str:
        return "<Faults>"  # pytest shows it with a failure, when all is over

    @_fault
    def partition(self, *groups: Collection[str]) -> Iterator[None]:
        """Nothing passes between *groups*; within one, and with nodes that none names, all is well.

        A single group is cut from everybody else. Requests wait, and arrive if the cut heals within their timeout.
        The store's answers stay away: what was committed last is indeterminate, after that the store is unavailable.
        Watches are silent, and catch up when the cut heals.

        Args:
            groups: Names, e.g. ``{"a"}, {"b", "store"}``.
        """
        sides = tuple(_names("partition", group) for group in groups)
        if not sides or not all(sides):
            raise pytest.UsageError(
                "partition takes groups of names, none of them empty: partition({'a'}, {'b', 'store'})"
            )
        both = sorted(name for name in frozenset().union(*sides) if sum(name in side for side in sides) > 1)
        if both:
            raise pytest.UsageError(f"partition: {', '.join(both)} cannot stand on both sides of a cut")
        with self._during(Cut(sides), *(name for side in sides for name in sorted(side))):
            yield

    @_fault
    def pause(self, name: str) -> Iterator[None]:
        """Node *name* is stopped, as by SIGSTOP or a long garbage collection: it hears and says nothing, and its timers wait.

        When it goes on, what was sent to it meanwhile arrives in order, and its timers see what time it is by then.
        Tasks of yours that wait for neither are not stopped; ``held`` and ``check`` tell them how it is by the time.
        """
        with self._during(Stop(_node("pause", name)), name):
            yield

    @_fault
    def skew(self, name: str, seconds: float) -> Iterator[None]:
        """The clock of node *name* jumps by *seconds*, as when a machine was suspended; after the block it jumps back.

        A clock never goes back: set back, it stands still until the time that it showed has come again.
        """
        member = self._known(_node("skew", name))
        _number("skew", seconds)
        with self.plane.noting(f"skew of {name} by {seconds:g} s"):
            member.clock.jump(seconds)
            try:
                yield
            finally:
                member.clock.jump(-seconds)

    @_fault
    def drift(self, name: str, rate: float) -> Iterator[None]:
        """The clock of node *name* gains *rate* seconds every second (loses, if negative), e.g. 0.01.

        After the block it runs as it should, but keeps what it gained.
        """
        if _number("drift", rate) <= -1:
            raise pytest.UsageError(f"a clock cannot lose {-rate:g} seconds a second")
        with self._during(Drift(_node("drift", name), rate), name):
            yield

    @_fault
    def slow(self, way: tuple[str, str] | str, seconds: float) -> Iterator[None]:
        """What passes between the two names of *way* takes *seconds*, in either direction.

        Args:
            way: Two names; or a node, for all that it says and hears.
            seconds: How long each message takes.
        """
        ends = (way,) if isinstance(way, str) else _pair("slow", way)
        with self._during(Delay(frozenset(ends), _seconds("slow", seconds)), *ends):
            yield

    @_fault
    def reset(self, name: str) -> Iterator[None]:
        """The connections of node *name* to its servers are reset, as by a firewall or a balancer; in the block, new ones, too.

        An empty block resets them once. What is under way to the node just then is lost: on NATS, a call of it that comes
        before it is connected again may end as MAYBE_EXECUTED.

        Raises:
            pytest.UsageError: The node has no such connections: says where it would, and what can go wrong here.
        """
        if self._known(_node("reset", name)).cable is None:
            here = ", ".join(fault for fault in FAULTS if fault != "reset")
            raise pytest.UsageError(
                f"node {name!r} has no connections that could be reset: nodes have some on the backends nats and http, and "
                "others whose harness has ports, to servers on this machine (marker aegis_needs('network')). What can go "
                f"wrong here: {here}"
            )
        with self._during(Reset(name), name):
            yield

    @_fault
    def drop(self, way: tuple[str, str], *, times: int | None = None) -> Iterator[None]:
        """Messages from the first name of *way* to the second are lost.

        A message is a request, or the answer to one; from a node to the store, a commit or a read; from the store to a
        node, the answer to one (watches lose nothing, they are only late).

        Args:
            way: From whom, to whom.
            times: How many are lost, one at least; None for all in the block.
        """
        ends = _pair("drop", way)
        with self._during(Loss(*ends, left=_times("drop", times)), *ends):
            yield

    @_fault
    def duplicate(self, way: tuple[str, str], *, times: int | None = None) -> Iterator[None]:
        """Requests, or commits, from the first name of *way* to the second arrive twice. An answer counts once anyway.

        Args:
            way: From which node, to whom.
            times: How many arrive twice, one at least; None for all in the block.
        """
        ends = _pair("duplicate", way)
        if ends[0] == STORE:
            raise pytest.UsageError("duplicate: the store only answers, and an answer counts once; name a node first")
        with self._during(Doubling(*ends, left=_times("duplicate", times)), *ends):
            yield

    @_fault
    def indeterminate(
        self,
        name: str,
        *,
        applied: bool | Literal["later"],
        times: int | None = 1,
        prefix: str = "",
        after: float = 14.0,
    ) -> Iterator[None]:
        """The next commits of node *name* get no answer.

        Args:
            name: The node.
            applied: Whether they are carried out: True, False, or ``"later"``.
            times: How many, one at least; None for all in the block.
            prefix: Only commits that write a key that begins so, e.g. ``"resources."``.
            after: Seconds until those that are applied later are applied, also if the block has been left, or the node is
                dead, by then.
        """
        if applied not in (True, False, "later"):
            raise pytest.UsageError(f"indeterminate: applied is True, False or 'later', not {applied!r}")
        _seconds("indeterminate", after)
        left = _times("indeterminate", times)
        doubt = Doubt(_node("indeterminate", name), applied, prefix=prefix, after=after, left=left)
        with self._during(doubt, name):
            yield

    @_fault
    def lose_lease(self, who: str) -> Iterator[None]:
        """The registration of *who* expires in the store as if nobody had renewed it, and cannot be written in the block.

        Args:
            who: An instance id, or a node, for all instances that it has registered. It may be dead.

        Raises:
            pytest.UsageError: Nothing of that name is registered.
        """
        _name("lose_lease", who, "an instance id, or the name of a node")
        member = self.plane.member(who) or self.plane.member_with(who)
        store = None if member is None else self.plane.store or member.store
        if member is None or store is None or not member.instances:
            raise pytest.UsageError(f"there is neither an instance nor a node with instances named {who!r}")
        keys = list(member.instances.values()) if member.name == who else [member.instances[who]]
        with self._during(LostLease(frozenset(keys))):
            for key in keys:
                self.plane.send(_expire, store, key)
            yield

    def expect_entered(self) -> None:
        """See that no fault was called by itself, or entered by hand and not left; the fixture does so when the test is over.

        Raises:
            pytest.fail.Exception: One was, and so never put in force, or for nobody knows how long; says how it is.
        """
        for name in self.unused:
            pytest.fail(
                f"aegis_faults.{name}(...) was called and never put in force: it is in force in its block, so write "
                f"'with aegis_faults.{name}(...):'",
                pytrace=False,
            )
        for entered in self.within:
            if not entered.is_left_behind:
                continue  # its task goes on, and leaves it when it is cancelled
            pytest.fail(
                f"the block of aegis_faults.{entered.name}(...) was entered and not left: enter it by 'with', not by __enter__; "
                "several, by contextlib.ExitStack",
                pytrace=False,
            )

    @contextmanager
    def _during(self, fault: Fault, *names: str) -> Iterator[None]:
        told = str(fault)
        left = fault.left if isinstance(fault, Counted) else math.inf
        with self.plane.noting(told):
            self.plane.begin(fault)
            try:
                yield
            except BaseException as exc:
                for problem in self._strangers(names) or self._unused(fault, told, left):
                    exc.add_note(problem)
                raise
            finally:
                self.plane.end(fault)
        for problem in self._strangers(names) or self._unused(fault, told, left):
            raise pytest.UsageError(problem)

    def _unused(self, fault: Fault, told: str, left: float) -> list[str]:
        """What there is to say of *fault*, named *told*, if it is counted and has hit nothing of the *left* that it could."""
        if self._allow_unused or not isinstance(fault, Counted) or math.isinf(left) or fault.left < left:
            return []
        problem = f"{told}, hit nothing: there was no {fault.target} in its block"
        return [f"{problem}; see that there is one, or allow it by @pytest.mark.aegis_allow('unused_faults')"]

    def _strangers(self, names: Collection[str]) -> list[str]:
        """What there is to say of those *names* that are none."""
        strangers = [name for name in names if name != STORE and self.plane.member(name) is None]
        return [_stranger(name) for name in strangers]

    def _known(self, name: str) -> Member:
        member = self.plane.member(name)
        if member is None:
            raise pytest.UsageError(_stranger(name))
        return member


# -- what a fault can be -----------------------------------------------------------------------------------------


def _stranger(name: str) -> str:
    return f"there is no node {name!r} that the fault could have hit"


def _name(fault: str, name: object, what: str = "the name of a node") -> str:
    if not isinstance(name, str):
        raise pytest.UsageError(f"{fault} takes {what}, not {name!r}")
    return name


def _names(fault: str, group: object) -> frozenset[str]:
    names: Collection[object] = [group] if isinstance(group, str) or not isinstance(group, Collection) else group
    return frozenset(_name(fault, name, "groups of names") for name in names)


def _node(fault: str, name: object) -> str:
    name = _name(fault, name)
    if name == STORE:
        raise pytest.UsageError(
            f"{fault} is of a node; the ways to the store can be cut, slow and lossy, and commits doubled"
        )
    return name


def _pair(fault: str, way: object) -> tuple[str, str]:
    match way:
        case (str(one), str(other)) if one != other:
            return one, other
    raise pytest.UsageError(f"{fault} takes a way between two names, {fault}(('a', 'store')), not {way!r}")


def _number(fault: str, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise pytest.UsageError(f"{fault}: {value!r} is no number of seconds")
    return value


def _seconds(fault: str, given: object) -> float:
    value = _number(fault, given)
    if value < 0:
        raise pytest.UsageError(f"{fault}: {value:g} s is less than no time")
    return value


def _times(fault: str, times: object) -> float:
    if times is None:
        return math.inf
    if not isinstance(times, int):
        raise pytest.UsageError(f"{fault}: times= takes how often, 1 or more, not {times!r}")
    if times < 1:
        raise pytest.UsageError(f"{fault}: times={times} would never happen; leave the fault out")
    return times


async def _expire(store: Store, key: str) -> None:
    """Let *key* expire in the shortest time that *store* knows."""
    limits = store.capabilities
    ttl = max(limits.min_ttl, limits.ttl_resolution, 0.001)
    entry = await store.get(key)
    while entry is not None:
        put = Put(key, entry.value, entry.revision, ttl)
        try:
            await store.commit(Transaction(f"lost-lease-{entry.revision}", (put,)))
            return
        except Conflict:
            # A renewal was under way: it was the last.
            entry = await store.get(key)
