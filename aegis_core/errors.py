"""Every error of the library, in one tree.

::

    AegisError
    ├── ConfigError             your configuration is wrong; says which key of which source, and what would be right
    ├── NodeCrashed             a background task of the library failed: our bug, or a plug-in's; see the cause
    ├── Conflict                (store) a transaction's expectation did not hold; nothing was changed
    ├── Indeterminate           (store) a transaction's fate is unknown; repeat the same transaction
    ├── InvalidRequest          the request does not fit; each problem with its path
    ├── Unauthorized            who are you?
    ├── Forbidden               you may not
    │   └── NotOwner            it is not yours; names whose it is
    ├── NotFound
    │   ├── ServiceNotFound
    │   ├── InstanceNotFound
    │   └── ResourceNotFound
    ├── Held                    somebody else has it; names the holder
    │   ├── InstanceConflict
    │   ├── ResourceConflict
    │   └── RoleConflict
    ├── VersionConflict         the metadata changed since you read it
    ├── Misdirected             (wire) the instance asked is not, or no longer, the owner
    ├── LimitExceeded
    │   ├── ResourceLimitExceeded
    │   └── Overloaded
    ├── RemoteError             the handler on the other side raised
    └── Unavailable             nothing wrong with the request; carries the outcome
        ├── NoInstance
        ├── StoreUnavailable
        ├── TransportUnavailable
        ├── LeaseLost
        └── CallTimeout         (also a trio.TooSlowError)

`code` is stable and is what travels; classes never do. Data are typed attributes; `details` mirrors them. The file is
long because the tree is one and is read as one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import attrs
import trio

from aegis_core.models import EndReason, Outcome, Value

__all__ = [
    "AegisError",
    "CallTimeout",
    "ConfigError",
    "Conflict",
    "Forbidden",
    "Held",
    "Indeterminate",
    "InstanceConflict",
    "InstanceNotFound",
    "InvalidRequest",
    "LeaseLost",
    "LimitExceeded",
    "Misdirected",
    "NoInstance",
    "NodeCrashed",
    "NotFound",
    "NotOwner",
    "Overloaded",
    "Problem",
    "RemoteError",
    "ResourceConflict",
    "ResourceLimitExceeded",
    "ResourceNotFound",
    "RoleConflict",
    "ServiceNotFound",
    "StoreUnavailable",
    "TransportUnavailable",
    "Unauthorized",
    "Unavailable",
    "VersionConflict",
]


def _plain(value: object) -> object:
    """*value* as something every codec can carry."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Problem):
        return {"path": value.path, "message": value.message}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


# One repr for all: generating one for each class takes half as long as importing the module.
@attrs.define(eq=False, repr=False, slots=False)
class AegisError(Exception):
    """Base of every error that the library raises on purpose.

    `answered_by` is the id of the instance that answered a call with it, "" where it was raised here.
    """

    code: ClassVar[str] = "AEGIS_ERROR"
    answered_by: str = attrs.field(default="", init=False)

    @property
    def details(self) -> Mapping[str, object]:
        """The error's attributes as plain values, read-only; what is sent on the wire."""
        fields = (a for a in attrs.fields(type(self)) if a.init)
        return MappingProxyType({a.name: _plain(getattr(self, a.name)) for a in fields})

    @property
    def message(self) -> str:
        """One sentence for people."""
        return "AegisIPC error"

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        shown = [f"{a.name}={getattr(self, a.name)!r}" for a in attrs.fields(type(self)) if a.init]
        return f"{type(self).__name__}({', '.join(shown)})"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class ConfigError(AegisError):
    """Your configuration is wrong. `source` is the file, variable or argument, `key` the setting, `problem` what to do."""

    code: ClassVar[str] = "CONFIG_ERROR"
    problem: str
    source: str = ""
    key: str = ""

    @property
    def message(self) -> str:
        """Source, key and problem in one line."""
        where = ": ".join(part for part in (self.source, self.key) if part)
        return f"{where}: {self.problem}" if where else self.problem


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class NodeCrashed(AegisError):
    """A background task of this node failed, so the node ended. `__cause__` is what happened; not your fault."""

    code: ClassVar[str] = "NODE_CRASHED"
    cause: str = ""

    @property
    def message(self) -> str:
        """What crashed."""
        return f"the node stopped because a background task failed: {self.cause}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Conflict(AegisError):
    """A transaction's expectation did not hold. Nothing was changed: read again, decide again.

    `key` names one that failed, where the store tells.
    """

    code: ClassVar[str] = "STORE_CONFLICT"
    key: str | None = None

    @property
    def message(self) -> str:
        """Which key, if known."""
        return (
            f"the store's state of {self.key!r} is not as expected"
            if self.key
            else "the store's state is not as expected"
        )


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Indeterminate(AegisError):
    """A transaction's fate is unknown (time-out, lost connection). Repeat the same transaction: same id, same operations."""

    code: ClassVar[str] = "STORE_INDETERMINATE"
    reason: str = ""

    @property
    def message(self) -> str:
        """What was lost."""
        return f"the commit may or may not have happened: {self.reason}"


