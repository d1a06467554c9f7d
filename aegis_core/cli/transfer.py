"""``aegis transfer``: resources go to another instance of their service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import attrs
from cyclopts import Parameter

from aegis_core.cli.exit_statuses import ExitStatus
from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import plain, print_json, safe, tell
from aegis_core.cli.progress import progress
from aegis_core.cli.session import connect
from aegis_core.errors import AegisError, InvalidRequest, ResourceNotFound
from aegis_core.hookspecs import hookimpl
from aegis_core.models import Failure, Resource, TransferReply, ids_in_order
from aegis_core.node.node import Node
from aegis_core.node.registry import Registry
from aegis_core.principals import Principal, Target

__all__ = ["OperatorsWord", "transfer"]

_AT_ONCE: Final = 100


class OperatorsWord:
    """A plug-in for the node of somebody who asked for force: it permits that, where no other plug-in decides.

    By default a node refuses force to its program, which may be wrong about the state of things. A person may be, too, but
    said so with these very words. A router still asks for an admin's token, and other plug-ins for what they please.
    """

    @hookimpl(trylast=True)
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """Yes to force; nothing to say about all else."""
        return True if operation == "force" else None


async def transfer(
    *resources: str,
    to: str,
    reason: str = "",
    force: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    backend: BackendUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> int:
    """Move resources to another instance of their service, whoever owns them; what is there already stays.

    Their owners carry it out: calls that run may finish, and work never overlaps. Exit status 1: some did not move.

    Args:
        resources: What moves; at least one.
        to: The instance that is to own them.
        reason: For the audit record.
        force: Take them without the owner's consent, whose work may then overlap for a moment. A router asks for a token
            with admin = true.
    """
    if not resources:
        raise InvalidRequest.at("resources", "name at least one resource")
    ids = ids_in_order(resources)
    async with connect(backend, timeout, plugins=(OperatorsWord(),) if force else ()) as node:
        owned = await _owned(node.registry, ids)
        parts = _parts(one for one in owned if one.owner_instance_id != to)
        replies: list[tuple[_Part, TransferReply]] = []
        with progress("transferring", len(owned)) as done:
            failed: AegisError | None = None
            for part in parts:
                reply, failed = await _move(node, part, to=to, reason=reason, force=force)
                replies.append((part, reply))
                done(sum(len(each.ids) for each, _ in replies))
            if failed is not None and not any(reply.transferred for _, reply in replies):
                raise failed
    unchanged = [one.resource_id for one in owned if one.owner_instance_id == to]
    if as_json:
        print_json({"transfers": [_document(part, to, reply) for part, reply in replies], "unchanged": unchanged})
    else:
        for part, reply in replies:
            for resource_id in reply.transferred:
                epoch = reply.epochs.get(resource_id, 0)
                print(safe(f"{resource_id}: {part.owner} -> {to}, epoch {epoch}{', by force' if reply.forced else ''}"))
            for failure in reply.failed:
                tell(f"{failure.resource_id} did not move: {failure.reason}")
        for resource_id in unchanged:
            print(safe(f"{resource_id}: {to} owns it already"))
    return ExitStatus.FAILED if any(reply.failed for _, reply in replies) else ExitStatus.DONE


@attrs.frozen
class _Part:
    """What one owner is asked for at once."""

    service: str
    owner: str
    ids: tuple[str, ...]


async def _owned(registry: Registry, ids: Sequence[str]) -> list[Resource]:
    """The resources *ids*, all of them.

    Raises:
        ResourceNotFound: Nobody owns one.
    """
    found: dict[str, Resource] = {}
    for at in range(0, len(ids), 1000):
        page = await registry.query_resources(resource_ids=ids[at : at + 1000], include_metadata=False, limit=1000)
        found |= {one.resource_id: one for one in page.resources}
    for resource_id in ids:
        if resource_id not in found:
            raise ResourceNotFound(resource_id=resource_id)
    return [found[resource_id] for resource_id in ids]


def _parts(moving: Iterable[Resource]) -> list[_Part]:
    by_owner: dict[tuple[str, str], list[str]] = {}
    for one in moving:
        by_owner.setdefault((one.service_name, one.owner_instance_id), []).append(one.resource_id)
    return [
        _Part(service, owner, tuple(ids[at : at + _AT_ONCE]))
        for (service, owner), ids in by_owner.items()
        for at in range(0, len(ids), _AT_ONCE)
    ]


async def _move(
    node: Node, part: _Part, *, to: str, reason: str, force: bool
) -> tuple[TransferReply, AegisError | None]:
    """What became of *part*; a refusal as a whole also as the error that it is."""
    try:
        reply = await node.registry.transfer(
            part.service, part.ids, part.owner, to, verify_ownership=not force, reason=reason
        )
    except AegisError as exc:
        failed = tuple(Failure(resource_id=one, reason=str(exc), error_code=exc.code) for one in part.ids)
        return TransferReply(transfer_id="", failed=failed), exc
    return reply, None


def _document(part: _Part, to: str, reply: TransferReply) -> dict[str, object]:
    return {
        "service_name": part.service,
        "from_instance_id": part.owner,
        "to_instance_id": to,
        "transfer_id": reply.transfer_id,
        "transferred": list(reply.transferred),
        "epochs": dict(reply.epochs),
        "failed": plain(reply.failed),
        "forced": reply.forced,
    }
