"""What router and clients say to each other: paths, bodies, frames, and errors with their statuses.

Requests and answers of the store are MessagePack, errors are problem details (RFC 9457) in JSON, which a person can read,
too. A watch is one endless response of frames: four bytes of length, big-endian, then MessagePack; a frame of no length
says that the connection is alive. Whatever comes in is checked field by field.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from aegis_core import codec, errors
from aegis_core.backend import (
    Capabilities,
    Change,
    Delete,
    DeleteReason,
    Entry,
    Operation,
    Put,
    Resync,
    Synced,
    Transaction,
)
from aegis_core.errors import AegisError, InvalidRequest

__all__ = [
    "COMMIT",
    "GENERATION",
    "HEARTBEAT",
    "INSTANCES",
    "JSON",
    "KEYS",
    "MSGPACK",
    "PROBLEM",
    "STORE",
    "SYNC",
    "WATCH",
    "FrameReader",
    "Item",
    "capabilities_from_bytes",
    "capabilities_to_bytes",
    "entry_from_bytes",
    "entry_to_bytes",
    "error_from_problem",
    "frames",
    "problem",
    "revisions_from_bytes",
    "revisions_to_bytes",
    "router_limits_from_bytes",
    "status_of",
    "transaction_from_bytes",
    "transaction_to_bytes",
]

T = TypeVar("T")

STORE: Final = "/api/v1/store"
COMMIT: Final = f"{STORE}/commit"
SYNC: Final = f"{STORE}/sync"
WATCH: Final = f"{STORE}/watch"
KEYS: Final = f"{STORE}/keys"
INSTANCES: Final = "/instances"

MSGPACK: Final = b"application/msgpack"
JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"

GENERATION: Final = re.compile(r"[!-~]{0,128}")
"""What the history of a store may be called."""

HEARTBEAT: Final = bytes(4)
"""A frame without content."""

_LENGTH: Final = struct.Struct(">I")
_ITEMS_PER_FRAME: Final = 512
_BYTES_PER_FRAME: Final = 1 << 18
_MOST_IN_A_FRAME: Final = 1 << 25
_MOST_PROOFS: Final = 4096
_MOST_OPERATIONS: Final = 10_000
_MOST_CAPABILITIES: Final = 64
_ID: Final = re.compile("[!-~]{1,128}")

status_of = codec.status_of
"""The HTTP status of an error."""

Item = Change | Synced | Resync
"""What a feed tells."""


# --- Errors ------------------------------------------------------------------------------------


def problem(error: AegisError, *, status: int | None = None) -> bytes:
    """*error* as problem details: the standard's fields, our code and details, and the message as ``detail``.

    Args:
        error: What went wrong.
        status: Of the response, where it is another than that of the error.
    """
    raw = codec.error_to_wire(error)
    body = {
        "type": f"urn:aegis:error:{raw['code']}",
        "title": str(raw["code"]).replace("_", " ").capitalize(),
        "status": status_of(error) if status is None else status,
        "detail": raw["message"],
        "code": raw["code"],
        "kind": raw["type"],
        "details": raw["details"],
    }
    return json.dumps(body, default=str, ensure_ascii=False).encode(errors="replace")


def error_from_problem(body: bytes, status: int) -> AegisError:
    """The error that a response of *status* tells; what is no problem of ours becomes a `RemoteError`."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict) or not isinstance(raw.get("code"), str):
        return errors.RemoteError(kind=f"HTTP {status}", remote_message=body[:200].decode(errors="replace"))
    details = raw.get("details")
    details = details if isinstance(details, dict) else {}
    if raw["code"] == errors.Conflict.code:
        key = details.get("key")
        return errors.Conflict(key=key if isinstance(key, str) else None)
    if raw["code"] == errors.Indeterminate.code:
        return errors.Indeterminate(reason=str(details.get("reason", "")))
    told = {"code": raw["code"], "type": raw.get("kind"), "message": raw.get("detail"), "details": details}
    return codec.error_from_wire(told)


# --- Transactions ------------------------------------------------------------------------------


