"""What nodes ask of each other's instances, by reserved calls: how it is asked, and how it is answered.

An instance that a node serves has work under its claims, and only that node can end it in time. So whoever wants a
resource, a role or anything else of such an instance asks it. What was merely registered knows no scopes, and is not asked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs

from aegis_core.errors import InvalidRequest, ResourceNotFound
from aegis_core.models import Health, Role, ServiceInstance, TransferReply, Value
from aegis_core.names import resource_id_problem
from aegis_core.principals import Principal, Target

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Errands", "OwnersWord", "has_scopes"]

EnumT = TypeVar("EnumT", bound=enum.Enum)

_WITH_IDS = frozenset({"transfer", "release", "explain"})
_OF_RESOURCES = frozenset({"release", "explain"})


def has_scopes(record: ServiceInstance) -> bool:
    """Whether a node serves the instance, so that its claims are scopes which only that node can end."""
    return bool(record.endpoints and record.lease)


@attrs.frozen(eq=False, repr=False)
class OwnersWord(Value):
    """What the owner of a resource tells of its calls: how many, and seconds since the last (None: there was none)."""

    calls: int
    idle: float | None = None


class Errands:
    """The reserved calls of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    async def ask(
        self, record: ServiceInstance, operation: str, params: Mapping[str, object], *, until: float
    ) -> object:
        """Ask another node's instance to carry out *operation*, in its own name.

        Args:
            record: The instance, which `has_scopes`.
            operation: See `answer`.
            params: Its parameters.
            until: When to give up waiting, on the node's clock.

        Raises:
            AegisError: As it answered, or as it could not be reached.
            CallTimeout: No answer in time (MAYBE_EXECUTED).
        """
        return await self._node.client.reserved(
            record,
            f"aegis.{operation}",
            params,
            timeout=self._runtime.left(until),
            principal=Principal("instance", record.instance_id),
        )

    async def answer(
        self, instance: Instance, method: str, params: Mapping[str, object], principal: Principal
    ) -> object:
        """Answer a reserved call: do what *method* asks of *instance*, if *principal* may.

        Raises:
            Forbidden: It may not.
            InvalidRequest: No such method, or the parameters do not fit.
        """
        node, operation = self._node, method.removeprefix("aegis.")
        ids: tuple[str, ...] = _strings(params, "resource_ids") if operation in _WITH_IDS else ()
        target = Target(service_name=instance.service.name, instance_id=instance.instance_id, resource_ids=ids)
        self._runtime.plugins.authorize(principal, operation, target)
        if operation in _OF_RESOURCES:
            for resource_id in ids:
                problem = resource_id_problem(resource_id)
                if problem is not None:
                    raise InvalidRequest.at("$.params.resource_ids", problem)
        match operation:
            case "transfer":
                to, reason = _string(params, "to_instance_id"), _string(params, "reason")
                asked_by = _asked_by(params, principal)
                return _plain(await node.moves.transfer(instance, ids, to=to, reason=reason, requested_by=asked_by))
            case "release":
                left = await node.releases.release_here(instance, ids)
                return [target for target in ids if target not in left]
            case "set_role":
                changed = await node.roles.carry_out(
                    instance.service.name,
                    _member(params, "role", Role),
                    _strings(params, "instance_ids"),
                    group=_string(params, "group") or None,
                    reason=_string(params, "reason"),
                    requested_by=_asked_by(params, principal),
                )
                return list(changed)
            case "drain":
                await instance.membership.hand_over()
                return None
            case "set_health":
                await instance.set_health(_member(params, "health", Health), _string(params, "reason"))
                return None
            case "explain":
                return self._explain(instance, ids)
            case _:
                raise InvalidRequest.at("$.method", f"{method} is not a reserved method")

    def _explain(self, instance: Instance, ids: Sequence[str]) -> Mapping[str, object]:
        resource_id = ids[0]
        claim = instance.claims_table.get(resource_id)
        if claim is None:
            raise ResourceNotFound(resource_id=resource_id, service_name=instance.service.name)
        idle = self._runtime.clock.now() - claim.last_used if claim.calls else None
        return attrs.asdict(OwnersWord(claim.calls, idle))


def _plain(reply: TransferReply) -> Mapping[str, object]:
    return {
        "transfer_id": reply.transfer_id,
        "transferred": list(reply.transferred),
        "failed": [attrs.asdict(failure) for failure in reply.failed],
        "epochs": dict(reply.epochs),
    }


def _asked_by(params: Mapping[str, object], principal: Principal) -> str:
    """Who asked the node that asks this one, as that says: for the audit record, and for no permission."""
    return _string(params, "requested_by") or str(principal)


def _string(params: Mapping[str, object], key: str) -> str:
    value = params.get(key, "")
    if not isinstance(value, str):
        raise InvalidRequest.at(f"$.params.{key}", f"expected str, got {type(value).__name__}")
    return value


def _strings(params: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = params.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InvalidRequest.at(f"$.params.{key}", "expected a list of at least one string")
    return tuple(value)


def _member(params: Mapping[str, object], key: str, kind: type[EnumT]) -> EnumT:
    value = _string(params, key)
    for member in kind:
        if member.value == value:
            return member
    known = ", ".join(str(member.value) for member in kind)
    raise InvalidRequest.at(f"$.params.{key}", f"expected one of {known}, got {value!r}")
