"""The grammar of names, and store keys: written and read back without loss.

A **target** is anything that can be owned: a resource, named by its resource id, or a role group, named
``%service%group`` (``%`` is not legal in resource ids, so the two never meet). Claims, lines of standbys and
promotion work on targets and need not know which kind it is.

Keys use the alphabet of NATS KV on every store. One escape makes any text a single token of a key: bytes outside
``A-Z a-z 0-9 _ - /`` are written as ``=`` and two upper-case hex digits of their UTF-8 form, and so is a ``/`` at
either end. ``a.b``, ``a_b`` and ``a:b`` thus have three different keys.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

import attrs

from aegis_core.models import Shown

__all__ = [
    "InstanceKey",
    "Key",
    "StandbyKey",
    "TargetKey",
    "TransferKey",
    "describe_target",
    "escape",
    "group_problem",
    "instance_id_problem",
    "instance_key",
    "is_role",
    "lease_proof",
    "lease_tag",
    "method_problem",
    "mint_instance_id",
    "parse_key",
    "resource_id_problem",
    "role_parts",
    "role_target",
    "service_name_problem",
    "standby_key",
    "target_key",
    "transfer_key",
    "unescape",
]

_MAX_RESOURCE_ID: Final = 255
_SERVICE: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
_FOREIGN_SERVICE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
_METHOD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}\Z")
_TRANSFER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_/-]*[A-Za-z0-9_-])?\Z")
_FORBIDDEN: Final = re.compile(r"[ *><?\"|\\{}$%&`]")
_ESCAPED: Final = re.compile(r"[^A-Za-z0-9_/-]+|\A/|/\Z")
# Ids without anything to be escaped but colons, as most are, in which every such character is legal.
_COMMON: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_/-]*+(?:=3A[A-Za-z0-9_/-]*+)*+(?<!/)\Z")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_=-](?:[A-Za-z0-9_=/-]*[A-Za-z0-9_=-])?\Z")
# Most names are ASCII, and every claim makes and reads keys: these two tables spare it the bytes.
_HEX: Final = {code: f"={code:02X}" for code in range(128) if not re.match("[A-Za-z0-9_/-]", chr(code))}
_UNHEX: Final = {code[1:]: chr(char) for char, code in _HEX.items()}


def service_name_problem(name: object) -> str | None:
    """Why *name* is no service name, or None: lower-case words of letters and digits joined by ``-``, at most 64."""
    if not isinstance(name, str):
        return f"expected str, got {type(name).__name__}"
    if len(name) <= 64 and _SERVICE.match(name):
        return None
    return f"{_shown(name)} is not a service name: lower-case words joined by '-', at most 64 characters, e.g. 'account-service'"


def instance_id_problem(name: object) -> str | None:
    """Why *name* is no instance id, or None: 1 to 128 of letters, digits, ``_``, ``-``, beginning with a letter or digit."""
    if not isinstance(name, str):
        return f"expected str, got {type(name).__name__}"
    if _INSTANCE.match(name):
        return None
    return (
        f"{_shown(name)} is not an instance id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit"
    )


def group_problem(name: object) -> str | None:
    """Why *name* is no role group, or None; the grammar is that of instance ids."""
    problem = instance_id_problem(name)
    return problem and problem.replace("an instance id", "a role group")


def method_problem(name: object) -> str | None:
    """Why *name* is no method name, or None: an identifier, dots allowed, at most 128 characters."""
    if isinstance(name, str) and _METHOD.match(name):
        return None
    return f"{_shown(name)} is not a method name: letters, digits, '_' and '.', at most 128 characters"


def resource_id_problem(name: object) -> str | None:
    r"""Why *name* is no resource id, or None: 1 to 255 printable characters, no white space, none of ``*><?"|\{}$%&```."""
    if not isinstance(name, str):
        return f"expected str, got {type(name).__name__}"
    if not name:
        return "a resource id must not be empty"
    if len(name) > _MAX_RESOURCE_ID:
        return f"a resource id has at most {_MAX_RESOURCE_ID} characters, this one {len(name)}"
    if name.isprintable() and not _FORBIDDEN.search(name):
        return None
    bad = next(char for char in name if not char.isprintable() or _FORBIDDEN.match(char))
    return f"{_shown(name)} contains {bad!r}, which is not allowed in a resource id"


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."


def mint_instance_id(service_name: str, token: str | None = None) -> str:
    """A new instance id ``{service}-{8 hex}``; *token* supplies the hex digits where they must be reproducible."""
    return f"{service_name}-{token or secrets.token_hex(4)}"


def lease_proof(service_name: str, instance_id: str, lease_id: str) -> str:
    """What the tag of a registration under *lease_id* is made of, so that one lease id is never the same lease twice."""
    return f"{service_name}.{instance_id}.{lease_id}"  # the names have no dots


