"""What ``aegis`` says with its exit status, for all commands alike."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aegis_core.errors import (
    AegisError,
    CallTimeout,
    ConfigError,
    Forbidden,
    Held,
    Indeterminate,
    InstanceNotFound,
    InvalidRequest,
    LeaseLost,
    NotFound,
    ResourceConflict,
    ResourceNotFound,
    ServiceNotFound,
    StoreUnavailable,
    TransportUnavailable,
    Unauthorized,
    Unavailable,
    VersionConflict,
)

__all__ = ["MEANINGS", "ExitStatus", "remedy_for", "status_of"]


class ExitStatus(enum.IntEnum):
    """The exit statuses; see `MEANINGS`. ``aegis claim`` passes its command's own on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    LEASE_LOST = 75
    NOT_EXECUTABLE = 126
    NO_SUCH_COMMAND = 127
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: Final[Mapping[ExitStatus, str]] = MappingProxyType(
    {
        ExitStatus.DONE: "done",
        ExitStatus.FAILED: "refused, or failed: not allowed, a check of `doctor` failed, a part of a transfer did not move",
        ExitStatus.USAGE: "the command line or the configuration is wrong, or a package is missing",
        ExitStatus.UNAVAILABLE: "no answer in time; the message says whether something may have been done (`MAYBE_EXECUTED`)",
        ExitStatus.NOT_FOUND: "there is no such service, instance, or owner of the resource",
        ExitStatus.CONFLICT: "somebody else holds it, or it has changed meanwhile",
        ExitStatus.LEASE_LOST: "`claim`: the resource was lost or handed over while the command ran, which has been ended",
        ExitStatus.NOT_EXECUTABLE: "`claim`: the command cannot be executed",
        ExitStatus.NO_SUCH_COMMAND: "`claim`: there is no such command",
        ExitStatus.INTERRUPTED: "interrupted by Ctrl-C (SIGINT)",
        ExitStatus.BROKEN_PIPE: "who read the output has left (`aegis watch | head`)",
        ExitStatus.TERMINATED: "ended by SIGTERM; any other signal likewise, 128 + its number",
    }
)
"""What each exit status means, in Markdown; the reference shows the same table."""

_STATUSES: Final[tuple[tuple[type[AegisError], ExitStatus], ...]] = (
    (ConfigError, ExitStatus.USAGE),
    (InvalidRequest, ExitStatus.USAGE),
    (NotFound, ExitStatus.NOT_FOUND),
    (Held, ExitStatus.CONFLICT),
    (VersionConflict, ExitStatus.CONFLICT),
    (LeaseLost, ExitStatus.LEASE_LOST),
    (Unavailable, ExitStatus.UNAVAILABLE),
    (Indeterminate, ExitStatus.UNAVAILABLE),
)
_REMEDIES: Final[tuple[tuple[type[AegisError], str], ...]] = (
    (CallTimeout, "allow more time with --timeout"),
    (StoreUnavailable, "'aegis doctor' looks for the reason"),
    (TransportUnavailable, "'aegis doctor' looks for the reason"),
    (ServiceNotFound, "'aegis services' shows who lives"),
    (InstanceNotFound, "'aegis services' shows who lives"),
    (ResourceNotFound, "'aegis resources' shows what is owned"),
    (ResourceConflict, "'aegis explain' says more of it"),
    (Unauthorized, "name a token in the backend's URL: ?token_file=PATH"),
    (Forbidden, "on a router, a token with admin = true may"),
)


def status_of(exc: AegisError) -> ExitStatus:
    """The exit status that says what *exc* says."""
    return next((status for kind, status in _STATUSES if isinstance(exc, kind)), ExitStatus.FAILED)


def remedy_for(exc: AegisError) -> str:
    """What somebody at a shell can do about *exc*, or ""."""
    # What belongs to somebody else is a matter of whom to ask, not of permissions.
    if type(exc) is not Forbidden and isinstance(exc, Forbidden):
        return ""
    return next((remedy for kind, remedy in _REMEDIES if isinstance(exc, kind)), "")