def transaction_to_bytes(transaction: Transaction) -> bytes:
    """*transaction* as it is sent: id, operations, proofs."""
    return codec.encode_plain(
        [
            transaction.id,
            [
                [op.key, op.expect, op.value, op.ttl] if isinstance(op, Put) else [op.key, op.expect]
                for op in transaction.operations
            ],
            transaction.proofs,
        ]
    )


def transaction_from_bytes(body: bytes, *, most: int) -> Transaction:
    """The transaction that *body* is.

    Args:
        body: What came.
        most: How many operations it may have.

    Raises:
        InvalidRequest: It is none; says where and why.
    """
    raw = _decoded(body)
    if type(raw) is not list or len(raw) != 3:
        raise InvalidRequest.at("$", "expected id, operations and proofs")
    name, operations, proofs = raw
    if type(name) is not str or not _ID.fullmatch(name):
        raise InvalidRequest.at("$[0]", "expected an id of 1 to 128 visible ASCII characters")
    if type(operations) is not list or not 0 < len(operations) <= most:
        raise InvalidRequest.at("$[1]", f"expected 1 to {most} operations")
    if type(proofs) is not list or len(proofs) > _MOST_PROOFS or not all(type(proof) is str for proof in proofs):
        raise InvalidRequest.at("$[2]", f"expected at most {_MOST_PROOFS} lease ids")
    read = [_operation(item, f"$[1][{at}]") for at, item in enumerate(operations)]
    try:
        return Transaction(name, read, tuple(proofs))
    except ValueError as exc:
        raise InvalidRequest.at("$[1]", str(exc)) from exc


def _operation(raw: object, where: str) -> Operation:
    if type(raw) is list:
        try:
            match raw:
                case [str(key), int(expect)] if type(expect) is int:
                    return Delete(key, expect)
                case [str(key), int(expect), bytes(value), (float() | int() | None) as ttl] if (
                    type(expect) is int and type(ttl) is not bool
                ):
                    return Put(key, value, expect, ttl)
        except ValueError as exc:
            raise InvalidRequest.at(where, str(exc)) from exc
    raise InvalidRequest.at(where, "expected [key, revision] or [key, revision, bytes, seconds or nil]")


def revisions_to_bytes(revisions: Sequence[int]) -> bytes:
    """The answer to a commit or a sync."""
    return codec.encode_plain(revisions)


def revisions_from_bytes(body: bytes, *, of: int) -> tuple[int, ...]:
    """What `revisions_to_bytes` made *body* of.

    Args:
        body: What came.
        of: How many there must be.

    Raises:
        ValueError: It is no such answer.
    """
    raw = codec.decode_plain(body, most=of)
    if type(raw) is not list or len(raw) != of or not all(type(item) is int for item in raw):
        raise ValueError(f"expected {of} revisions")
    return tuple(raw)


# --- Reading -----------------------------------------------------------------------------------


def entry_to_bytes(entry: Entry | None) -> bytes:
    """The answer to a look at one key."""
    return codec.encode_plain(None if entry is None else [entry.value, entry.revision, entry.ttl_left])


def entry_from_bytes(body: bytes) -> Entry | None:
    """What `entry_to_bytes` made *body* of.

    Raises:
        ValueError: It did not.
    """
    match codec.decode_plain(body, most=3):
        case None:
            return None
        case [bytes(value), int(revision), (float() | int() | None) as left]:
            return Entry(value, revision, left)
    raise ValueError("expected value, revision and seconds")


def capabilities_to_bytes(capabilities: Capabilities, *, heartbeat: float, max_body: int) -> bytes:
    """What the store can do, how often a silent watch says that it is alive, and how large a request may be."""
    return codec.encode_plain(
        {
            "min_ttl": capabilities.min_ttl,
            "ttl_resolution": capabilities.ttl_resolution,
            "max_transaction": capabilities.max_transaction,
            "max_value": capabilities.max_value,
            "settle_for": capabilities.settle_for,
            "durable": capabilities.durable,
            "guarded": True,
            "heartbeat": heartbeat,
            "max_body": max_body,
        }
    )