def lease_tag(lease_id: str) -> str:
    """The public tag of a lease: 16 hex digits of a hash, so that showing it gives no right; the lease id stays secret."""
    return hashlib.sha256(lease_id.encode()).hexdigest()[:16]


def role_target(service_name: str, group: str) -> str:
    """The target that stands for the role group *group* of a service."""
    return f"%{service_name}%{group}"


def is_role(target: str) -> bool:
    """Whether *target* names a role group rather than a resource."""
    return target.startswith("%")


def role_parts(target: str) -> tuple[str, str]:
    """Service and group of a role target."""
    service, group = target[1:].split("%", 1)
    return service, group


def describe_target(target: str) -> str:
    """*target* for people: the resource id, or ``service/group`` of a role."""
    return "/".join(role_parts(target)) if is_role(target) else target


def escape(text: str) -> str:
    """*text* (any non-empty string) as one token of a key; `unescape` reads it back."""
    if _PLAIN.match(text):
        return text
    if text.isascii() and text[:1] != "/" and text[-1:] != "/":
        return text.translate(_HEX)
    return _ESCAPED.sub(_as_hex, text)


def _as_hex(found: re.Match[str]) -> str:
    return "".join([f"={byte:02X}" for byte in found.group().encode()])


def unescape(token: str) -> str:
    """The text that `escape` made *token* of.

    Raises:
        ValueError: *token* is not the escaped form of anything (so that each text has exactly one key).
    """
    text = token
    if "=" in token:
        first, *others = token.split("=")
        if _TOKEN.match(token) and {other[:2] for other in others} <= _UNHEX.keys():
            return first + "".join([_UNHEX[other[:2]] + other[2:] for other in others])
        text = b"".join([first.encode(), *(bytes.fromhex(o[:2]) + o[2:].encode() for o in others)]).decode()
    if not text or escape(text) != token:
        raise ValueError(f"{_shown(token)} is not an escaped name")
    return text


@attrs.frozen(repr=False)
class InstanceKey(Shown):
    """``service-instances.{service}.{instance}``: an instance record; its TTL is the instance's life."""

    service_name: str
    instance_id: str


@attrs.frozen(repr=False)
class TargetKey(Shown):
    """``resources.{escaped id}`` or ``roles.{service}.{group}``: who owns it."""

    target: str


@attrs.frozen(repr=False)
class StandbyKey(Shown):
    """``standbys.{key of the target}.{instance}``: who waits for it."""

    target: str
    instance_id: str


@attrs.frozen(repr=False)
class TransferKey(Shown):
    """``transfers.{id}``: an audit record."""

    transfer_id: str


Key = InstanceKey | TargetKey | StandbyKey | TransferKey
"""A store key, read."""


def instance_key(service_name: str, instance_id: str) -> str:
    """The key of an instance record."""
    return f"service-instances.{service_name}.{instance_id}"


def target_key(target: str) -> str:
    """The key that says who owns *target*."""
    if is_role(target):
        service, group = role_parts(target)
        return f"roles.{service}.{group}"
    return f"resources.{escape(target)}"


def standby_key(target: str, instance_id: str) -> str:
    """The key of *instance_id*'s place in the line for *target*."""
    return f"standbys.{target_key(target)}.{instance_id}"


def transfer_key(transfer_id: str) -> str:
    """The key of an audit record."""
    return f"transfers.{transfer_id}"


def parse_key(key: str) -> Key | None:
    """What *key* names, or None when it is no key of ours (the store may be shared with other writers)."""
    if key.startswith("resources."):  # nearly all of them
        target = _resource(key[10:])
        return None if target is None else TargetKey(target)
    match key.split("."):
        case ["service-instances", service, instance]:
            return (
                InstanceKey(service, instance)
                if _FOREIGN_SERVICE.match(service) and _INSTANCE.match(instance)
                else None
            )
        case ["roles", service, group]:
            target = _role(service, group)
            return None if target is None else TargetKey(target)
        case ["standbys", "resources", token, instance] if _INSTANCE.match(instance):
            target = _resource(token)
            return None if target is None else StandbyKey(target, instance)
        case ["standbys", "roles", service, group, instance] if _INSTANCE.match(instance):
            target = _role(service, group)
            return None if target is None else StandbyKey(target, instance)
        case ["transfers", transfer_id] if _TRANSFER.match(transfer_id):
            return TransferKey(transfer_id)
        case _:
            return None


def _resource(token: str) -> str | None:
    if len(token) <= _MAX_RESOURCE_ID and _COMMON.match(token):  # a third of the time of what follows
        return token.replace("=3A", ":")
    try:
        target = unescape(token)
    except ValueError:
        return None
    return target if resource_id_problem(target) is None else None


def _role(service: str, group: str) -> str | None:
    return role_target(service, group) if _FOREIGN_SERVICE.match(service) and _INSTANCE.match(group) else None