@attrs.frozen(eq=False, repr=False)
class Problem(Value):
    """One thing wrong with a request: where (``$.resources[1].version``) and what."""

    path: str
    message: str


def _as_tuple(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    # Not `tuple` itself: as a converter, type checkers cannot tell of what.
    return tuple(problems)


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class InvalidRequest(AegisError):
    """The request does not fit. All of its problems are listed, each with its path; mend and send again."""

    code: ClassVar[str] = "VALIDATION_ERROR"
    problems: tuple[Problem, ...] = attrs.field(converter=_as_tuple)

    @classmethod
    def at(cls, path: str, message: str) -> InvalidRequest:
        """One problem at *path*."""
        return cls(problems=(Problem(path, message),))

    @property
    def message(self) -> str:
        """All problems in one line."""
        return "invalid request: " + "; ".join(f"{p.message} @ {p.path}" for p in self.problems)


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Unauthorized(AegisError):
    """The caller did not show who it is, or what it showed is wrong."""

    code: ClassVar[str] = "UNAUTHORIZED"
    operation: str
    target: str = ""

    @property
    def message(self) -> str:
        """What was asked."""
        return f"not authenticated for {self.operation} {self.target}".rstrip()


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Forbidden(AegisError):
    """The caller is known, and may not do this; `reason` says which rule stands against it."""

    code: ClassVar[str] = "FORBIDDEN"
    operation: str
    target: str = ""
    reason: str = ""

    @property
    def message(self) -> str:
        """What was asked, and why not."""
        return f"{self.operation} {self.target} is not allowed".replace("  ", " ") + (
            f": {self.reason}" if self.reason else ""
        )


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class NotOwner(Forbidden):
    """Release, heartbeat or transfer of something that is another's; `owner` is whose."""

    code: ClassVar[str] = "NOT_OWNER"
    owner: str

    @property
    def message(self) -> str:
        """What was asked, and whose it is."""
        return f"{self.operation} {self.target}: it belongs to instance {self.owner!r}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class NotFound(AegisError):
    """Something that was named is not there."""

    code: ClassVar[str] = "NOT_FOUND"


def _nobody_serves(service_name: str, similar: str) -> str:
    hint = f"; did you mean {similar!r}?" if similar else ""
    return f"no instance of service {service_name!r} is registered{hint}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class ServiceNotFound(NotFound):
    """No instance of the service is registered; `similar` is a registered service with a name much like it, or ""."""

    code: ClassVar[str] = "SERVICE_NOT_FOUND"
    service_name: str
    similar: str = ""

    @property
    def message(self) -> str:
        """Which service, and which one may be meant."""
        return _nobody_serves(self.service_name, self.similar)


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class InstanceNotFound(NotFound):
    """The instance is not registered (any more); register it first.

    `registered` has instance ids of the service, five at most, where another one may be meant.
    """

    code: ClassVar[str] = "INSTANCE_NOT_FOUND"
    instance_id: str
    service_name: str = ""
    registered: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """Which instance, and which there are."""
        of = f" of service {self.service_name!r}" if self.service_name else ""
        hint = f"; its instance ids are {', '.join(map(repr, self.registered))}" if self.registered else ""
        return f"instance {self.instance_id!r}{of} is not registered{hint}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class ResourceNotFound(NotFound):
    """Nobody owns the resource, or (`owned_by_service`) an instance of another service does.

    `is_served` is false where a call found no instance of the service registered at all; `similar` is then a registered
    service with a name much like it, or "".
    """

    code: ClassVar[str] = "RESOURCE_NOT_FOUND"
    resource_id: str
    service_name: str = ""
    owned_by_service: str = ""
    is_served: bool = True
    similar: str = ""

    @property
    def message(self) -> str:
        """Which resource, and what is known of it."""
        if self.owned_by_service:
            return f"resource {self.resource_id!r} belongs to service {self.owned_by_service!r}, not to {self.service_name!r}"
        what = f"resource {self.resource_id!r} has no owner"
        return what if self.is_served else f"{what}: {_nobody_serves(self.service_name, self.similar)}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Held(AegisError):
    """Somebody else has what you asked for. Not your bug and not for ever: wait in line, or ask the holder."""

    owner: str


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class InstanceConflict(Held):
    """The instance id is in use: serve under another one, or leave it out, so that each start has one of its own.

    Who is started again under the id that it had when it crashed waits `lease_left` seconds: then its old lease has ended
    (0.0: not known). `is_local` says that it is this very node that serves the id.
    """

    code: ClassVar[str] = "DUPLICATE_INSTANCE"
    service_name: str
    lease_left: float = 0.0
    is_local: bool = False

    @property
    def message(self) -> str:
        """Which id, who has it for how long, and what to do."""
        what = f"instance id {self.owner!r} of service {self.service_name!r} is in use"
        if self.is_local:
            return f"{what} by this very node: give each instance an id of its own, or leave instance_id out"
        if not self.lease_left:
            return f"{what} by a live instance"
        return (
            f"{what} by a live instance, whose lease ends in {self.lease_left:.1f} s unless it is renewed; "
            f"if that is this program before it crashed, wait so long, or leave instance_id out: each start has an id of "
            f"its own then"
        )


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class ResourceConflict(Held):
    """Another instance owns the resource; `conflicts` maps every id of the request that is held to its owner.

    `reason` says why it stays there, where it was asked to go elsewhere.
    """

    code: ClassVar[str] = "RESOURCE_CONFLICT"
    resource_id: str
    conflicts: Mapping[str, str] = attrs.field(factory=dict)
    reason: str = ""

    @property
    def message(self) -> str:
        """Which resource, and whose it is."""
        more = f" (and {len(self.conflicts) - 1} more)" if len(self.conflicts) > 1 else ""
        why = f": {self.reason}" if self.reason else ""
        return f"resource {self.resource_id!r} is held by instance {self.owner!r}{more}{why}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class RoleConflict(Held):
    """The role that was asked for has an active holder already."""

    code: ClassVar[str] = "ROLE_CONFLICT"
    service_name: str
    target: str

    @property
    def message(self) -> str:
        """Which role, and who has it."""
        return f"instance {self.owner!r} is already ACTIVE for {self.target!r} of service {self.service_name!r}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class VersionConflict(AegisError):
    """The metadata changed since you read it: read again, apply your change, send with the `actual` version."""

    code: ClassVar[str] = "VERSION_CONFLICT"
    resource_id: str
    expected: int
    actual: int

    @property
    def message(self) -> str:
        """Both versions."""
        return f"metadata of {self.resource_id!r} is at version {self.actual}, the change was made from {self.expected}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Misdirected(AegisError):
    """Wire only: the instance asked does not own the resource under that epoch. The caller looks again and retries."""

    code: ClassVar[str] = "MISDIRECTED"
    resource_id: str
    epoch: int = 0
    owner: str = ""

    @property
    def message(self) -> str:
        """What the callee knows."""
        return f"resource {self.resource_id!r} is not here (epoch {self.epoch}, owner {self.owner or 'unknown'})"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class LimitExceeded(AegisError):
    """A limit would be passed."""

    limit: int
    asked: int


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class ResourceLimitExceeded(LimitExceeded):
    """An instance may not hold that many resources: spread the ids over more instances, or raise the limit."""

    code: ClassVar[str] = "RESOURCE_LIMIT_EXCEEDED"
    held: int
    instance_id: str

    @property
    def message(self) -> str:
        """Limit, held, asked, and what to do."""
        return (
            f"instance {self.instance_id!r} holds {self.held} of at most {self.limit} resources and asked for {self.asked} more; "
            f"spread the ids over more instances or raise max_resources_per_instance"
        )


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Overloaded(LimitExceeded):
    """The callee's queue (or this node's own limit towards it) is full; nothing was executed. Try again later."""

    code: ClassVar[str] = "OVERLOADED"
    what: str = ""

    @property
    def message(self) -> str:
        """Which limit."""
        return f"{self.what or 'the instance'} is at its limit of {self.limit} requests"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class RemoteError(AegisError):
    """The handler raised on the other side. `remote_code` and `remote_message` are what it said, `kind` its name."""

    code: ClassVar[str] = "REMOTE_ERROR"
    remote_code: str = "REMOTE_ERROR"
    remote_message: str = ""
    kind: str = ""
    remote_details: Mapping[str, object] = attrs.field(factory=dict)

    @property
    def message(self) -> str:
        """Kind and text of the remote error."""
        return f"{self.kind or self.remote_code}: {self.remote_message}".removesuffix(": ")


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Unavailable(AegisError):
    """Nothing is wrong with the request, but it could not be carried out now; `outcome` says whether it may have been."""

    outcome: Outcome


_WHY_NO_INSTANCE: Final = {
    "draining": "all of them are draining",
    "excluded": "each of them was tried",
    "wait": "none is active, and none was promoted in time",
}


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class NoInstance(Unavailable):
    """No instance of the service can take the call now (all gone, draining, or their circuits open).

    `reason` is a sentence, or one of ``draining`` (all of them), ``wait`` (nobody is active, and nobody was promoted in
    time), ``excluded`` (each of them was tried). `retry_after` are the seconds until an open circuit lets a call through
    again, 0.0 where that is not the reason.
    """

    code: ClassVar[str] = "NO_INSTANCE"
    service_name: str
    reason: str = ""
    retry_after: float = 0.0
    outcome: Outcome = Outcome.NOT_SENT

    @property
    def message(self) -> str:
        """Which service, why, and for how long."""
        why = _WHY_NO_INSTANCE.get(self.reason, self.reason)
        if self.retry_after:
            why = f"{why}; tried again in {self.retry_after:.1f} s"
        return f"no instance of service {self.service_name!r} can take the call" + (f": {why}" if why else "")


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class StoreUnavailable(Unavailable):
    """The store did not answer. With MAYBE_EXECUTED the change may still come to be."""

    code: ClassVar[str] = "STORE_UNAVAILABLE"
    reason: str = ""
    outcome: Outcome = Outcome.NOT_SENT

    @property
    def message(self) -> str:
        """What happened, with the outcome."""
        return f"the store is unavailable ({self.outcome.value}): {self.reason}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class TransportUnavailable(Unavailable):
    """The instance could not be reached, or its answer could not."""

    code: ClassVar[str] = "TRANSPORT_UNAVAILABLE"
    reason: str = ""
    endpoint: str = ""
    outcome: Outcome = Outcome.NOT_SENT

    @property
    def message(self) -> str:
        """Endpoint and reason, with the outcome."""
        return f"{self.endpoint or 'the instance'} cannot be reached ({self.outcome.value}): {self.reason}"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class LeaseLost(Unavailable):
    """Your claim ended while you worked under it: stop, and claim again. `reason` says how it ended."""

    code: ClassVar[str] = "LEASE_LOST"
    resource_id: str
    epoch: int = 0
    reason: EndReason = EndReason.EXPIRED
    outcome: Outcome = Outcome.MAYBE_EXECUTED

    @property
    def message(self) -> str:
        """Which claim, why it ended, and the outcome; one that never came to be has no epoch."""
        epoch = f" (epoch {self.epoch})" if self.epoch else ""
        return f"the claim of {self.resource_id!r}{epoch} ended: {self.reason.value} ({self.outcome.value})"


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class CallTimeout(Unavailable, trio.TooSlowError):
    """No answer within `timeout` seconds; `outcome` says whether the call may have been executed."""

    code: ClassVar[str] = "TIMEOUT"
    timeout: float
    what: str = ""

    @property
    def message(self) -> str:
        """What was asked, how long, and the outcome."""
        return f"{self.what or 'the call'} was not answered within {self.timeout:g} s ({self.outcome.value})"
