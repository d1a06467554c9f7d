"""An instance whose operations are noted in a history."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import trio

from aegis_core.errors import (
    AegisError,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    LimitExceeded,
    NotFound,
    NotOwner,
    ResourceConflict,
    ResourceNotFound,
    Unavailable,
)
from aegis_core.models import Outcome, Role
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_pytest.history.recorder import Recorder
from aegis_pytest.history.records import Answer, Kind

__all__ = ["RecordedInstance", "what_is_known"]

_Came = tuple[Answer, str, int, str, str]


class RecordedInstance:
    """Does what *instance* does, and notes what was asked and what was answered.

    Args:
        node: Its node.
        instance: The instance.
        recorder: Of its process.
        patience: Seconds after which an operation without an answer is given up.
        within: Seconds within which each kind of operation is owed an answer, `own` so long after its *wait*; by default
            none is, see `Invoked`.
    """

    def __init__(
        self,
        node: Node,
        instance: Instance,
        recorder: Recorder,
        *,
        patience: float = 20.0,
        within: Mapping[Kind, float] = MappingProxyType({}),
    ) -> None:
        self.node = node
        self.instance = instance
        self.recorder = recorder
        self._patience = patience
        self._within = within

    def __repr__(self) -> str:
        return f"<RecordedInstance {self.instance.instance_id}>"

    async def claim(self, key: str) -> tuple[Answer, str, int]:
        """Claim *key*; the answer, the owner and the epoch. Raises as `Instance.claim` does, or `trio.TooSlowError`."""

        async def claim() -> _Came:
            (made,) = await self.instance.claim(key)
            return Answer.DONE, self.instance.instance_id, made.epoch, "", ""

        return await self._operate(claim, Kind.CLAIM, key)

    async def release(self, key: str) -> tuple[Answer, str, int]:
        """Release *key*; see `claim`."""

        async def release() -> _Came:
            await self.instance.release(key)
            return Answer.DONE, "", 0, "", ""

        return await self._operate(release, Kind.RELEASE, key, epoch=self._epoch(key))

    async def transfer(self, key: str, to: str) -> tuple[Answer, str, int]:
        """Transfer *key* to the instance *to*; see `claim`."""

        async def transfer() -> _Came:
            reply = await self.instance.transfer(key, to=to)
            if key in reply.transferred:
                return Answer.DONE, to, reply.epochs[key], "", ""
            return Answer.UNKNOWN, "", 0, reply.failed[0].reason, reply.failed[0].error_code

        return await self._operate(transfer, Kind.TRANSFER, key, to=to, epoch=self._epoch(key))

    async def get_owner(self, key: str) -> tuple[Answer, str, int]:
        """Who owns *key*, by the registry; see `claim`."""

        async def get_owner() -> _Came:
            found = await self.node.registry.get_owner(key)
            return Answer.DONE, found.owner_instance_id, found.epoch, "", ""

        return await self._operate(get_owner, Kind.GET_OWNER, key)

    @asynccontextmanager
    async def own(
        self, key: str, *, role: Role = Role.STANDBY, priority: int = 0, wait: float = math.inf
    ) -> AsyncIterator[Claim]:
        """`Instance.own`, whose acquisition is noted as a claim."""
        owed = self._within.get(Kind.CLAIM, 0.0)
        within = owed + wait if owed and wait < math.inf else 0.0
        number = self.recorder.invoke(Kind.CLAIM, key, instance=self.instance.instance_id, within=within)
        answered = False
        try:
            async with self.instance.own(key, role=role, priority=priority, wait=wait) as claim:
                answered = True
                self.recorder.answer(number, Answer.DONE, epoch=claim.epoch)
                yield claim
        except LeaseLost as exc:
            if not answered:
                self.recorder.failed(number, Answer.UNKNOWN, exc)
            raise
        except AegisError as exc:
            if not answered:
                self.recorder.failed(number, what_is_known(exc), exc)
            raise
        except trio.Cancelled:
            if not answered:
                self.recorder.answer(number, Answer.UNKNOWN, said="nobody waits any longer")
            raise

    def _epoch(self, key: str) -> int:
        claim = self.instance.claims.get(key)
        return 0 if claim is None else claim.epoch

    async def _operate(
        self, act: Callable[[], Awaitable[_Came]], kind: Kind, key: str, *, to: str = "", epoch: int = 0
    ) -> tuple[Answer, str, int]:
        within = self._within.get(kind, 0.0)
        number = self.recorder.invoke(kind, key, instance=self.instance.instance_id, to=to, epoch=epoch, within=within)
        try:
            with trio.fail_after(self._patience):
                answer, owner, shown, said, code = await act()
        except ResourceConflict as exc:
            # A conflict with oneself is one of two tasks of this process, and tells nothing of the registry.
            held = kind is Kind.CLAIM and exc.owner not in {"", self.instance.instance_id}
            self.recorder.failed(number, Answer.HELD if held else Answer.FAILED, exc, owner=exc.owner)
            raise
        except NotOwner as exc:
            self.recorder.failed(number, Answer.HELD, exc, owner=exc.owner)
            raise
        except ResourceNotFound as exc:
            self.recorder.failed(number, Answer.FREE, exc)
            raise
        except AegisError as exc:
            self.recorder.failed(number, what_is_known(exc), exc)
            raise
        except (trio.TooSlowError, trio.Cancelled):
            self.recorder.answer(number, Answer.UNKNOWN, said="nobody waits any longer")
            raise
        self.recorder.answer(number, answer, owner=owner, epoch=shown, said=said, code=code)
        return answer, owner, shown


def what_is_known(exc: AegisError) -> Answer:
    """What is known of an operation that *exc* ended: that it did nothing, or nothing."""
    if isinstance(exc, Unavailable):
        return Answer.UNKNOWN if exc.outcome is Outcome.MAYBE_EXECUTED else Answer.FAILED
    return Answer.FAILED if isinstance(exc, Forbidden | InvalidRequest | LimitExceeded | NotFound) else Answer.UNKNOWN