def capabilities_from_bytes(body: bytes) -> Capabilities:
    """What `capabilities_to_bytes` made *body* of.

    Raises:
        ValueError: It did not.
    """
    raw = _map(body)
    return Capabilities(
        min_ttl=_field(raw, "min_ttl", float),
        ttl_resolution=_field(raw, "ttl_resolution", float),
        max_transaction=_field(raw, "max_transaction", int),
        max_value=_field(raw, "max_value", int),
        settle_for=_field(raw, "settle_for", float),
        durable=_field(raw, "durable", bool),
        guarded=_field(raw, "guarded", bool),
    )


def router_limits_from_bytes(body: bytes) -> tuple[float, int]:
    """The heartbeat and the largest request in what `capabilities_to_bytes` made.

    Raises:
        ValueError: It did not.
    """
    raw = _map(body)
    return _field(raw, "heartbeat", float), _field(raw, "max_body", int)


def _map(body: bytes) -> dict[object, object]:
    raw = codec.decode_plain(body, most=_MOST_CAPABILITIES)
    if type(raw) is not dict:
        raise ValueError("expected a map")
    return raw


def _field(raw: dict[object, object], name: str, kind: type[T]) -> T:
    value = raw.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}")
    return value


def _decoded(body: bytes) -> object:
    try:
        return codec.decode_plain(body, most=_MOST_PROOFS + 5 * _MOST_OPERATIONS)
    except codec.DecodeError as exc:
        raise InvalidRequest.at("$", str(exc)) from exc


# --- Watching ----------------------------------------------------------------------------------


def frames(batch: Sequence[Item], *, with_generations: bool = True) -> Iterator[bytes]:
    """*batch* as frames, of bounded size: each says whether the batch goes on.

    Without generations for a client that did not ask for them: it may be older, and could read none of it.
    """
    part: list[object] = []
    size = 0
    for item in batch:
        if len(part) >= _ITEMS_PER_FRAME or size >= _BYTES_PER_FRAME:
            yield _frame(part, more=True)
            part, size = [], 0
        part.append(_item_to_plain(item, with_generations=with_generations))
        size += len(item.value or b"") if isinstance(item, Change) else 0
    yield _frame(part, more=False)


def _frame(part: list[object], *, more: bool) -> bytes:
    body = codec.encode_plain([more, part])
    return _LENGTH.pack(len(body)) + body


def _item_to_plain(item: Item, *, with_generations: bool) -> object:
    match item:
        case Change():
            reason = None if item.reason is None else item.reason.value
            return [item.key, item.value, item.revision, reason]
        case Synced():
            return [item.revision, item.generation] if with_generations and item.generation else item.revision
        case Resync():
            return [item.reason] if item.recounted else item.reason


class FrameReader:
    """Puts together again what `frames` made of batches, however the bytes come."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._batch: list[Item] = []

    def feed(self, data: bytes) -> list[list[Item]]:
        """The batches that are whole with *data*.

        Raises:
            ValueError: This is not what `frames` makes.
        """
        self._data += data
        whole: list[list[Item]] = []
        at = 0
        while len(self._data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, at)
            if length > _MOST_IN_A_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            end = at + _LENGTH.size + length
            if len(self._data) < end:
                break
            if length and self._take(self._data[at + _LENGTH.size : end]):
                whole.append(self._batch)
                self._batch = []
            at = end
        del self._data[:at]
        return whole

    def _take(self, frame: bytearray) -> bool:
        match codec.decode_plain(bytes(frame), most=5 * _ITEMS_PER_FRAME + 2):
            case [bool(more), list(items)]:
                self._batch += map(_item_from_plain, items)
                return not more
        raise ValueError("expected a part of a batch")


def _item_from_plain(raw: object) -> Item:
    match raw:
        case int(revision):
            return Synced(revision)
        case [int(revision), str(generation)] if GENERATION.fullmatch(generation):
            return Synced(revision, generation)
        case str(reason):
            return Resync(reason)
        case [str(reason)]:
            return Resync(reason, recounted=True)
        case [str(key), (bytes() | None) as value, int(revision), (str() | None) as reason]:
            return Change(key, value, revision, None if reason is None else DeleteReason(reason))
    raise ValueError("expected a change, a revision, or why it begins anew")
